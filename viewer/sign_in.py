"""A browser comes in with a login and a password, a key, or a one-time link, and goes out again.

Of its cookie we keep the hash. Whatever is wrong with a login and a password, the answer is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from flask import Blueprint, Response, request

from viewer.access import COOKIE, anyone, check_same_origin, client_address
from viewer.accounts import SIGN_IN_MOST, Browser, PersonIsOut
from viewer.attempts import DEVICE_LIFE, Bucket, device_of, new_device, of_address, of_device, of_login
from viewer.credentials import SecretToken
from viewer.incoming import SetPassword, SignIn, json_body
from viewer.passwords import PasswordRefused, TooManyChecks, check_new_password
from viewer.people import BadLogin, folded_login
from viewer.problems import FieldError, Problem, too_many_attempts, wrong_fields
from viewer.services import services

sign_in = Blueprint("sign_in", __name__)

DEVICE_COOKIE = "__Host-deskfleet-device"
_NOBODY = ""
"""No login looks like this, so nobody's is counted under it."""


@sign_in.post("/signin")
@anyone
def open_sign_in() -> Response:
    # Also against signing somebody in under a foreign name: only our own page may ask.
    check_same_origin()
    shown = json_body(SignIn)
    _check_one_credential(shown)
    if shown.login is not None:
        return _by_password(shown.login, shown.password or "")
    return _signed_in(_by_key_or_link(shown))


@sign_in.post("/set-password")
@anyone
def set_password() -> Response:
    """By the link that an admin has made for somebody; it signs him in, too."""
    check_same_origin()
    shown = json_body(SetPassword)
    accounts, address = services().store.accounts, of_address(client_address())
    _wait_if_needed(services().store.attempts.seconds_to_wait(address))
    link = accounts.person_of_link(shown.token)
    if link is None:
        services().store.attempts.failed(address)
        _note_failed([address])
        raise _link_is_over()
    token = accounts.set_password_by_link(
        shown.token, new_password_hash(shown.password, login=link.login), browser()
    )
    if token is None:
        raise _link_is_over()
    return _signed_in(token, login=link.login)


@sign_in.post("/signout")
@anyone
def close_sign_in() -> Response:
    """Also without a valid cookie: whoever is out already stays out."""
    check_same_origin()
    way_out = "/oidc/signed-out" if _is_known_to_the_provider() else "/signin"
    _forget_old_cookie()
    response = Response(status=303, headers={"Location": way_out})
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Lax")
    return response


def new_password_hash(password: str, *, login: str, field: str = "password") -> str:
    """Raises the problem that says why it cannot be somebody's password."""
    try:
        check_new_password(password, login=login)
        return services().passwords.hash(password)
    except PasswordRefused as error:
        message, _, mend = str(error).partition("; ")
        raise wrong_fields([FieldError(field=field, message=message, mend=mend)]) from error
    except TooManyChecks as error:
        raise too_many_checks() from error


def browser() -> Browser:
    return Browser(address=client_address() or None, user_agent=request.headers.get("User-Agent"))


def too_many_checks() -> Problem:
    detail = "Many passwords are being checked just now; nothing was done, so try again in a moment."
    return Problem(503, "busy", "Too busy", detail, headers={"Retry-After": "2"})


def sign_in_failed() -> Problem:
    """One answer for whatever is wrong with it."""
    return Problem(
        401,
        "sign-in-failed",
        "Not signed in",
        "This login and password, key or link is wrong, or good no more.",
    )


