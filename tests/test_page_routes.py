from __future__ import annotations

import gzip
import html
import json
import re
from pathlib import Path

import pytest

import viewer.assets
from tests.viewer_fixtures import ORIGIN, UNKNOWN_ID, People, ViewerClient, running_session, sign_in
from viewer.access import COOKIE
from viewer.appearance import LOOK_COOKIE
from viewer.assets import Manifest
from viewer.model import Role, Scope, Status
from viewer.pages import own_page
from viewer.settings import Settings
from viewer.store import Store


def test_page_without_a_sign_in_leads_to_it_and_back(client: ViewerClient, people: People) -> None:
    answer = client.get(f"/sandboxes/{UNKNOWN_ID}")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/signin?next=/sandboxes/{UNKNOWN_ID}")


def test_way_back_keeps_the_filter_of_a_list(client: ViewerClient, people: People) -> None:
    answer = client.get("/sandboxes?status=running&q=night+shift%3F")
    way = answer.headers["Location"]
    assert way == "/signin?next=/sandboxes%3Fstatus%3Drunning%26q%3Dnight%2Bshift%253F"
    assert (
        own_page("/sandboxes?status=running&q=night+shift%3F") == "/sandboxes?status=running&q=night+shift%3F"
    )
    for elsewhere in ("/sandboxes?next=//evil", "/sandboxes?a=b#c", "/sandboxes?a\\b", "/sandboxes?"):
        assert own_page(elsewhere) == "/sandboxes"


