"""WebSocket frames from server to browser (RFC 6455, 5.2): never masked, compressed or fragmented."""

from __future__ import annotations

from viewer.relay.answers import LONGEST_CLOSE_REASON

_FINAL = 0x80
_BINARY = 0x2
_CLOSE = 0x8
_PING = 0x9
_PONG = 0xA


def binary_header(length: int) -> bytes:
    """Header of a binary message of `length` payload bytes."""
    return _header(_BINARY, length)


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
