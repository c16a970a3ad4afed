"""Who asks, where, and may they? Every route says whom it needs and at which of our names it answers.

Both are looked at before each request. A route without a rule is an error when the app is made, so that
nothing is open by forgetting; one that does not say where answers at the viewer's own name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, TypeVar

from flask import Flask, Response, current_app, g, request

from viewer import audit, embedding, tickets
from viewer.accounts import Credential, sign_in_id
from viewer.attempts import network_of
from viewer.credentials import hash_of
from viewer.model import Principal, Role, Scope
from viewer.places import Place, PlaceKind, place_of, service_for
from viewer.problems import (
    Problem,
    not_found,
    role_too_small,
    scope_missing,
    too_many_requests,
    too_many_wrong_keys,
)
from viewer.services import services
from viewer.settings import ServiceSettings

COOKIE = "__Host-deskfleet"
ENTRY_COOKIE = "__Host-deskfleet-entry"

_View = TypeVar("_View", bound=Callable[..., Any])
_RULE = "deskfleet_access"
_DOOR = "deskfleet_door"
_SCOPE = "deskfleet_scope"
_PLACES = "deskfleet_places"
_GUESTS = "deskfleet_guests"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


Guest = Literal["ticket", "share"]
"""Ways in, beside keys and sign-ins, of somebody who is shown one session and nothing else."""

Door = Callable[[Role], Principal]
"""Finds who makes this request, of at least that role, or raises the problem that says why not."""


def needs(
    role: Role, *, scope: Scope | None = Scope.SESSIONS, door: Door | None = None
) -> Callable[[_View], _View]:
    """The view is for principals of at least this role that may use that scope (None: whatever theirs are):
    signed in, or let in by a door of the view's own."""

    def attach(view: _View) -> _View:
        setattr(view, _DOOR, door)
        setattr(view, _SCOPE, scope)
        return _with_rule(view, role)

    return attach


def also_by(*ways: Guest) -> Callable[[_View], _View]:
    """The view also lets in who comes by a ticket or a share link, to the one session that those are for: its
    route has `<session_id>`, and any other id is 404 to him. All other views know nothing of such ways.

    What tickets open, pages of the tenant's `embed_origins` may read.
    """

    def attach(view: _View) -> _View:
        setattr(view, _GUESTS, frozenset(ways))
        return view

    return attach


def anyone(view: _View) -> _View:
    """The view answers without a credential (or looks at it itself)."""
    return _with_rule(view, None)


def answers_at(*kinds: PlaceKind) -> Callable[[_View], _View]:
    """The view answers at these of our names, and nowhere else."""

    def attach(view: _View) -> _View:
        setattr(view, _PLACES, frozenset(kinds))
        return view

    return attach


def needed_role(view: Callable[..., Any]) -> Role | None:
    role: Role | None = getattr(view, _RULE)
    return role


def needed_scope(view: Callable[..., Any]) -> Scope | None:
    scope: Scope | None = getattr(view, _SCOPE, None)
    return scope


def places_on(app: Flask) -> None:
    """Let every view answer only where it says, from now on; before anything else looks at the request."""
    app.before_request(_enforce_place)


def enforce_on(app: Flask) -> None:
    """Check every request from now on; raise at once when a view has no rule."""
    missing = sorted(name for name, view in app.view_functions.items() if not hasattr(view, _RULE))
    if missing:
        raise TypeError(f"no access rule on: {', '.join(missing)}; decorate with @needs(…) or @anyone")
    for rule in app.url_map.iter_rules():
        if guests_of(app.view_functions[rule.endpoint]) and "session_id" not in rule.arguments:
            raise TypeError(f"{rule.rule} lets in guests of one session, and does not say of which")
    app.before_request(_enforce)
    app.teardown_request(lambda _error: audit.over())


def guests_of(view: Callable[..., Any]) -> frozenset[Guest]:
    found: frozenset[Guest] = getattr(view, _GUESTS, frozenset())
    return found


def may_be_embedded() -> bool:
    """Does this request go to what a ticket opens?"""
    view = _view_asked_for()
    return view is not None and "ticket" in guests_of(view)


def principal() -> Principal:
    """Whoever made this request; only below views that need a role."""
    found = g.principal
    if not isinstance(found, Principal):
        raise TypeError("this view's rule lets anyone in: there is no principal")
    return found


def allowed_service(name: str, who: Principal | None = None) -> ServiceSettings:
    """That service, for `who` (default: whoever made this request). Raise 404, or 403 where the role or the
    scopes are too small."""
    who = who or principal()
    service = service_for(who, name, services().settings)
    if service is None:
        raise not_found()
    if not who.role.covers(service.role):
        raise role_too_small(service.role, who.role)
    check_scope(who, Scope.STREAMS)
    return service


