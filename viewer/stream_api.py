"""API v1: tickets for a session's stream."""

from __future__ import annotations

from datetime import datetime, timedelta

from flask import Blueprint, Response
from pydantic import Field

from viewer.access import needs, principal, public_origin
from viewer.answers import json_answer
from viewer.incoming import CreateTicket, json_body
from viewer.model import Display, Frozen, Role, Scope, Session
from viewer.openapi import Answer, Operation, describes
from viewer.problems import Problem, role_too_small
from viewer.services import services
from viewer.tickets import TicketRole, text_of

stream_api = Blueprint("streams", __name__, url_prefix="/api/v1")


class PublicTicket(Frozen):
    """A ticket, shown this once: send it as `Authorization: Bearer <ticket>` to `stream_url`."""

    id: str = Field(description="By which it is revoked; opens nothing.")
    ticket: str = Field(repr=False)
    session_id: str
    role: TicketRole
    single_use: bool
    stream_url: str = Field(description="The stream: WebSocket, subprotocol `binary`, RFB 3.8.")
    expires_at: datetime = Field(description="What was opened by then goes on.")


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
    asked, who = json_body(CreateTicket), principal()
    session = services().store.tenant(who.tenant).get(session_id)
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
    return Response(status=204)


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
