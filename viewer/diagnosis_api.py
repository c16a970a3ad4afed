"""API v1: why a desktop shows nothing, step by step (`viewer.diagnosis`)."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response, request

from viewer.access import COOKIE, needs, principal
from viewer.answers import json_answer
from viewer.diagnosis import Case, examine, whole
from viewer.diagnosis_answers import Diagnosis
from viewer.model import Principal, Role, Session
from viewer.openapi import Answer, Operation, describes
from viewer.problems import Problem
from viewer.rows import QUEUED
from viewer.services import Services, services

diagnosis_api = Blueprint("diagnosis", __name__, url_prefix="/api/v1")

LINES = "application/x-ndjson"


@diagnosis_api.get("/sessions/<session_id>/diagnosis")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="Why a desktop shows nothing: each step from its row to its picture, within 15 s",
        headers={
            "Accept": f"`{LINES}` sends each step as a line as soon as it is known, and the whole at the end."
        },
        answers={200: Answer("What was found just now.", Diagnosis, also=(LINES,))},
        problems=(404,),
    )
)
def get_diagnosis(session_id: str) -> Response:
    here, who = services(), principal()
    session = here.store.tenant(who.tenant).get(session_id)
    case = _case_of(here, session, who)
    _check_may_ask(here, who)
    if request.accept_mimetypes.best_match(["application/json", LINES]) == LINES:
        answer = Response(_lines(case), content_type=LINES)
        answer.call_on_close(lambda: here.diagnoses.give_back(who))
        return answer
    try:
        return json_answer(whole(case, tuple(examine(case))))
    finally:
        here.diagnoses.give_back(who)


def _lines(case: Case) -> Iterator[str]:
    steps = []
    for step in examine(case):
        steps.append(step)
        yield f"{step.model_dump_json()}\n"
    yield f"{whole(case, tuple(steps)).model_dump_json()}\n"


def _check_may_ask(here: Services, who: Principal) -> None:
    """Take a place, which the caller gives back; raise 429 where there is none."""
    seconds = here.diagnosis_limit.take(who)
    if seconds or not here.diagnoses.take(who):
        raise Problem(
            429,
            "too-many-diagnoses",
            "Too many diagnoses",
            "A diagnosis asks every program between the desktop and you; wait until those that are under way"
            " have ended.",
            headers={"Retry-After": str(max(seconds, 5))},
        )


def _case_of(here: Services, session: Session, who: Principal) -> Case:
    """All that the database knows, and the ways to ask; a stream of lines has no request behind it later."""
    link = here.links.get(session.host or "")
    waits = session.host is None and session.status_reason == QUEUED
    return Case(
        settings=here.settings,
        session=session,
        who=who,
        lease=here.store.leases.of(session.id),
        record=next((one for one in here.store.fleet.hosts() if one.name == session.host), None),
        place=here.store.fleet.queue().get(session.id) if waits else None,
        relay=here.relays.get(session.host or ""),
        sandboxes=link.sandboxes if link is not None else None,
        hostwatch=link.hostwatch if link is not None else None,
        credential=_credential(who),
    )


def _credential(who: Principal) -> dict[str, str]:
    """What the caller showed, for the one stream that is opened in his name, at our own address."""
    if who.via == "cookie":
        return {"Cookie": f"{COOKIE}={request.cookies[COOKIE]}"}
    return {"Authorization": request.headers["Authorization"]}
