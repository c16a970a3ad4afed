"""From our button to a real provider and back in; the browser is played by the tests."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask import Flask
from sqlalchemy import select

from tests.oidc.provider_process import CLIENT_SECRET, ProviderProcess
from tests.viewer_fixtures import OTHER_ORIGIN, People, ViewerClient, sign_in
from viewer.access import COOKIE
from viewer.app import create_app
from viewer.model import Role
from viewer.oidc.routes import COOKIE as ATTEMPT
from viewer.people import NewPerson, Person
from viewer.settings import OidcSettings, Settings
from viewer.store import Store
from viewer.tables import AuditRow

pytestmark = pytest.mark.real

OURS = {"Origin": "http://deskfleet.localhost:8088"}


@dataclass
class Browser:
    """Browser: keeps cookies, and follows nothing by itself."""

    client: ViewerClient
    cookies: dict[str, str] = field(default_factory=dict)
    address: str = "192.0.2.1"

    def get(self, path: str, **headers: str) -> Any:
        return self._took(self.client.get(path, headers=self._headers(headers)))

    def post(self, path: str, **headers: str) -> Any:
        return self._took(self.client.post(path, headers=self._headers({**OURS, **headers})))

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {"X-Forwarded-For": self.address, **headers}
        return {**sent, "Cookie": cookie} if cookie else sent

    def _took(self, answer: Any) -> Any:
        for line in answer.headers.getlist("Set-Cookie"):
            name, _, rest = line.partition("=")
            value = rest.partition(";")[0]
            if "Max-Age=0" in line:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer

    def start(self, path: str = "/oidc/start") -> str:
        answer = self.get(path)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["Location"])

    def me(self) -> Any:
        return self.get("/api/v1/me").json

    def sorry(self, answer: Any) -> str:
        """What the page says that a failed way back leads to, and its status."""
        assert (answer.status_code, answer.headers["Location"]) == (303, "/oidc/failed")
        page = self.get("/oidc/failed")
        heading = page.text.partition("<h1>")[2].partition("</h1>")[0]
        return f"{page.status_code} {heading}".replace("&#39;", "'")


@pytest.fixture
def browser(client: ViewerClient) -> Browser:
    return Browser(client)


def ours(address: str) -> str:
    """The part of it that our server is asked for."""
    parts = urlsplit(address)
    return f"{parts.path}?{parts.query}"


def arrive(browser: Browser, there: ProviderProcess, login: str, start: str = "/oidc/start") -> Any:
    return browser.get(ours(there.sign_in(browser.start(start), login)))


def person(store: Store, login: str, tenant: str = "acme") -> Person:
    found = store.people(tenant).page(None, 50).items
    return next(one for one in found if one.login == login)


def with_settings(settings: Settings, **more: Any) -> Settings:
    oidc = OidcSettings.model_validate({**(settings.oidc or settings).model_dump(mode="json"), **more})
    return settings.model_copy(update={"oidc": oidc})


def audited(store: Store) -> list[tuple[str, str, str, str]]:
    with store._database.reading() as orm:
        rows = orm.scalars(select(AuditRow).order_by(AuditRow.at)).all()
    return [(row.tenant_id, row.principal, row.action, str((row.detail or {}).get("reason"))) for row in rows]


# --- coming in -------------------------------------------------------------------------------------


def test_somebody_comes_in_as_what_the_rules_make_him(
    browser: Browser, there: ProviderProcess, store: Store
) -> None:
    answer = arrive(browser, there, "gwen", "/oidc/start?next=/hosts")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/hosts")
    gwen = person(store, "gwen")
    assert (gwen.name, gwen.role, gwen.oidc_subject, gwen.has_password) == (
        "Gwen Stacy", Role.ADMIN, "gwen", False,
    )  # fmt: skip
    assert browser.me()["id"] == f"person:{gwen.id}"
    assert (browser.me()["tenant"], browser.me()["role"]) == ("acme", "admin")
    assert ATTEMPT not in browser.cookies
    assert ("acme", "oidc", "person.create", "None") in audited(store)
    assert ("acme", f"person:{gwen.id}", "sign_in.ok", "None") in audited(store)


def test_second_time_finds_the_same_person(browser: Browser, there: ProviderProcess, store: Store) -> None:
    arrive(browser, there, "walt")
    first, former = person(store, "walt"), browser.cookies[COOKIE]
    arrive(browser, there, "walt")
    assert person(store, "walt").id == first.id
    assert first.role is Role.WATCHER
    # A new cookie each time, and the former one ends.
    assert browser.cookies[COOKIE] != former
    assert store.accounts.principal_of_cookie(former) is None


def test_cookies_are_ours_alone_and_short(browser: Browser, there: ProviderProcess) -> None:
    line = browser.get("/oidc/start").headers["Set-Cookie"]
    assert line.startswith("__Host-deskfleet-oidc=gAAAA")
    for part in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=600"):
        assert part in line.split("; ")
    assert "Domain" not in line


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/sandboxes/../signout",
        "javascript:1",
        "/signout",
    ],
)
def test_sign_in_never_leads_to_a_foreign_page(
    browser: Browser, there: ProviderProcess, elsewhere: str
) -> None:
    answer = arrive(browser, there, "gwen", f"/oidc/start?{urlencode({'next': elsewhere})}")
    assert answer.headers["Location"] == "/sandboxes"


def test_start_from_another_site_needs_a_click(browser: Browser) -> None:
    for site in ("cross-site", "same-site"):
        answer = browser.get("/oidc/start?next=/hosts", **{"Sec-Fetch-Site": site})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/signin?next=/hosts")
        assert ATTEMPT not in browser.cookies


def test_another_name_of_ours_leads_to_the_canonical_one(browser: Browser) -> None:
    host = OTHER_ORIGIN.removeprefix("http://")
    answer = browser.get(
        "/oidc/callback?code=x&state=y", **{"X-Forwarded-Host": host, "X-Forwarded-Proto": "http"}
    )
    assert answer.headers["Location"].startswith("http://deskfleet.localhost:8088/oidc/callback?")


def test_sign_in_page_has_the_button_and_says_where_it_leads(browser: Browser) -> None:
    page = browser.get("/signin?next=/hosts").text
    assert "Sign in with Acme Login" in page
    assert 'href="/oidc/start?next=/hosts"' in page


# --- the way back that is not his ------------------------------------------------------------------

OVER = "400 This sign-in is over"


def test_way_back_without_the_cookie_of_its_start_leads_nowhere(
    browser: Browser, there: ProviderProcess, client: ViewerClient
) -> None:
    """Login CSRF: a link with somebody else's code signs nobody in."""
    back = ours(there.sign_in(browser.start(), "mallory"))
    victim = Browser(client)
    assert victim.sorry(victim.get(back)) == OVER
    assert COOKIE not in victim.cookies


