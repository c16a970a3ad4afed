"""The pages. Every GET is free of effects; a browser on another of our names is sent to the canonical one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Sequence
from itertools import groupby
from urllib.parse import quote

from flask import Blueprint, Response, make_response, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from viewer.access import (
    allowed_service,
    anyone,
    check_scope,
    credential,
    needs,
    place,
    principal,
    public_origin,
    request_origin,
    wants_page,
)
from viewer.accounts import Login
from viewer.answers import public
from viewer.audit import ACTIONS
from viewer.model import Display, DocumentType, Frozen, Principal, Role, Scope, Status
from viewer.places import (
    PlaceKind,
    content_source,
    pages_of_services,
    service_origin,
    services_for,
    way_back,
)
from viewer.problems import Problem, not_found, respond, role_too_small
from viewer.services import services
from viewer.settings import Settings
from viewer.settings_sections import Section, section_named, sections_for
from viewer.work import Task

pages = Blueprint("pages", __name__)

PACKED_LEVEL = 6
"""Of 9; more saves nothing worth the time on pages of 10 KB."""
RESOLUTIONS = ("1280x800", "1440x900", "1600x900", "1920x1080", "2560x1440")
_LOCAL = re.compile(
    r"/(?:sandboxes|view|open|services|wall|hosts|account|settings|diagnosis|tasks|documents)(?:/[0-9A-Za-z_-]+)?"
    r"|/tasks/[0-9A-Za-z_.!~*'()%-]+(?:/panel)?",
    re.ASCII,
)
"""The path of such a page, escaped. A task's id may hold anything."""
_UNESCAPED = "/!~*'()"
"""As browsers leave them in a path, beside what `quote` leaves."""
_SEARCH = re.compile(r"[A-Za-z0-9%&=.,_~+*-]+", re.ASCII)
"""The query of such a page: names and values, escaped, in which no other address can stand."""

# The page beside the viewer brings both along: it has no files of its own there.
_STYLE = """
:root { color-scheme: light dark; font: 400 .9375rem/1.5 system-ui, sans-serif; }
body { display: grid; place-content: center; justify-items: center; gap: .75rem; min-height: 100vh; margin: 0;
  padding: 1.5rem; box-sizing: border-box; text-align: center; background: #0d1117; color: #e6eaf1; }
h1 { margin: 0; font-size: 1.125rem; }
p { margin: 0; max-width: 46ch; color: #c3cbd7; }
a { color: #89a9ff; }
"""
_SCRIPT = """
if (parent !== self) {
  document.querySelector("a").remove();
  parent.postMessage({action: "deskfleet_closed"}, "*");
}
"""


class SignedIn(Frozen):
    """What the header of a page shows."""

    name: str
    role: Role
    tenant: str

    services: tuple[str, ...]
    """Names of the services that he may enter."""

    @classmethod
    def of(cls, who: Principal) -> SignedIn:
        entered = services_for(who, services().settings)
        return cls(
            name=services().store.accounts.name_of(who),
            role=who.role,
            tenant=who.tenant,
            services=tuple(service.name for service in entered if who.role.covers(service.role)),
        )


class Known(Frozen):
    """What a page of a desktop brings along, so that its script need not ask before it shows that."""

    text: str = ""
    """The session as the API has it."""

    stream: str = ""
    """The session whose stream is opened before the script runs."""


def send_to_canonical_origin() -> BaseResponse | None:
    """One name, one cookie: the canonical origin is where people are signed in."""
    canonical = services().settings.canonical_origin
    if request.method not in ("GET", "HEAD") or not is_page(request.path) or request_origin() == canonical:
        return None
    if place().kind is not PlaceKind.VIEWER:
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
    provider = services().settings.oidc
    return _page(
        "signin.html",
        None,
        provider=provider.name if provider else None,
        next=own_page(request.args.get("next")),
    )


@pages.get("/set-password")
@anyone
def set_password_page() -> Response:
    return _page("set_password.html", None)


@pages.get("/account")
@needs(Role.WATCHER, scope=None)
def account_page() -> Response:
    who, accounts = principal(), services().store.accounts
    kind, _, ident = who.id.partition(":")
    person = accounts.password_of(ident) if kind == "person" else Login()
    return _page(
        "account.html",
        who,
        login=services().store.people(who.tenant).get(ident).login if kind == "person" else None,
        way={"person": "login", "key": "API key", "link": "one-time link"}[kind],
        scopes=sorted(who.scopes or ()),
        has_password=person.password_hash is not None,
    )


@pages.get("/sandboxes")
@needs(Role.WATCHER)
def sandboxes_page() -> Response:
    return _sandboxes(Known())


