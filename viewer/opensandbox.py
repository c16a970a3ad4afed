"""What answers at `opensandbox.<domain>`, the place of the OpenSandbox-compatible API."""

from __future__ import annotations

from flask import request

from viewer.model import Principal, Role
from viewer.places import OPENSANDBOX
from viewer.problems import Problem, role_too_small
from viewer.services import services

KEY_HEADER = "OPEN-SANDBOX-API-KEY"


def knock() -> Problem:
    """Whatever is asked there: 401 without a key of ours, 403 with one of too small a role, else 501."""
    who = _principal()
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


def _principal() -> Principal | None:
    key = request.headers.get(KEY_HEADER)
    if key is None:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        key = text if scheme.lower() == "bearer" else ""
    return services().store.accounts.principal_of_key(key.strip())
