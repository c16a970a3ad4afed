#!/usr/bin/python3
"""A stand-in for the program Xkasmvnc, for tests of the role: it is not KasmVNC and has no screen.

It takes the options that KasmVNC 1.5.0 takes, as its source lists them, and refuses all others as that does;
makes the lock and socket of an X server; and speaks HTTP by FakeKasmVNC.
"""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, "/usr/lib/fake-kasmvnc")
from fake_kasmvnc import FakeKasmVNC  # type: ignore[import-not-found]

WITH_VALUE = {
    "-geometry", "-depth", "-desktop", "-interface", "-websocketPort", "-publicIP", "-SecurityTypes",
    "-KasmPasswordFile", "-httpd", "-http-header", "-nolisten", "-auth", "-Log",
    "-videoCodec", "-rfbwait", "-DLP_ClipTypes",
}  # fmt: skip
SWITCHES = {"-UseIPv6", "-sslOnly", "-BlacklistThreshold", "-AlwaysShared", "-AcceptSetDesktopSize", "-ac"}


def options(words: list[str]) -> dict[str, str]:
    found = {}
    rest = iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if word in WITH_VALUE:
            found[word] = next(rest)
        elif name in SWITCHES or word == ":1":
            found[name] = value
        else:
            sys.exit(f"(EE) Unrecognized option: {word}")
    return found


async def main() -> None:
    given = options(sys.argv[1:])
    lock, screen = Path("/tmp/.X1-lock"), "/tmp/.X11-unix/X1"
    lock.touch(exist_ok=False)
    socket.socket(socket.AF_UNIX).bind(screen)
    desktop = FakeKasmVNC(
        Path(given["-KasmPasswordFile"]),
        blacklist_threshold=int(given["-BlacklistThreshold"]),
        screen_after=0,
    )
    serving = asyncio.ensure_future(desktop.serve(given["-interface"], int(given["-websocketPort"])))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        pass
    finally:
        os.unlink(screen)
        lock.unlink()


if __name__ == "__main__":
    asyncio.run(main())