@pages.get("/sandboxes/<session_id>")
@needs(Role.WATCHER)
def sandbox_page(session_id: str) -> Response:
    return _sandboxes(_known(session_id))


@pages.get("/wall")
@needs(Role.WATCHER)
def wall_page() -> Response:
    return _page("wall.html", principal())


@pages.get("/tasks")
@needs(Role.WATCHER)
def tasks_page() -> Response:
    return _page("tasks.html", principal())


@pages.get("/tasks/<task_id>")
@needs(Role.WATCHER)
def task_page(task_id: str) -> Response:
    return _page("task.html", principal(), task=_own_task(task_id))


@pages.get("/tasks/<task_id>/panel")
@needs(Role.WATCHER)
def task_panel_page(task_id: str) -> Response:
    """The same without anything around it, to be shown by the pages that the tenant lists."""
    return _shown_by_others(_page("task_panel.html", principal(), task=_own_task(task_id)))


@pages.get("/documents")
@needs(Role.WATCHER)
def documents_page() -> Response:
    return _documents_page()


@pages.get("/documents/<document_id>")
@needs(Role.WATCHER)
def document_page(document_id: str) -> Response:
    """The list with this one open: which, the page's module reads from the address."""
    services().store.documents(principal().tenant).get(document_id)
    return _documents_page()


@pages.get("/hosts")
@needs(Role.WATCHER)
def hosts_page() -> Response:
    return _page("hosts.html", principal())


@pages.get("/diagnosis/<session_id>")
@needs(Role.WATCHER)
def diagnosis_page(session_id: str) -> Response:
    """The page asks the API itself: a GET of a page asks no host anything."""
    _own(session_id)
    return _page("diagnosis.html", principal(), session_id=session_id)


@pages.get("/settings")
@needs(Role.WATCHER, scope=None)
def settings_page() -> Response:
    """A wide window shows the first part beside the list of all; a phone the list alone."""
    return _settings(None)


@pages.get("/settings/<section>")
@needs(Role.WATCHER, scope=None)
def settings_section_page(section: str) -> Response:
    found, who = section_named(section), principal()
    if found is None:
        raise not_found()
    if not who.role.covers(found.role):
        raise role_too_small(found.role, who.role)
    check_scope(who, found.scope)
    return _settings(found)


@pages.get("/open/<session_id>")
@needs(Role.WATCHER, scope=Scope.STREAMS)
def open_page(session_id: str) -> Response:
    """Leads on to the session's own page. The page's script asks for the ticket: a GET has no effects."""
    session = services().store.tenant(principal().tenant).get(session_id)
    way = f"/api/v1/sessions/{session.id}"
    wants_devtools = request.args.get("page") == "devtools"
    devtools = f"{way}/devtools" if wants_devtools else ""
    return _page("enter.html", principal(), entries=f"{way}/entries", devtools=devtools)


@pages.get("/services/<name>")
@needs(Role.WATCHER, scope=Scope.STREAMS)
def service_page(name: str) -> Response:
    """Leads on to the service, in the same way."""
    service = allowed_service(name)
    return _page("enter.html", principal(), entries=f"/api/v1/services/{service.name}/entries", devtools="")


@pages.get("/view/<session_id>")
@needs(Role.WATCHER, scope=Scope.STREAMS)
def view_page(session_id: str) -> Response:
    """Made to be shown by others: by those that the tenant lists."""
    known = _known(session_id)
    return _shown_by_others(_page("view.html", principal(), session_id=session_id, known=known))


def is_page(path: str) -> bool:
    """Does a person look at what this path answers?"""
    return not path.startswith(("/api/", "/authz/", "/static/", "/embed/", "/v1/")) and path not in (
        "/api",
        "/v1",
        "/healthz",
        "/metrics",
    )


def own_page(path: str | None) -> str:
    """That page, if it is one that a sign-in may lead to; else the first one. Never another site's."""
    bare, _, search = (path or "").partition("?")
    if not _LOCAL.fullmatch(bare):
        return "/sandboxes"
    return f"{bare}?{search}" if _SEARCH.fullmatch(search) else bare


def error_page(problem: Problem) -> BaseResponse:
    """A problem as a page; one that only lacks a sign-in leads there, and back afterwards."""
    if problem.status == 401:
        path = quote(request.path, safe=_UNESCAPED)
        if not _LOCAL.fullmatch(path):
            return redirect("/signin", 303)
        search = request.query_string.decode("ascii", "ignore")
        return redirect(f"/signin?next={quote(own_page(f'{path}?{search}'), safe='/')}", 303)
    document = problem.document
    response = _page("error.html", _signed_in_if_known(), title=document.title, detail=document.detail)
    response.status_code = problem.status
    return response


