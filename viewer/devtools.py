"""Chrome DevTools of a desktop's browser: whether they can be opened, and what they can be attached to.

DevTools do all that keyboard and mouse can and more, so they are for those who may control; nobody watches by
them. Their pages and WebSockets are at the session's own origin (`viewer.authz`); Chromium's lists of targets
are not, because some of those addresses open and close tabs: here is what of them is for people.
"""

from __future__ import annotations

from flask import Blueprint, Response
from pydantic import Field

from viewer.access import needs, principal
from viewer.answers import json_answer
from viewer.devtools_paths import front_end_for
from viewer.grants import DevToolsPort
from viewer.leasing import is_anothers
from viewer.model import Frozen, Role, Scope, Session, Status
from viewer.openapi import Answer, Operation, describes
from viewer.places import content_origin
from viewer.problems import Problem
from viewer.relay.answers import DevToolsTarget
from viewer.relay_client import RelayUnreachable
from viewer.services import services
from viewer.settings import Settings

devtools = Blueprint("devtools", __name__, url_prefix="/api/v1")


class PublicTarget(Frozen):
    """A page, a frame or a worker of the desktop's browser. Title and address are whatever the page there
    says of itself."""

    id: str
    type: str
    title: str
    url: str
    path: str = Field(
        description="Where at the session's own origin DevTools open on it: `next` of the door."
    )


class DevTools(Frozen):
    """`targets`: pages first; empty where DevTools are not available."""

    available: bool
    why_not: str | None = Field(description="One sentence; null where they are available.")
    targets: tuple[PublicTarget, ...]


@devtools.get("/sessions/<session_id>/devtools")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="What Chrome DevTools of a desktop's browser can be attached to",
        answers={200: Answer("The targets; or why there are none.", DevTools)},
        problems=(404, 503),
    )
)
def list_targets(session_id: str) -> Response:
    session = services().store.tenant(principal().tenant).get(session_id)
    settings = services().settings
    origin = content_origin(session.id, settings)
    why_not = why_no_devtools(session, settings) or _held_by_another(session)
    if why_not is not None or origin is None:
        return json_answer(_unavailable(why_not or ""))
    try:
        targets = _read_targets(session)
    except RelayUnreachable as error:
        raise Problem(
            503,
            "devtools-silent",
            "DevTools do not answer",
            "The browser in this desktop does not answer; it may be starting, or was closed there.",
            headers={"Retry-After": "3"},
        ) from error
    shown = tuple(_public(target, origin) for target in targets)
    return json_answer(DevTools(available=True, why_not=None, targets=shown))


def devtools_port(session: Session, settings: Settings) -> DevToolsPort | None:
    """Where the relay of its host finds them; None: this session has none."""
    port = settings.devtools_port(session.image)
    host = settings.host(session.host) if session.host else None
    if port is None or host is None or host.external or not session.sandbox_id:
        return None
    return DevToolsPort(sandbox_id=session.sandbox_id, port=port)


def why_no_devtools(session: Session, settings: Settings) -> str | None:
    """One sentence for a person; None where there are DevTools to open now."""
    if settings.devtools_port(session.image) is None:
        return (
            "The image of this desktop has no Chrome DevTools; take one that `GET /api/v1/images` lists with"
            " `devtools: true`."
        )
    if settings.content_domain is None:
        return (
            "This fleet has no content domain, so DevTools cannot be shown apart from the viewer; set"
            " content_domain in the site file and run the deploy."
        )
    if session.status is not Status.RUNNING:
        return f"This desktop is {session.status} now; DevTools open while it runs."
    if devtools_port(session, settings) is None:
        return "This desktop is on an OpenSandbox server beside this fleet, to whose ports there is no way."
    return None


def _held_by_another(session: Session) -> str | None:
    """DevTools act beside keyboard and mouse, so they are closed while another person has those."""
    lease = services().store.leases.of(session.id)
    if lease.holder is None or not is_anothers(lease, principal()):
        return None
    return f"{lease.holder.name} has control; DevTools open when it is free."


def _read_targets(session: Session) -> list[DevToolsTarget]:
    """Raises RelayUnreachable, also where the browser in the sandbox does not answer."""
    target, relay = devtools_port(session, services().settings), services().relays.get(session.host or "")
    if target is None or relay is None:
        raise RelayUnreachable(f"there is no way to the sandbox of session {session.id}")
    return relay.devtools_targets(session, target)


def _public(target: DevToolsTarget, origin: str) -> PublicTarget:
    return PublicTarget(**target.model_dump(), path=front_end_for(target.id, origin))


def _unavailable(why_not: str) -> DevTools:
    return DevTools(available=False, why_not=why_not, targets=())
