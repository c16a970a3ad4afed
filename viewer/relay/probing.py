"""Waiting for a desktop's first real frame."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

from viewer.grants import DesktopSocket, Target
from viewer.model import DesktopBackend
from viewer.relay.answers import ProbeOutcome, ProbeResult
from viewer.relay.desktop_access import Credentials, owner_of, read_access
from viewer.relay.desktops import DesktopUnreachable, connect, converse
from viewer.relay.jpeg import NotAJpeg, look_at
from viewer.relay.kasmvnc import BadRequest, OwnerApi, OwnerRefused
from viewer.relay.settings import Settings
from viewer.rfb.conversation import Conversation, RfbError
from viewer.rfb.probe import Screen, probe_first_frame

RETRY_SECONDS = 0.04
"""docker-proxy accepts before Xvnc listens and hangs up at once, so an accepted connection proves nothing."""

LOOK_SECONDS = 0.5
"""Between two screenshots of a KasmVNC desktop, which has none in its first seconds."""
ONE_COLOUR = "the desktop is connected but its screen has one colour"


async def probe(
    target: Target, password: str | None, settings: Settings, *, seconds: float | None = None
) -> ProbeResult:
    """Return what the desktop showed, at the latest after `seconds` (None: `settings.probe_seconds`)."""
    started = monotonic()
    attempt: _Attempt
    backend: DesktopBackend | None = None
    try:
        if isinstance(target, DesktopSocket):
            backend = read_access(target.name, settings).backend
        if isinstance(target, DesktopSocket) and backend == "kasmvnc":
            attempt = _KasmvncProbe(target.name, owner_of(target.name, settings), settings)
        else:
            attempt = _RfbProbe(target, password, settings)
    except DesktopUnreachable as error:
        return ProbeResult(result=ProbeOutcome.UNREACHABLE, detail=str(error), elapsed_ms=0)
    try:
        async with asyncio.timeout(settings.probe_seconds if seconds is None else seconds):
            outcome, detail = await attempt.until_known()
    except TimeoutError:
        outcome, detail = attempt.verdict_at_deadline()
    return ProbeResult(
        result=outcome,
        detail=detail,
        width=attempt.screen.width,
        height=attempt.screen.height,
        colours=attempt.screen.colours,
        colour=attempt.screen.colour if attempt.screen.colours == 1 else None,
        elapsed_ms=round((monotonic() - started) * 1000, 1),
        backend=backend,
    )


class _Attempt(Protocol):
    screen: Screen

    async def until_known(self) -> tuple[ProbeOutcome, str]:
        """Return once it is certain; the caller sets the time limit."""

    def verdict_at_deadline(self) -> tuple[ProbeOutcome, str]: ...


class _RfbProbe:
    def __init__(self, target: Target, password: str | None, settings: Settings) -> None:
        self._target = target
        self._password = password
        self._settings = settings
        self._last_failure = "the desktop did not answer"
        self.screen = Screen()

    async def until_known(self) -> tuple[ProbeOutcome, str]:
        while True:
            try:
                await self._watch_once()
            except DesktopUnreachable as error:
                self._last_failure = str(error)
                await asyncio.sleep(RETRY_SECONDS)
            except RfbError as error:
                return ProbeOutcome.REFUSED, str(error)
            else:
                return ProbeOutcome.FRAME, ""

    def verdict_at_deadline(self) -> tuple[ProbeOutcome, str]:
        if not self.screen.width:
            return ProbeOutcome.UNREACHABLE, self._last_failure
        if not self.screen.colours:
            return ProbeOutcome.BLANK, "the desktop is connected but has sent no frame"
        return ProbeOutcome.BLANK, ONE_COLOUR

    async def _watch_once(self) -> None:
        self.screen = Screen()
        sock = await connect(self._target, self._settings)
        try:
            await converse(sock, Conversation(probe_first_frame(self._password, self.screen)))
        finally:
            sock.close()


class _KasmvncProbe:
    """By the owner's screenshots: they need no viewer and prove that the screen is painted."""

    def __init__(self, desktop: str, owner: Credentials, settings: Settings) -> None:
        self._api = OwnerApi(desktop, owner, settings)
        self._last_failure = "the desktop did not answer"
        self.screen = Screen()

    async def until_known(self) -> tuple[ProbeOutcome, str]:
        while True:
            try:
                look = look_at(await self._api.screenshot())
            except OwnerRefused as error:
                return ProbeOutcome.REFUSED, str(error)
            except BadRequest:
                self._last_failure = "the desktop has painted nothing yet"
            except (DesktopUnreachable, NotAJpeg) as error:
                self._last_failure = str(error)
            else:
                self.screen.width, self.screen.height, self.screen.colours = look
                if look.colours == 0:
                    return ProbeOutcome.FRAME, "the desktop's screenshots do not tell whether they are blank"
                if look.colours > 1:
                    return ProbeOutcome.FRAME, ""
            await asyncio.sleep(LOOK_SECONDS)

    def verdict_at_deadline(self) -> tuple[ProbeOutcome, str]:
        if not self.screen.width:
            return ProbeOutcome.UNREACHABLE, self._last_failure
        return ProbeOutcome.BLANK, ONE_COLOUR
