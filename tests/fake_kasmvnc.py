"""FakeKasmVNC: a stand-in for the protocol of KasmVNC 1.5.0, for wiring tests. It is not KasmVNC.

It keeps the contract that was seen running or read in KasmVNC's source, traps included: one port for files,
API and WebSocket; the blacklist that counts requests without credentials; a user file that is read anew for
every request; a POST whose body must come with its headers. It has no screen and no RFB: after the greeting
its WebSocket takes commands of its own (`_Socket`), so that a test sees who may do what. A client that
answers the greeting as RFB has it is logged in, and what it presses is in `FakeKasmVNC.pressed`.

Needs nothing but Python's standard library and libcrypt, so that it also runs on a bare host:

    python -m tests.fake_kasmvnc --port 6901 --password-file ~/.kasmpasswd
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import hashlib
import json
import re
import struct
import threading
import time
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qs, unquote

GREETING = b"RFB 003.008\n"
EXTRA_HEADERS = "Cross-Origin-Embedder-Policy: require-corp\r\nCross-Origin-Opener-Policy: same-origin\r\n"
LONGEST_REQUEST = 16 * 1024
LONGEST_PATH = 1024
_ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_FRAME_BYTES = 65536

INDEX = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>FakeKasmVNC</title>
<style>html,body{margin:0;height:100%;background:linear-gradient(#245,#9bc);color:#fff;font:16px sans-serif}
#screen{padding:1em}</style>
<div id="screen" tabindex="0"><h1>FakeKasmVNC</h1><p id="status">init</p><pre id="echo"></pre></div>
<script src="dist/client.js"></script>
</html>
"""

CLIENT = b"""'use strict';
// Keeps the parts of KasmVNC's own client that its surroundings see: parameters and messages to the parent.
const parameters = new URLSearchParams(location.search);
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) parameters.set(name, value);
const status = document.getElementById('status');
let socket = null;

function tell(action, value) {
  if (window.parent !== window) window.parent.postMessage({action, value}, '*');
}

function enter(state) {
  status.textContent = state;
  tell('connection_state', state);
}

function connect() {
  enter('connecting');
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  const path = parameters.get('path') || 'websockify';
  socket = new WebSocket(`${scheme}//${location.host}/${path}`, ['binary']);
  socket.binaryType = 'arraybuffer';
  socket.onmessage = message => {
    const text = new TextDecoder().decode(message.data);
    if (text.startsWith('RFB ')) enter('connected');
    else document.getElementById('echo').textContent += text + '\\n';
  };
  socket.onclose = event => {
    enter('disconnected');
    tell('disconnectrx', event.code);
  };
}

addEventListener('message', message => {
  if (message.source === window.parent && message.data && message.data.action === 'terminate') socket.close();
});
addEventListener('keydown', event => {
  if (socket && socket.readyState === WebSocket.OPEN && parameters.get('view_only') !== 'true')
    socket.send(new TextEncoder().encode(event.key));
});
enter('init');
tell('noVNC_initialized', null);
if (!['0', 'false'].includes(parameters.get('autoconnect'))) connect();
"""

FILES: dict[str, bytes] = {
    "/index.html": INDEX,
    "/dist/client.js": CLIENT,
    "/dist/style.css": b"body{margin:0}\n",
}
_TYPES = {
    "htm": "text/html", "txt": "text/plain", "css": "text/css", "js": "application/javascript",
    "gif": "image/gif", "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "svg": "image/svg+xml",
}  # fmt: skip


# --- users


_ONE_AT_A_TIME = threading.Lock()
"""crypt(3) answers in a buffer that all threads share."""


@lru_cache(maxsize=1024)
def hash_password(password: str) -> str:
    """As kasmvncpasswd and the API store it: sha256-crypt with the fixed salt `kasm`."""
    libcrypt = ctypes.CDLL("libcrypt.so.1")
    libcrypt.crypt.restype = ctypes.c_char_p
    with _ONE_AT_A_TIME:
        hashed: bytes = libcrypt.crypt(password.encode(), b"$5$kasm$")
    return hashed.decode()


