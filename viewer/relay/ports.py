"""The way to the ports of this host's sandboxes: its OpenSandbox server, and what was used when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, hdrs, web

from viewer.model import utcnow
from viewer.relay.settings import Settings

MOST_REMEMBERED = 1000
_WRITTEN_BY_THE_CLIENT = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)


class PortUse:
    """When the ports of a session were last used, of the sessions that were last."""

    def __init__(self) -> None:
        self._times: dict[str, datetime] = {}

    def note(self, session_id: str) -> None:
        self._times.pop(session_id, None)
        self._times[session_id] = utcnow()
        if len(self._times) > MOST_REMEMBERED:
            del self._times[next(iter(self._times))]

    def times(self) -> dict[str, datetime]:
        return dict(self._times)


class PortServer:
    """One client of the OpenSandbox server, for as long as the relay's app runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: ClientSession | None = None

    @property
    def session(self) -> ClientSession:
        if self._session is None:
            raise RuntimeError("the relay's app does not run")
        return self._session

    async def open_with(self, app: web.Application) -> AsyncIterator[None]:
        """An aiohttp cleanup context."""
        timeout = ClientTimeout(
            total=None,
            sock_connect=self._settings.handshake_seconds,
            sock_read=self._settings.port_idle_seconds,
        )
        # A connection of its own for each request: one that was kept may be closed just as it is used, and a
        # POST cannot be sent twice.
        connector = TCPConnector(force_close=True, limit=0)
        async with ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=DummyCookieJar(),
            skip_auto_headers=_WRITTEN_BY_THE_CLIENT,
        ) as session:
            self._session = session
            yield
        self._session = None
