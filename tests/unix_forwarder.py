"""What joins a desktop's `web.sock` to KasmVNC's port: socat where it is installed, else the same in a few
lines. `python -m tests.unix_forwarder SOCKET PORT`."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def running_forwarder(path: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve `path`; at the end every connection is cut."""
    if shutil.which("socat"):
        command = ["socat", f"UNIX-LISTEN:{path},unlink-early,fork", f"TCP4:127.0.0.1:{port},nodelay"]
    else:
        command = [sys.executable, "-m", "tests.unix_forwarder", str(path), str(port)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no forwarder at {path}")
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)


async def forward(path: str, port: int) -> None:
    async def join(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            to_client.close()
            return
        await asyncio.gather(copy(client, to_server), copy(server, to_client))

    server = await asyncio.start_unix_server(join, path, backlog=128)
    await server.serve_forever()


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    with suppress(OSError):
        sink.write_eof()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(forward(sys.argv[1], int(sys.argv[2])))
