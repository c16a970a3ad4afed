"""The register of all streams that are open."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web

from viewer.grants import DesktopSocket, Grant, Target
from viewer.relay.answers import CloseCode, StreamInfo
from viewer.relay.content_stream import ContentStream
from viewer.relay.downstream import BufferPool
from viewer.relay.endings import Endings
from viewer.relay.rfb_stream import RfbStream
from viewer.relay.settings import Settings
from viewer.relay.stream import Stream
from viewer.relay.stream_users import StreamUsers

SETTLING_SECONDS = 0.5
"""For removing the users of the last streams; what is left then, the next relay removes."""


class StreamRefused(Exception):
    """A limit on open streams is reached."""


class Streams:
    """Every open stream of this relay."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = BufferPool()
        self.users = StreamUsers(settings)
        self.endings = Endings()
        self._open: dict[Stream, asyncio.Task[web.StreamResponse]] = {}
        self._per_session: Counter[str] = Counter()
        self._per_tenant: Counter[str] = Counter()

    def infos(self) -> list[StreamInfo]:
        return [stream.info() for stream in self._open]

    async def carry(self, request: web.Request, grant: Grant, target: Target) -> web.StreamResponse:
        """Run one RFB stream to its end; raises StreamRefused when there are too many."""
        self._refuse_if_full(grant)
        return await self._run(request, RfbStream(grant, target, self._settings, self._pool))

    async def carry_content(
        self, request: web.Request, grant: Grant, target: DesktopSocket
    ) -> web.StreamResponse:
        """The same for a stream of a desktop's own web client."""
        try:
            self._refuse_if_full(grant)
        except StreamRefused:
            self.endings.remember(grant, CloseCode.BUSY)
            raise
        self.endings.forget(grant)
        stream = ContentStream(grant, target, self._settings, self._pool, self.users, self.endings)
        return await self._run(request, stream)

    async def _run(self, request: web.Request, stream: Stream) -> web.StreamResponse:
        session_id, tenant_id = stream.grant.session_id, stream.grant.tenant_id
        task = asyncio.ensure_future(stream.run(request))
        self._open[stream] = task
        self._per_session[session_id] += 1
        self._per_tenant[tenant_id] += 1
        try:
            return await task
        finally:
            del self._open[stream]
            _count_down(self._per_session, session_id)
            _count_down(self._per_tenant, tenant_id)

    def end_session(self, session_id: str, code: int, reason: str) -> int:
        """Ask all streams of the session to end; return how many there were."""
        of_session = [stream for stream in self._open if stream.grant.session_id == session_id]
        for stream in of_session:
            stream.end(code, reason)
        return len(of_session)

    def end_one(self, session_id: str, stream_id: str, code: int, reason: str) -> None:
        """Ask this stream to end, if the session has it; one that has just ended by itself is no error."""
        for stream in self._open:
            if (stream.grant.session_id, stream.stream_id) == (session_id, stream_id):
                stream.end(code, reason)

    async def end_all(self, code: int, reason: str) -> None:
        """End every stream and return when the browsers have been told, or would not listen."""
        for stream in self._open:
            stream.end(code, reason)
        if self._open:
            await asyncio.wait(list(self._open.values()))
        await self.users.settle(SETTLING_SECONDS)

    def _refuse_if_full(self, grant: Grant) -> None:
        limits = self._settings
        for whose, has, most in (
            ("this relay carries its", len(self._open), limits.max_streams),
            ("this session has its", self._per_session[grant.session_id], limits.max_streams_per_session),
            ("this tenant has its", self._per_tenant[grant.tenant_id], limits.max_streams_per_tenant),
        ):
            if has >= most:
                raise StreamRefused(f"{whose} {most} streams already")


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
