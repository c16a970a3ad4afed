"""Pages of other sites that show a tenant's desktop: which of them may read what a ticket opens (CORS).

A page of an origin on the tenant's `embed_origins` reads with `fetch` and the header `Authorization`; cookies
never count, because no answer allows them. A preflight carries no credential, so it is answered for the
origins of all tenants; what it leads to is answered for those of the bearer's own.
"""

from __future__ import annotations

from collections.abc import Iterable

from flask import Response, g, request

from viewer.model import Principal
from viewer.services import services

_ALLOWED_HEADERS = "Authorization, Last-Event-ID"
_PREFLIGHT_SECONDS = 600


def is_listed(origin: str | None, tenant: str) -> bool:
    """May pages of this very origin show that tenant's desktops?"""
    return origin is not None and origin in services().settings.tenant(tenant).embed_origins


def preflight() -> Response | None:
    """The answer to a browser that asks whether a listed page may send its ticket; None for anything else."""
    origin = request.headers.get("Origin")
    wanted = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or wanted not in ("GET", "HEAD") or origin not in set(_all_listed()):
        return None
    answer = Response(status=204)
    answer.headers["Access-Control-Allow-Methods"] = "GET"
    answer.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
    answer.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)
    return answer


def let_page_read(answer: Response) -> None:
    """Say so on the answer of a route that tickets open. A refusal is told to any listed page: it must know
    that its ticket is over."""
    answer.headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    who = g.get("principal")
    if isinstance(who, Principal):
        allowed = who.via in ("ticket", "key") and is_listed(origin, who.tenant)
    else:
        allowed = origin in set(_all_listed())
    if allowed and origin is not None:
        answer.headers["Access-Control-Allow-Origin"] = origin


def _all_listed() -> Iterable[str]:
    return (origin for tenant in services().settings.tenants for origin in tenant.embed_origins)
