"""Hostwatch without a Docker: who may ask, what is ours, what is bounded; and what the worker makes of it.

tests/test_hostwatch_real.py has the real Docker.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from cryptography.fernet import Fernet

from tests.relay_process import free_port
from tests.test_sandbox_hosts import Answer, FaultyHost, page
from viewer import logs
from viewer.grants import GRANT_HEADER, Grant, seal_grant
from viewer.host_events import HostEvents, HostReports, last_lines
from viewer.hostwatch.answers import (
    MOST_LOG_BYTES,
    ContainerEvent,
    Heartbeat,
    HostReport,
    StreamEnd,
)
from viewer.hostwatch.app import Hostwatch
from viewer.hostwatch.feed import QUEUE, Reader
from viewer.hostwatch.main import main
from viewer.hostwatch.own_containers import ReadOnlyClient, _tail_of, event_of, plain
from viewer.hostwatch.settings import SETTINGS_VARIABLE, Settings
from viewer.hostwatch_client import HostwatchClient, HostwatchUnreachable
from viewer.model import utcnow
from viewer.relay.answers import RelayProblem
from viewer.sandbox_hosts import SandboxHost
from viewer.settings import Settings as ViewerSettings
from viewer.store import Store
from viewer.worker import HostWatch, Worker

KEY, OTHER_KEY = Fernet.generate_key(), Fernet.generate_key()
FLEET = "f-0123456789ab"


def hostwatch_settings(folder: Path, **changes: Any) -> Settings:
    return Settings.model_validate(
        {
            "listen": "127.0.0.1:8050",
            "key_file": folder / "key",
            "fleet_id": FLEET,
            "docker_socket": folder / "no-docker.sock",
            **changes,
        }
    )


# --- who may ask ---------------------------------------------------------------------------------


def header(purpose: str = "hostwatch", *, key: bytes = KEY, seconds: float = 30) -> dict[str, str]:
    grant = Grant.model_validate({"purpose": purpose, "expires_at": utcnow() + timedelta(seconds=seconds)})
    return {GRANT_HEADER: seal_grant(grant, key)}


def credentials() -> list[dict[str, str]]:
    """None, forged, another host's, for streams, expired, good."""
    return [
        {},
        {GRANT_HEADER: "gAAAAAB" + "x" * 90},
        header(key=OTHER_KEY),
        header("manage"),
        header(seconds=-1),
        header(),
    ]


# In the order of the credentials; Docker is away, so the good one learns that.
TABLE = {
    "GET /hostwatch/events": "403 403 403 403 403 503",
    "GET /hostwatch/containers": "403 403 403 403 403 503",
    "GET /hostwatch/containers/{sandbox_id}": "403 403 403 403 403 503",
    "GET /hostwatch/containers/{sandbox_id}/log": "403 403 403 403 403 503",
    "GET /hostwatch/host": "403 403 403 403 403 503",
}
BEYOND_THE_TABLE = {
    "GET /hostwatch/nothing": "403 403 403 403 403 404",
    "POST /hostwatch/host": "403 403 403 403 403 405",
    "GET /hostwatch/containers/x/log?lines=0": "403 403 403 403 403 400",
    "GET /hostwatch/containers/x/log?lines=501": "403 403 403 403 403 400",
    "GET /hostwatch/containers/x/log?lines=%2B5": "403 403 403 403 403 400",
    # It is only ever compared with a label, and this one cannot be any: Docker is not asked.
    "GET /hostwatch/containers/a%20b/log": "403 403 403 403 403 404",
    "GET /hostwatch/containers/..%2F..%2Fevents/log": "403 403 403 403 403 404",
}


def with_hostwatch(
    folder: Path, body: Callable[[ClientSession, Hostwatch], Coroutine[Any, Any, None]]
) -> None:
    """Run `body` with a client of a hostwatch whose Docker is away."""

    async def run() -> None:
        hostwatch = Hostwatch(hostwatch_settings(folder), KEY)
        runner = web.AppRunner(hostwatch.app())
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        hostwatch.feed.start()
        try:
            async with ClientSession(f"http://127.0.0.1:{port}") as client:
                await body(client, hostwatch)
        finally:
            await hostwatch.close()
            await runner.cleanup()

    asyncio.run(run())


