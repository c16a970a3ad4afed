"""OpenSandbox's own client and CLI, unmodified, against Caddy, viewer, worker and two sandbox hosts.

Stand-ins, by name: the tiny image's `httpd` answers for execd; both hosts share one Docker; the second host's
relay is reached without the mutual TLS between hosts.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.hosts.own_docker import OwnDocker
from tests.own_environment import own_environment
from tests.real_opensandbox import RealOpenSandbox, real_opensandbox
from tests.relay_process import RelayProcess, running_relay
from tests.worker.edge import KEY, OTHER_KEY, Edge, running_edge
from tests.worker.ports import serving_in
from viewer.model import Session, Status, Via
from viewer.opensandbox.api import CREATE_WAIT_SECONDS
from viewer.rows import SessionNotFound

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

STOCK = Path(__file__).parent.parent / "stock"
DOCS = Path(__file__).parent.parent.parent / "docs" / "opensandbox-sdk.md"
SMALL = ["--resource", "cpu=100m", "--resource", "memory=64Mi"]
UNKNOWN = "11111111-2222-4333-8444-555555555555"


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory, daemon: OwnDocker, server: RealOpenSandbox, relay: RelayProcess
) -> Iterator[Edge]:
    folders = [tmp_path_factory.mktemp(name) for name in ("there", "relay", "edge")]
    with (
        real_opensandbox(daemon, folders[0]) as second,
        running_relay(
            folders[1], publish_address=daemon.address, probe_seconds=3, opensandbox_url=second.url
        ) as its_relay,
        running_edge(folders[2], server, relay, others={"there": (second, its_relay)}) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def stock() -> Path:
    return own_environment("stock", STOCK / "requirements.txt")


def environment(edge: Edge, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(edge.fleet.folder), "NO_COLOR": "1", **more}


@pytest.fixture(scope="module")
def left(edge: Edge, stock: Path) -> Any:
    """What the script left running, after it called every method of the client's."""
    done = subprocess.run(
        [stock / "python", STOCK / "every_method.py", f"localhost:{edge.port}"],
        env=environment(edge, KEY=KEY.text, OTHER_KEY=OTHER_KEY.text),
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr[-4000:]}\n{edge.fleet.last_log()}"
    return json.loads(done.stdout.splitlines()[-1])


def test_every_method_of_the_client_works_over_both_hosts(edge: Edge, left: Any) -> None:
    rows = [edge.fleet.main.get(one) for one in (*left["headless"], left["desktop"])]
    assert {row.host for row in rows} == {"here", "there"}
    assert {row.status for row in rows} == {Status.RUNNING}
    assert {row.via for row in rows} == {Via.OPENSANDBOX}
    assert {tuple(row.labels) for row in rows} == {("batch",), ()}


def test_other_tenant_left_no_trace(edge: Edge, left: Any) -> None:
    assert edge.fleet.store.tenant("other").list().items == ()
    with pytest.raises(SessionNotFound):
        edge.fleet.store.tenant("other").get(left["desktop"])


def test_desktop_of_the_client_is_streamed_and_what_has_no_screen_is_not(edge: Edge, left: Any) -> None:
    async def greeting(session_id: str, key: str) -> bytes:
        headers = {"Authorization": f"Bearer {key}", "Host": f"localhost:{edge.port}"}
        url = f"http://127.0.0.1:{edge.port}/stream/{session_id}"
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(url, headers=headers, protocols=("binary",)) as stream,
        ):
            return await stream.receive_bytes(timeout=10)

    assert asyncio.run(greeting(left["desktop"], KEY.text)).startswith(b"RFB 003.008\n")
    for session_id, key in ((left["headless"][0], KEY.text), (left["desktop"], OTHER_KEY.text)):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            asyncio.run(greeting(session_id, key))


def test_websocket_to_a_port_goes_through_the_address_that_the_client_is_given(
    edge: Edge, stock: Path, left: Any
) -> None:
    for session_id in left["headless"]:
        row = edge.fleet.main.get(session_id)
        told = osb(edge, stock, "sandbox", "endpoint", session_id, "--port", "8001", "-o", "json")
        with serving_in(edge, row, port=8001):
            assert asyncio.run(echoed(json.loads(told.stdout)["endpoint"])) == [
                "/ws/x",
                b"\x00there and back",
            ]


async def echoed(endpoint: str) -> list[str | bytes]:
    url, headers = f"http://{endpoint}/ws/x", {"OPEN-SANDBOX-API-KEY": KEY.text}
    async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=headers) as stream:
        first = await stream.receive_str(timeout=10)
        await stream.send_bytes(b"\x00there and back")
        return [first, await stream.receive_bytes(timeout=10)]


