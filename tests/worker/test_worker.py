"""The worker against a real opensandbox-server, a real Docker, a real relay and the real store.

Stand-ins, by name: the sandboxes are busybox with a canned RFB server where a desktop would be.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from pydantic import SecretStr

from tests.canaries import assert_nowhere
from tests.hostwatch_process import running_hostwatch
from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import RelayProcess, free_port
from tests.worker.fleet import CannedSocketDesktop, Fleet, LossyWire
from viewer import reconcile
from viewer.chores import Chores
from viewer.credentials import seal_order
from viewer.grants import GRANT_HEADER, Grant, PublishedPort, seal_grant
from viewer.lifecycle import Lifecycle
from viewer.model import HostStatus, Role, Session, Status, utcnow
from viewer.order import Order
from viewer.relay.answers import ProbeOutcome
from viewer.sandbox_hosts import SandboxHost, SandboxOrder, Stamp
from viewer.worker import HostWatch

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


def running_one(fleet: Fleet, image: str = "tiny", **more: Any) -> Session:
    """A session that a worker has brought up."""
    fleet.start()
    return fleet.wait_for(fleet.create(image, **more), Status.RUNNING)


# --- coming up ------------------------------------------------------------------------------------------


def test_created_session_runs_with_its_container_once_a_frame_was_seen(fleet: Fleet) -> None:
    fleet.start()
    time.sleep(1)
    created = fleet.create()
    row = fleet.wait_for(created, Status.RUNNING)
    assert row.host == "here"
    assert row.status_reason is None
    assert row.vnc_port is not None
    assert fleet.containers() == [row.sandbox_id]
    reasons = [event.session.status_reason for event in fleet.main.events_after(0)]
    assert "starting" in reasons
    assert "waiting for the first frame" in reasons


def test_host_keeps_a_sandbox_longer_than_the_table_says(fleet: Fleet) -> None:
    row = running_one(fleet)
    sandbox = fleet.link.sandboxes.get(row.sandbox_id or "")
    assert sandbox is not None
    assert sandbox.expires_at is not None
    assert row.expires_at is not None
    assert abs((sandbox.expires_at - row.expires_at - reconcile.HOST_GRACE).total_seconds()) < 5


def test_blank_screen_runs_and_says_so(fleet: Fleet) -> None:
    fleet.start()
    row = fleet.wait_for(fleet.create("blank"), Status.RUNNING)
    assert row.status_reason == "blank"


def test_image_without_a_display_runs_when_its_container_does(fleet: Fleet) -> None:
    fleet.start()
    row = fleet.wait_for(fleet.create("shell"), Status.RUNNING)
    assert row.vnc_port is None


def test_missing_image_is_one_sentence_and_leaves_nothing(fleet: Fleet) -> None:
    fleet.start()
    row = fleet.wait_for(fleet.create("missing"), Status.ERROR)
    assert row.error_message is not None
    assert row.error_message.startswith("sandbox host here lacks the image and cannot pull it: ")
    assert fleet.containers() == []


def test_limits_that_the_host_cannot_read_are_one_sentence(fleet: Fleet) -> None:
    fleet.start()
    row = fleet.wait_for(fleet.create("greedy"), Status.ERROR)
    assert row.error_message is not None
    assert "the container does not start on sandbox host here" in row.error_message


def test_container_that_dies_while_it_starts_is_an_error_with_its_last_words(fleet: Fleet) -> None:
    fleet.start()
    row = fleet.wait_for(fleet.create("broken"), Status.ERROR)
    assert row.error_message == ("Sandbox container exited with code 3; it said last: the screen is on fire")
    fleet.wait_for_containers([])


def test_full_host_refuses_with_how_full_it_is(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    with Fleet(tmp_path, server, relay, max_desktops=1) as fleet:
        running_one(fleet)
        refused = fleet.wait_for(fleet.create(may_queue=False), Status.ERROR)
        assert refused.error_message == "no sandbox host has room: 1 of 1 desktops in use on here"
        assert refused.status_reason == "full"


def test_session_waits_in_line_until_there_is_room(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    with Fleet(tmp_path, server, relay, max_desktops=1) as fleet:
        first = running_one(fleet)
        second, third = fleet.create(), fleet.create()
        fleet.wait_until(third, lambda row: row.status_reason == "queued")
        assert fleet.store.fleet.queue() == {second.id: 1, third.id: 2}
        fleet.main.request_termination(first.id)
        fleet.wait_for(second, Status.RUNNING)
        assert fleet.get(third).host is None
        fleet.main.request_termination(third.id)
        assert fleet.wait_for(third, Status.TERMINATED).status_reason == "on request"


def test_line_that_nothing_leaves_is_given_up(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    with Fleet(tmp_path, server, relay, max_desktops=1, queue_seconds=3) as fleet:
        running_one(fleet)
        refused = fleet.wait_for(fleet.create(), Status.ERROR)
        assert refused.error_message == "no sandbox host has room within 3 s; end some desktops"
        assert refused.status_reason == "full"


def test_pause_and_resume_are_carried_out_on_the_host(fleet: Fleet) -> None:
    row = running_one(fleet)
    container = fleet.server.container_of(row.sandbox_id or "")
    for wanted, paused in ((Status.PAUSED, "true"), (Status.RUNNING, "false")):
        fleet.main.request_status(row.id, wanted, by="key")
        fleet.wait_for(row, wanted)
        seen = fleet.server.daemon.docker("inspect", "-f", "{{.State.Paused}}", container).stdout.strip()
        assert seen == paused
    assert [step.status for step in fleet.main.history(row.id)][-1] is Status.RUNNING


def test_session_that_nobody_uses_ends(fleet: Fleet) -> None:
    row = running_one(fleet, idle_seconds=2)
    ended = fleet.wait_for(row, Status.TERMINATED)
    assert ended.status_reason == "idle"
    assert fleet.containers() == []


def test_environment_limits_and_program_reach_the_container(fleet: Fleet) -> None:
    order = Order(env={"GREETING": "hello"}, entrypoint=("sleep", "999"))
    sealed = seal_order(order, fleet.settings.secret_key)
    row = running_one(fleet, "shell", order_sealed=sealed, cpu_millis=500, memory_mib=64)
    container = fleet.server.container_of(row.sandbox_id or "")
    form = "{{json .Config.Env}} {{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{json .Config.Cmd}}"
    seen = fleet.server.daemon.docker("inspect", "-f", form, container).stdout
    assert '"GREETING=hello"' in seen
    assert " 500000000 67108864 " in seen
    assert '"sleep","999"' in seen


# --- the pool -------------------------------------------------------------------------------------------

POOL: list[dict[str, object]] = [
    {"image": "tiny", "resolution": "1280x800", "size": 2, "cpu": "10m", "memory": "64Mi"}
]
LIKE_THE_POOLS: dict[str, Any] = {"cpu_millis": 10, "memory_mib": 64}


def wait_for_warm(fleet: Fleet, size: int, *, without: str = "") -> list[Session]:
    """The pool's desktops once that many are ready, `without` not among them."""
    deadline = time.monotonic() + 20
    while True:
        ready = [row for row in fleet.store.fleet.warm() if row.status is Status.RUNNING]
        if len(ready) == size and without not in {row.id for row in ready}:
            return ready
        assert time.monotonic() < deadline, f"{len(ready)} warm\n{fleet.last_log()}"
        fleet.store.wait_for_change(0.1)


