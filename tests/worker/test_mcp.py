"""The tools for agents through the real chain: `mcp`'s client starts `deskfleet-mcp` as a process, and behind
that are Caddy, viewer, worker, relay, opensandbox-server and Docker.

Stand-ins, by name: a canned RFB server where a desktop would be, and `tests.execd_stand_in` in the
container's network where OpenSandbox's execd would be. The last test asks the real execd the same, where its
image is given.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.types import CallToolResult, TextContent
from playwright.sync_api import Page, expect

from tests.browser import chromium, new_context, sign_in, wait_for_picture
from tests.built import built_pages
from tests.hosts.own_docker import own_dockerd
from tests.real_opensandbox import (
    CANNED_DESKTOP,
    EXECD_IMAGE,
    GREETING_ANSWER_BYTES,
    TINY_IMAGE,
    real_opensandbox,
)
from tests.relay_process import running_relay
from tests.worker.edge import KEY, OTHER_KEY, Edge, running_edge
from tests.worker.ports import serving_in
from viewer.mcp.execd import NOT_HERE
from viewer.model import Role, Scope, Session, Status

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "mcp.md"
EXECD_PORT = 44772
EXECD_FILE = os.environ.get("DESKFLEET_EXECD")
WITHOUT_EXECD = "/bin/busybox killall httpd; "
"""The tiny image answers execd's /ping by itself."""
SERVER_INIT_BYTES = 24 + len("tiny")
CANNED_AFTERWARDS = f"""
cat > /screen.sh <<'END'
cat /greeting.rfb
head -c {GREETING_ANSWER_BYTES} > /dev/null
cat /blank.rfb
sleep 1
tail -c +{SERVER_INIT_BYTES + 1} /desktop.rfb
exec cat > /dev/null
END
exec nc -ll -p 8080 -e sh /screen.sh
"""
"""noVNC shows nothing of what comes together with ServerInit."""

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


def image(name: str, script: str, **more: Any) -> dict[str, Any]:
    limits = {"cpu": "500m", "memory": "64Mi"}
    return {"name": name, "uri": TINY_IMAGE, "entrypoint": ["/bin/sh", "-c", script], **limits, **more}


