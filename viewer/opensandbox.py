"""What clients of OpenSandbox's meet here: how they show their key, and refusals in the shape that they know.

At `opensandbox.<domain>`, the place of the OpenSandbox-compatible API, nothing else answers yet.
"""

from __future__ import annotations

from flask import Response, request

from viewer.model import Principal, Role
from viewer.places import OPENSANDBOX
from viewer.problems import Problem, role_too_small
from viewer.relay.answers import SandboxProblem
from viewer.services import services

KEY_HEADER = "OPEN-SANDBOX-API-KEY"


class SandboxRefusal(Problem):
    """Answered as OpenSandbox's server would: `{"code", "message"}`."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, "refused", code, message, headers=headers)
        self.body = SandboxProblem(code=code, message=message)


def respond_refusal(refusal: SandboxRefusal) -> Response:
    body = refusal.body.model_dump_json()
    return Response(body, refusal.status, headers=refusal.headers, content_type="application/json")


def sandbox_not_found() -> SandboxRefusal:
    """The same for what never was, for what is another tenant's, and for what does not run."""
    return SandboxRefusal(404, "DOCKER::SANDBOX_NOT_FOUND", "No such sandbox runs; check its id.")


def key_holder(needed: Role) -> Principal:
    """Whose key the request shows, never whose cookie: foreign HTML comes back at this origin. Raises
    SandboxRefusal: 401, or 403 where his role is too small."""
    shown = _key_shown()
    who = services().store.accounts.principal_of_key(shown)
    if who is None:
        raise SandboxRefusal(
            401,
            "INVALID_API_KEY" if shown else "MISSING_API_KEY",
            f"Send a valid key of your tenant as `{KEY_HEADER}: <key>` or `Authorization: Bearer <key>`.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if not who.role.covers(needed):
        raise SandboxRefusal(
            403,
            "DESKFLEET::ROLE_TOO_SMALL",
            f"This needs the role {needed}, yours is {who.role}; ask your tenant's admin for another key.",
        )
    return who


def knock() -> Problem:
    """Whatever is asked there: 401 without a key of ours, 403 with one of too small a role, else 501."""
    who = services().store.accounts.principal_of_key(_key_shown())
    if who is None:
        return Problem(
            401,
            "no-credential",
            "Show a key first",
            f"Send a key of your tenant as `{KEY_HEADER}: <key>` or `Authorization: Bearer <key>`.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    needed = _role_needed()
    if not who.role.covers(needed):
        return role_too_small(needed, who.role)
    return Problem(
        501,
        "not-yet",
        "Not here yet",
        "The OpenSandbox-compatible API will answer here, so that the stock OpenSandbox client makes desktops"
        " of your tenant; until then use `/api/v1/sessions` at the viewer.",
    )


def _role_needed() -> Role:
    """As the catalogue says."""
    declared = (service.role for service in services().settings.services if service.name == OPENSANDBOX)
    return next(declared, Role.OPERATOR)


def _key_shown() -> str:
    key = request.headers.get(KEY_HEADER)
    if key is None:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        key = text if scheme.lower() == "bearer" else ""
    return key.strip()
