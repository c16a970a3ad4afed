"""What streams of every kind have in common: who, since when, until when, why it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from abc import ABC, abstractmethod
from datetime import datetime
from typing import ClassVar, NamedTuple

from aiohttp import web

from viewer.grants import Grant
from viewer.model import Lease, utcnow
from viewer.relay.answers import CloseCode, StreamInfo, StreamKind
from viewer.relay.desktops import use_no_delay
from viewer.relay.leases import LeaseNews, loss
from viewer.relay.settings import Settings

CLOSING_SECONDS = 0.5
"""For a slow desktop to take what is queued, for a slow browser to do so, and again for its close frame.
Thrice this stays below the 2 s in which the relay must be gone after SIGTERM."""

log = logging.getLogger(__name__)


class Ending(NamedTuple):
    code: int
    reason: str


class Standstill:
    """How long a browser has taken nothing although something waits for it."""

    def __init__(self) -> None:
        self._taken = -1
        self._since = 0.0

    def seconds(self, now: float, *, taken: int, waits: bool) -> float:
        """taken: bytes, in all. Asked now and then; `now` is the event loop's time."""
        if taken != self._taken or not waits:
            self._taken, self._since = taken, now
        return now - self._since


class Stream(ABC):
    """One stream. `run` returns when it is over; `end` may be called at any time, the first call decides."""

    kind: ClassVar[StreamKind]
    is_the_keyboard: ClassVar[bool] = False
    """Whether keyboard and mouse come this way: then who has the lease taken from him is closed."""

    def __init__(self, grant: Grant, settings: Settings) -> None:
        self.stream_id = secrets.token_hex(6)
        self.grant = grant
        self.opened_at = utcnow()
        self.last_input_at: datetime | None = None
        self.lease: Lease | None = grant.lease
        """The newest that is known; None: control goes by the role alone."""
        self._settings = settings
        self._standstill = Standstill()
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    @abstractmethod
    async def run(self, request: web.Request) -> web.StreamResponse:
        """Answer the upgrade and carry the stream to its end."""

    @property
    @abstractmethod
    def bytes_to_browser(self) -> int: ...

    @property
    @abstractmethod
    def bytes_to_desktop(self) -> int: ...

    def end(self, code: int, reason: str) -> None:
        if not self._ending.done():
            self._ending.set_result(Ending(code, reason))

    @property
    def has_ended(self) -> bool:
        return self._ending.done()

    @property
    def may_act(self) -> bool:
        """Whether keys, pointer and the like pass now."""
        held = self.lease is None or self.lease.is_held_by(self.grant.principal)
        return self.grant.may_control and held

    def hear(self, news: LeaseNews) -> None:
        """Go by the news of this session's lease if it is any, and end if nothing is left to be done."""
        if self.lease is not None and self.lease.number > news.lease.number:
            return
        self.lease = news.lease
        if is_locked_out(self.grant, news.lease) or (
            self.is_the_keyboard and self.grant.may_control and news.taken_from == self.grant.principal
        ):
            self.end(CloseCode.LEASE_LOST, loss(news.lease))

    @abstractmethod
    def look(self, now: float) -> None:
        """Called every `look_seconds`: end if the browser has gone without a word."""

    def _end_if_stuck(self, now: float, *, taken: int, waits: bool) -> None:
        stuck = self._standstill.seconds(now, taken=taken, waits=waits)
        if stuck >= self._settings.slow_browser_seconds:
            self.end(CloseCode.TIMED_OUT, f"the browser took nothing for {stuck:.0f} s")

    def hold(self) -> None:
        """A gesture of the API begins on this desktop: what could come in between waits until `go_on`, unless
        the stream sees to that itself."""
        return

    def go_on(self) -> None:
        """It is over."""
        return

    def info(self) -> StreamInfo:
        return StreamInfo(
            stream_id=self.stream_id,
            kind=self.kind,
            session_id=self.grant.session_id,
            tenant_id=self.grant.tenant_id,
            principal=self.grant.principal,
            may_control=self.grant.may_control,
            opened_at=self.opened_at,
            last_input_at=self.last_input_at,
            under_lease=self.grant.under_lease,
            ticket_id=self.grant.ticket_id,
            bytes_to_browser=self.bytes_to_browser,
            bytes_to_desktop=self.bytes_to_desktop,
        )

    async def _until_ended(self) -> Ending:
        timer = asyncio.get_running_loop().call_later(
            self._settings.max_stream_seconds,
            self.end,
            CloseCode.TIMED_OUT,
            "the stream reached its longest time",
        )
        try:
            return await self._ending
        finally:
            timer.cancel()

    def _log_opening(self) -> None:
        log.info("stream %s open %s", self.stream_id, self._who(), extra=self._fields())

    def _log_closing(self, ending: Ending) -> None:
        log.info(
            "stream %s closed %s code=%d seconds=%.1f to_browser=%d to_desktop=%d: %s",
            self.stream_id,
            self._who(),
            ending.code,
            (utcnow() - self.opened_at).total_seconds(),
            self.bytes_to_browser,
            self.bytes_to_desktop,
            ending.reason,
            extra=self._fields(),
        )

    def _fields(self) -> dict[str, str]:
        return {"session_id": self.grant.session_id, "tenant": self.grant.tenant_id}

    def _who(self) -> str:
        grant = self.grant
        return f"session={grant.session_id} tenant={grant.tenant_id} principal={grant.principal}"


def is_locked_out(grant: Grant, lease: Lease | None) -> bool:
    """Whether this is a way around the keyboard, and another person is at the keyboard."""
    return (
        grant.under_lease
        and lease is not None
        and lease.is_a_persons
        and not lease.is_held_by(grant.principal)
    )


def own_handle(transport: asyncio.Transport) -> socket.socket:
    """A second handle on the browser's connection, so that the event loop lets us wait on it ourselves."""
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    sock.setblocking(False)
    use_no_delay(sock)
    return sock
