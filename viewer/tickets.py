"""Tickets: short-lived ways to one session's stream, for programs and for pages that lack our cookie.

A ticket's text is signed and says whose it is, so a forged one costs no look into the database; its row says
whether it was used or revoked. It is worth what its maker may do now, at most the role it was made for, and
says when something may be opened by it: what is open goes on until it is revoked or its maker is out.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum

from itsdangerous import BadData, URLSafeSerializer
from pydantic import ValidationError

from viewer import logs
from viewer.credentials import SecretToken
from viewer.model import Frozen, Role

SHORTEST_TICKET_SECONDS = 5
LONGEST_TICKET_SECONDS = 3600
USUAL_TICKET_SECONDS = 60
BROWSER_TICKET_SECONDS = 30
"""Longest life of one that a foreign page sends as a subprotocol: a page's scripts, its extensions and
whatever logs handshakes see it."""
PREFIX = "dft_"
SUBPROTOCOL = "ticket."
"""Before a ticket among a handshake's subprotocols."""

_SALT = "deskfleet stream ticket"
_MOST_TEXT = 2000


class TicketRole(StrEnum):
    WATCH = "watch"
    CONTROL = "control"

    @property
    def needed(self) -> Role:
        """What its maker must be."""
        return Role.OPERATOR if self is TicketRole.CONTROL else Role.WATCHER


class Claims(Frozen):
    """What a ticket says, under its signature. holder: its maker's `Principal.holder`."""

    id: str
    tenant: str
    session_id: str
    holder: str
    role: TicketRole
    is_single_use: bool
    made: int
    ends: int
    """Both in seconds of Unix time."""

    @property
    def ends_at(self) -> datetime:
        return datetime.fromtimestamp(self.ends, UTC)

    @property
    def is_for_browsers(self) -> bool:
        """May a foreign page send it as a subprotocol?"""
        return self.is_single_use and self.ends - self.made <= BROWSER_TICKET_SECONDS


def text_of(claims: Claims, key: bytes) -> SecretToken:
    text = PREFIX + str(_signer(key).dumps(claims.model_dump(mode="json")))
    logs.hide(text)
    return SecretToken(text)


def claims_in(text: str, key: bytes) -> Claims | None:
    """None for what is forged or changed; whether it is over, nobody has looked."""
    if not is_like_a_ticket(text) or len(text) > _MOST_TEXT:
        return None
    try:
        claims = Claims.model_validate(_signer(key).loads(text.removeprefix(PREFIX)))
    except (BadData, ValidationError):
        return None
    logs.hide(text)
    return claims


def is_like_a_ticket(text: str) -> bool:
    return text.startswith(PREFIX)


def shown_as_bearer(authorization: str | None) -> str | None:
    """The text of the ticket that a request shows in `Authorization`, good or not; None for anything else."""
    scheme, _, text = (authorization or "").partition(" ")
    text = text.strip()
    return text if scheme.lower() == "bearer" and is_like_a_ticket(text) else None


def shown_as_subprotocol(protocols: str) -> str | None:
    """The same of a handshake's `Sec-WebSocket-Protocol`."""
    offered = [one.strip() for one in protocols.split(",")]
    return next(
        (one.removeprefix(SUBPROTOCOL) for one in offered if one.startswith(SUBPROTOCOL)),
        None,
    )


def _signer(key: bytes) -> URLSafeSerializer:
    return URLSafeSerializer(
        key, salt=_SALT, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )
