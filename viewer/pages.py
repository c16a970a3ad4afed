"""The pages. Every GET is free of effects; a browser on another of our names is sent to the canonical one."""

from __future__ import annotations

import re
from urllib.parse import quote

from flask import Blueprint, Response, make_response, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from viewer.access import anyone, credential, needs, principal, request_origin
from viewer.model import Frozen, Principal, Role
from viewer.problems import Problem
from viewer.services import services

pages = Blueprint("pages", __name__)

RESOLUTIONS = ("1280x800", "1440x900", "1600x900", "1920x1080", "2560x1440")
_LOCAL = re.compile(r"/(?:sandboxes|view)(?:/[0-9A-Za-z_-]+)?", re.ASCII)


class SignedIn(Frozen):
    """What the header of a page shows."""

    name: str
    role: Role
    tenant: str

    @classmethod
    def of(cls, who: Principal) -> SignedIn:
        return cls(name=services().store.accounts.name_of(who), role=who.role, tenant=who.tenant)


def send_to_canonical_origin() -> BaseResponse | None:
    """One name, one cookie: the canonical origin is where people are signed in."""
    canonical = services().settings.canonical_origin
    if request.method not in ("GET", "HEAD") or not is_page(request.path) or request_origin() == canonical:
        return None
    query = f"?{request.query_string.decode('ascii', 'ignore')}" if request.query_string else ""
    return redirect(f"{canonical}{quote(request.path)}{query}", 302)


@pages.get("/")
@anyone
def home() -> BaseResponse:
    return redirect("/sandboxes", 303)


@pages.get("/signin")
@anyone
def signin_page() -> Response:
    return _page("signin.html", None)


@pages.get("/sandboxes")
@needs(Role.WATCHER)
def sandboxes_page() -> Response:
    return _sandboxes()


@pages.get("/sandboxes/<session_id>")
@needs(Role.WATCHER)
def sandbox_page(session_id: str) -> Response:
    _own(session_id)
    return _sandboxes()


@pages.get("/view/<session_id>")
@needs(Role.WATCHER)
def view_page(session_id: str) -> Response:
    _own(session_id)
    return _page("view.html", principal(), session_id=session_id)


def is_page(path: str) -> bool:
    """Does a person look at what this path answers?"""
    return not path.startswith(("/api/", "/authz/", "/static/")) and path not in ("/api", "/healthz")


def error_page(problem: Problem) -> BaseResponse:
    """A problem as a page; one that only lacks a sign-in leads there, and back afterwards."""
    if problem.status == 401:
        wanted = request.path if _LOCAL.fullmatch(request.path) else ""
        return redirect(f"/signin?next={quote(wanted, safe='/')}" if wanted else "/signin", 303)
    document = problem.document
    response = _page("error.html", _signed_in_if_known(), title=document.title, detail=document.detail)
    response.status_code = problem.status
    return response


def _sandboxes() -> Response:
    settings = services().settings
    return _page(
        "sandboxes.html",
        principal(),
        images=[image.name for image in settings.images],
        resolutions=sorted({*RESOLUTIONS, settings.default_resolution}, key=_pixels),
        default_image=settings.default_image,
        default_resolution=settings.default_resolution,
        default_ttl_seconds=settings.default_ttl_seconds,
        max_ttl_seconds=settings.max_ttl_seconds,
    )


def _page(template: str, who: Principal | None, **context: object) -> Response:
    return make_response(render_template(template, signed_in=SignedIn.of(who) if who else None, **context))


def _own(session_id: str) -> None:
    """Raise SessionNotFound, which becomes the 404 page, for any session that is not this tenant's."""
    services().store.tenant(principal().tenant).get(session_id)


def _signed_in_if_known() -> Principal | None:
    return credential().principal(services().store.accounts)


def _pixels(resolution: str) -> int:
    width, _, height = resolution.partition("x")
    return int(width) * int(height)


def content_policy(origin: str) -> str:
    """Own scripts and styles only, no inline ones. `connect-src` names the stream's address too, for browsers
    whose 'self' does not cover ws:."""
    ws_origin = origin.replace("http", "ws", 1)
    parts = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "font-src": "'self'",
        "connect-src": f"'self' {ws_origin}",
        "frame-src": "'self'",
        "frame-ancestors": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())
