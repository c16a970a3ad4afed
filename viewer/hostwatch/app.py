"""Hostwatch's HTTP face. Only the control plane holds grants; without one, everything is 403."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel

from viewer.grants import GRANT_HEADER, GrantRefused, open_grant
from viewer.hostwatch.answers import MOST_LOG_LINES, Heartbeat, StreamEnd
from viewer.hostwatch.feed import EventFeed, FeedAway, Reader, TooManyReaders
from viewer.hostwatch.own_containers import DockerAway, OwnContainers, UnknownContainer
from viewer.hostwatch.settings import Settings
from viewer.model import utcnow
from viewer.relay.problems import problem

AT_ONCE = 4
"""Questions that Docker is asked at the same time."""
ANSWER_SECONDS = 15.0
WRITE_SECONDS = 10.0
"""A reader that takes nothing for so long is dropped."""
USUAL_LINES = 100

AnswerT = TypeVar("AnswerT")


class Hostwatch:
    """Handlers with what they share."""

    def __init__(self, settings: Settings, key: bytes) -> None:
        self._settings = settings
        self._key = key
        self._own = OwnContainers(settings.docker_socket, settings.fleet_id)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="docker")
        self.feed = EventFeed(self._own, max_readers=settings.max_readers)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._only_with_a_grant])
        app.router.add_get("/hostwatch/events", self.events, allow_head=False)
        app.router.add_get("/hostwatch/containers", self.containers, allow_head=False)
        app.router.add_get("/hostwatch/containers/{sandbox_id}", self.container, allow_head=False)
        app.router.add_get("/hostwatch/containers/{sandbox_id}/log", self.log, allow_head=False)
        app.router.add_get("/hostwatch/host", self.host, allow_head=False)
        return app

    async def close(self) -> None:
        await self.feed.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._own.close()

    async def containers(self, request: web.Request) -> web.Response:
        return _json(await self._ask(self._own.containers))

    async def container(self, request: web.Request) -> web.Response:
        sandbox_id = request.match_info["sandbox_id"]
        return _json(await self._ask(lambda: self._own.container(sandbox_id)))

    async def log(self, request: web.Request) -> web.Response:
        lines = _lines(request.query.get("lines"))
        if lines is None:
            return problem(400, "Lines refused", f"lines: must be a whole number from 1 to {MOST_LOG_LINES}")
        sandbox_id = request.match_info["sandbox_id"]
        return _json(await self._ask(lambda: self._own.log_tail(sandbox_id, lines)))

    async def host(self, request: web.Request) -> web.Response:
        return _json(await self._ask(self._own.host))

    async def events(self, request: web.Request) -> web.StreamResponse:
        try:
            reader = self.feed.join(lambda: _drop(request))
        except FeedAway as away:
            return problem(503, "Docker is away", str(away))
        except TooManyReaders:
            return problem(429, "Too many readers", "too many read events already; close one of the streams")
        response = web.StreamResponse(
            headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
        )
        try:
            await response.prepare(request)
            await self._write_events(response, reader)
        except TimeoutError:
            _drop(request)
        except ConnectionError:
            pass  # the reader has gone
        finally:
            self.feed.leave(reader)
        return response

    async def _write_events(self, response: web.StreamResponse, reader: Reader) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.max_stream_seconds
        line: BaseModel = Heartbeat(at=utcnow())
        while True:
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(line.model_dump_json().encode() + b"\n")
            if isinstance(line, StreamEnd):
                return
            if loop.time() >= until:
                line = StreamEnd(why="renew", detail="the stream has been open for long; open a new one")
                continue
            try:
                async with asyncio.timeout(self._settings.heartbeat_seconds):
                    line = await reader.waiting.get()
            except TimeoutError:
                line = Heartbeat(at=utcnow())

    async def _ask(self, question: Callable[[], AnswerT]) -> AnswerT:
        """The answer, from a thread. Raises DockerAway also where it takes too long."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, question)
        except TimeoutError as error:
            raise DockerAway(f"Docker does not answer within {ANSWER_SECONDS:.0f} s") from error

    @web.middleware
    async def _only_with_a_grant(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Before the route is looked at: without a grant nobody learns which there are."""
        try:
            self._check_grant(request)
            return await handler(request)
        except GrantRefused as refusal:
            return problem(403, "Refused", str(refusal))
        except UnknownContainer:
            return problem(404, "No such container", "this fleet has no such container on this host")
        except DockerAway as away:
            return problem(503, "Docker is away", str(away))
        except web.HTTPNotFound:
            return problem(404, "No such page", "hostwatch has no such page")
        except web.HTTPMethodNotAllowed:
            return problem(405, "Reading only", "hostwatch is only ever read; use GET")

    def _check_grant(self, request: web.Request) -> None:
        token = request.headers.get(GRANT_HEADER)
        if not token:
            raise GrantRefused(f"the header {GRANT_HEADER} is missing; only the control plane has one")
        open_grant(token, self._key, purpose="hostwatch", now=utcnow())


def _lines(text: str | None) -> int | None:
    """How many lines are asked for; None where that is no number or out of bounds."""
    if text is None:
        return USUAL_LINES
    if not (text.isascii() and text.isdigit() and len(text) <= 3):
        return None
    return int(text) if 1 <= int(text) <= MOST_LOG_LINES else None


def _json(answer: BaseModel) -> web.Response:
    return web.Response(
        text=answer.model_dump_json(),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _drop(request: web.Request) -> None:
    """End the connection without a word: whoever takes nothing would not take one either."""
    if request.transport is not None:
        with suppress(OSError):
            request.transport.abort()
