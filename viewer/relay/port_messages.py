"""What of a request to a sandbox's port goes on to its host's OpenSandbox server, and what of an answer back.

The server decodes the path once and then drops what it takes for credentials and for proxies' headers. Here
they end one step earlier; and the path is encoded once more, so that the sandbox gets what the client wrote.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from viewer.grants import SandboxPort
from viewer.relay.answers import SandboxProblem

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""All that OpenSandbox's proxy takes."""
_PLAIN = re.compile(r"(?:/[\x21-\x22\x24-\x3e\x40-\x7e]*)?(?:\?[\x21-\x22\x24-\x7e]*)?", re.ASCII)
_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_NOT_THE_SANDBOXES = frozenset(
    {
        "authorization", "cookie", "expect", "forwarded", "host", "open-sandbox-api-key",
        "sec-websocket-extensions", "via", "x-real-ip",
    }
)  # fmt: skip
_OURS = ("x-df-", "x-forwarded-")


def way_at_server(raw_target: str, prefix: str, target: SandboxPort) -> str | None:
    """Path and query to ask OpenSandbox for; None for one that it cannot be asked for."""
    tail = raw_target.removeprefix(prefix)
    if not raw_target.startswith(prefix) or not _PLAIN.fullmatch(tail):
        return None
    path, mark, query = tail.partition("?")
    if ".." in path:
        # The server would ask for its own key, which is none of the client's business.
        return None
    return f"{_root(target.sandbox_id, target.port)}{path.replace('%', '%25')}{mark}{query}"


def request_headers(request: web.Request) -> CIMultiDict[str]:
    """Those of the client that are for the sandbox."""
    return _passed(request.headers, _HOP_BY_HOP | _NOT_THE_SANDBOXES)


def answer_headers(headers: CIMultiDictProxy[str], session_id: str, target: SandboxPort) -> CIMultiDict[str]:
    """Those of the sandbox's answer. The server writes its own name for the sandbox into redirects; clients
    know another."""
    passed = _passed(headers, _HOP_BY_HOP)
    location, own = passed.get("Location", ""), _root(target.sandbox_id, target.port)
    if location == own or location.startswith((f"{own}/", f"{own}?")):
        passed["Location"] = _root(session_id, target.port) + location.removeprefix(own)
    return passed


def refused(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A refusal of ours in OpenSandbox's shape."""
    body = SandboxProblem(code=f"DESKFLEET::{code}", message=message).model_dump_json()
    return web.Response(
        status=status,
        text=body,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def refused_by_lease(why: str) -> web.Response:
    """A person is at the keyboard, and the agent's ways around it are shut."""
    return refused(423, "LEASE_HELD", f"{why}; wait until it is given back")


def _root(sandbox_id: str, port: int) -> str:
    return f"/v1/sandboxes/{sandbox_id}/proxy/{port}"


def _passed(headers: CIMultiDictProxy[str], dropped: Collection[str]) -> CIMultiDict[str]:
    named = set(_named_in(headers.getall("Connection", ())))
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if not ({name.lower()} & (named | set(dropped)) or name.lower().startswith(_OURS))
        # Bytes that are no text cannot be written again.
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )


def _named_in(connection: Iterable[str]) -> Iterable[str]:
    """A Connection header names what ends with this hop."""
    return (name.strip().lower() for value in connection for name in value.split(","))
