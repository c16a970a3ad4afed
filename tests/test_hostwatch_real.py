"""Hostwatch as a process against a real dockerd with busybox containers."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.hosts.own_docker import OwnDocker, kill_dockerd, own_dockerd, start_dockerd
from tests.hostwatch_process import HostwatchProcess, running_hostwatch
from tests.real_opensandbox import TINY_IMAGE, import_tiny_images
from viewer import __version__
from viewer.grants import GRANT_HEADER, Grant, seal_grant
from viewer.hostwatch.answers import MOST_LOG_BYTES, ContainerEvent, Heartbeat
from viewer.hostwatch_client import HostwatchClient, HostwatchUnreachable
from viewer.model import utcnow

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

FLEET = "f-0123456789ab"
KEY = Fernet.generate_key()


@pytest.fixture(scope="module")
def daemon() -> Iterator[OwnDocker]:
    with own_dockerd("hostwatch") as running:
        import_tiny_images(running)
        yield running


@pytest.fixture(scope="module")
def hostwatch(daemon: OwnDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostwatchProcess]:
    folder = tmp_path_factory.mktemp("hostwatch")
    with running_hostwatch(
        folder, socket=daemon.socket, fleet_id=FLEET, key=KEY, heartbeat_seconds=1
    ) as running:
        yield running


@pytest.fixture
def client(daemon: OwnDocker, hostwatch: HostwatchProcess) -> Iterator[HostwatchClient]:
    with hostwatch.client() as ready:
        yield ready
    for container in daemon.docker("ps", "-aq").stdout.split():
        daemon.docker("rm", "--force", container)


def start(daemon: OwnDocker, sandbox_id: str, script: str = "sleep 1000", *, fleet: str = FLEET) -> str:
    """A container as the OpenSandbox server of our fleet makes them; the container's own id."""
    labels = [f"--label=opensandbox.io/id={sandbox_id}", f"--label=deskfleet.fleet={fleet}"]
    return daemon.docker("run", "-d", *labels, TINY_IMAGE, "/bin/sh", "-c", script).stdout.strip()


def start_strangers(daemon: OwnDocker) -> None:
    start(daemon, "box-9", "echo a secret of theirs; exit 3", fleet="f-another")
    for label in ("opensandbox.io/id=box-8", f"deskfleet.fleet={FLEET}", "x=y"):
        daemon.docker("run", "-d", f"--label={label}", TINY_IMAGE, "/bin/sh", "-c", "echo a secret; exit 3")


class Listening:
    """Reads events in a thread; each with the moment at which it was heard."""

    def __init__(self, client: HostwatchClient) -> None:
        self.heard: queue.Queue[ContainerEvent] = queue.Queue()
        self.began = threading.Event()
        self.end: HostwatchUnreachable | None = None
        self.thread = threading.Thread(target=self._read, args=(client,), daemon=True)
        self.thread.start()

    def _read(self, client: HostwatchClient) -> None:
        try:
            for line in client.events():
                if isinstance(line, Heartbeat):
                    self.began.set()
                else:
                    self.heard.put(line)
        except HostwatchUnreachable as problem:
            self.end = problem

    def wait_for(self, action: str, *, seconds: float = 5) -> ContainerEvent:
        """The next event of that action; the ones before it are passed over."""
        deadline = time.monotonic() + seconds
        while True:
            event = self.heard.get(timeout=max(0.01, deadline - time.monotonic()))
            if event.action == action:
                return event


@contextmanager
def listening(hostwatch: HostwatchProcess) -> Iterator[Listening]:
    """Once it is heard. A Docker that has just started may end its events again; the worker, too, asks
    again then."""
    deadline = time.monotonic() + 10
    with hostwatch.client() as own:
        reader = Listening(own)
        while not reader.began.wait(0.2):
            assert time.monotonic() < deadline, reader.end
            reader = Listening(own) if reader.end is not None else reader
        yield reader


