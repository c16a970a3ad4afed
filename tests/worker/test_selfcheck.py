"""The self-check through the real chain: Caddy, viewer, worker, relay, opensandbox-server, Docker.

Stand-in, by name: a canned RFB server where a desktop would be.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import RelayProcess, free_port
from tests.worker.edge import KEY, Edge, running_edge
from tests.worker.fleet import CannedSocketDesktop
from viewer import selfcheck
from viewer.credentials import new_key
from viewer.model import Status

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

STUDIO = {
    "name": "studio", "tenant": "main", "host": "here", "backend": "tigervnc", "resolution": "1280x800"
}  # fmt: skip


@pytest.fixture
def edge(
    tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess, request: pytest.FixtureRequest
) -> Iterator[Edge]:
    """Parametrized with `tls` of the site and settings of the viewer."""
    with running_edge(tmp_path, server, relay, **getattr(request, "param", {})) as running:
        yield running


def test_every_step_works_is_timed_and_leaves_nothing_behind(edge: Edge) -> None:
    done = edge.check("--json")
    assert done.returncode == 0, done.stderr + edge.fleet.last_log()
    outcome = json.loads(done.stdout)
    assert [step["name"] for step in outcome["steps"]] == [
        "sign in",
        "create a desktop",
        "open the stream",
        "see a real frame",
        "end the desktop",
        "see that it is gone",
    ]
    assert all(step["ok"] and step["seconds"] >= 0 for step in outcome["steps"])
    assert outcome["steps"][3]["detail"] == "16x16"
    assert edge.fleet.containers() == []


def test_a_person_sees_one_line_for_each_step(edge: Edge) -> None:
    done = edge.check()
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert len(lines) == 6
    assert KEY.text not in done.stdout + done.stderr


def test_wrong_key_fails_at_the_sign_in(edge: Edge) -> None:
    done = edge.check(key=new_key().text)
    assert done.returncode == 1
    assert done.stderr.startswith("deskfleet-check: sign in: Not signed in (401)")


def test_desktop_that_cannot_be_made_is_named_with_the_fleets_own_sentence(edge: Edge) -> None:
    done = edge.check("--image", "broken")
    assert done.returncode == 1
    assert "create a desktop: The desktop could not be made" in done.stderr
    assert "the screen is on fire" in done.stderr


def test_blank_desktop_fails_at_the_frame_and_is_taken_away(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "FRAME_SECONDS", 2.0)
    outcome = asyncio.run(
        selfcheck.check(selfcheck.Edge(url=edge.url), [KEY.text], image="blank", quiet=True)
    )
    assert outcome.error == "see a real frame: the screen stayed one colour for 2 s"
    [row] = edge.fleet.main.list().items
    assert edge.fleet.wait_for(row, Status.TERMINATED).status_reason == "on request"


@pytest.mark.parametrize("edge", [{"max_desktops": 1}], indirect=True)
def test_full_fleet_is_well_and_says_what_was_skipped(edge: Edge) -> None:
    first = asyncio.run(selfcheck.check(selfcheck.Edge(url=edge.url), [KEY.text], quiet=True))
    assert (first.ok, first.skipped) == (True, None)
    httpx.post(
        f"{edge.url}/api/v1/sessions", json={}, headers={"Authorization": f"Bearer {KEY.text}"}, timeout=60
    ).raise_for_status()
    done = edge.check()
    assert done.returncode == 0, done.stderr
    assert "skipped the rest: create a desktop: " in done.stdout
    assert "1 of 1 desktops in use on here" in done.stdout


def test_named_host_is_the_one_that_is_proved(edge: Edge) -> None:
    done = edge.check("--json", "--host", "here", "--resolve", "127.0.0.1")
    assert done.returncode == 0, done.stderr + edge.fleet.last_log()
    assert [step["name"] for step in json.loads(done.stdout)["steps"]][1] == "create a desktop on here"
    done = edge.check("--host", "here", "--host", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("deskfleet-check: create a desktop on nowhere: ")
    assert done.stderr.count("\n") == 1
    assert "ok     see that it is gone on here" in done.stdout


@pytest.fixture
def studio(relay: RelayProcess) -> Iterator[CannedSocketDesktop]:
    relay.give("studio", tenant="main")
    desktop = CannedSocketDesktop(relay.desktops_dir / "studio" / "rfb.sock")
    yield desktop
    desktop.off()


@pytest.mark.parametrize("edge", [{"desktops": [STUDIO]}], indirect=True)
def test_persistent_desktop_is_seen_or_it_is_said_why_not(
    edge: Edge, studio: CannedSocketDesktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "PERSISTENT_SECONDS", 3.0)
    asked = selfcheck.Edge(url=edge.url)
    missing = asyncio.run(selfcheck.check(asked, [KEY.text], makes_desktops=False, quiet=True))
    assert missing.error is not None
    assert missing.error.startswith("persistent desktop studio: it is creating: ")
    studio.on()
    monkeypatch.setattr(selfcheck, "PERSISTENT_SECONDS", 30.0)
    found = asyncio.run(selfcheck.check(asked, [KEY.text], makes_desktops=False, quiet=True))
    assert found.error is None, edge.fleet.last_log()
    [_, step] = found.steps
    assert (step.name, step.detail) == ("persistent desktop studio", "tigervnc on here, 16x16")


@pytest.mark.parametrize("edge", [{"tls": "internal"}], indirect=True)
def test_edge_with_an_authority_of_its_own_is_believed_only_by_that(edge: Edge, tmp_path: Path) -> None:
    root = tmp_path / "caddy/pki/authorities/local/root.crt"
    done = edge.check("--resolve", "127.0.0.1")
    assert done.returncode == 1
    assert "certificate verify failed" in done.stderr
    done = edge.check("--resolve", "127.0.0.1", "--authority", str(root))
    assert done.returncode == 0, done.stderr
    done = edge.check("--authority", str(tmp_path / "nothing.pem"))
    assert (
        done.stderr == f"deskfleet-check: {tmp_path}/nothing.pem: cannot be used: No such file or directory\n"
    )


def test_edge_that_is_not_there_is_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "viewer.selfcheck", "--url", f"http://localhost:{free_port()}"],
        input=KEY.text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("deskfleet-check: sign in: Cannot connect to host localhost")
    assert done.stderr.count("\n") == 1