def test_way_back_of_another_browser_leads_nowhere(
    browser: Browser, there: ProviderProcess, client: ViewerClient
) -> None:
    """Also in a browser that has begun a sign-in of its own."""
    back, victim = ours(there.sign_in(browser.start(), "gwen")), Browser(client)
    victim.start()
    assert victim.sorry(victim.get(back)) == OVER
    assert COOKIE not in victim.cookies
    # Whose it is can still use it.
    assert browser.get(back).headers["Location"] == "/sandboxes"


@pytest.mark.parametrize(
    "change", ["no state", "empty state", "no code", "code and error", "cookie of another key"]
)
def test_way_back_that_is_not_whole_leads_nowhere(
    browser: Browser, there: ProviderProcess, change: str
) -> None:
    query = {
        name: one[0] for name, one in parse_qs(urlsplit(there.sign_in(browser.start(), "gwen")).query).items()
    }
    if change == "no state":
        del query["state"]
    elif change == "empty state":
        query["state"] = ""
    elif change == "no code":
        del query["code"]
    elif change == "code and error":
        query["error"] = "access_denied"
    else:
        browser.cookies[ATTEMPT] = browser.cookies[ATTEMPT][:-8] + "AAAAAAA="
    assert browser.sorry(browser.get(f"/oidc/callback?{urlencode(query)}")) == OVER
    assert COOKIE not in browser.cookies


