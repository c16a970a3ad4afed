"""How the catalogue says no."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CatalogueError(Exception):
    """What a site file asks for cannot run; `key` is the place in it, `sentence` says why and what to do."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(f"{key}: {sentence}")
        self.key = key
        self.sentence = sentence


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence about a name that nobody knows."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known)}"
    return f"unknown {kind} {name!r}{hint}"
