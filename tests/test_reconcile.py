"""What becomes of sessions and sandboxes: the rules one by one, then against anything a host may list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.soaking import examples
from viewer import reconcile
from viewer.model import Kind, Role, Session, Status
from viewer.reconcile import (
    Action,
    Adopt,
    BringUp,
    DeleteSandbox,
    End,
    Fail,
    Follow,
    FollowWish,
    Keep,
    Memory,
    NoteUse,
    Policy,
    Renew,
    Report,
    Terminate,
    Uses,
    Verdict,
    compare,
    due,
    no_longer_allowed,
)
from viewer.relay.answers import CloseCode, StreamInfo
from viewer.sandbox_hosts import FLEET_KEY, Sandbox, SandboxState, SandboxStatus, Stamp

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HERE = "here"
POLICY = Policy(fleet_id="f-1", create_deadline=timedelta(seconds=120), max_lifetime=timedelta(hours=24))
TTL = 3600
NO_USE: Mapping[str, datetime] = {}


def session(number: int = 1, **fields: object) -> Session:
    """A running session of tenant `main` on HERE, 10 minutes old, with sandbox `sb-<number>`."""
    start = NOW - timedelta(minutes=10)
    usual: dict[str, object] = {
        "id": f"s-{number}", "tenant_id": "main", "status": Status.RUNNING, "sandbox_id": f"sb-{number}",
        "host": HERE, "image": "desktop", "request_id": f"r-{number}", "ttl_seconds": TTL,
        "created_by": "key", "created_at": start, "updated_at": start,
        "expires_at": start + timedelta(seconds=TTL),
    }  # fmt: skip
    return Session.model_validate(usual | fields)


def sandbox_of(
    row: Session,
    state: SandboxState = SandboxState.RUNNING,
    *,
    sandbox_id: str | None = None,
    tenant: str | None = None,
) -> Sandbox:
    stamp = Stamp(
        fleet="f-1", request_id=row.request_id, tenant_id=tenant or row.tenant_id, session_id=row.id
    )
    return Sandbox(
        id=sandbox_id or row.sandbox_id or f"sb-of-{row.id}",
        status=SandboxStatus(state=state, message=f"It is {state}."),
        metadata=stamp.as_metadata(),
        created_at=row.created_at,
        expires_at=(row.expires_at or NOW) + reconcile.HOST_GRACE,
    )


def stranger(sandbox_id: str, metadata: dict[str, str] | None = None) -> Sandbox:
    return Sandbox(
        id=sandbox_id,
        status=SandboxStatus(state=SandboxState.RUNNING),
        metadata=metadata or {},
        created_at=NOW,
    )


def verdict_on(
    rows: Iterable[Session],
    sandboxes: Iterable[Sandbox],
    *,
    ended: Iterable[Session] = (),
    watched: Collection[str] = (),
    busy: Collection[str] = (),
    memory: Memory | None = None,
    used: Mapping[str, datetime] | None = NO_USE,
    table_began: datetime | None = NOW - timedelta(days=30),
    now: datetime = NOW,
) -> Verdict:
    rows = list(rows)
    return compare(
        HERE,
        sandboxes,
        rows=[row for row in rows if row.host == HERE],
        by_request={row.request_id: row for row in [*rows, *ended]},
        uses=None if used is None else Uses(watched=frozenset(watched), ports=used),
        busy=busy,
        memory=memory or Memory(),
        table_began=table_began,
        now=now,
        policy=POLICY,
    )


def actions_on(rows: Iterable[Session], sandboxes: Iterable[Sandbox], **more: object) -> list[Action]:
    return list(verdict_on(rows, sandboxes, **more).actions)  # type: ignore[arg-type]


# --- open streams ---------------------------------------------------------------------------------------


def stream(row: Session, **fields: object) -> StreamInfo:
    """What an operator of the session's tenant has open."""
    usual: dict[str, object] = {
        "stream_id": "st-1", "session_id": row.id, "tenant_id": row.tenant_id, "principal": "key:1",
        "may_control": True, "opened_at": NOW, "bytes_to_browser": 0, "bytes_to_desktop": 0,
    }  # fmt: skip
    return StreamInfo.model_validate(usual | fields)


