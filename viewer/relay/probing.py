"""Waiting for a desktop's first real frame."""

from __future__ import annotations

import asyncio
from time import monotonic

from viewer.grants import Target
from viewer.relay.answers import ProbeOutcome, ProbeResult
from viewer.relay.desktops import DesktopUnreachable, connect, converse
from viewer.relay.settings import Settings
from viewer.rfb.conversation import Conversation, RfbError
from viewer.rfb.probe import Screen, probe_first_frame

RETRY_SECONDS = 0.04
"""docker-proxy accepts before Xvnc listens and hangs up at once, so an accepted connection proves nothing."""


async def probe(target: Target, password: str | None, settings: Settings) -> ProbeResult:
    """Return what the desktop showed, at the latest after `settings.probe_seconds`."""
    attempt = _Probe(target, password, settings)
    started = monotonic()
    try:
        async with asyncio.timeout(settings.probe_seconds):
            outcome, detail = await attempt.until_known()
    except TimeoutError:
        outcome, detail = attempt.verdict_at_deadline()
    return ProbeResult(
        result=outcome,
        detail=detail,
        width=attempt.screen.width,
        height=attempt.screen.height,
        colours=attempt.screen.colours,
        elapsed_ms=round((monotonic() - started) * 1000, 1),
    )


class _Probe:
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
        return ProbeOutcome.BLANK, "the desktop is connected but its screen has one colour"

    async def _watch_once(self) -> None:
        self.screen = Screen()
        sock = await connect(self._target, self._settings)
        try:
            await converse(sock, Conversation(probe_first_frame(self._password, self.screen)))
        finally:
            sock.close()
