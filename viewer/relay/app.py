"""The relay's HTTP face. Only the control plane and its edge hold grants; without one, everything is 403."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError
from yarl import URL

from viewer import __version__, logs
from viewer.devtools_paths import IN_FRAMES, front_end_file, target_socket
from viewer.grants import (
    GRANT_HEADER,
    DesktopSocket,
    DevToolsPort,
    Grant,
    GrantRefused,
    SandboxPort,
    Target,
    open_grant,
)
from viewer.input_actions import Gesture
from viewer.model import utcnow
from viewer.relay.answers import (
    CloseCode,
    DevToolsTargets,
    InputOutcome,
    InputResult,
    Pictures,
    RelayStatus,
    WantedPicture,
    WantedPictures,
    cut_reason,
)
from viewer.relay.captures import Captures, WantedOf
from viewer.relay.content_files import ContentFiles
from viewer.relay.content_paths import content_path
from viewer.relay.desktop_access import check_tenant
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.devtools import frame_page, read_targets, way_to
from viewer.relay.endings import ENDED
from viewer.relay.http_head import offered
from viewer.relay.port_messages import METHODS, refused, refused_by_lease, way_at_server
from viewer.relay.ports import PortServer
from viewer.relay.problems import problem
from viewer.relay.settings import Settings
from viewer.relay.stream import Ending
from viewer.relay.streams import LockedOut, StreamRefused, Streams

CONTENT = "/content/"
REVOKED = "access to this session was revoked"
UNSUPERVISED = "the control plane has been silent for too long; try again when it is back"
SUPERVISION_LOOKS = 10
"""So many times in `supervision_seconds` it is looked whether they are over."""


class Relay:
    """Handlers with what they share."""

    def __init__(self, settings: Settings, key: bytes) -> None:
        self._settings = settings
        self._key = key
        self.captures = Captures(settings)
        self.streams = Streams(settings)
        self._files = ContentFiles(settings)
        self._ports = PortServer(settings)
        self._heard_at = time.monotonic()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_name_the_request])
        app.router.add_get("/healthz", self.healthz, allow_head=False)
        app.router.add_get("/status", self.status, allow_head=False)
        app.router.add_get("/stream/{session_id}", self.stream, allow_head=False)
        app.router.add_get(f"{CONTENT}{{tail:.*}}", self.content, allow_head=False)
        app.router.add_route("*", "/port/{session_id}{tail:(/.*)?}", self.port)
        app.cleanup_ctx.append(self._ports.open_with)
        app.cleanup_ctx.append(self.captures.look_after)
        app.cleanup_ctx.append(self.streams.look_after)
        app.cleanup_ctx.append(self._watch_supervision)
        app.router.add_get("/probe/{session_id}", self.probe, allow_head=False)
        app.router.add_post("/input/{session_id}", self.input)
        app.router.add_post("/pictures", self.pictures)
        app.router.add_get("/devtools/{session_id}", self.devtools_targets, allow_head=False)
        app.router.add_get("/streams", self.list_streams, allow_head=False)
        app.router.add_put("/leases/{session_id}", self.set_lease)
        app.router.add_delete("/streams/{session_id}", self.close_streams)
        app.router.add_delete("/streams/{session_id}/{stream_id}", self.close_stream)
        return app

    async def _watch_supervision(self, _app: web.Application) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._end_all_when_unsupervised())
        yield
        watching.cancel()

    async def _end_all_when_unsupervised(self) -> None:
        """Who may still watch, only the control plane knows; a relay that it has left alone lets nobody."""
        while True:
            await asyncio.sleep(self._settings.supervision_seconds / SUPERVISION_LOOKS)
            if not self._is_supervised:
                self.streams.end_every(CloseCode.UNSUPERVISED, UNSUPERVISED)

    @property
    def _is_supervised(self) -> bool:
        return time.monotonic() - self._heard_at < self._settings.supervision_seconds

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def status(self, request: web.Request) -> web.Response:
        """How it is. By a grant to probe: asking must not count as being supervised."""
        try:
            self._grant(request, purpose="probe")
        except GrantRefused as refusal:
            return problem(403, "Status refused", str(refusal))
        return _json(
            RelayStatus(
                version=__version__,
                is_supervised=self._is_supervised,
                silent_seconds=round(time.monotonic() - self._heard_at, 1),
                streams=len(self.streams.infos()),
            )
        )

    async def stream(self, request: web.Request) -> web.StreamResponse:
        try:
            grant, target = self._grant_for_target(request, purpose="stream")
            check_tenant(grant, self._settings)
        except GrantRefused as refusal:
            return problem(403, "Stream refused", str(refusal))
        if not web.WebSocketResponse(protocols=("binary",)).can_prepare(request):
            return problem(426, "Not a WebSocket", "open a stream with a WebSocket upgrade")
        if not self._is_supervised:
            return await _close_at_once(request, CloseCode.UNSUPERVISED, UNSUPERVISED)
        try:
            return await self.streams.carry(request, grant, target)
        except StreamRefused as refusal:
            return await _close_at_once(request, CloseCode.BUSY, str(refusal))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """A desktop's own web client, or DevTools: files, and streams where the request is an upgrade."""
        try:
            grant, target = self._grant_for_content(request)
        except GrantRefused as refusal:
            return problem(403, "Content refused", str(refusal))
        if isinstance(target, DevToolsPort):
            return await self._devtools(request, grant, target)
        path = content_path(request.raw_path, CONTENT)
        if path is None:
            return problem(404, "No such file", "the desktop's web client has no file of that name")
        if request.body_exists:
            return problem(413, "Body refused", "a file is asked for without a body")
        if path == ENDED:
            return self.streams.endings.page(grant)
        if "Upgrade" not in request.headers:
            return await self._files.give(request, grant.session_id, target, path)
        if not web.WebSocketResponse(protocols=("binary",)).can_prepare(request):
            return problem(426, "Not a WebSocket", "open a stream with a WebSocket upgrade")
        if not self._is_supervised:
            self.streams.endings.remember(grant, CloseCode.UNSUPERVISED)
            return await _close_at_once(request, CloseCode.UNSUPERVISED, UNSUPERVISED)
        try:
            return await self.streams.carry_content(request, grant, target)
        except StreamRefused as refusal:
            return await _close_at_once(request, CloseCode.BUSY, str(refusal))

    async def _devtools(self, request: web.Request, grant: Grant, target: DevToolsPort) -> web.StreamResponse:
        server, uri = self._settings.opensandbox_url, request.raw_path.removeprefix(CONTENT.rstrip("/"))
        is_upgrade = "Upgrade" in request.headers
        path = target_socket(uri) if is_upgrade else front_end_file(uri)
        if server is None or path is None or request.body_exists:
            return problem(404, "Not there", "DevTools give out their front-end and the targets' WebSockets")
        if path == IN_FRAMES:
            return frame_page()
        way = way_to(target, path)
        if is_upgrade:
            return await self._devtools_socket(request, grant, server=server, way=way)
        try:
            return await self.streams.carry_front_end(
                request, grant, server=server, ports=self._ports, way=way
            )
        except StreamRefused as refusal:
            return problem(503, "Too many", f"{refusal}; wait until one has ended")
        except TimeoutError:
            return problem(504, "Too slow", "the sandbox or the browser took too long")

    async def _devtools_socket(
        self, request: web.Request, grant: Grant, *, server: str, way: str
    ) -> web.StreamResponse:
        wanted = offered(request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, ""))
        if not web.WebSocketResponse(protocols=wanted).can_prepare(request):
            return problem(426, "Not a WebSocket", "this upgrade to a WebSocket is not a whole one")
        if not self._is_supervised:
            return await _close_at_once(request, CloseCode.UNSUPERVISED, UNSUPERVISED)
        try:
            return await self.streams.carry_devtools(request, grant, server=server, way=way)
        except LockedOut as refusal:
            return await _close_at_once(request, CloseCode.LEASE_LOST, str(refusal))
        except StreamRefused as refusal:
            return await _close_at_once(request, CloseCode.BUSY, str(refusal))

    async def devtools_targets(self, request: web.Request) -> web.Response:
        try:
            grant = self._grant(request, purpose="devtools")
            _check_session(grant, request.match_info["session_id"])
            if not isinstance(grant.target, DevToolsPort):
                raise GrantRefused("the grant names no DevTools")
        except GrantRefused as refusal:
            return problem(403, "List refused", str(refusal))
        server = self._settings.opensandbox_url
        try:
            if server is None:
                raise DesktopUnreachable("this host has no sandboxes")
            async with asyncio.timeout(self._settings.handshake_seconds):
                targets = await read_targets(self._ports.session, server, grant.target)
        except DesktopUnreachable as error:
            return problem(404, "No DevTools", str(error))
        except TimeoutError:
            return problem(404, "No DevTools", "DevTools do not answer in time")
        return _json(DevToolsTargets(targets=targets))

    async def port(self, request: web.Request) -> web.StreamResponse:
        """A port of a sandbox: one request there, or a WebSocket where it is an upgrade to one."""
        try:
            grant, target = self._grant_for_port(request)
        except GrantRefused as refusal:
            return problem(403, "Port refused", str(refusal))
        if not self._is_supervised:
            return refused(503, "UNSUPERVISED", UNSUPERVISED, {"Retry-After": "5"})
        server = self._settings.opensandbox_url
        if server is None:
            return refused(502, "PORT_UNREACHABLE", "this host has no sandboxes")
        if request.method not in METHODS:
            message = f"{request.method} does not pass to a port; use {', '.join(METHODS)}"
            return refused(405, "WRONG_METHOD", message, {"Allow": ", ".join(METHODS)})
        way = way_at_server(request.raw_path, f"/port/{grant.session_id}", target)
        if way is None:
            return refused(400, "WRONG_PATH", "a path to a port must be percent-encoded and hold no '..'")
        try:
            if request.headers.get("Upgrade", "").lower() != "websocket":
                address = URL(server + way, encoded=True)
                return await self.streams.carry_exchange(
                    request, grant, target, server=self._ports, way=address
                )
            if request.method != hdrs.METH_GET:
                message = f"a WebSocket is opened by GET, not by {request.method}"
                return refused(405, "WRONG_METHOD", message, {"Allow": "GET"})
            # The sandbox chooses among them; of none that is known here aiohttp would warn.
            wanted = offered(request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, ""))
            if not web.WebSocketResponse(protocols=wanted).can_prepare(request):
                return refused(426, "NOT_A_WEBSOCKET", "this upgrade to a WebSocket is not a whole one")
            return await self.streams.carry_port(request, grant, server=server, way=way)
        except LockedOut as refusal:
            return refused_by_lease(str(refusal))
        except StreamRefused as refusal:
            return refused(429, "TOO_MANY", f"{refusal}; wait until one has ended", {"Retry-After": "1"})

    async def probe(self, request: web.Request) -> web.Response:
        try:
            grant, target = self._grant_for_target(request, purpose="probe")
        except GrantRefused as refusal:
            return problem(403, "Probe refused", str(refusal))
        seconds = _seconds_asked_for(request, most=self._settings.probe_seconds)
        if seconds is None:
            return problem(400, "Seconds refused", "seconds: must be a number above 0")
        return _json(await self.captures.first_frame(grant, target, seconds=seconds))

    async def input(self, request: web.Request) -> web.StreamResponse:
        """One gesture. What became of it is in the answer's body; a status beside 200 says that none was
        tried."""
        try:
            grant, target = self._grant_for_target(request, purpose="input")
            check_tenant(grant, self._settings)
        except GrantRefused as refusal:
            return problem(403, "Input refused", str(refusal))
        try:
            gesture = Gesture.model_validate_json(await request.read())
        except ValidationError:
            return problem(400, "Not a gesture", "the control plane sends gestures of another version")
        try:
            return await self.streams.carry_gesture(request, grant, target, gesture)
        except StreamRefused as refusal:
            return _json(InputResult(result=InputOutcome.BUSY, detail=str(refusal)))

    async def pictures(self, request: web.Request) -> web.Response:
        """Of many desktops at once, each under a grant of its own; a desktop that has none says so in its
        place, and is waited for no longer than it takes a new one to show something."""
        try:
            asked = WantedPictures.model_validate_json(await request.read())
        except ValidationError:
            return problem(400, "Not a wish", "the control plane asks for pictures of another version")
        try:
            wanted = [self._wanted_of(item) for item in asked.items]
        except GrantRefused as refusal:
            return problem(403, "Pictures refused", str(refusal))
        found = await self.captures.pictures(wanted, width=asked.width, format=asked.format)
        return _json(Pictures(items=tuple(found)))

    def _wanted_of(self, item: WantedPicture) -> WantedOf:
        grant = open_grant(item.grant, self._key, purpose="picture", now=utcnow())
        if grant.target is None or isinstance(grant.target, (SandboxPort, DevToolsPort)):
            raise GrantRefused("the grant names no desktop")
        return WantedOf(grant, grant.target, item.etag)

    async def list_streams(self, request: web.Request) -> web.Response:
        try:
            self._grant(request, purpose="manage")
        except GrantRefused as refusal:
            return problem(403, "List refused", str(refusal))
        return _json(self.streams.listed())

    async def set_lease(self, request: web.Request) -> web.Response:
        """Who has keyboard and mouse now, as the grant says; an older number changes nothing."""
        try:
            grant = self._grant(request, purpose="lease")
            _check_session(grant, request.match_info["session_id"])
            if grant.lease is None:
                raise GrantRefused("the grant names no lease")
        except GrantRefused as refusal:
            return problem(403, "Lease refused", str(refusal))
        self.streams.hear_lease(grant.lease, given_back=grant.given_back)
        return web.Response(status=204)

    async def close_streams(self, request: web.Request) -> web.Response:
        session_id = request.match_info["session_id"]
        try:
            self._check_may_close(request, session_id)
        except GrantRefused as refusal:
            return problem(403, "Close refused", str(refusal))
        ending = _ending_asked_for(request)
        if ending is None:
            return _no_such_ending()
        self.streams.end_session(session_id, *ending)
        self.captures.end(session_id)
        return web.Response(status=204)

    async def close_stream(self, request: web.Request) -> web.Response:
        session_id, stream_id = request.match_info["session_id"], request.match_info["stream_id"]
        try:
            self._check_may_close(request, session_id)
        except GrantRefused as refusal:
            return problem(403, "Close refused", str(refusal))
        ending = _ending_asked_for(request)
        if ending is None:
            return _no_such_ending()
        self.streams.end_one(session_id, stream_id, *ending)
        return web.Response(status=204)

    def _check_may_close(self, request: web.Request, session_id: str) -> None:
        grant = self._grant(request, purpose="manage")
        if grant.session_id:
            _check_session(grant, session_id)

    def _grant(self, request: web.Request, *, purpose: str) -> Grant:
        token = request.headers.get(GRANT_HEADER)
        if not token:
            raise GrantRefused(f"the header {GRANT_HEADER} is missing; come through the edge")
        grant = open_grant(token, self._key, purpose=purpose, now=utcnow())
        if grant.lease is not None:
            _check_session(grant, grant.lease.session_id)
            if purpose != "lease":
                self.streams.hear_lease(grant.lease)
        if purpose == "manage":
            self._heard_at = time.monotonic()
        return grant

    def _grant_for_content(self, request: web.Request) -> tuple[Grant, DesktopSocket | DevToolsPort]:
        grant = self._grant(request, purpose="content")
        if isinstance(grant.target, DevToolsPort):
            return grant, grant.target
        if not isinstance(grant.target, DesktopSocket):
            raise GrantRefused("the grant names no desktop")
        check_tenant(grant, self._settings)
        return grant, grant.target

    def _grant_for_port(self, request: web.Request) -> tuple[Grant, SandboxPort]:
        grant = self._grant(request, purpose="port")
        _check_session(grant, request.match_info["session_id"])
        if not isinstance(grant.target, SandboxPort):
            raise GrantRefused("the grant names no port")
        return grant, grant.target

    def _grant_for_target(self, request: web.Request, *, purpose: str) -> tuple[Grant, Target]:
        grant = self._grant(request, purpose=purpose)
        _check_session(grant, request.match_info["session_id"])
        if grant.target is None or isinstance(grant.target, (SandboxPort, DevToolsPort)):
            raise GrantRefused("the grant names no desktop")
        return grant, grant.target


