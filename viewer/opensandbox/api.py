"""OpenSandbox's lifecycle API over the whole fleet, each key seeing its tenant's sandboxes alone.

A sandbox's id is our session's. Its answers are those of OpenSandbox's server 1.1.1 on Docker where that has
one; `docs/opensandbox-sdk.md` says what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from flask import Blueprint, Response, request

from viewer.access import answers_at, needs, place, principal, public_origin
from viewer.creating import create, failed_create, once_of
from viewer.incoming import checked_labels, json_body, query
from viewer.model import Kind, Role, Session, Status, utcnow
from viewer.observed import session_made
from viewer.opensandbox.incoming import (
    CreateSandbox,
    DiagnosticsQuery,
    EndpointQuery,
    PatchMetadata,
    RenewExpiration,
    SandboxListQuery,
)
from viewer.opensandbox.orders import asked_for
from viewer.opensandbox.outgoing import (
    STATE_OF,
    DiagnosticsOut,
    EndpointOut,
    RenewedOut,
    answer,
    page_out,
    sandbox_out,
)
from viewer.opensandbox.ports import check_ports
from viewer.opensandbox.refusals import (
    INVALID_EXPIRATION,
    INVALID_PORT,
    NOT_PAUSED,
    NOT_RUNNING,
    PREFIX,
    SandboxRefusal,
    key_holder,
    not_supported,
    sandbox_not_found,
)
from viewer.phases import phase_of
from viewer.places import PlaceKind
from viewer.problems import FieldError, wrong_fields
from viewer.rows import Step
from viewer.services import services
from viewer.store import TenantStore
from viewer.transitions import IllegalTransition
from viewer.waiting import is_made, patience, settled, wait_until

sandbox_api = Blueprint("sandboxes", __name__, url_prefix=PREFIX)

CREATE_WAIT_SECONDS = 20.0
"""The stock client gives a request up after 30 s; until then it is told `Pending`, and asks again itself."""
CLOCK_SECONDS = 60
"""A client reckons the end it asks for by its own clock."""

_View = TypeVar("_View", bound=Callable[..., Any])


def _for(role: Role) -> Callable[[_View], _View]:
    """Programs come here by key alone, at the viewer's name and at the API's own."""
    return lambda view: answers_at(PlaceKind.VIEWER, PlaceKind.OPENSANDBOX)(
        needs(role, door=key_holder)(view)
    )


@sandbox_api.post("/sandboxes")
@_for(Role.OPERATOR)
def create_sandbox() -> Response:
    asked = asked_for(json_body(CreateSandbox))
    made = create(asked.new, once_of(request.get_data()), may_be_warm=asked.may_be_warm)
    session_made(made.session)
    seconds = min(CREATE_WAIT_SECONDS, services().settings.create_deadline_seconds)
    session = wait_until(made.session, is_made, seconds)
    if session.status.is_terminal and not made.is_replay:
        # Its caller has no id to ask or to end it by.
        _tenant().dismiss(session.id)
        raise failed_create(session)
    return answer(sandbox_out(session), 202)


@sandbox_api.get("/sandboxes")
@_for(Role.WATCHER)
def list_sandboxes() -> Response:
    asked = query(SandboxListQuery)
    phases = [phase for phase, state in STATE_OF.items() if not asked.state or state in asked.state]
    found, total = _tenant().sandboxes(
        phases,
        asked.metadata,
        page=asked.page,
        size=asked.page_size,
        longest_life=timedelta(seconds=services().settings.max_lifetime_seconds),
    )
    return answer(page_out(found, total, page=asked.page, size=asked.page_size))


@sandbox_api.get("/sandboxes/<sandbox_id>")
@_for(Role.WATCHER)
def get_sandbox(sandbox_id: str) -> Response:
    return answer(sandbox_out(_sandbox(sandbox_id)))


@sandbox_api.delete("/sandboxes/<sandbox_id>")
@_for(Role.OPERATOR)
def delete_sandbox(sandbox_id: str) -> Response:
    """204 also while its host is silent: it is `Stopping` then, until its end has come true."""
    session = _sandbox(sandbox_id)
    if session.status.is_terminal:
        _tenant().dismiss(sandbox_id)
        return Response(status=204)
    session = _tenant().request_termination(sandbox_id, by=principal().id)
    wait_until(session, lambda now: now.status.is_terminal, patience(session))
    return Response(status=204)


@sandbox_api.post("/sandboxes/<sandbox_id>/pause")
@_for(Role.OPERATOR)
def pause_sandbox(sandbox_id: str) -> Response:
    return _become(
        sandbox_id, Status.PAUSED, of=Status.RUNNING, code=NOT_RUNNING, rule="only a Running one pauses"
    )


@sandbox_api.post("/sandboxes/<sandbox_id>/resume")
@_for(Role.OPERATOR)
def resume_sandbox(sandbox_id: str) -> Response:
    return _become(
        sandbox_id, Status.RUNNING, of=Status.PAUSED, code=NOT_PAUSED, rule="only a Paused one resumes"
    )


@sandbox_api.post("/sandboxes/<sandbox_id>/renew-expiration")
@_for(Role.OPERATOR)
def renew_sandbox(sandbox_id: str) -> Response:
    """It may also end sooner than before; it never lives beyond its longest life."""
    asked = json_body(RenewExpiration)
    session, now, settings = _sandbox(sandbox_id), utcnow(), services().settings
    if asked.expires_at <= now:
        raise SandboxRefusal(400, INVALID_EXPIRATION, "expiresAt: is not in the future; give a later time.")
    latest = now + timedelta(seconds=settings.max_ttl_seconds)
    if asked.expires_at > latest + timedelta(seconds=CLOCK_SECONDS):
        raise SandboxRefusal(
            400,
            INVALID_EXPIRATION,
            f"expiresAt: is too far away; give a time within {settings.max_ttl_seconds} s from now.",
        )
    try:
        session = _tenant().renew(sandbox_id, min(asked.expires_at, latest), by=principal().id)
    except IllegalTransition as error:
        raise _over(session) from error
    return answer(RenewedOut(expires_at=session.expires_at))


@sandbox_api.patch("/sandboxes/<sandbox_id>/metadata")
@_for(Role.OPERATOR)
def patch_metadata(sandbox_id: str) -> Response:
    patch = json_body(PatchMetadata).root
    session = _sandbox(sandbox_id)
    try:
        # Also what is to go: what is reserved can be touched by nobody.
        checked_labels({key: value or "" for key, value in patch.items()})
        session = _tenant().patch_labels(sandbox_id, patch, checked_labels)
    except ValueError as error:
        mend = "give names and values in the syntax of Kubernetes labels, at most 32 in all"
        raise wrong_fields([FieldError(field="metadata", message=str(error), mend=mend)]) from error
    except IllegalTransition as error:
        raise _over(session) from error
    return answer(sandbox_out(session))


@sandbox_api.get("/sandboxes/<sandbox_id>/endpoints/<port>")
@_for(Role.OPERATOR)
def get_endpoint(sandbox_id: str, port: str) -> Response:
    """Where the port is reached: always through Deskfleet, also for one that is still being made."""
    asked = query(EndpointQuery)
    session = _sandbox(sandbox_id)
    if asked.expires is not None:
        raise not_supported("expires: there are no signed addresses here; send your key.", status=400)
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise SandboxRefusal(400, INVALID_PORT, f"{port[:20]!r} is no port; give one from 1 to 65535.")
    check_ports(session, {int(port)})
    origin = place().origin if place().kind is PlaceKind.OPENSANDBOX else public_origin()
    name = origin.partition("://")[2]
    return answer(EndpointOut(endpoint=f"{name}{PREFIX}/sandboxes/{session.id}/proxy/{int(port)}"))


@sandbox_api.get("/sandboxes/<sandbox_id>/diagnostics/events")
@_for(Role.WATCHER)
def get_events(sandbox_id: str) -> Response:
    """Its history, a line each; as OpenSandbox's own, plain text where no scope is given."""
    asked = query(DiagnosticsQuery)
    session = _sandbox(sandbox_id)
    text = "".join(map(_line_of, _tenant().history(session.id)))
    if asked.scope is None:
        return Response(text, content_type="text/plain; charset=utf-8")
    return answer(
        DiagnosticsOut(
            sandbox_id=session.id,
            kind="events",
            scope=asked.scope,
            content=text,
            content_length=len(text.encode()),
        )
    )


