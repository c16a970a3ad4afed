from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select

from tests.soaking import examples
from tests.viewer_fixtures import UNKNOWN_ID, People, new_session, running_session, waiting
from viewer import database
from viewer.database import engine_of
from viewer.database_address import PostgresAddress
from viewer.fleet_store import DeclaredDesktop
from viewer.listing import BadCursor, SessionFilter
from viewer.migrations import upgrade
from viewer.model import HostStatus, Session, Status, utcnow
from viewer.rows import SandboxTaken, SessionNotFound
from viewer.settings import Settings
from viewer.store import NewSession, Store
from viewer.tables import Base, TenantRow
from viewer.transitions import IllegalTransition

ROOT = Path(__file__).parent.parent
STUDIO = DeclaredDesktop(name="studio", tenant="acme", host="here", backend="tigervnc", resolution="1280x800")


def test_migrations_lead_to_the_tables_of_the_models(new_database: Path | PostgresAddress) -> None:
    upgrade(new_database)
    engine = engine_of(new_database)
    with engine.connect() as connection:
        # PostgreSQL is asked whether two defaults are equal, and knows no equality of JSON.
        is_asked = isinstance(new_database, PostgresAddress)
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": not is_asked}
        )
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


@pytest.mark.sqlite
def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    upgrade(tmp_path / "new.db")
    before = (tmp_path / "new.db").read_bytes()
    upgrade(tmp_path / "new.db")
    assert (tmp_path / "new.db").read_bytes() == before


def test_database_knows_since_when_it_knows_of_sessions(new_database: Path | PostgresAddress) -> None:
    upgrade(new_database)
    store = Store(new_database)
    assert store.fleet.began_at() is None
    before = utcnow()
    store.accounts.add_tenant("first")
    began = store.fleet.began_at()
    store.accounts.add_tenant("second")
    assert began is not None
    assert before <= began <= utcnow()
    assert store.fleet.began_at() == began
    store.close()