@pytest.mark.parametrize(
    ("row", "fields", "code"),
    [
        ({}, {}, None),
        ({"status": Status.PAUSED}, {}, None),
        ({"kind": Kind.DESKTOP, "sandbox_id": "studio"}, {}, None),
        ({"status": Status.TERMINATED}, {}, CloseCode.ENDED),
        ({}, {"session_id": "s-unknown"}, CloseCode.ENDED),
        ({"tenant_id": "other"}, {"tenant_id": "main"}, CloseCode.ENDED),
        ({"tenant_id": "other"}, {}, CloseCode.SIGNED_OUT),  # the principal is nobody there
        ({}, {"principal": "key:revoked"}, CloseCode.SIGNED_OUT),
        ({}, {"principal": "key:watcher", "may_control": False}, None),
        ({}, {"principal": "key:watcher"}, CloseCode.REVOKED),
        ({}, {"principal": "link:1", "may_control": False}, None),
        ({}, {"principal": "link:1"}, None),
        ({}, {"ticket_id": "good"}, None),
        ({}, {"ticket_id": "revoked"}, CloseCode.SIGNED_OUT),
    ],
)
def test_stream_stays_while_it_would_be_let_in_again(
    row: dict[str, object], fields: dict[str, object], code: int | None
) -> None:
    roles = {
        ("key:1", "main"): Role.OPERATOR,
        ("key:watcher", "main"): Role.WATCHER,
        ("link:1", "main"): Role.ADMIN,
    }
    its = session(**row)  # type: ignore[arg-type]
    open_now = stream(its, **fields)
    tenant_of = {} if its.status.is_terminal else {its.id: its.tenant_id}
    closing = no_longer_allowed([open_now], tenant_of=tenant_of, roles=roles, revoked={"revoked"})
    assert [one.code for one in closing] == ([code] if code else [])


# --- the table alone ------------------------------------------------------------------------------------


def test_session_is_brought_up_once_it_has_a_host() -> None:
    row = session(status=Status.CREATING, sandbox_id=None, created_at=NOW, placed_at=NOW)
    assert due([row], hosts=[HERE], now=NOW, policy=POLICY) == [BringUp(row=row)]
    waiting = row.model_copy(update={"host": None, "placed_at": None})
    assert due([waiting], hosts=[HERE], now=NOW, policy=POLICY) == []


def test_session_that_finds_no_place_in_time_is_given_up() -> None:
    row = session(status=Status.CREATING, sandbox_id=None, host=None, created_at=NOW - timedelta(seconds=300))
    [action] = due([row], hosts=[HERE], now=NOW, policy=POLICY)
    assert isinstance(action, Fail)
    assert (action.reason, action.message[:26]) == ("full", "no sandbox host has room w")


def test_wish_to_pause_is_followed_until_it_is_so() -> None:
    row = session(wanted_status=Status.PAUSED)
    assert due([row], hosts=[HERE], now=NOW, policy=POLICY) == [FollowWish(row=row)]
    assert due([session(status=Status.PAUSED)], hosts=[HERE], now=NOW, policy=POLICY) == []


def test_session_that_nobody_uses_ends_when_its_time_is_over() -> None:
    idle = session(idle_seconds=300, running_at=NOW - timedelta(seconds=301))
    assert actions_on([idle], [sandbox_of(idle)]) == [Terminate(row=idle, reason="idle")]
    fresh = session(idle_seconds=300, running_at=NOW - timedelta(seconds=299))
    assert actions_on([fresh], [sandbox_of(fresh)]) == []
    assert actions_on([idle], [sandbox_of(idle)], used=None) == [], "a silent relay says nothing of use"


