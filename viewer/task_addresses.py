"""A task's id as one segment of an address.

An id is any printable text that an outside system gave, so that it may hold what a path cannot: a slash,
which servers take for a border however it is escaped, or nothing but dots.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import quote

_WRAPPED = "~"
_UNFIT = re.compile(r"\.{1,2}|~.*|.*[/\\].*", re.DOTALL)


def segment_of(task_id: str) -> str:
    """Escaped as usual, and wrapped, `~` and base64url, where that would not come through."""
    if not _UNFIT.fullmatch(task_id):
        return quote(task_id, safe="")
    return _WRAPPED + base64.urlsafe_b64encode(task_id.encode()).decode().rstrip("=")


def task_id_in(segment: str) -> str:
    """What the segment names, as a server gets it, without escapes. Raises ValueError for what names none."""
    if not segment.startswith(_WRAPPED):
        return segment
    wrapped = segment.removeprefix(_WRAPPED)
    try:
        data = base64.b64decode(wrapped + "=" * (-len(wrapped) % 4), altchars=b"-_", validate=True)
        return data.decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("is not a task's id, wrapped") from error
