"""Caddy's forward_auth targets: 2xx lets a request through and names its upstream, all else is the answer.

Nothing here is taken from the request but the credential, the Origin, and the path or the host name that the
client asked for; the upstream and the relay's target come from the store and the settings alone.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal, NamedTuple
from urllib.parse import unquote

from flask import Blueprint, Response, request
from pydantic import SecretStr

from viewer.access import (
    ENTRY_COOKIE,
    allowed_service,
    answers_at,
    anyone,
    asked_method,
    authenticate,
    check_from_here,
    check_origin,
    check_scope,
    check_session,
    claims_of,
    count_wrong_key,
    credential,
    is_upgrade,
    place,
    shown_ticket,
    ticket_bearer,
    ticket_over,
    wants_page,
)
from viewer.audit import Action
from viewer.credentials import SealBroken, open_secret
from viewer.devtools import devtools_port
from viewer.devtools_paths import front_end_file, is_devtools_path, target_socket
from viewer.embedding import is_listed
from viewer.entries import Entry
from viewer.grants import (
    FRAMERS_HEADER,
    GRANT_HEADER,
    UPSTREAM_HEADER,
    AnyTarget,
    DesktopSocket,
    DevToolsPort,
    Grant,
    PublishedPort,
    SandboxPort,
    Target,
    seal_grant,
)
from viewer.leasing import EXECD_PORT, acts_around_the_keyboard, check_may_act
from viewer.model import Display, Kind, Principal, Role, Scope, Session, Status, utcnow
from viewer.opensandbox.ports import check_ports
from viewer.opensandbox.refusals import key_holder, sandbox_not_found
from viewer.places import PlaceKind, may_frame, way_to_service
from viewer.problems import Problem, not_found, role_too_small
from viewer.rows import SessionNotFound
from viewer.services import services
from viewer.share_visits import is_asked_by_visit, visitor_to
from viewer.tickets import BROWSER_TICKET_SECONDS, Claims, shown_as_subprotocol

authz = Blueprint("authz", __name__, url_prefix="/authz")

GRANT_LIFE = timedelta(seconds=30)
"""Long enough to reach the relay, too short to be worth stealing."""

# The whole path, as the client sent it: no decoding, so `%2e%2e`, `//` and the like are simply not a stream.
_STREAM = re.compile(
    r"/stream/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:\?[^#\s]*)?", re.ASCII
)

# The same for a port: what follows it is the sandbox's, in whatever encoding.
_PORT = re.compile(
    r"/v1/sandboxes/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/proxy/([1-9][0-9]{0,4})"
    r"(/[\x21-\x22\x24-\x3e\x40-\x7e]*)?(?:\?[^#\s]*)?",
    re.ASCII,
)


@authz.get("/stream")
@anyone
def authorise_stream() -> Response:
    is_visit = is_asked_by_visit(_uri_asked_for())
    claims = None if is_visit else _ticket_of_a_page() or shown_ticket()
    who = _visitor() if is_visit else ticket_bearer(claims) if claims is not None else authenticate()
    if who.via in ("cookie", "share"):
        check_origin()
    check_scope(who, Scope.STREAMS)
    session_id = _session_id_asked_for()
    check_session(who, session_id)
    session = services().store.tenant(who.tenant).get(session_id)
    target = target_of(session)
    if target is None:
        raise not_found()
    grant = _grant("stream", session, who, target)
    if claims is not None:
        grant = grant.model_copy(update={"ticket_id": claims.id})
        # Last: what could not be opened anyhow does not use it up.
        if not services().store.tickets.use(claims):
            raise ticket_over()
    return _allowed(session, grant, who)


def _visitor() -> Principal:
    """Who watches that session by a share link, whatever else the browser shows."""
    return visitor_to(_session_id_asked_for()).who


def _ticket_of_a_page() -> Claims | None:
    """What a page without our cookie shows among the subprotocols. Such a page must be listed by its tenant,
    and its ticket good for one stream and a short while: a handshake's headers are seen by many."""
    text = shown_as_subprotocol(request.headers.get("Sec-WebSocket-Protocol", ""))
    if text is None or request.headers.get("Authorization") is not None:
        return None
    claims = claims_of(text)
    if not claims.is_for_browsers:
        raise Problem(
            403,
            "ticket-too-wide",
            "Not a ticket for a browser",
            "As a subprotocol only a ticket for a single use that lives for at most"
            f" {BROWSER_TICKET_SECONDS} seconds is taken; make one with `single_use` true and `ttl_seconds`"
            f" {BROWSER_TICKET_SECONDS}, or send this one as `Authorization: Bearer <ticket>`.",
        )
    if not is_listed(request.headers.get("Origin"), claims.tenant):
        raise Problem(
            403,
            "foreign-origin",
            "Not from a listed page",
            "With a ticket as a subprotocol this works only from the origins that the site file lists under"
            " `embed_origins` of the tenant's policies.",
        )
    return claims


