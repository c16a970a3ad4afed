"""Waiting for a desktop's first real frame: what its capture sees, as an answer to the control plane."""

from __future__ import annotations

import asyncio
from time import monotonic

from viewer.grants import DesktopSocket, Target
from viewer.model import DesktopBackend
from viewer.relay.answers import ProbeOutcome, ProbeResult
from viewer.relay.capture import Capture
from viewer.relay.desktop_access import backend_of
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.kasm_capture import KasmCapture
from viewer.relay.rfb_capture import RfbCapture
from viewer.relay.settings import Settings


async def probe(
    target: Target, password: str | None, settings: Settings, *, seconds: float | None = None
) -> ProbeResult:
    """What the desktop showed, at the latest after `seconds` (None: `settings.probe_seconds`): to a capture
    of its own, which keeps no pixels and so takes nobody's place, and ends with it."""
    try:
        backend = backend_of(target, settings)
    except DesktopUnreachable as error:
        return ProbeResult(result=ProbeOutcome.UNREACHABLE, detail=str(error), elapsed_ms=0)
    capture: Capture
    if isinstance(target, DesktopSocket) and backend == "kasmvnc":
        capture = KasmCapture(target.name, settings, None)
    else:
        capture = RfbCapture(target, password, settings, None, reserve=None)
    running = asyncio.create_task(capture.run())
    try:
        return await first_frame(
            capture, backend, seconds=settings.probe_seconds if seconds is None else seconds
        )
    finally:
        # Nobody needs to wait until it has hung up.
        running.cancel()


async def first_frame(capture: Capture, backend: DesktopBackend | None, *, seconds: float) -> ProbeResult:
    """What a capture that is running sees."""
    started = monotonic()
    outcome, detail = await capture.first_frame(seconds=seconds)
    seen = capture.glimpse
    return ProbeResult(
        result=outcome,
        detail=detail,
        width=seen.width,
        height=seen.height,
        colours=seen.colours,
        colour=seen.colour if seen.colours == 1 else None,
        elapsed_ms=round((monotonic() - started) * 1000, 1),
        backend=backend,
    )
