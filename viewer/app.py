"""`create_app`: store and blueprints put together, errors as problem documents, headers on every answer."""

from __future__ import annotations

import logging

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.wrappers import Response as BaseResponse

from viewer import embedding
from viewer.access import (
    anyone,
    enforce_on,
    is_answered_here,
    may_be_embedded,
    place,
    places_on,
    public_origin,
)
from viewer.accounts import UnknownKey, UnknownSignIn
from viewer.api import api
from viewer.appearance import LOOK_COOKIE, look_of
from viewer.assets import assets, read_manifest
from viewer.audit_api import audit_api
from viewer.authz import authz
from viewer.content import content
from viewer.database import DatabaseAway, DatabaseBusy
from viewer.deliveries.api import webhook_api
from viewer.deliveries.store import UnknownEndpoint
from viewer.devtools import devtools
from viewer.diagnosis_api import diagnosis_api
from viewer.documents import UnknownDocument
from viewer.documents_api import documents_api
from viewer.events import events
from viewer.help_api import help_api
from viewer.help_store import NotHisCall
from viewer.incoming import MOST_BODY_BYTES, drain_body, too_large
from viewer.input_api import input_api
from viewer.lease_api import lease_api
from viewer.leases import LeaseHeld
from viewer.listing import BadCursor
from viewer.model import Role
from viewer.observed import observe_on
from viewer.oidc.routes import oidc
from viewer.opensandbox.api import sandbox_api
from viewer.opensandbox.refusals import (
    PREFIX,
    as_refusal,
    is_asked_for,
    key_holder,
    no_such_route,
    respond_refusal,
    sandbox_not_found,
)
from viewer.pages import (
    content_policy,
    error_beside,
    error_page,
    is_page,
    pages,
    send_to_canonical_origin,
)
from viewer.people import UnknownPerson
from viewer.people_api import people_api
from viewer.pictures_api import pictures_api
from viewer.places import PlaceKind
from viewer.problems import Problem, bad_cursor, lease_held, not_found, not_now, respond
from viewer.rows import SessionNotFound
from viewer.scrape import scrape
from viewer.services import Services, services
from viewer.session_api import session_api
from viewer.settings import Settings
from viewer.shares import ShareNotFound
from viewer.shares_api import shares_api
from viewer.sign_in import sign_in
from viewer.store import Store
from viewer.stream_api import stream_api
from viewer.ticket_store import UnknownTicket
from viewer.transitions import IllegalTransition
from viewer.webhook_secrets import SecretNotFound
from viewer.webhook_secrets_api import webhook_secrets_api
from viewer.webhooks_in import webhooks_in
from viewer.work import UnknownWork
from viewer.work_api import work_api

_log = logging.getLogger("deskfleet.viewer")

_UNKNOWN = (
    SessionNotFound, UnknownWork, UnknownPerson, UnknownKey, UnknownSignIn, SecretNotFound, UnknownEndpoint,
    UnknownTicket, ShareNotFound, UnknownDocument,
)  # fmt: skip
"""What the stores say of a thing that never was, and of another tenant's."""


def create_app(settings: Settings, store: Store | None = None) -> Flask:
    """The viewer. `store` defaults to one on the settings' database, which must be migrated already."""
    app = Flask(__name__, static_folder=None)
    # An address has one form: a doubled slash is no page of ours, and no redirect either.
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = MOST_BODY_BYTES
    # Answers come in the order of the models, which is the order of their meaning.
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["deskfleet"] = Services(settings, store or Store(settings.database))
    app.add_url_rule("/healthz", view_func=healthz)
    for blueprint in (
        api, session_api, stream_api, lease_api, help_api, input_api, work_api, people_api, audit_api,
        sandbox_api, events, content, devtools, authz, sign_in, oidc, pages, assets, scrape, shares_api,
        webhook_secrets_api, webhooks_in, webhook_api, pictures_api,
        documents_api, diagnosis_api,
    ):  # fmt: skip
        app.register_blueprint(blueprint)
    manifest = read_manifest()
    app.jinja_env.globals |= {"asset": manifest.address, "script": manifest.script, "logo": manifest.logo()}
    app.context_processor(lambda: {"look": look_of(request.cookies.get(LOOK_COOKIE))})
    observe_on(app)
    app.before_request(_knock_at_opensandbox)
    places_on(app)
    app.before_request(send_to_canonical_origin)
    enforce_on(app)
    app.register_error_handler(Problem, _answer_problem)
    for unknown in _UNKNOWN:
        app.register_error_handler(unknown, _answer_not_found)
    app.register_error_handler(BadCursor, _answer_bad_cursor)
    app.register_error_handler(IllegalTransition, _answer_not_now)
    app.register_error_handler(LeaseHeld, _answer_held)
    app.register_error_handler(NotHisCall, _answer_not_his)
    app.register_error_handler(DatabaseBusy, _answer_busy)
    app.register_error_handler(DatabaseAway, _answer_away)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_failure)
    app.after_request(_finish)
    return app


