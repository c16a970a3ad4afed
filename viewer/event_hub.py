"""Open event streams: all of a process held by one thread, so that a thousand cost no thousand threads.

A view decides who may read and from where on; then its socket comes here (`viewer.serve` takes it out of
gunicorn's hands) and stays until the client goes, the credential ends, or the server stops. Another thread
waits for the database and reads what is new once for all: how many listen costs only the sending.

The outbox is the only buffer. A stream whose client reads slowly is left alone until its socket has room, and
then reads on from its own last event; one that has no room for STALLED_SECONDS is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar, cast

import uvloop

from viewer.accounts import Credential
from viewer.model import Frozen, HostStatus, Principal
from viewer.public import public_session
from viewer.public_documents import public_news
from viewer.public_leases import public_lease
from viewer.public_streams import PublicWatchers
from viewer.rows import Event
from viewer.store import Store
from viewer.tickets import Claims

HEARTBEAT_SECONDS = 15.0
STALLED_SECONDS = 30.0
# A stream ends after this and the client comes back with Last-Event-ID: nothing leaks for good.
LONGEST_STREAM_SECONDS = 3600.0
_BATCH = 100
_BUFFERED_BYTES = 64 * 1024
_LAST_WORDS_SECONDS = 1.0

_T = TypeVar("_T")
_log = logging.getLogger("deskfleet.viewer")


def frame(kind: str, event_id: int, data: str) -> bytes:
    return f"id: {event_id}\nevent: {kind}\ndata: {data}\n\n".encode()


class Reader(Frozen):
    """Who reads a stream, what he has shown for it, and the origin of the addresses that he is told.
    session_id: the one session that he reads of; None: all of his tenant's."""

    who: Principal
    shown: Credential
    origin: str
    ticket: Claims | None = None
    """What he has shown, where it was one."""
    session_id: str | None = None

    def wants(self, event: Event) -> bool:
        return self.session_id is None or (event.about is not None and self.session_id == event.about.id)

    def is_still(self, store: Store) -> bool:
        """Would he who opened it still be let in, and as the same?"""
        if self.ticket is not None:
            return store.tickets.still_bearer(self.ticket) == self.who
        return self.shown.principal(store.accounts) == self.who


