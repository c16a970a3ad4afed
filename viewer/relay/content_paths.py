"""Which files of a desktop's web client a browser may read."""

from __future__ import annotations

import re

LONGEST_PATH = 512
"""KasmVNC takes 1024 with everything."""

_SEGMENT = re.compile(r"[A-Za-z0-9_@~][A-Za-z0-9_@~.,+=-]*")


def content_path(raw_target: str, prefix: str) -> str | None:
    """The path to ask KasmVNC for, or None when the target is not plainly a file of its web client.

    The relay asks as the desktop's owner, who may do all, and KasmVNC takes a request for one to its API
    wherever it finds `/api/` in it. So only what needs no decoding at all passes: no percent sign, no two
    dots in a row, no segment that is empty or begins with a dot, none that says `api`. What follows a `?` is
    for the client's script in the browser and never leaves here."""
    path, _, _ = raw_target.partition("?")
    if not path.startswith(prefix) or len(path) > LONGEST_PATH:
        return None
    tail = path.removeprefix(prefix)
    if not tail:
        return "/"
    segments = tail.split("/")
    if ".." in tail or any(not _SEGMENT.fullmatch(one) or one.lower() == "api" for one in segments):
        return None
    return "/" + tail
