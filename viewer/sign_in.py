"""A browser comes in with a key or a one-time link, and goes out again. Of its cookie we keep the hash."""

from __future__ import annotations

from flask import Blueprint, Response, request

from viewer.access import COOKIE, anyone, check_same_origin, client_address
from viewer.accounts import SIGN_IN_MOST
from viewer.credentials import SecretToken
from viewer.incoming import SignIn, json_body
from viewer.problems import FieldError, Problem, too_many_attempts, wrong_fields
from viewer.services import services

sign_in = Blueprint("sign_in", __name__)


@sign_in.post("/signin")
@anyone
def open_sign_in() -> Response:
    # Also against signing somebody in under a foreign name: only our own page may ask.
    check_same_origin()
    address = client_address()
    seconds = services().failures.seconds_to_wait(address)
    if seconds:
        raise too_many_attempts(seconds)
    token = _token_for(json_body(SignIn))
    if token is None:
        services().failures.failed(address)
        raise Problem(
            401, "sign-in-failed", "Not signed in", "This key or link is wrong, used up, or too old."
        )
    _forget_old_cookie()
    response = Response(status=204)
    response.set_cookie(
        COOKIE,
        token,
        max_age=SIGN_IN_MOST,
        path="/",
        secure=True,
        httponly=True,
        samesite="Lax",
    )
    return response


@sign_in.post("/signout")
@anyone
def close_sign_in() -> Response:
    """Also without a valid cookie: whoever is out already stays out."""
    check_same_origin()
    _forget_old_cookie()
    response = Response(status=303, headers={"Location": "/signin"})
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Lax")
    return response


def _token_for(shown: SignIn) -> SecretToken | None:
    accounts = services().store.accounts
    if (shown.key is None) == (shown.token is None):
        raise wrong_fields(
            [FieldError(field="key", message="key or token is needed, and only one", mend="send one")]
        )
    return (
        accounts.sign_in_with_key(shown.key) if shown.key else accounts.sign_in_with_link(shown.token or "")
    )


def _forget_old_cookie() -> None:
    old = request.cookies.get(COOKIE)
    if old:
        services().store.accounts.sign_out(old)
