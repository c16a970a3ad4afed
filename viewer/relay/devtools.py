"""Chromium's DevTools in a sandbox: the targets' list, the front-end's files, and its WebSockets.

What listens there is the sandbox's user's to replace. So of a file nothing passes but its kind and its bytes,
under a policy of ours; titles and addresses of targets are text of a stranger. All is asked for without the
browser's headers: Chromium refuses a WebSocket that comes with an Origin, which is looked at before.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import ClassVar

from aiohttp import ClientError, ClientResponse, ClientSession, hdrs, web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from yarl import URL

from viewer.devtools_paths import PAGE, TARGET_ID
from viewer.grants import DevToolsPort
from viewer.relay.answers import DevToolsTarget, StreamKind
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.port_stream import PortStream
from viewer.relay.problems import problem
from viewer.relay.settings import Settings
from viewer.relay.turns import Turns

KINDS = ("page", "iframe", "worker", "shared_worker", "service_worker", "background_page", "webview", "other")
"""Types of targets that are shown; Chromium's own surfaces have others, and differ from one to the next."""
MOST_TARGETS = 100
LONGEST_TITLE, LONGEST_URL = 200, 1000
LONGEST_LIST = 1 << 20
"""Bytes; a page's `data:` address may be large by itself."""
FILES_AT_ONCE = 8
"""Of one session. The OpenSandbox server has 100 connections for all of its sandboxes together."""
FILE_LASTS = "private, max-age=3600"
"""They change with the image's Chromium alone."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
    " font-src 'self' data:; media-src 'self' data:; connect-src 'self' data:; worker-src 'self' blob:;"
    " frame-src 'self' data:; base-uri 'none'; form-action 'none'"
)
"""What the front-end needs of its own origin. Its address may name any WebSocket, and parts to load from
elsewhere: whoever leads a browser there with another's gets nothing by it."""
_IN_FRAME = f"""
try {{
  localStorage.length;
  location.replace("{PAGE}" + location.search);
}} catch {{
  parent.postMessage({{action: "deskfleet_no_storage"}}, "*");
}}
"""
"""Without storage the front-end stays blank and says nothing."""
_KIND = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}(?:; ?charset=[A-Za-z0-9_-]{1,20})?", re.ASCII)
_UNSEEN = ("C", "Zl", "Zp")
"""Categories of characters that turn text round, break its line, or are not seen."""


class _Listed(BaseModel):
    """One entry of Chromium's list, as far as it is of use."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    type: str = "other"
    title: str = ""
    url: str = ""


_LIST = TypeAdapter(list[_Listed])
_ID = re.compile(TARGET_ID, re.ASCII)


def way_to(target: DevToolsPort, path: str) -> str:
    """Path at the host's OpenSandbox server."""
    return f"/v1/sandboxes/{target.sandbox_id}/proxy/{target.port}{path}"


async def read_targets(http: ClientSession, server: str, target: DevToolsPort) -> list[DevToolsTarget]:
    """Raises DesktopUnreachable; the caller sets the time limit."""
    try:
        async with http.get(URL(server + way_to(target, "/json/list"), encoded=True)) as answer:
            if answer.status != 200:
                raise DesktopUnreachable(f"the sandbox answers HTTP {answer.status} where DevTools would")
            body = await _bounded(answer)
    except (ClientError, ValueError) as error:
        raise DesktopUnreachable("this host's OpenSandbox server gives no usable answer") from error
    return targets_in(body)


def targets_in(listed: bytes) -> list[DevToolsTarget]:
    """Those of Chromium's list that are shown, pages first; raises DesktopUnreachable for what is no list."""
    try:
        found = _LIST.validate_json(listed)
    except ValidationError as error:
        raise DesktopUnreachable("what answers in the sandbox is not Chromium's DevTools") from error
    shown = [one for one in found if _ID.fullmatch(one.id) and one.type in KINDS]
    shown.sort(key=lambda one: KINDS.index(one.type))
    return [
        DevToolsTarget(
            id=one.id,
            type=one.type,
            title=harmless(one.title, LONGEST_TITLE),
            url=harmless(one.url, LONGEST_URL),
        )
        for one in shown[:MOST_TARGETS]
    ]


