"""Both handshakes of a stream: as a client towards Xvnc, and as a server towards the browser.

Towards Xvnc it ends before ClientInit is sent, towards the browser after ClientInit was read: from there on
the two ends can be joined byte by byte.
"""

from __future__ import annotations

import re

from viewer.rfb.conversation import ProtocolError, Read, Refused, Script, Write
from viewer.rfb.vncauth import CHALLENGE_BYTES, vnc_auth_response

VERSION = b"RFB 003.008\n"
SECURITY_NONE = 1
SECURITY_VNC_AUTH = 2
CLIENT_INIT_SHARED = b"\x01"
"""A client that asks for itself alone would throw every other watcher out, so we always ask to share."""

LONGEST_REASON = 4096
_VERSION_PATTERN = re.compile(rb"RFB (\d{3})\.(\d{3})\n")


def client_handshake(password: str | None) -> Script[None]:
    """Log in to an RFB 3.8 server; ends after SecurityResult. Raises Refused or ProtocolError."""
    version = _parse_version((yield Read(len(VERSION))), who="the desktop")
    if version < (3, 8):
        raise Refused(f"the desktop speaks RFB {version[0]}.{version[1]}; the relay needs 3.8 or later")
    yield Write(VERSION)
    offered = yield from _security_types()
    chosen = _choose_security(offered, password)
    yield Write(bytes([chosen]))
    if chosen == SECURITY_VNC_AUTH:
        challenge = yield Read(CHALLENGE_BYTES)
        yield Write(vnc_auth_response(password or "", challenge))
    yield from _security_result()


def kasm_handshake() -> Script[None]:
    """The same with KasmVNC, which has looked at its own users before: it asks for an empty password, or for
    none at all, as it was started."""
    _parse_version((yield Read(len(VERSION))), who="the desktop")
    yield Write(VERSION)
    offered = yield from _security_types()
    chosen = SECURITY_NONE if SECURITY_NONE in offered else SECURITY_VNC_AUTH
    if chosen not in offered:
        raise Refused(f"the desktop offers only security types {list(offered)}")
    yield Write(bytes([chosen]))
    if chosen == SECURITY_VNC_AUTH:
        yield Write(vnc_auth_response("", (yield Read(CHALLENGE_BYTES))))
    yield from _security_result()


def server_handshake() -> Script[bool]:
    """Offer a browser security type None; ends after ClientInit, whose shared flag is the result.

    Clients of RFB 3.3 and 3.7 are served the shorter exchanges of those versions."""
    yield Write(VERSION)
    version = _parse_version((yield Read(len(VERSION))), who="the viewer")
    if version < (3, 7):
        yield Write(SECURITY_NONE.to_bytes(4, "big"))
    else:
        yield Write(bytes([1, SECURITY_NONE]))
        chosen = yield Read(1)
        if chosen[0] != SECURITY_NONE:
            raise ProtocolError(f"the viewer chose security type {chosen[0]}; only None (1) was offered")
    if version >= (3, 8):
        yield Write((0).to_bytes(4, "big"))
    shared = yield Read(1)
    return shared != b"\0"


def _parse_version(banner: bytes, *, who: str) -> tuple[int, int]:
    match = _VERSION_PATTERN.fullmatch(banner)
    if match is None:
        raise ProtocolError(f"{who} does not speak RFB")
    return int(match[1]), int(match[2])


def _security_types() -> Script[bytes]:
    count = yield Read(1)
    if count[0] == 0:
        reason = yield from _reason()
        raise Refused(f"the desktop refused the connection: {reason}")
    return (yield Read(count[0]))


def _choose_security(offered: bytes, password: str | None) -> int:
    """A session with a password accepts nothing less: a port that was given to another sandbox meanwhile, and
    asks for none, must not be taken for this session's desktop."""
    if password is not None:
        if SECURITY_VNC_AUTH in offered:
            return SECURITY_VNC_AUTH
        raise Refused(
            "the desktop does not ask for this session's password, so it is not this session's desktop"
        )
    if SECURITY_NONE in offered:
        return SECURITY_NONE
    raise Refused(f"the desktop offers only security types {list(offered)}, and no password is known for it")


def _security_result() -> Script[None]:
    result = int.from_bytes((yield Read(4)), "big")
    if result != 0:
        reason = yield from _reason()
        raise Refused(f"the desktop refused the login: {reason}")


def _reason() -> Script[str]:
    length = int.from_bytes((yield Read(4)), "big")
    if length > LONGEST_REASON:
        raise ProtocolError("the desktop sent a reason of impossible length")
    text = (yield Read(length)).decode("utf-8", "replace")
    return "".join(character for character in text if character.isprintable())
