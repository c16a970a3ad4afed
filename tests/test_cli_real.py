"""The program `deskfleet` as a process, against the real server as another one."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.self_signed import self_signed
from tests.viewer_process import ROOT, ViewerProcess
from viewer.store import NewSession, Store

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewerProcess]:
    with ViewerProcess.running(tmp_path_factory.mktemp("server")) as started:
        yield started


def begin(tmp_path: Path, url: str, key: str, *command: str) -> subprocess.Popen[str]:
    """The key comes from a file, as it should."""
    key_file = tmp_path / "cli.key"
    key_file.touch(0o600)
    key_file.write_text(f"{key}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DESKFLEET_")}
    environment |= {"DESKFLEET_URL": url, "DESKFLEET_KEY_FILE": str(key_file), "HOME": str(tmp_path)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "viewer.cli", *command],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def make(database: Path) -> str:
    store = Store(database)
    wanted = NewSession(image="desktop", resolution="1280x800", ttl_seconds=3600, created_by="test")
    session = store.tenant("main").create(wanted).session
    store.close()
    return session.id


def read_id(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    line = program.stdout.readline()
    assert line, program.communicate()[1]
    return str(json.loads(line)["session"]["id"])


def test_events_are_followed_over_a_restart_of_the_server(server: ViewerProcess, tmp_path: Path) -> None:
    before = make(server.database)
    program = begin(tmp_path, server.url, server.key, "events", "--json", "--after", "0")
    try:
        assert read_id(program) == before
        server.stop()
        meanwhile = make(server.database)
        server.start()
        assert read_id(program) == meanwhile
        afterwards = make(server.database)
        assert read_id(program) == afterwards
    finally:
        program.terminate()
        _, said = program.communicate(timeout=10)
    assert "trying again" in said or said == ""


def test_who_has_read_enough_of_the_events_leaves_without_a_traceback(
    server: ViewerProcess, tmp_path: Path
) -> None:
    first = make(server.database)
    with begin(tmp_path, server.url, server.key, "events", "--json", "--after", "0") as program:
        while read_id(program) != first:
            pass
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        make(server.database)
        assert (program.stderr.read(), program.wait(timeout=10)) == ("", 0)


def test_refusal_is_one_line_and_an_exit_code(server: ViewerProcess, tmp_path: Path) -> None:
    program = begin(tmp_path, server.url, "df_aaaaaaaa_wrong", "sessions", "list")
    out, err = program.communicate(timeout=20)
    assert (program.returncode, out) == (1, "")
    assert err.startswith("deskfleet: The key is not valid here")
    assert err.count("\n") == 1


class Me(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        me = {
            "id": "k",
            "tenant": "main",
            "role": "operator",
            "via": "key",
            "name": "ci",
            "scopes": ["sessions"],
        }
        body = json.dumps({**me, "since": "v2"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def behind_own_authority(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the authority that vouches for it."""
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Me)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{listener.server_address[1]}", certificate
    listener.shutdown()
    listener.server_close()
    thread.join()


def test_only_an_authority_that_was_named_is_trusted(
    behind_own_authority: tuple[str, Path], tmp_path: Path
) -> None:
    url, authority = behind_own_authority
    trusting = begin(tmp_path, url, "df_a_b", "me", "--ca", str(authority), "--json")
    assert json.loads(trusting.communicate(timeout=20)[0])["tenant"] == "main"
    doubting = begin(tmp_path, url, "df_a_b", "me")
    assert "CERTIFICATE_VERIFY_FAILED" in doubting.communicate(timeout=20)[1]
    assert doubting.returncode == 1
