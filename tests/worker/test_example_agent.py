"""The example of the guide through the real chain: Caddy, viewer, worker, relay, opensandbox-server, Docker.

Stand-in, by name: a canned RFB server where a desktop would be. Its screen is blank, and a second after that
shows a picture if the desktop was asked to open a page.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.real_opensandbox import GREETING_ANSWER_BYTES, TINY_IMAGE, RealOpenSandbox
from tests.relay_process import RelayProcess
from tests.worker.edge import KEY, Edge, running_edge
from viewer.model import Status
from viewer.rfb.conversation import Conversation
from viewer.rfb.framebuffer import Framebuffer
from viewer.rfb.watching_client import Watched, watch_for_colours

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "agent.py"
PAGE = "https://example.org/invoices"
SERVER_INIT_BYTES = 24 + len("tiny")
CANNED_BROWSER = f"""
cat > /screen.sh <<'END'
cat /greeting.rfb
head -c {GREETING_ANSWER_BYTES} > /dev/null
cat /blank.rfb
sleep 1
if [ "$OPEN_URL" = {PAGE} ]; then tail -c +{SERVER_INIT_BYTES + 1} /desktop.rfb; fi
exec cat > /dev/null
END
exec nc -ll -p 8080 -e sh /screen.sh
"""


def test_example_is_short_and_stands_in_the_guide() -> None:
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 20
    imported = {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"httpx"}
    assert f"```python\n{text}```" in (EXAMPLE.parents[1] / "api.md").read_text()


@pytest.fixture
def edge(tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess) -> Iterator[Edge]:
    desktop = {
        "name": "desktop", "uri": TINY_IMAGE, "entrypoint": ["/bin/sh", "-c", CANNED_BROWSER], "cpu": "500m",
        "memory": "64Mi",
    }  # fmt: skip
    with running_edge(tmp_path, server, relay, images=[desktop], default_image="desktop") as running:
        yield running


@contextmanager
def example(edge: Edge, page: str) -> Iterator[subprocess.Popen[str]]:
    program = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLE), page],
        env={**os.environ, "DESKFLEET_URL": edge.url, "DESKFLEET_KEY": KEY.text, "NO_PROXY": "*"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with program:
        try:
            yield program
        finally:
            program.kill()


async def colours_seen(edge: Edge, session_id: str) -> list[int]:
    """Of each picture that a watcher gets, up to the first with more than one."""
    server, seen = Watched(Framebuffer(None)), list[int]()
    conversation = Conversation(watch_for_colours(None, server))
    headers = {"Authorization": f"Bearer {KEY.text}"}
    async with (
        asyncio.timeout(30),
        aiohttp.ClientSession() as client,
        client.ws_connect(
            f"{edge.url.replace('http', 'ws', 1)}/stream/{session_id}", headers=headers, protocols=["binary"]
        ) as stream,
    ):
        await stream.send_bytes(conversation.opening())
        while not server.colours.are_enough:
            if reply := conversation.feed(b"" if conversation.behind else await stream.receive_bytes()):
                await stream.send_bytes(reply)
            colours = server.colours.seen
            if colours and seen[-1:] != [colours]:
                seen.append(colours)
    return seen


@pytest.mark.real
@pytest.mark.timeout(180)
def test_example_shows_its_page_and_ends_its_desktop(edge: Edge) -> None:
    with example(edge, PAGE) as program:
        assert program.stdout is not None
        told = re.fullmatch(rf"Watch it at {edge.url}/sandboxes/(\S+)\n", program.stdout.readline())
        assert told is not None, "\n".join(program.communicate(timeout=20))
        session = edge.fleet.main.get(told[1])
        assert (session.status, session.task_id, session.idle_seconds) == (Status.RUNNING, "show-a-page", 600)
        assert asyncio.run(colours_seen(edge, session.id)) == [1, 2]
        said = program.communicate("\n", timeout=60)
        assert program.returncode == 0, said
    assert edge.fleet.get(session).status is Status.TERMINATED
    assert edge.fleet.containers() == []