def _by_password(given: str, password: str) -> Response:
    """The same steps, in the same time, for a wrong password and for a login that nobody has."""
    here = services()
    try:
        login = folded_login(given)
    except BadLogin:
        login = _NOBODY
    key = here.settings.secret_key
    device = device_of(request.cookies.get(DEVICE_COOKIE), login, key)
    counted, also = (of_device(device), ()) if device else (of_login(login), (of_address(client_address()),))
    _wait_if_needed(here.store.attempts.begin([counted, *also]))
    found = here.store.accounts.login(login)
    try:
        check = here.passwords.check(password, found.password_hash)
    except TooManyChecks as error:
        # It was not looked at, so it is no failure either.
        here.store.attempts.take_back([counted, *also])
        raise too_many_checks() from error
    if not check.is_right or found.person_id is None:
        _note_failed([counted, *also], found.person_id)
        raise sign_in_failed()
    try:
        token = here.store.accounts.sign_in_person(
            found.person_id,
            address=client_address() or None,
            user_agent=request.headers.get("User-Agent"),
            password_hash=found.password_hash,
            new_hash=check.new_hash,
        )
    except PersonIsOut as error:
        _note_failed([counted, *also], found.person_id)
        raise sign_in_failed() from error
    here.store.attempts.succeeded(counted, also)
    return _signed_in(token, login=login)


def _by_key_or_link(shown: SignIn) -> SecretToken:
    """Both are too long to be guessed, so only wrong ones are counted."""
    here, address = services(), of_address(client_address())
    _wait_if_needed(here.store.attempts.seconds_to_wait(address))
    accounts = here.store.accounts
    if shown.key is not None:
        token = accounts.sign_in_with_key(shown.key, browser())
    else:
        token = accounts.sign_in_with_link(shown.token or "", browser())
    if token is None:
        here.store.attempts.failed(address)
        _note_failed([address])
        raise sign_in_failed()
    return token


def _note_failed(counted: Sequence[Bucket], person_id: str | None = None) -> None:
    here = services().store
    is_locked = any(here.attempts.seconds_to_wait(bucket) for bucket in counted)
    here.accounts.note_failed_sign_in(person_id, is_locked=is_locked)


def _check_one_credential(shown: SignIn) -> None:
    given = [name for name in ("login", "key", "token") if getattr(shown, name) is not None]
    if len(given) != 1:
        raise wrong_fields(
            [
                FieldError(
                    field=given[1] if given else "login",
                    message="login with password, key or token is needed, and only one",
                    mend="send one",
                )
            ]
        )
    if (shown.login is None) != (shown.password is None):
        raise wrong_fields(
            [FieldError(field="password", message="goes with a login", mend="send both or neither")]
        )


def _wait_if_needed(seconds: int) -> None:
    if seconds:
        raise too_many_attempts(seconds)


def _link_is_over() -> Problem:
    return Problem(
        401,
        "link-over",
        "This link is over",
        "It was used already or is too old; ask your admin for a new one.",
    )


def _signed_in(token: SecretToken, *, login: str | None = None) -> Response:
    """A new cookie each time, and the former one ends: whoever knew that one has nothing of the new one."""
    response = let_in(token, Response(status=204))
    if login is not None:
        sealed = new_device(login, services().settings.secret_key)
        _set_cookie(response, DEVICE_COOKIE, sealed, int(DEVICE_LIFE.total_seconds()))
    return response


def let_in(token: SecretToken, response: Response) -> Response:
    """The answer with the new cookie; what the browser was before ends."""
    _forget_old_cookie()
    _set_cookie(response, COOKIE, token, int(SIGN_IN_MOST.total_seconds()))
    return response


def _set_cookie(response: Response, name: str, value: str, max_age: int) -> None:
    response.set_cookie(name, value, max_age=max_age, path="/", secure=True, httponly=True, samesite="Lax")


def _is_known_to_the_provider() -> bool:
    """Does whoever signs out come through the OpenID provider, where he is still signed in?"""
    provider, accounts = services().settings.oidc, services().store.accounts
    old = request.cookies.get(COOKIE)
    who = accounts.principal_of_cookie(old) if old and provider is not None else None
    return who is not None and provider is not None and services().store.oidc.knows(who.id, provider.issuer)


def _forget_old_cookie() -> None:
    old = request.cookies.get(COOKIE)
    if old:
        services().store.accounts.sign_out(old)