def test_use_of_a_session_is_noted_and_puts_its_end_off() -> None:
    idle = session(idle_seconds=300, running_at=NOW - timedelta(hours=1))
    assert actions_on([idle], [sandbox_of(idle)], watched={idle.id}) == [NoteUse(row=idle, at=NOW)]
    lately = NOW - timedelta(seconds=20)
    assert actions_on([idle], [sandbox_of(idle)], used={idle.id: lately}) == [NoteUse(row=idle, at=lately)]
    noted = idle.model_copy(update={"last_used_at": lately})
    assert actions_on([noted], [sandbox_of(noted)], used={idle.id: lately}) == []


def test_running_session_asks_for_nothing() -> None:
    assert due([session()], hosts=[HERE], now=NOW, policy=POLICY) == []


def test_expired_session_is_terminated() -> None:
    row = session(expires_at=NOW)
    assert due([row], hosts=[HERE], now=NOW, policy=POLICY) == [Terminate(row=row, reason="expired")]


def test_session_asked_to_end_is_terminated_even_while_it_comes_up() -> None:
    row = session(status=Status.CREATING, terminate_requested_at=NOW)
    assert due([row], hosts=[HERE], now=NOW, policy=POLICY) == [Terminate(row=row, reason="on request")]


def test_expiry_that_had_to_wait_for_a_silent_host_is_still_called_expiry() -> None:
    row = session(expires_at=NOW - timedelta(minutes=1), terminate_requested_at=NOW)
    assert due([row], hosts=[HERE], now=NOW, policy=POLICY) == [Terminate(row=row, reason="expired")]


def test_session_that_does_not_come_up_in_time_fails_with_what_it_waited_for() -> None:
    row = session(status=Status.CREATING, created_at=NOW - timedelta(seconds=120), status_reason="starting")
    [action] = due([row], hosts=[HERE], now=NOW, policy=POLICY)
    assert isinstance(action, Fail)
    assert action.message == "the desktop was not usable within 120 s; last: starting"


def test_session_on_a_host_that_left_the_fleet_fails() -> None:
    [action] = due([session(host="old")], hosts=[HERE], now=NOW, policy=POLICY)
    assert isinstance(action, Fail)
    assert "old is no longer part" in action.message


def test_desktop_is_never_brought_up_or_ended_by_time() -> None:
    row = session(
        kind=Kind.DESKTOP, status=Status.CREATING, expires_at=None, created_at=NOW - timedelta(days=9)
    )
    assert due([row], hosts=[HERE], now=NOW, policy=POLICY) == []


# --- against the host's list ----------------------------------------------------------------------------


def test_table_and_host_that_agree_need_nothing() -> None:
    rows = [session(1), session(2)]
    assert actions_on(rows, [sandbox_of(row) for row in rows]) == []


def test_sandbox_missing_once_changes_nothing_and_twice_ends_its_session() -> None:
    row = session()
    first = verdict_on([row], [])
    assert first.actions == ()
    second = verdict_on([row], [], memory=first.memory)
    assert second.actions == (End(row=row, status=Status.TERMINATED, reason="the container is gone"),)


def test_sandbox_that_is_back_after_one_miss_starts_counting_anew() -> None:
    row = session()
    missed = verdict_on([row], [])
    seen = verdict_on([row], [sandbox_of(row)], memory=missed.memory)
    assert verdict_on([row], [], memory=seen.memory).actions == ()


def test_sandbox_that_goes_away_while_it_comes_up_is_an_error() -> None:
    row = session(status=Status.CREATING)
    [action] = actions_on([row], [], memory=Memory(misses={row.id: 1}))
    assert isinstance(action, End)
    assert action.status is Status.ERROR


def test_failed_container_is_an_error_and_what_is_left_is_removed() -> None:
    row = session()
    [action] = actions_on([row], [sandbox_of(row, SandboxState.FAILED)])
    assert action == End(row=row, status=Status.ERROR, message="It is Failed.", sandbox_id="sb-1")


def test_container_that_ended_by_itself_terminates_its_session() -> None:
    row = session()
    [action] = actions_on([row], [sandbox_of(row, SandboxState.TERMINATED)])
    assert action == End(
        row=row, status=Status.TERMINATED, reason="the container ended by itself", sandbox_id="sb-1"
    )


