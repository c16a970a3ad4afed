"""The users that this relay makes on KasmVNC desktops, one for each stream, and takes away at its end.

What is to go is not remembered but looked up: whatever the desktop lists as `s-…` and no stream of ours
uses goes. So a relay that was killed, a desktop that was down at the end of a stream, and the usual end are
one and the same, and users of other names are never touched.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from pydantic import SecretStr

from viewer.relay.desktop_access import Credentials, owner_of, read_access
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.kasmvnc import BadRequest, OwnerApi, OwnerRefused, StreamUser
from viewer.relay.settings import Settings

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts while a desktop does not answer."""
REFUSED_PAUSE = 60.0
"""Seconds after a 401: asking again at once would not help, the deploy must write a new password first."""
MOST_AT_ONCE = 64
"""Users that one sweep removes; more than a desktop has sessions' streams are the work of its own user."""

log = logging.getLogger(__name__)


class _Desktop:
    """wanted, done: how many sweeps were asked for, and how many of these requests are seen to."""

    def __init__(self) -> None:
        self.in_use: set[str] = set()
        self.wanted = 1
        self.done = 0
        self.lock = asyncio.Lock()
        self.sweeping: asyncio.Task[None] | None = None


class StreamUsers:
    """Of all desktops of this relay."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._desktops: dict[str, _Desktop] = {}

    def sweep_all(self) -> None:
        """Begin to remove what an earlier relay left, on every desktop that has a file."""
        for file in self._settings.desktop_secrets_dir.glob("*.json"):
            self._sweep_until_clean(file.stem)

    async def make(self, desktop: str, stream_id: str, *, may_write: bool) -> Credentials:
        """Raises DesktopUnreachable."""
        state = self._state(desktop)
        api = OwnerApi(desktop, owner_of(desktop, self._settings), self._settings)
        if not state.done:
            await self._sweep(desktop, state)
        user = Credentials(f"s-{stream_id}", SecretStr(secrets.token_urlsafe(24)))
        state.in_use.add(user.user)
        try:
            await api.create_user(StreamUser(user, may_write))
        except BadRequest as error:
            self.remove(desktop, stream_id)
            raise DesktopUnreachable("the desktop makes no user for this stream") from error
        except BaseException:
            # The answer may be lost and the user made.
            self.remove(desktop, stream_id)
            raise
        return user

    async def let_write(self, desktop: str, stream_id: str, may_write: bool) -> None:
        """Change what the stream's user may do, while it goes on. Raises DesktopUnreachable: then nobody
        knows what he may do now."""
        api = OwnerApi(desktop, owner_of(desktop, self._settings), self._settings)
        try:
            await api.let_write(f"s-{stream_id}", may_write)
        except BadRequest as error:
            raise DesktopUnreachable("the desktop has lost the user of this stream") from error

    def remove(self, desktop: str, stream_id: str) -> None:
        """Returns at once; the user goes as soon as the desktop answers."""
        state = self._state(desktop)
        state.in_use.discard(f"s-{stream_id}")
        state.wanted += 1
        self._sweep_until_clean(desktop)

    async def settle(self, seconds: float) -> None:
        """Wait so long for what is being removed, then give up; the next relay does the rest."""
        running = [state.sweeping for state in self._desktops.values() if state.sweeping]
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _state(self, desktop: str) -> _Desktop:
        return self._desktops.setdefault(desktop, _Desktop())

    def _sweep_until_clean(self, desktop: str) -> None:
        state = self._state(desktop)
        if state.sweeping is None or state.sweeping.done():
            state.sweeping = asyncio.create_task(self._keep_sweeping(desktop, state))

    async def _keep_sweeping(self, desktop: str, state: _Desktop) -> None:
        pause = FIRST_PAUSE
        while state.done < state.wanted:
            try:
                if read_access(desktop, self._settings).credentials is None:
                    return
                if not await self._sweep(desktop, state):
                    pause = await _rest_for(pause)
            except OwnerRefused as error:
                log.warning("desktop %s: users of ended streams stay for now: %s", desktop, error)
                await asyncio.sleep(REFUSED_PAUSE)
            except (DesktopUnreachable, BadRequest):
                pause = await _rest_for(pause)
            except Exception:
                log.exception("desktop %s: users of ended streams stay", desktop)
                return

    async def _sweep(self, desktop: str, state: _Desktop) -> bool:
        """Whether all strays are gone, and not only the first. One sweep serves all who asked for one before
        it began."""
        asked = state.wanted
        async with state.lock:
            if state.done >= asked:
                return True
            current = state.wanted
            api = OwnerApi(desktop, owner_of(desktop, self._settings), self._settings)
            strays = await api.stream_users() - state.in_use
            if strays:
                await api.remove_users(list(strays)[:MOST_AT_ONCE])
            if len(strays) > MOST_AT_ONCE:
                return False
            state.done = current
            return True


async def _rest_for(pause: float) -> float:
    """Return the next pause."""
    await asyncio.sleep(pause)
    return min(2 * pause, LONGEST_PAUSE)
