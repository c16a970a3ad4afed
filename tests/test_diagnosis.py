"""The diagnosis without any host: each thing that can be amiss, and the step that says so.

Stand-ins, by name: `CannedRelay`, `CannedServer` and `CannedHostwatch` answer as a test says. What the real
ones do is in tests/worker/test_diagnosis.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import httpx
import pytest
from cryptography.fernet import Fernet
from flask import Flask
from pydantic import SecretStr

from tests.viewer_fixtures import (
    UNKNOWN_ID,
    People,
    Person,
    ViewerClient,
    kasmvnc_desktop,
    new_session,
    put_relay,
    running_session,
    sign_in,
)
from viewer import __version__, diagnosis
from viewer.diagnosis import Case, examine, whole
from viewer.diagnosis_answers import Diagnosis, DiagnosisStep, StepName, StepState
from viewer.fleet_store import HostRecord
from viewer.grants import Grant, Target
from viewer.hostwatch.answers import ContainerState
from viewer.hostwatch_client import HostwatchClient, HostwatchUnreachable
from viewer.model import (
    HostStatus,
    Lease,
    LeaseHolder,
    LeaseKind,
    Principal,
    Role,
    Scope,
    Session,
    Status,
    utcnow,
)
from viewer.relay.answers import (
    CloseCode,
    Picture,
    PictureFormat,
    PictureResult,
    ProbeOutcome,
    ProbeResult,
    RelayStatus,
    WantedPicture,
)
from viewer.relay_client import RelayClient, RelayUnreachable
from viewer.rows import QUEUED
from viewer.sandbox_hosts import HostUnreachable, Sandbox, SandboxHost
from viewer.services import DIAGNOSES_PER_PRINCIPAL, RequestLimit
from viewer.settings import Settings
from viewer.store import Store
from viewer.upgrades import Upgraded, greeting_in

SaidT = TypeVar("SaidT")
FRAME = ProbeResult(result=ProbeOutcome.FRAME, width=1280, height=800, colours=2, elapsed_ms=3)
BLACK = ProbeResult(
    result=ProbeOutcome.BLANK, width=1280, height=800, colours=1, colour="#000000", elapsed_ms=4000
)
DEAD = ProbeResult(result=ProbeOutcome.UNREACHABLE, detail="the desktop hung up", elapsed_ms=2000)
GREETS = Upgraded(status=101, has_banner=True)
SILENT = RelayUnreachable(
    "the relay of host here does not answer at http://10.1.2.3:8070: Connection refused"
)


class CannedRelay(RelayClient):
    def __init__(self) -> None:
        super().__init__("here", url="http://127.0.0.1:9", key=Fernet.generate_key())
        self.seen: ProbeResult | RelayUnreachable = FRAME
        self.said: RelayStatus | RelayUnreachable = RelayStatus(
            version=__version__, is_supervised=True, silent_seconds=1, streams=0
        )
        self.skew = timedelta()
        self.stream = GREETS
        self.changed_at = utcnow()
        self.probes: list[float | None] = []

    def probe(
        self,
        session_id: str,
        target: Target,
        vnc_password: SecretStr | None,
        *,
        seconds: float | None = None,
        tenant_id: str = "",
    ) -> ProbeResult:
        self.probes.append(seconds)
        return answered(self.seen)

    def status(self, *, seconds: float = 0) -> RelayStatus:
        return answered(self.said)

    def clock(self) -> Any:
        answered(self.said)
        return utcnow() + self.skew

    def pictures(
        self, wanted: Sequence[WantedPicture], *, width: int | None, format: PictureFormat
    ) -> tuple[Picture, ...]:
        return (Picture(session_id="s", result=PictureResult.SAME, changed_at=self.changed_at),)

    def try_stream(self, grant: Grant, *, seconds: float) -> Upgraded:
        assert not grant.may_control
        return self.stream


class CannedServer(SandboxHost):
    def __init__(self) -> None:
        super().__init__("here", url="http://127.0.0.1:9", key="k", fleet_id="f")
        self.silence: str | None = None
        self.port = 40001
        self.state: str | None = "Running"
        self.hold: threading.Event | None = None

    def version(self) -> str:
        if self.hold is not None:
            self.hold.wait(10)
        if self.silence:
            raise HostUnreachable("here", self.silence)
        return "1.1.1"

    def published_port(self, sandbox_id: str, container_port: int) -> int:
        return self.port

    def get(self, sandbox_id: str) -> Sandbox | None:
        if self.state is None:
            return None
        return Sandbox.model_validate(
            {"id": sandbox_id, "status": {"state": self.state}, "createdAt": utcnow().isoformat()}
        )

    def log_tail(self, sandbox_id: str, lines: int = 5) -> list[str]:
        return ["Xvnc: cannot open display"]


class CannedHostwatch(HostwatchClient):
    def __init__(self, state: ContainerState | HostwatchUnreachable | None) -> None:
        super().__init__("here", url="http://127.0.0.1:9", key=Fernet.generate_key())
        self._state = state

    def container(self, sandbox_id: str) -> ContainerState | None:
        return answered(self._state)

    def log_tail(self, sandbox_id: str, lines: int = 5) -> list[str]:
        return []


def answered(said: SaidT | Exception) -> SaidT:
    if isinstance(said, Exception):
        raise said
    return said


def container(state: str, *, code: int | None = None, oom: bool = False) -> CannedHostwatch:
    ended = utcnow() if code is not None else None
    return CannedHostwatch(
        ContainerState.model_validate(
            {
                "sandbox_id": "box-1", "state": state, "exit_code": code, "oom_killed": oom,
                "started_at": utcnow(), "finished_at": ended,
            }
        )
    )  # fmt: skip


def watcher(**changed: Any) -> Principal:
    values = {"id": "key:w", "tenant": "acme", "role": Role.OPERATOR, "via": "key", **changed}
    return Principal.model_validate(values)


FLEET_ADMIN = watcher(role=Role.ADMIN, scopes=frozenset(Scope))


@pytest.fixture
def session(store: Store, people: People) -> Session:
    return running_session(store, people.alice)


@pytest.fixture
def case(settings: Settings, session: Session) -> Iterator[Case]:
    made = Case(
        settings=settings,
        session=session,
        who=watcher(),
        lease=Lease(session_id=session.id),
        record=HostRecord(
            name="here", status=HostStatus.OK, detail=None, last_seen_at=utcnow(), changed_at=utcnow()
        ),
        relay=CannedRelay(),
        sandboxes=CannedServer(),
        hostwatch=container("running"),
    )
    yield made
    for client in (made.relay, made.sandboxes, made.hostwatch):
        assert client is not None
        client.close()


@pytest.fixture(autouse=True)
def nobody_is_at_our_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the stream is opened at the relay."""

    def refused(*_: Any, **__: Any) -> Upgraded:
        raise httpx.ConnectError("Connection refused")

    monkeypatch.setattr(diagnosis, "try_stream", refused)


