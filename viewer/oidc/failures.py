"""Why somebody did not get in: a sentence for him each, with what to do, and never a token or a code.

`reason` is for logs and the audit log; the page has title and detail.
"""

from __future__ import annotations

import re
from enum import StrEnum

from viewer.model import Frozen


class Reason(StrEnum):
    STATE = "state"
    OTHER_ISSUER = "other-issuer"
    PROVIDER_DOWN = "provider-down"
    PROVIDER_BUSY = "provider-busy"
    PROVIDER_UNUSABLE = "provider-unusable"
    TOO_MANY = "too-many"
    REFUSED = "refused-by-provider"
    CLIENT_REFUSED = "client-refused"
    CODE_USED = "code-used"
    UNKNOWN_KEY = "unknown-key"
    TOKEN = "token"  # noqa: S105
    CLOCK = "clock"
    CLAIM_MISSING = "claim-missing"
    NO_RULE = "no-rule"
    LOGIN_TAKEN = "login-taken"
    OTHER_TENANT = "other-tenant"
    DISABLED = "disabled"


class Failure(Frozen):
    reason: Reason
    status: int
    title: str
    detail: str


class SignInFailed(Exception):
    """why: for whoever runs this, in the words of TLS or the network; nothing of what was sent."""

    def __init__(self, failure: Failure, *, why: str = "") -> None:
        super().__init__(failure.reason.value)
        self.failure = failure
        self.why = why


def state_lost() -> SignInFailed:
    return _failed(
        Reason.STATE,
        400,
        "This sign-in is over",
        "It took over ten minutes, was used already, or began in another browser or tab; begin it again.",
    )


def other_issuer(name: str) -> SignInFailed:
    return _failed(
        Reason.OTHER_ISSUER,
        400,
        "The answer came from somebody else",
        f"It does not say that it is from {name}; begin again, and tell your admin if it stays so.",
    )


def provider_down(name: str, why: str = "") -> SignInFailed:
    return _failed(
        Reason.PROVIDER_DOWN,
        503,
        f"{name} does not answer",
        "Deskfleet cannot reach it; try again in a moment, or sign in another way meanwhile.",
        why=why,
    )


def provider_busy(name: str) -> SignInFailed:
    return _failed(
        Reason.PROVIDER_BUSY,
        503,
        "Too many sign-ins at once",
        f"Others are being signed in through {name} just now; try again in a moment.",
    )


def provider_unusable(name: str, what: str) -> SignInFailed:
    """what: a clause that says what is wrong, such as `its token endpoint is not https`."""
    return _failed(
        Reason.PROVIDER_UNUSABLE,
        502,
        f"{name} answers what Deskfleet cannot use",
        f"Tell your admin that {what}.",
    )


def too_many(seconds: int) -> SignInFailed:
    return _failed(
        Reason.TOO_MANY,
        429,
        "Too many attempts",
        f"Too many sign-ins from your address have failed; try again in {seconds} s.",
    )


def refused(name: str, error: str) -> SignInFailed:
    if error == "access_denied":
        detail = f"You or {name} said no; begin again, or ask who runs {name} to let you use Deskfleet."
    else:
        # Whoever made the link chose the word, so only what looks like one is repeated.
        what = error if re.fullmatch(r"[a-z_]{1,40}", error) else "an error"
        detail = f"It answered {what}; begin again, and tell your admin if it stays so."
    return _failed(Reason.REFUSED, 403, f"{name} did not let you in", detail)


def client_refused(name: str) -> SignInFailed:
    return _failed(
        Reason.CLIENT_REFUSED,
        502,
        f"{name} does not let Deskfleet ask",
        "Tell your admin that the client id or client secret in Deskfleet's settings is not the right one.",
    )


def code_used() -> SignInFailed:
    return _failed(
        Reason.CODE_USED,
        400,
        "This sign-in is over",
        "The provider says that it was used already or took too long; begin it again.",
    )


def unknown_key(name: str) -> SignInFailed:
    return _failed(
        Reason.UNKNOWN_KEY,
        502,
        f"{name} signed with an unknown key",
        "It publishes no such key; try again in a moment, and tell your admin if it stays so.",
    )


def token_refused(name: str, claim: str) -> SignInFailed:
    """claim: which claim, or `signature`."""
    return _failed(
        Reason.TOKEN,
        502,
        f"{name}'s answer does not hold",
        f"Its ID token is refused for its {claim}; begin again, and tell your admin if it stays so.",
    )


def clocks_differ(name: str, seconds: int) -> SignInFailed:
    """seconds: how far the provider's clock is ahead; negative: behind."""
    way = "ahead of" if seconds > 0 else "behind"
    return _failed(
        Reason.CLOCK,
        502,
        "The clocks differ",
        f"{name}'s clock is {abs(seconds)} s {way} Deskfleet's, and 60 s are allowed;"
        " have an admin set the wrong one right, then try again.",
    )


def claim_missing(name: str, claim: str) -> SignInFailed:
    return _failed(
        Reason.CLAIM_MISSING,
        502,
        f"{name} does not say who you are",
        f"Tell your admin that the claim {claim} is missing or cannot be used as a login.",
    )


def no_rule(name: str) -> SignInFailed:
    return _failed(
        Reason.NO_RULE,
        403,
        "You have no place here",
        f"{name} knows you, but no rule of Deskfleet's gives you a tenant and a role; ask your admin.",
    )


def login_taken(login: str) -> SignInFailed:
    return _failed(
        Reason.LOGIN_TAKEN,
        403,
        f"The login {login} is somebody else's",
        "Another person has it here, and is left alone; ask your admin to remove that person or to give you"
        " another login.",
    )


def other_tenant() -> SignInFailed:
    return _failed(
        Reason.OTHER_TENANT,
        403,
        "You belong to another tenant now",
        "The rules name another tenant than the one you are known in; ask the admin of your former tenant to"
        " remove you there, then sign in again.",
    )


def disabled() -> SignInFailed:
    return _failed(
        Reason.DISABLED,
        403,
        "You may not sign in",
        "An admin of your tenant has disabled you; ask him to enable you again.",
    )


def _failed(reason: Reason, status: int, title: str, detail: str, *, why: str = "") -> SignInFailed:
    return SignInFailed(Failure(reason=reason, status=status, title=title, detail=detail), why=why)
