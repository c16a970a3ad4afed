"""How clients of OpenSandbox's show their key here, and how they are refused: in the shape that they know."""

from __future__ import annotations

from flask import Response, request

from viewer.access import count_wrong_key, place
from viewer.model import Principal, Role
from viewer.places import PlaceKind
from viewer.problems import Problem
from viewer.relay.answers import SandboxProblem
from viewer.services import services

KEY_HEADER = "OPEN-SANDBOX-API-KEY"
PREFIX = "/v1"

INVALID = "SANDBOX::INVALID_PARAMETER"
INVALID_METADATA = "SANDBOX::INVALID_METADATA_LABEL"
NOT_SUPPORTED = "SANDBOX::API_NOT_SUPPORTED"
NOT_FOUND = "DOCKER::SANDBOX_NOT_FOUND"
NOT_RUNNING = "DOCKER::SANDBOX_NOT_RUNNING"
NOT_PAUSED = "DOCKER::SANDBOX_NOT_PAUSED"
INVALID_EXPIRATION = "DOCKER::INVALID_EXPIRATION"
INVALID_PORT = "DOCKER::INVALID_PORT"
HOST_PATH = "VOLUME::HOST_PATH_NOT_ALLOWED"
VOLUME = "VOLUME::UNSUPPORTED_BACKEND"
# What has no word of OpenSandbox's own has one of ours.
NO_ROUTE = "DESKFLEET::NO_SUCH_ROUTE"
ROLE_TOO_SMALL = "DESKFLEET::ROLE_TOO_SMALL"


class SandboxRefusal(Problem):
    """Answered as OpenSandbox's server would: `{"code", "message"}`."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, "refused", code, message, headers=headers)
        self.body = SandboxProblem(code=code, message=message)


def is_asked_for() -> bool:
    """Does this request go to the OpenSandbox-compatible API, so that each of its failures has that shape?"""
    kind, path = place().kind, request.path
    if kind is PlaceKind.VIEWER:
        return path == PREFIX or path.startswith(f"{PREFIX}/") or path == "/authz/port"
    return kind is PlaceKind.OPENSANDBOX


def as_refusal(problem: Problem) -> SandboxRefusal:
    """The same in OpenSandbox's words; fields that cannot be used are 400 there."""
    if isinstance(problem, SandboxRefusal):
        return problem
    document = problem.document
    if document.errors:
        about_metadata = any(error.field.partition(".")[0] == "metadata" for error in document.errors)
        return SandboxRefusal(400, INVALID_METADATA if about_metadata else INVALID, document.detail)
    slug = document.type.rpartition(":")[2]
    code = NO_ROUTE if slug == "not-found" else f"DESKFLEET::{slug.upper().replace('-', '_')}"
    return SandboxRefusal(problem.status, code, document.detail, headers=problem.headers)


def respond_refusal(refusal: SandboxRefusal) -> Response:
    body = refusal.body.model_dump_json()
    return Response(body, refusal.status, headers=refusal.headers, content_type="application/json")


def sandbox_not_found() -> SandboxRefusal:
    """The same for what never was, for what is another tenant's, and for what does not run."""
    return SandboxRefusal(404, NOT_FOUND, "No such sandbox runs; check its id.")


def not_supported(message: str, *, status: int = 501) -> SandboxRefusal:
    """What OpenSandbox has and we have not; the message says what to do instead."""
    return SandboxRefusal(status, NOT_SUPPORTED, message)


def no_such_route() -> SandboxRefusal:
    return SandboxRefusal(
        404, NO_ROUTE, "Nothing answers at this address; OpenSandbox's lifecycle API is below /v1/sandboxes."
    )


def key_holder(needed: Role) -> Principal:
    """Whose key the request shows, never whose cookie: foreign HTML comes back at this origin. Raises
    SandboxRefusal: 401, or 403 where his role is too small."""
    shown = _key_shown()
    who = services().store.accounts.principal_of_key(shown)
    if who is None:
        if shown:
            count_wrong_key()
        raise SandboxRefusal(
            401,
            "INVALID_API_KEY" if shown else "MISSING_API_KEY",
            f"Send a valid key of your tenant as `{KEY_HEADER}: <key>` or `Authorization: Bearer <key>`; the"
            " OpenSandbox client sends its own to a sandbox's ports only with `use_server_proxy`.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if not who.role.covers(needed):
        raise SandboxRefusal(
            403,
            ROLE_TOO_SMALL,
            f"This needs the role {needed}, yours is {who.role}; ask your tenant's admin for another key.",
        )
    return who


def _key_shown() -> str:
    key = request.headers.get(KEY_HEADER)
    if key is None:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        key = text if scheme.lower() == "bearer" else ""
    return key.strip()