def check_scope(who: Principal, scope: Scope | None) -> None:
    """Raise 403 unless the key may be used for this."""
    if scope is not None and not who.may(scope):
        raise scope_missing(scope)


def place() -> Place:
    """Which of our names this request was sent to. Caddy sets both headers, whatever came in."""
    if "place" not in g:
        scheme = request.headers.get("X-Forwarded-Proto", request.scheme)
        host = request.headers.get("X-Forwarded-Host", request.host)
        g.place = place_of(scheme, host, services().settings)
    found = g.place
    if not isinstance(found, Place):
        raise TypeError("g.place is not a Place")
    return found


def request_origin() -> str | None:
    """The origin that the client used, if it is one of the viewer's own."""
    origin = place().origin
    return origin if origin in services().settings.origins else None


def client_address() -> str:
    """The client's address as the edge saw it: Caddy replaces whatever the client claims."""
    forwarded = request.headers.get("X-Forwarded-For", "")
    return forwarded.rpartition(",")[2].strip() or request.remote_addr or ""


def public_origin() -> str:
    """The origin for addresses in answers: the one the client used, else the canonical one."""
    return request_origin() or services().settings.canonical_origin


def credential() -> Credential:
    return Credential(authorization=request.headers.get("Authorization"), cookie=request.cookies.get(COOKIE))


def authenticate(shown: Credential | None = None, *, also: Collection[Guest] = ()) -> Principal:
    """The principal of what the request shows (or of `shown`), or the 401 problem. `also`: guests count too;
    which session they ask for, the caller looks at (`check_session`)."""
    for way, found_by in _FOUND_BY.items():
        guest = found_by() if way in also else None
        if guest is not None:
            return guest
    shown = shown or credential()
    found = shown.principal(services().store.accounts)
    if found is not None:
        return found
    if shown.authorization is not None:
        count_wrong_key()
        raise _unauthorized(
            "The key is not valid here: it is wrong, revoked, over, or not sent as `Bearer <key>`."
        )
    raise _unauthorized("Send `Authorization: Bearer <key>`, or sign in with a browser.")


def check_session(who: Principal, session_id: str | None) -> None:
    """Raise 404 where a guest asks for another session than his."""
    if who.only_session is not None and who.only_session != session_id:
        raise not_found()


def shown_ticket() -> tickets.Claims | None:
    """The ticket that this request shows as its bearer, if it is signed by us. Raise 401 for any other."""
    text = tickets.shown_as_bearer(request.headers.get("Authorization"))
    return None if text is None else claims_of(text)


def claims_of(ticket: str) -> tickets.Claims:
    """Raise 401 for one that is not signed by us, before the database is asked anything."""
    claims = tickets.claims_in(ticket, services().settings.secret_key)
    if claims is None:
        count_wrong_key()
        raise ticket_over()
    return claims


def ticket_bearer(claims: tickets.Claims) -> Principal:
    """Whoever shows this ticket, or the 401 problem."""
    who = services().store.tickets.bearer(claims)
    if who is None:
        raise ticket_over()
    return who


def count_wrong_key() -> None:
    """For each refused key, before it is refused as such: raise 429 where its sender has shown too many.

    Only wrong ones come here. A right key is let in whatever else comes from its address: all of an office's
    or a host's agents may share one. Nobody guesses 256 bits, so this only saves work, and is this process's.
    """
    source, limit = network_of(client_address()), services().wrong_keys
    seconds = limit.seconds_to_wait(source)
    if seconds:
        raise too_many_wrong_keys(seconds)
    limit.failed(source)


def check_same_origin() -> None:
    """Raise 403 unless one of our own pages, at the very origin that it asks, sent this."""
    origin = request.headers.get("Origin")
    if origin is not None:
        if origin == request_origin():
            return
    elif request.headers.get("Sec-Fetch-Site") == "same-origin":
        return
    raise foreign_origin()


def check_origin() -> None:
    """Raise 403 unless Origin is exactly ours: WebSocket handshakes carry nothing else that tells."""
    origin = request.headers.get("Origin")
    if origin is None or origin != request_origin():
        raise foreign_origin()


def current_sign_in() -> str | None:
    """The id of the sign-in that this request came by; None for a key."""
    cookie = request.cookies.get(COOKIE)
    return sign_in_id(hash_of(cookie)) if principal().via == "cookie" and cookie else None


