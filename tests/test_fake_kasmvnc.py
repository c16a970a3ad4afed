"""The stand-in keeps the contract of KasmVNC 1.5.0, line by line, so that what passes against it is wired
right."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_kasmvnc import (
    FakeKasmVNC,
    User,
    basic,
    hash_password,
    read_users,
    running_fake_kasmvnc,
    write_users,
)
from tests.relay_process import free_port, wait_for_listener

OWNER, WRITER, READER = (basic(name, f"{name}-secret") for name in ("owner", "writer", "reader"))


def people() -> dict[str, User]:
    return {
        "owner": User("owner", hash_password("owner-secret"), True, True, True),
        "writer": User("writer", hash_password("writer-secret"), True, True),
        "reader": User("reader", hash_password("reader-secret"), True),
    }


@pytest.fixture
def desktop(tmp_path: Path) -> FakeKasmVNC:
    write_users(tmp_path / ".kasmpasswd", people())
    return FakeKasmVNC(tmp_path / ".kasmpasswd", screen_after=0, blacklist_seconds=0.4)


@pytest.fixture
def port(desktop: FakeKasmVNC) -> Iterator[int]:
    with running_fake_kasmvnc(desktop) as number:
        yield number


def ask(port: int, target: str = "/", *, method: str = "GET", body: bytes = b"", **headers: str) -> bytes:
    """The whole answer to one request; header names with underscores."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + body)
        answer = b""
        while more := client.recv(65536):
            answer += more
    return answer


def status(answer: bytes) -> str:
    return answer.partition(b"\r\n")[0].decode().removeprefix("HTTP/1.1 ")


def open_socket(port: int, credentials: str, **headers: str) -> tuple[socket.socket, bytes]:
    """A WebSocket and the answer to its upgrade; a header given as empty is left out."""
    wanted = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Origin": "http://x",
        "Sec_WebSocket_Key": b64encode(os.urandom(16)).decode(),
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Protocol": "binary",
        "Authorization": credentials,
        **headers,
    }
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in wanted.items() if value)
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    client.sendall(f"GET /websockify HTTP/1.1\r\n{lines}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (more := client.recv(1)):
        answer += more
    return client, answer


def say(client: socket.socket, text: bytes) -> bytes:
    client.sendall(bytes((0x82, 0x80 | len(text))) + bytes(4) + text)
    return hear(client)


def hear(client: socket.socket) -> bytes:
    return client.recv(client.recv(2, socket.MSG_WAITALL)[1], socket.MSG_WAITALL)


def test_without_credentials_the_browser_is_asked_and_with_wrong_ones_refused(port: int) -> None:
    answer = ask(port)
    assert status(answer) == "401 Unauthorized"
    assert b'WWW-Authenticate: Basic realm="Websockify"' in answer
    for wrong in (basic("owner", "guess"), basic("nobody", "owner-secret"), basic("owner", ""), "Basic ?"):
        answer = ask(port, Authorization=wrong, X_Forwarded_For="10.0.0.1")
        assert status(answer) == "401 Forbidden"
        assert b"WWW-Authenticate" not in answer


def test_files_come_with_the_headers_that_isolate_them_and_the_connection_ends(port: int) -> None:
    answer = ask(port, Authorization=READER)
    assert status(answer) == "200 OK"
    for header in (
        b"Connection: close", b"Content-type: text/html", b"Cross-Origin-Embedder-Policy: require-corp",
        b"Cross-Origin-Opener-Policy: same-origin",
    ):  # fmt: skip
        assert header in answer
    assert b"Content-type: application/javascript" in ask(port, "/dist/client.js", Authorization=READER)
    for absent in (b"ETag", b"Cache-Control", b"X-Frame-Options", b"Content-Security-Policy"):
        assert absent not in answer


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "OPTIONS", "DELETE"])
def test_files_are_given_to_get_only(port: int, method: str) -> None:
    assert status(ask(port, method=method, Authorization=OWNER)) == "404 Not Found"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/index.html?x=1", "200 OK"),
        ("/dist", "301 Moved Permanently"),
        ("/dist/", "200 OK"),
        ("/dist/../index.html", "404 Not Found"),
        ("/%2e%2e/etc/passwd", "404 Not Found"),
        ("/dist/%2e%2e/index.html", "404 Not Found"),
        ("/missing", "404 Not Found"),
        ("/index.html?" + "x" * 1024, "404 Not Found"),
        ("/index.html?x=../", "404 Not Found"),
    ],
)
def test_paths_are_answered_as_kasmvnc_answers_them(port: int, target: str, expected: str) -> None:
    assert status(ask(port, target, Authorization=READER)) == expected