def wait_until(reached: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(client: HostwatchClient) -> bool:
    try:
        client.containers()
    except HostwatchUnreachable:
        return False
    return True


def test_events_of_ours_arrive_within_a_second_and_no_others_do(
    daemon: OwnDocker, hostwatch: HostwatchProcess, client: HostwatchClient
) -> None:
    with listening(hostwatch) as reader:
        start_strangers(daemon)
        container = start(daemon, "box-1")
        first = reader.heard.get(timeout=5)
        assert (first.sandbox_id, first.action) == ("box-1", "create")
        reader.wait_for("start")
        daemon.docker("pause", container)
        reader.wait_for("pause")
        daemon.docker("unpause", container)
        reader.wait_for("unpause")
        daemon.docker("kill", container)
        done = time.monotonic()
        reader.wait_for("kill")
        died = reader.wait_for("die")
        assert time.monotonic() - done < 1
        assert (died.sandbox_id, died.exit_code) == ("box-1", 137)
        assert abs(utcnow() - died.at) < timedelta(seconds=5)
        daemon.docker("rm", container)
        reader.wait_for("destroy", seconds=1)
        assert reader.heard.empty()


def test_states_are_ours_alone(daemon: OwnDocker, client: HostwatchClient) -> None:
    start_strangers(daemon)
    start(daemon, "box-1", "sleep 0.2; exit 3")  # one that ends at once may end before Docker says it began
    daemon.docker("pause", start(daemon, "box-2"))
    wait_until(lambda: client.containers().containers[-1].state == "exited")
    listed = client.containers()
    assert [(one.sandbox_id, one.state, one.exit_code) for one in listed.containers] == [
        ("box-2", "paused", None),
        ("box-1", "exited", 3),
    ]
    assert listed.left_off == 0
    paused, exited = listed.containers
    assert paused.started_at is not None
    assert paused.finished_at is None
    assert exited.started_at is not None
    assert exited.finished_at is not None
    assert exited.finished_at >= exited.started_at


def test_log_is_bounded_clean_and_ours_alone(daemon: OwnDocker, client: HostwatchClient) -> None:
    start_strangers(daemon)
    line = "exec 1>&2; x=0123456789; x=$x$x$x$x$x; x=$x$x$x$x; i=0"
    script = f"{line}; while [ $i -lt 600 ]; do echo $i $x; i=$((i+1)); done; echo '\x1b[1mthe end\x07'"
    start(daemon, "box-1", script)
    wait_until(lambda: client.log_tail("box-1", 1) == ["the end"])
    said = client.log_tail("box-1", 500)
    assert 250 < len(said) < 500
    assert sum(len(line.encode()) + 1 for line in said) <= MOST_LOG_BYTES
    assert not any(ord(letter) < 32 for line in said for letter in line)
    assert client.log_tail("box-1", 2)[-1] == "the end"
    for foreign in ("box-9", "box-8", "box-7", ""):
        assert client.log_tail(foreign) == []
    with pytest.raises(HostwatchUnreachable, match="lines: must be a whole number from 1 to 500"):
        client.log_tail("box-1", 501)


def test_log_of_a_terminal_is_read_as_well(daemon: OwnDocker, client: HostwatchClient) -> None:
    labels = ["--label=opensandbox.io/id=box-1", f"--label=deskfleet.fleet={FLEET}"]
    daemon.docker("run", "-dt", *labels, TINY_IMAGE, "/bin/sh", "-c", "echo to a terminal; exit 1")
    wait_until(lambda: client.log_tail("box-1") == ["to a terminal"])


def test_host_says_how_it_is_doing(daemon: OwnDocker, client: HostwatchClient) -> None:
    report = client.host()
    assert TINY_IMAGE in report.image_tags
    assert report.docker_version == daemon.docker("version", "-f", "{{.Server.Version}}").stdout.strip()
    assert 0 < report.memory_available < report.memory_total
    assert 0 < report.disk_free < report.disk_total
    assert report.cpus >= 1
    assert report.load_1m >= 0
    assert report.hostwatch_version == __version__


def test_one_container_is_told_of_and_all_are_counted(daemon: OwnDocker, client: HostwatchClient) -> None:
    start(daemon, "box-1")
    start(daemon, "box-2", "exit 3")
    start(daemon, "box-9", fleet="f-another")
    wait_until(lambda: (state := client.container("box-2")) is not None and state.exit_code == 3)
    running = client.container("box-1")
    assert running is not None
    assert running.state == "running"
    assert client.container("box-9") is None
    assert client.container("../box-1") is None
    counts = client.host().containers
    assert counts is not None
    assert (counts.running, counts.ended) == (1, 1)


def test_docker_killed_and_started_again(
    daemon: OwnDocker, hostwatch: HostwatchProcess, client: HostwatchClient
) -> None:
    with listening(hostwatch) as reader:
        kill_dockerd(daemon)
        try:
            reader.thread.join(5)
            assert "hostwatch of host here has no events: Docker " in str(reader.end)
            for question in (client.host, client.containers):
                with pytest.raises(HostwatchUnreachable, match="is the daemon running"):
                    question()
            with pytest.raises(HostwatchUnreachable, match="hostwatch of host here refused: Docker "):
                list(client.events())
        finally:
            start_dockerd(daemon)
    wait_until(lambda: answers(client))
    with listening(hostwatch) as again:
        start(daemon, "box-1")
        assert again.wait_for("start").sandbox_id == "box-1"
    assert hostwatch.process.poll() is None
    assert "Traceback" not in hostwatch.log.read_text()


def test_no_more_read_events_than_may_and_who_hangs_up_makes_room(
    daemon: OwnDocker, hostwatch: HostwatchProcess, client: HostwatchClient
) -> None:
    grant = Grant(purpose="hostwatch", expires_at=utcnow() + timedelta(seconds=30))
    ask = f"GET /hostwatch/events HTTP/1.1\r\nHost: x\r\n{GRANT_HEADER}: {seal_grant(grant, KEY)}\r\n\r\n"
    port = int(hostwatch.url.rpartition(":")[2])
    stuck = [socket.socket() for _ in range(16)]
    try:
        for one in stuck:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            one.connect(("127.0.0.1", port))
            one.sendall(ask.encode())
        wait_until(lambda: all(one.recv(12, socket.MSG_PEEK) for one in stuck))
        with pytest.raises(HostwatchUnreachable, match="too many read events already"):
            next(client.events())
    finally:
        for one in stuck:
            one.close()
    # Whoever hangs up makes room.
    wait_until(lambda: _can_listen(client))


def _can_listen(client: HostwatchClient) -> bool:
    events = client.events()
    try:
        return isinstance(next(events), Heartbeat)
    except HostwatchUnreachable:
        return False
    finally:
        events.close()


def test_stream_asks_to_be_opened_anew_before_it_is_endless(daemon: OwnDocker, tmp_path: Path) -> None:
    with (
        running_hostwatch(
            tmp_path,
            socket=daemon.socket,
            fleet_id=FLEET,
            key=KEY,
            max_stream_seconds=1,
            heartbeat_seconds=0.2,
        ) as brief,
        brief.client() as client,
    ):
        wait_until(lambda: _can_listen(client))
        lines = list(client.events())
        assert 3 <= len(lines) <= 7
        assert all(isinstance(line, Heartbeat) for line in lines)
