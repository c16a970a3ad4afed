"""Standard Webhooks: who sent a message, told by its signature. No Flask, no SQL.

The signing is the `standardwebhooks` package's. Its `verify` is not used: it raises anything on headers that
are not what it expects, signs another timestamp than the one that was sent, and stops at the first match.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import Field
from standardwebhooks import Webhook

from viewer import logs
from viewer.model import Frozen

TOLERANCE = timedelta(minutes=5)
"""How far the sender's clock may be off; what is older may be a recording."""
MOST_SIGNATURES = 20
LONGEST_ID = 200

_ID = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_ID}}}", re.ASCII)
_TIME = re.compile(r"\d{1,11}", re.ASCII)
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=", re.ASCII)


class Unsigned(Exception):
    """The headers cannot be a signature's; `field` is the one at fault, the text what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Stale(Exception):
    """The message was signed too long ago, or in the future."""


class SignedMessage(Frozen):
    """A message with what its sender says of it; nothing is proved yet."""

    id: str
    sent_at: datetime
    text: str = Field(repr=False)
    signatures: tuple[str, ...] = Field(repr=False)


def new_webhook_secret() -> str:
    """`whsec_` and 32 random bytes in base64, as every Standard Webhooks library takes it."""
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    logs.hide(secret)
    return secret


def checked_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise Unsigned("webhook-id", f"is not 1 to {LONGEST_ID} printable ASCII characters without spaces")
    return value


def signed_message(
    message_id: str | None, timestamp: str | None, signature: str | None, body: bytes, *, now: datetime
) -> SignedMessage:
    """Read the three headers. Raises Unsigned, and Stale for a time that is not about now.

    A signature of another version than v1, or of another form, counts as one that is wrong.
    """
    for field, value in (
        ("webhook-id", message_id),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", signature),
    ):
        if not value:
            raise Unsigned(field, "is missing")
    if not _TIME.fullmatch(timestamp or ""):
        raise Unsigned("webhook-timestamp", "is not a whole number of seconds since 1970")
    sent_at = datetime.fromtimestamp(int(timestamp or ""), UTC)
    if abs(now - sent_at) > TOLERANCE:
        raise Stale
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Unsigned("body", "is not UTF-8") from error
    given = (signature or "").split()[:MOST_SIGNATURES]
    return SignedMessage(
        id=checked_id(message_id or ""),
        sent_at=sent_at,
        text=text,
        signatures=tuple(one for one in given if _SIGNATURE.fullmatch(one)),
    )


def is_signed_by(message: SignedMessage, secret: str) -> bool:
    """Looks at every signature, so that the time taken tells nothing of which one was right."""
    expected = Webhook(secret).sign(message.id, message.sent_at, message.text)
    return sum(hmac.compare_digest(expected, given) for given in message.signatures) > 0


def signer(
    message: SignedMessage, known: Iterable[tuple[str, str]], *, tries: int, decoys: Sequence[str]
) -> str | None:
    """The name beside the secret that signed it; None for none of them.

    `known`: names with secrets. There are `tries` comparisons, whatever is known: `decoys` fill up.
    """
    tried = list(known)[:tries]
    found = [name for name, secret in tried if is_signed_by(message, secret)]
    for number in range(tries - len(tried)):
        is_signed_by(message, decoys[number % len(decoys)])
    return found[0] if found else None