def test_example_of_the_docs_makes_a_desktop_and_ends_it(edge: Edge, stock: Path) -> None:
    [example, *_] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    for told, here in (
        ("desks.example.com", f"localhost:{edge.port}"), ('protocol="https"', 'protocol="http"'),
        ('create("desktop"', 'create("tiny"'),
    ):  # fmt: skip
        assert told in example
        example = example.replace(told, here)
    done = subprocess.run(
        [stock / "python", "-c", example], env=environment(edge, DESKFLEET_KEY=KEY.text),
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    session_id = done.stdout.strip().rpartition("/")[2]
    assert edge.fleet.main.get(session_id).status is Status.TERMINATED


def test_client_waits_on_where_a_create_takes_longer_than_its_request(edge: Edge, stock: Path) -> None:
    """Nobody makes sandboxes meanwhile, so the create is answered `Pending`."""
    log = edge.fleet.folder / "edge.log"
    answered = '"POST /v1/sandboxes 202"'
    before = log.read_text().count(answered)
    edge.fleet.stop()
    with subprocess.Popen(
        [stock / "python", "-c", WAITS_ON, f"localhost:{edge.port}"],
        env=environment(edge, DESKFLEET_KEY=KEY.text), stdout=subprocess.PIPE, text=True,
    ) as client:  # fmt: skip
        try:
            deadline = time.monotonic() + CREATE_WAIT_SECONDS + 10
            while log.read_text().count(answered) == before:
                assert client.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            edge.fleet.start()
        told, _ = client.communicate(timeout=40)
    assert told.split() == ["Pending", "Running"]


WAITS_ON = """
import os, sys
from opensandbox.config import ConnectionConfigSync
from opensandbox.sync.sandbox import SandboxSync
config = ConnectionConfigSync(domain=sys.argv[1], api_key=os.environ["DESKFLEET_KEY"], use_server_proxy=True)
def healthy(sandbox):
    if not told:
        told.append(sandbox.get_info().status.state)
    return sandbox._health_service.ping(sandbox.id)
told = []
sandbox = SandboxSync.create(
    "shell", resource={"cpu": "100m", "memory": "64Mi"}, connection_config=config, health_check=healthy
)
print(*told, sandbox.get_info().status.state)
sandbox.kill()
"""


# --- the CLI -------------------------------------------------------------------------------------------


def osb(
    edge: Edge, stock: Path, *words: str, key: str = KEY.text, fine: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [stock / "osb", *words],
        env=environment(
            edge,
            OPEN_SANDBOX_DOMAIN=f"localhost:{edge.port}",
            OPEN_SANDBOX_API_KEY=key,
            OPEN_SANDBOX_USE_SERVER_PROXY="true",
        ),
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert not fine or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def cli_made(edge: Edge, stock: Path) -> Iterator[Session]:
    created = osb(
        edge, stock, "sandbox", "create", "--image", "shell", "--timeout", "10m",
        "--metadata", "by=osb", *SMALL, "--env", "TOKEN=a-secret-of-the-test", "-o", "json",
    )  # fmt: skip
    row = edge.fleet.main.get(json.loads(created.stdout)["id"])
    yield row
    osb(edge, stock, "sandbox", "kill", row.id, fine=False)


def test_every_command_of_the_cli_works(edge: Edge, stock: Path, cli_made: Session) -> None:
    def told(*words: str) -> Any:
        return json.loads(osb(edge, stock, *words, "-o", "json").stdout)

    listed = told("sandbox", "list", "--metadata", "by=osb", "--state", "running")
    assert [one["id"] for one in listed["items"]] == [cli_made.id]
    info = told("sandbox", "get", cli_made.id)
    assert (info["status"]["state"], info["image"]["image"]) == ("Running", "shell")
    assert "a-secret-of-the-test" not in json.dumps(info)
    assert told("sandbox", "health", cli_made.id)["healthy"] is True
    assert told("sandbox", "renew", cli_made.id, "--timeout", "30m")["sandbox_id"] == cli_made.id
    assert (edge.fleet.get(cli_made).expires_at or cli_made.created_at) > (
        cli_made.expires_at or cli_made.created_at
    )
    osb(edge, stock, "sandbox", "pause", cli_made.id)
    assert edge.fleet.get(cli_made).status is Status.PAUSED
    osb(edge, stock, "sandbox", "resume", cli_made.id)
    assert edge.fleet.get(cli_made).status is Status.RUNNING
    events = osb(edge, stock, "diagnostics", "events", cli_made.id, "--scope", "runtime").stdout
    assert "paused" in events
    osb(edge, stock, "sandbox", "kill", cli_made.id)
    assert edge.fleet.get(cli_made).status is Status.TERMINATED


def test_cli_of_another_tenant_is_told_what_it_is_told_of_no_sandbox(
    edge: Edge, stock: Path, cli_made: Session
) -> None:
    before = edge.fleet.get(cli_made)
    for words in (
        ("sandbox", "get"), ("sandbox", "kill"), ("sandbox", "pause"), ("sandbox", "resume"),
        ("sandbox", "renew", "--timeout", "30m"), ("sandbox", "endpoint", "--port", "8000"),
        ("sandbox", "health"), ("diagnostics", "events", "--scope", "runtime"),
    ):  # fmt: skip
        foreign, never = (
            osb(edge, stock, *words[:2], one, *words[2:], key=OTHER_KEY.text, fine=False)
            for one in (cli_made.id, UNKNOWN)
        )
        assert foreign.returncode == never.returncode != 0
        said = [told_by(done) for done in (foreign, never)]
        assert said[0].replace(cli_made.id, UNKNOWN) == said[1]
        assert "Nosuchsandboxruns" in said[1]
    # The worker notes that its owner's client has used it.
    noted = {"last_used_at", "updated_at"}
    assert edge.fleet.get(cli_made).model_dump(exclude=noted) == before.model_dump(exclude=noted)


def told_by(done: subprocess.CompletedProcess[str]) -> str:
    """Without the request's id and the frames and line breaks that the CLI draws."""
    text = re.sub(r"[^!-~]", "", done.stdout + done.stderr)
    return re.sub(r"request_id=[0-9a-f-]{36}", "", text)


def test_no_log_holds_a_secret_of_the_clients(edge: Edge, left: Any) -> None:
    for log in (edge.fleet.folder / "edge.log", edge.fleet.log):
        text = log.read_text()
        assert "a-secret-of-the-test" not in text
        assert KEY.text not in text