def changed(case: Case, **values: Any) -> Case:
    return Case(**{**{name: getattr(case, name) for name in Case.__dataclass_fields__}, **values})


def of_row(case: Case, **values: Any) -> Case:
    return changed(case, session=case.session.model_copy(update=values))


def of_record(case: Case, **values: Any) -> Case:
    assert case.record is not None
    return changed(case, record=case.record.model_copy(update=values))


def steps_of(case: Case) -> dict[StepName, DiagnosisStep]:
    return {step.step: step for step in examine(case)}


def relay_of(case: Case) -> CannedRelay:
    assert isinstance(case.relay, CannedRelay)
    return case.relay


def server_of(case: Case) -> CannedServer:
    assert isinstance(case.sandboxes, CannedServer)
    return case.sandboxes


def test_what_works_is_said_step_by_step(case: Case) -> None:
    steps = tuple(examine(case))
    assert [step.step for step in steps] == list(StepName)
    assert {step.state for step in steps} == {StepState.OK}
    assert steps[-1].what == "A fresh picture of 1280x800 pixels came, of more than one colour."
    found = whole(case, steps)
    assert found.ok
    assert found.summary.startswith("Everything works")


def set_relay(**values: Any) -> Callable[[Case], Case]:
    def broken(case: Case) -> Case:
        for name, value in values.items():
            setattr(case.relay, name, value)
        return case

    return broken


def set_server(**values: Any) -> Callable[[Case], Case]:
    def broken(case: Case) -> Case:
        for name, value in values.items():
            setattr(case.sandboxes, name, value)
        return case

    return broken


