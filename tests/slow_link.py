"""A link with a round trip time: `python -m tests.slow_link PORT ADDRESS:PORT MILLISECONDS` on 127.0.0.1.

A userspace proxy, because kernels without netem cannot delay by themselves. Bytes keep their order, and every
chunk waits half the round trip in its direction, so much may be under way at once, as on a long cable.
"""

from __future__ import annotations

import asyncio
import sys


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass bytes on, each chunk `delay` seconds after it came."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, chunk = await waiting.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not chunk:
                writer.close()
                return
            writer.write(chunk)
            await writer.drain()

    delivery = asyncio.create_task(deliver())
    try:
        while chunk := await reader.read(65536):
            waiting.put_nowait((loop.time() + delay, chunk))
    except ConnectionError:
        pass
    waiting.put_nowait((loop.time() + delay, b""))
    await asyncio.gather(delivery, return_exceptions=True)


async def serve(port: int, target: str, round_trip: float) -> None:
    address, _, target_port = target.rpartition(":")

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(address, int(target_port))
        await asyncio.gather(
            pump(reader, far_writer, round_trip / 2), pump(far_reader, writer, round_trip / 2)
        )

    server = await asyncio.start_server(join, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]) / 1000))
