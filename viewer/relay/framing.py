"""WebSocket frames as the relay makes them (RFC 6455, 5.2): never compressed or fragmented. Masked are only
those to a desktop, where the relay is the client."""

from __future__ import annotations

from viewer.relay.answers import LONGEST_CLOSE_REASON

_FINAL = 0x80
_BINARY = 0x2
_CLOSE = 0x8
_PING = 0x9
_PONG = 0xA
_MASKED = 0x80


def binary_header(length: int) -> bytes:
    """Header of a binary message of `length` payload bytes."""
    return _header(_BINARY, length)


def masked_binary(payload: bytes) -> bytes:
    """A whole binary message from a client. Its mask is zero, which leaves the payload as it is: a mask is
    there against proxies that take payload for requests, and to a desktop there is none."""
    header = binary_header(len(payload))
    return header[:1] + bytes([header[1] | _MASKED]) + header[2:] + bytes(4) + payload


class Unframed:
    """What frames from a server carry, however they are cut; for as long as they are few and short."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        carried = b""
        while len(self._buffer) >= 2:
            size, start = self._buffer[1] & 0x7F, 2
            if size > 125:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self._buffer[2:start], "big") if len(self._buffer) >= start else 1 << 63
            if len(self._buffer) < start + size:
                break
            if self._buffer[0] & 0xF in (0, _BINARY):
                carried += self._buffer[start : start + size]
            del self._buffer[: start + size]
        return carried


def pong(payload: bytes) -> bytes:
    """A whole pong frame; a ping's payload is 125 bytes at most."""
    return _header(_PONG, len(payload)) + payload


def ping() -> bytes:
    """A whole ping frame without a payload."""
    return _header(_PING, 0)


def close_frame(code: int, reason: str) -> bytes:
    """A whole close frame."""
    payload = code.to_bytes(2, "big") + close_reason(reason)
    return _header(_CLOSE, len(payload)) + payload


def close_reason(text: str) -> bytes:
    """`text` cut to what a close frame holds, at a character's edge."""
    return text.encode()[:LONGEST_CLOSE_REASON].decode(errors="ignore").encode()


def _header(opcode: int, length: int) -> bytes:
    if length < 126:
        return bytes((_FINAL | opcode, length))
    if length < 1 << 16:
        return bytes((_FINAL | opcode, 126)) + length.to_bytes(2, "big")
    return bytes((_FINAL | opcode, 127)) + length.to_bytes(8, "big")