@authz.get("/content")
@anyone
@answers_at(PlaceKind.CONTENT)
def authorise_content() -> Response:
    """For every request to a session's own page, its WebSocket among them."""
    if request.headers.get("Service-Worker") == "script":
        # It would outlive the entry and answer in the page's place.
        raise Problem(403, "no-service-worker", "No service workers here", "This page must do without one.")
    if asked_method() != "GET":
        raise _wrong_method()
    check_from_here(in_frames=True)
    entry = _entry()
    if entry is None or entry.audience.session_id != place().name:
        raise _entry_over()
    check_scope(entry.who, Scope.STREAMS)
    try:
        session = services().store.tenant(entry.who.tenant).get(place().name)
    except SessionNotFound as error:
        raise _entry_over() from error
    target = _page_asked_for(session, entry.who)
    grant = _grant("content", session, entry.who, target)
    if grant.under_lease:
        check_may_act(grant.lease, entry.who)
    answer = _allowed(session, grant, entry.who)
    answer.headers[FRAMERS_HEADER] = " ".join(may_frame(session.tenant_id, services().settings))
    return answer


def _page_asked_for(session: Session, who: Principal) -> DesktopSocket | DevToolsPort:
    """What of the session's own pages is asked for: they share an origin, as they are of one desktop."""
    settings, uri = services().settings, _uri_asked_for()
    is_devtools = is_devtools_path(uri) and settings.devtools_port(session.image) is not None
    has_page = session.display is Display.KASMVNC and session.sandbox_id is not None
    if session.status is not Status.RUNNING or not (is_devtools or has_page):
        raise _entry_over()
    if not is_devtools:
        return DesktopSocket(name=session.sandbox_id or "")
    devtools = devtools_port(session, settings)
    path = target_socket(uri) if is_upgrade() else front_end_file(uri)
    if devtools is None or path is None:
        raise not_found()
    if not who.role.covers(Role.OPERATOR):
        raise role_too_small(Role.OPERATOR, who.role)
    return devtools


@authz.get("/port")
@anyone
@answers_at(PlaceKind.VIEWER, PlaceKind.OPENSANDBOX)
def authorise_port() -> Response:
    """For every request to a port of a sandbox, its WebSockets among them."""
    who = key_holder(Role.OPERATOR)
    check_scope(who, Scope.STREAMS)
    asked = _port_asked_for()
    try:
        session = services().store.tenant(who.tenant).get(asked.session_id)
    except SessionNotFound as error:
        raise sandbox_not_found() from error
    if session.status is not Status.RUNNING or session.kind is not Kind.SANDBOX or not session.sandbox_id:
        raise sandbox_not_found()
    check_ports(session, asked.ports)
    target = SandboxPort(sandbox_id=session.sandbox_id, port=asked.port)
    grant = _grant("port", session, who, target)
    if acts_around_the_keyboard(session, asked.ports):
        grant = grant.model_copy(update={"under_lease": True})
        check_may_act(grant.lease, who)
    return _allowed(session, grant, who)


class _PortAsked(NamedTuple):
    """`ports`: all that the request may reach, the one in its path among them."""

    session_id: str
    port: int
    ports: frozenset[int]


def _port_asked_for() -> _PortAsked:
    match = _PORT.fullmatch(_uri_asked_for())
    if match is None or int(match[2]) > 65535:
        raise sandbox_not_found()
    port, further = int(match[2]), frozenset[int]()
    if port == EXECD_PORT:
        further = frozenset(map(int, re.findall(r"proxy/+0*([0-9]{1,5})(?![0-9])", _decoded(match[3] or ""))))
    return _PortAsked(match[1], port, further | {port})


def _decoded(path: str) -> str:
    """Of as many encodings as it has."""
    while (plain := unquote(path)) != path:
        path = plain
    return path


@authz.get("/service")
@anyone
@answers_at(PlaceKind.SERVICE)
def authorise_service() -> Response:
    """For every request to a service. Browsers come with an entry, programs with a key."""
    name = place().name
    if request.headers.get("X-Df-Service", name) != name or asked_method() == "CONNECT":
        raise not_found()
    entry = _entry()
    if entry is not None and entry.audience.service == name:
        check_from_here(in_frames=False)
        allowed_service(name, entry.who)
        _note_service(name, entry.who)
        return Response(status=200)
    if request.headers.get("Authorization") is None and wants_page() and not is_upgrade():
        return Response(
            status=303, headers={"Location": way_to_service(name, _uri_asked_for(), services().settings)}
        )
    who = _program()
    allowed_service(name, who)
    _note_service(name, who)
    return Response(status=200)


