"""API v1: calls for a person. An agent says what it cannot do alone, and waits until somebody has done it."""

from __future__ import annotations

from flask import Blueprint, Response

from viewer.access import needs, principal
from viewer.answers import json_answer, public
from viewer.help_store import HelpStore
from viewer.incoming import AskForHelp, WaitQuery, json_body, query
from viewer.model import Role, Session
from viewer.openapi import Answer, Operation, describes
from viewer.public import HelpAnswer, PublicSession
from viewer.services import services
from viewer.waiting import wait_until

help_api = Blueprint("help", __name__, url_prefix="/api/v1/sessions/<session_id>/help")


@help_api.get("")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="Does it need a person; with `wait_seconds`, once it does not any more",
        query=WaitQuery,
        answers={200: Answer("The call, or how the last one ended.", HelpAnswer)},
        problems=(404, 422),
    )
)
def get_help(session_id: str) -> Response:
    asked = query(WaitQuery)
    session = wait_until(_session(session_id), lambda now: now.help is None, asked.wait_seconds)
    answer = HelpAnswer(
        help=session.help,
        ended_at=session.help_ended_at,
        ended_by=session.help_ended_by,
        ended_by_name=_calls().name_of_who_ended(session),
    )
    return json_answer(answer)


@help_api.put("")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Call a person to a desktop; asked again, the new reason takes the place of the old one",
        body=AskForHelp,
        answers={200: Answer("The session; all who see it are told.", PublicSession)},
        problems=(400, 404, 409, 413, 415, 422),
    )
)
def ask_for_help(session_id: str) -> Response:
    session, asked = _session(session_id), json_body(AskForHelp)
    return json_answer(public(_calls().ask(session.id, asked.reason, principal())))


@help_api.delete("")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Say that no person is needed any more: as a person, or as whoever had called",
        answers={200: Answer("The session; also when nobody was needed before.", PublicSession)},
        problems=(404,),
    )
)
def end_help(session_id: str) -> Response:
    return json_answer(public(_calls().end(session_id, principal())))


def _calls() -> HelpStore:
    return services().store.help(principal().tenant)


def _session(session_id: str) -> Session:
    return services().store.tenant(principal().tenant).get(session_id)
