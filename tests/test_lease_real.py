"""The lease from end to end: the viewer's API, a real relay, a real Xtigervnc, the worker's look."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import aiohttp
import pytest
from flask import Flask

from tests.relay_process import RelayProcess, Xvnc, running_relay, running_xvnc
from tests.test_lease_api import Caller, browser_of
from tests.test_relay import Viewer, with_http
from tests.test_relay_input_real import until_the_desktop_has_read_all
from tests.viewer_fixtures import People, ViewerClient, running_session
from tests.x_recorder import Recorder
from viewer.credentials import seal_secret
from viewer.grants import GRANT_HEADER
from viewer.model import Role, Session
from viewer.relay.answers import CloseCode
from viewer.relay_client import RelayClient
from viewer.settings import ControlSettings, Settings
from viewer.store import Store
from viewer.stream_watch import StreamWatch

pytestmark = pytest.mark.real

A, B = 0x61, 0x62


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(tmp_path_factory.mktemp("relay")) as process:
        yield process


@pytest.fixture(scope="module")
def xvnc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Xvnc]:
    with running_xvnc(tmp_path_factory.mktemp("xvnc"), password="secret12") as server:
        yield server


@pytest.fixture
def screen(xvnc: Xvnc) -> Iterator[Recorder]:
    with closing(Recorder(xvnc.display)) as recorder:
        yield recorder


@pytest.fixture
def settings(settings: Settings, relay: RelayProcess, tmp_path: Path) -> Settings:
    (tmp_path / "relay.key").write_bytes(relay.key + b"\n")
    host = settings.hosts[0].model_copy(update={"relay_url": relay.url})
    return settings.model_copy(update={"hosts": (host,)})


@pytest.fixture
def session(store: Store, people: People, settings: Settings, xvnc: Xvnc) -> Session:
    row = running_session(store, people.alice)
    sealed = seal_secret("secret12", settings.secret_key)
    return store.fleet.update(row.id, vnc_port=xvnc.port, vnc_password_sealed=sealed)


@contextmanager
def watched(relay: RelayProcess, store: Store, control: ControlSettings | None = None) -> Iterator[None]:
    """The worker's watch of this relay."""
    client, stop = RelayClient("here", url=relay.url, key=relay.key), threading.Event()
    watch = StreamWatch("here", client, store, control or ControlSettings())
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        client.close()


class Somebody(Caller):
    """Somebody with a browser, or with a key, and a stream of the session."""

    def __init__(
        self, client: ViewerClient, session: Session, headers: dict[str, str], relay: RelayProcess
    ) -> None:
        super().__init__(client, session, headers)
        self.session, self.headers, self._relay, self._http = session, headers, relay, client

    def way_in(self) -> tuple[str, dict[str, str]]:
        """Where his stream is at the relay, and what lets him in there: as the edge asks for it."""
        uri = {"X-Forwarded-Uri": f"/stream/{self.session.id}", "X-Forwarded-Method": "GET"}
        answer = self._http.get("/authz/stream", headers={**self.headers, **uri})
        assert answer.status_code == 200
        grant = answer.headers[GRANT_HEADER]
        return f"{self._relay.url}/stream/{self.session.id}", {GRANT_HEADER: grant}

    async def watch(self, http: aiohttp.ClientSession) -> Viewer:
        url, headers = self.way_in()
        viewer = Viewer(await http.ws_connect(url, headers=headers, protocols=["binary"], max_msg_size=0))
        await viewer.shake_hands()
        return viewer


@pytest.fixture
def bob(
    client: ViewerClient, session: Session, store: Store, relay: RelayProcess, people: People
) -> Somebody:
    return Somebody(client, session, browser_of(store, "Bob"), relay)


@pytest.fixture
def ada(
    client: ViewerClient, session: Session, store: Store, relay: RelayProcess, people: People
) -> Somebody:
    return Somebody(client, session, browser_of(store, "Ada", Role.ADMIN), relay)


@pytest.fixture
def robot(client: ViewerClient, session: Session, relay: RelayProcess, people: People) -> Somebody:
    return Somebody(client, session, people.alice.headers, relay)


async def press(viewer: Viewer, key: int) -> None:
    for down in (1, 0):
        await viewer.socket.send_bytes(b"\x04" + bytes([down, 0, 0]) + key.to_bytes(4, "big"))


def holds(store: Store, session: Session) -> str | None:
    holder = store.leases.of(session.id).holder
    return holder.name if holder else None