def test_way_back_is_good_once_also_for_another_viewer(
    browser: Browser, there: ProviderProcess, settings: Settings, store: Store
) -> None:
    back = ours(there.sign_in(browser.start(), "gwen"))
    kept = dict(browser.cookies)
    assert browser.get(back).headers["Location"] == "/sandboxes"
    second = create_app(settings, store)
    for app in (browser.client.application, second):
        again = Browser(ViewerClient(app, app.response_class, use_cookies=False), dict(kept))
        assert again.sorry(again.get(back)) == OVER
        assert COOKIE not in again.cookies
    second.extensions["deskfleet"].close()


def test_second_code_for_the_same_start_is_refused(browser: Browser, there: ProviderProcess) -> None:
    """The provider would take it: it gives a new one to whoever opens the address again."""
    address = browser.start()
    first, second = (ours(there.sign_in(address, "gwen")) for _ in range(2))
    assert first != second
    kept = dict(browser.cookies)
    assert browser.get(first).headers["Location"] == "/sandboxes"
    again = Browser(browser.client, kept)
    assert again.sorry(again.get(second)) == OVER
    assert COOKIE not in again.cookies


def test_one_viewer_begins_and_another_finishes(
    browser: Browser, there: ProviderProcess, settings: Settings, store: Store
) -> None:
    back = ours(there.sign_in(browser.start(), "gwen"))
    second = create_app(settings, store)
    elsewhere = Browser(ViewerClient(second, second.response_class, use_cookies=False), browser.cookies)
    assert elsewhere.get(back).headers["Location"] == "/sandboxes"
    second.extensions["deskfleet"].close()


def test_way_back_from_another_provider_leads_nowhere(browser: Browser, there: ProviderProcess) -> None:
    """Mix-up (RFC 9207): its code must not be shown to this provider, nor the other way round."""
    query = parse_qs(urlsplit(there.sign_in(browser.start(), "gwen")).query)
    for iss in ("https://evil.example", None):
        changed = {"code": query["code"][0], "state": query["state"][0], **({"iss": iss} if iss else {})}
        kept = dict(browser.cookies)
        answer = browser.get(f"/oidc/callback?{urlencode(changed)}")
        assert browser.sorry(answer) == "400 The answer came from somebody else"
        browser.cookies = kept
    assert COOKIE not in browser.cookies


@pytest.mark.parametrize(
    ("error", "said"),
    [("access_denied", "said no"), ("login_required", "login_required"), ("<script>", "an error")],
)
def test_provider_that_says_no_is_told_in_words(
    browser: Browser, there: ProviderProcess, error: str, said: str
) -> None:
    state = parse_qs(urlsplit(browser.start()).query)["state"][0]
    answer = browser.get(f"/oidc/callback?{urlencode({'error': error, 'state': state, 'iss': there.issuer})}")
    assert browser.sorry(answer) == "403 Acme Login did not let you in"
    page = browser.get("/oidc/failed").text
    assert said in page
    assert "<script>" not in page.partition("<main")[2]


def test_guessing_at_codes_has_to_wait(browser: Browser, there: ProviderProcess) -> None:
    said = []
    for _ in range(11):
        state = parse_qs(urlsplit(browser.start()).query)["state"][0]
        query = urlencode({"code": "made-up", "state": state, "iss": there.issuer})
        said.append(browser.sorry(browser.get(f"/oidc/callback?{query}")))
    assert said == [OVER] * 10 + ["429 Too many attempts"]


def test_old_failure_is_not_shown_to_who_did_not_fail(browser: Browser) -> None:
    assert browser.get("/oidc/failed").headers["Location"] == "/signin"
    browser.start()
    assert browser.get("/oidc/failed").headers["Location"] == "/signin"


# --- rules, people ---------------------------------------------------------------------------------


