"""API v1: sessions, the catalogue, who you are. The worker acts on hosts; this writes and waits."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Blueprint, Response, current_app
from pydantic import BaseModel

from viewer import __version__, openapi
from viewer.access import anyone, needs, principal, public_origin
from viewer.credentials import new_vnc_password, seal_password
from viewer.hosts import HostList, host_list
from viewer.incoming import SHORTEST_TTL_SECONDS, CreateSession, ListQuery, json_body, query
from viewer.model import Display, HostStatus, Kind, Role, Session, Status, utcnow
from viewer.openapi import Answer, Operation, describes
from viewer.problems import FieldError, Problem, unknown_name, wrong_fields
from viewer.public import Catalogue, Me, PublicSession, SessionList, catalogue, public_session, session_list
from viewer.services import services
from viewer.settings import ImageSettings
from viewer.store import (
    MOST_CREATING,
    BadCursor,
    NewSession,
    SessionFilter,
    TenantStore,
    TooManyCreating,
)

api = Blueprint("api", __name__, url_prefix="/api/v1")

TERMINATION_WAIT_SECONDS = 15.0
SILENT_HOST_WAIT_SECONDS = 1.0
# The worker gives up at the deadline itself; a moment more lets its word arrive before we answer.
_DEADLINE_GRACE_SECONDS = 5.0


@api.post("/sessions")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Create a desktop",
        body=CreateSession,
        answers={
            201: Answer("The desktop is usable.", PublicSession),
            202: Answer("It is being made: `wait` was false, or too many are waiting.", PublicSession),
        },
        problems=(400, 409, 413, 415, 422, 429, 502, 503),
    )
)
def create_session() -> Response:
    wanted = json_body(CreateSession)
    try:
        session = _tenant().create(_new_session(wanted))
    except TooManyCreating as error:
        raise _too_many_creating() from error
    if wanted.wait:
        seconds = services().settings.create_deadline_seconds + _DEADLINE_GRACE_SECONDS
        session = _wait_until(session, lambda now: now.status is not Status.CREATING, seconds)
    if session.status.is_terminal:
        raise _failed_create(session)
    answer = _json(_public(session), 202 if session.status is Status.CREATING else 201)
    answer.headers["Location"] = f"/api/v1/sessions/{session.id}"
    return answer


@api.get("/sessions")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="List sessions, newest first",
        query=ListQuery,
        answers={200: Answer("One page.", SessionList)},
        problems=(400, 422),
    )
)
def list_sessions() -> Response:
    asked = query(ListQuery)
    image = services().settings.image(asked.image) if asked.image else None
    wanted = SessionFilter(
        status=asked.status,
        task_id=asked.task_id,
        agent_id=asked.agent_id,
        sandbox_id=asked.sandbox_id,
        image=image.name if image else asked.image,
        host=asked.host,
    )
    try:
        page = _tenant().list(wanted, asked.cursor, asked.limit)
    except BadCursor as error:
        wrong = FieldError(field="cursor", message="is not one of ours", mend="start again without it")
        raise wrong_fields([wrong], status=400) from error
    return _json(session_list(page.items, page.next_cursor, origin=public_origin(), hosts=host_statuses()))


@api.get("/sessions/<session_id>")
@needs(Role.WATCHER)
@describes(
    Operation(summary="One session", answers={200: Answer("The session.", PublicSession)}, problems=(404,))
)
def get_session(session_id: str) -> Response:
    return _json(_public(_tenant().get(session_id)))


@api.delete("/sessions/<session_id>")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="End a session and stop its container",
        answers={
            204: Answer("It has ended and the container is gone; also when it had ended before."),
            202: Answer("It will end: the host does not answer yet.", PublicSession),
        },
        problems=(404, 409),
    )
)
def terminate_session(session_id: str) -> Response:
    tenant = _tenant()
    session = tenant.get(session_id)
    if session.kind is Kind.DESKTOP:
        raise Problem(
            409,
            "declared-desktop",
            "A declared desktop does not end",
            "This desktop is declared in the inventory; take it out there and run the deploy.",
        )
    session = tenant.request_termination(session_id)
    patience = SILENT_HOST_WAIT_SECONDS if _host_is_silent(session) else TERMINATION_WAIT_SECONDS
    session = _wait_until(session, lambda now: now.status.is_terminal, patience)
    if session.status.is_terminal:
        return Response(status=204)
    return _json(_public(session), 202)


@api.get("/images")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="Images and defaults for new desktops", answers={200: Answer("The catalogue.", Catalogue)}
    )
)
def list_images() -> Response:
    return _json(catalogue(services().settings))


@api.get("/hosts")
@needs(Role.WATCHER)
@describes(
    Operation(summary="Hosts that carry desktops", answers={200: Answer("All of the fleet's.", HostList)})
)
def list_hosts() -> Response:
    here = services()
    return _json(
        host_list(
            here.settings,
            who=principal(),
            records=here.store.fleet.hosts(),
            used=here.store.fleet.sandboxes_by_host(),
            desktops=_tenant().desktops(),
            now=utcnow(),
        )
    )


@api.get("/me")
@needs(Role.WATCHER)
@describes(Operation(summary="Who this credential belongs to", answers={200: Answer("You.", Me)}))
def get_me() -> Response:
    return _json(Me.of(principal()))


@api.get("/openapi.json")
@anyone
@describes(Operation(summary="This description", answers={200: Answer("OpenAPI 3.1.")}))
def get_openapi() -> Response:
    text = current_app.json.dumps(openapi.document(current_app, __version__))
    return Response(text, content_type="application/json")


def host_statuses() -> dict[str, HostStatus]:
    return {host.name: host.status for host in services().store.fleet.hosts()}


def _host_is_silent(session: Session) -> bool:
    return session.host is not None and host_statuses().get(session.host) is HostStatus.UNREACHABLE


def _tenant() -> TenantStore:
    return services().store.tenant(principal().tenant)


def _public(session: Session) -> PublicSession:
    return public_session(session, origin=public_origin(), hosts=host_statuses())


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, content_type="application/json")


def _new_session(wanted: CreateSession) -> NewSession:
    settings = services().settings
    image = _image(wanted.image or settings.default_image)
    has_screen = image.display is not Display.NONE
    return NewSession(
        image=image.name,
        display=image.display,
        resolution=(wanted.resolution or settings.default_resolution) if has_screen else None,
        task_id=wanted.task_id,
        agent_id=wanted.agent_id,
        wanted_host=_host(wanted.host) if wanted.host is not None else None,
        ttl_seconds=_ttl(wanted.ttl_seconds),
        created_by=principal().id,
        vnc_password_sealed=seal_password(new_vnc_password(), settings.secret_key) if has_screen else None,
    )


def _image(name: str) -> ImageSettings:
    settings = services().settings
    image = settings.image(name)
    if image is None:
        raise unknown_name("image", name, [image.name for image in settings.images])
    return image


def _host(name: str) -> str:
    known = [host.name for host in services().settings.sandbox_hosts]
    if name not in known:
        raise unknown_name("host", name, known)
    return name


def _ttl(seconds: int | None) -> int:
    settings = services().settings
    if seconds is None:
        return settings.default_ttl_seconds
    if seconds > settings.max_ttl_seconds:
        mend = f"give a whole number of seconds from {SHORTEST_TTL_SECONDS} to {settings.max_ttl_seconds}"
        raise wrong_fields([FieldError(field="ttl_seconds", message=f"{seconds} is too long", mend=mend)])
    return seconds


def _wait_until(session: Session, reached: Callable[[Session], bool], seconds: float) -> Session:
    """The session once it is as wanted, or as it is after `seconds`; at once when too many wait already."""
    here, who = services(), principal()
    if reached(session) or not here.waits.take(who):
        return session
    deadline = time.monotonic() + seconds
    try:
        while not reached(session) and not here.stopping.is_set():
            mark = here.store.mark()
            session = _tenant().get(session.id)
            left = deadline - time.monotonic()
            if reached(session) or left <= 0:
                break
            here.store.wait_for_change(left, since=mark)
        return session
    finally:
        here.waits.give_back(who)


def _too_many_creating() -> Problem:
    return Problem(
        429,
        "too-many-creating",
        "Too many desktops are being made",
        f"Your tenant has {MOST_CREATING} desktops in the making already; try again when some are ready.",
        headers={"Retry-After": "10"},
    )


def _failed_create(session: Session) -> Problem:
    """The row stays, as `error` or `terminated`; the problem names it."""
    if session.status is Status.TERMINATED:
        return Problem(
            409,
            "ended-while-created",
            "It was ended while it was being made",
            "Somebody ended this session before the desktop was ready; create another one.",
            session_id=session.id,
        )
    # No host had room or answered, or the one that was chosen has gone silent: the request itself was fine.
    later = session.host is None or _host_is_silent(session)
    return Problem(
        503 if later else 502,
        "create-failed",
        "The desktop could not be made",
        session.error_message or "The sandbox host gave no reason; see the worker's log.",
        headers={"Retry-After": "10"} if later else {},
        session_id=session.id,
        error_message=session.error_message,
    )
