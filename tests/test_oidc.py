"""What of a provider's words is believed, and who that makes somebody here; no provider is needed for it."""

from __future__ import annotations

import hmac
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey
from pydantic import ValidationError

from tests.viewer_fixtures import settings_values
from viewer.model import Role
from viewer.oidc.arrivals import Place
from viewer.oidc.attempts import LIFE_SECONDS, Attempt, Failed, new_attempt, seal, unseal
from viewer.oidc.failures import Reason, SignInFailed, disabled
from viewer.oidc.rules import needed_claims, place_of
from viewer.oidc.tokens import (
    Claims,
    Expected,
    Metadata,
    UnknownKey,
    check_id_token,
    check_metadata,
    check_userinfo,
    key_set,
)
from viewer.settings import OidcSettings, Settings

ISSUER = "https://login.example.com"
NOW = 1_800_000_000
KEY = ECKey.generate_key("P-256", parameters={"kid": "one", "use": "sig"})
OTHER = ECKey.generate_key("P-256", parameters={"kid": "two", "use": "sig"})
EXPECTED = Expected(
    name="Acme Login",
    issuer=ISSUER,
    client_id="deskfleet",
    nonce="the-nonce",
    access_token="the-access-token",
    began=NOW - 20,
)
SAID: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "4711",
    "aud": "deskfleet",
    "iat": NOW,
    "exp": NOW + 300,
    "nonce": "the-nonce",
}


def document(*keys: ECKey | OctKey) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=isinstance(key, OctKey)) for key in keys]}


def signed(key: ECKey | OctKey = KEY, *, alg: str = "ES256", kid: str | None = "one", **changed: Any) -> str:
    """A token; a claim that is None is left out."""
    claims = {name: value for name, value in {**SAID, **changed}.items() if value is not None}
    header = {"alg": alg, **({"kid": kid} if kid else {})}
    return jwt.encode(header, claims, key, algorithms=[alg])


def check(text: str, *keys: ECKey, now: int = NOW) -> Claims:
    return check_id_token(text, key_set(document(*(keys or (KEY,))), "Acme Login"), EXPECTED, now=now)


def refused(text: str, *, now: int = NOW) -> SignInFailed:
    with pytest.raises(SignInFailed) as error:
        check(text, now=now)
    return error.value


# --- ID tokens -------------------------------------------------------------------------------------


def test_right_token_says_who_it_is() -> None:
    claims = check(signed(name="Gwen"))
    assert (claims.issuer, claims.subject, claims.text("name")) == (ISSUER, "4711", "Gwen")
    assert check(signed(kid=None)).subject == "4711"  # one key needs no name


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": f"{ISSUER}/"}, "iss"),
        ({"iss": None}, "iss"),
        ({"aud": "another"}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": 1}, "aud"),
        ({"aud": ["deskfleet", "another"]}, "azp"),
        ({"azp": "another"}, "azp"),
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"iat": True}, "iat"),
        ({"exp": "tomorrow"}, "exp"),
        ({"nbf": NOW + 120}, "nbf"),
        ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "at_hash"),
        ({"exp": NOW - 60}, "exp"),
    ],
)
def test_wrong_claim_is_refused_by_its_name(changed: dict[str, Any], claim: str) -> None:
    failure = refused(signed(**changed)).failure
    assert failure.reason is Reason.TOKEN
    assert f"refused for its {claim};" in failure.detail


def test_several_audiences_are_right_with_us_as_the_party() -> None:
    assert check(signed(aud=["deskfleet", "another"], azp="deskfleet")).subject == "4711"


@pytest.mark.parametrize(
    ("iat", "seconds"), [(NOW + 61, 61), (NOW + 3600, 3600), (NOW - 81, -81), (NOW - 3600, -3600)]
)
def test_clock_that_differs_is_told_with_its_difference(iat: int, seconds: int) -> None:
    failure = refused(signed(iat=iat, exp=iat + 3600)).failure
    assert failure.reason is Reason.CLOCK
    assert f"{abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'}" in failure.detail