UNSUPERVISED = RelayStatus(version=__version__, is_supervised=False, silent_seconds=130, streams=0)
BREAKAGES: dict[str, tuple[Callable[[Case], Case], StepName, str, str]] = {
    "ended": (lambda case: of_row(case, status=Status.TERMINATED), StepName.ROW, "ended", "Create another"),
    "failed": (
        lambda case: of_row(case, status=Status.ERROR, error_message="no such image"),
        StepName.ROW, "no such image", "Create another",
    ),
    "paused": (lambda case: of_row(case, status=Status.PAUSED), StepName.ROW, "paused", "Resume"),
    "queued": (
        lambda case: changed(
            of_row(case, status=Status.CREATING, host=None, status_reason=QUEUED), place=3
        ),
        StepName.ROW, "place 3", "Wait",
    ),
    "host silent": (set_server(silence="timed out"), StepName.HOST, "timed out", "machine and its network"),
    "clock": (set_relay(skew=timedelta(minutes=4)), StepName.HOST, "4 min fast", "Set its clock"),
    "not of the fleet": (lambda case: of_row(case, host="gone"), StepName.HOST, "no longer", "site file"),
    "container ended": (
        lambda case: changed(case, hostwatch=container("exited", code=1)),
        StepName.CONTAINER, "code 1. It said last: Xvnc: cannot open display", "Create another",
    ),
    "out of memory": (
        lambda case: changed(case, hostwatch=container("exited", code=137, oom=True)),
        StepName.CONTAINER, "ran out of memory", "resource_limits.memory",
    ),
    "no container": (
        lambda case: changed(case, hostwatch=CannedHostwatch(None)),
        StepName.CONTAINER, "no container of this desktop", "Create another",
    ),
    "container ended, hostwatch away": (
        lambda case: set_server(state="Failed")(
            changed(case, hostwatch=CannedHostwatch(HostwatchUnreachable("away")))
        ),
        StepName.CONTAINER, "failed", "Create another",
    ),
    "another port": (set_server(port=40007), StepName.VNC_PORT, "another port", "create another"),
    "no VNC server": (set_relay(seen=DEAD), StepName.VNC_PORT, "hung up", "VNC server has ended"),
    "relay silent": (
        set_relay(said=SILENT, seen=SILENT), StepName.RELAY, "not answer", "restart deskfleet-relay",
    ),
    "relay alone": (set_relay(said=UNSUPERVISED), StepName.RELAY, "130 s", "Start deskfleet-worker"),
    "no scope": (
        lambda case: changed(case, who=watcher(scopes=frozenset({Scope.SESSIONS}))),
        StepName.AUTHORISATION, "scope `streams`", "admin",
    ),
    "too many streams": (
        set_relay(stream=Upgraded(status=101, close_code=CloseCode.BUSY, reason="8 are open")),
        StepName.WEBSOCKET, "8 are open", "Close a page",
    ),
    "no bytes": (set_relay(stream=Upgraded(status=101)), StepName.WEBSOCKET, "nothing comes", "proxy"),
    "refused": (
        set_relay(stream=Upgraded(status=403, reason="the grant has expired")),
        StepName.WEBSOCKET, "HTTP 403: the grant has expired.", "Sign in again",
    ),
    "one colour": (set_relay(seen=BLACK), StepName.FIRST_FRAME, "one colour (black)", "press a key"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_amiss_fails_its_own_step_and_says_what_mends_it(case: Case, name: str) -> None:
    broken, step, what, mend = BREAKAGES[name]
    made = broken(case)
    steps = tuple(examine(made))
    failed = [one for one in steps if one.state is StepState.FAILED]
    assert [one.step for one in failed] == [step]
    assert what in failed[0].what
    assert mend in (failed[0].mend or "")
    found = whole(made, steps)
    assert not found.ok
    assert found.summary == f"{failed[0].what} {failed[0].mend}"
    for one in (made.relay, made.sandboxes, made.hostwatch):
        if one is not None:
            one.close()


def test_what_needs_a_failed_step_is_not_looked_at(case: Case) -> None:
    server_of(case).silence = "timed out"
    steps = steps_of(case)
    after = [StepName.CONTAINER, StepName.VNC_PORT, StepName.RELAY, StepName.WEBSOCKET, StepName.FIRST_FRAME]
    assert {steps[name].state for name in after} == {StepState.SKIPPED}
    assert "its host" in steps[StepName.CONTAINER].what
    assert steps[StepName.AUTHORISATION].state is StepState.OK
    assert relay_of(case).probes == []


WARNINGS: dict[str, tuple[Callable[[Case], Case], StepName, str]] = {
    "draining": (
        lambda case: of_record(case, is_draining=True),
        StepName.HOST, "draining",
    ),
    "worker away": (
        lambda case: of_record(case, last_seen_at=utcnow() - timedelta(hours=1)),
        StepName.HOST, "worker has not looked",
    ),
    "clock": (set_relay(skew=timedelta(seconds=-9)), StepName.HOST, "9 s slow"),
    "ends soon": (
        lambda case: of_row(case, expires_at=utcnow() + timedelta(seconds=30)), StepName.ROW, "ends in 30 s",
    ),
    "killed inside": (
        lambda case: changed(case, hostwatch=container("running", oom=True)), StepName.CONTAINER, "memory",
    ),
    "old relay": (
        set_relay(said=RelayStatus(version="0.0.1", is_supervised=True, silent_seconds=0, streams=0)),
        StepName.RELAY, "0.0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_worth_knowing_is_no_failure(case: Case, name: str) -> None:
    broken, step, what = WARNINGS[name]
    made = broken(case)
    steps = tuple(examine(made))
    assert [one.step for one in steps if one.state is StepState.WARN] == [step]
    assert all(one.state is not StepState.FAILED for one in steps)
    assert what in whole(made, steps).summary
    if made.hostwatch is not None:
        made.hostwatch.close()


def test_black_screen_says_how_long_it_is_so_where_somebody_watched(case: Case) -> None:
    relay = relay_of(case)
    relay.seen = BLACK
    assert "not change for 4 s" in steps_of(case)[StepName.FIRST_FRAME].what
    relay.changed_at = utcnow() - timedelta(minutes=12)
    assert "not change for 12 min" in steps_of(case)[StepName.FIRST_FRAME].what


def test_step_that_hangs_ends_at_its_time_and_the_whole_too(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(diagnosis._SECONDS, StepName.HOST, 0.05)
    server = server_of(case)
    server.hold = threading.Event()
    try:
        assert "no answer within" in steps_of(case)[StepName.HOST].what
        late = steps_of(changed(case, whole_seconds=0))
        assert {step.state for step in late.values()} == {StepState.SKIPPED}
    finally:
        server.hold.set()


def test_fault_of_our_own_is_one_failed_step(case: Case) -> None:
    set_relay(seen=ValueError("secret-of-ours"))(case)
    step = steps_of(case)[StepName.VNC_PORT]
    assert step.state is StepState.FAILED
    assert "secret-of-ours" not in step.what


@pytest.mark.parametrize("who", [watcher(), watcher(role=Role.ADMIN)])
def test_addresses_of_hosts_are_for_the_fleets_admins(case: Case, who: Principal) -> None:
    set_relay(said=SILENT)(case)
    server_of(case).silence = "no connection to https://10.1.2.3:8443: 10.1.2.3 refused"
    assert "10.1.2.3" not in str(steps_of(changed(case, who=who)))
    assert "10.1.2.3" in steps_of(changed(case, who=FLEET_ADMIN))[StepName.HOST].what


def test_who_has_the_keyboard_is_said(case: Case) -> None:
    holder = LeaseHolder(kind=LeaseKind.PERSON, id="person:mara", name="Mara")
    lease = Lease(session_id=case.session.id, number=1, holder=holder)
    assert "with Mara" in steps_of(changed(case, lease=lease))[StepName.AUTHORISATION].what
    only = changed(case, lease=lease, who=watcher(role=Role.WATCHER))
    assert "for operators" in steps_of(only)[StepName.AUTHORISATION].what


def test_desktop_of_the_inventory_has_no_container(case: Case, store: Store, people: People) -> None:
    desktop = kasmvnc_desktop(store, people.alice)
    steps = steps_of(changed(case, session=desktop))
    assert steps[StepName.CONTAINER].state is StepState.SKIPPED
    assert steps[StepName.WEBSOCKET].state is StepState.SKIPPED
    assert steps[StepName.FIRST_FRAME].state is StepState.OK


def test_greeting_is_read_from_frames() -> None:
    assert greeting_in(b"\x82") is None
    assert greeting_in(b"\x82\x0cRFB 003") is None
    assert greeting_in(b"\x89\x00\x82\x0cRFB 003.008\n") == GREETS
    closed = greeting_in(b"\x88\x06" + (4502).to_bytes(2, "big") + b"gone")
    assert closed == Upgraded(status=101, close_code=4502, reason="gone")
    assert greeting_in(b"\x82\x03abc") == Upgraded(status=101)
    assert greeting_in(b"\x82\x7e\x00\x80" + b"RFB " + bytes(124)) == GREETS


# --- over HTTP --------------------------------------------------------------------------------------------


@pytest.fixture
def asked(client: ViewerClient, app: Flask, session: Session) -> Callable[..., Any]:
    put_relay(app, CannedRelay())

    def ask(who: Person, session_id: str = session.id, **headers: str) -> Any:
        return client.get(f"/api/v1/sessions/{session_id}/diagnosis", headers={**who.headers, **headers})

    return ask


def test_api_says_what_it_finds_as_one_document(asked: Callable[..., Any], people: People) -> None:
    found = Diagnosis.model_validate(asked(people.wanda).json)
    assert [step.step for step in found.steps] == list(StepName)
    # No OpenSandbox server runs here.
    assert [step.step for step in found.steps if step.state is StepState.FAILED] == [StepName.HOST]
    assert "127.0.0.1" not in found.model_dump_json()


def test_api_sends_each_step_as_a_line_when_asked(asked: Callable[..., Any], people: People) -> None:
    answer = asked(people.alice, Accept="application/x-ndjson")
    assert answer.mimetype == "application/x-ndjson"
    *steps, last = answer.get_data(as_text=True).splitlines()
    assert [json.loads(line)["step"] for line in steps] == list(StepName)
    assert [step.model_dump_json() for step in Diagnosis.model_validate_json(last).steps] == steps


def test_another_tenants_session_is_404(asked: Callable[..., Any], people: People, session: Session) -> None:
    assert asked(people.bob).status_code == 404
    assert asked(people.bob).get_data() == asked(people.bob, UNKNOWN_ID).get_data()


def test_one_principal_asks_for_few_at_a_time_and_gets_his_places_back(
    asked: Callable[..., Any], app: Flask, people: People
) -> None:
    places = app.extensions["deskfleet"].diagnoses
    for _ in range(DIAGNOSES_PER_PRINCIPAL + 1):
        for kind in ("application/json", "application/x-ndjson"):
            with asked(people.alice, Accept=kind) as answer:
                assert answer.status_code == 200
    assert places.held() == 0
    who = watcher(id=f"key:{people.alice.key.split('_')[1]}")
    while places.take(who):
        pass
    refused = asked(people.alice)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    assert asked(people.wanda).status_code == 200


def test_one_principal_asks_so_often_in_a_minute(
    asked: Callable[..., Any], app: Flask, people: People
) -> None:
    assert asked(people.alice).status_code == 200
    app.extensions["deskfleet"].diagnosis_limit = RequestLimit(1)
    assert asked(people.alice).status_code == 200
    refused = asked(people.alice)
    assert (refused.status_code, refused.json["type"]) == (429, "urn:deskfleet:problem:too-many-diagnoses")
    assert int(refused.headers["Retry-After"]) > 30
    assert asked(people.wanda).status_code == 200


def test_page_is_the_tenants_own(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    path = f"/diagnosis/{session.id}"
    assert client.get(path, headers=sign_in(store, people.wanda)).status_code == 200
    assert client.get(path, headers=sign_in(store, people.bob)).status_code == 404
    assert client.get(path).headers["Location"] == f"/signin?next={path}"


def test_session_that_waits_says_its_place(asked: Callable[..., Any], store: Store, people: People) -> None:
    waits = new_session(store, people.alice)
    store.fleet.update(waits.id, status_reason=QUEUED)
    found = Diagnosis.model_validate(asked(people.alice, waits.id).json)
    assert "place 1" in found.summary