def harmless(text: str, longest: int) -> str:
    """One line that reads as it is written."""
    plain = "".join(
        " " if unicodedata.category(one).startswith(_UNSEEN) else one for one in text[: 2 * longest]
    )
    plain = " ".join(plain.split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


class FrontEnd:
    """Its files, from the very Chromium in the sandbox: no other version fits it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.turns = Turns(FILES_AT_ONCE)

    async def give(
        self, request: web.Request, http: ClientSession, server: str, way: str
    ) -> web.StreamResponse:
        """Raises TimeoutError; the caller sets the time limit."""
        address = URL(server + way, encoded=True)
        headers = {hdrs.ACCEPT_ENCODING: "identity"}
        try:
            async with http.get(address, headers=headers, allow_redirects=False) as answer:
                if answer.status != 200 or hdrs.CONTENT_ENCODING in answer.headers:
                    return problem(404, "No such file", "DevTools have no file of that name")
                if (answer.content_length or 0) > self._settings.max_content_bytes:
                    return problem(502, "Too large", "the file is larger than one of DevTools' may be")
                return await self._pass_on(request, answer)
        except (ClientError, ValueError):
            return problem(502, "DevTools do not answer", "this host's OpenSandbox server gives no answer")

    async def _pass_on(self, request: web.Request, upstream: ClientResponse) -> web.StreamResponse:
        answer = web.StreamResponse(headers=_headers_of(upstream))
        answer.content_length = upstream.content_length
        left, whole = self._settings.max_content_bytes, False
        try:
            await answer.prepare(request)
            async for part in upstream.content.iter_any():
                left -= len(part)
                if left < 0:
                    break
                await answer.write(part)
            else:
                await answer.write_eof()
                whole = True
        except (ClientError, ConnectionError):
            pass
        finally:
            # What has gone out cannot be mended; a connection that is cut tells the browser.
            if not whole and request.transport is not None:
                request.transport.abort()
        return answer


class DevToolsStream(PortStream):
    """A WebSocket to one target."""

    kind: ClassVar[StreamKind] = "devtools"
    far_end = "browser in the sandbox"

    def _passed(self, request: web.Request) -> Iterable[tuple[str, str]]:
        """Chromium takes one without an Origin alone, and the rest is none of its business."""
        named = (hdrs.SEC_WEBSOCKET_KEY, hdrs.SEC_WEBSOCKET_VERSION, hdrs.SEC_WEBSOCKET_PROTOCOL)
        return [(name, request.headers[name]) for name in named if name in request.headers]


def frame_page() -> web.Response:
    digest = base64.b64encode(hashlib.sha256(_IN_FRAME.encode()).digest()).decode()
    return web.Response(
        text=f"<!doctype html><title>DevTools</title><script>{_IN_FRAME}</script>",
        content_type="text/html",
        headers={
            hdrs.CACHE_CONTROL: "no-store",
            "Content-Security-Policy": f"default-src 'none'; script-src 'sha256-{digest}'",
        },
    )


def _headers_of(upstream: ClientResponse) -> dict[str, str]:
    kind = upstream.headers.get(hdrs.CONTENT_TYPE, "").lower()
    kind = kind if _KIND.fullmatch(kind) else "application/octet-stream"
    return {
        hdrs.CONTENT_TYPE: kind,
        hdrs.CACHE_CONTROL: "no-cache" if kind.startswith("text/html") else FILE_LASTS,
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
    }


async def _bounded(answer: ClientResponse) -> bytes:
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > LONGEST_LIST:
            raise DesktopUnreachable("the list of what DevTools can show is too long")
    return bytes(body)
