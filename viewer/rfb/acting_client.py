"""An RFB client that acts and asks for no picture.

After the handshake it listens for what a server says unasked: that the screen has another size, that it
understands fences, and what becomes of the clipboard. Text beyond Latin-1 needs the extended clipboard (the
community's RFB protocol, 7.5.6 and 7.6.4 there): it is offered, and given when a program pastes it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from viewer.rfb import encodings
from viewer.rfb.client_parts import (
    Rectangle,
    check_size,
    initialise,
    read_update,
    set_encodings,
    skip_message,
    skip_text,
)
from viewer.rfb.conversation import ProtocolError, Read, Script, Write
from viewer.rfb.handshake import client_handshake, kasm_handshake

SET_ENCODINGS = set_encodings(
    (
        encodings.RAW,
        encodings.DESKTOP_SIZE,
        encodings.LAST_RECT,
        encodings.FENCE,
        encodings.EXTENDED_CLIPBOARD,
    )
)

_TEXT = 1
_REQUEST, _PEEK, _NOTIFY, _PROVIDE = 1 << 25, 1 << 26, 1 << 27, 1 << 28
_CAPABILITIES = 1 << 24
_FENCE_ASKS, _FENCE_IN_ORDER = 1 << 31, 0b011

_CUT_TEXT = Struct(">Bxxxi")
_FENCE = Struct(">BxxxIB")


@dataclass
class Counterpart:
    """What is known of the server. on_news: called when it has said any of that."""

    on_news: Callable[[], None] = lambda: None
    width: int = 0
    height: int = 0
    """Pixels; 0 until the handshake is over."""
    has_fences: bool = False
    takes_unicode: bool = False
    """On the clipboard."""
    offered_text: str | None = None
    """On the clipboard by us; None: nothing, or something else has taken its place."""
    fences_back: int = 0


def act(password: str | None, server: Counterpart) -> Script[None]:
    """Log in and listen, for ever. Raises Refused or ProtocolError."""
    yield from client_handshake(password)
    server.width, server.height = yield from initialise()
    yield Write(SET_ENCODINGS)
    server.on_news()
    while True:
        yield from _one_message(server)


def act_blindly(server: Counterpart) -> Script[None]:
    """Log in to KasmVNC, whose messages after that are its own, and are not listened to. It drops a client
    that has not offered to follow another size of the screen; so the next connection learns of it."""
    yield from kasm_handshake()
    server.width, server.height = yield from initialise()
    server.on_news()


def fence() -> bytes:
    """Comes back when the server has done all that was sent before."""
    return _FENCE.pack(248, _FENCE_ASKS | _FENCE_IN_ORDER, 0)


def offer_text(server: Counterpart, text: str) -> bytes:
    """Put the text onto the server's clipboard. UnicodeEncodeError: it takes Latin-1 alone."""
    if not server.takes_unicode:
        plain = text.encode("latin-1")
        return _CUT_TEXT.pack(6, len(plain)) + plain
    server.offered_text = text
    return _extended(_NOTIFY | _TEXT)


def _one_message(server: Counterpart) -> Script[None]:
    kind = (yield Read(1))[0]
    if kind == 0:
        yield from _update(server)
    elif kind == 3:
        yield from _cut_text(server)
    elif kind == 248:
        yield from _fence(server)
    else:
        yield from skip_message(kind)


def _update(server: Counterpart) -> Script[None]:
    """No picture was asked for, so there can be only news of the screen's size."""

    def take(rectangle: Rectangle) -> Script[None]:
        if rectangle.encoding != encodings.DESKTOP_SIZE:
            raise ProtocolError(f"the desktop sent encoding {rectangle.encoding}, which was not asked for")
        check_size(rectangle.width, rectangle.height)
        server.width, server.height = rectangle.width, rectangle.height
        yield from ()

    yield from read_update(take)
    server.on_news()


def _cut_text(server: Counterpart) -> Script[None]:
    length = int.from_bytes((yield Read(7))[3:], "big", signed=True)
    if length >= 0:
        yield from skip_text(length)
        return
    if length > -4:
        raise ProtocolError("the desktop sent a clipboard message without its flags")
    flags = int.from_bytes((yield Read(4)), "big")
    yield from skip_text(-length - 4)
    if flags & _CAPABILITIES:
        server.takes_unicode = bool(flags & _TEXT)
    elif flags & _REQUEST and flags & _TEXT and server.offered_text is not None:
        yield Write(_provide(server.offered_text))
    elif flags & _PEEK:
        yield Write(_extended(_NOTIFY | (_TEXT if server.offered_text is not None else 0)))
    elif flags & (_NOTIFY | _PROVIDE):
        server.offered_text = None
    server.on_news()


def _fence(server: Counterpart) -> Script[None]:
    header = yield Read(8)
    flags, length = int.from_bytes(header[3:7], "big"), header[7]
    if length > 64:
        raise ProtocolError(f"the desktop sent a fence of {length} bytes")
    payload = yield Read(length)
    server.has_fences = True
    if flags & _FENCE_ASKS:
        yield Write(_FENCE.pack(248, flags & _FENCE_IN_ORDER, length) + payload)
    else:
        server.fences_back += 1
    server.on_news()


def _provide(text: str) -> bytes:
    # Lines end as in Windows there, and the text in a NUL that counts.
    plain = text.replace("\r\n", "\n").replace("\n", "\r\n").encode() + b"\0"
    return _extended(_PROVIDE | _TEXT, zlib.compress(len(plain).to_bytes(4, "big") + plain))


def _extended(flags: int, data: bytes = b"") -> bytes:
    """Such a message has a negative length."""
    return _CUT_TEXT.pack(6, -4 - len(data)) + flags.to_bytes(4, "big") + data