@anyone
def healthz() -> Response:
    """200 when the database answers."""
    if not services().store.is_answering():
        raise Problem(503, "no-database", "Not ready", "The database does not answer.")
    return Response('{"status":"ok"}', content_type="application/json")


def _knock_at_opensandbox() -> None:
    """At its own name, what is no part of the API is not there, and not even that is told without a key."""
    if place().kind is not PlaceKind.OPENSANDBOX or is_answered_here():
        return
    key_holder(Role.WATCHER)
    is_only_the_method = isinstance(request.routing_exception, MethodNotAllowed)
    if not (is_only_the_method and request.path.startswith(f"{PREFIX}/")):
        raise no_such_route()


def _answer_problem(problem: Problem) -> BaseResponse:
    if is_asked_for():
        return respond_refusal(as_refusal(problem))
    if place().kind is not PlaceKind.VIEWER:
        return error_beside(problem)
    if request.method in ("GET", "HEAD") and is_page(request.path):
        return error_page(problem)
    return respond(problem)


def _answer_not_now(error: IllegalTransition) -> BaseResponse:
    return _answer_problem(not_now(error))


def _answer_held(error: LeaseHeld) -> BaseResponse:
    return _answer_problem(lease_held(error.lease))


def _answer_not_his(error: NotHisCall) -> BaseResponse:
    detail = (
        f"{error.call.asked_by} has called, so only that key, a person or an admin may say that it is done."
    )
    return _answer_problem(Problem(403, "not-your-call", "Another agent's call", detail))


def _answer_not_found(_error: Exception) -> BaseResponse:
    return _answer_problem(sandbox_not_found() if is_asked_for() else not_found())


def _answer_bad_cursor(_error: BadCursor) -> BaseResponse:
    return _answer_problem(bad_cursor())


def _answer_busy(_error: DatabaseBusy) -> BaseResponse:
    """Nothing was done, so the same may be asked again."""
    _log.warning("request %s: another process has held the database's lock for too long", g.request_id)
    detail = "The table is being written by another process; nothing was done, so try again in a moment."
    return _answer_problem(Problem(503, "busy", "Too busy", detail, headers={"Retry-After": "1"}))


def _answer_away(error: DatabaseAway) -> BaseResponse:
    _log.warning("request %s: the database is away: %s", g.request_id, error)
    detail = "The viewer cannot reach its database at the moment; try again in a while."
    return _answer_problem(
        Problem(503, "database-away", "Database away", detail, headers={"Retry-After": "5"})
    )


def _answer_http_error(error: HTTPException) -> BaseResponse:
    """Werkzeug's own refusals: no such route, wrong method, body too large, redirects."""
    if error.code is None or error.code < 400:
        return error.get_response()
    return _answer_problem(_problem_of(error))


def _problem_of(error: HTTPException) -> Problem:
    status = error.code or 500
    if status == 404:
        return not_found()
    if status == 405:
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return Problem(
            405,
            "wrong-method",
            "Method not allowed",
            f"{request.method} does not work here; use {allowed}.",
            headers={"Allow": allowed},
        )
    if status == 413:
        return too_large()
    return Problem(status, "refused", error.name, error.description or error.name)


def _answer_failure(error: Exception) -> BaseResponse:
    """Our own mistake: the log has the trace under the request's id, the client only the id."""
    _log.error("request %s: %s %s failed", g.request_id, request.method, request.path, exc_info=error)
    detail = f"The viewer failed; its log says more under request {g.request_id}."
    return _answer_problem(Problem(500, "failure", "Something went wrong here", detail))


# What no page of ours ever uses, nor anything that it shows in a frame.
_FORBIDDEN = ", ".join(
    f"{feature}=()"
    for feature in (
        "accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "hid", "magnetometer",
        "microphone", "midi", "payment", "serial", "usb",
    )
)  # fmt: skip


def _finish(response: Response) -> Response:
    drain_body()
    headers = response.headers
    headers["X-Content-Type-Options"] = "nosniff"
    beside = place().kind is not PlaceKind.VIEWER
    headers.setdefault("Referrer-Policy", "no-referrer" if beside else "same-origin")
    # Neither a page here nor one at a name beside it becomes one origin with the other by `document.domain`.
    headers["Origin-Agent-Cluster"] = "?1"
    # The embedded element's own files say for themselves that any page may load them.
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    headers["Permissions-Policy"] = _FORBIDDEN
    if response.mimetype == "text/html":
        # A page beside the viewer has brought its own.
        headers.setdefault("Content-Security-Policy", content_policy(public_origin(), services().settings))
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
    else:
        headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    # Static files say for themselves how long they live; everything else is one person's, now.
    headers.setdefault("Cache-Control", "no-store")
    if may_be_embedded():
        embedding.let_page_read(response)
    return response
