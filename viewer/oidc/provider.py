"""Speaks to the provider: its description, its keys, a code for tokens, and what it knows of somebody.

What is kept here (description and keys) only saves asking again; nothing is decided by it, so each process of
the viewer may have its own.
"""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from urllib.parse import quote, quote_plus, urlencode

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.base import OAuth2Error
from authlib.oauth2.client import OAuth2Client
from joserfc.jwk import KeySet
from pydantic import ValidationError

from viewer.nodes import outside_client
from viewer.oidc import failures
from viewer.oidc.attempts import Attempt, new_attempt
from viewer.oidc.rules import needed_claims
from viewer.oidc.tokens import (
    Claims,
    Expected,
    Metadata,
    Tokens,
    UnknownKey,
    check_id_token,
    check_metadata,
    check_userinfo,
    key_set,
)
from viewer.settings import OidcSettings

TIMEOUT_SECONDS = 5.0
FRESH_SECONDS = 3600.0
"""For so long description and keys are taken as they were read."""
AGAIN_SECONDS = 5.0
"""A provider that kept us waiting in vain, or whose keys were just read again, is not asked before: whoever
comes with unknown keys must not make us hammer it, nor hold our threads."""
AT_ONCE = 8
"""Conversations with a provider, each of which holds one of the server's 64 threads while it lasts."""

WhatT = TypeVar("WhatT")
_Signed = tuple[str, dict[str, str], str]


