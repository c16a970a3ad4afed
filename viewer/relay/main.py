"""`deskfleet-relay`: settings, socket, signals. DESKFLEET_RELAY_SETTINGS may name another settings file."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from viewer import logs
from viewer.open_files import allow_open_files
from viewer.relay.answers import CloseCode
from viewer.relay.app import Relay
from viewer.relay.settings import (
    DEFAULT_PATH,
    SETTINGS_VARIABLE,
    Settings,
    SettingsError,
    read_key,
    read_settings,
)

BACKLOG = 512
FILES_PER_STREAM = 3
"""The browser's connection, our own handle on it, and the desktop's."""
OTHER_FILES = 512
log = logging.getLogger("viewer.relay")


def main() -> None:
    """Serve until SIGTERM or SIGINT; exits 2 with one sentence when it cannot start."""
    logs.set_up("deskfleet-relay")
    try:
        settings = read_settings(Path(os.environ.get(SETTINGS_VARIABLE, DEFAULT_PATH)))
        key = read_key(settings)
        allow_open_files(
            FILES_PER_STREAM * settings.max_streams + settings.max_captures + OTHER_FILES,
            what=f"{settings.max_streams} streams",
        )
        uvloop.run(serve(settings, key))
    except SettingsError as error:
        print(f"deskfleet-relay: {error}", file=sys.stderr)
        sys.exit(2)


async def serve(settings: Settings, key: bytes) -> None:
    """Listen where the settings say and nowhere else, until a signal; raises SettingsError if it is taken."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    relay = Relay(settings, key)
    # At the end only probes are left to be cut short; whoever asked for one asks again.
    # A body that goes on to a sandbox is not ours to unpack.
    runner = web.AppRunner(relay.app(), access_log=None, shutdown_timeout=0.1, auto_decompress=False)
    await runner.setup()
    host, port = settings.address
    site = web.TCPSite(runner, host, port, backlog=BACKLOG)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(
            f"listen: cannot listen on {settings.listen} ({os.strerror(error.errno or 0)}); "
            "free that port or choose another"
        ) from error
    log.info("listening on %s", settings.listen)
    relay.streams.users.sweep_all()
    await stop.wait()
    await _stop(relay, runner, site)


async def _stop(relay: Relay, runner: web.AppRunner, site: web.TCPSite) -> None:
    await site.stop()
    await relay.streams.end_all(CloseCode.RESTARTING, "the relay is restarting; connect again")
    await runner.cleanup()
    log.info("stopped")


if __name__ == "__main__":
    main()
