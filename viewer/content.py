"""The ways to the origins beside the viewer: tickets for them, and the door at each where a ticket is used.

A ticket is all that the door asks for: the page that posts it may be anybody's. Whoever makes another person
post a ticket of his own gives that person access, to something of his own tenant, and learns nothing.
"""

from __future__ import annotations

import re
from datetime import datetime

from flask import Blueprint, Response, request
from pydantic import Field

from viewer.access import (
    COOKIE,
    ENTRY_COOKIE,
    allowed_service,
    answers_at,
    anyone,
    client_address,
    needs,
    place,
    principal,
)
from viewer.devtools import why_no_devtools
from viewer.entries import ENTRY_LIFE, Audience
from viewer.incoming import EnterForm, WantedEntry, form_body, json_body
from viewer.model import Display, Frozen, Role, Scope, Session, Status
from viewer.openapi import Answer, Operation, describes
from viewer.places import PlaceKind, content_origin, service_origin
from viewer.problems import Problem, role_too_small, too_many_attempts
from viewer.services import services
from viewer.share_visits import by_share

content = Blueprint("content", __name__)

DOOR = "/.deskfleet/enter"

# A path of this very origin: one slash first, no backslash, nothing that is not printable, and not the door.
_LOCAL_PATH = re.compile(r"/(?![/\\]|\.deskfleet(?:/|$))[\x21-\x5b\x5d-\x7e]*", re.ASCII)


class EntryTicket(Frozen):
    """A way in: post the form fields `ticket` and, if wanted, `next` (a path there) to `url`, once."""

    url: str
    ticket: str = Field(repr=False)
    expires_at: datetime


@content.post("/api/v1/sessions/<session_id>/entries")
@needs(Role.WATCHER, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="A one-time ticket for a desktop's own page, or for DevTools of its browser",
        body=WantedEntry,
        answers={201: Answer("Post the ticket within a minute.", EntryTicket)},
        problems=(400, 404, 409, 413, 415, 422),
    )
)
def enter_session(session_id: str) -> Response:
    session = services().store.tenant(principal().tenant).get(session_id)
    if json_body(WantedEntry).page == "devtools":
        _check_has_devtools(session)
    else:
        _check_has_page(session)
    return _ticket(Audience(origin=_own_origin(session), session_id=session.id))


@content.post("/api/v1/shared/<session_id>/entries")
@needs(Role.WATCHER, scope=Scope.STREAMS, door=by_share)
@describes(
    Operation(
        summary="The same, for a browser that came by a share link",
        answers={201: Answer("Post the ticket within a minute.", EntryTicket)},
        problems=(404, 409, 410),
    )
)
def enter_shared(session_id: str) -> Response:
    """It watches there, too: its entry is worth a watcher's."""
    session = services().store.tenant(principal().tenant).get(session_id)
    _check_has_page(session)
    return _ticket(Audience(origin=_own_origin(session), session_id=session.id))


@content.post("/api/v1/services/<name>/entries")
@needs(Role.WATCHER, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="A one-time ticket for a service",
        answers={201: Answer("Post the ticket within a minute.", EntryTicket)},
        problems=(404,),
    )
)
def enter_service(name: str) -> Response:
    service = allowed_service(name)
    return _ticket(Audience(origin=service_origin(service, services().settings), service=service.name))


@content.post(DOOR)
@anyone
@answers_at(PlaceKind.CONTENT, PlaceKind.SERVICE)
def enter() -> Response:
    here = place()
    # A wrong ticket at one origin says nothing of the others.
    source = f"{client_address()} {here.origin}"
    seconds = services().entry_failures.seconds_to_wait(source)
    if seconds:
        raise too_many_attempts(seconds)
    form = form_body(EnterForm)
    cookie = services().store.entries.enter(
        form.ticket, here.origin, old=request.cookies.get(ENTRY_COOKIE) or None
    )
    if cookie is None:
        services().entry_failures.failed(source)
        raise Problem(
            403,
            "ticket-not-valid",
            "This way in is over",
            "The ticket was used already, is older than a minute, or is for another place; open it again from"
            " Deskfleet.",
        )
    response = Response(status=303, headers={"Location": local_path(form.next)})
    response.set_cookie(
        ENTRY_COOKIE,
        cookie,
        max_age=ENTRY_LIFE,
        path="/",
        secure=True,
        httponly=True,
        samesite="None",
        # In a frame it is a third party's cookie, which browsers keep only per embedding site.
        partitioned=True,
    )
    return response


def _own_origin(session: Session) -> str:
    origin = content_origin(session.id, services().settings)
    if origin is None:
        raise Problem(
            409,
            "no-content-domain",
            "Pages of desktops are off here",
            "This fleet has no content domain, so a desktop's own page cannot be shown apart from the viewer;"
            " set content_domain in the site file and run the deploy.",
        )
    return origin


def local_path(wanted: str) -> str:
    """Where to go on this origin; `/` instead of anything that might lead off it."""
    return wanted if _LOCAL_PATH.fullmatch(wanted) else "/"


def _check_has_page(session: Session) -> None:
    if session.status is not Status.RUNNING:
        raise Problem(
            409,
            "not-running",
            "This desktop is not running",
            f"It is {session.status} now; a desktop's page opens while it runs.",
        )
    if session.display is not Display.KASMVNC:
        raise Problem(
            409,
            "no-page",
            "This desktop has no page of its own",
            "Its screen is a stream; see `vnc_endpoint` and `novnc_url`.",
        )


def _check_has_devtools(session: Session) -> None:
    if not principal().role.covers(Role.OPERATOR):
        raise role_too_small(Role.OPERATOR, principal().role)
    why_not = why_no_devtools(session, services().settings)
    if why_not is not None:
        raise Problem(409, "no-devtools", "DevTools cannot be opened", why_not)


def _ticket(audience: Audience) -> Response:
    who = principal()
    cookie = request.cookies.get(COOKIE) if who.via == "cookie" else None
    ticket = services().store.entries.new_ticket(who, audience, cookie=cookie)
    body = EntryTicket(url=f"{audience.origin}{DOOR}", ticket=ticket.text, expires_at=ticket.expires_at)
    return Response(body.model_dump_json(), 201, content_type="application/json")
