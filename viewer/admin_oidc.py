"""`deskfleet-admin oidc`: does the sign-in through the provider work, and whom do the rules let in?"""

from __future__ import annotations

import json
import sys

from viewer.oidc.failures import SignInFailed
from viewer.oidc.provider import Provider
from viewer.oidc.rules import place_of
from viewer.oidc.tokens import Claims
from viewer.settings import OidcSettings, Settings


class OidcError(Exception):
    """What was tried does not work; the text says why."""


def do(verb: str | None, settings: Settings) -> str:
    """What to print. Raises OidcError, viewer.settings.SettingsError."""
    if settings.oidc is None:
        raise OidcError("there is no OpenID provider in the settings; add settings.oidc to the site file")
    if verb == "check":
        return _check(Provider(settings.oidc, f"{settings.canonical_origin}/oidc/callback"))
    return _apply_rules(settings.oidc, sys.stdin.read())


def _check(provider: Provider) -> str:
    """All that a sign-in needs, without one."""
    said = []
    try:
        for sentence in provider.try_out():
            said.append(f"ok: {sentence}")
    except SignInFailed as error:
        so_far = "\n".join([*said, ""])
        raise OidcError(f"{so_far}{error.failure.title}: {error.why or error.failure.detail}") from error
    return "\n".join(said)


def _apply_rules(settings: OidcSettings, text: str) -> str:
    """text: claims as JSON, as they stand in an ID token."""
    try:
        claims = Claims(issuer=settings.issuer, subject="somebody", values=json.loads(text))
    except ValueError as error:
        raise OidcError('the claims must be a JSON object, such as {"groups": ["staff"]}') from error
    try:
        place = place_of(claims, settings)
    except SignInFailed as error:
        raise OidcError("no rule fits; whoever has these claims does not come in") from error
    return f"{place.role} of {place.tenant}"
