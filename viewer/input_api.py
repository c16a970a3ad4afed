"""API v1: keys, pointer and clipboard of a desktop, under the lease and policy of a person's keyboard."""

from __future__ import annotations

from datetime import timedelta
from typing import NoReturn

import httpx
from flask import Blueprint, Response, request

from viewer.access import needs, principal
from viewer.authz import screen_of, vnc_password
from viewer.creating import key_reused, once_of
from viewer.grants import Grant, Target
from viewer.incoming import json_body
from viewer.input_actions import Gesture, InputDone, ScreenSize
from viewer.leasing import hold_for_input
from viewer.model import Display, Role, Scope, Session, Status, utcnow
from viewer.once import KeyReused, Once
from viewer.openapi import Answer, Operation, describes
from viewer.problems import FieldError, Problem, lease_held, not_found, wrong_fields
from viewer.relay.answers import InputOutcome, InputResult
from viewer.relay_client import RelayClient, RelayUnreachable
from viewer.services import services

input_api = Blueprint("input", __name__, url_prefix="/api/v1")

GRANT_LIFE = timedelta(seconds=30)
"""To reach the relay; what has begun by then goes on."""


@input_api.post("/sessions/<session_id>/input")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Type, press keys, use the pointer or the clipboard",
        body=Gesture,
        headers={
            "Idempotency-Key": "Any text of your own: for 10 minutes, the same one with the same body is done"
            " only once."
        },
        answers={200: Answer("All of it was done, with no other input in between.", InputDone)},
        problems=(400, 404, 409, 413, 415, 422, 423, 501, 502, 503),
    )
)
def send_input(session_id: str) -> Response:
    who, here = principal(), services()
    session = here.store.tenant(who.tenant).get(session_id)
    gesture = json_body(Gesture)
    target, relay = _reachable(session)
    once = once_of(request.get_data())
    if not here.gestures.take(who):
        raise _too_many("Your tenant sends as much input at once as it may")
    try:
        earlier = _earlier(session, once)
        if earlier is not None:
            return earlier
        answer = _do(session, target, relay, gesture, once)
    finally:
        here.gestures.give_back(who)
    return Response(answer, content_type="application/json")


def _do(session: Session, target: Target, relay: RelayClient, gesture: Gesture, once: Once | None) -> str:
    """The answer's body. Raises the problem that says why not; then the key is free again, unless part of it
    may have been done."""
    may_have_begun = False
    try:
        grant = _grant(session, target)
        result = relay.send_input(grant, gesture)
        may_have_begun = result.began
        if result.result is not InputOutcome.DONE:
            _refuse(session, result, gesture)
    except RelayUnreachable as error:
        may_have_begun = not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
        raise _no_relay(error, may_have_begun) from error
    finally:
        if once is not None and not may_have_begun:
            services().store.gestures(session.tenant_id).forget(once)
    done = InputDone(
        actions=result.done, screen=ScreenSize(width=result.width, height=result.height)
    ).model_dump_json()
    if once is not None:
        services().store.gestures(session.tenant_id).finish(once, done)
    return done


def _grant(session: Session, target: Target) -> Grant:
    """For whoever asks, once he has keyboard and mouse. Raises the problem 423 where another one has them."""
    here, who = services(), principal()
    lease = hold_for_input(session, who)
    # Before anything is sent, so that nobody acts who is not in the log; and never what.
    here.store.audit.opened(
        session.tenant_id, "session.input", f"session:{session.id}", principal=who.id, detail={"way": "api"}
    )
    return Grant(
        purpose="input",
        session_id=session.id,
        tenant_id=session.tenant_id,
        principal=who.holder,
        may_control=True,
        lease=lease,
        clipboard=here.settings.tenant(session.tenant_id).clipboard,
        target=target,
        vnc_password=vnc_password(session),
        expires_at=utcnow() + GRANT_LIFE,
    )


