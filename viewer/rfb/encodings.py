"""Numbers of encodings and pseudo-encodings, and which of them the relay can follow without decoding."""

from __future__ import annotations

RAW, COPY_RECT, ZLIB, TIGHT, ZRLE = 0, 1, 6, 7, 16
DESKTOP_SIZE, LAST_RECT, CURSOR = -223, -224, -239
QEMU_KEYS, LED_STATE, DESKTOP_NAME, EXTENDED_DESKTOP_SIZE = -258, -261, -307, -308
FENCE, CONTINUOUS_UPDATES = -312, -313
GII, XVP, EXTENDED_MOUSE_BUTTONS = -305, -309, -316
EXTENDED_CLIPBOARD = -1063131698
"""0xC0A1E5CE"""

TIGHT_FILL, TIGHT_JPEG, TIGHT_EXPLICIT_FILTER = 8, 9, 4
"""Of the upper half of a Tight rectangle's first byte: the third is a bit of all smaller ones."""
TIGHT_COPY, TIGHT_PALETTE, TIGHT_GRADIENT = 0, 1, 2
TIGHT_SHORTEST_ZIPPED = 12
"""Tight leaves fewer bytes as they are."""

_FOLLOWED = frozenset(
    {
        RAW, COPY_RECT, ZLIB, TIGHT, ZRLE, DESKTOP_SIZE, LAST_RECT, CURSOR, QEMU_KEYS, LED_STATE,
        DESKTOP_NAME, EXTENDED_DESKTOP_SIZE, FENCE, CONTINUOUS_UPDATES,
    }
)  # fmt: skip
_WISHES = (range(-32, -22), range(-256, -246), range(-512, -411), range(-768, -762))
"""Quality and compression: they change no form."""


def can_be_followed(encoding: int) -> bool:
    """Whether `server_filter` knows the length of what a server sends because of it."""
    return encoding in _FOLLOWED or any(encoding in wishes for wishes in _WISHES)