@pytest.mark.parametrize("iat", [NOW + 60, NOW - 80])
def test_a_minute_is_no_offence(iat: int) -> None:
    assert check(signed(iat=iat)).subject == "4711"
    assert check(signed(exp=NOW - 59)).subject == "4711"


def test_key_that_is_not_known_is_asked_for_and_one_that_lies_is_not() -> None:
    with pytest.raises(UnknownKey):
        check(signed(OTHER, kid="two"))
    with pytest.raises(UnknownKey):
        check(signed(kid=None), KEY, OTHER)
    failure = refused(signed(OTHER, kid="one")).failure
    assert (failure.reason, "for its signature" in failure.detail) == (Reason.TOKEN, True)


@pytest.mark.parametrize(
    "text", ["", "a.b.c", "x" * 5000, signed() + "A", signed()[:-3] + "AAA", signed().partition(".")[0]]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    assert refused(text).failure.reason is Reason.TOKEN


def test_token_without_signature_is_refused() -> None:
    head, body, _ = signed().split(".")
    none = urlsafe_b64encode(b'{"alg":"none","kid":"one"}').rstrip(b"=").decode()
    for text in (f"{head}.{body}.", f"{none}.{body}.", f"{none}.{body}"):
        assert refused(text).failure.reason is Reason.TOKEN


def test_public_key_as_a_shared_secret_is_refused() -> None:
    """The oldest trick: HS256 with what everybody can read."""
    _, body, _ = signed().split(".")
    head = urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()
    mac = hmac.digest(KEY.as_pem(private=False), f"{head}.{body}".encode(), "sha256")
    text = f"{head}.{body}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    assert refused(text).failure.reason is Reason.TOKEN


def test_symmetric_keys_and_keys_for_other_uses_never_sign() -> None:
    shared = OctKey.import_key("x" * 32, {"kid": "one", "use": "sig"})
    for_encryption = ECKey.generate_key("P-256", parameters={"kid": "three", "use": "enc"})
    keys = key_set(document(shared, for_encryption, KEY), "Acme Login")
    assert [key.kid for key in keys] == ["one"]
    assert isinstance(keys.keys[0], ECKey)
    strange = {"keys": [{"kty": "PQ", "kid": "new"}, {"kty": "EC"}, "?", *document(KEY)["keys"]]}
    assert len(key_set(strange, "Acme Login").keys) == 1
    empty: tuple[dict[str, Any], ...] = ({}, {"keys": []}, document(shared))
    for nothing in empty:
        with pytest.raises(SignInFailed, match="provider-unusable"):
            key_set(nothing, "Acme Login")


# --- the provider's description, and userinfo -----------------------------------------------------


def described(**changed: Any) -> Metadata:
    values = {
        "issuer": ISSUER,
        "authorization_endpoint": f"{ISSUER}/auth",
        "token_endpoint": f"{ISSUER}/token",
        "jwks_uri": f"{ISSUER}/keys",
        "unknown": True,
    }
    return Metadata.model_validate({**values, **changed})


def test_description_must_be_of_the_issuer_and_lead_to_https() -> None:
    check_metadata(described(), issuer=ISSUER, name="Acme Login")
    for changed in (
        {"issuer": "https://evil.example"},
        {"issuer": f"{ISSUER}/"},
        {"token_endpoint": "http://login.example.com/token"},
        {"token_endpoint": "http://127.0.0.1/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"end_session_endpoint": "javascript:alert(1)"},
        {"userinfo_endpoint": "https:///"},
    ):
        with pytest.raises(SignInFailed, match="provider-unusable"):
            check_metadata(described(**changed), issuer=ISSUER, name="Acme Login")


def test_plain_http_leads_to_the_same_machine_alone() -> None:
    here = "http://127.0.0.1:9000"
    own = {
        "issuer": here,
        **dict.fromkeys(("authorization_endpoint", "token_endpoint", "jwks_uri"), f"{here}/x"),
    }
    check_metadata(described(**own), issuer=here, name="Here")
    with pytest.raises(SignInFailed):
        check_metadata(described(**{**own, "token_endpoint": "http://10.0.0.1/x"}), issuer=here, name="Here")


def test_userinfo_must_be_of_the_same_person_and_overrides_nothing() -> None:
    claims = Claims(issuer=ISSUER, subject="4711", values={"sub": "4711", "groups": ["staff"]})
    more = check_userinfo({"sub": "4711", "groups": ["admins"], "name": "Gwen"}, claims, "Acme Login")
    both = claims.with_more(more)
    assert (both.texts("groups"), both.text("name")) == (frozenset({"staff"}), "Gwen")
    for wrong in ({"sub": "4712"}, {"name": "Gwen"}, ["4711"], None):
        with pytest.raises(SignInFailed, match="provider-unusable"):
            check_userinfo(wrong, claims, "Acme Login")


# --- rules -----------------------------------------------------------------------------------------


def provider(*rules: dict[str, Any], **more: Any) -> OidcSettings:
    return OidcSettings.model_validate(
        {
            "issuer": ISSUER,
            "client_id": "deskfleet",
            "client_secret_file": "/nowhere",
            "name": "Acme Login",
            "rules": rules or ({"everybody": True, "tenant": "acme", "role": "watcher"},),
            **more,
        }
    )


def placed(settings: OidcSettings, **values: Any) -> Place | None:
    try:
        return place_of(Claims(issuer=ISSUER, subject="4711", values=values), settings)
    except SignInFailed as error:
        return {Reason.NO_RULE: None}[error.failure.reason]


def test_first_rule_that_fits_counts() -> None:
    settings = provider(
        {"group": "admins", "tenant": "acme", "role": "admin"},
        {"group": "staff", "tenant": "acme", "role": "operator"},
        {"claim": "department", "value": "QA", "tenant": "bolt", "role": "watcher"},
    )
    assert placed(settings, groups=["staff", "admins"]) == Place(tenant="acme", role=Role.ADMIN)
    assert placed(settings, groups="staff", department="QA") == Place(tenant="acme", role=Role.OPERATOR)
    assert placed(settings, department="QA") == Place(tenant="bolt", role=Role.WATCHER)
    assert placed(settings, department=["HR", "QA"]) == Place(tenant="bolt", role=Role.WATCHER)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"groups": ["acme", "admin"], "tenant": "acme", "role": "admin"},
        {"groups": ["Admins", "admins ", ""]},
        {"groups": [["admins"], {"admins": 1}, None, 7]},
        {"groups": {"admins": True}},
    ],
)
def test_claim_that_no_rule_names_gives_nothing(values: dict[str, Any]) -> None:
    assert placed(provider({"group": "admins", "tenant": "acme", "role": "admin"}), **values) is None