def test_two_dots_in_any_header_are_not_found(port: int) -> None:
    assert status(ask(port, Authorization=READER, Referer="http://x/a/../b")) == "404 Not Found"
    assert status(ask(port, Authorization=READER, Cookie="a=../")) == "404 Not Found"


def test_five_requests_without_credentials_lock_an_address_out_until_it_is_silent(port: int) -> None:
    for _ in range(5):
        ask(port)
    # Good credentials are of no use now, and each attempt starts the time anew.
    for _ in range(4):
        answer = ask(port, Authorization=OWNER)
        assert status(answer) == "401 Forbidden"
        assert b"Cross-Origin" not in answer
        time.sleep(0.25)
    assert status(ask(port, Authorization=OWNER, X_Forwarded_For="10.0.0.1, 10.0.0.2")) == "200 OK"
    time.sleep(0.5)
    assert status(ask(port, Authorization=OWNER)) == "200 OK"


def test_the_first_forwarded_address_is_what_counts(port: int) -> None:
    for _ in range(5):
        ask(port, X_Forwarded_For="10.0.0.1, 10.0.0.2")
    assert status(ask(port, Authorization=OWNER, X_Forwarded_For="10.0.0.1")) == "401 Forbidden"
    assert status(ask(port, Authorization=OWNER, X_Forwarded_For="10.0.0.2")) == "200 OK"
    assert status(ask(port, Authorization=OWNER)) == "200 OK"


def test_an_address_that_is_none_and_a_bare_connection_count_for_the_peer_or_not_at_all(
    desktop: FakeKasmVNC, port: int
) -> None:
    ask(port, X_Forwarded_For="nobody")
    for _ in range(6):
        socket.create_connection(("127.0.0.1", port)).close()
    assert desktop.blacklist.failures == {"127.0.0.1": 1}


@pytest.mark.parametrize("missing", ["Origin", "Sec_WebSocket_Protocol", "Upgrade", "Connection"])
def test_an_upgrade_that_lacks_a_header_is_a_question_for_a_file(port: int, missing: str) -> None:
    client, answer = open_socket(port, READER, **{missing: ""})
    client.close()
    assert status(answer) == "404 Not Found"


def test_any_origin_may_open_a_socket_and_is_greeted(port: int) -> None:
    client, answer = open_socket(port, READER, Origin="https://evil.example")
    with client:
        assert status(answer) == "101 Switching Protocols"
        assert b"Sec-WebSocket-Protocol: binary" in answer
        assert hear(client) == b"RFB 003.008\n"


def test_a_readers_messages_are_ignored_and_a_permission_changes_at_once(port: int) -> None:
    writer, _ = open_socket(port, WRITER)
    reader, _ = open_socket(port, READER)
    with writer, reader:
        assert hear(writer) == hear(reader) == b"RFB 003.008\n"
        assert say(writer, b"key") == b"wrote key"
        assert say(reader, b"key") == b"ignored key"
        ask(port, "/api/update_user?name=reader&write=true", Authorization=OWNER)
        assert say(reader, b"key") == b"wrote key"


def test_a_removed_user_loses_his_sockets_and_nobody_else_does(desktop: FakeKasmVNC, port: int) -> None:
    writer, _ = open_socket(port, WRITER)
    reader, _ = open_socket(port, READER)
    with writer, reader:
        hear(writer), hear(reader)
        assert desktop.connected() == ["reader", "writer"]
        assert status(ask(port, "/api/remove_user?name=reader", Authorization=OWNER)) == "200 OK"
        assert reader.recv(1) == b""
        assert say(writer, b"x") == b"wrote x"
    assert status(ask(port, Authorization=READER)) == "401 Forbidden"


def test_the_api_is_the_owners_alone(port: int) -> None:
    for credentials in (WRITER, READER):
        answer = ask(port, "/api/get_users", Authorization=credentials)
        assert status(answer) == "401 Unauthorized"
    assert status(ask(port, "/api/unknown", Authorization=OWNER)) == "404 Not Found"
    assert status(ask(port, "/api/get_users", method="HEAD", Authorization=OWNER)) == "404 Not Found"


