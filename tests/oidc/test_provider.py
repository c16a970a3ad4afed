"""Our side of the conversation against a real provider, without browser and viewer."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.oidc.provider_process import RULES, ProviderProcess
from tests.viewer_fixtures import ORIGIN
from viewer.oidc.attempts import Attempt, new_attempt
from viewer.oidc.failures import Reason, SignInFailed
from viewer.oidc.provider import AGAIN_SECONDS, FRESH_SECONDS, Provider
from viewer.oidc.tokens import Claims
from viewer.settings import OidcSettings

pytestmark = pytest.mark.real

CALLBACK = f"{ORIGIN}/oidc/callback"


class Clock:
    """Of our process: it goes on only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(there: ProviderProcess, clock: Clock) -> Provider:
    return ours(there, clock)


def ours(there: ProviderProcess, clock: Clock, **more: Any) -> Provider:
    return Provider(OidcSettings.model_validate(there.settings(**more)), CALLBACK, clock=clock)


def go(provider: Provider, there: ProviderProcess, login: str = "gwen") -> tuple[Attempt, dict[str, str]]:
    """An attempt, and the query that the browser comes back with."""
    attempt = new_attempt(there.issuer, "/sandboxes")
    back = there.sign_in(provider.authorization_url(attempt), login)
    assert back.startswith(f"{CALLBACK}?")
    return attempt, {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}


def arrive(provider: Provider, there: ProviderProcess, login: str = "gwen") -> Claims:
    attempt, query = go(provider, there, login)
    assert query["state"] == attempt.state
    provider.check_issuer(query["iss"])
    return provider.claims_for(query["code"], attempt)


def reason_of(provider: Provider, there: ProviderProcess) -> Reason:
    with pytest.raises(SignInFailed) as error:
        arrive(provider, there)
    return error.value.failure.reason


def test_code_becomes_the_claims_of_who_signed_in(provider: Provider, there: ProviderProcess) -> None:
    claims = arrive(provider, there)
    assert (claims.issuer, claims.subject) == (there.issuer, "gwen")
    assert claims.text("preferred_username") == "gwen"
    assert claims.texts("groups") == {"staff", "desk-admins"}