def test_every_route_is_open_to_the_control_plane_alone(tmp_path: Path) -> None:
    async def body(client: ClientSession, hostwatch: Hostwatch) -> None:
        routes = {
            f"{route.method} {route.resource.canonical}"
            for route in hostwatch.app().router.routes()
            if route.resource is not None
        }
        assert routes == set(TABLE)
        got = {}
        for route in {**TABLE, **BEYOND_THE_TABLE}:
            method, _, path = route.partition(" ")
            answers = []
            for shown in credentials():
                async with client.request(method, path.format(sandbox_id="x"), headers=shown) as answer:
                    answers.append(str(answer.status))
                    problem = RelayProblem.model_validate_json(await answer.read())
                    assert problem.detail
                    assert "\n" not in problem.detail
            got[route] = " ".join(answers)
        assert got == {**TABLE, **BEYOND_THE_TABLE}

    with_hostwatch(tmp_path, body)


def test_docker_that_is_away_is_one_sentence_everywhere(tmp_path: Path) -> None:
    async def body(client: ClientSession, _: Hostwatch) -> None:
        await asyncio.sleep(0.2)
        for path in ("/hostwatch/events", "/hostwatch/host", "/hostwatch/containers"):
            async with client.get(path, headers=header()) as answer:
                problem = RelayProblem.model_validate_json(await answer.read())
            assert problem.detail == "Docker does not answer at its socket; is the daemon running?"

    with_hostwatch(tmp_path, body)


