"""Which addresses at a session's own origin are Chrome DevTools', and which of those are given out.

Chromium serves on one port its front-end, a WebSocket for each target, one for the browser as a whole, and
lists of targets that also open and close some. Given out are the front-end's files and the targets' sockets;
who may see the targets asks the API.
"""

from __future__ import annotations

import re

FRONT_END = "/devtools/"
PAGE = f"{FRONT_END}inspector.html"
IN_FRAMES = f"{FRONT_END}deskfleet-frame"
"""A page of the relay's own: it leads on to the front-end, where the browser lets it keep what it must."""
TARGET_ID = r"[0-9A-Za-z-]{1,64}"
LONGEST_PATH = 512

# Only what needs no decoding at all: no percent sign, no empty segment, none that begins with a dot.
_FILE = re.compile(r"/devtools(?:/[A-Za-z0-9_@~][A-Za-z0-9_@~.,+=-]*)+", re.ASCII)
_SOCKET = re.compile(rf"/devtools/page/{TARGET_ID}", re.ASCII)
_SOCKETS = re.compile(r"/devtools/(?:page|browser)(?:/.*)?", re.ASCII | re.IGNORECASE)


def is_devtools_path(path: str) -> bool:
    """Does it belong to DevTools rather than to a page of the desktop itself?"""
    return path.startswith(FRONT_END)


def front_end_file(uri: str) -> str | None:
    """The path to ask Chromium for; None for what is not plainly a file of its front-end. What follows a `?`
    is for the front-end's script in the browser."""
    path = uri.partition("?")[0]
    if len(path) > LONGEST_PATH or ".." in path or _SOCKETS.fullmatch(path):
        return None
    return path if _FILE.fullmatch(path) else None


def target_socket(uri: str) -> str | None:
    """The path of a target's WebSocket; None for anything else."""
    return uri if _SOCKET.fullmatch(uri) else None


def front_end_for(target_id: str, origin: str) -> str:
    """Where at `origin` the front-end opens on that target."""
    scheme, _, host = origin.partition("://")
    # The wrong one of the two fails, whatever the page itself was loaded by.
    return f"{PAGE}?{'wss' if scheme == 'https' else 'ws'}={host}{FRONT_END}page/{target_id}"
