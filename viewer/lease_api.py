"""API v1: who has keyboard and mouse of a session. One holder at a time: an agent, a person, or nobody."""

from __future__ import annotations

from flask import Blueprint, Response

from viewer.access import also_by, needs, principal
from viewer.answers import json_answer
from viewer.help_store import check_may_end
from viewer.incoming import AskForLease, GiveLease, ReleaseLease, RenewLease, TakeLease, json_body
from viewer.leases import NotAsked, kind_of
from viewer.leasing import seconds_of, tell_relay
from viewer.model import Display, LeaseKind, Role, Scope, Session
from viewer.openapi import Answer, Operation, describes
from viewer.problems import FieldError, Problem, role_too_small, wrong_fields
from viewer.public_leases import LeaseAnswer, lease_answer
from viewer.services import services

lease_api = Blueprint("leases", __name__, url_prefix="/api/v1/sessions/<session_id>/lease")

SHORTEST_SECONDS = 5


@lease_api.get("")
@needs(Role.WATCHER, scope=Scope.STREAMS)
@also_by("ticket")
@describes(
    Operation(
        summary="Who has keyboard and mouse, and who asks for them",
        answers={200: Answer("As it is now.", LeaseAnswer)},
        problems=(404,),
    )
)
def get_lease(session_id: str) -> Response:
    return _answer(_session(session_id))


@lease_api.post("/take")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Take keyboard and mouse, or keep them for longer",
        body=TakeLease,
        answers={200: Answer("They are yours.", LeaseAnswer)},
        problems=(400, 404, 409, 413, 415, 422, 423),
    )
)
def take_lease(session_id: str) -> Response:
    session, asked, who = _with_a_keyboard(session_id), json_body(TakeLease), principal()
    kind = kind_of(who)
    if asked.force:
        _check_admin()
    lease = services().store.leases.take(
        session,
        who,
        name=_name(),
        kind=kind,
        reason=asked.reason,
        seconds=_seconds(asked.seconds, kind),
        force=asked.force,
    )
    tell_relay(session, lease)
    return _answer(session)


@lease_api.post("/request")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Ask whoever has keyboard and mouse for them",
        body=AskForLease,
        answers={
            200: Answer("They are yours: nobody had them.", LeaseAnswer),
            202: Answer("Whoever has them, and all who watch, are told that you ask.", LeaseAnswer),
        },
        problems=(400, 404, 409, 413, 415, 422),
    )
)
def request_lease(session_id: str) -> Response:
    session, asked, who = _with_a_keyboard(session_id), json_body(AskForLease), principal()
    kind = kind_of(who)
    lease = services().store.leases.request(
        session, who, name=_name(), kind=kind, reason=asked.reason, seconds=seconds_of(kind)
    )
    if not lease.is_held_by(who.holder):
        return _answer(session, 202)
    tell_relay(session, lease)
    return _answer(session)


@lease_api.delete("/request")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Ask for keyboard and mouse no longer",
        answers={204: Answer("You do not ask for them; also when you did not before.")},
        problems=(404,),
    )
)
def withdraw_lease_request(session_id: str) -> Response:
    services().store.leases.withdraw(_session(session_id), principal())
    return Response(status=204)


@lease_api.post("/give")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Give keyboard and mouse to one who asks for them",
        body=GiveLease,
        answers={200: Answer("They are his.", LeaseAnswer)},
        problems=(400, 404, 409, 413, 415, 422, 423),
    )
)
def give_lease(session_id: str) -> Response:
    session, asked = _with_a_keyboard(session_id), json_body(GiveLease)
    store = services().store
    state = store.leases.state(session.id)
    request = next((one for one in state.requests if one.by.id == asked.to), None)
    # Whoever asked may have been let out, or down, since.
    role = store.accounts.roles_of({asked.to}).get((asked.to, session.tenant_id))
    if request is None or role is None or not role.covers(Role.OPERATOR):
        raise _not_asked()
    try:
        lease = store.leases.give(session, principal(), asked.to, seconds=seconds_of(request.by.kind))
    except NotAsked as error:
        raise _not_asked() from error
    tell_relay(session, lease, given_back=True)
    return _answer(session)


@lease_api.post("/release")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Give keyboard and mouse back",
        body=ReleaseLease,
        answers={200: Answer("Nobody has them.", LeaseAnswer)},
        problems=(400, 404, 413, 415, 422, 423),
    )
)
def release_lease(session_id: str) -> Response:
    session, asked = _session(session_id), json_body(ReleaseLease)
    if asked.force:
        _check_admin()
    if asked.done and session.help is not None:
        # Before anything is given back: all that was asked for is done, or nothing.
        check_may_end(session.help, principal())
    lease = services().store.leases.release(session, principal(), force=asked.force)
    if asked.done:
        services().store.help(session.tenant_id).end(session.id, principal())
    tell_relay(session, lease, given_back=not asked.force)
    return _answer(session)


@lease_api.post("/renew")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Keep keyboard and mouse for longer, from now",
        body=RenewLease,
        answers={200: Answer("They are still yours.", LeaseAnswer)},
        problems=(400, 404, 409, 413, 415, 422, 423),
    )
)
def renew_lease(session_id: str) -> Response:
    session, asked, who = _with_a_keyboard(session_id), json_body(RenewLease), principal()
    lease = services().store.leases.renew(session, who, seconds=_seconds(asked.seconds, kind_of(who)))
    tell_relay(session, lease)
    return _answer(session)


def _session(session_id: str) -> Session:
    return services().store.tenant(principal().tenant).get(session_id)


def _with_a_keyboard(session_id: str) -> Session:
    session = _session(session_id)
    if session.display is Display.NONE:
        raise Problem(
            409, "no-screen", "No screen", "This sandbox has no screen, and so no keyboard to have."
        )
    return session


def _answer(session: Session, status: int = 200) -> Response:
    return json_answer(lease_answer(services().store.leases.state(session.id), principal().holder), status)


def _name() -> str:
    return services().store.accounts.name_of(principal())


def _check_admin() -> None:
    if not principal().role.covers(Role.ADMIN):
        raise role_too_small(Role.ADMIN, principal().role)


def _seconds(asked: int | None, kind: LeaseKind) -> int:
    most = services().settings.control.most_seconds
    if asked is None:
        return seconds_of(kind)
    if not SHORTEST_SECONDS <= asked <= most:
        mend = f"give a whole number from {SHORTEST_SECONDS} to {most}"
        raise wrong_fields([FieldError(field="seconds", message="is out of range", mend=mend)])
    return asked


def _not_asked() -> Problem:
    mend = "give the `by.id` of one of the lease's `requests`"
    return wrong_fields([FieldError(field="to", message="does not ask for keyboard and mouse", mend=mend)])
