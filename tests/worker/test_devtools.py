"""DevTools through the real chain: Caddy, viewer, relay, opensandbox-server and a sandbox's own network.

The Chromium is the machine's own, run in the sandbox's network where the image's would be: on loopback there,
with a forwarder before it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.chromium_in_a_sandbox import inner_chromium
from tests.real_opensandbox import TINY_IMAGE, RealOpenSandbox
from tests.relay_process import RelayProcess
from tests.worker.edge import KEY, Edge, running_edge
from viewer.model import Session, Status

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

INNER_PORT, PORT = 9223, 9222
CONTENT = "content.deskfleet.localhost"
FORWARDER = """
import socket, threading
def pass_on(source, sink):
    try:
        while data := source.recv(65536): sink.sendall(data)
    except OSError: pass
    finally: sink.close()
listener = socket.create_server(("0.0.0.0", %d))
while True:
    client, _ = listener.accept()
    try: inner = socket.create_connection(("127.0.0.1", %d))
    except OSError:
        client.close()
        continue
    for pair in ((client, inner), (inner, client)):
        threading.Thread(target=pass_on, args=pair, daemon=True).start()
"""
"""As socat in the image does, which outlives a browser that does not listen yet."""


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory, server: RealOpenSandbox, relay: RelayProcess
) -> Iterator[Edge]:
    image = {
        "name": "chrome", "uri": TINY_IMAGE, "entrypoint": ["/bin/sh", "-c", "sleep 1000"], "cpu": "500m",
        "memory": "64Mi", "display": "none", "devtools": True,
    }  # fmt: skip
    with running_edge(
        tmp_path_factory.mktemp("edge"),
        server,
        relay,
        images=[image],
        default_image="chrome",
        content_domain=CONTENT,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def session(edge: Edge) -> Iterator[Session]:
    """A sandbox with a browser in it."""
    row = edge.fleet.wait_for(edge.fleet.create("chrome"), Status.RUNNING)
    daemon = edge.fleet.server.daemon
    container = edge.fleet.server.container_of(row.sandbox_id or "")
    pid = daemon.docker("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
    enter = ("nsenter", f"--net=/proc/{pid}/ns/net", "--")
    forwarder = subprocess.Popen([*enter, sys.executable, "-c", FORWARDER % (PORT, INNER_PORT)])
    try:
        with inner_chromium(enter=enter, port=INNER_PORT):
            yield row
    finally:
        forwarder.kill()
        forwarder.wait()


def asked(
    edge: Edge, method: str, path: str, *, name: str = "deskfleet.localhost", **more: object
) -> httpx.Response:
    headers = {"Host": f"{name}:{edge.port}", **more.pop("headers", {})}  # type: ignore[dict-item]
    with httpx.Client(trust_env=False, timeout=30) as http:
        return http.request(method, f"http://127.0.0.1:{edge.port}{path}", headers=headers, **more)  # type: ignore[arg-type]


def targets(edge: Edge, session: Session) -> list[dict[str, str]]:
    """As soon as the browser has a page."""
    key = {"Authorization": f"Bearer {KEY.text}"}
    deadline = time.monotonic() + 60
    while True:
        answer = asked(edge, "GET", f"/api/v1/sessions/{session.id}/devtools", headers=key)
        found: list[dict[str, str]] = answer.json().get("targets", [])
        if found:
            return found
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def entered(edge: Edge, session: Session) -> dict[str, str]:
    """The Cookie header of a browser that was let in."""
    key = {"Authorization": f"Bearer {KEY.text}"}
    made = asked(
        edge, "POST", f"/api/v1/sessions/{session.id}/entries", headers=key, json={"page": "devtools"}
    )
    door = asked(
        edge,
        "POST",
        "/.deskfleet/enter",
        name=f"{session.id}.{CONTENT}",
        data={"ticket": made.json()["ticket"]},
    )
    return {"Cookie": door.headers["Set-Cookie"].partition(";")[0]}


async def evaluate(edge: Edge, session: Session, target: str, expression: str) -> object:
    host = f"{session.id}.{CONTENT}:{edge.port}"
    headers = {**entered(edge, session), "Host": host, "Origin": f"http://{host}"}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"http://127.0.0.1:{edge.port}/devtools/page/{target}", headers=headers) as socket,
    ):
        call = {"id": 1, "method": "Runtime.evaluate", "params": {"expression": expression}}
        await socket.send_str(json.dumps(call))
        answer = await socket.receive_json(timeout=20)
    value: object = answer["result"]["result"]["value"]
    return value


def test_targets_are_told_and_one_is_worked_with(edge: Edge, session: Session) -> None:
    page = targets(edge, session)[0]
    assert (page["type"], page["url"].startswith("data:text/html")) == ("page", True)
    host = f"{session.id}.{CONTENT}:{edge.port}"
    assert page["path"] == f"/devtools/inspector.html?ws={host}/devtools/page/{page['id']}"
    assert asyncio.run(evaluate(edge, session, page["id"], "6 * 7")) == 42


def test_front_end_comes_from_the_browser_in_the_sandbox(edge: Edge, session: Session) -> None:
    targets(edge, session)
    name, cookie = f"{session.id}.{CONTENT}", entered(edge, session)
    page = asked(edge, "GET", "/devtools/inspector.html", name=name, headers=cookie)
    script = asked(edge, "GET", "/devtools/entrypoints/inspector/inspector.js", name=name, headers=cookie)
    assert (page.status_code, "DevTools" in page.text) == (200, True)
    assert (script.status_code, script.headers["content-type"], bool(script.content)) == (
        200,
        "text/javascript",
        True,
    )
    policies = page.headers.get_list("content-security-policy")
    assert len([policy for policy in policies if "default-src 'none'" in policy]) == 1
    for path in ("/json/list", "/json/version", "/devtools/browser/x"):
        assert asked(edge, "GET", path, name=name, headers=cookie).status_code in (401, 404)


def test_nothing_else_of_the_host_leads_to_the_port(edge: Edge, session: Session) -> None:
    """Neither published by Docker nor listening on any address of the host."""
    targets(edge, session)
    daemon = edge.fleet.server.daemon
    container = edge.fleet.server.container_of(session.sandbox_id or "")
    published = json.loads(
        daemon.docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", container).stdout
    )
    assert not [port for port, where in published.items() if where and port.startswith(("9222", "9223"))]
    here = {line.split()[1].rpartition(":")[2] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    assert not {f"{PORT:04X}", f"{INNER_PORT:04X}"} & here
    without_key = asked(edge, "GET", f"/v1/sandboxes/{session.id}/proxy/{PORT}/json/list")
    assert without_key.status_code == 401