class EventStream(asyncio.Protocol):
    """One client's stream. Made anywhere; from `EventHub.carry` on it belongs to the hub's thread.

    `opening`: what is sent first; `last`: the event that it goes on after. `ended` is called once, when the
    stream is over, from any thread.
    """

    def __init__(self, reader: Reader, *, opening: bytes, last: int, ended: Callable[[], None]) -> None:
        self.reader = reader
        self.last = last
        self.is_live = False
        """It gets events as they come; else it reads the outbox by itself until it has caught up."""
        self.is_catching_up = False
        self.chunked = False
        self.board: _Board | None = None
        self._opening = opening
        self._ended = ended
        self._over = threading.Lock()
        self._transport: asyncio.Transport | None = None
        self._began = self._last_sent = 0.0
        self._full_since: float | None = None

    # --- what the event loop tells -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_BUFFERED_BYTES)
        self._began = self._here.now()
        self.send(self._opening)
        self._here.joined(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._here.left(self)
        self.over()

    def pause_writing(self) -> None:
        self._full_since = self._here.now()

    def resume_writing(self) -> None:
        self._full_since = None
        self._here.look_after(self)

    # --- what the hub asks and does ----------------------------------------------------------------

    @property
    def _here(self) -> _Board:
        if self.board is None:
            raise RuntimeError("nobody carries this event stream")
        return self.board

    @property
    def has_room(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._full_since is None

    def is_stalled(self, now: float) -> bool:
        return self._full_since is not None and now - self._full_since >= STALLED_SECONDS

    def has_had_its_time(self, now: float) -> bool:
        return now - self._began >= LONGEST_STREAM_SECONDS

    def is_quiet(self, now: float) -> bool:
        return now - self._last_sent >= HEARTBEAT_SECONDS / 2

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._last_sent = self._here.now()
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def finish(self) -> None:
        """End it properly; the client comes back if it may."""
        if self._transport is not None and not self._transport.is_closing():
            if self.chunked:
                self._transport.write(b"0\r\n\r\n")
            self._transport.close()

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def over(self) -> None:
        """It has ended, or will never begin; told once, however many find out."""
        if self._over.acquire(blocking=False):
            self._ended()


class EventHub:
    """Every open event stream of this process. Its threads start with the first one. Safe to share."""

    def __init__(self, store: Store, *, devtools: Collection[str] = ()) -> None:
        """`devtools`: names of the images that have them."""
        self._store = store
        self._devtools = devtools
        # Reentrant: the signal handler that calls `stop` may have interrupted `carry`.
        self._lock = threading.RLock()
        self._board: _Board | None = None
        self._is_stopping = False

    def carry(self, stream: EventStream, connection: socket.socket, *, chunked: bool = False) -> None:
        """Send the stream over this connection, which is the hub's from now on.

        `chunked`: with HTTP/1.1's framing, by which a client knows a proper end from a torn one.
        """
        stream.chunked = chunked
        with self._lock:
            if self._is_stopping:
                connection.close()
                stream.over()
                return
            if self._board is None:
                self._board = _Board(self._store, self._devtools)
            self._board.carry(stream, connection)

    def stop(self) -> None:
        """End every stream properly, and carry no more; also for signal handlers."""
        with self._lock:
            if self._board is not None and not self._is_stopping:
                self._board.stop()
            self._is_stopping = True

    def close(self) -> None:
        """The same, and wait until it is done. The store must wait for changes no longer."""
        self.stop()
        if self._board is not None:
            self._board.join()


class _Board:
    """The streams by tenant, their thread, and the thread that reads the outbox for them all.

    Sessions never reach another tenant's stream: events are handed out by the tenant that the outbox names,
    and what a stream reads by itself, it reads from its tenant's own store.
    """

    def __init__(self, store: Store, devtools: Collection[str]) -> None:
        self._store = store
        self._devtools = devtools
        self._streams: dict[str, set[EventStream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._read_up_to = 0
        """Streams that are live have been given all events up to this one."""
        self._stopping = threading.Event()
        self._is_anybody_here = threading.Event()
        self._end = asyncio.Event()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._loop = self._runner.get_loop()
        self._threads = (
            threading.Thread(target=self._run, name="event streams", daemon=True),
            threading.Thread(target=self._watch, name="events of the outbox", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    # --- from any thread ---------------------------------------------------------------------------

    def carry(self, stream: EventStream, connection: socket.socket) -> None:
        connection.setblocking(False)
        stream.board = self
        joining = asyncio.run_coroutine_threadsafe(
            self._loop.connect_accepted_socket(lambda: stream, connection), self._loop
        )
        joining.add_done_callback(
            lambda done: stream.over() if done.cancelled() or done.exception() else None
        )

    def stop(self) -> None:
        self._stopping.set()
        self._is_anybody_here.set()
        self._loop.call_soon_threadsafe(self._end.set)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    # --- the thread of the streams -----------------------------------------------------------------

    def now(self) -> float:
        return self._loop.time()

    def joined(self, stream: EventStream) -> None:
        self._streams.setdefault(stream.reader.who.tenant, set()).add(stream)
        self._is_anybody_here.set()
        self.look_after(stream)

    def left(self, stream: EventStream) -> None:
        tenant = stream.reader.who.tenant
        self._streams[tenant].discard(stream)
        if not self._streams[tenant]:
            del self._streams[tenant]
        if not self._streams and not self._stopping.is_set():
            self._is_anybody_here.clear()

    def look_after(self, stream: EventStream) -> None:
        """Let the stream catch up, unless it has, or does, or has no room."""
        if stream.is_live or stream.is_catching_up or not stream.has_room:
            return
        stream.is_catching_up = True
        task = self._loop.create_task(self._catch_up(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._serve())

    async def _serve(self) -> None:
        tending = self._loop.create_task(self._tend())
        await self._end.wait()
        tending.cancel()
        for stream in self._all():
            stream.finish()
        ends = self.now() + _LAST_WORDS_SECONDS
        while self._streams and self.now() < ends:
            await asyncio.sleep(0.01)
        for stream in self._all():
            stream.drop()

    def _all(self) -> list[EventStream]:
        return [stream for streams in self._streams.values() for stream in streams]

    def _publish(self, news: _News) -> None:
        for event in news.events:
            for stream in self._streams.get(event.tenant_id, ()):
                if stream.is_live and event.id > stream.last:
                    if not stream.reader.wants(event):
                        stream.last = event.id
                    elif stream.has_room:
                        stream.send(news.frame(event, stream.reader.origin))
                        stream.last = event.id
                    else:
                        stream.is_live = False
        self._read_up_to = news.events[-1].id

    def _skip_to(self, event_id: int) -> None:
        """Nobody was here for a while; who has come since, reads by himself what there was."""
        self._read_up_to = event_id
        for stream in self._all():
            stream.is_live = stream.is_live and stream.last >= event_id
            self.look_after(stream)

    async def _catch_up(self, stream: EventStream) -> None:
        try:
            while not stream.is_live and stream.has_room:
                known = self._read_up_to
                news = await asyncio.to_thread(self._missed, stream.reader.who.tenant, stream.last)
                for event in news.events:
                    if stream.reader.wants(event):
                        stream.send(news.frame(event, stream.reader.origin))
                    stream.last = event.id
                if len(news.events) < _BATCH:
                    stream.last = max(stream.last, known)
                # No wait between this look and the next publication: nothing falls in between.
                stream.is_live = stream.last >= self._read_up_to
        except Exception as error:
            _log.error("an event stream could not be read on", exc_info=error)
            stream.drop()
        finally:
            stream.is_catching_up = False

    def _missed(self, tenant: str, after: int) -> _News:
        return self._news(self._store.tenant(tenant).events_after(after, _BATCH))

    async def _tend(self) -> None:
        """Heartbeats, and the ends that nobody tells of."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                welcome = await asyncio.to_thread(self._welcome, {one.reader for one in self._all()})
            except Exception as error:
                _log.error("credentials of event streams could not be looked at", exc_info=error)
                continue
            now = self.now()
            for stream in self._all():
                if stream.is_stalled(now):
                    stream.drop()
                elif stream.reader not in welcome or stream.has_had_its_time(now):
                    stream.finish()
                elif stream.has_room and stream.is_quiet(now):
                    stream.send(b": still here\n\n")

    def _welcome(self, readers: set[Reader]) -> set[Reader]:
        """Without those whose key is revoked, who have signed out, or who have another role now."""
        return {reader for reader in readers if reader.is_still(self._store)}

    # --- the thread that watches the outbox --------------------------------------------------------

    def _watch(self) -> None:
        seen = 0
        while not self._stopping.is_set():
            try:
                if not self._is_anybody_here.is_set():
                    self._is_anybody_here.wait()
                    seen = self._store.fleet.last_event_id()
                    self._tell(self._skip_to, seen)
                seen = self._read_on(seen)
            except Exception as error:
                _log.error("new events could not be read; trying again", exc_info=error)
                self._stopping.wait(1.0)

    def _read_on(self, seen: int) -> int:
        """The last event that has been published, once there is a new one or some seconds are over."""
        mark = self._store.mark()
        events = self._store.fleet.events_after(seen, _BATCH)
        if not events:
            self._store.wait_for_change(HEARTBEAT_SECONDS, since=mark)
            return seen
        self._tell(self._publish, self._news(events))
        return events[-1].id

    def _news(self, events: Sequence[Event]) -> _News:
        hosts = {host.name: host.status for host in self._store.fleet.hosts()} if events else {}
        return _News(events, hosts, self._devtools)

    def _tell(self, what: Callable[[_T], None], about: _T) -> None:
        # The streams' thread may have come to its end just now.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, about)


class _News:
    """Events and how they look on the wire, which is worked out once for all who get the same."""

    def __init__(
        self, events: Sequence[Event], hosts: Mapping[str, HostStatus], devtools: Collection[str]
    ) -> None:
        self.events = events
        self._devtools = devtools
        self._hosts = hosts
        self._frames: dict[tuple[int, str], bytes] = {}

    def frame(self, event: Event, origin: str) -> bytes:
        found = self._frames.get((event.id, origin))
        if found is None:
            found = self._frames[event.id, origin] = self._frame(event, origin)
        return found

    def _frame(self, event: Event, origin: str) -> bytes:
        if event.document is not None:
            news = public_news(event.document, origin=origin)
            return frame("document", event.id, news.model_dump_json())
        if event.lease is not None:
            return frame("lease", event.id, public_lease(event.lease).model_dump_json())
        if event.watching is not None:
            told = PublicWatchers(session_id=event.session.id, watching=event.watching)
            return frame("watchers", event.id, told.model_dump_json())
        session = public_session(event.session, origin=origin, hosts=self._hosts, devtools=self._devtools)
        return frame("session", event.id, session.model_dump_json())