def test_address_counts_only_when_the_provider_has_verified_it() -> None:
    settings = provider({"email_domain": "acme.example", "tenant": "acme", "role": "watcher"})
    assert placed(settings, email="gwen@ACME.example", email_verified=True) is not None
    for values in (
        {"email": "gwen@acme.example"},
        {"email": "gwen@acme.example", "email_verified": False},
        {"email": "gwen@acme.example", "email_verified": "true"},
        {"email": "gwen@sub.acme.example", "email_verified": True},
        {"email": "gwen@evil.example@acme.example", "email_verified": True},
        {"email": "acme.example", "email_verified": True},
    ):
        assert placed(settings, **values) is None


def test_all_that_a_rule_says_must_be_true() -> None:
    settings = provider(
        {"group": "staff", "email_domain": "acme.example", "tenant": "acme", "role": "operator"},
        {"everybody": True, "tenant": "bolt", "role": "watcher"},
    )
    assert placed(settings, groups=["staff"]) == Place(tenant="bolt", role=Role.WATCHER)
    whole = placed(settings, groups=["staff"], email="g@acme.example", email_verified=True)
    assert whole == Place(tenant="acme", role=Role.OPERATOR)


def test_claim_inside_another_is_named_with_dots() -> None:
    settings = provider(
        {"group": "desk", "tenant": "acme", "role": "admin"},
        {"claim": "https://acme.example/team", "value": "red", "tenant": "bolt", "role": "watcher"},
        groups_claim="realm_access.roles",
    )
    assert placed(settings, realm_access={"roles": ["desk"]}) == Place(tenant="acme", role=Role.ADMIN)
    assert placed(settings, **{"https://acme.example/team": "red"}) == Place(tenant="bolt", role=Role.WATCHER)
    assert placed(settings, realm_access="roles") is None
    assert needed_claims(settings) == {
        "preferred_username",
        "realm_access.roles",
        "https://acme.example/team",
    }


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({}, "give group, email_domain, or claim and value"),
        ({"everybody": True, "group": "x"}, "everybody = true alone"),
        ({"claim": "department"}, "claim and value belong together"),
        ({"group": "x", "role": "owner"}, "role"),
        ({"group": "x", "grup": "y"}, "grup"),
    ],
)
def test_rule_that_says_too_little_or_too_much_is_refused(rule: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        provider({"tenant": "acme", "role": "watcher", **rule})


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"issuer": "http://login.example.com"}, "https"),
        ({"issuer": "http://127.0.0.1.evil.example"}, "https"),
        ({"issuer": "https://login.example.com?x=1"}, "issuer"),
        ({"scopes": ["profile"]}, "openid"),
        ({"scopes": ["openid profile"]}, "scopes"),
        ({"rules": []}, "rules"),
    ],
)
def test_provider_that_would_be_unsafe_or_useless_is_refused(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        provider(**more)


def test_rules_after_everybody_and_of_unknown_tenants_are_refused(tmp_path: Path) -> None:
    everybody = {"everybody": True, "tenant": "acme", "role": "watcher"}
    with pytest.raises(ValidationError, match="put it last"):
        provider(everybody, {"group": "x", "tenant": "acme", "role": "admin"})
    values = settings_values(tmp_path) | {"oidc": provider(everybody).model_dump(mode="json")}
    with pytest.raises(ValidationError, match="no tenant 'acme'"):
        Settings.model_validate(values)
    assert Settings.model_validate({**values, "tenants": [{"name": "acme"}]}).oidc is not None


def test_provider_on_loopback_may_do_without_tls() -> None:
    assert provider(issuer="http://127.0.0.1:9000").issuer == "http://127.0.0.1:9000"


# --- what the browser keeps ------------------------------------------------------------------------


def test_attempt_is_kept_sealed_and_only_as_long_as_it_may_take() -> None:
    key, attempt = Fernet.generate_key(), new_attempt(ISSUER, "/hosts")
    text = seal(attempt, key)
    assert unseal(text, Attempt, key) == attempt
    assert attempt.state not in text
    assert len({attempt.state, attempt.nonce, attempt.code_verifier}) == 3
    assert 43 <= len(attempt.code_verifier) <= 128
    old = Fernet(key).encrypt_at_time(attempt.model_dump_json().encode(), int(time.time()) - LIFE_SECONDS - 1)
    for wrong in (None, "", "x", "ü", text[:-2], old.decode(), seal(attempt, Fernet.generate_key())):
        assert unseal(wrong, Attempt, key) is None


def test_failure_is_no_attempt_and_an_attempt_no_failure() -> None:
    key = Fernet.generate_key()
    failed = Failed(failure=disabled().failure, next="/sandboxes")
    assert unseal(seal(failed, key), Attempt, key) is None
    assert unseal(seal(failed, key), Failed, key) == failed
    assert unseal(seal(new_attempt(ISSUER, "/"), key), Failed, key) is None
