"""Docker's events, read once by one thread and given to every reader; a reader that is slow is dropped."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from docker.types import CancellableStream

from viewer.hostwatch.answers import ContainerEvent, StreamEnd
from viewer.hostwatch.own_containers import DockerAway, OwnContainers

QUEUE = 256
"""Events that wait for one reader at most."""
RETRY_SECONDS = 0.5

log = logging.getLogger("viewer.hostwatch")


class FeedAway(Exception):
    """There are no events to be had now; the text is one sentence."""


class TooManyReaders(Exception):
    """As many read already as may."""


class Reader:
    """One open event stream, as the feed sees it. `drop` ends its connection at once."""

    def __init__(self, drop: Callable[[], None]) -> None:
        self.waiting: asyncio.Queue[ContainerEvent | StreamEnd] = asyncio.Queue(QUEUE + 1)
        self._drop = drop

    def give(self, event: ContainerEvent) -> bool:
        """False, and the reader is dropped, where it has not taken what came before."""
        if self.waiting.qsize() >= QUEUE:
            self._drop()
            return False
        self.waiting.put_nowait(event)
        return True

    def end(self, end: StreamEnd) -> None:
        # There is always room: one place more than `give` fills, and each reader ends once.
        self.waiting.put_nowait(end)


class EventFeed:
    """Runs in the event loop, but for the thread that waits for Docker."""

    def __init__(self, own: OwnContainers, *, max_readers: int) -> None:
        self._own = own
        self._max_readers = max_readers
        self._readers: set[Reader] = set()
        self._away = "Docker is not being listened to yet; try again in a moment"
        self._is_up = False
        self._stopping = threading.Event()
        self._stream: CancellableStream[object] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        # A daemon: a Docker that hangs must not keep us from ending.
        self._thread = threading.Thread(target=self._listen, args=(loop,), name="docker-events", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End all readers with a word that says so, and the thread."""
        self._stopping.set()
        self._end_all(StreamEnd(why="stopping", detail="hostwatch is stopping; come back in a moment"))
        if self._stream is not None:
            with suppress(OSError, AttributeError):  # it may be ending by itself
                self._stream.close()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 2)

    def join(self, drop: Callable[[], None]) -> Reader:
        """A new reader, which gets what happens from now on. Raises FeedAway and TooManyReaders."""
        if not self._is_up:
            raise FeedAway(self._away)
        if len(self._readers) >= self._max_readers:
            raise TooManyReaders
        reader = Reader(drop)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        self._readers.discard(reader)

    # --- in the loop -------------------------------------------------------------------------------

    def _up(self) -> None:
        log.info("listening to Docker's events")
        self._is_up = True

    def _spread(self, event: ContainerEvent) -> None:
        for reader in list(self._readers):
            if not reader.give(event):
                log.warning("a reader of events is too slow and is dropped")
                self.leave(reader)

    def _down(self, why: str) -> None:
        if self._is_up or why != self._away:
            log.warning("no events: %s", why)
        self._is_up, self._away = False, why
        self._end_all(StreamEnd(why="docker-away", detail=why))

    def _end_all(self, end: StreamEnd) -> None:
        readers, self._readers = self._readers, set()
        for reader in readers:
            reader.end(end)

    # --- in the thread -----------------------------------------------------------------------------

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping.is_set():
            why = "Docker has ended its events; it is being asked again"
            try:
                with self._own.listening(self._opened) as events:
                    self._tell(loop, self._up)
                    for event in events:
                        self._tell(loop, self._spread, event)
            except DockerAway as problem:
                why = str(problem)
            except Exception:
                if not self._stopping.is_set():  # `stop` has closed what we were reading
                    log.exception("reading Docker's events failed; it is tried again")
            if not self._stopping.is_set():
                self._tell(loop, self._down, why)
            self._stopping.wait(RETRY_SECONDS)

    def _opened(self, stream: CancellableStream[object]) -> None:
        self._stream = stream

    def _tell(self, loop: asyncio.AbstractEventLoop, what: Callable[..., None], *words: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(what, *words)
