"""A stream of a desktop's own web client: KasmVNC's protocol, which is no RFB, passed on as it is.

KasmVNC itself keeps view-only: the stream comes as a user of its own, made with the grant's permission and
removed at its end."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import hdrs, web

from viewer.grants import DesktopSocket, Grant
from viewer.relay.answers import CloseCode
from viewer.relay.desktop_access import check_tenant
from viewer.relay.downstream import BufferPool
from viewer.relay.endings import Endings
from viewer.relay.http_head import offered, switching
from viewer.relay.kasmvnc import open_stream
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

    async def _reach(self, browser: socket.socket, request: web.Request) -> bytes:
        """As a user of the stream's own, who is made for it."""
        name, headers = self._target.name, request.headers
        protocol = "binary" if "binary" in offered(headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")) else None
        answer = switching(headers[hdrs.SEC_WEBSOCKET_KEY], protocol)
        await asyncio.get_running_loop().sock_sendall(browser, answer)
        user = await self._users.make(name, self.stream_id, may_write=self.grant.may_control)
        self._has_user = True
        self._far, early = await open_stream(name, user, self._settings)
        # Once more: it may have been given away just now, and then this is the new tenant's already.
        check_tenant(self.grant, self._settings)
        return early

    def _on_ending(self, ending: Ending) -> None:
        if ending.code != CloseCode.OK:
            # Before the browser hears of it and asks.
            self._endings.remember(self.grant, ending.code)

    def _let_go(self) -> None:
        super()._let_go()
        if self._has_user:
            self._users.remove(self._target.name, self.stream_id)
