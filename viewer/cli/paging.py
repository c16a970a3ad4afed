"""Lists come in pages; a command shows as many items as it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

MOST_ON_A_PAGE = 200

_Item_co = TypeVar("_Item_co", covariant=True)


class Page(Protocol[_Item_co]):
    @property
    def items(self) -> tuple[_Item_co, ...]: ...

    @property
    def next_cursor(self) -> str | None: ...


def collect(
    page_from: Callable[[str | None, int], Page[_Item_co]], limit: int | None
) -> tuple[tuple[_Item_co, ...], str | None]:
    """At most `limit` items (None: all), and where the next page begins, if there is one.

    page_from: asks for the page at a cursor, with so many items at most.
    """
    found: tuple[_Item_co, ...] = ()
    cursor: str | None = None
    while limit is None or len(found) < limit:
        wanted = MOST_ON_A_PAGE if limit is None else min(limit - len(found), MOST_ON_A_PAGE)
        page = page_from(cursor, wanted)
        found, cursor = found + page.items, page.next_cursor
        if cursor is None:
            break
    return found, cursor