def test_pool_is_filled_claimed_and_filled_again(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    with Fleet(tmp_path, server, relay, pools=POOL) as fleet:
        fleet.start()
        ready = wait_for_warm(fleet, 2)
        claimed = fleet.main.create(fleet.new(**LIKE_THE_POOLS), may_be_warm=True).session
        assert (claimed.id, claimed.status) == (ready[0].id, Status.RUNNING)
        password = SecretStr(fleet.vnc_password_of(claimed))
        assert fleet.link.relay is not None
        seen = fleet.link.relay.probe(claimed.id, PublishedPort(port=claimed.vnc_port or 0), password)
        assert seen.result is ProbeOutcome.FRAME
        wait_for_warm(fleet, 2, without=claimed.id)
        fleet.server.daemon.docker("rm", "-f", fleet.server.container_of(claimed.sandbox_id or ""))
        assert fleet.wait_for(claimed, Status.TERMINATED).status_reason == "the container is gone"


def test_warm_desktop_that_dies_is_replaced_and_one_too_many_ends(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    with Fleet(tmp_path, server, relay, pools=POOL) as fleet:
        fleet.start()
        dead = wait_for_warm(fleet, 2)[0]
        fleet.server.daemon.docker("kill", fleet.server.container_of(dead.sandbox_id or ""))
        wait_for_warm(fleet, 2, without=dead.id)
        fleet.stop()
        fleet.set(pools=[{**POOL[0], "size": 1}])
        fleet.start()
        [left] = wait_for_warm(fleet, 1)
        fleet.wait_for_containers([left.sandbox_id or ""])


def test_who_is_there_comes_before_the_pool(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    with Fleet(tmp_path, server, relay, pools=POOL, max_desktops=2) as fleet:
        fleet.start()
        wait_for_warm(fleet, 2)
        fleet.wait_for(fleet.create("shell"), Status.RUNNING)
        assert len(fleet.store.fleet.warm()) == 1


def test_five_at_once_all_come_up(fleet: Fleet) -> None:
    fleet.start()
    rows = [fleet.create() for _ in range(5)]
    done = [fleet.wait_for(row, Status.RUNNING, seconds=40) for row in rows]
    assert sorted(fleet.containers()) == sorted(row.sandbox_id or "" for row in done)


def test_lost_answer_is_looked_up_and_never_doubled(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    wire = LossyWire(server.port)
    with Fleet(tmp_path, server, relay, url=wire.url) as fleet:
        wire.lose = 1
        row = running_one(fleet)
        assert wire.lose == 0
        assert fleet.containers() == [row.sandbox_id]
        assert "looking for the sandbox" in fleet.last_log()
    wire.close()


# --- ending ---------------------------------------------------------------------------------------------


def test_terminated_is_said_only_when_the_container_is_gone(fleet: Fleet) -> None:
    row = running_one(fleet)
    fleet.main.request_termination(row.id)
    ended = fleet.wait_for(row, Status.TERMINATED)
    assert fleet.containers() == []
    assert ended.status_reason == "on request"


@pytest.mark.parametrize("seconds", [0, 0.1, 0.3, 0.6])
def test_session_can_be_terminated_while_it_comes_up(fleet: Fleet, seconds: float) -> None:
    fleet.start()
    row = fleet.create()
    time.sleep(seconds)
    fleet.main.request_termination(row.id)
    fleet.wait_for(row, Status.TERMINATED)
    fleet.wait_for_containers([], seconds=1)


def test_session_ends_when_its_time_is_over(fleet: Fleet) -> None:
    fleet.start()
    ended = fleet.wait_for(fleet.create(ttl=4), Status.TERMINATED)
    assert ended.status_reason == "expired"
    assert fleet.containers() == []


async def _renewed_while_watched(fleet: Fleet, relay: RelayProcess, row: Session) -> Session:
    grant = Grant(
        purpose="stream",
        session_id=row.id,
        tenant_id=row.tenant_id,
        principal=f"key:{fleet.store.accounts.add_key(row.tenant_id, Role.WATCHER).id}",
        target=PublishedPort(port=row.vnc_port or 0),
        vnc_password=SecretStr(fleet.vnc_password_of(row)),
        expires_at=utcnow() + timedelta(minutes=1),
    )
    headers = {GRANT_HEADER: seal_grant(grant, relay.key)}
    async with (
        ClientSession() as http,
        http.ws_connect(f"{relay.url}/stream/{row.id}", headers=headers, protocols=["binary"]),
    ):
        return await asyncio.to_thread(fleet.wait_until, row, lambda now: now.expires_at != row.expires_at)


def test_watched_session_lives_on(fleet: Fleet, relay: RelayProcess) -> None:
    fleet.start()
    row = fleet.wait_for(fleet.create(ttl=10), Status.RUNNING)
    renewed = asyncio.run(_renewed_while_watched(fleet, relay, row))
    assert renewed.expires_at is not None
    assert row.expires_at is not None
    assert renewed.expires_at > row.expires_at
    fleet.wait_for(row, Status.TERMINATED, seconds=25)


def test_killed_container_is_an_error_and_a_removed_one_terminates(fleet: Fleet) -> None:
    fleet.start()
    killed, removed = fleet.create(), fleet.create()
    killed, removed = fleet.wait_for(killed, Status.RUNNING), fleet.wait_for(removed, Status.RUNNING)
    docker = fleet.server.daemon.docker
    docker("kill", fleet.server.container_of(killed.sandbox_id or ""))
    docker("rm", "--force", fleet.server.container_of(removed.sandbox_id or ""))
    failed = fleet.wait_for(killed, Status.ERROR)
    assert failed.error_message is not None
    assert "exited with code 137" in failed.error_message
    assert fleet.wait_for(removed, Status.TERMINATED).status_reason == "the container is gone"
    fleet.wait_for_containers([])


def test_hostwatch_has_a_container_that_dies_or_goes_noticed_within_two_seconds(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    """Without it a container must be missing from two polls, which lie more than two seconds apart."""
    port, docker = free_port(), server.daemon.docker
    with (
        Fleet(tmp_path, server, relay, hostwatch_url=f"http://127.0.0.1:{port}") as fleet,
        running_hostwatch(
            tmp_path, socket=server.daemon.socket, fleet_id=fleet.fleet_id, key=relay.key, port=port
        ),
    ):
        fleet.start()
        rows = [fleet.create(), fleet.create()]
        killed, removed = (fleet.wait_for(row, Status.RUNNING) for row in rows)
        assert "its events are being read" in fleet.log.read_text()
        time.sleep(1.5)  # what their starts have hurried is over
        docker("rm", "--force", fleet.server.container_of(removed.sandbox_id or ""))
        fleet.wait_for(removed, Status.TERMINATED, seconds=2)
        docker("kill", fleet.server.container_of(killed.sandbox_id or ""))
        failed = fleet.wait_for(killed, Status.ERROR, seconds=2)
        assert "exited with code 137" in (failed.error_message or "")
        fleet.wait_for_containers([])


def test_paused_container_is_shown_as_paused(fleet: Fleet) -> None:
    row = running_one(fleet)
    container = fleet.server.container_of(row.sandbox_id or "")
    fleet.server.daemon.docker("pause", container)
    fleet.wait_for(row, Status.PAUSED)
    fleet.server.daemon.docker("unpause", container)
    fleet.wait_for(row, Status.RUNNING)


# --- a silent host --------------------------------------------------------------------------------------


def test_host_that_is_down_is_unreachable_and_its_sessions_stay(fleet: Fleet) -> None:
    row = running_one(fleet)
    fleet.server.kill()
    try:
        _wait_for_host(fleet, HostStatus.UNREACHABLE, seconds=10)
        assert fleet.get(row).status is Status.RUNNING
        fleet.main.request_termination(row.id)
        refused = fleet.wait_for(fleet.create(), Status.ERROR, seconds=20)
        assert refused.status_reason == "unreachable"
        assert refused.error_message is not None
        waiting = fleet.get(row)
        assert (waiting.status, waiting.status_reason) == (Status.RUNNING, "terminating")
        assert "sandbox host here is unreachable: no connection to" in refused.error_message
    finally:
        fleet.server.start()
    _wait_for_host(fleet, HostStatus.OK, seconds=10)
    assert fleet.wait_for(row, Status.TERMINATED).status_reason == "on request"
    assert fleet.containers() == []


def test_server_that_hangs_is_unreachable_within_ten_seconds(fleet: Fleet) -> None:
    row = running_one(fleet)
    fleet.server.pause()
    try:
        _wait_for_host(fleet, HostStatus.UNREACHABLE, seconds=10)
    finally:
        fleet.server.go_on()
    _wait_for_host(fleet, HostStatus.OK, seconds=10)
    assert fleet.get(row).status is Status.RUNNING


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.4])
def test_server_killed_inside_a_create_leaves_one_container_or_none(fleet: Fleet, seconds: float) -> None:
    fleet.start()
    time.sleep(1)
    row = fleet.create()
    time.sleep(seconds)
    fleet.server.kill()
    fleet.server.start()
    row = fleet.wait_for(row, Status.RUNNING, Status.ERROR, seconds=40)
    assert row.status is Status.RUNNING, row.error_message
    fleet.wait_for_containers([row.sandbox_id or ""])


# --- strays ---------------------------------------------------------------------------------------------


def test_container_of_a_terminal_session_is_deleted(fleet: Fleet) -> None:
    row = running_one(fleet)
    fleet.store.fleet.transition(row.id, Status.ERROR, error_message="given up by the test")
    fleet.wait_for_containers([])
    assert fleet.get(row).error_message == "given up by the test"


def test_orphan_of_our_fleet_is_deleted_and_a_stranger_left_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "ORPHAN_GRACE", reconcile.HOST_GRACE * 0)
    host = fleet.link.sandboxes
    orphan = host.create(_order(fleet.settings.fleet_id))
    stranger = host.create(_order("f-of-others"))
    policy = reconcile.Policy(
        fleet_id=fleet.fleet_id, create_deadline=reconcile.HOST_GRACE, max_lifetime=reconcile.HOST_GRACE
    )
    chores = Chores()
    lifecycle = Lifecycle(fleet.store.fleet, fleet.settings, {"here": fleet.link})
    watch = HostWatch(fleet.link, fleet.store, lifecycle, chores, policy)
    watch.look()
    chores.wait(10)
    assert host.get(orphan.id) is None
    assert host.get(stranger.id) is not None


def _order(fleet_id: str) -> SandboxOrder:
    return SandboxOrder(
        image_uri="deskfleet-test/tiny:latest",
        entrypoint=["sleep", "1000"],
        cpu="500m",
        memory="64Mi",
        timeout_seconds=120,
        resolution=None,
        vnc_password=None,
        stamp=Stamp(fleet=fleet_id, request_id="nobodys", tenant_id="main", session_id="none"),
    )


# --- crashes of the worker ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_worker_killed_at_any_moment_is_followed_by_one_that_finishes_its_work(
    fleet: Fleet, seed: int
) -> None:
    """Creates and terminations, the worker killed three times each at moments that the seed chooses."""
    chance = random.Random(seed)
    rows = [fleet.create() for _ in range(3)]
    _work_through_kills(fleet, chance)
    done = [fleet.wait_for(row, Status.RUNNING, seconds=30) for row in rows]
    fleet.wait_for_containers([row.sandbox_id or "" for row in done])
    for row in rows:
        fleet.main.request_termination(row.id)
    _work_through_kills(fleet, chance)
    for row in rows:
        fleet.wait_for(row, Status.TERMINATED, seconds=30)
    fleet.wait_for_containers([])


def _work_through_kills(fleet: Fleet, chance: random.Random) -> None:
    for _ in range(3):
        fleet.start()
        time.sleep(chance.uniform(0.4, 2.5))  # its imports take the first half second
        fleet.kill()
    fleet.start()


def test_second_worker_waits_until_the_first_is_gone(fleet: Fleet) -> None:
    running_one(fleet)
    fleet.start()
    deadline = time.monotonic() + 20
    while "another worker is acting" not in fleet.last_log():
        assert time.monotonic() < deadline, fleet.last_log()
        time.sleep(0.1)
    fleet._workers[0].kill()
    fleet.wait_for(fleet.create(), Status.RUNNING)


def test_worker_ends_cleanly_and_its_log_holds_no_secret(fleet: Fleet) -> None:
    session = running_one(fleet)
    password = fleet.vnc_password_of(session)
    assert fleet.stop() == 0
    log = fleet.log.read_text()
    assert "stopped" in log
    assert "Traceback" not in log
    secrets = {
        name: (fleet.folder / name).read_text() for name in ("viewer.key", "opensandbox.key", "relay.key")
    }
    assert_nowhere([fleet.log, fleet.folder / "metrics"], {**secrets, "VNC password": password})
    about = [line for line in map(json.loads, log.splitlines()) if line.get("session_id") == session.id]
    assert {(line["request_id"], line["tenant"]) for line in about} == {(session.request_id, "main")}


# --- persistent desktops --------------------------------------------------------------------------------


def test_declared_desktop_runs_while_it_answers_and_ends_when_it_is_no_longer_declared(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    studio = {
        "name": "studio", "tenant": "main", "host": "here", "backend": "tigervnc", "resolution": "1280x800"
    }  # fmt: skip
    desktop = CannedSocketDesktop(relay.desktops_dir / "studio" / "rfb.sock")
    with Fleet(tmp_path, server, relay, desktops=[studio]) as fleet:
        fleet.start()
        row = _wait_for_desktop(fleet)
        assert row.status is Status.CREATING
        desktop.on()
        fleet.wait_for(row, Status.RUNNING)
        desktop.off()
        failed = fleet.wait_for(row, Status.ERROR, seconds=45)
        assert failed.error_message is not None
        assert failed.error_message.startswith("the desktop studio stopped answering")
        desktop.on()
        back = _wait_for_desktop(fleet, other_than=row)
        fleet.wait_for(back, Status.RUNNING, seconds=30)
        fleet.stop()
        fleet.settings_file.write_text(
            "\n".join(line for line in fleet.settings_file.read_text().splitlines() if "studio" not in line)
        )
        fleet.start()
        fleet.wait_for(back, Status.TERMINATED)
    desktop.off()


def _wait_for_desktop(fleet: Fleet, *, other_than: Session | None = None) -> Session:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for row in fleet.store.fleet.live_sessions():
            if row.image == "tigervnc" and (other_than is None or row.id != other_than.id):
                return row
        time.sleep(0.1)
    raise AssertionError(fleet.last_log())


def _wait_for_host(fleet: Fleet, status: HostStatus, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while [host.status for host in fleet.store.fleet.hosts()] != [status]:
        assert time.monotonic() < deadline, fleet.last_log()
        time.sleep(0.1)


def test_bad_settings_are_one_sentence_and_exit_code_two(tmp_path: Path) -> None:
    (tmp_path / "viewer.toml").write_text('fleet_id = "f-1"\nfleed = 1\n')
    done = subprocess.run(
        [sys.executable, "-m", "viewer.worker"],
        env={"DESKFLEET_SETTINGS": str(tmp_path / "viewer.toml")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"deskfleet-worker: {tmp_path}/viewer.toml: ")
    assert done.stderr.count("\n") == 1


def test_database_that_cannot_be_opened_is_one_sentence_and_exit_code_two(fleet: Fleet) -> None:
    text = fleet.settings_file.read_text()
    fleet.settings_file.write_text(text.replace("/deskfleet.db", "/nowhere/deskfleet.db"))
    assert fleet.start().wait(timeout=20) == 2
    assert "deskfleet.db cannot be used" in fleet.last_log()
    assert "Traceback" not in fleet.last_log()


def test_host_client_is_closed_with_its_connections(server: RealOpenSandbox) -> None:
    host = SandboxHost("here", url=server.url, key=server.key, fleet_id="f-1")
    assert host.version() == "1.1.1"
    host.close()
