"""What ends a lease that nobody gave back: his stream, his rights, the session, idleness, the clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest

import viewer.lease_keeper
import viewer.leases
from tests.viewer_fixtures import People, running_session
from viewer.lease_keeper import Absence, Due, LeaseKeeper, due
from viewer.leases import Held
from viewer.model import Lease, LeaseHolder, LeaseKind, Principal, Role, Session, Status, utcnow
from viewer.relay.answers import StreamInfo, StreamKind, StreamList
from viewer.relay_client import RelayUnreachable
from viewer.settings import ControlSettings
from viewer.store import Store

NOW = utcnow()
BOB = LeaseHolder(kind=LeaseKind.PERSON, id="person:bob/b1", name="Bob")
ROBOT = LeaseHolder(kind=LeaseKind.AGENT, id="key:robot", name="robot")
IDLE = timedelta(seconds=300)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def held(holder: LeaseHolder = BOB, *, used: float = 0, number: int = 1, is_running: bool = True) -> Held:
    lease = Lease(
        session_id="s", number=number, holder=holder, since=ago(600), ends_at=NOW + timedelta(seconds=60)
    )
    return Held(lease=lease, tenant_id="acme", host="here", is_running=is_running, used_at=ago(used))


def stream(
    principal: str = BOB.id,
    *,
    session: str = "s",
    may_control: bool = True,
    kind: StreamKind = "rfb",
    used: float | None = 1,
) -> StreamInfo:
    return StreamInfo(
        stream_id="1",
        session_id=session,
        tenant_id="acme",
        principal=principal,
        may_control=may_control,
        kind=kind,
        opened_at=ago(500),
        last_input_at=None if used is None else ago(used),
        bytes_to_browser=0,
        bytes_to_desktop=0,
    )


MAY = {(BOB.id, "acme"): Role.OPERATOR, (ROBOT.id, "acme"): Role.OPERATOR}


def look(
    one: Held,
    *streams: StreamInfo,
    silent: bool = False,
    roles: Mapping[tuple[str, str], Role] = MAY,
    memory: Mapping[str, Absence] | None = None,
    now: datetime = NOW,
) -> Due:
    return due([one], None if silent else streams, roles=roles, idle=IDLE, memory=memory or {}, now=now)


def ends(found: Due) -> list[str]:
    return [ending.why for ending in found.endings]


def test_whoever_is_there_and_does_something_keeps_it() -> None:
    assert ends(look(held(used=3), stream())) == []


@pytest.mark.parametrize(
    ("one", "roles", "why"),
    [
        (held(is_running=False), MAY, "ended"),
        (held(), {}, "out"),
        (held(), {(BOB.id, "acme"): Role.WATCHER}, "out"),
        (held(), {(BOB.id, "bolt"): Role.OPERATOR}, "out"),
        (held(ROBOT), {}, "out"),
    ],
)
def test_it_ends_with_the_session_and_with_his_rights_also_while_the_relay_is_silent(
    one: Held, roles: Mapping[tuple[str, str], Role], why: str
) -> None:
    assert ends(look(one, silent=True, roles=roles)) == [why]
    assert ends(look(one, stream(), roles=roles)) == [why]


def test_it_ends_when_his_stream_has_been_gone_for_five_seconds() -> None:
    first = look(held(), stream())
    gone = look(held(), memory=first.memory, now=NOW)
    assert ends(gone) == []
    almost = look(held(), memory=gone.memory, now=NOW + timedelta(seconds=4.9))
    assert ends(almost) == []
    assert ends(look(held(), memory=almost.memory, now=NOW + timedelta(seconds=5))) == ["disconnected"]


def test_a_page_that_is_reloaded_keeps_it() -> None:
    first = look(held(), stream())
    gone = look(held(), memory=first.memory)
    back = look(held(), stream(), memory=gone.memory, now=NOW + timedelta(seconds=3))
    assert ends(look(held(), memory=back.memory, now=NOW + timedelta(seconds=6))) == []


def test_who_never_opened_a_stream_has_twenty_seconds() -> None:
    first = look(held())
    assert ends(look(held(), memory=first.memory, now=NOW + timedelta(seconds=19))) == []
    assert ends(look(held(), memory=first.memory, now=NOW + timedelta(seconds=20))) == ["disconnected"]


def test_anothers_stream_a_watchers_one_and_one_to_a_port_are_not_his_presence() -> None:
    others = (
        stream("person:bob/b2"), stream(may_control=False), stream(session="t"), stream(kind="port"),
    )  # fmt: skip
    first = look(held(), *others)
    assert ends(look(held(), *others, memory=first.memory, now=NOW + timedelta(seconds=20))) == [
        "disconnected"
    ]


def test_what_was_known_of_the_former_holder_says_nothing_of_the_next_one() -> None:
    first = look(held(number=1), stream())
    taken = look(held(number=2), memory=first.memory)
    assert ends(look(held(number=2), memory=taken.memory, now=NOW + timedelta(seconds=19))) == []


def test_a_silent_relay_ends_nothing_and_what_it_said_before_is_kept() -> None:
    first = look(held(), stream())
    silent = look(held(), silent=True, memory=first.memory, now=NOW + timedelta(seconds=30))
    assert ends(silent) == []
    assert silent.memory == first.memory


def test_a_person_who_does_nothing_loses_it() -> None:
    assert ends(look(held(used=299), stream(used=None))) == []
    assert ends(look(held(used=300), stream(used=300))) == ["idle"]
    assert ends(look(held(used=600), stream(used=10))) == []


def test_a_desktop_with_a_page_of_its_own_counts_as_used_while_it_is_open() -> None:
    assert ends(look(held(used=600), stream(kind="content", used=None))) == []


def test_an_agent_needs_no_stream_and_has_its_time_by_the_clock_alone() -> None:
    first = look(held(ROBOT, used=400))
    assert ends(look(held(ROBOT, used=400), memory=first.memory, now=NOW + timedelta(seconds=60))) == []


def test_use_is_noted_every_few_seconds() -> None:
    assert look(held(used=5), stream(used=1)).uses == ()
    [use] = look(held(used=8), stream(used=1)).uses
    assert use.at == ago(1)
    [use] = look(held(ROBOT, used=20), stream(ROBOT.id, used=2)).uses
    assert use.at == ago(2)


# --- acting on it -----------------------------------------------------------------------------------


class HearingRelay:
    def __init__(self) -> None:
        self.heard: list[tuple[int, bool]] = []
        self.is_silent = False

    def set_lease(self, lease: Lease, *, given_back: bool = False) -> None:
        if self.is_silent:
            raise RelayUnreachable("the relay of host here does not answer")
        self.heard.append((lease.number, given_back))


@pytest.fixture
def session(store: Store, people: People) -> Session:
    return running_session(store, people.alice)


@pytest.fixture
def relay() -> HearingRelay:
    return HearingRelay()


@pytest.fixture
def keeper(store: Store, relay: HearingRelay) -> LeaseKeeper:
    return LeaseKeeper("here", relay, store, ControlSettings())  # type: ignore[arg-type]


def alice(store: Store, people: People) -> Principal:
    found = store.accounts.principal_of_key(people.alice.key)
    assert found is not None
    return found


def list_of(session: Session, *streams: StreamInfo, knows: int | None = None) -> StreamList:
    mine = [one.model_copy(update={"session_id": session.id}) for one in streams]
    return StreamList(streams=mine, leases={} if knows is None else {session.id: knows})


def test_the_relay_is_told_what_it_does_not_know_yet(
    store: Store, session: Session, people: People, keeper: LeaseKeeper, relay: HearingRelay
) -> None:
    robot = alice(store, people)
    store.leases.take(session, robot, name="robot", kind=LeaseKind.AGENT, reason=None, seconds=60)
    relay.is_silent = True
    keeper.look(list_of(session))
    relay.is_silent = False
    keeper.look(list_of(session))
    assert relay.heard == [(1, False)]
    keeper.look(list_of(session, knows=1))
    assert relay.heard == [(1, False)]
    store.leases.release(session, robot)
    keeper.look(list_of(session, stream("person:somebody", may_control=False), knows=1))
    assert relay.heard[1:] == [(2, True)]


def test_it_ends_for_those_who_are_out_and_by_the_clock_while_the_relay_is_silent(
    store: Store, session: Session, people: People, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = alice(store, people)
    store.leases.take(session, robot, name="robot", kind=LeaseKind.AGENT, reason=None, seconds=60)
    keeper.look(None)
    assert store.leases.of(session.id).holder is not None
    monkeypatch.setattr(viewer.lease_keeper, "utcnow", lambda: utcnow() + timedelta(seconds=61))
    keeper.look(None)
    assert store.leases.of(session.id).holder is None
    monkeypatch.undo()
    store.leases.take(session, robot, name="robot", kind=LeaseKind.AGENT, reason=None, seconds=60)
    store.accounts.revoke_key(robot.id.removeprefix("key:"))
    keeper.look(None)
    assert store.leases.of(session.id).holder is None


def test_the_end_of_a_session_is_the_end_of_its_lease(
    store: Store, session: Session, people: People, keeper: LeaseKeeper
) -> None:
    robot = alice(store, people)
    store.leases.take(session, robot, name="robot", kind=LeaseKind.AGENT, reason=None, seconds=60)
    store.fleet.transition(session.id, Status.TERMINATED)
    keeper.look(None)
    assert store.leases.held() == []


def test_an_agent_that_works_over_a_stream_keeps_it(
    store: Store, session: Session, people: People, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = alice(store, people)
    before = store.leases.take(session, robot, name="robot", kind=LeaseKind.AGENT, reason=None, seconds=30)
    typed = utcnow() + timedelta(seconds=20)
    own = stream(robot.holder).model_copy(update={"last_input_at": typed})
    keeper.look(list_of(session, own, knows=1))
    after = store.leases.of(session.id)
    assert after.number == before.number
    assert after.ends_at == typed + timedelta(seconds=30)
