"""The hook for OpenClaw hosts and the guide's commands, as processes, against the real server as another."""

from __future__ import annotations

import ast
import base64
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.canaries import assert_nowhere
from tests.event_senders import Source, new_source
from tests.relay_process import free_port
from tests.viewer_fixtures import Person
from tests.viewer_process import ROOT, ViewerProcess
from viewer.model import Session, Status
from viewer.settings import load_settings
from viewer.store import NewSession, Store

GUIDE = ROOT / "docs" / "webhooks-in.md"
HOOK = ROOT / "docs" / "examples" / "openclaw_hook.py"


def test_hook_needs_nothing_beside_python() -> None:
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(HOOK.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= set(sys.stdlib_module_names)
    assert os.access(HOOK, os.X_OK)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewerProcess]:
    with ViewerProcess.running(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def store(server: ViewerProcess) -> Iterator[Store]:
    opened = Store(server.database)
    yield opened
    opened.close()


@pytest.fixture
def source(server: ViewerProcess, store: Store) -> Source:
    return new_source(store, load_settings(server.settings_file), Person("main", server.key))


def running(store: Store, sandbox_id: str) -> Session:
    wanted = NewSession(image="desktop", resolution="1280x800", ttl_seconds=3600, created_by="test")
    made = store.tenant("main").create(wanted).session
    return store.fleet.transition(made.id, Status.RUNNING, host="here", sandbox_id=sandbox_id)


def environment(server: ViewerProcess, source: Source, folder: Path, **more: str) -> dict[str, str]:
    file = folder / "deskfleet.secret"
    file.write_text(f"{source.secret}\n")
    return {
        **os.environ,
        "DESKFLEET_URL": server.url,
        "DESKFLEET_KEY": server.key,
        "DESKFLEET_EVENTS_URL": f"{server.url}/webhooks/openclaw?source={source.id}",
        "DESKFLEET_WEBHOOK_SECRET_FILE": str(file),
        "NO_PROXY": "*",
        **more,
    }


def hook(env: dict[str, str], *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(HOOK), *arguments],
        env=env, input=given, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def answer_of(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.real
def test_hook_tells_of_a_run_and_its_sandbox(
    server: ViewerProcess, source: Source, store: Store, tmp_path: Path
) -> None:
    session, env = running(store, "box-1"), environment(server, source, tmp_path)
    told = hook(env, "run", "start", "--run", "r1", "--task", "t1", "--agent", "main", "--prompt", "Pay")
    assert answer_of(told)["task_id"] == "t1"
    created = hook(env, "sandbox", "created", "box-1", "--run", "r1", "--agent", "main")
    assert answer_of(created) == {
        "ok": True, "did": ["session-linked"], "task_id": "t1", "agent_id": "main", "session_id": session.id,
        "document_id": None,
    }  # fmt: skip
    assert answer_of(hook(env, "sandbox", "error", "box-1", "--run", "r1", "--error", "no memory"))
    row = store.fleet.get(session.id)
    assert (row.task_id, row.agent_id, row.error_message) == ("t1", "main", "no memory")
    assert row.terminate_requested_at is not None
    event = json.dumps({"runId": "r1", "action": "end", "response": "done"})
    assert answer_of(hook(env, "event", given=event))["did"] == ["nothing"]


@pytest.mark.real
def test_hook_tries_again_until_the_server_and_the_sandbox_are_there(
    server: ViewerProcess, source: Source, store: Store, tmp_path: Path
) -> None:
    env = environment(server, source, tmp_path)
    server.stop()
    begun = subprocess.Popen(
        [sys.executable, "-W", "error", str(HOOK), "sandbox", "running", "box-2", "--run", "r2"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        server.start()
        until = time.monotonic() + 30
        while not any("POST" in line and "404" in line for line in server.log.read_text().splitlines()):
            assert time.monotonic() < until, server.log.read_text()[-2000:]
            store.wait_for_change(0.1)
        session = running(store, "box-2")
        said, trouble = begun.communicate(timeout=60)
    finally:
        begun.kill()
    assert begun.returncode == 0, trouble
    assert json.loads(said)["session_id"] == session.id


@pytest.mark.real
def test_hook_says_why_it_was_refused_and_shows_no_secret(
    server: ViewerProcess, source: Source, tmp_path: Path
) -> None:
    wrong = base64.b64encode(b"another secret").decode()
    env = environment(server, source, tmp_path)
    refused = hook(
        {**env, "DESKFLEET_WEBHOOK_SECRET_FILE": "", "DESKFLEET_WEBHOOK_SECRET": f"whsec_{wrong}"},
        "run", "start", "--run", "r3",
    )  # fmt: skip
    assert refused.returncode == 1
    assert "401: It is of no good webhook secret" in refused.stderr
    assert wrong not in refused.stderr + refused.stdout
    not_there = hook(env, "sandbox", "created", "nowhere", "--run", "r3", "--patience", "0")
    assert (not_there.returncode, not_there.stderr[:19]) == (1, "openclaw_hook: 404:")
    assert_nowhere(
        [server.log, *server.database.parent.glob("deskfleet.db*")],
        {"secret": source.secret, "bare secret": source.secret.removeprefix("whsec_"), "wrong one": wrong},
    )
    silent = {**env, "DESKFLEET_EVENTS_URL": f"http://127.0.0.1:{free_port()}/webhooks/openclaw"}
    assert hook(silent, "run", "end", "--run", "r3", "--patience", "0").returncode == 1


@pytest.mark.real
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"DESKFLEET_EVENTS_URL": "http://desk.example.com/webhooks/openclaw"}, "is no https:// address"),
        ({"DESKFLEET_EVENTS_URL": ""}, "is no https:// address"),
        ({"DESKFLEET_WEBHOOK_SECRET_FILE": "/nowhere"}, "/nowhere: No such file"),
        ({"DESKFLEET_WEBHOOK_SECRET_FILE": ""}, "there is no webhook secret"),
        ({"DESKFLEET_CA_FILE": "/nowhere"}, "DESKFLEET_CA_FILE"),
    ],
)
def test_hook_that_is_set_up_wrong_says_what_to_set(
    server: ViewerProcess, source: Source, tmp_path: Path, changed: dict[str, str], sentence: str
) -> None:
    done = hook({**environment(server, source, tmp_path), **changed}, "run", "start", "--run", "r")
    assert done.returncode == 2
    assert sentence in done.stderr


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Sends whoever posts on to `target`."""

    target = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307)
        self.send_header("Location", self.target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.mark.real
def test_event_is_not_sent_on_where_another_server_says(
    server: ViewerProcess, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "target", f"{server.url}/webhooks/openclaw")
    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere:
        threading.Thread(target=elsewhere.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{elsewhere.server_address[1]}/"
        env = environment(server, source, tmp_path, DESKFLEET_EVENTS_URL=url)
        done = hook(env, "run", "start", "--run", "r4", "--patience", "0")
    assert (done.returncode, done.stderr[:19]) == (1, "openclaw_hook: 307:")


def blocks_of(section: str) -> list[str]:
    text = GUIDE.read_text()
    part = text[text.index(f"\n## {section}\n") :]
    return re.findall(r"```sh\n(.*?)```", part[: part.index("\n## ", 5)], re.DOTALL)


@pytest.mark.real
def test_commands_of_the_guide_are_taken(
    server: ViewerProcess, source: Source, store: Store, tmp_path: Path
) -> None:
    session, env = running(store, "box-5"), environment(server, source, tmp_path, SANDBOX_ID="box-5")
    by_hook = [line for line in blocks_of("From an OpenClaw host")[0].splitlines() if "export" not in line]
    by_curl = blocks_of("From a shell")
    assert (len(by_hook), len(by_curl)) == (4, 2)
    for script in ("\n".join(by_hook), *by_curl):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=HOOK.parent, env=env, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for line in done.stdout.replace("}{", "}\n{").splitlines():
            assert json.loads(line)["ok"] is True, line
    row = store.fleet.get(session.id)
    assert (row.task_id, row.agent_id) == ("invoices", "main")
    assert row.terminate_requested_at is not None
    runs = {task.external_run_id for task in store.work("main").tasks(None, 50).items}
    assert {"run-7", "run-9"} <= runs
