"""A sandbox's ports through the real chain: Caddy, viewer, relay, opensandbox-server, container.

Stand-in, by name: `tests.port_service` in the container's own network, where a program of its image would be.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest
from yarl import URL

from tests.port_service import BLOCK, EVIL
from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import RelayProcess
from tests.worker.edge import KEY, Edge, running_edge
from tests.worker.ports import SHOWN, asked, serving_in, way
from viewer.model import Role, Session, Status
from viewer.relay.answers import CloseCode

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

MIB = 200
OPENSANDBOX = "opensandbox.deskfleet.localhost"


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory, server: RealOpenSandbox, relay: RelayProcess
) -> Iterator[Edge]:
    with running_edge(tmp_path_factory.mktemp("edge"), server, relay) as running:
        yield running


@pytest.fixture(scope="module")
def session(edge: Edge) -> Iterator[Session]:
    """A sandbox without a screen, with a service on PORT."""
    row = edge.fleet.wait_for(edge.fleet.create("shell"), Status.RUNNING)
    with serving_in(edge, row):
        yield row


@pytest.mark.parametrize("name", ["localhost", OPENSANDBOX])
def test_request_arrives_as_it_was_written_at_both_names(edge: Edge, session: Session, name: str) -> None:
    secrets = {"Cookie": "a=1", "Authorization": "Bearer x", "X-Df-Grant": "forged", "X-Own": "kept"}
    for method in ("GET", "POST", "DELETE"):
        tail = "/a%2Fb%20c/%3Fx;y//?q=%2F&q=%20&z"
        answer = asked(edge, session, tail, method=method, name=name, shown={**SHOWN, **secrets})
        seen = answer.json()
        assert (seen["method"], seen["path"]) == (method, tail)
        assert seen["headers"]["x-own"] == "kept"
        assert not {"cookie", "authorization", "open-sandbox-api-key"} & set(seen["headers"])
        assert not [header for header in seen["headers"] if header.startswith("x-df-")]
    assert asked(edge, session, "", name=name).json()["path"] == "/"


def test_answer_is_data_to_a_browser_and_keeps_to_the_name_that_was_asked(
    edge: Edge, session: Session
) -> None:
    evil = asked(edge, session, "/evil").headers
    assert evil.get_list("content-security-policy") == ["default-src *", "sandbox"]
    assert evil["x-content-type-options"] == "nosniff"
    harmless = {"content-security-policy", "x-content-type-options"}
    assert not ({header.lower() for header in EVIL} | {"set-cookie"}) - harmless & set(evil)
    login = asked(edge, session, "/login")
    assert (login.status_code, login.headers["location"]) == (302, way(session, "/seen/after?a=%2F"))


def test_who_has_no_right_gets_one_answer_and_the_sandbox_hears_nothing(edge: Edge, session: Session) -> None:
    accounts = edge.fleet.store.accounts
    other = accounts.add_key("other", Role.ADMIN).text
    watcher = accounts.add_key("main", Role.WATCHER).text
    cookie = {"Cookie": f"__Host-deskfleet={accounts.sign_in_with_key(KEY.text)}"}
    foreign = asked(edge, session, "/seen", shown={"Authorization": f"Bearer {other}"})
    unknown = session.model_copy(update={"id": session.id[::-1]})
    never = asked(edge, unknown, "/seen", shown={"Authorization": f"Bearer {other}"})
    assert (foreign.status_code, foreign.content) == (never.status_code, never.content)
    assert foreign.json()["code"] == "DOCKER::SANDBOX_NOT_FOUND"
    for shown, status in (({}, 401), (cookie, 401), ({"OPEN-SANDBOX-API-KEY": watcher}, 403)):
        for name in ("localhost", OPENSANDBOX):
            assert asked(edge, session, "/seen", shown=shown, name=name).status_code == status
    by_its_own_name = session.model_copy(update={"id": session.sandbox_id})
    assert asked(edge, by_its_own_name, "/seen").status_code == 404


def test_screen_is_no_port(edge: Edge) -> None:
    desktop = edge.fleet.wait_for(edge.fleet.create("tiny"), Status.RUNNING)
    for port in (8080, 5901, 6080):
        refused = asked(edge, desktop, "/", port=port)
        assert (refused.status_code, refused.json()["code"]) == (403, "DESKFLEET::VNC_NOT_PROXIED")
    # Nothing listens there, which OpenSandbox says itself.
    assert asked(edge, desktop, "/", port=9000).status_code == 502


def test_big_bodies_pass_both_ways_at_flat_memory(edge: Edge, session: Session, relay: RelayProcess) -> None:
    whole = hashlib.sha256()
    for _ in range(MIB):
        whole.update(BLOCK)
    asked(edge, session, "/source?mib=8")
    with memory_of(relay.process.pid, edge.caddy.pid) as grown:
        sent = asked(edge, session, "/sink", method="PUT", content=(BLOCK for _ in range(MIB)))
        assert sent.text == whole.hexdigest()
        got = hashlib.sha256()
        url = f"http://127.0.0.1:{edge.port}{way(session, f'/source?mib={MIB}')}"
        with httpx.stream("GET", url, headers=SHOWN | {"Host": f"localhost:{edge.port}"}) as answer:
            for part in answer.iter_bytes():
                got.update(part)
        assert got.hexdigest() == whole.hexdigest()
    assert grown[relay.process.pid] < 16 << 20
    assert grown[edge.caddy.pid] < 48 << 20


@contextmanager
def memory_of(*pids: int) -> Iterator[dict[int, int]]:
    """By how many bytes each has grown at most; filled at the end."""
    first = {pid: resident(pid) for pid in pids}
    most, done = dict(first), threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for pid in pids:
                most[pid] = max(most[pid], resident(pid))

    thread, grown = threading.Thread(target=look), dict[int, int]()
    thread.start()
    try:
        yield grown
    finally:
        done.set()
        thread.join()
        grown.update({pid: most[pid] - first[pid] for pid in pids})


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_websocket_echoes_and_ends_with_the_key(edge: Edge, session: Session) -> None:
    key = edge.fleet.store.accounts.add_key("main", Role.OPERATOR)

    async def scenario() -> None:
        headers = {"Authorization": f"Bearer {key.text}", "Host": f"localhost:{edge.port}"}
        url = URL(f"http://127.0.0.1:{edge.port}{way(session, '/ws/a%20b?x=%2F')}", encoded=True)
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(url, headers=headers, protocols=("tty",)) as stream,
        ):
            assert stream.protocol == "tty"
            assert await stream.receive_str(timeout=5) == "/ws/a%20b?x=%2F"
            for size in (0, 1, 70_000, 1 << 20):
                await stream.send_bytes(BLOCK[:size])
                assert await stream.receive_bytes(timeout=10) == BLOCK[:size]
            await asyncio.to_thread(edge.fleet.store.accounts.revoke_key, key.id)
            revoked = time.monotonic()
            message = await stream.receive(timeout=10)
            assert (message.data, message.extra) == (
                CloseCode.SIGNED_OUT,
                "the key that this was opened by is revoked or over",
            )
            assert time.monotonic() - revoked < 2
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await http.ws_connect(url, headers=headers)

    asyncio.run(scenario())


def test_sandbox_that_ends_takes_its_requests_along(edge: Edge) -> None:
    row = edge.fleet.wait_for(edge.fleet.create("shell"), Status.RUNNING)
    with serving_in(edge, row):
        url = f"http://127.0.0.1:{edge.port}{way(row, '/source?mib=1000000')}"
        with (
            httpx.Client(timeout=30) as http,
            http.stream("GET", url, headers=SHOWN | {"Host": f"localhost:{edge.port}"}) as answer,
        ):
            parts = answer.iter_raw()
            next(parts)
            edge.fleet.main.request_termination(row.id)
            asked_at = time.monotonic()
            with pytest.raises(httpx.RemoteProtocolError):
                for _ in parts:
                    pass
            assert time.monotonic() - asked_at < 15
        edge.fleet.wait_for(row, Status.TERMINATED)
        assert asked(edge, row, "/seen").status_code == 404


def test_logs_hold_no_key(edge: Edge, session: Session, relay: RelayProcess) -> None:
    assert asked(edge, session, "/seen").status_code == 200
    for log in (edge.fleet.folder / "edge.log", edge.fleet.log, relay.log):
        assert KEY.text not in log.read_text()
