"""A stand-in for OpenSandbox's execd, for tests of what talks to it: it speaks execd's documented protocol.

`python -m tests.execd_stand_in PORT`. Commands and programs run where it runs itself; the only kernel that it
has is Python. Written from execd's OpenAPI document; `tests/worker/test_mcp.py` asks the real one the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

_KERNEL = """
import ast, sys, traceback
tree = ast.parse(sys.stdin.read())
last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
try:
    exec(compile(tree, "<code>", "exec"), scope := {})
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "<code>", "eval"), scope)
        print("\\0" + repr(value), end="")
except BaseException as error:
    print("\\0\\0" + type(error).__name__ + "\\0" + str(error), end="")
    sys.exit(1)
"""


class Execd:
    """One sandbox's."""

    def __init__(self, *, speaks_sse: bool = False) -> None:
        self.speaks_sse = speaks_sse
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.contexts: dict[str, str] = {}
        self.seen: list[tuple[str, str]] = []
        """Method and path of each request."""

    def app(self, prefix: str = "") -> web.Application:
        app = web.Application(client_max_size=1 << 25, middlewares=[self._note])
        app.router.add_get(f"{prefix}/ping", self._ping)
        app.router.add_post(f"{prefix}/command", self._command)
        app.router.add_delete(f"{prefix}/command", self._interrupt)
        app.router.add_post(f"{prefix}/code/context", self._new_context)
        app.router.add_delete(f"{prefix}/code/contexts/{{id}}", self._end_context)
        app.router.add_post(f"{prefix}/code", self._code)
        app.router.add_delete(f"{prefix}/code", self._interrupt)
        app.router.add_post(f"{prefix}/files/upload", self._upload)
        app.router.add_get(f"{prefix}/files/download", self._download)
        app.on_shutdown.append(self._end_all)
        return app

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.seen.append((request.method, request.path))
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _command(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        name = uuid.uuid4().hex
        pipe = asyncio.subprocess.DEVNULL if asked.get("background") else asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", asked["command"], stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            start_new_session=True,
        )  # fmt: skip
        self.processes[name] = process
        stream = await self._stream(request)
        await self._say(stream, type="init", text=name)
        if asked.get("background"):
            await self._say(stream, type="execution_complete", execution_time=1)
            return stream
        await self._say(stream, type="ping", text="pong")
        limit = asked.get("timeout", 0) / 1000 or None
        reading = asyncio.gather(
            self._tell_lines(stream, "stdout", process.stdout),
            self._tell_lines(stream, "stderr", process.stderr),
        )
        try:
            await asyncio.wait_for(process.wait(), limit)
        except TimeoutError:
            _end(process)
            await process.wait()
        await reading
        code = process.returncode or 0
        if code == 0:
            await self._say(stream, type="execution_complete", execution_time=7)
        else:
            # Go's word for a process that a signal ended.
            value = str(max(code, -1))
            error = {"ename": "CommandExecError", "evalue": value, "traceback": [f"exit status {value}"]}
            await self._say(stream, type="error", error=error)
        return stream

    async def _tell_lines(
        self, stream: web.StreamResponse, kind: str, pipe: asyncio.StreamReader | None
    ) -> None:
        async for line in _lines(pipe):
            await self._say(stream, type=kind, text=line or "\n")

    async def _interrupt(self, request: web.Request) -> web.Response:
        process = self.processes.get(request.query["id"])
        if process is not None:
            _end(process)
        return web.Response()

    async def _new_context(self, request: web.Request) -> web.Response:
        language = (await request.json())["language"]
        if language != "python":
            return _refused(500, "RUNTIME_ERROR", "error creating code context. no kernel specs found")
        name = uuid.uuid4().hex
        self.contexts[name] = language
        return web.json_response({"id": name, "language": language})

    async def _end_context(self, request: web.Request) -> web.Response:
        self.contexts.pop(request.match_info["id"])
        return web.Response()

    async def _code(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        name = asked["context"]["id"]
        if name not in self.contexts:
            return _refused(500, "RUNTIME_ERROR", "error running codes context not found")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KERNEL, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.processes[name] = process
        stream = await self._stream(request)
        await self._say(stream, type="init", text=name)
        printed, errors = await process.communicate(asked["code"].encode())
        text, *more = printed.decode().split("\0")
        if more[:1] == [""]:
            error = {
                "ename": more[1],
                "evalue": more[2],
                "traceback": [f"\x1b[31m{more[1]}\x1b[0m: {more[2]}"],
            }
            await self._say(stream, type="error", error=error)
        elif process.returncode:
            error = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            await self._say(stream, type="error", error=error)
        else:
            if more:
                await self._say(stream, type="execution_count", execution_count=1)
                await self._say(stream, type="result", results={"text": more[0]})
            await self._say(stream, type="execution_complete", execution_time=9)
        for kind, output in (("stdout", text), ("stderr", errors.decode())):
            if output:
                await self._say(stream, type=kind, text=output)
        return stream

    async def _upload(self, request: web.Request) -> web.Response:
        parts = {}
        async for part in await request.multipart():
            assert not isinstance(part, type(None))
            assert part.filename, "execd takes both parts for files"  # type: ignore[union-attr]
            parts[part.name] = bytes(await part.read())  # type: ignore[union-attr]
        about = json.loads(parts["metadata"])
        path = Path(about["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parts["file"])
        path.chmod(int(str(about["mode"]), 8))
        return web.Response()

    async def _download(self, request: web.Request) -> web.StreamResponse:
        path = Path(request.query["path"])
        if not path.exists():
            return _refused(404, "FILE_NOT_FOUND", f"file not found. open {path}: no such file or directory")
        return web.FileResponse(path)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        return stream

    async def _say(self, stream: web.StreamResponse, **event: object) -> None:
        data = ("data: " if self.speaks_sse else "") + json.dumps(event)
        with suppress(ConnectionResetError):  # nobody listens any more
            await stream.write(f"{data}\n\n".encode())

    async def _end_all(self, _app: web.Application) -> None:
        for process in self.processes.values():
            _end(process)
            await process.wait()


async def _lines(pipe: asyncio.StreamReader | None) -> AsyncIterator[str]:
    rest = b""
    while pipe is not None and (data := await pipe.read(65536)):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _refused(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)


if __name__ == "__main__":
    web.run_app(Execd().app(), port=int(sys.argv[1]), print=None)
