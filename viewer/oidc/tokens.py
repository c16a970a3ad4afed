"""Which of the provider's words are believed: its own description, its keys, its ID tokens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    InvalidKeyIdError,
    JoseError,
)
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from pydantic import BaseModel, ConfigDict, JsonValue

from viewer.model import Frozen
from viewer.oidc import failures

LEEWAY_SECONDS = 60
"""By how much the provider's clock and ours may differ."""

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Those with a key pair: not `none`, and no HS…, whose key would be the client secret."""

_TIMES = ("iat", "nbf", "exp")


class UnknownKey(Exception):
    """The token is signed by a key that is not in the set."""


class Metadata(BaseModel):
    """What a provider says of itself (OpenID Connect Discovery 1.0, section 3); the rest is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class Tokens(BaseModel):
    """A token endpoint's answer; the rest of it is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id_token: str
    access_token: str


class Expected(Frozen):
    """What an ID token must say. began: when the sign-in did, in seconds since 1970."""

    name: str
    issuer: str
    client_id: str
    nonce: str
    access_token: str
    began: int


class Claims(Frozen):
    """What the provider says of somebody, checked."""

    issuer: str
    subject: str
    values: dict[str, JsonValue]

    def at(self, name: str) -> JsonValue:
        """The claim of that very name, else the one that its dots lead to; None where there is none."""
        if name in self.values:
            return self.values[name]
        found: JsonValue = self.values
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def text(self, name: str) -> str | None:
        found = self.at(name)
        return found if isinstance(found, str) and found else None

    def texts(self, name: str) -> frozenset[str]:
        """Of a claim that is a text or a list of them."""
        found = self.at(name)
        many = found if isinstance(found, list) else [found]
        return frozenset(one for one in many if isinstance(one, str))

    def with_more(self, more: Mapping[str, JsonValue]) -> Claims:
        """With claims of another source too; the signed ones win."""
        return self.model_copy(update={"values": {**more, **self.values}})


def check_metadata(found: Metadata, *, issuer: str, name: str) -> None:
    """Raise SignInFailed unless it is that issuer's, and no secret would be sent in the clear."""
    if found.issuer != issuer:
        raise failures.provider_unusable(
            name, f"it calls itself {found.issuer[:200]}, and the settings' issuer is {issuer}"
        )
    for key in (
        "authorization_endpoint",
        "token_endpoint",
        "jwks_uri",
        "userinfo_endpoint",
        "end_session_endpoint",
    ):
        url = getattr(found, key)
        if url is not None and not _is_as_safe(url, issuer):
            raise failures.provider_unusable(name, f"its {key} is not an https address")


def key_set(document: Mapping[str, Any], name: str) -> KeySet:
    """The keys that may sign; raise SignInFailed where there is none. A symmetric one is never among them."""
    keys = []
    for one in document.get("keys", ()):
        if not isinstance(one, dict) or one.get("kty") == "oct" or one.get("use", "sig") != "sig":
            continue
        try:
            keys.extend(KeySet.import_key_set({"keys": [one]}).keys)
        except (JoseError, ValueError, TypeError):
            continue  # a kind of key that we do not know takes nothing from the others
    if not keys:
        raise failures.provider_unusable(name, "it publishes no key that signs ID tokens")
    return KeySet(keys)


def check_id_token(text: str, keys: KeySet, expected: Expected, *, now: int) -> Claims:
    """What a right ID token says; else raise SignInFailed, or UnknownKey while a look for new keys may mend
    it."""
    try:
        token = jwt.decode(
            text, keys, registry=JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
        )
    except InvalidKeyIdError as error:
        raise UnknownKey from error
    except (JoseError, ValueError, TypeError) as error:
        what = "signature" if isinstance(error, BadSignatureError) else "form"
        raise failures.token_refused(expected.name, what) from error
    _check_clock(token.claims, expected, now)
    _check_claims(token.claims, token.header, expected, now)
    return Claims(issuer=expected.issuer, subject=token.claims["sub"], values=token.claims)


def check_userinfo(document: object, claims: Claims, name: str) -> Mapping[str, JsonValue]:
    """What it says, if it is of the same person (OpenID Connect Core 1.0, section 5.3.2)."""
    if not isinstance(document, dict) or document.get("sub") != claims.subject:
        raise failures.provider_unusable(name, "its userinfo endpoint answers of somebody else")
    return document


def _check_clock(said: Mapping[str, Any], expected: Expected, now: int) -> None:
    """It was made between the start of this sign-in and now, by our clock; if not, tell by how much."""
    made = said.get("iat")
    if isinstance(made, bool) or not isinstance(made, int | float):
        return  # refused below, by its name
    if made > now + LEEWAY_SECONDS:
        raise failures.clocks_differ(expected.name, int(made) - now)
    if made < expected.began - LEEWAY_SECONDS:
        raise failures.clocks_differ(expected.name, int(made) - now)


def _check_claims(said: dict[str, Any], header: Mapping[str, Any], expected: Expected, now: int) -> None:
    options = {
        "iss": {"essential": True, "value": expected.issuer},
        "aud": {"essential": True, "value": expected.client_id},
        "sub": {"essential": True},
    }
    known = {"nonce": expected.nonce, "client_id": expected.client_id, "access_token": expected.access_token}
    token = CodeIDToken(said, header, options, known)
    try:
        token.validate(now=now, leeway=LEEWAY_SECONDS)
    except ExpiredTokenError as error:
        raise failures.token_refused(expected.name, "exp") from error
    except ClaimError as error:
        raise failures.token_refused(expected.name, error.claim or "claims") from error
    except (JoseError, ValueError, TypeError, AttributeError) as error:
        raise failures.token_refused(expected.name, "claims") from error


def _is_as_safe(url: str, issuer: str) -> bool:
    """https; or plain http on loopback, for an issuer that is there itself."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    there = urlsplit(issuer)
    return parts.scheme == "http" and there.scheme == "http" and parts.hostname == there.hostname