def check_from_here(*, in_frames: bool) -> None:
    """Raise 403 unless a page of this very origin asked, or a person who went there. For the names beside the
    viewer: their cookie goes along with whatever another site's page asks of them.

    `in_frames`: a foreign page may show it in a frame, which the answer's `frame-ancestors` limits. A
    WebSocket tells by its Origin alone; of its handshake, Upgrade and Connection stay at the edge.
    """
    headers, here = request.headers, place().origin
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
    if is_upgrade():
        allowed = origin == here
    elif asked_method() in _SAFE:
        shown = {"document", "iframe"} if in_frames else {"document"}
        opened = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") in shown
        allowed = site in (None, "same-origin", "none") or opened
    else:
        allowed = origin == here if origin is not None else site == "same-origin"
    if not allowed:
        raise foreign_origin()


def is_upgrade() -> bool:
    """Does the client want a WebSocket?"""
    return asked_method() == "CONNECT" or any(
        name.lower().startswith("sec-websocket-") for name, _ in request.headers
    )


def asked_method() -> str:
    """Of the request that the edge asks about; of this one where it does not ask."""
    return request.headers.get("X-Forwarded-Method", request.method)


def wants_page() -> bool:
    """Is it a person who opens an address, rather than a script or a program?"""
    mode = request.headers.get("Sec-Fetch-Mode")
    return mode == "navigate" if mode else "text/html" in request.headers.get("Accept", "")


def ticket_over() -> Problem:
    return _unauthorized(
        "The ticket is not valid here: it is wrong, used, revoked or over, or its maker may no longer do what"
        " it is for; get another one."
    )


def foreign_origin() -> Problem:
    return Problem(
        403,
        "foreign-origin",
        "Not from our own page",
        "With a cookie this works only from our own pages; a program sends `Authorization: Bearer <key>`.",
    )


def is_answered_here() -> bool:
    """Does the view that this request goes to answer at the name it was sent to?"""
    view = _view_asked_for()
    return view is not None and place().kind in _places_of(view)


def _places_of(view: Callable[..., Any]) -> frozenset[PlaceKind]:
    found: frozenset[PlaceKind] = getattr(view, _PLACES, frozenset({PlaceKind.VIEWER}))
    return found


def _with_rule(view: _View, role: Role | None) -> _View:
    setattr(view, _RULE, role)
    return view


def _enforce_place() -> None:
    view = _view_asked_for()
    if view is not None and place().kind not in _places_of(view):
        raise not_found()


def _enforce() -> Response | None:
    """Its answer takes the place of the view's: a browser's question about it, which has no credential."""
    audit.in_request(client_address(), g.get("request_id", ""))
    view = _view_asked_for()
    role = needed_role(view) if view is not None else None
    if view is None or role is None:
        return None
    if "ticket" in guests_of(view) and (answer := embedding.preflight()) is not None:
        return answer
    door: Door = getattr(view, _DOOR, None) or _main_door
    g.principal = door(role)
    check_session(g.principal, (request.view_args or {}).get("session_id"))
    audit.by(g.principal.id)
    check_scope(g.principal, getattr(view, _SCOPE))
    seconds = services().requests.take(g.principal)
    if seconds:
        raise too_many_requests(seconds)
    return None


def _main_door(role: Role) -> Principal:
    view = _view_asked_for()
    found = authenticate(also=guests_of(view) if view is not None else ())
    if found.via == "cookie":
        _check_cookie_use()
    if not found.role.covers(role):
        raise role_too_small(role, found.role)
    return found


def _view_asked_for() -> Callable[..., Any] | None:
    """The view that this request goes to; None where routing itself fails (404, 405)."""
    return current_app.view_functions.get(request.endpoint) if request.endpoint else None


def _check_cookie_use() -> None:
    if request.method not in _SAFE:
        check_same_origin()
    elif request.path.startswith("/api/") and request.headers.get("Sec-Fetch-Site") in (
        "same-site",
        "cross-site",
    ):
        # A page of a sandbox can be same-site, so the Lax cookie comes along. It could not read the answer,
        # but it could hold event streams open.
        raise foreign_origin()


def _by_ticket() -> Principal | None:
    claims = shown_ticket()
    return None if claims is None else ticket_bearer(claims)


_FOUND_BY: dict[Guest, Callable[[], Principal | None]] = {"ticket": _by_ticket}
"""For each way of a guest: who has come by it; None where this request shows nothing of the kind. What it
shows and is not good is the 401 problem."""


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "no-credential", "Sign in first", detail, headers={"WWW-Authenticate": "Bearer"})