def until(true: Callable[[], bool], *, seconds: float = 15) -> float:
    """How long it took until it became true."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + seconds
        time.sleep(0.02)
    return time.monotonic() - began


def test_only_what_the_holder_types_arrives_and_whoever_loses_it_is_told_by_whom(
    bob: Somebody, ada: Somebody, robot: Somebody, screen: Recorder
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        streams = [await one.watch(http) for one in (bob, ada, robot)]
        of_bob, of_ada, of_robot = streams
        for stream in streams:
            await press(stream, A)
            await until_the_desktop_has_read_all(stream)
        assert robot("take")[0] == 200
        for stream in streams:
            await press(stream, B)
            await until_the_desktop_has_read_all(stream)
        down, up = screen.wait_for(2)
        assert [down[0], up[0]] == ["key down", "key up"]
        assert bob("take")[0] == 200
        code, reason = await of_robot.ending()
        assert (code, reason) == (CloseCode.LEASE_LOST, "Bob has taken control")
        # What he holds down is let go when another one takes it.
        await of_bob.socket.send_bytes(b"\x04\x01\0\0" + A.to_bytes(4, "big"))
        assert [name for name, _ in screen.wait_for(3)][2:] == ["key down"]
        assert ada("take", force=True)[0] == 200
        code, reason = await of_bob.ending()
        assert (code, reason) == (CloseCode.LEASE_LOST, "Ada has taken control")
        await press(of_ada, B)
        assert [name for name, _ in screen.wait_for(6)][3:] == ["key up", "key down", "key up"]
        # Given back, her stream stays and says nothing to the desktop any more.
        assert ada("release")[0] == 200
        await press(of_ada, A)
        await until_the_desktop_has_read_all(of_ada)
        assert bob("take")[0] == 200
        await press(again := await bob.watch(http), B)
        assert len(screen.wait_for(8)) == 8
        assert not of_ada.socket.closed
        await again.socket.close()
        assert bob("release")[0] == 200

    with_http(body)


HOLDER = """
import asyncio, json, sys
import aiohttp
from tests.test_relay import Viewer

async def run():
    url, headers = json.loads(sys.argv[1])
    async with aiohttp.ClientSession() as http:
        viewer = Viewer(await http.ws_connect(url, headers=headers, protocols=["binary"], max_msg_size=0))
        await viewer.shake_hands()
        print("open", flush=True)
        await asyncio.sleep(600)

asyncio.run(run())
"""


@contextmanager
def in_a_process_of_its_own(who: Somebody) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, json.dumps(who.way_in())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_holder_who_is_killed_loses_it_within_seconds(
    bob: Somebody, robot: Somebody, relay: RelayProcess, store: Store, session: Session
) -> None:
    with watched(relay, store), in_a_process_of_its_own(bob) as process:
        assert bob("take")[0] == 200
        time.sleep(1.5)  # the worker has seen his stream
        assert holds(store, session) == "Bob"
        assert robot("take")[0] == 423
        process.send_signal(signal.SIGKILL)
        took = until(lambda: holds(store, session) is None)
        assert took > 4
        assert robot("take")[0] == 200
        assert robot("release")[0] == 200


def test_a_silent_relay_keeps_nobody_in_control_beyond_his_time_and_hears_of_it_later(
    bob: Somebody, robot: Somebody, relay: RelayProcess, store: Store, session: Session
) -> None:
    with watched(relay, store), in_a_process_of_its_own(bob):
        assert bob("take", seconds=5)[0] == 200
        os.kill(relay.process.pid, signal.SIGSTOP)
        try:
            until(lambda: holds(store, session) is None, seconds=20)
        finally:
            os.kill(relay.process.pid, signal.SIGCONT)
        with closing(RelayClient("here", url=relay.url, key=relay.key)) as client:
            until(lambda: client.stream_list().leases.get(session.id) == 2)


def test_a_change_that_the_relay_missed_reaches_it_by_the_workers_look(
    bob: Somebody, relay: RelayProcess, store: Store, session: Session, app: Flask, screen: Recorder
) -> None:
    """The viewer cannot reach the relay; the worker can."""
    app.extensions["deskfleet"]._relays = {}

    async def body(http: aiohttp.ClientSession) -> None:
        stream = await bob.watch(http)
        assert (await asyncio.to_thread(bob, "take"))[0] == 200
        with closing(RelayClient("here", url=relay.url, key=relay.key)) as client:
            await asyncio.to_thread(until, lambda: client.stream_list().leases.get(session.id) == 1)
        await press(stream, A)
        assert len(await asyncio.to_thread(screen.wait_for, 2)) == 2

    with watched(relay, store):
        with_http(body)


def test_who_does_nothing_loses_it_and_another_worker_goes_on_where_the_first_stopped(
    bob: Somebody, relay: RelayProcess, store: Store, session: Session
) -> None:
    control = ControlSettings(idle_seconds=10)
    with in_a_process_of_its_own(bob):
        with watched(relay, store, control):
            assert bob("take")[0] == 200
            time.sleep(1)
        assert holds(store, session) == "Bob"
        with watched(relay, store, control):
            assert until(lambda: holds(store, session) is None) > 5


def test_who_may_not_control_it_any_more_loses_it_at_once(
    bob: Somebody, relay: RelayProcess, store: Store, session: Session
) -> None:
    with watched(relay, store), in_a_process_of_its_own(bob):
        _, lease = bob("take")
        store.accounts.end_sign_ins(lease["you"].partition("/")[0])
        assert until(lambda: holds(store, session) is None) < 4