def test_two_programs_that_start_at_once_migrate_once(new_database: Path | PostgresAddress) -> None:
    program = (
        "import sys, viewer.migrations as m, viewer.database_address as a;"
        " m.upgrade(a.address_of(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(new_database)]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [program.communicate(timeout=30)[1] for program in both]
    assert [program.returncode for program in both] == [0, 0], said


def test_many_writers_of_one_process_never_give_up_for_each_other(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All together they take longer than the database's own patience, which is for other processes."""
    monkeypatch.setattr(database, "LOCKED_MILLISECONDS", 100)
    opened = database.Database(settings.database)

    def write(number: int) -> None:
        with opened.writing() as orm:
            orm.add(TenantRow(id=f"t{number}", created_at=utcnow()))
            orm.flush()
            time.sleep(0.02)

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(write, range(30)))
    with opened.reading() as orm:
        assert orm.scalar(select(func.count()).select_from(TenantRow)) == 30
    opened.close()


def test_new_session_is_creating_and_told_of(store: Store, people: People) -> None:
    session = new_session(store, people.alice, task_id="t-1")
    [event] = store.tenant("acme").events_after(0)
    assert session.status is Status.CREATING
    assert event.session == session
    assert waiting(store) == [session]


def test_other_tenant_finds_nothing(store: Store, people: People) -> None:
    session = new_session(store, people.alice)
    bolt = store.tenant("bolt")
    with pytest.raises(SessionNotFound):
        bolt.get(session.id)
    with pytest.raises(SessionNotFound):
        bolt.request_termination(session.id)
    assert bolt.list().items == ()
    assert bolt.events_after(0) == []


def test_events_hold_neither_password_nor_port(store: Store, people: People) -> None:
    session = new_session(store, people.alice, vnc_password_sealed="sealed-secret")
    store.fleet.update(session.id, vnc_port=40017)
    with store._database.reading() as orm:
        payloads = orm.connection().exec_driver_sql("SELECT payload FROM events").scalars().all()
    assert len(payloads) == 2
    assert "sealed-secret" not in "".join(payloads)
    assert "40017" not in "".join(payloads)


def test_an_update_to_the_same_values_is_not_an_event(store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    last = store.tenant("acme").last_event_id()
    assert store.fleet.update(session.id, vnc_port=session.vnc_port, host=session.host) == session
    assert store.tenant("acme").last_event_id() == last


def test_terminal_transition_stamps_the_time_and_keeps_the_message(store: Store, people: People) -> None:
    session = new_session(store, people.alice)
    ended = store.fleet.transition(
        session.id, Status.ERROR, reason="image-missing", error_message="No such image."
    )
    assert ended.terminated_at is not None
    assert (ended.status_reason, ended.error_message) == ("image-missing", "No such image.")
    assert store.fleet.live_sessions() == []


def test_a_refused_transition_changes_nothing_and_tells_nothing(store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    ended = store.fleet.transition(session.id, Status.TERMINATED)
    last = store.tenant("acme").last_event_id()
    with pytest.raises(IllegalTransition):
        store.fleet.transition(session.id, Status.RUNNING, vnc_port=1)
    with pytest.raises(IllegalTransition):
        store.fleet.update(session.id, vnc_port=1)
    assert store.fleet.get(session.id) == ended
    assert store.tenant("acme").last_event_id() == last


def test_a_sandbox_belongs_to_one_session_across_tenants(store: Store, people: People) -> None:
    running_session(store, people.alice, sandbox_id="box-1")
    with pytest.raises(SandboxTaken):
        running_session(store, people.bob, sandbox_id="box-1")
    [theirs] = store.tenant("bolt").list().items
    assert theirs.status is Status.CREATING
    assert theirs.sandbox_id is None


def test_asking_twice_for_the_end_asks_once(store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    first = store.tenant("acme").request_termination(session.id)
    assert first.terminate_requested_at is not None
    assert first.status_reason == "terminating"
    assert store.tenant("acme").request_termination(session.id) == first


def test_paging_visits_every_session_once_newest_first(store: Store, people: People) -> None:
    made = [new_session(store, people.alice).id for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = store.tenant("acme").list(cursor=cursor, limit=3)
        seen += [session.id for session in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == made[::-1]


def test_a_page_goes_on_where_it_ended_when_new_sessions_come_in_between(
    store: Store, people: People
) -> None:
    old = [new_session(store, people.alice).id for _ in range(4)]
    first = store.tenant("acme").list(limit=2)
    new_session(store, people.alice)
    second = store.tenant("acme").list(cursor=first.next_cursor, limit=2)
    assert [session.id for session in (*first.items, *second.items)] == old[::-1]


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "W10", "WzEsMl0", "eyJhIjoxfQ", "WyIyMDI2LTAxLTAxIiwgIngiXQ", "a" * 5000]
)
def test_foreign_cursor_is_refused(store: Store, people: People, cursor: str) -> None:
    with pytest.raises(BadCursor):
        store.tenant("acme").list(cursor=cursor)


def test_filters_hold_together(store: Store, people: People) -> None:
    wanted = running_session(store, people.alice, sandbox_id="a", task_id="t", agent_id="x")
    running_session(store, people.alice, sandbox_id="b", task_id="t", agent_id="y")
    new_session(store, people.alice, task_id="t", agent_id="x")
    found = store.tenant("acme").list(
        SessionFilter(status=(Status.RUNNING,), task_id="t", agent_id="x", host="here")
    )
    assert [session.id for session in found.items] == [wanted.id]


def test_change_of_a_host_tells_its_live_sessions_once(store: Store, people: People) -> None:
    running_session(store, people.alice)
    last = store.tenant("acme").last_event_id()
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE, "no answer")
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE, "no answer")
    assert len(store.tenant("acme").events_after(last)) == 1
    [host] = store.fleet.hosts()
    assert (host.status, host.last_seen_at) == (HostStatus.UNREACHABLE, None)


def test_declared_desktop_is_one_session_however_often_it_is_declared(store: Store, people: People) -> None:
    first = store.fleet.upsert_desktop(STUDIO)
    assert store.fleet.upsert_desktop(STUDIO) == first
    assert (first.kind, first.sandbox_id, first.expires_at) == ("desktop", "studio", None)
    bigger = store.fleet.upsert_desktop(STUDIO.model_copy(update={"resolution": "1920x1080"}))
    assert (bigger.id, bigger.resolution) == (first.id, "1920x1080")


def test_desktop_whose_row_failed_gets_a_new_row(store: Store, people: People) -> None:
    first = store.fleet.upsert_desktop(STUDIO)
    store.fleet.transition(first.id, Status.ERROR, error_message="gone")
    second = store.fleet.upsert_desktop(STUDIO)
    assert second.id != first.id
    assert second.status is Status.CREATING
    assert store.fleet.get(first.id).status is Status.ERROR


def test_desktop_given_to_another_tenant_ends_for_the_first(store: Store, people: People) -> None:
    first = store.fleet.upsert_desktop(STUDIO)
    second = store.fleet.upsert_desktop(STUDIO.model_copy(update={"tenant": "bolt"}))
    assert store.tenant("acme").get(first.id).status is Status.TERMINATED
    assert store.tenant("bolt").get(second.id).sandbox_id == "studio"


def test_desktop_taken_out_of_the_inventory_ends(store: Store, people: People) -> None:
    kept, dropped = (
        store.fleet.upsert_desktop(STUDIO),
        store.fleet.upsert_desktop(STUDIO.model_copy(update={"name": "lab"})),
    )
    assert [session.id for session in store.fleet.retire_desktops("here", ["studio"])] == [dropped.id]
    assert store.fleet.live_sessions() == [kept]


def test_purge_forgets_what_is_old_and_says_that_events_are_gone(store: Store, people: People) -> None:
    ended = running_session(store, people.alice)
    store.fleet.transition(ended.id, Status.TERMINATED)
    alive = new_session(store, people.alice)
    acme = store.tenant("acme")
    assert acme.has_events_since(0)
    now = utcnow() + timedelta(seconds=1)
    store.fleet.purge(events_before=now, sessions_ended_before=now)
    assert [session.id for session in acme.list().items] == [alive.id]
    assert not acme.has_events_since(0)
    assert acme.has_events_since(acme.last_event_id())
    assert not acme.has_events_since(acme.last_event_id() + 1)
    new_session(store, people.alice)
    # The newest stays, and ids are never given out twice.
    assert [event.id for event in acme.events_after(0)] == [4, 5]


def test_purge_forgets_a_bite_at_a_time(
    store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.fleet_store.PURGE_AT_ONCE", 2)
    for _ in range(3):
        store.fleet.transition(new_session(store, people.alice).id, Status.TERMINATED)
    alive = new_session(store, people.alice)
    now = utcnow() + timedelta(seconds=1)
    bites = [store.fleet.purge(events_before=now, sessions_ended_before=now) for _ in range(6)]
    acme = store.tenant("acme")
    assert [session.id for session in acme.list().items] == [alive.id]
    assert [event.session for event in acme.events_after(0)] == [alive]  # the newest stays
    assert bites == [True, True, True, False, False, False]  # 7 events, 3 sessions


@pytest.mark.sqlite
def test_backup_of_a_live_database_holds_everything_and_is_sound(
    store: Store, people: People, tmp_path: Path
) -> None:
    session = new_session(store, people.alice)
    store.backup(tmp_path / "copy.db")
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copy.execute("SELECT id FROM sandbox_sessions").fetchall() == [(session.id,)]
    copy.close()


# --- waiting for a change ---------------------------------------------------------------------


def test_wait_ends_without_a_change(store: Store) -> None:
    began = time.monotonic()
    assert not store.wait_for_change(0.1)
    assert 0.1 <= time.monotonic() - began < 1


def test_a_change_between_reading_and_waiting_is_not_lost(store: Store, people: People) -> None:
    mark = store.mark()
    new_session(store, people.alice)
    assert store.wait_for_change(0, since=mark)


def test_change_by_another_process_is_heard_of_sooner_when_one_was_just_before(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "POLL_SECONDS", 1.0)
    other = Store(settings.database)
    heard: list[bool] = []
    waiting = threading.Thread(target=lambda: heard.append(store.wait_for_change(30)))
    waiting.start()
    other.accounts.add_tenant("first")
    waiting.join()
    began = time.monotonic()
    for number in range(5):
        mark = store.mark()
        later = threading.Timer(0.02, other.accounts.add_tenant, (f"t{number}",))
        later.start()
        assert store.wait_for_change(30, since=mark)
        later.join()
    assert time.monotonic() - began < 2  # with the pauses of a quiet database at least 4
    other.close()


def test_write_that_changes_nothing_wakes_nobody(store: Store, people: People) -> None:
    """Else the worker, which looks for something to write whenever it is woken, would wake itself."""
    mark = store.mark()
    assert store.fleet.place(lambda _: []) == []
    store.fleet.update(new_session(store, people.alice).id)
    new = store.mark()
    assert new != mark
    store.fleet.place(lambda _: [])
    assert not store.wait_for_change(0.05, since=new)


def test_all_that_one_reading_sees_is_of_one_moment(store: Store, people: People) -> None:
    tenants = select(func.count()).select_from(TenantRow)
    with store._database.reading() as orm:
        before = orm.scalar(tenants)
        store.accounts.add_tenant("later")
        assert orm.scalar(tenants) == before
    with store._database.reading() as orm:
        assert orm.scalar(tenants) == (before or 0) + 1


def test_reading_is_not_a_change(store: Store, people: People) -> None:
    mark = store.mark()
    store.tenant("acme").list()
    assert not store.wait_for_change(0.05, since=mark)


def test_closing_ends_every_wait(store: Store) -> None:
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(store.wait_for_change(30)))
    waiting.start()
    time.sleep(0.05)
    store.close()
    waiting.join(timeout=2)
    assert answers == [False]


WRITER = """
import sys, time
from viewer.database_address import address_of
from viewer.store import NewSession, Store
store = Store(address_of(sys.argv[1]))
store.tenant("acme").list()
for _ in range(5):
    sys.stdin.readline()
    at = time.monotonic()
    store.tenant("acme").create(NewSession(image="desktop", ttl_seconds=60, created_by="other process"))
    print(time.monotonic(), flush=True)
"""


def test_change_by_another_process_arrives_within_100_ms(store: Store, people: People) -> None:
    path = str(store._database.address)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        delays = []
        for _ in range(5):
            mark = store.mark()
            other.stdin.write("go\n")
            other.stdin.flush()
            assert store.wait_for_change(10, since=mark)
            heard = time.monotonic()  # the same clock in every process on Linux
            delays.append(heard - float(other.stdout.readline()))
    assert sorted(delays)[2] < 0.1, delays


# --- terminal is final ------------------------------------------------------------------------


class AnyOrderOfCalls(RuleBasedStateMachine):
    """Whatever is called in whatever order, a terminal row stays as it was when it became terminal."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        # A tenant of its own each time: what earlier runs left in the making counts against its limit.
        name = uuid.uuid4().hex
        self.store.accounts.add_tenant(name)
        self.tenant = self.store.tenant(name)
        self.ids: list[str] = []
        self.final: dict[str, Session] = {}

    @initialize()
    def one_session(self) -> None:
        self.create()

    @rule()
    def create(self) -> None:
        new = NewSession(image="desktop", ttl_seconds=60, created_by="test")
        self.ids.append(self.tenant.create(new).session.id)

    @rule(data=st.data(), to=st.sampled_from(Status), box=st.sampled_from(["a", "b", None]))
    def transition(self, data: st.DataObject, to: Status, box: str | None) -> None:
        self._try(data, lambda name: self.store.fleet.transition(name, to, host="h", sandbox_id=box))

    @rule(data=st.data(), box=st.sampled_from(["a", "b", None]))
    def update(self, data: st.DataObject, box: str | None) -> None:
        self._try(data, lambda name: self.store.fleet.update(name, sandbox_id=box, expires_at=utcnow()))

    @rule(data=st.data())
    def ask_for_the_end(self, data: st.DataObject) -> None:
        self._try(data, lambda name: self.tenant.request_termination(name))

    @rule(data=st.data())
    def fleet_asks_for_the_end(self, data: st.DataObject) -> None:
        self._try(data, lambda name: self.store.fleet.request_termination(name))

    @rule(status=st.sampled_from(HostStatus))
    def host(self, status: HostStatus) -> None:
        self.store.fleet.record_host_status("h", status)

    def _try(self, data: st.DataObject, call: object) -> None:
        name = data.draw(st.sampled_from(self.ids))
        try:
            changed = call(name)  # type: ignore[operator]
        except (IllegalTransition, SandboxTaken):
            return
        if changed.status.is_terminal:
            self.final.setdefault(name, changed)

    @invariant()
    def terminal_rows_are_as_they_were(self) -> None:
        for name, session in self.final.items():
            assert self.store.fleet.get(name) == session

    @invariant()
    def the_newest_event_of_each_session_is_its_row(self) -> None:
        told = {event.session.id: event.session for event in self.tenant.events_after(0, 10_000)}
        for name in self.ids:
            row = self.store.fleet.get(name)
            assert told[name] == row.model_copy(update={"vnc_port": None, "vnc_password_sealed": None})


@pytest.mark.soak
def test_no_sequence_of_calls_revives_a_terminal_session(store: Store, people: People) -> None:
    class Machine(AnyOrderOfCalls):
        pass

    Machine.store = store
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples(15),
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_unknown_id_is_not_found_by_the_fleet_either(store: Store) -> None:
    with pytest.raises(SessionNotFound):
        store.fleet.update(UNKNOWN_ID, host="here")
