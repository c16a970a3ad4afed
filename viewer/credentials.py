"""Keys, tokens and sealed passwords: how they are made, hashed and compared."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from typing import NewType

from cryptography.fernet import Fernet, InvalidToken
from pydantic import Field, ValidationError

from viewer import logs
from viewer.model import Frozen
from viewer.order import Order

SecretToken = NewType("SecretToken", str)
"""43 URL-safe characters, 32 random bytes: a cookie's value or a link's token. Stored only as a hash."""

_KEY = re.compile(r"df_([a-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
_ID_LETTERS = string.ascii_lowercase + string.digits
_PASSWORD_LETTERS = string.ascii_letters + string.digits


class NewKey(Frozen):
    """A key as it is shown once."""

    id: str
    text: str = Field(repr=False)


class SealBroken(Exception):
    """The sealed secret was not made with this control plane's key."""


def new_key() -> NewKey:
    """`df_<id>_<secret>`: the id finds the row, the secret is 256 random bits."""
    key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(8))
    return NewKey(id=key_id, text=f"df_{key_id}_{secrets.token_urlsafe(32)}")


def key_id_of(text: str) -> str | None:
    """The id inside a key's text; None when it cannot be a key of ours."""
    match = _KEY.fullmatch(text)
    return match.group(1) if match else None


def new_token() -> SecretToken:
    return SecretToken(secrets.token_urlsafe(32))


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare in a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def new_vnc_password() -> str:
    """Eight letters: VncAuth looks at no more."""
    password = "".join(secrets.choice(_PASSWORD_LETTERS) for _ in range(8))
    logs.hide(password)
    return password


def seal_secret(secret: str, key: bytes) -> str:
    """For what must be used again, such as a VNC password; what is only compared is hashed."""
    return Fernet(key).encrypt(secret.encode()).decode()


def open_secret(sealed: str, key: bytes) -> str:
    try:
        secret = Fernet(key).decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise SealBroken("the secret was sealed under another key") from error
    logs.hide(secret)
    return secret


def seal_order(order: Order, key: bytes) -> str | None:
    """None for an order that asks for nothing."""
    return None if order.is_plain else Fernet(key).encrypt(order.model_dump_json().encode()).decode()


def open_order(sealed: str | None, key: bytes) -> Order:
    if sealed is None:
        return Order()
    try:
        return Order.model_validate_json(Fernet(key).decrypt(sealed.encode()))
    except (InvalidToken, ValidationError) as error:
        raise SealBroken("the order was sealed under another key") from error