@web.middleware
async def _name_the_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lines of the log have the id that the edge gave the request; requests of the worker have none."""
    given = request.headers.get("X-Request-Id", "")
    logs.bind(**({"request_id": given[:40]} if given else {}))
    return await handler(request)


def _check_session(grant: Grant, session_id: str) -> None:
    if grant.session_id != session_id:
        raise GrantRefused("the grant is for another session")


def _seconds_asked_for(request: web.Request, *, most: float) -> float | None:
    """`?seconds=…`: how long a probe may wait, `most` where nothing is said; None for what is no time."""
    text = request.query.get("seconds")
    if text is None:
        return most
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text, re.ASCII) or float(text) <= 0:
        return None
    return min(float(text), most)


def _ending_asked_for(request: web.Request) -> Ending | None:
    """`?code=…&reason=…`: what the page is told; without a code, that access was revoked. None for a code
    that is not ours to give."""
    code, reason = request.query.get("code"), request.query.get("reason")
    if code is None:
        return Ending(CloseCode.REVOKED, REVOKED)
    if not (code.isascii() and code.isdigit() and 4400 <= int(code) <= 4599):
        return None
    return Ending(int(code), cut_reason(reason or REVOKED))


def _no_such_ending() -> web.Response:
    return problem(400, "No such close code", "code must be a number from 4400 to 4599")


def _json(answer: BaseModel) -> web.Response:
    return web.Response(text=answer.model_dump_json(), content_type="application/json")


async def _close_at_once(request: web.Request, code: int, reason: str) -> web.WebSocketResponse:
    """A page sees close codes, but never the status of a refused upgrade."""
    browser = web.WebSocketResponse(protocols=("binary",), compress=False, timeout=1)
    await browser.prepare(request)
    await browser.close(code=code, message=reason.encode())
    return browser
