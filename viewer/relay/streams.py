"""The register of all streams that are open."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from aiohttp import web
from yarl import URL

from viewer.grants import DesktopSocket, Grant, SandboxPort, Target
from viewer.input_actions import Gesture
from viewer.model import Lease
from viewer.relay.acting import Seats
from viewer.relay.answers import CloseCode, StreamInfo, StreamList
from viewer.relay.content_stream import ContentStream
from viewer.relay.devtools import DevToolsStream, FrontEnd
from viewer.relay.downstream import BufferPool
from viewer.relay.endings import Endings
from viewer.relay.gesture import GestureStream
from viewer.relay.leases import Leases, loss
from viewer.relay.port_exchange import PortExchange
from viewer.relay.port_stream import PortStream
from viewer.relay.ports import PortServer, PortUse
from viewer.relay.rfb_stream import RfbStream
from viewer.relay.settings import Settings
from viewer.relay.spliced_stream import Answered
from viewer.relay.stream import Stream, is_locked_out, log
from viewer.relay.stream_users import StreamUsers

SETTLING_SECONDS = 0.5
"""For removing the users of the last streams; what is left then, the next relay removes."""


MOST_GESTURES = 32
"""Of one session, those that wait for their turn among them."""


class StreamRefused(Exception):
    """A limit on open streams is reached."""


class LockedOut(Exception):
    """Another person has keyboard and mouse, and this way leads around them."""


class Room:
    """How many may be open at once on this relay, of one session and of one tenant. `what`: in the plural."""

    def __init__(self, what: str, *, most: int, per_session: int, per_tenant: int) -> None:
        self._what = what
        self._most = most
        self._per_session = per_session
        self._per_tenant = per_tenant
        self._sessions: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()

    def refuse_if_full(self, grant: Grant) -> None:
        for whose, has, most in (
            ("this relay carries its", self._sessions.total(), self._most),
            ("this session has its", self._sessions[grant.session_id], self._per_session),
            ("this tenant has its", self._tenants[grant.tenant_id], self._per_tenant),
        ):
            if has >= most:
                raise StreamRefused(f"{whose} {most} {self._what} already")

    def enter(self, grant: Grant) -> None:
        self._sessions[grant.session_id] += 1
        self._tenants[grant.tenant_id] += 1

    def leave(self, grant: Grant) -> None:
        _count_down(self._sessions, grant.session_id)
        _count_down(self._tenants, grant.tenant_id)


class Streams:
    """Every open stream of this relay."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = BufferPool()
        self.users = StreamUsers(settings)
        self.endings = Endings()
        self.leases = Leases()
        self._open: dict[Stream, asyncio.Task[web.StreamResponse]] = {}
        self._room = Room(
            "streams",
            most=settings.max_streams,
            per_session=settings.max_streams_per_session,
            per_tenant=settings.max_streams_per_tenant,
        )
        self._room_for_requests = Room(
            "requests to ports",
            most=settings.max_port_requests,
            per_session=settings.max_port_requests_per_session,
            per_tenant=settings.max_port_requests_per_tenant,
        )
        self._room_for_gestures = Room(
            "gestures",
            most=settings.max_streams,
            per_session=MOST_GESTURES,
            per_tenant=settings.max_streams_per_tenant,
        )
        self.seats = Seats(settings, self.users)
        self.ports_used = PortUse()
        self._front_end = FrontEnd(settings)

    def infos(self) -> list[StreamInfo]:
        return [stream.info() for stream in self._open]

    def listed(self) -> StreamList:
        return StreamList(
            streams=self.infos(), ports_used=self.ports_used.times(), leases=self.leases.numbers()
        )

    def hear_lease(self, lease: Lease, *, given_back: bool | None = None) -> None:
        """Go by this lease from now on, unless a newer one is known (`Leases.hear`)."""
        news = self.leases.hear(lease, given_back=given_back)
        if news is None:
            return
        for stream in self._open:
            if stream.grant.session_id == lease.session_id:
                stream.hear(news)

    async def carry(self, request: web.Request, grant: Grant, target: Target) -> web.StreamResponse:
        """Run one RFB stream to its end; raises StreamRefused when there are too many."""
        self._room.refuse_if_full(grant)
        return await self._run(request, RfbStream(grant, target, self._settings, self._pool, self.seats))

    async def carry_content(
        self, request: web.Request, grant: Grant, target: DesktopSocket
    ) -> web.StreamResponse:
        """The same for a stream of a desktop's own web client."""
        try:
            self._room.refuse_if_full(grant)
        except StreamRefused:
            self.endings.remember(grant, CloseCode.BUSY)
            raise
        self.endings.forget(grant)
        stream = ContentStream(grant, target, self._settings, self._pool, self.users, self.endings)
        return await self._run(request, stream)

    async def carry_port(
        self, request: web.Request, grant: Grant, *, server: str, way: str
    ) -> web.StreamResponse:
        """The same for a WebSocket to a port of a sandbox: `way` is where OpenSandbox has it. Raises
        LockedOut too."""
        self._refuse_if_locked_out(grant)
        self._room.refuse_if_full(grant)
        return await self._use_port(
            request, PortStream(grant, self._settings, self._pool, server=server, way=way), self._room
        )

    async def carry_exchange(
        self, request: web.Request, grant: Grant, target: SandboxPort, *, server: PortServer, way: URL
    ) -> web.StreamResponse:
        """The same for one HTTP request; those have a limit of their own."""
        self._refuse_if_locked_out(grant)
        self._room_for_requests.refuse_if_full(grant)
        exchange = PortExchange(grant, target, self._settings, server=server.session, way=way)
        return await self._use_port(request, exchange, self._room_for_requests)

    async def carry_gesture(
        self, request: web.Request, grant: Grant, target: Target, gesture: Gesture
    ) -> web.StreamResponse:
        """The same for a gesture of the input API."""
        self._room_for_gestures.refuse_if_full(grant)
        self.ports_used.note(grant.session_id)
        stream = GestureStream(grant, target, self._settings, gesture=gesture, seats=self.seats)
        stream.others = lambda: [
            other
            for other in self._open
            if other.grant.session_id == grant.session_id and other is not stream
        ]
        return await self._run(request, stream, self._room_for_gestures)

    async def carry_devtools(
        self, request: web.Request, grant: Grant, *, server: str, way: str
    ) -> web.StreamResponse:
        """The same for a WebSocket of DevTools. Raises LockedOut too."""
        self._refuse_if_locked_out(grant)
        self._room.refuse_if_full(grant)
        stream = DevToolsStream(grant, self._settings, self._pool, server=server, way=way)
        return await self._use_port(request, stream, self._room)

    async def carry_front_end(
        self, request: web.Request, grant: Grant, *, server: str, ports: PortServer, way: str
    ) -> web.StreamResponse:
        """One file of DevTools' front-end. It is no way to act, so it is not listed; it has its share of what
        the OpenSandbox server can do at once. May raise StreamRefused, TimeoutError."""
        async with (
            asyncio.timeout(self._settings.content_seconds),
            self._front_end.turns.of(grant.session_id),
        ):
            self._room_for_requests.refuse_if_full(grant)
            self._room_for_requests.enter(grant)
            try:
                return await self._front_end.give(request, ports.session, server, way)
            finally:
                self._room_for_requests.leave(grant)

    def _refuse_if_locked_out(self, grant: Grant) -> None:
        lease = self.leases.of(grant.session_id)
        if lease is not None and is_locked_out(grant, lease):
            raise LockedOut(loss(lease))

    async def _use_port(self, request: web.Request, stream: Stream, room: Room) -> web.StreamResponse:
        self.ports_used.note(stream.grant.session_id)
        try:
            return await self._run(request, stream, room)
        finally:
            self.ports_used.note(stream.grant.session_id)

    async def _run(
        self, request: web.Request, stream: Stream, room: Room | None = None
    ) -> web.StreamResponse:
        room = room or self._room
        stream.lease = self.leases.of(stream.grant.session_id) or stream.lease
        if stream.lease is not None and is_locked_out(stream.grant, stream.lease):
            stream.end(CloseCode.LEASE_LOST, loss(stream.lease))
        task = asyncio.ensure_future(stream.run(request))
        self._open[stream] = task
        room.enter(stream.grant)
        try:
            return await task
        except ConnectionResetError:
            log.info("stream %s: the browser left before it was answered", stream.stream_id)
            return Answered()
        finally:
            del self._open[stream]
            room.leave(stream.grant)

    def end_session(self, session_id: str, code: int, reason: str) -> int:
        """Ask all streams of the session to end; return how many there were."""
        if code == CloseCode.ENDED:
            self.leases.forget(session_id)
        of_session = [stream for stream in self._open if stream.grant.session_id == session_id]
        for stream in of_session:
            stream.end(code, reason)
        self.seats.leave(session_id)
        return len(of_session)

    def end_one(self, session_id: str, stream_id: str, code: int, reason: str) -> None:
        """Ask this stream to end, if the session has it; one that has just ended by itself is no error."""
        for stream in self._open:
            if (stream.grant.session_id, stream.stream_id) == (session_id, stream_id):
                stream.end(code, reason)

    async def look_after(self, app: web.Application) -> AsyncIterator[None]:
        """An aiohttp cleanup context: notices browsers that are gone or take nothing."""
        looking = asyncio.create_task(self._look())
        yield
        looking.cancel()
        await asyncio.wait([looking])

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.look_seconds)
            for stream in self._open:
                stream.look(loop.time())

    def end_every(self, code: int, reason: str) -> None:
        """Ask every stream to end, and do not wait."""
        for stream in self._open:
            stream.end(code, reason)

    async def end_all(self, code: int, reason: str) -> None:
        """End every stream and return when the browsers have been told, or would not listen."""
        self.end_every(code, reason)
        if self._open:
            await asyncio.wait(list(self._open.values()))
        self.seats.close()
        await self.users.settle(SETTLING_SECONDS)


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