def test_address_of_the_provider_asks_for_pkce_and_names_our_callback(
    provider: Provider, there: ProviderProcess
) -> None:
    attempt = new_attempt(there.issuer, "/sandboxes")
    query = parse_qs(urlsplit(provider.authorization_url(attempt)).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"] == [CALLBACK]
    assert query["scope"] == ["openid profile email"]
    assert attempt.code_verifier not in str(query)


def test_code_is_good_once_and_for_its_own_attempt(provider: Provider, there: ProviderProcess) -> None:
    attempt, query = go(provider, there)
    provider.claims_for(query["code"], attempt)
    other, code = new_attempt(there.issuer, "/"), go(provider, there)[1]["code"]
    for wrong_code, wrong_attempt in ((query["code"], attempt), (code, other), ("made-up", attempt)):
        with pytest.raises(SignInFailed, match="code-used"):
            provider.claims_for(wrong_code, wrong_attempt)


def test_token_of_another_attempt_is_refused_for_its_nonce(
    provider: Provider, there: ProviderProcess
) -> None:
    attempt, query = go(provider, there)
    stolen = attempt.model_copy(update={"nonce": "another"})
    with pytest.raises(SignInFailed) as error:
        provider.claims_for(query["code"], stolen)
    assert "refused for its nonce" in error.value.failure.detail


@pytest.mark.parametrize("said", [None, "", "https://evil.example"])
def test_way_back_from_another_provider_is_refused(provider: Provider, said: str | None) -> None:
    with pytest.raises(SignInFailed, match="other-issuer"):
        provider.check_issuer(said)


def test_new_keys_are_looked_for_once_and_then_not_for_a_while(
    provider: Provider, there: ProviderProcess, clock: Clock
) -> None:
    arrive(provider, there)
    there.rotate()
    assert arrive(provider, there).subject == "gwen"
    there.rotate()
    assert reason_of(provider, there) is Reason.UNKNOWN_KEY
    clock.now += AGAIN_SECONDS
    assert arrive(provider, there).subject == "gwen"


def test_key_that_is_published_nowhere_is_refused(provider: Provider, there: ProviderProcess) -> None:
    arrive(provider, there)
    there.rotate(publish=False)
    assert reason_of(provider, there) is Reason.UNKNOWN_KEY
    there.rotate()


def test_keys_are_read_anew_now_and_then(provider: Provider, there: ProviderProcess, clock: Clock) -> None:
    arrive(provider, there)
    clock.now += FRESH_SECONDS
    there.rotate()
    arrive(provider, there)
    there.rotate()
    # The look for new keys has not been used up by the one that was due anyway.
    assert arrive(provider, there).subject == "gwen"


@pytest.mark.parametrize(("seconds", "way"), [(3600, "ahead of"), (-3600, "behind")])
def test_wrong_clock_is_told_with_its_difference(
    provider: Provider, there: ProviderProcess, seconds: int, way: str
) -> None:
    there.wrong_clock(seconds)
    with pytest.raises(SignInFailed) as error:
        arrive(provider, there)
    there.wrong_clock(0)
    assert error.value.failure.reason is Reason.CLOCK
    assert way in error.value.failure.detail
    assert arrive(provider, there).subject == "gwen"


def test_provider_that_is_down_is_asked_again_as_soon_as_it_is_back(
    there: ProviderProcess, clock: Clock
) -> None:
    provider = ours(there, clock)
    there.stop()
    assert reason_of(provider, there) is Reason.PROVIDER_DOWN
    there.start()
    attempt, query = go(provider, there)
    there.stop()
    clock.now += AGAIN_SECONDS
    with pytest.raises(SignInFailed, match="provider-down"):
        provider.authorization_url(attempt)
    with pytest.raises(SignInFailed, match="provider-down"):
        provider.claims_for(query["code"], attempt)
    there.start()
    assert arrive(provider, there).subject == "gwen"


def test_wrong_secret_is_told_to_the_admin(there: ProviderProcess, clock: Clock, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.key"
    wrong.write_text("not-the-secret")
    assert reason_of(ours(there, clock, client_secret_file=str(wrong)), there) is Reason.CLIENT_REFUSED


def test_claims_that_the_token_lacks_come_from_userinfo(tmp_path: Path, clock: Clock) -> None:
    with ProviderProcess(tmp_path, ORIGIN, claims_in="userinfo") as there:
        claims = arrive(ours(there, clock), there)
        assert claims.texts("groups") == {"staff", "desk-admins"}
        assert claims.at("email_verified") is True


def test_sign_out_there_leads_back_to_us(provider: Provider, there: ProviderProcess) -> None:
    url = provider.sign_out_url(f"{ORIGIN}/signin") or ""
    assert url.startswith(f"{there.issuer}/session/end?")
    assert parse_qs(urlsplit(url).query) == {
        "client_id": ["deskfleet"],
        "post_logout_redirect_uri": [f"{ORIGIN}/signin"],
    }


class StrangeProvider:
    """StrangeProvider: answers every path with one status and body, and counts."""

    def __init__(self, status: int, body: bytes) -> None:
        self.asked = 0
        strange = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                strange.asked += 1
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever)

    def __enter__(self) -> StrangeProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>", Reason.PROVIDER_UNUSABLE),
        (200, b"[]", Reason.PROVIDER_UNUSABLE),
        (200, b"{}", Reason.PROVIDER_UNUSABLE),
        (200, b'{"issuer": "https://evil.example"}', Reason.PROVIDER_UNUSABLE),
        (200, b" " * (3 << 20), Reason.PROVIDER_DOWN),
        (302, b"", Reason.PROVIDER_UNUSABLE),
        (404, b"{}", Reason.PROVIDER_UNUSABLE),
        (500, b"{}", Reason.PROVIDER_DOWN),
    ],
)
def test_answer_that_is_no_description_is_refused(
    tmp_path: Path, clock: Clock, status: int, body: bytes, reason: Reason
) -> None:
    (tmp_path / "key").write_text("secret")
    with StrangeProvider(status, body) as there:
        values = {
            "issuer": there.issuer, "client_id": "x", "client_secret_file": str(tmp_path / "key"),
            "name": "Strange", "rules": RULES,
        }  # fmt: skip
        provider = Provider(OidcSettings.model_validate(values), CALLBACK, clock=clock)
        with pytest.raises(SignInFailed) as error:
            provider.authorization_url(new_attempt(there.issuer, "/"))
    assert (error.value.failure.reason, there.asked) == (reason, 1)
