"""A stream of a desktop's own web client: KasmVNC's protocol, which is no RFB, passed on as it is.

KasmVNC itself keeps view-only: the stream comes as a user of its own, who may write while the lease is held
by whoever came, and who is removed at the stream's end."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import hdrs, web

from viewer.grants import DesktopSocket, Grant
from viewer.relay.answers import CloseCode
from viewer.relay.desktop_access import check_tenant
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.downstream import BufferPool
from viewer.relay.endings import Endings
from viewer.relay.http_head import offered, switching
from viewer.relay.kasmvnc import open_stream
from viewer.relay.leases import LeaseNews
from viewer.relay.settings import Settings
from viewer.relay.spliced_stream import SplicedStream
from viewer.relay.stream import Ending
from viewer.relay.stream_users import StreamUsers


class ContentStream(SplicedStream):
    """Answers the upgrade first: a page sees close codes, but never why an upgrade was refused."""

    kind = "content"
    is_the_keyboard = True

    def __init__(
        self,
        grant: Grant,
        target: DesktopSocket,
        settings: Settings,
        pool: BufferPool,
        users: StreamUsers,
        endings: Endings,
    ) -> None:
        super().__init__(grant, settings, pool)
        self._target = target
        self._users = users
        self._endings = endings
        self._has_user = False
        self._may_write = False
        """What the desktop knows of its user."""
        self._telling: asyncio.Task[None] | None = None

    async def _reach(self, browser: socket.socket, request: web.Request) -> bytes:
        """As a user of the stream's own, who is made for it."""
        name, headers = self._target.name, request.headers
        protocol = "binary" if "binary" in offered(headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")) else None
        answer = switching(headers[hdrs.SEC_WEBSOCKET_KEY], protocol)
        await asyncio.get_running_loop().sock_sendall(browser, answer)
        self._may_write = self.may_act
        user = await self._users.make(name, self.stream_id, may_write=self._may_write)
        self._has_user = True
        self._follow_lease()
        self._far, early = await open_stream(name, user, self._settings)
        # Once more: it may have been given away just now, and then this is the new tenant's already.
        check_tenant(self.grant, self._settings)
        return early

    def hear(self, news: LeaseNews) -> None:
        super().hear(news)
        self._follow_lease()

    def _follow_lease(self) -> None:
        if self._has_user and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell_desktop())

    async def _tell_desktop(self) -> None:
        """Until the desktop knows what the lease says now, which may change meanwhile."""
        while self._may_write != self.may_act and not self.has_ended:
            wanted = self.may_act
            try:
                await self._users.let_write(self._target.name, self.stream_id, wanted)
            except DesktopUnreachable as error:
                # Whoever may no longer write must not go on; and who may now comes back.
                self.end(CloseCode.UNREACHABLE, str(error))
                return
            self._may_write = wanted

    def hold(self) -> None:
        # All of it: which of its messages act, only KasmVNC knows.
        if self._to_far is not None and self.may_act:
            self._to_far.hold()

    def go_on(self) -> None:
        if self._to_far is not None:
            self._to_far.go_on()

    def _on_ending(self, ending: Ending) -> None:
        if ending.code != CloseCode.OK:
            # Before the browser hears of it and asks.
            self._endings.remember(self.grant, ending.code)

    def _let_go(self) -> None:
        super()._let_go()
        if self._telling is not None:
            self._telling.cancel()
        if self._has_user:
            self._users.remove(self._target.name, self.stream_id)
