"""What a browser keeps, sealed, between its start at our page and its way back from the provider.

It lies in a cookie and not in this process, so that any viewer may answer the way back. Who has another
cookie than the one that began, or none, does not get in: nobody can be signed in under a foreign name by a
link.
"""

from __future__ import annotations

import secrets
import time
from typing import Literal, TypeVar

from cryptography.fernet import Fernet, InvalidToken
from pydantic import Field, ValidationError

from viewer.model import Frozen
from viewer.oidc.failures import Failure

LIFE_SECONDS = 600

KeptT = TypeVar("KeptT", "Attempt", "Failed")


class Attempt(Frozen):
    """A sign-in on its way. began: seconds since 1970. next: our own page that it leads to."""

    kind: Literal["oidc-attempt"] = "oidc-attempt"
    issuer: str
    state: str = Field(repr=False)
    nonce: str = Field(repr=False)
    code_verifier: str = Field(repr=False)
    began: int
    next: str


class Failed(Frozen):
    """One that came back and did not get in: the page that says so has no code in its address."""

    kind: Literal["oidc-failed"] = "oidc-failed"
    failure: Failure
    next: str


def new_attempt(issuer: str, next_page: str, *, now: float | None = None) -> Attempt:
    return Attempt(
        issuer=issuer,
        state=secrets.token_urlsafe(32),
        nonce=secrets.token_urlsafe(32),
        # RFC 7636 asks for 43 to 128 characters.
        code_verifier=secrets.token_urlsafe(48),
        began=int(time.time() if now is None else now),
        next=next_page,
    )


def seal(kept: Attempt | Failed, key: bytes) -> str:
    return Fernet(key).encrypt(kept.model_dump_json().encode()).decode()


def unseal(text: str | None, model: type[KeptT], key: bytes) -> KeptT | None:
    """None for what is missing, not ours, of the other kind, or older than LIFE_SECONDS."""
    try:
        return model.model_validate_json(Fernet(key).decrypt((text or "").encode(), ttl=LIFE_SECONDS))
    except (InvalidToken, ValidationError, UnicodeError):
        return None