def test_who_fits_no_rule_stays_out_and_nobody_is_made(
    browser: Browser, there: ProviderProcess, store: Store
) -> None:
    assert browser.sorry(arrive(browser, there, "mallory")) == "403 You have no place here"
    assert store.people("acme").page(None, 50).items == ()
    assert ("-", "nobody", "sign_in.failed", "no-rule") in audited(store)


def test_login_of_somebody_else_is_not_taken_over(
    browser: Browser, there: ProviderProcess, store: Store
) -> None:
    local = store.people("acme").add(NewPerson(login="GWEN", role=Role.WATCHER), by="test")
    assert browser.sorry(arrive(browser, there, "gwen")) == "403 The login gwen is somebody else's"
    assert COOKIE not in browser.cookies
    assert store.people("acme").get(local.id) == local


@pytest.fixture
def open_provider(tmp_path: Any) -> Any:
    """One whose people a test changes."""
    with ProviderProcess(tmp_path, OURS["Origin"]) as running:
        yield running


def viewer_for(settings: Settings, store: Store, provider: ProviderProcess, **more: Any) -> Flask:
    oidc = OidcSettings.model_validate(provider.settings(**more))
    return create_app(settings.model_copy(update={"oidc": oidc}), store)


def test_rules_are_applied_again_at_each_sign_in(
    settings: Settings, store: Store, people: People, open_provider: ProviderProcess
) -> None:
    app = viewer_for(settings, store, open_provider)
    browser = Browser(ViewerClient(app, app.response_class, use_cookies=False))
    arrive(browser, open_provider, "gwen")
    gwen, first = person(store, "gwen"), browser.cookies[COOKIE]

    open_provider.accounts["gwen"]["groups"] = ["staff"]
    open_provider.restart()
    other = Browser(browser.client)
    arrive(other, open_provider, "gwen")
    assert person(store, "gwen").role is Role.WATCHER
    # At once, and for what was open before as well.
    assert browser.me()["role"] == "watcher"
    assert ("acme", "oidc", "person.role", "None") in audited(store)

    open_provider.accounts["gwen"]["email"] = "gwen@elsewhere.example"
    open_provider.restart()
    third = Browser(browser.client)
    assert third.sorry(arrive(third, open_provider, "gwen")) == "403 You have no place here"
    assert store.accounts.principal_of_cookie(first) is None
    assert other.get("/api/v1/me").status_code == 401
    assert person(store, "gwen").id == gwen.id
    assert ("acme", "oidc", "sign_in.end", "no-rule") in audited(store)
    app.extensions["deskfleet"].close()


def test_tenant_of_a_person_never_changes_by_a_rule(
    settings: Settings, store: Store, people: People, open_provider: ProviderProcess
) -> None:
    app = viewer_for(settings, store, open_provider)
    browser = Browser(ViewerClient(app, app.response_class, use_cookies=False))
    arrive(browser, open_provider, "gwen")
    moved = [{"group": "desk-admins", "tenant": "bolt", "role": "admin"}]
    later = viewer_for(settings, store, open_provider, rules=moved)
    other = Browser(ViewerClient(later, later.response_class, use_cookies=False))
    assert other.sorry(arrive(other, open_provider, "gwen")) == "403 You belong to another tenant now"
    assert person(store, "gwen").tenant_id == "acme"
    assert browser.get("/api/v1/me").status_code == 401
    # What the page asks the admin to do mends it.
    store.people("acme").delete(person(store, "gwen").id)
    arrive(other, open_provider, "gwen")
    assert other.me()["tenant"] == "bolt"
    for one in (app, later):
        one.extensions["deskfleet"].close()


def test_disabled_person_stays_out(browser: Browser, there: ProviderProcess, store: Store) -> None:
    arrive(browser, there, "gwen")
    gwen = person(store, "gwen")
    store.people("acme").change(gwen.id, {"disabled": True})
    assert browser.get("/api/v1/me").status_code == 401
    assert browser.sorry(arrive(browser, there, "gwen")) == "403 You may not sign in"
    assert COOKIE not in browser.cookies or browser.get("/api/v1/me").status_code == 401
    assert ("acme", "nobody", "sign_in.failed", "disabled") in audited(store)