@dataclass(frozen=True)
class User:
    name: str
    hashed: str
    read: bool = False
    write: bool = False
    owner: bool = False

    def line(self) -> str:
        flags = "".join(
            letter for letter, on in zip("rwo", (self.read, self.write, self.owner), strict=True) if on
        )
        return f"{self.name}:{self.hashed}:{flags}\n"


def read_users(file: Path) -> dict[str, User]:
    """Lines `name:hash:permissions`; others are passed over, a missing file has no users."""
    users = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        name, _, rest = line.partition(":")
        hashed, colon, flags = rest.partition(":")
        if colon:
            users[name] = User(name, hashed, "r" in flags, "w" in flags, "o" in flags)
    return users


def write_users(file: Path, users: dict[str, User]) -> None:
    """Replaced as a whole, as KasmVNC does it."""
    new = file.with_name(file.name + ".tmp")
    new.write_text("".join(user.line() for user in users.values()))
    new.chmod(0o600)
    new.replace(file)


class Blacklist:
    """After `threshold` failures an address is refused until it has been silent for longer than `seconds`."""

    def __init__(self, threshold: int, seconds: float) -> None:
        self._threshold = threshold
        self._seconds = seconds
        self.failures: dict[str, int] = {}
        self._since: dict[str, float] = {}

    def holds(self, address: str) -> bool:
        if address not in self._since:
            return False
        now = time.monotonic()
        if now - self._since[address] > self._seconds:
            del self._since[address]
            self.failures.pop(address, None)
            return False
        # Each attempt starts the time anew, so one who keeps asking never comes in again.
        self._since[address] = now
        return True

    def add_failure(self, address: str) -> None:
        self.failures[address] = self.failures.get(address, 0) + 1
        if self._threshold and self.failures[address] >= self._threshold:
            self._since[address] = time.monotonic()


# --- pictures


def picture(width: int, height: int, *, uniform: bool = False) -> bytes:
    """A grey JPEG of blocks of 8x8 pixels, all alike or like a chessboard."""
    across, down = -(-width // 8), -(-height // 8)
    levels = [[0 if uniform or (x + y) % 2 else 40 for x in range(across)] for y in range(down)]
    bits = _scan_bits([level for row in levels for level in row])
    scan = int(bits + "1" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big")
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xDB, b"\0" + b"\x10" * 64),
            _segment(0xC0, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\0"),
            # Categories 0 and 6 to 10 of brightness, all with codes of 3 bits; and "nothing more" alone.
            _segment(0xC4, b"\0" + bytes([0, 0, 6]) + bytes(13) + bytes([0, 6, 7, 8, 9, 10])),
            _segment(0xC4, b"\x10" + bytes([1]) + bytes(15) + b"\0"),
            _segment(0xDA, b"\x01\x01\0\0\x3f\0"),
            scan.replace(b"\xff", b"\xff\0"),
            b"\xff\xd9",
        ]
    )


def _scan_bits(levels: list[int]) -> str:
    bits, before = [], 0
    for level in levels:
        step, before = level - before, level
        if step:
            magnitude = abs(step).bit_length()
            value = step if step > 0 else step + (1 << magnitude) - 1
            bits.append(f"{magnitude - 5:03b}{value:0{magnitude}b}")
        else:
            bits.append("000")
        bits.append("0")
    return "".join(bits)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


# --- the server


@dataclass
class Request:
    """What KasmVNC makes of the bytes before and after the first empty line."""

    text: str
    body: bytes
    address: str

    @property
    def method(self) -> str:
        return self.text.split(" ", 1)[0]

    @property
    def target(self) -> str:
        words = self.text.split(" ", 2)
        return words[1] if len(words) > 1 else ""

    def header(self, name: str) -> str | None:
        found = re.search(rf"\r\n{name}: ([^\r\n]*)", self.text, flags=re.IGNORECASE)
        return found.group(1) if found else None


@dataclass(eq=False)
class Refusal(Exception):
    """An answer instead of what was asked."""

    status: str
    headers: str = "Server: KasmVNC/4.0\r\nConnection: close\r\nContent-type: text/plain\r\n" + EXTRA_HEADERS
    body: bytes = b""


def not_found() -> Refusal:
    return Refusal("404 Not Found", body=b"404")