class Provider:
    """The one of the settings. Everything here raises SignInFailed with a sentence for the person."""

    def __init__(
        self, settings: OidcSettings, redirect_uri: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._redirect_uri = redirect_uri
        self._clock = clock
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._metadata: _Kept[Metadata] | None = None
        self._keys: _Kept[KeySet] | None = None
        self._down_until = 0.0
        self._keys_wait_until = 0.0

    def authorization_url(self, attempt: Attempt) -> str:
        """Where the browser goes to sign in: only to a provider that was there a moment ago, because browsers
        have no words for one that is not."""
        with self._turn():
            found = self._described(AGAIN_SECONDS)
            url, _ = self._client(found).create_authorization_url(
                found.authorization_endpoint,
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.code_verifier,
            )
        return str(url)

    def check_issuer(self, said: str | None) -> None:
        """Raise unless the way back is from this provider, as far as it says so (RFC 9207)."""
        with self._turn():
            must_say = self._described().authorization_response_iss_parameter_supported
        if said != self._settings.issuer and (must_say or said is not None):
            raise failures.other_issuer(self._settings.name)

    def claims_for(self, code: str, attempt: Attempt) -> Claims:
        """Who it is that came back with this code."""
        with self._turn():
            found = self._described()
            tokens = self._redeem(found, code, attempt)
            expected = Expected(
                name=self._settings.name,
                issuer=self._settings.issuer,
                client_id=self._settings.client_id,
                nonce=attempt.nonce,
                access_token=tokens.access_token,
                began=attempt.began,
            )
            claims = self._checked(found, tokens.id_token, expected)
            return self._completed(found, claims, tokens)

    def sign_out_url(self, back_to: str) -> str | None:
        """Where the browser signs out at the provider too (OpenID Connect RP-Initiated Logout 1.0)."""
        with self._turn():
            end = self._described().end_session_endpoint
        if end is None:
            return None
        mark = "&" if "?" in end else "?"
        client_id, back = quote(self._settings.client_id, safe=""), quote(back_to, safe="")
        return f"{end}{mark}client_id={client_id}&post_logout_redirect_uri={back}"

    def try_out(self) -> Iterator[str]:
        """What works, a sentence each; raises at the first thing that does not. Nobody signs in by it."""
        found = self._described()
        yield f"{self._settings.issuer} describes itself"
        keys = self._known_keys(found)
        yield f"it signs with {len(keys.keys)} key{'s' if len(keys.keys) > 1 else ''} that we can use"
        try:
            self._redeem(found, "made-up", new_attempt(self._settings.issuer, "/"))
        except failures.SignInFailed as error:
            # That the code is none is told only to a client that has proved who it is.
            if error.failure.reason is not failures.Reason.CODE_USED:
                raise
        yield f"it knows the client {self._settings.client_id} and takes the secret"
        yield f"it must know this redirect URI: {self._redirect_uri}"

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            raise failures.provider_busy(self._settings.name)
        try:
            yield
        finally:
            self._turns.release()

    def _described(self, fresh_seconds: float = FRESH_SECONDS) -> Metadata:
        with self._lock:
            if self._metadata is not None and self._metadata.read_at + fresh_seconds > self._clock():
                return self._metadata.what
            url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            try:
                found = Metadata.model_validate(self._get(url))
            except ValidationError as error:
                missing = ".".join(str(part) for part in error.errors()[0]["loc"])
                raise self._unusable(f"its description lacks a usable {missing or 'issuer'}") from error
            check_metadata(found, issuer=self._settings.issuer, name=self._settings.name)
            self._metadata = _Kept(found, self._clock())
            return found

    def _checked(self, found: Metadata, id_token: str, expected: Expected) -> Claims:
        """By the keys that we know; and where its own is not among them, by those that it publishes now."""
        try:
            return check_id_token(id_token, self._known_keys(found), expected, now=int(time.time()))
        except UnknownKey:
            pass
        try:
            return check_id_token(id_token, self._keys_again(found), expected, now=int(time.time()))
        except UnknownKey as error:
            raise failures.unknown_key(self._settings.name) from error

    def _known_keys(self, found: Metadata) -> KeySet:
        with self._lock:
            if self._keys is None or self._keys.read_at + FRESH_SECONDS <= self._clock():
                self._keys = _Kept(self._read_keys(found), self._clock())
            return self._keys.what

    def _keys_again(self, found: Metadata) -> KeySet:
        with self._lock:
            if self._keys is not None and self._clock() < self._keys_wait_until:
                return self._keys.what
            self._keys_wait_until = self._clock() + AGAIN_SECONDS
            self._keys = _Kept(self._read_keys(found), self._clock())
            return self._keys.what

    def _read_keys(self, found: Metadata) -> KeySet:
        document = self._get(found.jwks_uri)
        return key_set(document if isinstance(document, dict) else {}, self._settings.name)

    def _redeem(self, found: Metadata, code: str, attempt: Attempt) -> Tokens:
        client = self._client(found)
        try:
            answer = client.fetch_token(
                found.token_endpoint,
                grant_type="authorization_code",
                code=code,
                code_verifier=attempt.code_verifier,
            )
        except OAuth2Error as error:
            raise self._token_failure(str(error.error)) from error
        except ValueError as error:
            raise self._unusable("its token endpoint does not answer with JSON") from error
        except httpx.HTTPStatusError as error:
            raise self._answered(error.response) from error
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        try:
            return Tokens.model_validate(dict(answer))
        except ValidationError as error:
            raise self._unusable("its token endpoint sends no ID token with an access token") from error

    def _token_failure(self, error: str) -> failures.SignInFailed:
        if error == "invalid_grant":
            return failures.code_used()
        if error in ("invalid_client", "unauthorized_client"):
            return failures.client_refused(self._settings.name)
        return self._unusable("its token endpoint refuses the code")

    def _completed(self, found: Metadata, claims: Claims, tokens: Tokens) -> Claims:
        """With what the ID token leaves out, from the userinfo endpoint."""
        if found.userinfo_endpoint is None or all(
            claims.at(name) is not None for name in needed_claims(self._settings)
        ):
            return claims
        more = self._get(found.userinfo_endpoint, Authorization=f"Bearer {tokens.access_token}")
        return claims.with_more(check_userinfo(more, claims, self._settings.name))

    def _client(self, found: Metadata) -> OAuth2Client:
        methods = found.token_endpoint_auth_methods_supported
        by_post = "client_secret_post" in methods and "client_secret_basic" not in methods
        client = OAuth2Client(
            _Session(),
            client_id=self._settings.client_id,
            client_secret=self._settings.client_secret().get_secret_value(),
            redirect_uri=self._redirect_uri,
            scope=" ".join(self._settings.scopes),
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_post" if by_post else "client_secret_basic",
        )
        client.register_client_auth_method(("client_secret_basic", _basic))
        return client

    def _get(self, url: str, **headers: str) -> Any:
        """JSON from the provider, as it came."""
        if self._clock() < self._down_until:
            raise failures.provider_down(self._settings.name, why="it kept us waiting a moment ago")
        try:
            with outside_client(timeout_seconds=TIMEOUT_SECONDS) as client:
                answer = client.get(url, headers={"Accept": "application/json", **headers})
                answer.raise_for_status()
            return answer.json()
        except httpx.HTTPStatusError as error:
            raise self._answered(error.response) from error
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        except ValueError as error:
            raise self._unusable(f"its {httpx.URL(url).path} does not answer with JSON") from error

    def _silent(self, error: httpx.HTTPError) -> failures.SignInFailed:
        if isinstance(error, httpx.TimeoutException):
            self._down_until = self._clock() + AGAIN_SECONDS
        return failures.provider_down(self._settings.name, why=str(error) or type(error).__name__)

    def _answered(self, answer: httpx.Response) -> failures.SignInFailed:
        """With a status that is no success."""
        if answer.status_code >= 500:
            why = f"{answer.request.url.path} answers {answer.status_code}"
            return failures.provider_down(self._settings.name, why=why)
        return self._unusable(f"its {answer.request.url.path} answers {answer.status_code}")

    def _unusable(self, what: str) -> failures.SignInFailed:
        return failures.provider_unusable(self._settings.name, what)


class _Kept(Generic[WhatT]):
    """What was read, and when by the provider's clock of this process."""

    def __init__(self, what: WhatT, read_at: float) -> None:
        self.what = what
        self.read_at = read_at


class _Session:
    """What Authlib's client asks a session for: a form posted with the client's own proof."""

    def post(
        self, url: str, *, data: dict[str, str], headers: dict[str, str], auth: ClientAuth
    ) -> httpx.Response:
        url, headers, body = auth.prepare("POST", url, dict(headers), urlencode(data))
        with outside_client(timeout_seconds=TIMEOUT_SECONDS) as client:
            return client.post(url, content=body, headers=headers)


def _basic(client: ClientAuth, _method: str, url: str, headers: dict[str, str], body: str) -> _Signed:
    """The client's proof as a header, encoded as a form first (RFC 6749, section 2.3.1). Authlib's own leaves
    that out, so a `%` or `+` in a secret would make it another one."""
    pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
    headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return url, headers, body