@sandbox_api.get("/sandboxes/<sandbox_id>/diagnostics/<kind>")
@_for(Role.WATCHER)
def get_diagnostics(sandbox_id: str, kind: str) -> Response:
    _sandbox(sandbox_id)
    raise not_supported(
        f"diagnostics/{kind[:20]}: is not to be had here; `diagnostics/events` tells what happened, and a"
        " sandbox that failed says its last lines in its status."
    )


@sandbox_api.post("/metrics/events")
@_for(Role.WATCHER)
def take_metrics() -> Response:
    """What the stock client measured; we measure ourselves."""
    return Response(status=204)


@sandbox_api.route("/sandboxes/<sandbox_id>/snapshots", methods=["POST"])
@sandbox_api.route("/snapshots", methods=["GET"])
@sandbox_api.route("/snapshots/<name>", methods=["GET", "DELETE"])
@_for(Role.WATCHER)
def no_snapshots(**_which: str) -> Response:
    raise not_supported("There are no snapshots here; create a sandbox from an image.")


@sandbox_api.route("/templates", methods=["GET", "POST"])
@sandbox_api.route("/templates/<name>", methods=["GET", "DELETE"])
@_for(Role.WATCHER)
def no_templates(**_which: str) -> Response:
    raise not_supported("There are no templates here; create a sandbox from an image of the catalogue.")