def bad_request() -> Refusal:
    return Refusal("400 Bad Request", body=b"400 Bad Request")


@dataclass
class Seen:
    """What has come in, for tests to look at."""

    requests: list[Request] = field(default_factory=list)
    refused: int = 0
    """Answers of 401 for any reason."""


class FakeKasmVNC:
    """One desktop. `screen_after` seconds from now on it has a screenshot; `uniform`: of one colour."""

    def __init__(
        self,
        password_file: Path,
        *,
        size: tuple[int, int] = (1280, 800),
        screen_after: float = 5.0,
        uniform: bool = False,
        blacklist_threshold: int = 5,
        blacklist_seconds: float = 10.0,
        files: dict[str, bytes] | None = None,
    ) -> None:
        self._password_file = password_file
        self._size = size
        self._screen_from = time.monotonic() + screen_after
        self.uniform = uniform
        self.blacklist = Blacklist(blacklist_threshold, blacklist_seconds)
        self.files = FILES | (files or {})
        self.seen = Seen()
        self.pressed: list[tuple[int, ...]] = []
        """By users who may write: (4, down, keysym); (5, buttons, x, y, scroll across, scroll up)."""
        self._sockets: set[_Socket] = set()
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(
        self, address: str, port: int, *, on_listening: Callable[[int], None] = lambda port: None
    ) -> None:
        """Serve until cancelled. The UDP port is bound on every address, whatever `address` says."""
        server = await asyncio.start_server(self._accept, address, port, limit=1 << 20)
        number = server.sockets[0].getsockname()[1]
        udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("0.0.0.0", number)
        )
        on_listening(number)
        try:
            await asyncio.Event().wait()
        finally:
            # asyncio leaks what it accepts while it closes.
            await asyncio.sleep(0.02)
            udp.close()
            server.close()
            for client in list(self._clients):
                client.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            await asyncio.sleep(0)

    def users(self) -> dict[str, User]:
        return read_users(self._password_file)

    def connected(self) -> list[str]:
        """Names of the users of all open sockets."""
        return sorted(one.user for one in self._sockets)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        task = asyncio.current_task()
        if task is not None:
            self._clients.add(task)
        try:
            request = await self._read(reader, peer)
            if request is not None:
                await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            if task is not None:
                self._clients.discard(task)

    async def _read(self, reader: asyncio.StreamReader, peer: str) -> Request | None:
        """At most ten reads, until an empty line. What of a body comes later is never looked at."""
        received = b""
        for _ in range(10):
            more = await reader.read(LONGEST_REQUEST - len(received))
            received += more
            if not more or b"\r\n\r\n" in received:
                break
        head, end, body = received.partition(b"\r\n\r\n")
        if not end:
            return None
        request = Request(head.decode("latin-1") + "\r\n", body, peer)
        forwarded = (request.header("X-Forwarded-For") or "").split(",")[0]
        if re.fullmatch(r"[0-9A-Fa-f.:]{1,63}", forwarded):
            request.address = forwarded
        self.seen.requests.append(request)
        return request

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            user = self._authenticate(request)
            if self._is_upgrade(request):
                await self._open_socket(request, user, reader, writer)
                return
            answer = self._api(request, user) or self._file(request)
        except Refusal as refusal:
            if refusal.status.startswith("401"):
                self.seen.refused += 1
            answer = f"HTTP/1.1 {refusal.status}\r\n{refusal.headers}\r\n".encode() + refusal.body
        writer.write(answer)
        await writer.drain()

    def _authenticate(self, request: Request) -> User:
        if self.blacklist.holds(request.address):
            raise Refusal("401 Forbidden", headers="")
        given = request.header("Authorization") or ""
        if not given.startswith("Basic "):
            self.blacklist.add_failure(request.address)
            raise Refusal(
                "401 Unauthorized", headers='WWW-Authenticate: Basic realm="Websockify"\r\n' + EXTRA_HEADERS
            )
        user = self._user_of(given.removeprefix("Basic "))
        if user is None:
            self.blacklist.add_failure(request.address)
            raise Refusal("401 Forbidden", headers=EXTRA_HEADERS)
        return user

    def _user_of(self, credentials: str) -> User | None:
        if len(credentials) > 256:
            return None
        try:
            name, _, password = b64decode(credentials, validate=True).decode().partition(":")
        except (BadBase64, UnicodeDecodeError):
            return None
        user = self.users().get(name)
        return user if user and password and user.hashed == hash_password(password) else None

    # --- files

    def _file(self, request: Request) -> bytes:
        target = request.target
        if request.method != "GET" or not 1 <= len(target) <= LONGEST_PATH or "../" in request.text:
            raise not_found()
        path = target.partition("?")[0]
        # An encoded slash does not part directories, but encoded dots count.
        path = unquote(re.sub("%2[fF]", "_", "/index.html" if path == "/" else path))
        if "../" in path:
            raise not_found()
        if path in self.files:
            return self._ok(_type_of(path), self.files[path])
        inside = [name for name in self.files if name.startswith(path.rstrip("/") + "/")]
        if inside and not path.endswith("/"):
            raise Refusal("301 Moved Permanently", headers=f"Location: {path}/\r\n" + not_found().headers)
        if inside:
            return self._ok("text/html", b"<html><title>Directory Listing</title></html>", length=False)
        raise not_found()

    def _ok(self, content_type: str, body: bytes, *, length: bool = True) -> bytes:
        size = f"Content-length: {len(body)}\r\n" if length else ""
        head = (
            "HTTP/1.1 200 OK\r\nServer: KasmVNC/4.0\r\nConnection: close\r\n"
            f"Content-type: {content_type}\r\n{size}{EXTRA_HEADERS}\r\n"
        )
        return head.encode() + body

    # --- owner's API

    def _api(self, request: Request, user: User) -> bytes | None:
        """None: not a path of the API, so the files are asked."""
        if "/api/" not in request.text:
            return None
        if not user.owner:
            raise Refusal("401 Unauthorized", body=b"401 Unauthorized")
        path, _, query = request.target.partition("?")
        if len(request.target) > LONGEST_PATH or "../" in request.text:
            return None
        if request.method == "POST":
            return None if query else self._post(path, request.body)
        if request.method != "GET":
            return None
        arguments = {name: values[-1] for name, values in parse_qs(query).items()}
        calls: dict[str, Callable[[dict[str, str]], bytes]] = {
            "/api/get_screenshot": self._screenshot,
            "/api/get_users": lambda _: self._ok("text/plain", self._listed_users()),
            "/api/get_sessions": lambda _: self._ok("text/plain", self._listed_sessions()),
            "/api/get_bottleneck_stats": lambda _: self._ok("text/plain", b"{}"),
            "/api/create_user": lambda given: self._change("create_user", [_from_query(given)]),
            "/api/update_user": lambda given: self._change("update_user", [_from_query(given)]),
            "/api/remove_user": lambda given: self._change("remove_user", [_from_query(given)]),
        }
        return calls[path](arguments) if path in calls else None

    def _post(self, path: str, body: bytes) -> bytes | None:
        name = path.removeprefix("/api/")
        if name not in ("create_user", "update_user", "remove_user"):
            return None
        try:
            users = json.loads(body)
        except ValueError:
            raise bad_request() from None
        known = {"user": str, "password": str, "read": bool, "write": bool, "owner": bool}
        if not isinstance(users, list) or not all(isinstance(one, dict) for one in users):
            raise bad_request()
        if any(not isinstance(value, known.get(key, ())) for one in users for key, value in one.items()):
            raise bad_request()
        return self._change(name, users)

    def _change(self, name: str, given: list[dict[str, str | bool]]) -> bytes:
        users = self.users()
        if name != "create_user" and any(one.get("user") not in users for one in given):
            raise bad_request()
        for one in given:
            self._change_one(name, users, one)
        write_users(self._password_file, users)
        for connection in list(self._sockets):
            if connection.user not in users:
                connection.cut()
        return self._ok("text/plain", b"200 OK")

    def _change_one(self, name: str, users: dict[str, User], given: dict[str, str | bool]) -> None:
        user, password = str(given.get("user", "")), str(given.get("password", ""))
        flags = {key: bool(value) for key, value in given.items() if key in ("read", "write", "owner")}
        if not user or (name == "create_user" and not password):
            raise bad_request()
        if name == "remove_user":
            del users[user]
        elif name == "create_user":
            users[user] = User(user, hash_password(password), **flags)
        else:
            hashed = hash_password(password) if password else users[user].hashed
            before = {name: getattr(users[user], name) for name in ("read", "write", "owner")}
            users[user] = User(user, hashed, **{**before, **flags})

    def _screenshot(self, arguments: dict[str, str]) -> bytes:
        if time.monotonic() < self._screen_from:
            raise bad_request()
        width, height = self._size
        asked_width, asked_height = (
            min(limit, int(arguments.get(side, "4096")))
            for side, limit in (("width", width), ("height", height))
        )
        scale = min(asked_width / width, asked_height / height)
        if scale < 1:
            width, height = max(1, int(width * scale)), max(1, int(height * scale))
        return self._ok("image/jpeg", picture(width, height, uniform=self.uniform))

    def _listed_users(self) -> bytes:
        """Cut at 80 bytes a user, as KasmVNC's buffer is."""
        users = list(self.users().values())
        lines = ",\n".join(
            f'    {{ "user": "{user.name}", "read": {str(user.read).lower()},'
            f' "write": {str(user.write).lower()}, "owner": {str(user.owner).lower()} }}'
            for user in users
        )
        return f"[\n{lines}\n]\n".encode()[: 80 * len(users)]

    def _listed_sessions(self) -> bytes:
        return json.dumps({"users": [{"username": name} for name in self.connected()]}).encode()

    # --- sockets

    @staticmethod
    def _is_upgrade(request: Request) -> bool:
        """Whatever lacks one of these is taken for a question for a file."""
        needed = ("Host", "Origin", "Sec-WebSocket-Version", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol")
        return (
            request.method == "GET"
            and (request.header("Upgrade") or "").lower() == "websocket"
            and request.header("Connection") is not None
            and all(request.header(name) is not None for name in needed)
        )

    async def _open_socket(
        self, request: Request, user: User, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        key = (request.header("Sec-WebSocket-Key") or "").encode()
        accept = b64encode(hashlib.sha1(key + _ACCEPT_SALT, usedforsecurity=False).digest()).decode()
        protocol = (request.header("Sec-WebSocket-Protocol") or "").split(",")[0]
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n".encode()
        )
        connection = _Socket(user.name, self.users, reader, writer, self._size, self.pressed)
        self._sockets.add(connection)
        try:
            await connection.run(request.body)
        finally:
            self._sockets.discard(connection)


class _Socket:
    """One WebSocket after its upgrade. A client's message is answered by `wrote <it>`, or by `ignored <it>`
    where its user may not write. Beyond: `pour N` is answered by N zero bytes, `deaf` ends all reading,
    `half` by the first half of a frame, `bye` by a close frame and the end."""

    def __init__(
        self,
        user: str,
        users: Callable[[], dict[str, User]],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        size: tuple[int, int],
        pressed: list[tuple[int, ...]],
    ) -> None:
        self.user = user
        self._size = size
        self._pressed = pressed
        self._stream = bytearray()
        self._users = users
        self._reader = reader
        self._writer = writer

    def cut(self) -> None:
        """End without a word, as a removed user's connection does."""
        self._writer.close()
        self._reader.feed_eof()

    async def run(self, early: bytes) -> None:
        self._early = early
        await self._send(GREETING)
        while True:
            opcode, payload = await self._frame()
            if opcode == _PING:
                await self._send(payload, opcode=_PONG)
            elif opcode == _CLOSE:
                await self._send(payload[:2], opcode=_CLOSE)
                return
            elif opcode == _BINARY and not await self._do(payload):
                return

    async def _do(self, message: bytes) -> bool:
        """Whether to go on."""
        user = self._users().get(self.user)
        if message == GREETING:
            await self._speak_rfb()
            return False
        if message.startswith(b"pour "):
            await self._pour(int(message[5:]))
        elif message == b"deaf":
            await asyncio.sleep(3600)
        elif message == b"half":
            self._writer.write(struct.pack(">BBH", 0x80 | _BINARY, 126, 1000) + bytes(500))
        elif message == b"bye":
            await self._send(struct.pack(">H", 1001), opcode=_CLOSE)
            return False
        else:
            await self._send((b"wrote " if user and user.write else b"ignored ") + message)
        return True

    async def _speak_rfb(self) -> None:
        """VncAuth with any answer, a screen, and then keys and the longer pointer message; anything else puts
        KasmVNC out of step, so it hangs up."""
        await self._send(b"\x01\x02")
        await self._of_stream(1)
        await self._send(bytes(16))
        await self._of_stream(16)
        await self._send(bytes(4))
        await self._of_stream(1)
        await self._send(struct.pack(">HH16xI", *self._size, 4) + b"kasm")
        while (kind := (await self._of_stream(1))[0]) in (4, 5):
            layout = ">BxxI" if kind == 4 else ">HHHhh"
            event = struct.unpack(layout, await self._of_stream(struct.calcsize(layout)))
            user = self._users().get(self.user)
            if user is not None and user.write:
                self._pressed.append((kind, *event))

    async def _of_stream(self, count: int) -> bytes:
        """The next bytes that frames carry, however they are cut."""
        while len(self._stream) < count:
            opcode, payload = await self._frame()
            if opcode == _CLOSE:
                raise ConnectionResetError
            if opcode == _BINARY:
                self._stream += payload
        taken = bytes(self._stream[:count])
        del self._stream[:count]
        return taken

    async def _pour(self, count: int) -> None:
        while count > 0:
            await self._send(bytes(min(count, _FRAME_BYTES)))
            count -= _FRAME_BYTES

    async def _send(self, payload: bytes, *, opcode: int = _BINARY) -> None:
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | opcode, size))
        elif size < 1 << 16:
            head = struct.pack(">BBH", 0x80 | opcode, 126, size)
        else:
            head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
        self._writer.write(head + payload)
        await self._writer.drain()

    async def _frame(self) -> tuple[int, bytes]:
        first, second = await self._exactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self._exactly(2 if size == 126 else 8), "big")
        mask = await self._exactly(4) if second & 0x80 else bytes(4)
        masked = await self._exactly(size)
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked)) if any(mask) else masked
        return first & 0xF, payload

    async def _exactly(self, count: int) -> bytes:
        taken, self._early = self._early[:count], self._early[count:]
        return taken + await self._reader.readexactly(count - len(taken))