def test_users_are_made_by_query_or_posted_list_and_lie_in_the_file_at_once(
    port: int, tmp_path: Path
) -> None:
    made = "/api/create_user?name=a&password=secret12&read=true&write=false&owner=false"
    assert status(ask(port, made, Authorization=OWNER)) == "200 OK"
    body = json.dumps([{"user": "b", "password": "secret34", "read": True, "write": True}]).encode()
    answer = ask(port, "/api/create_user", method="POST", body=body, Authorization=OWNER)
    assert answer.endswith(b"200 OK")
    users = read_users(tmp_path / ".kasmpasswd")
    assert users["a"] == User("a", hash_password("secret12"), read=True)
    assert users["b"] == User("b", hash_password("secret34"), read=True, write=True)
    assert (tmp_path / ".kasmpasswd").stat().st_mode & 0o777 == 0o600
    assert status(ask(port, Authorization=basic("b", "secret34"))) == "200 OK"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'[{"user": "b"}]', b'[{"user": "b", "password": 1}]', b'[{"name": "b"}]']
)
def test_a_body_that_is_no_list_of_users_is_a_bad_request(port: int, body: bytes) -> None:
    answer = ask(port, "/api/create_user", method="POST", body=body, Authorization=OWNER)
    assert status(answer) == "400 Bad Request"


def test_removing_somebody_unknown_removes_nobody(port: int, tmp_path: Path) -> None:
    body = b'[{"user": "reader"}, {"user": "nobody"}]'
    answer = ask(port, "/api/remove_user", method="POST", body=body, Authorization=OWNER)
    assert status(answer) == "400 Bad Request"
    assert "reader" in read_users(tmp_path / ".kasmpasswd")


def test_a_body_that_comes_after_its_headers_is_never_read(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(
            f"POST /api/remove_user HTTP/1.1\r\nHost: x\r\nAuthorization: {OWNER}\r\n\r\n".encode()
        )
        time.sleep(0.1)
        client.sendall(b'[{"user": "reader"}]')
        assert client.recv(4096).startswith(b"HTTP/1.1 400")


def test_users_and_sessions_are_listed(port: int) -> None:
    listed = json.loads(ask(port, "/api/get_users", Authorization=OWNER).partition(b"\r\n\r\n")[2])
    assert {"user": "reader", "read": True, "write": False, "owner": False} in listed
    client, _ = open_socket(port, READER)
    with client:
        hear(client)
        assert b"reader" in ask(port, "/api/get_sessions", Authorization=OWNER)


def test_a_screenshot_is_a_bad_request_until_the_screen_was_looked_at(tmp_path: Path) -> None:
    write_users(tmp_path / "users", people())
    desktop = FakeKasmVNC(tmp_path / "users", screen_after=0.4)
    with running_fake_kasmvnc(desktop) as port:
        assert status(ask(port, "/api/get_screenshot", Authorization=OWNER)) == "400 Bad Request"
        time.sleep(0.5)
        answer = ask(port, "/api/get_screenshot?width=64&height=36", Authorization=OWNER)
        assert status(answer) == "200 OK"
        assert b"Content-type: image/jpeg" in answer
        assert b"\r\n\r\n\xff\xd8" in answer


def test_the_password_file_speaks_the_same_hash_as_openssl() -> None:
    command = ["openssl", "passwd", "-5", "-salt", "kasm", "secret12"]
    assert subprocess.check_output(command, text=True).strip() == hash_password("secret12")


def test_it_runs_as_one_file_with_nothing_but_python(tmp_path: Path) -> None:
    write_users(tmp_path / "users", people())
    port = free_port()
    script = Path(__file__).with_name("fake_kasmvnc.py")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), "--port", str(port), "--password-file", "users"],
        cwd=tmp_path, env={},
    )  # fmt: skip
    try:
        wait_for_listener("127.0.0.1", port)
        assert b"FakeKasmVNC" in ask(port, Authorization=READER)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, pytest.raises(OSError, match="in use"):
            udp.bind(("0.0.0.0", port))
    finally:
        process.kill()
        process.wait()