def test_pause_and_resume_on_the_host_are_followed() -> None:
    row, paused = session(1), session(2, status=Status.PAUSED)
    assert actions_on([row], [sandbox_of(row, SandboxState.PAUSED)]) == [
        Follow(row=row, status=Status.PAUSED)
    ]
    assert actions_on([paused], [sandbox_of(paused)]) == [Follow(row=paused, status=Status.RUNNING)]


def test_sandbox_of_a_lost_answer_is_adopted() -> None:
    row = session(status=Status.CREATING, sandbox_id=None)
    assert actions_on([row], [sandbox_of(row)]) == [Adopt(row=row, sandbox_id="sb-of-s-1")]


def test_session_in_hand_is_left_to_look_for_its_own_sandbox() -> None:
    row = session(status=Status.CREATING, sandbox_id=None)
    assert actions_on([row], [sandbox_of(row)], busy={row.id}) == []


def test_double_of_a_session_that_has_its_sandbox_is_deleted() -> None:
    row = session()
    double = sandbox_of(row, sandbox_id="sb-double")
    assert actions_on([row], [sandbox_of(row), double]) == [
        DeleteSandbox(sandbox_id="sb-double", why="its session has another sandbox")
    ]


def test_of_two_sandboxes_for_one_request_one_is_adopted_and_the_other_left_for_the_next_look() -> None:
    row = session(status=Status.CREATING, sandbox_id=None)
    twins = [sandbox_of(row, sandbox_id="sb-a"), sandbox_of(row, sandbox_id="sb-b")]
    assert actions_on([row], twins) == [Adopt(row=row, sandbox_id="sb-a")]


def test_sandbox_of_a_terminal_session_is_deleted_and_the_row_never_touched() -> None:
    for status in (Status.TERMINATED, Status.ERROR):
        row = session(status=status, terminated_at=NOW)
        assert actions_on([], [sandbox_of(row)], ended=[row]) == [
            DeleteSandbox(sandbox_id="sb-1", why=f"its session is {status}")
        ]


def test_sandbox_with_our_fleet_id_but_no_row_is_deleted_after_a_grace_time() -> None:
    orphan = sandbox_of(session(9))
    first = verdict_on([], [orphan])
    assert first.actions == ()
    early = verdict_on([], [orphan], memory=first.memory, now=NOW + timedelta(seconds=59))
    assert early.actions == ()
    [action] = verdict_on([], [orphan], memory=early.memory, now=NOW + timedelta(seconds=60)).actions
    assert action == DeleteSandbox(sandbox_id="sb-9", why="it has our fleet id, but no session")


@pytest.mark.parametrize("table_began", [NOW, None])
def test_sandbox_that_is_older_than_the_database_is_only_reported(table_began: datetime | None) -> None:
    orphan = sandbox_of(session(9))
    known = Memory(orphans={orphan.id: NOW - timedelta(hours=1)})
    assert actions_on([], [orphan], memory=known, table_began=table_began) == [
        Report(sandbox_id="sb-9", why="it has our fleet id, but is older than our database")
    ]
    [action] = actions_on([], [orphan], memory=known, table_began=orphan.created_at)
    assert isinstance(action, DeleteSandbox)


def test_sandbox_of_another_fleet_or_of_nobody_is_only_reported() -> None:
    others = [stranger("x"), stranger("y", {FLEET_KEY: "f-2"})]
    actions = actions_on([], others, memory=Memory(orphans={"x": NOW - timedelta(days=1)}))
    assert actions == [
        Report(sandbox_id="x", why="a sandbox of nobody we know"),
        Report(sandbox_id="y", why="a sandbox of fleet f-2"),
    ]


def test_sandbox_that_claims_a_session_of_another_tenant_is_only_reported() -> None:
    row = session(status=Status.CREATING, sandbox_id=None)
    [action] = actions_on([row], [sandbox_of(row, tenant="intruder")])
    assert isinstance(action, Report)


