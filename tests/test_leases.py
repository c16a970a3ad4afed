"""Who has keyboard and mouse: the rules, the store, and that there is one holder at each moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

import viewer.leases
from tests.viewer_fixtures import People, running_session
from viewer.leases import REQUEST_LIFE, LeaseHeld, NotAsked, kind_of, may_take
from viewer.model import Lease, LeaseHolder, LeaseKind, Principal, Role, Session, Status, utcnow
from viewer.rows import Event
from viewer.store import Store
from viewer.tables import AuditRow
from viewer.transitions import IllegalTransition


def person(name: str, browser: str = "b1", role: Role = Role.OPERATOR) -> Principal:
    return Principal(id=f"person:{name}", tenant="acme", role=role, via="cookie", sign_in=browser)


def agent(name: str) -> Principal:
    return Principal(id=f"key:{name}", tenant="acme", role=Role.OPERATOR, via="key")


BOB, MARA = person("bob"), person("mara")
BOBS_PHONE = person("bob", "b2")
ROBOT, OTHER_ROBOT = agent("robot"), agent("other")


def take(
    store: Store,
    session: Session,
    who: Principal,
    *,
    seconds: int = 60,
    force: bool = False,
    reason: str = "",
) -> Lease:
    return store.leases.take(
        session, who, name=who.id, kind=kind_of(who), reason=reason or None, seconds=seconds, force=force
    )


def ask(store: Store, session: Session, who: Principal, reason: str | None = None) -> Lease:
    return store.leases.request(session, who, name=who.id, kind=kind_of(who), reason=reason, seconds=60)


def hold(store: Store, session: Session, who: Principal, seconds: int = 30) -> Lease:
    return store.leases.hold(session, who, name=who.id, kind=kind_of(who), seconds=seconds)


def told(store: Store) -> list[Event]:
    """The events about leases, oldest first."""
    events = store.tenant("acme").events_after(0, 10_000)
    return [event for event in events if event.type == "session.lease"]


@pytest.fixture
def session(store: Store, people: People) -> Session:
    return running_session(store, people.alice)


# --- the rule ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holder", "who", "force", "may"),
    [
        (None, ROBOT, False, True),
        (None, BOB, False, True),
        (ROBOT, ROBOT, False, True),
        (ROBOT, OTHER_ROBOT, False, False),
        (ROBOT, OTHER_ROBOT, True, False),
        (ROBOT, BOB, False, True),
        (BOB, ROBOT, False, False),
        (BOB, ROBOT, True, False),
        (BOB, BOB, False, True),
        (BOB, BOBS_PHONE, False, True),
        (BOB, MARA, False, False),
        (BOB, MARA, True, True),
    ],
)
def test_who_may_take_from_whom(holder: Principal | None, who: Principal, force: bool, may: bool) -> None:
    held = None if holder is None else LeaseHolder(kind=kind_of(holder), id=holder.holder, name="x")
    lease = Lease(session_id="s", number=1, holder=held)
    assert may_take(lease, who.holder, kind_of(who), force=force) is may


def test_a_browser_that_signed_in_with_a_key_is_a_person_and_the_key_an_agent() -> None:
    assert kind_of(ROBOT) is LeaseKind.AGENT
    browser = ROBOT.model_copy(update={"via": "cookie", "sign_in": "0123"})
    assert kind_of(browser) is LeaseKind.PERSON
    # Else an agent could take a desktop from the person who signed in with its key.
    held = Lease(session_id="s", holder=LeaseHolder(kind=LeaseKind.PERSON, id=browser.holder, name="x"))
    assert not may_take(held, ROBOT.holder, LeaseKind.AGENT)


# --- the store --------------------------------------------------------------------------------------


def test_nobody_has_what_nobody_took(store: Store, session: Session) -> None:
    assert store.leases.of(session.id) == Lease(session_id=session.id)


def test_a_taken_lease_is_told_to_all_with_its_holder_and_reason(store: Store, session: Session) -> None:
    lease = take(store, session, ROBOT, reason="fills in a form")
    assert (lease.number, lease.reason) == (1, "fills in a form")
    assert lease.holder == LeaseHolder(kind=LeaseKind.AGENT, id="key:robot", name="key:robot")
    [event] = told(store)
    assert event.lease is not None
    assert event.lease.lease == lease == store.leases.of(session.id)
    assert event.session.id == session.id


def test_a_renewal_keeps_number_and_beginning(store: Store, session: Session) -> None:
    first = take(store, session, BOB, seconds=10, reason="a captcha")
    again = take(store, session, BOB, seconds=60)
    assert (again.number, again.since, again.reason) == (1, first.since, "a captcha")
    assert again.ends_at is not None
    assert first.ends_at is not None
    assert again.ends_at > first.ends_at


def test_whoever_may_not_take_is_told_who_has_it(store: Store, session: Session) -> None:
    lease = take(store, session, BOB)
    with pytest.raises(LeaseHeld) as refusal:
        take(store, session, MARA)
    assert refusal.value.lease == lease


def test_acting_takes_only_what_nobody_has_and_keeps_it_alive_without_telling(
    store: Store, session: Session
) -> None:
    lease = hold(store, session, ROBOT, seconds=30)
    later = hold(store, session, ROBOT, seconds=90)
    assert later.number == lease.number == 1
    assert later.ends_at is not None
    assert lease.ends_at is not None
    assert later.ends_at > lease.ends_at
    assert len(told(store)) == 1
    with pytest.raises(LeaseHeld):
        hold(store, session, BOB)  # taking from an agent is an act of its own


def test_a_shorter_hold_does_not_shorten_what_was_asked_for(store: Store, session: Session) -> None:
    lease = take(store, session, ROBOT, seconds=600)
    assert hold(store, session, ROBOT, seconds=30).ends_at == lease.ends_at


def test_giving_back_leaves_nobody_and_is_done_from_any_browser_of_his(
    store: Store, session: Session
) -> None:
    take(store, session, BOB)
    assert store.leases.release(session, BOBS_PHONE).holder is None
    assert store.leases.release(session, BOB).number == 2  # a second time nothing happens
    assert [event.lease.lease.number for event in told(store) if event.lease] == [1, 2]


def test_nobody_gives_back_what_is_anothers_but_an_admin_who_insists(store: Store, session: Session) -> None:
    take(store, session, BOB)
    with pytest.raises(LeaseHeld):
        store.leases.release(session, MARA)
    assert store.leases.release(session, person("ada", role=Role.ADMIN), force=True).holder is None


def test_what_is_asked_for_is_granted_at_once_where_nobody_has_it(store: Store, session: Session) -> None:
    assert ask(store, session, BOB).is_held_by(BOB.holder)


def test_a_request_is_told_and_giving_makes_it_his(store: Store, session: Session) -> None:
    take(store, session, BOB)
    assert ask(store, session, MARA, "my turn").is_held_by(BOB.holder)
    event = told(store)[-1]
    assert event.lease is not None
    assert [(one.by.id, one.reason) for one in event.lease.requests] == [(MARA.holder, "my turn")]
    with pytest.raises(LeaseHeld):
        store.leases.give(session, MARA, MARA.holder, seconds=60)
    given = store.leases.give(session, BOB, MARA.holder, seconds=60)
    assert given.is_held_by(MARA.holder)
    assert given.reason == "my turn"
    assert store.leases.state(session.id).requests == ()


def test_nothing_is_given_to_one_who_does_not_ask(
    store: Store, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(store, session, BOB)
    with pytest.raises(NotAsked):
        store.leases.give(session, BOB, MARA.holder, seconds=60)
    ask(store, session, MARA)
    store.leases.withdraw(session, MARA)
    with pytest.raises(NotAsked):
        store.leases.give(session, BOB, MARA.holder, seconds=60)
    ask(store, session, MARA)
    take(store, session, BOB, seconds=3600)
    with later(monkeypatch, REQUEST_LIFE), pytest.raises(NotAsked):
        store.leases.give(session, BOB, MARA.holder, seconds=60)


def test_requests_do_not_pile_up(store: Store, session: Session) -> None:
    take(store, session, BOB)
    for number in range(25):
        ask(store, session, person(f"p{number}"))
    asking = [one.by.id for one in store.leases.state(session.id).requests]
    assert len(asking) == viewer.leases.MOST_REQUESTS
    assert asking[-1] == "person:p24/b1"


def test_what_is_over_ends_and_is_free_for_others(
    store: Store, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = take(store, session, BOB, seconds=60)
    assert lease.ends_at is not None
    assert store.leases.expire(lease.ends_at - timedelta(milliseconds=1)) == []
    [ended] = store.leases.expire(lease.ends_at)
    assert (ended.number, ended.holder) == (2, None)
    assert store.leases.expire(lease.ends_at) == []
    take(store, session, BOB, seconds=60)
    with later(monkeypatch, timedelta(seconds=61)):
        # No worker has looked: whoever wants it ends it first, so that the events tell of both.
        assert take(store, session, ROBOT).number == 5
    assert [bool(event.lease and event.lease.lease.holder) for event in told(store)] == [
        True, False, True, False, True,
    ]  # fmt: skip


def test_an_end_that_was_decided_too_late_takes_it_from_nobody_else(store: Store, session: Session) -> None:
    old = take(store, session, ROBOT)
    take(store, session, BOB)
    assert store.leases.end(old, "idle") is None
    assert store.leases.of(session.id).is_held_by(BOB.holder)
    store.leases.note_use(old, utcnow() + timedelta(days=1), seconds=3600)
    assert store.leases.held()[0].used_at < utcnow() + timedelta(hours=1)


def test_use_keeps_it_alive(store: Store, session: Session) -> None:
    lease = take(store, session, ROBOT, seconds=30)
    at = utcnow() + timedelta(seconds=20)
    store.leases.note_use(lease, at, seconds=30)
    [held] = store.leases.held("here")
    assert held.used_at == at
    assert held.lease.ends_at == at + timedelta(seconds=30)
    assert store.leases.held("elsewhere") == []


def test_a_desktop_that_does_not_run_has_no_keyboard_to_take(store: Store, session: Session) -> None:
    lease = take(store, session, BOB)
    store.fleet.transition(session.id, Status.TERMINATED)
    for attempt in (take, hold, ask):
        with pytest.raises(IllegalTransition):
            attempt(store, session, BOB)
    [held] = store.leases.held()
    assert not held.is_running
    assert store.leases.end(lease, "ended") is not None


def test_each_change_is_in_the_audit_log(store: Store, session: Session) -> None:
    take(store, session, ROBOT)
    take(store, session, BOB, reason="a captcha")
    ask(store, session, MARA)
    store.leases.give(session, BOB, MARA.holder, seconds=60)
    store.leases.release(session, MARA)
    lease = hold(store, session, ROBOT)
    store.leases.end(lease, "idle")
    entries = [one for one in audit_entries(store) if one[0].startswith("lease.")]
    assert entries == [
        ("lease.take", {"kind": "agent"}),
        ("lease.take", {"kind": "person", "from": "key:robot", "reason": "a captcha"}),
        ("lease.request", {"of": BOB.holder}),
        ("lease.give", {"to": MARA.holder}),
        ("lease.release", {"of": MARA.holder}),
        ("lease.take", {"kind": "agent", "by_acting": True}),
        ("lease.expire", {"of": "key:robot", "why": "idle"}),
    ]


def audit_entries(store: Store) -> list[tuple[str, object]]:
    with store._database.reading() as orm:
        rows = orm.scalars(select(AuditRow).where(AuditRow.tenant_id == "acme").order_by(AuditRow.number))
        return [(row.action, row.detail) for row in rows]


# --- one holder at each moment ----------------------------------------------------------------------


def check_one_holder_at_each_moment(events: list[Event]) -> None:
    """The numbers count every change of the holder, without a gap, and each change is from what was before to
    something else."""
    leases = [event.lease.lease for event in events if event.lease is not None]
    number, holder = 0, None
    for lease in leases:
        now = lease.holder.id if lease.holder else None
        if lease.number == number:
            assert now == holder, "the holder changed under the same number"
        else:
            assert lease.number == number + 1, "a change was not told, or told twice"
            assert now != holder
        number, holder = lease.number, now


def test_fifty_who_want_it_at_once_are_one_holder_at_each_moment(store: Store, session: Session) -> None:
    """By two stores with connections of their own, as of two viewers."""
    other = Store(store._database.address)
    people = [person(f"p{number}") if number % 2 else agent(f"a{number}") for number in range(50)]
    start = threading.Barrier(len(people))

    def want(number: int) -> bool:
        who, mine = people[number], (store, other)[number % 2]
        start.wait()
        try:
            take(mine, session, who)
        except LeaseHeld:
            return False
        return True

    with ThreadPoolExecutor(len(people)) as pool:
        won = list(pool.map(want, range(len(people))))
    other.close()
    events = told(store)
    check_one_holder_at_each_moment(events)
    holders = [event.lease.lease.holder.id for event in events if event.lease and event.lease.lease.holder]
    winners = {who.holder for who, has in zip(people, won, strict=True) if has}
    assert set(holders) == winners
    assert len(holders) == len(winners)
    # A person never loses it to an agent or to another person.
    assert sum(holder.startswith("person:") for holder in holders) == 1
    assert holders[-1].startswith("person:")


class LeaseMachine(RuleBasedStateMachine):
    """Any acts in any order, against what they should lead to."""

    store: Store
    session: Session
    who = st.sampled_from([BOB, BOBS_PHONE, MARA, ROBOT, OTHER_ROBOT])

    @initialize()
    def begin(self) -> None:
        lease = self.store.leases.of(self.session.id)
        self.store.leases.release(self.session, BOB, force=True)
        for one in self.store.leases.state(self.session.id).requests:
            self.store.leases.withdraw(self.session, principal_of(one.by))
        self.holder: Principal | None = None
        self.asking: set[str] = set()
        self.number = self.store.leases.of(self.session.id).number
        assert self.number >= lease.number

    def becomes(self, who: Principal | None) -> None:
        if (who and who.holder) != (self.holder and self.holder.holder):
            self.number += 1
        self.holder = who
        if who is not None:
            self.asking.discard(who.holder)

    def is_free_for(self, who: Principal, force: bool = False) -> bool:
        if self.holder is None or self.holder == who:
            return True
        if who.via == "key":
            return False
        return self.holder.via == "key" or self.holder.id == who.id or force

    @rule(who=who, force=st.booleans())
    def take(self, who: Principal, force: bool) -> None:
        try:
            take(self.store, self.session, who, force=force)
        except LeaseHeld:
            assert not self.is_free_for(who, force)
        else:
            assert self.is_free_for(who, force)
            self.becomes(who)

    @rule(who=who)
    def act(self, who: Principal) -> None:
        try:
            hold(self.store, self.session, who)
        except LeaseHeld:
            assert self.holder not in (None, who)
        else:
            assert self.holder in (None, who)
            self.becomes(who)

    @rule(who=who)
    def ask(self, who: Principal) -> None:
        ask(self.store, self.session, who)
        if self.holder is None:
            self.becomes(who)
        elif self.holder != who:
            self.asking.add(who.holder)

    @rule(who=who)
    def withdraw(self, who: Principal) -> None:
        self.store.leases.withdraw(self.session, who)
        self.asking.discard(who.holder)

    @rule(who=who, to=who)
    def give(self, who: Principal, to: Principal) -> None:
        try:
            self.store.leases.give(self.session, who, to.holder, seconds=60)
        except NotAsked:
            assert to.holder not in self.asking
        except LeaseHeld:
            assert not self.is_answered_for_by(who)
        else:
            assert self.is_answered_for_by(who)
            self.becomes(to)

    @rule(who=who, force=st.booleans())
    def release(self, who: Principal, force: bool) -> None:
        try:
            self.store.leases.release(self.session, who, force=force)
        except LeaseHeld:
            assert self.holder is not None
            assert not force
            assert not self.is_answered_for_by(who)
        else:
            self.becomes(None)

    def is_answered_for_by(self, who: Principal) -> bool:
        return self.holder is not None and (
            self.holder == who or (who.via == self.holder.via == "cookie" and self.holder.id == who.id)
        )

    @rule()
    def time_passes(self) -> None:
        self.store.leases.expire(utcnow() + timedelta(hours=2))
        self.becomes(None)

    @invariant()
    def the_table_says_the_same(self) -> None:
        if not hasattr(self, "number"):
            return
        state = self.store.leases.state(self.session.id)
        assert (state.lease.holder and state.lease.holder.id) == (self.holder and self.holder.holder)
        assert state.lease.number == self.number
        assert {one.by.id for one in state.requests} == self.asking


def principal_of(holder: LeaseHolder) -> Principal:
    return next(one for one in (BOB, BOBS_PHONE, MARA, ROBOT, OTHER_ROBOT) if one.holder == holder.id)


@pytest.mark.parametrize("examples", [4, pytest.param(100, marks=pytest.mark.real)])
def test_any_acts_in_any_order_lead_to_what_the_rules_say(
    store: Store, session: Session, examples: int
) -> None:
    mine = type("Machine", (LeaseMachine,), {"store": store, "session": session})
    how = settings(
        max_examples=examples,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    run_state_machine_as_test(mine, settings=how)
    check_one_holder_at_each_moment(told(store))


@contextmanager
def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> Iterator[None]:
    """The store's clock goes ahead."""
    with monkeypatch.context() as patch:
        patch.setattr(viewer.leases, "utcnow", lambda: utcnow() + by)
        yield