def error_beside(problem: Problem) -> BaseResponse:
    """A problem at a name beside the viewer. People get a page without files, which fits in a frame."""
    here, settings = place(), services().settings
    if not wants_page() or here.kind is PlaceKind.OPENSANDBOX:
        return respond(problem)
    document = problem.document
    text = render_template(
        "beside.html",
        title=document.title,
        detail=document.detail,
        back=way_back(here, settings),
        style=_STYLE,
        script=_SCRIPT,
    )
    response = make_response(text, problem.status, problem.headers)
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)};"
        f" frame-ancestors {' '.join(settings.origins)}; base-uri 'none'; form-action 'none'"
    )
    return response


def _source(text: str) -> str:
    """An inline script or style as a source of a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _sandboxes(known: Known) -> Response:
    settings = services().settings
    return _page(
        "sandboxes.html",
        principal(),
        known=known,
        images=[image.name for image in settings.images],
        resolutions=sorted({*RESOLUTIONS, settings.default_resolution}, key=_pixels),
        default_image=settings.default_image,
        default_resolution=settings.default_resolution,
        default_ttl_seconds=settings.default_ttl_seconds,
        max_ttl_seconds=settings.max_ttl_seconds,
    )


def _settings(section: Section | None) -> Response:
    who = principal()
    sections = sections_for(who)
    kinds = groupby(sorted(ACTIONS.items()), key=lambda action: action[0].partition(".")[0])
    return _page(
        "settings.html",
        who,
        sections=sections,
        open=section,
        shown=section or sections[0],
        audit_actions=[(kind, list(actions)) for kind, actions in kinds],
    )


def _page(template: str, who: Principal | None, **context: object) -> Response:
    signed_in = SignedIn.of(who) if who else None
    return _packed(make_response(render_template(template, signed_in=signed_in, **context)))


def _packed(page: Response) -> Response:
    """As small as it gets in passing, for browsers that take it.

    The length of what is packed tells of it, even through TLS, to whoever may put words of his own beside a
    secret (BREACH). None of these pages holds one: the sign-in is a cookie, a state change is known by its
    Origin and not by a token, and keys, passwords and tickets come from the API, which is never packed.
    """
    page.vary.add("Accept-Encoding")
    if request.accept_encodings.quality("gzip") > 0:
        page.set_data(gzip.compress(page.get_data(), PACKED_LEVEL, mtime=0))
        page.headers["Content-Encoding"] = "gzip"
    return page


def _shown_by_others(response: Response) -> Response:
    settings = services().settings
    shown_by = settings.tenant(principal().tenant).embed_origins
    policy = content_policy(public_origin(), settings, shown_by=shown_by)
    response.headers["Content-Security-Policy"] = policy
    return response


def _documents_page() -> Response:
    return _page("documents.html", principal(), types=[kind.value for kind in DocumentType])


def _own_task(segment: str) -> Task:
    """Raises UnknownWork, which becomes the 404 page, for any task that is not this tenant's."""
    return services().store.work(principal().tenant).task_at(segment)


def _known(session_id: str) -> Known:
    """Raises SessionNotFound like `_own`. Whoever may not ask is told nothing."""
    session, who = services().store.tenant(principal().tenant).get(session_id), principal()
    is_seen = session.status is Status.RUNNING and session.display is Display.RFB and who.may(Scope.STREAMS)
    return Known(
        text=public(session).model_dump_json() if who.may(Scope.SESSIONS) else "",
        stream=session.id if is_seen and who.may(Scope.SESSIONS) else "",
    )


def _own(session_id: str) -> None:
    """Raise SessionNotFound, which becomes the 404 page, for any session that is not this tenant's."""
    services().store.tenant(principal().tenant).get(session_id)


def _signed_in_if_known() -> Principal | None:
    return credential().principal(services().store.accounts)


def _pixels(resolution: str) -> int:
    width, _, height = resolution.partition("x")
    return int(width) * int(height)


def content_policy(origin: str, settings: Settings, *, shown_by: Sequence[str] = ()) -> str:
    """Own scripts and styles only, no inline ones; frames and forms lead to the names beside the viewer too.
    shown_by: origins whose pages may show this one in a frame.

    `connect-src` names the stream's address, for browsers whose 'self' does not cover ws:.
    """
    ws_origin = origin.replace("http", "ws", 1)
    framed = [source for source in (content_source(settings),) if source is not None]
    entered = [*framed, *(service_origin(service, settings) for service in pages_of_services(settings))]
    parts = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "font-src": "'self'",
        "connect-src": f"'self' {ws_origin}",
        "frame-src": " ".join(["'self'", *framed]),
        "frame-ancestors": " ".join(shown_by) or "'none'",
        "form-action": " ".join(["'self'", *entered]),
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())