def test_sandbox_of_a_session_of_another_host_is_never_deleted() -> None:
    row = session(1, host="there")
    [action] = compare(
        HERE, [sandbox_of(row)], rows=[], by_request={row.request_id: row},
        uses=Uses(), busy=set(), memory=Memory(), table_began=NOW, now=NOW, policy=POLICY,
    ).actions  # fmt: skip
    assert action == Report(
        sandbox_id=row.sandbox_id or "", why="host there shows it too; two hosts share one Docker"
    )


def test_sandbox_that_became_the_rows_own_a_moment_ago_is_left_alone() -> None:
    row = session()
    verdict = compare(
        HERE,
        [sandbox_of(row)],
        rows=[],  # read before the worker wrote the sandbox's id
        by_request={row.request_id: row},
        uses=Uses(),
        busy=(),
        memory=Memory(),
        table_began=NOW,
        now=NOW,
        policy=POLICY,
    )
    assert verdict.actions == ()


def test_watched_session_with_less_than_half_its_time_is_renewed_by_its_full_time() -> None:
    row = session(expires_at=NOW + timedelta(seconds=TTL / 2 - 1))
    assert actions_on([row], [sandbox_of(row)], watched={row.id}) == [
        Renew(row=row, until=NOW + timedelta(seconds=TTL))
    ]


def test_session_that_nobody_watches_is_not_renewed() -> None:
    row = session(expires_at=NOW + timedelta(seconds=5))
    assert actions_on([row], [sandbox_of(row)]) == []


def test_watched_session_is_not_renewed_beyond_its_longest_life() -> None:
    born = NOW - POLICY.max_lifetime + timedelta(minutes=10)
    row = session(created_at=born, expires_at=NOW + timedelta(minutes=5))
    assert actions_on([row], [sandbox_of(row)], watched={row.id}) == [
        Renew(row=row, until=NOW + timedelta(minutes=10))
    ]
    at_its_limit = session(created_at=born, expires_at=NOW + timedelta(minutes=10), last_used_at=NOW)
    assert actions_on([at_its_limit], [sandbox_of(at_its_limit)], watched={row.id}) == []


def test_host_that_would_end_a_sandbox_too_early_is_told_to_keep_it() -> None:
    row = session()
    hasty = sandbox_of(row).model_copy(update={"expires_at": row.expires_at})
    assert row.expires_at is not None
    assert actions_on([row], [hasty]) == [
        Keep(sandbox_id="sb-1", until=row.expires_at + reconcile.HOST_GRACE)
    ]


# --- properties -----------------------------------------------------------------------------------------

