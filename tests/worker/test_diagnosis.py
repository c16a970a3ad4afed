"""Why a desktop is black, with every thing broken for real: Caddy, viewer, worker, relay, hostwatch,
opensandbox-server and Docker are real.

Stand-in, by name: a canned RFB server where a desktop would be; of `frail` it can be killed while its
container goes on.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.hostwatch_process import running_hostwatch
from tests.real_opensandbox import CANNED_BLANK, CANNED_DESKTOP, RealOpenSandbox
from tests.relay_process import RelayProcess, free_port
from tests.worker.edge import KEY, OTHER_KEY, Edge, running_edge
from tests.worker.fleet import _image
from viewer import __version__
from viewer.cli.main import run
from viewer.diagnosis_answers import Diagnosis, DiagnosisStep, StepName, StepState
from viewer.model import HostStatus, Role, Scope, Session, Status

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

FRAIL = CANNED_DESKTOP.replace("exec ", "") + " & sleep 1000"
IMAGES = [_image("tiny", CANNED_DESKTOP), _image("blank", CANNED_BLANK), _image("frail", FRAIL)]


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory, server: RealOpenSandbox, relay: RelayProcess
) -> Iterator[Edge]:
    folder, hostwatch = tmp_path_factory.mktemp("edge"), free_port()
    with (
        running_edge(
            folder, server, relay, hostwatch_url=f"http://127.0.0.1:{hostwatch}", images=IMAGES
        ) as edge,
        running_hostwatch(
            folder, socket=server.daemon.socket, fleet_id=edge.fleet.fleet_id, key=relay.key, port=hostwatch
        ),
    ):
        yield edge


@pytest.fixture(scope="module")
def desktop(edge: Edge) -> Session:
    return running(edge, "frail")


@pytest.fixture(scope="module")
def fleet_key(edge: Edge) -> str:
    return edge.fleet.store.accounts.add_key("main", Role.ADMIN, scopes=list(Scope)).text


def running(edge: Edge, image: str) -> Session:
    return edge.fleet.wait_for(edge.fleet.create(image), Status.RUNNING)


def asked(edge: Edge, session: Session, key: str = KEY.text, *, url: str | None = None) -> Diagnosis:
    answer = httpx.get(
        f"{url or edge.url}/api/v1/sessions/{session.id}/diagnosis",
        headers={"Authorization": f"Bearer {key}"}, timeout=20, trust_env=False,
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    return Diagnosis.model_validate_json(answer.content)


def failed(found: Diagnosis, step: StepName) -> DiagnosisStep:
    """The one step that failed, which must be that one."""
    failures = [one for one in found.steps if one.state is StepState.FAILED]
    assert [one.step for one in failures] == [step], found
    assert failures[0].mend
    return failures[0]


def of(found: Diagnosis, name: StepName) -> DiagnosisStep:
    return next(step for step in found.steps if step.step is name)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """It is there, and says nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_until_worker_sees_it(edge: Edge) -> None:
    """An earlier test may have silenced the host."""
    deadline = time.monotonic() + 15
    while edge.fleet.store.fleet.hosts()[0].status is not HostStatus.OK:
        assert time.monotonic() < deadline, edge.fleet.last_log()
        edge.fleet.store.wait_for_change(0.2)


def worker_of(edge: Edge) -> int:
    return edge.fleet._workers[-1].pid


def test_what_works_is_seen_through_the_fleets_own_address(edge: Edge, desktop: Session) -> None:
    found = asked(edge, desktop)
    assert {step.state for step in found.steps} == {StepState.OK}, found
    assert "through the fleet's own address" in of(found, StepName.WEBSOCKET).what
    assert "16x16 pixels" in of(found, StepName.FIRST_FRAME).what
    assert found.summary.startswith("Everything works")


def test_steps_come_one_by_one_through_the_edge(edge: Edge, desktop: Session) -> None:
    headers = {"Authorization": f"Bearer {KEY.text}", "Accept": "application/x-ndjson"}
    url = f"{edge.url}/api/v1/sessions/{desktop.id}/diagnosis"
    with httpx.stream("GET", url, headers=headers, timeout=20, trust_env=False) as answer:
        lines = answer.iter_lines()
        assert DiagnosisStep.model_validate_json(next(lines)).step is StepName.ROW
        *_, last = lines
    assert Diagnosis.model_validate_json(last).ok


def test_command_line_says_the_same(
    edge: Edge, desktop: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DESKFLEET_URL", edge.url)
    monkeypatch.setenv("DESKFLEET_KEY", KEY.text)
    assert run(["diagnose", desktop.id]) == 0
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines()[1:9]] == ["ok"] * 8
    monkeypatch.setenv("DESKFLEET_KEY", OTHER_KEY.text)
    assert run(["diagnose", desktop.id]) == 1
    assert "nothing here" in capsys.readouterr().err


