"""API v1: who has a session open, and tickets for its stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from flask import Blueprint, Response

from viewer.access import needs, principal, public_origin
from viewer.answers import json_answer
from viewer.incoming import CreateTicket, json_body
from viewer.model import Display, Role, Scope, Session
from viewer.openapi import Answer, Operation, describes
from viewer.problems import Problem, not_found, role_too_small
from viewer.public_streams import OpenStreams, PublicTicket, principal_of, public_stream
from viewer.relay.answers import CloseCode, StreamInfo
from viewer.relay_client import RelayUnreachable
from viewer.services import services
from viewer.tickets import text_of

stream_api = Blueprint("streams", __name__, url_prefix="/api/v1")
_log = logging.getLogger("deskfleet.viewer")


@stream_api.get("/sessions/<session_id>/streams")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="Who has this session open, since when",
        answers={200: Answer("Longest first.", OpenStreams)},
        problems=(404, 502),
    )
)
def list_streams(session_id: str) -> Response:
    session = services().store.tenant(principal().tenant).get(session_id)
    streams = _streams_of(session)
    names = services().store.accounts.names_of({principal_of(stream) for stream in streams})
    shown = [public_stream(stream, names[principal_of(stream)]) for stream in streams]
    return json_answer(OpenStreams(items=tuple(sorted(shown, key=lambda one: one.opened_at))))


@stream_api.delete("/sessions/<session_id>/streams/<stream_id>")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Close somebody's stream; it does not come back by itself",
        answers={204: Answer("It is closed, and told by whom.")},
        problems=(404, 502),
    )
)
def close_stream(session_id: str, stream_id: str) -> Response:
    session, who = services().store.tenant(principal().tenant).get(session_id), principal()
    stream = next((one for one in _streams_of(session) if one.stream_id == stream_id), None)
    if stream is None:
        raise not_found()
    services().store.audit.note_closing(session, stream_id, of=principal_of(stream))
    name = services().store.accounts.name_of(who)
    with _relay_may_be_silent():
        services().relays[session.host or ""].close_stream(stream, CloseCode.REVOKED, f"closed by {name}")
    return Response(status=204)


@stream_api.post("/sessions/<session_id>/tickets")
@needs(Role.WATCHER, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="A short-lived ticket for a session's stream",
        body=CreateTicket,
        answers={201: Answer("The ticket; it is worth what its maker may do.", PublicTicket)},
        problems=(400, 404, 409, 413, 415, 422),
    )
)
def create_ticket(session_id: str) -> Response:
    who = principal()
    session = services().store.tenant(who.tenant).get(session_id)
    asked = json_body(CreateTicket)
    if not who.role.covers(asked.role.needed):
        raise role_too_small(asked.role.needed, who.role)
    _check_streams(session)
    claims = services().store.tickets.make(
        who,
        session.id,
        asked.role,
        life=timedelta(seconds=asked.ttl_seconds),
        is_single_use=asked.single_use,
    )
    made = PublicTicket(
        id=claims.id,
        ticket=text_of(claims, services().settings.secret_key),
        session_id=session.id,
        role=claims.role,
        single_use=claims.is_single_use,
        stream_url=f"{public_origin().replace('http', 'ws', 1)}/stream/{session.id}",
        expires_at=claims.ends_at,
    )
    return json_answer(made, 201)


@stream_api.delete("/sessions/<session_id>/tickets/<ticket_id>")
@needs(Role.WATCHER, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Revoke a ticket, and close what was opened by it",
        answers={204: Answer("It opens nothing any more; also when it was revoked before.")},
        problems=(404,),
    )
)
def revoke_ticket(session_id: str, ticket_id: str) -> Response:
    who = principal()
    session = services().store.tenant(who.tenant).get(session_id)
    services().store.tickets.revoke(who.tenant, session.id, ticket_id, who=who)
    _close_what_came_by(session, ticket_id)
    return Response(status=204)


def _close_what_came_by(session: Session, ticket_id: str) -> None:
    """At once; where the relay does not answer now, the worker does it as soon as it does."""
    try:
        for stream in _ask_relay_for_streams(session):
            if stream.ticket_id == ticket_id:
                services().relays[session.host or ""].close_stream(
                    stream, CloseCode.SIGNED_OUT, "the ticket that this was opened by is revoked"
                )
    except RelayUnreachable as problem:
        _log.warning("session %s: streams of a revoked ticket are closed later: %s", session.id, problem)


def _streams_of(session: Session) -> list[StreamInfo]:
    with _relay_may_be_silent():
        return _ask_relay_for_streams(session)


def _ask_relay_for_streams(session: Session) -> list[StreamInfo]:
    """Raises RelayUnreachable."""
    relay = services().relays.get(session.host or "")
    if relay is None or session.status.is_terminal:
        return []
    its = (session.id, session.tenant_id)
    return [stream for stream in relay.streams() if (stream.session_id, stream.tenant_id) == its]


@contextmanager
def _relay_may_be_silent() -> Iterator[None]:
    try:
        yield
    except RelayUnreachable as problem:
        raise Problem(
            502,
            "relay-silent",
            "The desktop's host does not answer",
            f"What is open there cannot be told or changed now; try again in a while: {problem}.",
            headers={"Retry-After": "5"},
        ) from problem


def _check_streams(session: Session) -> None:
    if session.status.is_terminal:
        raise Problem(
            409,
            "wrong-status",
            "This session has ended",
            f"It is {session.status} and will show nothing any more; make another one.",
        )
    if session.display is not Display.RFB:
        raise Problem(
            409,
            "no-stream",
            "This session has no such stream",
            "It has no screen, or shows it by a page of its own; see `display`.",
        )