IMAGES = [
    image("desktop", CANNED_DESKTOP, aliases=["opensandbox/desktop:latest"]),
    image("coder", WITHOUT_EXECD + CANNED_DESKTOP),
    image("dark", "sleep 1000"),
    image("painted", CANNED_AFTERWARDS),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of an agent's: the programs on its PATH, an operator's key in a file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, run in (
        ("deskfleet-mcp", f"{sys.executable} -W error -m viewer.mcp"),
        ("python", sys.executable),
    ):
        program = programs / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {run} "$@"\n')
        program.chmod(0o755)
    for name in [name for name in os.environ if name.startswith("DESKFLEET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")
    (tmp_path / "agent.key").touch(0o600)
    (tmp_path / "agent.key").write_text(KEY.text)
    return tmp_path


def configured(edge: Edge, home: Path) -> StdioServerParameters:
    """As the page tells clients to start it, with the address and the key file of here."""
    [example] = re.findall(r"```json\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    started = json.loads(example)["mcpServers"]["deskfleet"]
    here = {"DESKFLEET_URL": edge.url, "DESKFLEET_KEY_FILE": str(home / "agent.key")}
    assert set(started["env"]) == set(here)
    return StdioServerParameters(command=started["command"], env={**here, "NO_PROXY": "*"})


def converse(edge: Edge, home: Path, do: Callable[[Client], Awaitable[None]]) -> str:
    """`do` with a client that has started the program; what that wrote to stderr."""

    async def scenario(errors: TextIO) -> None:
        async with Client(stdio_client(configured(edge, home), errlog=errors)) as client:
            await do(client)

    with (home / "stderr").open("w") as errors:
        asyncio.run(scenario(errors))
    return (home / "stderr").read_text()


async def get(client: Client, tool: str, **arguments: object) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer
    return answer.structured_content


async def refusal(client: Client, tool: str, **arguments: object) -> str:
    return refused(await client.call_tool(tool, arguments))


def refused(answer: CallToolResult) -> str:
    [content] = answer.content
    assert answer.is_error, answer
    assert isinstance(content, TextContent)
    return content.text


def row_of(edge: Edge, name: str) -> Session:
    return edge.fleet.main.get(name)


def test_client_lists_and_calls_every_tool(edge: Edge, home: Path) -> None:
    key = edge.fleet.store.accounts.add_key("main", Role.OPERATOR, scopes=[Scope.SESSIONS, Scope.STREAMS])
    (home / "agent.key").write_text(key.text)

    async def use(client: Client) -> None:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        steps: list[str | None] = []

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            steps.append(message)

        answer = await client.call_tool(
            "create_desktop", {"image": "coder", "resolution": "1280x800x24"}, progress_callback=hear
        )
        made: Any = answer.structured_content
        assert not answer.is_error, answer
        name = made["sandbox_id"]
        assert row_of(edge, name).resolution == "1280x800"
        assert made["page_url"] == f"{edge.url}/sandboxes/{name}"
        assert made["vnc_endpoint"] == f"{edge.url.replace('http', 'ws', 1)}/stream/{name}"
        shown = await get(client, "get_preview_url", sandbox_id=name)
        assert (shown["status"], shown["novnc_url"]) == ("running", made["novnc_url"])
        assert name in [one["id"] for one in (await get(client, "list_sandboxes"))["sandboxes"]]
        assert edge.fleet.containers() == [row_of(edge, name).sandbox_id]
        # The canned server paints once and answers nobody; of one that does: tests/pages/test_wall_real.py.
        assert await refusal(client, "screenshot", sandbox_id=name) == (
            "The desktop has not shown anything yet; ask again in a moment."
        )
        without = await refusal(client, "execute_shell", command="true")
        assert without == "execd does not answer in this sandbox; try again, or make another one"
        with serving_in(edge, row_of(edge, name), EXECD_PORT, module="tests.execd_stand_in", ready="/ping"):
            await use_execd(client, name, has_python=True)
        ended = await get(client, "terminate_sandbox", sandbox_id=name)
        assert ended == {"sandbox_id": name, "status": "terminated"}
        assert edge.fleet.containers() == []
        gone = await refusal(client, "execute_shell", sandbox_id=name, command="true")
        assert gone == "No such sandbox runs; check its id."
        assert len(listed) == 13

    assert converse(edge, home, use) == ""


async def use_execd(client: Client, name: str, *, has_python: bool) -> None:
    """Everything that a sandbox's execd is asked for."""
    path = f"/tmp/deskfleet-{uuid.uuid4().hex}/grüße.txt"
    ran = await get(client, "execute_shell", command="echo a; echo b >&2; exit 3")
    assert (ran["stdout"], ran["stderr"], ran["exit_code"]) == ("a\n", "b\n", 3)
    late = await get(client, "execute_shell", sandbox_id=name, command="sleep 30", timeout_seconds=1)
    assert (late["exit_code"], late["note"]) == (None, "It ran longer than 1 s and was ended.")
    begun = await get(client, "execute_shell", sandbox_id=name, command="sleep 1", background=True)
    assert begun["exit_code"] is None
    shell = await get(client, "execute_code", sandbox_id=name, language="bash", code="echo $((6 * 7))")
    assert (shell["stdout"], shell["exit_code"]) == ("42\n", 0)
    program = {"sandbox_id": name, "language": "python", "code": "print('hi')\n6 * 7"}
    if has_python:
        code = await get(client, "execute_code", **program)
        assert (code["stdout"], code["result"], code["exit_code"]) == ("hi\n", "42", 0)
    else:
        assert "image runs no python" in await refusal(client, "execute_code", **program)
    sent = await get(client, "upload_file", sandbox_id=name, path=path, content="grüße\n")
    assert sent["size_bytes"] == 8
    got = await get(client, "download_file", sandbox_id=name, path=path)
    assert (got["content"], got["encoding"]) == ("grüße\n", "text")
    await get(client, "execute_shell", sandbox_id=name, command=f"rm -r {Path(path).parent}")
    missing = await refusal(client, "download_file", sandbox_id=name, path=path)
    assert missing == "there is no such file in the sandbox; look with execute_shell"


def test_sandbox_without_the_real_execd_says_so_to_each_of_the_four(edge: Edge, home: Path) -> None:
    async def use(client: Client) -> None:
        name = (await get(client, "create_desktop"))["sandbox_id"]
        path = {"sandbox_id": name, "path": "/tmp/a"}
        assert await refusal(client, "execute_shell", command="true") == NOT_HERE
        assert await refusal(client, "execute_code", language="python", code="1") == NOT_HERE
        assert await refusal(client, "upload_file", **path, content="a") == NOT_HERE
        assert await refusal(client, "download_file", **path) == NOT_HERE
        await get(client, "terminate_sandbox", sandbox_id=name)

    converse(edge, home, use)


def test_key_without_the_scope_streams_runs_nothing(edge: Edge, home: Path) -> None:
    key = edge.fleet.store.accounts.add_key("main", Role.OPERATOR, scopes=[Scope.SESSIONS])
    (home / "agent.key").write_text(key.text)
    name = edge.fleet.wait_for(edge.fleet.create("desktop"), Status.RUNNING).id

    async def use(client: Client) -> None:
        assert await refusal(client, "execute_shell", sandbox_id=name, command="true") == (
            "This needs a key with the scope streams; ask your tenant's admin for one."
        )
        await get(client, "terminate_sandbox", sandbox_id=name)

    converse(edge, home, use)


def test_revoked_key_is_one_sentence_and_no_key_stands_in_any_log(edge: Edge, home: Path) -> None:
    key = edge.fleet.store.accounts.add_key("main", Role.OPERATOR)
    (home / "agent.key").write_text(key.text)

    async def use(client: Client) -> None:
        assert (await get(client, "list_sandboxes"))["sandboxes"] == []
        await asyncio.to_thread(edge.fleet.store.accounts.revoke_key, key.id)
        for tool in ("list_sandboxes", "create_desktop"):
            assert (await refusal(client, tool)).startswith("The key is not valid here")
        ran = await refusal(client, "execute_shell", sandbox_id=str(uuid.uuid4()), command="true")
        assert ran.startswith("Send a valid key of your tenant")

    said = converse(edge, home, use)
    for log in (said, (edge.fleet.folder / "edge.log").read_text(), edge.fleet.log.read_text()):
        assert key.text not in log
        assert KEY.text not in log


def test_another_tenants_sandbox_is_reached_by_no_tool(edge: Edge, home: Path) -> None:
    name = edge.fleet.wait_for(edge.fleet.create("desktop"), Status.RUNNING).id
    (home / "agent.key").write_text(OTHER_KEY.text)

    async def use(client: Client) -> None:
        assert (await get(client, "list_sandboxes"))["sandboxes"] == []
        for tool, arguments in (
            ("get_preview_url", {}),
            ("terminate_sandbox", {}),
            ("execute_shell", {"command": "true"}),
            ("execute_code", {"language": "python", "code": "1"}),
            ("upload_file", {"path": "/tmp/a", "content": "a"}),
            ("download_file", {"path": "/tmp/a"}),
        ):
            theirs = await refusal(client, tool, sandbox_id=name, **arguments)
            assert theirs == await refusal(client, tool, sandbox_id=str(uuid.uuid4()), **arguments)

    converse(edge, home, use)
    edge.fleet.main.request_termination(name)
    edge.fleet.wait_for(row_of(edge, name), Status.TERMINATED)


@contextmanager
def mid_create(edge: Edge, home: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Session]]:
    """A client as a process, the process that it started, and a desktop that will never show a frame."""
    script = (
        "import asyncio, os\nfrom mcp import Client, StdioServerParameters\n"
        "settings = {k: v for k, v in os.environ.items() if k.startswith(('DESKFLEET_', 'NO_PROXY'))}\n"
        "async def main():\n"
        "    async with Client(StdioServerParameters(command='deskfleet-mcp', env=settings)) as client:\n"
        "        await client.call_tool('create_desktop', {'image': 'dark'})\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "DESKFLEET_URL": edge.url, "DESKFLEET_KEY_FILE": str(home / "agent.key")}
    client = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    tools = 0
    try:
        deadline = time.monotonic() + 30
        while not (rows := [row for row in edge.fleet.main.list().items if not row.status.is_terminal]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        edge.fleet.wait_until(rows[0], lambda row: row.sandbox_id is not None)
        tools = int(Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text())
        yield client, tools, rows[0]
    finally:
        client.kill()
        client.wait()
        if tools and Path(f"/proc/{tools}").exists():
            os.kill(tools, signal.SIGKILL)


def test_client_that_is_killed_in_the_middle_of_a_create_leaves_no_desktop(edge: Edge, home: Path) -> None:
    with mid_create(edge, home) as (client, _tools, session):
        client.kill()
        row = edge.fleet.wait_for(session, Status.TERMINATED)
    assert row.terminate_requested_at is not None
    assert edge.fleet.containers() == []


def test_desktop_of_a_killed_program_ends_by_the_fleets_own_rules(edge: Edge, home: Path) -> None:
    with mid_create(edge, home) as (_client, tools, session):
        os.kill(tools, signal.SIGKILL)
        row = edge.fleet.get(session)
        assert (row.idle_seconds, row.expires_at is not None) == (1800, True)
    edge.fleet.main.request_termination(session.id)
    edge.fleet.wait_for(session, Status.TERMINATED)


def shell_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


def test_commands_of_the_page_do_what_it_says(edge: Edge, home: Path) -> None:
    (home / "docs").symlink_to(ROOT / "docs")
    keep_key, try_it, skill = shell_blocks()
    assert "http://localhost:8088" in try_it

    def run(block: str, given: str = "") -> str:
        done = subprocess.run(
            ["bash", "-euc", block], input=given, cwd=home, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done
        return done.stdout

    run(keep_key, f"{KEY.text}\n")
    assert (home / ".config/deskfleet/atlas.key").stat().st_mode & 0o777 == 0o600
    lines = run(try_it.replace("http://localhost:8088", edge.url)).splitlines()
    assert lines[0].startswith("tools: create_desktop get_preview_url ")
    assert lines[1].startswith(f"watch it at {edge.url}/sandboxes/")
    assert lines[2] == f"execute_shell: {NOT_HERE}"
    assert '"status":"terminated"' in lines[3]
    assert edge.fleet.containers() == []
    run(skill)
    text = (home / "skills/code-sandbox/SKILL.md").read_text()
    assert text == (ROOT / "docs/skills/code-sandbox/SKILL.md").read_text()


@pytest.mark.browser
def test_desktop_that_an_agent_makes_shows_up_where_somebody_watches(edge: Edge, home: Path) -> None:
    built_pages()
    origin = f"http://deskfleet.localhost:{edge.port}"
    made, seen = threading.Event(), threading.Event()
    names: list[str] = []

    async def use(client: Client) -> None:
        wanted = {"image": "painted", "task_id": "for-the-watcher"}
        names.append((await get(client, "create_desktop", **wanted))["sandbox_id"])
        made.set()
        assert await asyncio.to_thread(seen.wait, 60)
        await get(client, "terminate_sandbox", sandbox_id=names[0])

    with chromium() as browser:
        page: Page = new_context(browser).new_page()
        sign_in(page, origin, KEY.text)
        with page.expect_response(lambda answer: "/api/v1/sessions" in answer.url):
            page.goto(f"{origin}/sandboxes")
        # Beside Playwright, whose loop is this thread's.
        agent = threading.Thread(target=converse, args=(edge, home, use))
        agent.start()
        try:
            row = page.locator("li[data-session]", has_text="for-the-watcher")
            expect(row).to_contain_text("Running", timeout=30_000)
            assert made.wait(20)
            expect(page.locator(".viewer-title")).to_have_text(names[0][:8])
            wait_for_picture(page, colours=2)
        finally:
            seen.set()
            agent.join(60)
        expect(row.locator(".badge")).to_have_text("Terminated", timeout=10_000)


@pytest.mark.optin
@pytest.mark.skipif(
    not EXECD_FILE, reason="set DESKFLEET_EXECD to a file made with `docker save` of execd's image"
)
def test_tools_do_their_work_with_the_real_execd(home: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        daemon = stack.enter_context(own_dockerd("execd"))
        server = stack.enter_context(real_opensandbox(daemon, tmp_path))
        loaded = daemon.docker("load", "--quiet", "--input", str(EXECD_FILE)).stdout.split(": ", 1)[1].strip()
        daemon.docker("tag", loaded, EXECD_IMAGE)
        (tmp_path / "relay").mkdir()
        relay = stack.enter_context(
            running_relay(
                tmp_path / "relay",
                publish_address=daemon.address,
                probe_seconds=3,
                opensandbox_url=server.url,
            )
        )
        (tmp_path / "edge").mkdir()
        edge = stack.enter_context(
            running_edge(tmp_path / "edge", server, relay, images=IMAGES, default_image="desktop")
        )

        async def use(client: Client) -> None:
            name = (await get(client, "create_desktop"))["sandbox_id"]
            # The tiny image has no kernels.
            await use_execd(client, name, has_python=False)

        converse(edge, home, use)