@sandbox_api.route("/pools", methods=["GET", "POST"])
@sandbox_api.route("/pools/<name>", methods=["GET", "PUT", "DELETE"])
@_for(Role.WATCHER)
def no_pools(**_which: str) -> Response:
    raise not_supported(
        "Pools are in the site file (`settings.pools`) alone; a create that fits one is served from it."
    )


@sandbox_api.route("/sandboxes/<sandbox_id>/networkpolicy", methods=["GET", "PUT", "PATCH", "DELETE"])
@_for(Role.WATCHER)
def no_network_policy(**_which: str) -> Response:
    raise not_supported("There is no egress control here; leave network policies out.")


def _become(sandbox_id: str, wanted: Status, *, of: Status, code: str, rule: str) -> Response:
    """Ask a sandbox of that status for another one, and wait until it is so; 202 also while the host does not
    answer."""
    session = _sandbox(sandbox_id)
    if session.status is not of:
        raise SandboxRefusal(409, code, f"It is {_state(session)}; {rule}.")
    try:
        session = _tenant().request_status(session.id, wanted, by=principal().id)
    except IllegalTransition as error:
        raise SandboxRefusal(409, code, f"This sandbox is {_state(session)}; read it again.") from error
    session = wait_until(session, settled(wanted), patience(session))
    if session.status is not wanted and session.wanted_status is None:
        raise SandboxRefusal(409, code, f"This sandbox is {_state(session)}; read it again.")
    return Response(status=202)


def _sandbox(sandbox_id: str) -> Session:
    """Raises the one refusal for what is not there, whoever's it is or was."""
    session = _tenant().get(sandbox_id)
    if session.kind is not Kind.SANDBOX or phase_of(session, utcnow()) is None:
        raise sandbox_not_found()
    return session


def _state(session: Session) -> str:
    phase = phase_of(session, utcnow())
    return STATE_OF[phase] if phase else "gone"


def _over(session: Session) -> SandboxRefusal:
    return SandboxRefusal(409, NOT_RUNNING, f"This sandbox is {_state(session)} and changes no more.")


def _line_of(step: Step) -> str:
    """By whom is left out: it is a key's id, which nobody but an admin needs."""
    parts = (step.at.isoformat(timespec="milliseconds"), step.status, step.reason, step.host, step.detail)
    return " ".join(str(part) for part in parts if part) + "\n"


def _tenant() -> TenantStore:
    return services().store.tenant(principal().tenant)