@pytest.mark.parametrize(
    "path",
    ["/sandboxes/a%0d%0aSet-Cookie:x=y", "/view/%2F%2Fevil.example", "/sandboxes/a?next=//evil.example"],
)
def test_way_back_is_one_of_our_own_pages_or_nothing(client: ViewerClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (303, 404)
    assert answer.headers.get("Location", "/signin") in ("/signin", "/signin?next=/sandboxes/a")


def test_foreign_deep_link_is_the_page_for_what_never_was(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    answer = client.get(f"/sandboxes/{session.id}", headers=sign_in(store, people.bob))
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert session.id not in answer.get_data(as_text=True)


def test_header_calls_a_key_by_its_label_and_a_link_a_link(
    client: ViewerClient, store: Store, people: People
) -> None:
    key = store.accounts.add_key("acme", Role.OPERATOR, "night shift")
    with_key, with_link = (
        store.accounts.sign_in_with_key(key.text),
        store.accounts.sign_in_with_link(store.accounts.new_link("acme", Role.ADMIN)),
    )
    for token, name in ((with_key, "night shift"), (with_link, "sign-in link")):
        assert token is not None
        page = client.get("/sandboxes", headers={"Cookie": f"{COOKIE}={token}"})
        assert name in page.get_data(as_text=True)


def test_browser_on_another_of_our_names_is_sent_to_the_canonical_one(
    client: ViewerClient, people: People
) -> None:
    for host, scheme in (("localhost:8088", "http"), ("127.0.0.1:8060", "http"), ("evil.example", "https")):
        headers = {"X-Forwarded-Host": host, "X-Forwarded-Proto": scheme}
        answer = client.get("/sandboxes/a%20b?x=1&y=%2F", headers=headers)
        assert (answer.status_code, answer.headers["Location"]) == (
            302,
            f"{ORIGIN}/sandboxes/a%20b?x=1&y=%2F",
        )


def test_api_answers_on_the_other_name_without_a_redirect(client: ViewerClient, people: People) -> None:
    headers = {**people.alice.headers, "X-Forwarded-Host": "localhost:8088", "X-Forwarded-Proto": "http"}
    assert client.get("/api/v1/me", headers=headers).status_code == 200


def test_double_slash_does_not_lead_away(client: ViewerClient, people: People) -> None:
    for path in ("//evil.example", "//evil.example/sandboxes", "/\\evil.example"):
        location = client.get(path, base_url="http://localhost:8088").headers.get("Location", ORIGIN)
        assert location.startswith(ORIGIN)


@pytest.mark.parametrize("path", ["/signin", "/sandboxes", "/view/{id}", "/nothing"])
def test_pages_allow_own_scripts_only_and_are_never_cached(
    client: ViewerClient, store: Store, people: People, path: str
) -> None:
    session = running_session(store, people.alice)
    answer = client.get(path.replace("{id}", session.id), headers=sign_in(store, people.alice))
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert (policy["script-src"], policy["default-src"], policy["frame-ancestors"]) == (
        "'self'",
        "'none'",
        "'none'",
    )
    assert policy["connect-src"] == "'self' ws://deskfleet.localhost:8088"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    page = answer.get_data(as_text=True)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", page)


def test_sandboxes_page_offers_the_catalogue_to_who_may_create(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    page = client.get("/sandboxes", headers=sign_in(store, people.alice)).get_data(as_text=True)
    for image in settings.images:
        assert f">{image.name}</option>" in page
    assert 'data-max-ttl="43200"' in page
    assert "</option>" not in client.get("/sandboxes", headers=sign_in(store, people.wanda)).get_data(
        as_text=True
    )


def test_built_files_are_cached_for_good_and_others_not_found(
    client: ViewerClient, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app-ABCD1234.css").write_text("a {}")  # type: ignore[operator]
    (tmp_path / "manifest.json").write_text("{}")  # type: ignore[operator]
    monkeypatch.setattr(viewer.assets, "BUILD", tmp_path)
    answer = client.get("/static/build/app-ABCD1234.css")
    assert answer.get_data() == b"a {}"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    answer.close()
    for path in ("manifest.json", "../app-x.py", "%2e%2e/viewer-x.key", "missing-1.js"):
        assert client.get(f"/static/build/{path}").status_code == 404


def test_built_files_travel_as_small_as_the_browser_takes_them(
    client: ViewerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("app-AB12.css", "a {}"), ("app-AB12.css.br", "small"), ("app-AB12.css.gz", "less")):
        (tmp_path / name).write_text(text)
    (tmp_path / "tiny-AB12.js").write_text("0")
    monkeypatch.setattr(viewer.assets, "BUILD", tmp_path)
    for accepted, coding, body in (
        ("gzip, deflate, br, zstd", "br", b"small"),
        ("gzip", "gzip", b"less"),
        ("br;q=0, gzip", "gzip", b"less"),
        ("", None, b"a {}"),
    ):
        with client.get("/static/build/app-AB12.css", headers={"Accept-Encoding": accepted}) as answer:
            assert (answer.headers.get("Content-Encoding"), answer.get_data()) == (coding, body)
            assert answer.mimetype == "text/css"
            assert "Accept-Encoding" in answer.headers["Vary"]
            assert "immutable" in answer.headers["Cache-Control"]
    with client.get("/static/build/tiny-AB12.js", headers={"Accept-Encoding": "br"}) as answer:
        assert "Content-Encoding" not in answer.headers


def test_failed_page_is_a_page_and_failed_api_a_problem(client: ViewerClient, people: People) -> None:
    assert client.get("/nothing").mimetype == "text/html"
    assert client.get("/api/v1/nothing").mimetype == "application/problem+json"


@pytest.mark.parametrize(
    ("cookie", "theme", "density"),
    [
        (None, None, "comfortable"),
        ("dark.compact", "dark", "compact"),
        ("light.comfortable", "light", "comfortable"),
        ("system.compact", None, "compact"),
        ('"><script>.x', None, "comfortable"),
        ("dark", "dark", "comfortable"),
    ],
)
def test_look_comes_from_its_cookie_with_the_page(
    client: ViewerClient, cookie: str | None, theme: str | None, density: str
) -> None:
    headers = {} if cookie is None else {"Cookie": f"{LOOK_COOKIE}={cookie}"}
    tag = re.search(r"<html[^>]*>", client.get("/signin", headers=headers).get_data(as_text=True))
    assert tag is not None
    wanted = "" if theme is None else f' data-theme="{theme}"'
    assert tag[0] == f'<html lang="en"{wanted} data-density="{density}">'


@pytest.mark.parametrize("page", ["sandboxes", "view"])
def test_page_of_a_desktop_brings_what_the_api_says_of_it(
    client: ViewerClient, store: Store, people: People, page: str
) -> None:
    """So that its stream need not wait for that answer."""
    session = running_session(store, people.alice)
    text = client.get(f"/{page}/{session.id}", headers=people.alice.headers).get_data(as_text=True)
    known = json.loads(html.unescape(_known_in(text)))
    assert known == client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).get_json()


def test_page_brings_nothing_to_whoever_may_not_ask_for_it(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    key = store.accounts.add_key("acme", Role.OPERATOR, scopes=[Scope.STREAMS]).text
    headers = {"Authorization": f"Bearer {key}"}
    assert client.get(f"/api/v1/sessions/{session.id}", headers=headers).status_code == 403
    answer = client.get(f"/view/{session.id}", headers=headers)
    assert answer.status_code == 200
    assert _known_in(answer.get_data(as_text=True)) == ""


def test_list_without_a_desktop_does_not_load_the_stream(client: ViewerClient, people: People) -> None:
    text = client.get("/sandboxes", headers=people.alice.headers).get_data(as_text=True)
    assert "stream" not in text
    assert _known_in(text) == ""


def test_page_asks_for_all_that_its_script_needs_at_once() -> None:
    parts = {
        "pages/view.js": ["view-A.js", "chunk-B.js"],
        "viewer/stream.js": ["stream-C.js", "chunk-B.js", "chunk-D.js"],
    }
    manifest = Manifest(files={"view.js": "view-A.js"}, parts={"view.js": parts})
    tags = manifest.script("view.js", "viewer/stream.js").split("\n  ")
    assert tags == [
        '<link rel="modulepreload" href="/static/build/chunk-B.js">',
        '<link rel="modulepreload" href="/static/build/stream-C.js">',
        '<link rel="modulepreload" href="/static/build/chunk-D.js">',
        '<script type="module" src="/static/build/view-A.js"></script>',
    ]
    tags = manifest.script("view.js", "viewer/stream.js", streams=True).split("\n  ")
    assert tags[0] == '<script type="module" async src="/static/build/chunk-B.js"></script>'


@pytest.mark.parametrize("page", ["sandboxes", "view"])
def test_page_names_the_stream_of_a_desktop_that_runs_to_whoever_may_see_it(
    client: ViewerClient, store: Store, people: People, page: str
) -> None:
    session = running_session(store, people.alice)
    meta = f'<meta name="deskfleet-stream" content="{session.id}">'
    text = client.get(f"/{page}/{session.id}", headers=people.alice.headers).get_data(as_text=True)
    assert meta in text
    key = store.accounts.add_key("acme", Role.OPERATOR, scopes=[Scope.SESSIONS]).text
    without = client.get(f"/{page}/{session.id}", headers={"Authorization": f"Bearer {key}"})
    assert "deskfleet-stream" not in without.get_data(as_text=True)
    store.fleet.transition(session.id, Status.TERMINATED)
    text = client.get(f"/{page}/{session.id}", headers=people.alice.headers).get_data(as_text=True)
    assert "deskfleet-stream" not in text


def test_pages_are_packed_for_browsers_that_take_it_and_nothing_else_is(
    client: ViewerClient, store: Store, people: People
) -> None:
    headers = sign_in(store, people.alice)
    plain = client.get("/sandboxes", headers=headers)
    packed = client.get("/sandboxes", headers=headers | {"Accept-Encoding": "gzip, deflate, br, zstd"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.get_data()) == plain.get_data()
    assert len(packed.get_data()) == int(packed.headers["Content-Length"]) < len(plain.get_data()) / 2
    assert {one.headers["Vary"] for one in (plain, packed)} == {"Accept-Encoding"}
    refused = client.get("/sandboxes", headers=headers | {"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers
    # Answers of the API may hold what is shown once.
    answer = client.get("/api/v1/me", headers=people.alice.headers | {"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in answer.headers


def _known_in(page: str) -> str:
    found = re.search(r'data-known="([^"]*)"', page)
    assert found
    return found[1]