def test_host_tells_the_versions_of_its_programs_and_its_containers(edge: Edge, desktop: Session) -> None:
    deadline = time.monotonic() + 30
    while (report := edge.fleet.store.fleet.hosts()[0].report) is None:
        assert time.monotonic() < deadline, edge.fleet.last_log()
        time.sleep(0.2)
    assert (report.relay_version, report.hostwatch_version) == (__version__, __version__)
    assert re.fullmatch(r"\d+\.\d+.*", report.opensandbox_version or "")
    assert report.containers is not None


def test_blank_screen_fails_at_the_picture(edge: Edge) -> None:
    found = asked(edge, running(edge, "blank"))
    assert re.search(r"of one colour \((black|white|#\w{6})\)", failed(found, StepName.FIRST_FRAME).what)
    assert of(found, StepName.WEBSOCKET).state is StepState.OK


def test_silent_relay_fails_at_the_relay(edge: Edge, desktop: Session, relay: RelayProcess) -> None:
    with stopped(relay.process.pid):
        found = asked(edge, desktop)
    assert "systemctl restart deskfleet-relay" in (failed(found, StepName.RELAY).mend or "")
    assert of(found, StepName.VNC_PORT).state is StepState.OK


def test_silent_host_fails_at_the_host(edge: Edge, desktop: Session, server: RealOpenSandbox) -> None:
    with stopped(server.pid):
        found = asked(edge, desktop)
    assert "the machine and its network" in (failed(found, StepName.HOST).mend or "")
    assert of(found, StepName.AUTHORISATION).state is StepState.OK


def test_stopped_server_says_its_address_to_the_fleets_admins_alone(
    edge: Edge, desktop: Session, server: RealOpenSandbox, fleet_key: str
) -> None:
    server.stop()
    try:
        shown, whole = asked(edge, desktop), asked(edge, desktop, fleet_key)
    finally:
        server.start()
    assert server.url not in shown.model_dump_json()
    assert server.url in failed(whole, StepName.HOST).what


def test_draining_host_is_a_note(edge: Edge, desktop: Session) -> None:
    wait_until_worker_sees_it(edge)
    edge.fleet.store.fleet.drain("here", is_draining=True)
    try:
        found = asked(edge, desktop)
    finally:
        edge.fleet.store.fleet.drain("here", is_draining=False)
    assert found.ok
    assert of(found, StepName.HOST).state is StepState.WARN
    assert "draining" in found.summary


def test_key_that_may_not_open_desktops_fails_at_the_authorisation(edge: Edge, desktop: Session) -> None:
    key = edge.fleet.store.accounts.add_key("main", Role.OPERATOR, scopes=[Scope.SESSIONS])
    found = asked(edge, desktop, key.text)
    assert "scope `streams`" in failed(found, StepName.AUTHORISATION).what
    assert of(found, StepName.FIRST_FRAME).state is StepState.OK


def test_blocked_port_fails_at_the_port(edge: Edge, desktop: Session, server: RealOpenSandbox) -> None:
    rule = ["PREROUTING", "-p", "tcp", "--dport", str(edge.fleet.get(desktop).vnc_port), "-j", "DROP"]
    subprocess.run(server.daemon.enter("iptables", "-t", "raw", "-I", *rule), check=True)
    try:
        found = asked(edge, desktop)
    finally:
        subprocess.run(server.daemon.enter("iptables", "-t", "raw", "-D", *rule), check=True)
    assert "firewall" in (failed(found, StepName.VNC_PORT).mend or "")


def test_killed_vnc_server_fails_at_the_port(edge: Edge, server: RealOpenSandbox) -> None:
    session = running(edge, "frail")
    container = server.container_of(session.sandbox_id or "")
    top = server.daemon.docker("top", container, "-eo", "pid,args").stdout.splitlines()
    for line in top:
        if "nc -ll" in line and "sh -c" not in line:
            os.kill(int(line.split()[0]), signal.SIGKILL)
    found = asked(edge, session)
    assert "Its VNC server has ended" in (failed(found, StepName.VNC_PORT).mend or "")
    assert of(found, StepName.CONTAINER).state is StepState.OK


def test_stopped_container_fails_at_the_container(edge: Edge, server: RealOpenSandbox) -> None:
    session = running(edge, "tiny")
    with stopped(worker_of(edge)):  # or else it ends the session before it is asked
        server.daemon.docker("kill", server.container_of(session.sandbox_id or ""))
        found = asked(edge, session)
        assert "with code 137" in failed(found, StepName.CONTAINER).what
        server.daemon.docker("rm", server.container_of(session.sandbox_id or ""))
        found = asked(edge, session)
        assert "no container" in failed(found, StepName.CONTAINER).what
    ended = edge.fleet.wait_for(session, Status.ERROR, Status.TERMINATED)
    assert ended.status.is_terminal
    assert "Create another" in (failed(asked(edge, session), StepName.ROW).mend or "")


def test_where_the_control_host_does_not_reach_the_edge_the_relay_is_asked(
    edge: Edge, desktop: Session
) -> None:
    with stopped(edge.caddy.pid):
        found = asked(edge, desktop, url=f"http://{edge.fleet.settings.listen}")
    assert found.ok
    assert "at the relay" in of(found, StepName.WEBSOCKET).what
    assert "The control host does not get to" in of(found, StepName.WEBSOCKET).what
