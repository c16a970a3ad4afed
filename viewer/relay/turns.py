"""Taking turns: of each session so many at once, all others wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    def __init__(self, most: int) -> None:
        self._most = most
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, session_id: str) -> AsyncIterator[None]:
        turns = self._turns.setdefault(session_id, asyncio.Semaphore(self._most))
        self._waiting[session_id] += 1
        try:
            async with turns:
                yield
        finally:
            self._waiting[session_id] -= 1
            if not self._waiting[session_id]:
                del self._waiting[session_id], self._turns[session_id]