def _reachable(session: Session) -> tuple[Target, RelayClient]:
    """Where its keyboard is, and who gets there. Raises 409."""
    if session.display is Display.NONE:
        raise Problem(
            409,
            "no-screen",
            "No screen",
            "This sandbox has no screen, and so neither keyboard nor pointer; run commands in it instead.",
        )
    if session.status is not Status.RUNNING:
        raise Problem(
            409,
            "not-running",
            "This desktop is not running",
            f"It is {session.status} now; a desktop takes input while it runs.",
        )
    target = screen_of(session)
    relay = services().relays.get(session.host or "")
    if target is None or relay is None:
        raise not_found()
    return target, relay


def _earlier(session: Session, once: Once | None) -> Response | None:
    """What the same request was answered before; None: go on, it is new."""
    if once is None:
        return None
    try:
        earlier = services().store.gestures(session.tenant_id).begin(session.id, once)
    except KeyReused as error:
        raise key_reused() from error
    if earlier is None:
        return None
    if earlier.answer is None:
        raise Problem(
            409,
            "input-in-doubt",
            "This was begun before",
            "A request with this Idempotency-Key is under way, or was cut in the middle; look at the screen,"
            " and send what is missing with another key.",
        )
    return Response(earlier.answer, content_type="application/json", headers={"Idempotent-Replayed": "true"})


def _refuse(session: Session, result: InputResult, gesture: Gesture) -> NoReturn:
    match result.result:
        case InputOutcome.OUTSIDE | InputOutcome.NO_POINTER | InputOutcome.KEYBOARD_FULL:
            raise _unusable(result.detail)
        case InputOutcome.WRONG_CLIPBOARD if session.display is Display.KASMVNC:
            raise Problem(
                501,
                "not-on-kasmvnc",
                "Not with this desktop",
                "This desktop runs KasmVNC, whose clipboard the input API does not reach; type the text.",
            )
        case InputOutcome.WRONG_CLIPBOARD:
            raise _unusable(result.detail)
        case InputOutcome.CLIPBOARD_REFUSED:
            raise Problem(
                403,
                "clipboard-off",
                "The clipboard is closed",
                "Your tenant lets nothing onto the clipboards of its desktops; type the text instead.",
            )
        case InputOutcome.LEASE_LOST:
            raise lease_held(services().store.leases.of(session.id))
        case InputOutcome.BUSY:
            raise _too_many("Other input of this desktop is under way")
        case InputOutcome.UNREACHABLE:
            raise Problem(502, "desktop-unreachable", "The desktop takes no input", _so_far(result, gesture))
        case _:
            raise Problem(409, "input-cut", "The input was cut", _so_far(result, gesture))


def _so_far(result: InputResult, gesture: Gesture) -> str:
    reason = f"{result.detail[:1].upper()}{result.detail[1:]}"
    if not result.began:
        return f"{reason}; nothing was done."
    return f"{reason}; {result.done} of {len(gesture.actions)} actions were done, and everything is let go."


def _unusable(sentence: str) -> Problem:
    """From `what is wrong; what mends it`."""
    message, _, mend = sentence.partition("; ")
    return wrong_fields([FieldError(field="actions", message=message, mend=mend or "give others")])


def _too_many(sentence: str) -> Problem:
    return Problem(
        429,
        "too-many-gestures",
        "Too much input at once",
        f"{sentence}; send this again in a second.",
        headers={"Retry-After": "1"},
    )


def _no_relay(error: RelayUnreachable, may_have_begun: bool) -> Problem:
    reason = f"{str(error)[:1].upper()}{str(error)[1:]}"
    if may_have_begun:
        detail = f"{reason}; it may have been done in part: look at the screen before you send it again."
        return Problem(502, "input-in-doubt", "No answer from the desktop's host", detail)
    return Problem(
        503,
        "host-unreachable",
        "The desktop's host does not answer",
        f"{reason}; nothing was done, so send it again.",
        headers={"Retry-After": "2"},
    )
