"""What a browser sees of a sign-in through the provider: out by our button, back with a code, and in.

The way back is the one GET here that changes something, because OpenID Connect wants it so: it works once,
and only in the browser that began. Its address holds the code, so it answers with a redirect whatever comes
of it; what went wrong is kept in the cookie, and shown at an address that says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from urllib.parse import quote

from flask import Blueprint, Response, make_response, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from viewer.access import anyone, client_address
from viewer.accounts import PersonIsOut
from viewer.attempts import of_address
from viewer.credentials import SecretToken, same
from viewer.oidc import failures
from viewer.oidc.arrivals import Arrival
from viewer.oidc.attempts import LIFE_SECONDS, Attempt, Failed, new_attempt, seal, unseal
from viewer.oidc.failures import Reason, SignInFailed
from viewer.oidc.provider import Provider
from viewer.oidc.rules import place_of
from viewer.oidc.tokens import Claims
from viewer.pages import own_page
from viewer.problems import not_found
from viewer.services import services
from viewer.settings import OidcSettings
from viewer.sign_in import let_in

oidc = Blueprint("oidc", __name__, url_prefix="/oidc")

COOKIE = "__Host-deskfleet-oidc"

_OFFENCES = frozenset({Reason.OTHER_ISSUER, Reason.REFUSED, Reason.CODE_USED, Reason.TOKEN})
"""What somebody can bring about as often as he likes, without the provider knowing him: it is counted."""
_ON_RECORD = _OFFENCES | {Reason.NO_RULE, Reason.LOGIN_TAKEN, Reason.OTHER_TENANT, Reason.DISABLED}
"""What the audit log has, too. The rest is the provider's trouble, and in the log of this program."""
_log = logging.getLogger("deskfleet.viewer")


@oidc.get("/start")
@anyone
def start() -> BaseResponse:
    """Nothing of ours changes by it: what has begun lies in the browser's own cookie."""
    settings, next_page = _settings(), own_page(request.args.get("next"))
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        # A sandbox's page could make somebody somebody else here, without a click. He can still click.
        return redirect(f"/signin?next={quote(next_page, safe='/')}", 303)
    attempt = new_attempt(settings.issuer, next_page)
    try:
        answer = redirect(provider().authorization_url(attempt), 303)
    except SignInFailed as error:
        _tell(error)
        return _failed_page(Failed(failure=error.failure, next=next_page))
    _keep(answer, attempt)
    return answer


@oidc.get("/callback")
@anyone
def callback() -> BaseResponse:
    settings = _settings()
    attempt = unseal(request.cookies.get(COOKIE), Attempt, services().settings.secret_key)
    if attempt is None or attempt.issuer != settings.issuer or not _is_of(attempt, request.args):
        return _back_out(failures.state_lost(), own_page(attempt.next if attempt else None))
    address = of_address(client_address())
    seconds = services().store.attempts.seconds_to_wait(address)
    if seconds:
        return _back_out(failures.too_many(seconds), attempt.next)
    try:
        token = _sign_in(attempt, request.args)
    except SignInFailed as error:
        if error.failure.reason in _OFFENCES:
            services().store.attempts.failed(address)
        return _back_out(error, attempt.next)
    answer = let_in(token, make_response(redirect(attempt.next, 303)))
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Lax")
    return answer


@oidc.get("/failed")
@anyone
def failed() -> BaseResponse:
    """Why the last way back led nowhere; for who comes here without one, the sign-in page."""
    _settings()
    kept = unseal(request.cookies.get(COOKIE), Failed, services().settings.secret_key)
    return redirect("/signin", 303) if kept is None else _failed_page(kept)


@oidc.get("/signed-out")
@anyone
def signed_out() -> BaseResponse:
    """Who signs out of Deskfleet may still be signed in at the provider, where the next one could go on."""
    settings = _settings()
    try:
        url = provider().sign_out_url(f"{services().settings.canonical_origin}/signin")
    except SignInFailed:
        url = None
    if url is None:
        return redirect("/signin", 303)
    return make_response(render_template("oidc_signed_out.html", signed_in=None, name=settings.name, url=url))


def provider() -> Provider:
    found = services().oidc
    if found is None:
        raise not_found()
    return found


def _settings() -> OidcSettings:
    found = services().settings.oidc
    if found is None:
        raise not_found()
    return found


def _is_of(attempt: Attempt, query: Mapping[str, str]) -> bool:
    """Is this the way back of that very start?"""
    return same(query.get("state", ""), attempt.state) and ("code" in query) != ("error" in query)


def _sign_in(attempt: Attempt, query: Mapping[str, str]) -> SecretToken:
    """A cookie value for who came back. SignInFailed with the reason; it is on record then."""
    settings, people = _settings(), services().store.oidc
    claims: Claims | None = None
    try:
        provider().check_issuer(query.get("iss"))
        if "error" in query:
            raise failures.refused(settings.name, query["error"])
        if not people.use_state(attempt.state):
            raise failures.code_used()
        claims = provider().claims_for(query["code"], attempt)
        return _token_of(claims, settings)
    except SignInFailed as error:
        reason = error.failure.reason
        if reason in _ON_RECORD:
            people.note_failure(reason, issuer=settings.issuer, subject=claims.subject if claims else None)
        raise


def _token_of(claims: Claims, settings: OidcSettings) -> SecretToken:
    people = services().store.oidc
    arrival = Arrival(
        provider=settings.name,
        issuer=claims.issuer,
        subject=claims.subject,
        login=claims.text(settings.login_claim),
        login_claim=settings.login_claim,
        name=claims.text("name"),
    )
    try:
        place = place_of(claims, settings)
    except SignInFailed:
        people.shut_out(claims.issuer, claims.subject, Reason.NO_RULE)
        raise
    person = people.admit(arrival, place)
    try:
        return services().store.accounts.sign_in_person(
            person, address=client_address() or None, user_agent=request.headers.get("User-Agent")
        )
    except PersonIsOut as error:
        raise failures.disabled() from error


def _back_out(error: SignInFailed, next_page: str) -> BaseResponse:
    _tell(error)
    answer = redirect("/oidc/failed", 303)
    _keep(answer, Failed(failure=error.failure, next=next_page))
    return answer


def _keep(answer: BaseResponse, kept: Attempt | Failed) -> None:
    answer.set_cookie(
        COOKIE,
        seal(kept, services().settings.secret_key),
        max_age=LIFE_SECONDS,
        path="/",
        secure=True,
        httponly=True,
        samesite="Lax",
    )


def _failed_page(kept: Failed) -> Response:
    failure = kept.failure
    page = render_template(
        "oidc_failed.html", signed_in=None, title=failure.title, detail=failure.detail, next=kept.next
    )
    return make_response(page, failure.status)


def _tell(error: SignInFailed) -> None:
    why = f" ({error.why})" if error.why else ""
    _log.warning("a sign-in through the OpenID provider failed: %s%s", error.failure.reason.value, why)