TIMES = st.integers(-7200, 7200).map(lambda seconds: NOW + timedelta(seconds=seconds))
STATES = st.sampled_from(list(SandboxState))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Session], list[Sandbox], set[str], set[str], Memory]:
    """Rows in any status with any sandbox, and a list that may hold, double, forge or lack them."""
    rows = [
        session(
            number,
            status=draw(st.sampled_from(list(Status))),
            host=draw(st.sampled_from([HERE, HERE, "there", None])),
            sandbox_id=draw(st.sampled_from([f"sb-{number}", None])),
            created_at=NOW - timedelta(seconds=draw(st.integers(0, 100_000))),
            expires_at=draw(TIMES),
            terminate_requested_at=draw(st.none() | TIMES),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    listed: list[Sandbox] = []
    for row in rows:
        for copy in range(draw(st.integers(0, 2))):
            own = row.sandbox_id if copy == 0 else None
            tenant = draw(st.sampled_from(["main", "main", "main", "intruder"]))
            listed.append(
                sandbox_of(row, draw(STATES), sandbox_id=own or f"extra-{row.id}-{copy}", tenant=tenant)
            )
    for number in range(draw(st.integers(0, 2))):
        fleet = draw(st.sampled_from(["f-1", "f-2", ""]))
        listed.append(stranger(f"stranger-{number}", {FLEET_KEY: fleet} if fleet else {}))
    names = st.sets(st.sampled_from([row.id for row in rows])) if rows else st.just(set[str]())
    misses = {row.id: 1 for row in rows if draw(st.booleans())}
    orphans = {one.id: NOW - timedelta(hours=1) for one in listed if draw(st.booleans())}
    return rows, listed, draw(names), draw(names), Memory(misses=misses, orphans=orphans)


@pytest.mark.soak
@given(worlds())
@settings(max_examples=examples(300), deadline=None)
def test_whatever_a_host_lists_the_rules_hold(
    world: tuple[list[Session], list[Sandbox], set[str], set[str], Memory],
) -> None:
    rows, listed, watched, busy, memory = world
    live = [row for row in rows if not row.status.is_terminal]
    ended = [row for row in rows if row.status.is_terminal]
    actions = actions_on(live, listed, ended=ended, watched=watched, busy=busy, memory=memory)
    by_id = {one.id: one for one in listed}
    own = {row.sandbox_id for row in live if row.host == HERE}

    touched = [action.row for action in actions if isinstance(action, End | Adopt | Follow | Renew)]
    assert len({row.id for row in touched}) == len(touched), "a row gets one action at most"
    assert all(row in live and row.host == HERE for row in touched), "only live rows of this host change"
    for action in actions:
        match action:
            case DeleteSandbox(sandbox_id=doomed):
                assert by_id[doomed].fleet == POLICY.fleet_id, "what is not ours is never deleted"
                assert doomed not in own, "a live row's own sandbox is never deleted behind its back"
            case Adopt(row=row, sandbox_id=found):
                assert row.sandbox_id is None
                assert row.id not in busy
                assert by_id[found].is_of(tenant_id=row.tenant_id, session_id=row.id)
            case End(row=row, sandbox_id=None):
                assert row.sandbox_id not in by_id, "a session does not end while its sandbox is there"
            case End(sandbox_id=str() as dead):
                assert by_id[dead].state in (SandboxState.FAILED, SandboxState.TERMINATED)
            case Renew(row=row, until=until):
                assert row.id in watched
                assert row.expires_at is not None
                assert row.expires_at < until <= row.created_at + POLICY.max_lifetime


@pytest.mark.soak
@given(worlds())
@settings(max_examples=examples(200), deadline=None)
def test_looking_and_acting_again_and_again_makes_table_and_host_agree(
    world: tuple[list[Session], list[Sandbox], set[str], set[str], Memory],
) -> None:
    """A host and a table of dicts play the worker; after a few rounds nothing is left to do but to report."""
    rows, listed, watched, _, memory = world
    table = {row.id: row for row in rows}
    host = {one.id: one for one in listed}
    now = NOW
    for _ in range(8):
        live = [row for row in table.values() if not row.status.is_terminal]
        ended = [row for row in table.values() if row.status.is_terminal]
        verdict = verdict_on(live, host.values(), ended=ended, watched=watched, memory=memory, now=now)
        memory = verdict.memory
        for action in verdict.actions:
            _play(action, table, host)
        now = NOW + reconcile.ORPHAN_GRACE
    left = [action for action in verdict.actions if not isinstance(action, Report)]
    assert left == []
    homes = [row.sandbox_id for row in table.values() if not row.status.is_terminal and row.host == HERE]
    assert all(home in host for home in homes if home is not None)


def _play(action: Action, table: dict[str, Session], host: dict[str, Sandbox]) -> None:
    match action:
        case End(row=row, status=status, sandbox_id=left_over):
            table[row.id] = row.model_copy(update={"status": status, "terminated_at": NOW})
            host.pop(left_over or "", None)
        case Adopt(row=row, sandbox_id=found):
            table[row.id] = row.model_copy(update={"sandbox_id": found})
        case Follow(row=row, status=status):
            table[row.id] = row.model_copy(update={"status": status})
        case Renew(row=row, until=until):
            table[row.id] = row.model_copy(update={"expires_at": until})
            one = host[row.sandbox_id or ""]
            host[one.id] = one.model_copy(update={"expires_at": until + reconcile.HOST_GRACE})
        case NoteUse(row=row, at=at):
            table[row.id] = table[row.id].model_copy(update={"last_used_at": at})
        case Keep(sandbox_id=kept, until=until):
            host[kept] = host[kept].model_copy(update={"expires_at": until})
        case DeleteSandbox(sandbox_id=doomed):
            host.pop(doomed, None)
