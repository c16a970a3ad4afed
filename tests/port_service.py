"""What an agent might start in its sandbox: a server of HTTP and WebSockets.

`python -m tests.port_service PORT`. It says what reached it, takes and gives bytes, and tries to misbehave.
"""

from __future__ import annotations

import hashlib
import sys

from aiohttp import WSMsgType, web

BLOCK = bytes(range(256)) * 4096
"""A MiB."""
EVIL = {
    "Clear-Site-Data": '"*"',
    "Strict-Transport-Security": "max-age=9",
    "Alt-Svc": 'h3=":1"',
    "Service-Worker-Allowed": "/",
    "Content-Security-Policy": "default-src *",
    "X-Content-Type-Options": "sniff",
}


async def seen(request: web.Request) -> web.Response:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return web.json_response({"method": request.method, "path": request.raw_path, "headers": headers})


async def evil(_request: web.Request) -> web.Response:
    answer = web.Response(text="<script>1</script>", content_type="text/html", headers=EVIL)
    answer.set_cookie("__Host-deskfleet", "evil", secure=True)
    return answer


async def sink(request: web.Request) -> web.Response:
    digest = hashlib.sha256()
    async for part in request.content.iter_any():
        digest.update(part)
    return web.Response(text=digest.hexdigest())


async def source(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(int(request.query["mib"])):
        await answer.write(BLOCK)
    await answer.write_eof()
    return answer


async def echo(request: web.Request) -> web.WebSocketResponse:
    channel = web.WebSocketResponse(protocols=("tty",))
    await channel.prepare(request)
    await channel.send_str(request.raw_path)
    async for message in channel:
        if message.type is WSMsgType.BINARY:
            await channel.send_bytes(message.data)
    return channel


async def login(_request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "/seen/after?a=%2F"})


def main(port: int) -> None:
    app = web.Application(client_max_size=0)
    app.router.add_get("/evil", evil)
    app.router.add_put("/sink", sink)
    app.router.add_get("/source", source)
    app.router.add_get("/login", login)
    app.router.add_get("/ws{tail:.*}", echo)
    app.router.add_route("*", "/{tail:.*}", seen)
    web.run_app(app, port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