def _entry() -> Entry | None:
    cookie = request.cookies.get(ENTRY_COOKIE)
    return services().store.entries.entry(cookie, place().origin) if cookie else None


def _program() -> Principal:
    """Whose key the request shows; raise 401. The viewer's own cookie is worth nothing at another name."""
    shown = credential().model_copy(update={"cookie": None})
    who = shown.principal(services().store.accounts)
    if who is None:
        if shown.authorization is not None:
            count_wrong_key()
        raise _entry_over()
    return who


def _entry_over() -> Problem:
    return Problem(
        401,
        "no-entry",
        "This page is closed",
        "The way in is over, or what it led to has ended; open it again from Deskfleet.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _wrong_method() -> Problem:
    return Problem(
        405, "wrong-method", "Method not allowed", "This page is only read.", headers={"Allow": "GET"}
    )


def _allowed(session: Session, grant: Grant, who: Principal) -> Response:
    host = services().settings.host(session.host) if session.host else None
    if host is None:
        raise not_found()
    _note_opening(session, grant, who)
    answer = Response(status=200)
    answer.headers[UPSTREAM_HEADER] = host.name
    answer.headers[GRANT_HEADER] = seal_grant(grant, host.relay_key())
    return answer


def _note_opening(session: Session, grant: Grant, who: Principal) -> None:
    """Before it is open, so that nobody is in who is not in the log."""
    detail: dict[str, object] = {"way": grant.purpose}
    if who.via == "ticket":
        detail["ticket"] = grant.ticket_id
    action: Action = "session.control" if grant.may_control else "session.view"
    if isinstance(grant.target, DevToolsPort):
        action, detail = "session.devtools", {}
    if isinstance(grant.target, SandboxPort):
        action, detail = "session.port", {"port": grant.target.port}
    target = f"session:{session.id}"
    services().store.audit.opened(session.tenant_id, action, target, principal=who.id, detail=detail)


def _note_service(name: str, who: Principal) -> None:
    services().store.audit.opened(who.tenant, "service.open", f"service:{name}", principal=who.id)


def _uri_asked_for() -> str:
    return request.headers.get("X-Forwarded-Uri", "/")


def _session_id_asked_for() -> str:
    match = _STREAM.fullmatch(request.headers.get("X-Forwarded-Uri", ""))
    if match is None or request.headers.get("X-Forwarded-Method") != "GET":
        raise not_found()
    return match.group(1)


def target_of(session: Session) -> Target | None:
    """Where the relay finds this session's VNC; None when there is nothing to stream now."""
    if session.status is not Status.RUNNING or session.display is not Display.RFB:
        return None
    if session.kind is Kind.DESKTOP:
        return DesktopSocket(name=session.sandbox_id) if session.sandbox_id else None
    return PublishedPort(port=session.vnc_port) if session.vnc_port else None


def screen_of(session: Session) -> Target | None:
    """The same, and of a KasmVNC desktop, whose own page is no stream of ours."""
    if session.status is not Status.RUNNING:
        return None
    if session.display is Display.KASMVNC and session.kind is Kind.DESKTOP and session.sandbox_id:
        return DesktopSocket(name=session.sandbox_id)
    return target_of(session)


def _grant(
    purpose: Literal["stream", "content", "port"], session: Session, who: Principal, target: AnyTarget
) -> Grant:
    return Grant(
        purpose=purpose,
        session_id=session.id,
        tenant_id=session.tenant_id,
        principal=who.holder,
        may_control=who.role.covers(Role.OPERATOR),
        ticket_id=who.id.removeprefix("share:") if who.via == "share" else "",
        lease=services().store.leases.of(session.id),
        clipboard=services().settings.tenant(session.tenant_id).clipboard,
        target=target,
        under_lease=isinstance(target, DevToolsPort),
        vnc_password=vnc_password(session) if purpose == "stream" else None,
        expires_at=utcnow() + GRANT_LIFE,
    )


def vnc_password(session: Session) -> SecretStr | None:
    if session.vnc_password_sealed is None:
        return None
    try:
        return SecretStr(open_secret(session.vnc_password_sealed, services().settings.secret_key))
    except SealBroken as error:
        raise Problem(
            409,
            "password-lost",
            "This desktop's password cannot be opened",
            "The fleet's secret key has changed since this desktop was made; end it and create another one.",
        ) from error
