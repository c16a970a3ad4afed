"""A WebSocket client of the bench: blocking, lean, and able to offer compression as every browser does."""

from __future__ import annotations

import os
import re
import socket
import zlib
from base64 import b64encode
from struct import Struct, pack, unpack

from tests.rfb_pump import update_bytes
from viewer.rfb.client_parts import SET_PIXEL_FORMAT, set_encodings
from viewer.rfb.watching_client import PLAIN

_BUFFER = 1 << 20
_REQUEST = Struct(">BBHHHH")
_COMPRESSED = 0x40
_OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
_CONTROL = 0x8
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA


class StreamClient:
    """One open stream, as RFB client. Raises ConnectionError when the other side ends it."""

    def __init__(self, port: int, path: str, headers: dict[str, str], *, offer_compression: bool) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(_BUFFER)
        self._unread = memoryview(b"")
        self._payload_left = 0
        self._inflated = b""
        self._inflater = zlib.decompressobj(-15)
        self.compressed = self._upgrade(port, path, headers | (_OFFER if offer_compression else {}))
        self._shake_hands()

    def close(self) -> None:
        self._socket.close()

    def request(self, width: int, height: int, *, incremental: bool = False) -> None:
        self._send(_REQUEST.pack(3, incremental, 0, 0, width, height))

    def skip_answer_of_pump(self, width: int, height: int) -> int:
        """Read one whole answer of `rfb_pump`; return its bytes."""
        count = update_bytes(width, height)
        self._take(count)
        return count

    def ask_for_raw(self) -> None:
        self._send(SET_PIXEL_FORMAT + set_encodings(PLAIN))

    def skip_update(self) -> int:
        """Read one FramebufferUpdate of a real server, all Raw; return its bytes."""
        kind, rectangles = unpack(">BxH", self._take(4, keep=True))
        if kind != 0:
            raise ConnectionError(f"unexpected server message {kind}")
        count = 4
        for _ in range(rectangles):
            _x, _y, width, height, encoding = unpack(">HHHHi", self._take(12, keep=True))
            count += 12
            if encoding == -224:
                break
            if encoding == 0:
                self._take(4 * width * height)
                count += 4 * width * height
        return count

    def _upgrade(self, port: int, path: str, headers: dict[str, str]) -> bool:
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        key = b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n"
            f"{extra}\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = self._socket.recv(1)
            if not more:
                break
            answer += more
        if not answer.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"no upgrade on {path}: {answer[:200]!r}")
        return re.search(rb"(?i)\nsec-websocket-extensions:.*permessage-deflate", answer) is not None

    def _shake_hands(self) -> None:
        self._take(12)
        self._send(b"RFB 003.008\n")
        self._take(2)
        self._send(b"\x01")
        self._take(4)
        self._send(b"\x01")
        self._take(int.from_bytes(self._take(24, keep=True)[20:], "big"))

    def _send(self, payload: bytes, *, opcode: int = _BINARY) -> None:
        # A zero mask leaves the payload as it is; servers unmask all the same.
        self._socket.sendall(pack(">BB4x", 0x80 | opcode, 0x80 | len(payload)) + payload)

    def _take(self, count: int, *, keep: bool = False) -> bytes:
        """Read `count` bytes of payload; return them if `keep`."""
        kept = bytearray()
        while count:
            part = self._payload(count)
            count -= len(part)
            if keep:
                kept += part
        return bytes(kept)

    def _payload(self, most: int) -> memoryview:
        """Some payload bytes, at most `most`, across frames."""
        while True:
            if self._inflated:
                part, self._inflated = self._inflated[:most], self._inflated[most:]
                return memoryview(part)
            if self._payload_left:
                part_of_frame = self._wire(min(most, self._payload_left))
                self._payload_left -= len(part_of_frame)
                return part_of_frame
            self._next_frame()

    def _next_frame(self) -> None:
        first, second = self._exactly(2)
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(self._exactly(2), "big")
        elif length == 127:
            length = int.from_bytes(self._exactly(8), "big")
        if first & _CONTROL:
            self._control(first & 0xF, self._exactly(length))
        elif first & _COMPRESSED:
            self._inflated = self._inflater.decompress(self._exactly(length) + b"\0\0\xff\xff")
        else:
            self._payload_left = length

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == _CLOSE:
            raise ConnectionError(f"the stream was ended: {payload!r}")
        if opcode == _PING:
            self._send(payload, opcode=_PONG)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            data += self._wire(count - len(data))
        return bytes(data)

    def _wire(self, most: int) -> memoryview:
        if not self._unread:
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise ConnectionError("the stream was cut")
            self._unread = memoryview(self._buffer)[:count]
        part, self._unread = self._unread[:most], self._unread[most:]
        return part
