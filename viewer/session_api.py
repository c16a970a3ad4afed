"""API v1: sessions. The worker acts on hosts; this writes what is wanted, and waits."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response, request

from viewer.access import also_by, needs, principal
from viewer.answers import json_answer, public, public_list
from viewer.creating import create, failed_create, may_be_warm, new_session, once_of, order_of, ttl
from viewer.incoming import (
    CreateSession,
    ListQuery,
    RenewSession,
    SetLabels,
    TerminateSessions,
    WaitQuery,
    json_body,
    query,
)
from viewer.listing import SessionFilter
from viewer.model import Kind, Role, Session, Status, utcnow
from viewer.observed import session_made
from viewer.openapi import Answer, Operation, describes
from viewer.problems import FieldError, Problem, wrong_fields
from viewer.public import History, PublicSession, PublicStep, SessionCounts, SessionList, Terminated
from viewer.services import services
from viewer.store import TenantStore
from viewer.transitions import IllegalTransition
from viewer.waiting import is_made, patience, settled, wait_until

session_api = Blueprint("sessions", __name__, url_prefix="/api/v1")

MOST_AT_ONCE = 1000
"""Sessions that one request may end."""
# The worker gives up at the deadline itself; a moment more lets its word arrive before we answer.
_DEADLINE_GRACE_SECONDS = 5.0


@session_api.post("/sessions")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Create a desktop",
        body=CreateSession,
        headers={
            "Idempotency-Key": "Any text of your own: for 24 hours, the same one with the same body finds"
            " what it made first."
        },
        answers={
            201: Answer("The desktop is usable.", PublicSession),
            202: Answer("It is being made: `wait` was false, or too many are waiting.", PublicSession),
        },
        problems=(400, 409, 413, 415, 422, 429, 502, 503),
    )
)
def create_session() -> Response:
    wanted = json_body(CreateSession)
    order = order_of(wanted)
    made = create(
        new_session(wanted, order), once_of(request.get_data()), may_be_warm=may_be_warm(wanted, order)
    )
    session = made.session
    session_made(session)
    if wanted.wait:
        seconds = services().settings.create_deadline_seconds + _DEADLINE_GRACE_SECONDS
        session = wait_until(session, is_made, seconds)
    if session.status.is_terminal and not made.is_replay:
        raise failed_create(session)
    answer = json_answer(public(session), 202 if session.status is Status.CREATING else 201)
    answer.headers["Location"] = f"/api/v1/sessions/{session.id}"
    if made.is_replay:
        answer.headers["Idempotent-Replayed"] = "true"
    return answer


@session_api.get("/sessions")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="List sessions, newest first unless `sort` says otherwise",
        query=ListQuery,
        answers={
            200: Answer(
                "One page. With a text, several conditions or another order than by creation it looks at some"
                " thousand sessions and not at all of them: it may have fewer than `limit`, or none, while"
                " `next_cursor` says that there is more to look at.",
                SessionList,
            )
        },
        problems=(400, 422),
    )
)
def list_sessions() -> Response:
    asked = query(ListQuery)
    wanted = SessionFilter(
        status=asked.status,
        task_id=asked.task_id,
        agent_id=asked.agent_id,
        sandbox_id=asked.sandbox_id,
        image=_image_name(asked.image),
        host=asked.host,
        help=asked.help,
        labels=dict(pair.split("=", 1) for pair in asked.label),
        text=asked.q,
    )
    page = _tenant().list(wanted, asked.cursor, asked.limit, asked.sort)
    return json_answer(public_list(page.items, page.next_cursor))


@session_api.get("/sessions/counts")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="How many sessions there are of each status",
        answers={200: Answer("All of your tenant.", SessionCounts)},
    )
)
def count_sessions() -> Response:
    return json_answer(SessionCounts.model_validate(_tenant().counts().model_dump()))


@session_api.get("/sessions/<session_id>")
@needs(Role.WATCHER)
@also_by("ticket")
@describes(
    Operation(
        summary="One session; with `wait_seconds`, once it is no longer being made",
        query=WaitQuery,
        answers={200: Answer("The session.", PublicSession)},
        problems=(404, 422),
    )
)
def get_session(session_id: str) -> Response:
    asked = query(WaitQuery)
    return json_answer(public(wait_until(_tenant().get(session_id), is_made, asked.wait_seconds)))


@session_api.delete("/sessions/<session_id>")
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
    _sandbox(session_id)
    session = _tenant().request_termination(session_id, by=principal().id)
    session = wait_until(session, lambda now: now.status.is_terminal, patience(session))
    if session.status.is_terminal:
        return Response(status=204)
    return json_answer(public(session), 202)


@session_api.post("/sessions/terminate")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="End every sandbox that matches",
        body=TerminateSessions,
        answers={202: Answer("Their end is asked for; each one tells of it by an event.", Terminated)},
        problems=(400, 413, 415, 422),
    )
)
def terminate_sessions() -> Response:
    asked = json_body(TerminateSessions)
    wanted = SessionFilter(
        status=asked.status,
        task_id=asked.task_id,
        agent_id=asked.agent_id,
        image=_image_name(asked.image),
        host=asked.host,
        labels=asked.labels,
    )
    if wanted.is_empty and not asked.all:
        mend = "name a condition, or send `all: true` to end every sandbox of your tenant"
        raise wrong_fields([FieldError(field="body", message="no condition is given", mend=mend)])
    ids = _tenant().request_terminations(wanted, by=principal().id, limit=MOST_AT_ONCE + 1)
    return json_answer(Terminated(ids=tuple(ids), more=len(ids) > MOST_AT_ONCE), 202)


@session_api.post("/sessions/<session_id>/pause")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Freeze a running desktop; its memory stays",
        answers={
            200: Answer("It is paused.", PublicSession),
            202: Answer("It will be: the host does not answer yet.", PublicSession),
        },
        problems=(404, 409),
    )
)
def pause_session(session_id: str) -> Response:
    return _become(session_id, Status.PAUSED)


@session_api.post("/sessions/<session_id>/resume")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Let a paused desktop run on",
        answers={
            200: Answer("It runs.", PublicSession),
            202: Answer("It will: the host does not answer yet.", PublicSession),
        },
        problems=(404, 409),
    )
)
def resume_session(session_id: str) -> Response:
    return _become(session_id, Status.RUNNING)


@session_api.post("/sessions/<session_id>/renew")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Let a session live on, from now",
        body=RenewSession,
        answers={200: Answer("The session with its new end, at most that of its lifetime.", PublicSession)},
        problems=(400, 404, 409, 413, 415, 422),
    )
)
def renew_session(session_id: str) -> Response:
    asked = json_body(RenewSession)
    session = _sandbox(session_id)
    seconds = session.ttl_seconds if asked.ttl_seconds is None else ttl(asked.ttl_seconds)
    session = _tenant().renew(session_id, utcnow() + timedelta(seconds=seconds), by=principal().id)
    return json_answer(public(session))


@session_api.put("/sessions/<session_id>/labels")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Replace a session's labels",
        body=SetLabels,
        answers={200: Answer("The session.", PublicSession)},
        problems=(400, 404, 409, 413, 415, 422),
    )
)
def set_labels(session_id: str) -> Response:
    session, asked = _tenant().get(session_id), json_body(SetLabels)
    return json_answer(public(_tenant().set_labels(session.id, asked.labels)))


@session_api.get("/sessions/<session_id>/history")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="What happened to a session, when and by whom",
        answers={200: Answer("Its steps, oldest first.", History)},
        problems=(404,),
    )
)
def get_history(session_id: str) -> Response:
    steps = _tenant().history(session_id)
    return json_answer(
        History(items=tuple(PublicStep.model_validate(step, from_attributes=True) for step in steps))
    )


def _become(session_id: str, wanted: Status) -> Response:
    """Ask for that status, and wait until it is so."""
    _sandbox(session_id)
    session = _tenant().request_status(session_id, wanted, by=principal().id)
    session = wait_until(session, settled(wanted), patience(session))
    if session.status is wanted:
        return json_answer(public(session))
    if session.wanted_status is None:
        raise IllegalTransition(session.status, wanted)
    return json_answer(public(session), 202)


def _tenant() -> TenantStore:
    return services().store.tenant(principal().tenant)


def _sandbox(session_id: str) -> Session:
    """The session, unless the inventory declares it; raise 404 or 409."""
    session = _tenant().get(session_id)
    if session.kind is Kind.DESKTOP:
        raise Problem(
            409,
            "declared-desktop",
            "A declared desktop stays as it is",
            "This desktop is declared in the inventory; take it out there and run the deploy.",
        )
    return session


def _image_name(asked: str | None) -> str | None:
    image = services().settings.image(asked) if asked else None
    return image.name if image else asked