def _type_of(path: str) -> str:
    ending = path.rpartition(".")[2] if "." in path else ""
    return next(
        (kind for start, kind in _TYPES.items() if ending.startswith(start)), "application/octet-stream"
    )


def _from_query(arguments: dict[str, str]) -> dict[str, str | bool]:
    given: dict[str, str | bool] = {"user": arguments.get("name", "")}
    if "password" in arguments:
        given["password"] = arguments["password"]
    return given | {
        name: arguments[name] == "true" for name in ("read", "write", "owner") if name in arguments
    }


# --- running it


@contextmanager
def running_fake_kasmvnc(desktop: FakeKasmVNC, *, address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Serve the desktop from a thread of its own; yield the port."""
    started: list[int] = []
    serving: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None] | None]] = []
    ready = threading.Event()

    def listening(number: int) -> None:
        started.append(number)
        serving.append((asyncio.get_running_loop(), asyncio.current_task()))
        ready.set()

    def run() -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(desktop.serve(address, port, on_listening=listening))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if not ready.wait(5):
        raise RuntimeError(f"FakeKasmVNC does not listen on {address}:{port}")
    ((loop, task),) = serving
    try:
        yield started[0]
    finally:
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)
        thread.join(5)


def basic(name: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for KasmVNC's protocol; it is not KasmVNC.")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6901)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--size", default="1280x800")
    parser.add_argument(
        "--screen-after", type=float, default=5.0, help="seconds until screenshots are answered"
    )
    parser.add_argument("--uniform", action="store_true", help="a screen of one colour")
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    desktop = FakeKasmVNC(
        arguments.password_file,
        size=(width, height),
        screen_after=arguments.screen_after,
        uniform=arguments.uniform,
    )

    with suppress(KeyboardInterrupt):
        asyncio.run(desktop.serve(arguments.address, arguments.port))


if __name__ == "__main__":
    main()
