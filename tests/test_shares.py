"""Share links on the store: what lets a browser in, what ends it, and what is written down of it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from tests.viewer_fixtures import People, Person, all_that_is_in, new_session, running_session
from viewer.credentials import key_id_of
from viewer.model import Principal, Role, Session, Status, utcnow
from viewer.people import NewPerson, PersonChanges
from viewer.settings import Settings
from viewer.shares import (
    MOST_LINKS,
    NewShare,
    Opened,
    ShareNotFound,
    ShareOver,
    TooManyShares,
    Why,
)
from viewer.store import Store
from viewer.tables import ShareLinkRow, ShareVisitRow, TenantRow

HOUR = timedelta(hours=1)


def maker(store: Store, person: Person) -> Principal:
    found = store.accounts.principal_of_key(person.key)
    assert found is not None
    return found


def shared(
    store: Store, who: Principal, session: Session, *, life: timedelta = HOUR, once: bool = False
) -> NewShare:
    return store.shares.create(session, who, label="for Bo", life=life, is_single_use=once)


def enter(store: Store, made: NewShare, *cookies: str) -> Opened:
    return store.shares.open(made.token, cookies=cookies, address="203.0.113.7", user_agent="Firefox/150")


def why_not(store: Store, made: NewShare, *cookies: str) -> Why:
    with pytest.raises(ShareOver) as refused:
        enter(store, made, *cookies)
    return refused.value.why


def is_in(store: Store, opened: Opened) -> bool:
    """Would his open streams go on? What the worker asks."""
    who = opened.visitor.who
    return store.accounts.roles_of({who.holder}) == {(who.holder, who.tenant): Role.WATCHER}


def age_link(store: Store, made: NewShare, ends_at: datetime) -> None:
    with store._database.writing() as orm:
        orm.execute(update(ShareLinkRow).where(ShareLinkRow.id == made.share.id).values(ends_at=ends_at))


@pytest.fixture
def session(store: Store, people: People) -> Session:
    return running_session(store, people.alice)


def test_visitor_may_watch_that_one_session_and_nothing_else(
    store: Store, people: People, session: Session
) -> None:
    opened = enter(store, shared(store, maker(store, people.alice), session))
    who = opened.visitor.who
    assert (who.tenant, who.role, who.only_session, who.via) == ("acme", Role.WATCHER, session.id, "share")
    assert is_in(store, opened)
    other = running_session(store, people.alice, sandbox_id="box-2")
    assert store.shares.visitor([opened.cookie], session.id) == opened.visitor
    assert store.shares.visitor([opened.cookie], other.id) is None
    assert store.shares.visitor(["x" * 43, opened.cookie], session.id) == opened.visitor
    assert store.shares.visitor(["", "nonsense", "x" * 43], session.id) is None


def test_secrets_are_in_the_database_as_hashes_alone(
    store: Store, people: People, session: Session, settings: Settings
) -> None:
    made = shared(store, maker(store, people.alice), session)
    opened = enter(store, made)
    there = all_that_is_in(settings.database)
    assert made.share.id.encode() in there
    assert made.token.encode() not in there
    assert opened.cookie.encode() not in there


def test_link_for_one_browser_stays_with_the_first(store: Store, people: People, session: Session) -> None:
    made = shared(store, maker(store, people.alice), session, once=True)
    first = enter(store, made)
    assert why_not(store, made) == "used"
    assert enter(store, made, "x" * 43, first.cookie) == first
    (share,) = store.shares.list(session)
    assert [visit.address for visit in share.visits] == ["203.0.113.7"]


def test_link_for_many_makes_a_visit_for_each_browser(store: Store, people: People, session: Session) -> None:
    made = shared(store, maker(store, people.alice), session)
    first, second = enter(store, made), enter(store, made)
    assert first.visitor.who.holder != second.visitor.who.holder
    assert first.visitor.who.id == second.visitor.who.id
    assert enter(store, made, first.cookie) == first


def test_cookie_of_another_link_is_no_way_in_by_this_one(
    store: Store, people: People, session: Session
) -> None:
    who = maker(store, people.alice)
    once, other = shared(store, who, session, once=True), shared(store, who, session)
    enter(store, once)
    assert why_not(store, once, enter(store, other).cookie) == "used"


def test_a_full_link_lets_nobody_else_in(
    store: Store, people: People, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.shares.MOST_VISITS", 2)
    made = shared(store, maker(store, people.alice), session)
    first = enter(store, made)
    enter(store, made)
    assert why_not(store, made) == "crowded"
    assert enter(store, made, first.cookie) == first


def test_revoked_link_ends_who_is_in_and_lets_nobody_in(
    store: Store, people: People, session: Session
) -> None:
    made, other = (shared(store, maker(store, people.alice), session) for _ in range(2))
    opened, stays = enter(store, made), enter(store, other)
    store.shares.revoke(session, made.share.id)
    store.shares.revoke(session, made.share.id)
    assert not is_in(store, opened)
    assert is_in(store, stays)
    assert why_not(store, made, opened.cookie) == "revoked"
    with pytest.raises(ShareOver) as refused:
        store.shares.visitor([opened.cookie], session.id)
    assert refused.value.why == "revoked"


def test_link_ends_on_time(store: Store, people: People, session: Session) -> None:
    made = shared(store, maker(store, people.alice), session)
    opened = enter(store, made)
    assert made.share.ends_at - made.share.created_at == HOUR
    age_link(store, made, utcnow() - timedelta(seconds=1))
    assert not is_in(store, opened)
    assert why_not(store, made) == "expired"


def test_link_ends_with_its_session_and_the_visitor_may_know_that(
    store: Store, people: People, session: Session
) -> None:
    made = shared(store, maker(store, people.alice), session)
    opened = enter(store, made)
    store.fleet.transition(session.id, Status.TERMINATED)
    assert why_not(store, made) == "ended"
    assert store.shares.visitor([opened.cookie], session.id) == opened.visitor
    with pytest.raises(ShareOver, match="ended"):
        shared(store, maker(store, people.alice), session)


def test_link_goes_with_the_key_that_made_it(store: Store, people: People, session: Session) -> None:
    made = shared(store, maker(store, people.alice), session)
    opened = enter(store, made)
    store.accounts.revoke_key(key_id_of(people.alice.key) or "")
    assert not is_in(store, opened)
    assert why_not(store, made) == "revoked"
    assert [share.is_over for share in store.shares.list(session)] == [True]


@pytest.mark.parametrize("change", [{"role": Role.WATCHER}, {"disabled": True}])
def test_link_goes_with_what_its_maker_may_do(
    store: Store, people: People, session: Session, change: PersonChanges
) -> None:
    person = store.people("acme").add(NewPerson(login="mara", role=Role.OPERATOR), by="test")
    token = store.accounts.sign_in_person(person.id, address=None, user_agent=None)
    who = store.accounts.principal_of_cookie(token)
    assert who is not None
    opened = enter(store, shared(store, who, session))
    assert is_in(store, opened)
    store.people("acme").change(person.id, change)
    assert not is_in(store, opened)


@pytest.mark.parametrize("made_by", ["key", "person", "link"])
def test_link_ends_while_its_tenant_is_shut_out(
    store: Store, people: People, session: Session, made_by: str
) -> None:
    person = store.people("acme").add(NewPerson(login="mara", role=Role.OPERATOR), by="test")
    makers = {
        "key": maker(store, people.alice),
        "person": Principal(id=f"person:{person.id}", tenant="acme", role=Role.OPERATOR, via="cookie"),
        "link": Principal(id="link:12345678", tenant="acme", role=Role.ADMIN, via="cookie"),
    }
    opened = enter(store, shared(store, makers[made_by], session))
    assert is_in(store, opened)
    with store._database.writing() as orm:
        orm.get_one(TenantRow, "acme").disabled_at = utcnow()
    assert not is_in(store, opened)
    with store._database.writing() as orm:
        orm.get_one(TenantRow, "acme").disabled_at = None
    assert is_in(store, opened)


def test_link_outlives_the_sign_in_of_its_maker(store: Store, people: People, session: Session) -> None:
    token = store.accounts.sign_in_with_key(people.alice.key)
    assert token is not None
    who = store.accounts.principal_of_cookie(token)
    assert who is not None
    opened = enter(store, shared(store, who, session))
    store.accounts.sign_out(token)
    assert is_in(store, opened)


def test_another_session_or_tenant_has_no_such_link(store: Store, people: People, session: Session) -> None:
    made = shared(store, maker(store, people.alice), session)
    other = new_session(store, people.alice)
    foreign = session.model_copy(update={"tenant_id": "bolt"})
    for wrong in (other, foreign):
        with pytest.raises(ShareNotFound):
            store.shares.revoke(wrong, made.share.id)
        assert store.shares.list(wrong) == []
    assert [share.is_over for share in store.shares.list(session)] == [False]


def test_session_has_only_so_many_good_links(store: Store, people: People, session: Session) -> None:
    who = maker(store, people.alice)
    made = [shared(store, who, session) for _ in range(MOST_LINKS)]
    with pytest.raises(TooManyShares):
        shared(store, who, session)
    store.shares.revoke(session, made[0].share.id)
    shared(store, who, session)


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "x" * 44, "\0" * 43, "é" * 43, "../" * 15])
def test_what_is_no_token_leads_nowhere(store: Store, people: People, token: str) -> None:
    with pytest.raises(ShareOver, match="unknown"):
        store.shares.open(token, cookies=(), address=None, user_agent=None)


def test_use_is_stamped_from_time_to_time(store: Store, people: People, session: Session) -> None:
    opened = enter(store, shared(store, maker(store, people.alice), session))
    mark = store.mark()
    store.shares.visitor([opened.cookie], session.id)
    assert store.mark() == mark
    long_ago = utcnow() - timedelta(minutes=5)
    with store._database.writing() as orm:
        orm.execute(update(ShareVisitRow).values(used_at=long_ago))
    store.shares.visitor([opened.cookie], session.id)
    assert store.shares.list(session)[0].visits[0].used_at > long_ago


def test_audit_log_tells_of_every_step(store: Store, people: People, session: Session) -> None:
    made = shared(store, maker(store, people.alice), session, once=True)
    opened = enter(store, made)
    enter(store, made, opened.cookie)
    why_not(store, made)
    store.shares.revoke(session, made.share.id)
    entries = [one for one in store.audit.entries("acme") if one.action.startswith("share.")]
    link = f"share:{made.share.id}"
    assert [(one.action, one.outcome, one.target) for one in entries] == [
        ("share.create", "done", link),
        ("share.open", "done", link),
        ("share.open", "refused", link),
        ("share.revoke", "done", link),
    ]
    assert (entries[1].principal, entries[1].principal_name) == (link, "for Bo")
    assert entries[2].detail == {"session": session.id, "why": "used"}
    assert made.token not in "".join(one.line() for one in entries)
