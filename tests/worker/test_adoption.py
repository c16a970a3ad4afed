"""Sandboxes that others made, told of by the hook of an OpenClaw host, through the real chain: hook, Caddy,
viewer, worker, relay, opensandbox-server, Docker.

Stand-in, by name: a canned RFB server where a desktop would be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.event_senders import Source, new_source
from tests.real_opensandbox import CANNED_DESKTOP, TINY_IMAGE, RealOpenSandbox
from tests.relay_process import RelayProcess
from tests.viewer_fixtures import Person
from tests.worker.edge import KEY, Edge, running_edge
from viewer.model import Display, Session, Status, Via
from viewer.sandbox_hosts import KEY_HEADER

HOOK = Path(__file__).parents[2] / "docs" / "examples" / "openclaw_hook.py"
OPEN_DESKTOP = r"""
cat > /screen.sh <<'END'
echo -ne 'RFB 003.008\n\001\001\000\000\000\000'
head -c 14 > /dev/null
cat /desktop.rfb
exec cat > /dev/null
END
exec nc -ll -p 8080 -e sh /screen.sh
"""
"""One that asks for no password, because nobody has told us any."""

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@pytest.fixture
def edge(tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess) -> Iterator[Edge]:
    with running_edge(tmp_path, server, relay, adopt="main", create_deadline_seconds=12) as running:
        yield running


@pytest.fixture
def source(edge: Edge) -> Source:
    return new_source(edge.fleet.store, edge.fleet.settings, Person("main", KEY.text))


def made_by_others(server: RealOpenSandbox, script: str) -> str:
    """Its id. Nothing of ours is on it."""
    body = {
        "image": {"uri": TINY_IMAGE}, "entrypoint": ["/bin/sh", "-c", script], "timeout": 3600,
        "resourceLimits": {"cpu": "500m", "memory": "64Mi"}, "env": {}, "metadata": {"whose": "theirs"},
    }  # fmt: skip
    answer = httpx.post(
        f"{server.url}/v1/sandboxes", json=body, headers={KEY_HEADER: server.key}, timeout=60, trust_env=False
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def tell(edge: Edge, source: Source, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HOOK), "sandbox", *words, "--run", "run-7", "--task", "invoices"],
        env={
            **os.environ,
            "DESKFLEET_EVENTS_URL": f"{edge.url}/webhooks/openclaw?source={source.id}",
            "DESKFLEET_WEBHOOK_SECRET": source.secret,
            "NO_PROXY": "*",
        },
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def session_of(edge: Edge, told: Any) -> Session:
    return edge.fleet.main.get(told["session_id"])


def is_there(edge: Edge, sandbox_id: str) -> bool:
    return edge.fleet.link.sandboxes.get(sandbox_id) is not None


def test_sandbox_that_others_made_is_adopted_shown_and_ended(edge: Edge, source: Source) -> None:
    sandbox_id = made_by_others(edge.fleet.server, OPEN_DESKTOP)
    told = tell(edge, source, "created", sandbox_id, "--image", "tiny", "--resolution", "1280x800x24")
    assert told["did"] == ["task-created", "run-linked", "session-claimed"]
    row = edge.fleet.wait_for(session_of(edge, told), Status.RUNNING)
    assert (row.host, row.sandbox_id, row.via, row.display) == ("here", sandbox_id, Via.WEBHOOK, Display.RFB)
    assert (row.task_id, row.image, row.resolution) == ("invoices", "tiny", "1280x800")
    assert row.vnc_port is not None
    tell(edge, source, "terminated", sandbox_id)
    edge.fleet.wait_for(row, Status.TERMINATED)
    assert not is_there(edge, sandbox_id)


def test_sandbox_whose_screen_we_may_not_see_runs_without_one(edge: Edge, source: Source) -> None:
    sandbox_id = made_by_others(edge.fleet.server, CANNED_DESKTOP)
    told = tell(edge, source, "running", sandbox_id, "--image", "tiny")
    row = edge.fleet.wait_for(session_of(edge, told), Status.RUNNING)
    assert row.display is Display.NONE
    assert is_there(edge, sandbox_id)


def test_sandbox_of_an_image_that_we_do_not_know_runs_without_a_display(edge: Edge, source: Source) -> None:
    sandbox_id = made_by_others(edge.fleet.server, "sleep 1000")
    told = tell(edge, source, "running", sandbox_id, "--image", "registry.example.com/theirs:1")
    row = edge.fleet.wait_for(session_of(edge, told), Status.RUNNING)
    assert (row.display, row.image) == (Display.NONE, "registry.example.com/theirs:1")


def test_sandbox_that_no_host_has_is_an_error(edge: Edge, source: Source) -> None:
    told = tell(edge, source, "running", "nowhere")
    row = edge.fleet.wait_for(session_of(edge, told), Status.ERROR, seconds=30)
    assert row.error_message == (
        "no host that gives its sandboxes to your tenant had sandbox nowhere within 12 s"
    )


def test_sandbox_of_our_own_is_told_of_and_stays_its_sessions(edge: Edge, source: Source) -> None:
    own = edge.fleet.wait_for(edge.fleet.create(), Status.RUNNING)
    told = tell(edge, source, "running", own.sandbox_id or "")
    assert (told["session_id"], told["did"][-1]) == (own.id, "session-linked")
    foreign = edge.fleet.create(tenant="other")
    until = time.monotonic() + 20
    while (other := edge.fleet.store.fleet.get(foreign.id)).sandbox_id is None:
        assert time.monotonic() < until
        edge.fleet.store.wait_for_change(0.1)
    told = tell(edge, source, "terminated", own.id)
    assert told["session_id"] == own.id
    edge.fleet.wait_for(own, Status.TERMINATED)
    claim = edge.fleet.wait_for(
        session_of(edge, tell(edge, source, "running", other.sandbox_id or "")), Status.ERROR, seconds=30
    )
    assert claim.host is None
    assert edge.fleet.store.fleet.get(foreign.id).status in (Status.CREATING, Status.RUNNING)