def test_claim_that_cannot_be_a_login_is_told_to_the_admin(
    settings: Settings, store: Store, people: People, there: ProviderProcess
) -> None:
    app = viewer_for(settings, store, there, login_claim="name")
    browser = Browser(ViewerClient(app, app.response_class, use_cookies=False))
    assert browser.sorry(arrive(browser, there, "gwen")) == "502 Acme Login does not say who you are"
    app.extensions["deskfleet"].close()


# --- the provider's trouble ------------------------------------------------------------------------


def test_provider_that_is_down_is_told_at_the_start_and_on_the_way_back(
    settings: Settings, store: Store, people: People, open_provider: ProviderProcess
) -> None:
    app = viewer_for(settings, store, open_provider)
    browser = Browser(ViewerClient(app, app.response_class, use_cookies=False))
    open_provider.stop()
    answer = browser.get("/oidc/start")
    assert (answer.status_code, "Acme Login does not answer" in answer.text) == (503, True)
    open_provider.start()
    back = ours(open_provider.sign_in(browser.start(), "gwen"))
    open_provider.stop()
    assert browser.sorry(browser.get(back)) == "503 Acme Login does not answer"
    app.extensions["deskfleet"].close()


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_wrong_clock_is_told_with_its_difference(
    browser: Browser, there: ProviderProcess, seconds: int
) -> None:
    there.wrong_clock(seconds)
    said = browser.sorry(arrive(browser, there, "gwen"))
    there.wrong_clock(0)
    assert said == "502 The clocks differ"
    found = re.search(r"clock is (\d+) s (ahead of|behind) Deskfleet", browser.get("/oidc/failed").text)
    assert found is not None
    # The time that the answer took is part of it.
    assert abs(int(found[1]) - 3600) < 60
    assert found[2] == ("ahead of" if seconds > 0 else "behind")


# --- going out, and what is not told ---------------------------------------------------------------


def test_signing_out_offers_to_sign_out_there_too(browser: Browser, there: ProviderProcess) -> None:
    arrive(browser, there, "gwen")
    answer = browser.post("/signout")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/oidc/signed-out")
    assert browser.get("/api/v1/me").status_code == 401
    page = browser.get("/oidc/signed-out").text
    assert f'href="{there.issuer}/session/end?client_id=deskfleet&amp;post_logout_redirect_uri=' in page


def test_who_came_by_key_goes_out_as_ever(
    browser: Browser, store: Store, people: People, there: ProviderProcess
) -> None:
    cookie = sign_in(store, people.alice)["Cookie"]
    name, _, value = cookie.partition("=")
    browser.cookies[name] = value
    assert browser.post("/signout").headers["Location"] == "/signin"


def test_without_a_provider_there_is_nothing(settings: Settings, store: Store, people: People) -> None:
    app = create_app(settings.model_copy(update={"oidc": None}), store)
    client = ViewerClient(app, app.response_class, use_cookies=False)
    for path in ("start", "callback", "failed", "signed-out"):
        assert client.get(f"/oidc/{path}").status_code == 404
    assert "/oidc/start" not in client.get("/signin").text
    app.extensions["deskfleet"].close()


def test_log_has_no_code_no_token_and_no_secret(
    browser: Browser, there: ProviderProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        back = ours(there.sign_in(browser.start(), "mallory"))
        browser.sorry(browser.get(back))
        state = parse_qs(urlsplit(browser.start()).query)["state"][0]
        made_up = {"code": "c0de-that-is-secret", "state": state, "iss": there.issuer}
        browser.get(f"/oidc/callback?{urlencode(made_up)}")
    query = parse_qs(urlsplit(back).query)
    said = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("deskfleet", "authlib"))
    )
    assert "no-rule" in said
    for secret in (query["code"][0], query["state"][0], state, "c0de-that-is-secret", CLIENT_SECRET, "eyJ"):
        assert secret not in said
