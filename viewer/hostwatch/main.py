"""`deskfleet-hostwatch`: settings, socket, signals. DESKFLEET_HOSTWATCH_SETTINGS may name another settings
file."""

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
from viewer.hostwatch.app import Hostwatch
from viewer.hostwatch.settings import DEFAULT_PATH, SETTINGS_VARIABLE, Settings, read_settings
from viewer.settings import SettingsError, read_fernet_key

log = logging.getLogger("viewer.hostwatch")


def main() -> None:
    """Serve until SIGTERM or SIGINT; exits 2 with one sentence when it cannot start."""
    logs.set_up("deskfleet-hostwatch")
    try:
        settings = read_settings(Path(os.environ.get(SETTINGS_VARIABLE, DEFAULT_PATH)))
        key = read_fernet_key(settings.key_file)
        uvloop.run(serve(settings, key))
    except SettingsError as error:
        print(f"deskfleet-hostwatch: {error}", file=sys.stderr)
        sys.exit(2)


async def serve(settings: Settings, key: bytes) -> None:
    """Listen where the settings say and nowhere else, until a signal; raises SettingsError if it is taken."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    hostwatch = Hostwatch(settings, key)
    runner = web.AppRunner(hostwatch.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    host, port = settings.address
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(
            f"listen: cannot listen on {settings.listen} ({os.strerror(error.errno or 0)}); "
            "free that port or choose another"
        ) from error
    log.info("listening on %s", settings.listen)
    hostwatch.feed.start()
    await stop.wait()
    await site.stop()
    await hostwatch.close()
    await runner.cleanup()
    log.info("stopped")


if __name__ == "__main__":
    main()
