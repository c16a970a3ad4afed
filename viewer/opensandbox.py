"""What answers at `opensandbox.<domain>`, the place of the OpenSandbox-compatible API."""

from __future__ import annotations

from flask import request

from viewer.model import Principal
from viewer.problems import Problem
from viewer.services import services

KEY_HEADER = "OPEN-SANDBOX-API-KEY"


def knock() -> Problem:
    """Whatever is asked there: 401 without a key of ours, 501 with one."""
    if _principal() is None:
        return Problem(
            401,
            "no-credential",
            "Show a key first",
            f"Send a key of your tenant as `{KEY_HEADER}: <key>` or `Authorization: Bearer <key>`.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Problem(
        501,
        "not-yet",
        "Not here yet",
        "The OpenSandbox-compatible API will answer here, so that the stock OpenSandbox client makes desktops"
        " of your tenant; until then use `/api/v1/sessions` at the viewer.",
    )


def _principal() -> Principal | None:
    key = request.headers.get(KEY_HEADER)
    if key is None:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        key = text if scheme.lower() == "bearer" else ""
    return services().store.accounts.principal_of_key(key.strip())