def test_whatever_changes_something_is_refused_before_it_reaches_docker(tmp_path: Path) -> None:
    client = ReadOnlyClient(base_url=f"unix://{tmp_path}/no-docker.sock", version="1.44")
    for change in (
        lambda: client.stop("x"),
        lambda: client.remove_container("x"),
        lambda: client.exec_create("x", "true"),
        lambda: client.create_container("x"),
        lambda: client.pull("x"),
    ):
        with pytest.raises(PermissionError, match="hostwatch only reads"):
            change()
    client.close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("listen = ", "is not TOML"),
        (
            'listen = "127.0.0.1:8050"\nkey_file = "k"\nfleet_id = "f"\nkey_fil = "k"',
            "did you mean 'key_file'?",
        ),
        (
            'listen = "localhost:8050"\nkey_file = "{key}"\nfleet_id = "f"',
            "listen: string should match pattern",
        ),
        (
            'listen = "127.0.0.1:8050"\nkey_file = "{key}"\nfleet_id = "f"\nheartbeat_seconds = 6',
            "heartbeat_seconds: input should be less than or equal to 5",
        ),
        ('listen = "127.0.0.1:8050"\nkey_file = "{key}"\nfleet_id = "f"', "is not a key of 32 bytes"),
    ],
)
def test_bad_settings_end_it_with_one_sentence(
    text: str | None,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "hostwatch.toml"
    monkeypatch.setenv(SETTINGS_VARIABLE, str(file))
    # This process's log, hooks and warnings stay as pytest wants them.
    monkeypatch.setattr(logs, "set_up", lambda program: None)
    (tmp_path / "key").write_text("a secret that is no key")
    if text is not None:
        file.write_text(text.replace("{key}", str(tmp_path / "key")))
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("deskfleet-hostwatch: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert "a secret" not in said


# --- what is ours ----------------------------------------------------------------------------------


def said(action: str = "start", **labels: str) -> dict[str, object]:
    ours = {"deskfleet.fleet": FLEET, "opensandbox.io/id": "box-1", **labels}
    return {"Type": "container", "Action": action, "Actor": {"ID": "c0", "Attributes": ours},
            "timeNano": 1_700_000_000_123_456_789}  # fmt: skip


def test_event_of_ours_has_sandbox_time_and_exit_code() -> None:
    event = event_of(said("die", exitCode="137"), FLEET)
    assert event is not None
    assert (event.sandbox_id, event.action, event.exit_code) == ("box-1", "die", 137)
    assert event.at.isoformat() == "2023-11-14T22:13:20.123457+00:00"


@pytest.mark.parametrize(
    "other",
    [
        said(**{"deskfleet.fleet": "f-another"}),
        said(**{"opensandbox.io/id": ""}),
        said(**{"opensandbox.io/id": "a\nb"}),
        said("exec_create: sh -c 'echo $PASSWORD'"),
        {"Action": "start", "Actor": {}, "timeNano": 1},
        {"Action": "start"},
        "start",
    ],
)
def test_event_that_is_not_ours_or_says_nothing_is_none(other: object) -> None:
    assert event_of(other, FLEET) is None


# --- bounds ----------------------------------------------------------------------------------------


def test_log_loses_control_characters_and_keeps_its_lines() -> None:
    shown = plain("\x1b[31mred\x1b[0m\tand\x07 \x1b]0;title\x07plain\r\nn\x00ext \x9bline \u00e9\n")
    assert shown == "red and plain\nnext line \u00e9\n"


def test_log_is_bounded_by_lines_and_by_bytes() -> None:
    assert _tail_of(b"1\n2\n\n3\n", 2).lines == ("2", "3")
    many = _tail_of(b"".join(b"%04d %s\n" % (n, b"x" * 1000) for n in range(500)), 500)
    assert many.truncated
    assert many.lines[-1].startswith("0499 ")
    assert MOST_LOG_BYTES - 1100 < sum(len(line) + 1 for line in many.lines) <= MOST_LOG_BYTES
    single = _tail_of("é".encode() * MOST_LOG_BYTES + b" the end", 5)
    assert single.truncated
    assert single.lines[0].endswith("é the end")
    assert len(single.lines[0].encode()) < MOST_LOG_BYTES


def test_reader_that_takes_nothing_is_dropped_and_can_still_be_told_the_end() -> None:
    dropped: list[bool] = []
    reader = Reader(lambda: dropped.append(True))
    event = event_of(said(), FLEET)
    assert event is not None
    assert all(reader.give(event) for _ in range(QUEUE))
    assert not dropped
    assert not reader.give(event)
    assert dropped == [True]
    reader.end(StreamEnd(why="stopping", detail="x"))


# --- what the worker makes of it -------------------------------------------------------------------

NOW = utcnow()
REPORT = HostReport(
    at=NOW, load_1m=0.5, cpus=2, memory_total=4, memory_available=2, disk_total=9, disk_free=3,
    image_tags=("desktop:latest",), docker_version="20.10.24",
)  # fmt: skip


class ScriptedHostwatch(HostwatchClient):
    """Stands in for the hostwatch of a host: says what the test tells it to, without a connection."""

    def __init__(self) -> None:
        super().__init__("box1", url="http://127.0.0.1:1", key=KEY)
        self.lines: list[ContainerEvent | Heartbeat] = []
        self.is_away = False
        self.asked = 0

    def events(self) -> Generator[ContainerEvent | Heartbeat]:
        self.asked += 1
        while not self.is_away:
            while self.lines:
                yield self.lines.pop(0)
            time.sleep(0.005)
        raise HostwatchUnreachable("hostwatch of host box1 has broken off its events")

    def host(self) -> HostReport:
        if self.is_away:
            raise HostwatchUnreachable("hostwatch of host box1 does not run")
        return REPORT

    def log_tail(self, sandbox_id: str, lines: int = 5) -> list[str]:
        if self.is_away:
            raise HostwatchUnreachable("hostwatch of host box1 does not run")
        return ["", " on fire "] if sandbox_id == "box-1" else []


class QuietSandboxHost(SandboxHost):
    def __init__(self) -> None:
        super().__init__("box1", url="http://127.0.0.1:1", key="k", fleet_id=FLEET)

    def log_tail(self, sandbox_id: str, lines: int = 5) -> list[str]:
        return ["from OpenSandbox"]


@pytest.fixture
def scripted() -> Iterator[ScriptedHostwatch]:
    hostwatch = ScriptedHostwatch()
    yield hostwatch
    hostwatch.close()


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def happened(action: str) -> ContainerEvent:
    return ContainerEvent.model_validate({"sandbox_id": "box-1", "action": action, "at": NOW})


def test_each_event_has_the_host_looked_at_twice_and_a_storm_no_more_often(
    scripted: ScriptedHostwatch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("viewer.host_events.LOOK_TWICE_SECONDS", 0.1)
    monkeypatch.setattr("viewer.host_events.RETRY_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    looks: list[float] = []
    stop = threading.Event()
    HostEvents("box1", scripted, lambda: looks.append(time.monotonic())).start(stop)
    try:
        time.sleep(0.1)
        assert not looks  # no word has come yet
        scripted.lines.append(Heartbeat(at=NOW))
        wait_until(lambda: len(looks) == 2)  # what was missed before
        scripted.lines += [Heartbeat(at=NOW), happened("create"), happened("kill")]
        time.sleep(0.2)
        assert len(looks) == 2
        scripted.lines.append(happened("die"))
        wait_until(lambda: len(looks) == 4)
        assert looks[3] - looks[2] >= 0.09
        scripted.lines += [happened("destroy")] * 50
        time.sleep(0.5)
        assert 6 <= len(looks) <= 8
        before = scripted.asked
        scripted.is_away = True
        wait_until(lambda: scripted.asked > before + 3)
        scripted.is_away = False
        told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert told == ["host box1: polled only: hostwatch of host box1 has broken off its events"]
        seen = len(looks)
        scripted.lines.append(Heartbeat(at=NOW))
        wait_until(lambda: len(looks) == seen + 2)
    finally:
        stop.set()
        scripted.is_away = True
        # Else their last words are in the log of the next test.
        wait_until(lambda: all(thread.name != "events of box1" for thread in threading.enumerate()))


def test_host_that_says_nothing_of_itself_is_logged_once_and_its_last_report_stays(
    scripted: ScriptedHostwatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept: list[tuple[str, HostReport]] = []
    reports = HostReports("box1", scripted, lambda name, report: kept.append((name, report)))
    reports.ask()
    scripted.is_away = True
    reports.ask()
    reports.ask()
    HostReports("box2", None, lambda name, report: kept.append((name, report))).ask()
    assert kept == [("box1", REPORT)]
    assert len(caplog.records) == 1


def test_worker_keeps_what_a_host_that_answers_says_of_itself(settings: ViewerSettings, store: Store) -> None:
    with (
        FaultyHost(answers=[page()]) as server,
        FaultyHost(answers=[Answer(text=REPORT.model_dump_json())]) as hostwatch,
    ):
        urls = {"opensandbox_url": server.url, "hostwatch_url": hostwatch.url, "relay_url": server.url}
        host = settings.hosts[0].model_copy(update=urls)
        worker = Worker(settings.model_copy(update={"hosts": (host,)}), store)
        watch = worker._watches[host.name]
        assert isinstance(watch, HostWatch)
        watch.look()
        wait_until(lambda: [one.report for one in store.fleet.hosts()] == [REPORT])
        watch.look()  # not asked again before its time
        assert [asked.path for asked in hostwatch.asked] == ["/hostwatch/host"]
        worker.close()


def test_last_words_are_hostwatchs_and_else_opensandboxs(scripted: ScriptedHostwatch) -> None:
    sandboxes = QuietSandboxHost()
    assert last_lines(scripted, sandboxes, "box-1") == ["on fire"]
    assert last_lines(scripted, sandboxes, "box-2") == ["from OpenSandbox"]
    assert last_lines(None, sandboxes, "box-1") == ["from OpenSandbox"]
    scripted.is_away = True
    assert last_lines(scripted, sandboxes, "box-1") == ["from OpenSandbox"]
    sandboxes.close()
