"""Chrome DevTools: who is let in at a session's own origin, and what the API says of them."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from flask import Flask

from tests.test_content import Headers, ask_content, content_host, declare, enter, entry, grant_in
from tests.viewer_fixtures import (
    ORIGIN,
    People,
    Person,
    ViewerClient,
    kasmvnc_desktop,
    put_relay,
    running_session,
)
from viewer.app import create_app
from viewer.devtools_paths import front_end_file, front_end_for, is_devtools_path, target_socket
from viewer.grants import DesktopSocket, DevToolsPort
from viewer.model import LeaseKind, Principal, Role, Session, Status
from viewer.relay.answers import DevToolsTarget
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.devtools import LONGEST_TITLE, LONGEST_URL, MOST_TARGETS, targets_in
from viewer.relay_client import RelayUnreachable
from viewer.settings import Settings
from viewer.store import Store

TARGET = "FDB9DF37FA2FEBE185D8992E8AF7CED4"
FRONT = f"/devtools/inspector.html?ws=x/devtools/page/{TARGET}"
SOCKET = f"/devtools/page/{TARGET}"


class ListingRelay:
    """ListingRelay: stands where the client of a host's relay would be, and knows one target."""

    def __init__(self) -> None:
        self.is_reachable = True
        self.asked: list[tuple[str, DevToolsPort]] = []

    def devtools_targets(self, session: Session, target: DevToolsPort) -> list[DevToolsTarget]:
        self.asked.append((session.id, target))
        if not self.is_reachable:
            raise RelayUnreachable("nobody there")
        return [DevToolsTarget(id=TARGET, type="page", title="Shop", url="https://shop.example/")]

    def close(self) -> None: ...


@pytest.fixture
def relay(app: Flask) -> ListingRelay:
    made = ListingRelay()
    put_relay(app, made)
    return made


@pytest.fixture
def chrome(store: Store, people: People) -> Session:
    """A sandbox whose image has DevTools."""
    return running_session(store, people.alice, image="chrome")


def ticket(client: ViewerClient, person: Person, session: Session) -> str:
    answer = client.post(
        f"/api/v1/sessions/{session.id}/entries", json={"page": "devtools"}, headers=person.headers
    )
    assert answer.status_code == 201, answer.get_data(as_text=True)
    return str(answer.json["ticket"])


@pytest.fixture
def inside(client: ViewerClient, people: People, chrome: Session) -> Headers:
    """Alice's browser, let in to DevTools by her key."""
    return entry(client, content_host(chrome), ticket(client, people.alice, chrome))


def ask(client: ViewerClient, session: Session, shown: Headers, uri: str, **more: str) -> Any:
    return ask_content(client, content_host(session), shown, **{"X-Forwarded-Uri": uri, **more})


def ask_socket(client: ViewerClient, session: Session, shown: Headers, uri: str = SOCKET, **more: str) -> Any:
    upgrade = {"Sec-WebSocket-Key": "x", "Origin": f"http://{content_host(session)}"}
    return ask(client, session, shown, uri, **{**upgrade, **more})


# ---- what the API says ------------------------------------------------------------------------------


def test_targets_come_with_the_way_that_opens_them(
    client: ViewerClient, people: People, relay: ListingRelay, chrome: Session
) -> None:
    answer = client.get(f"/api/v1/sessions/{chrome.id}/devtools", headers=people.alice.headers).json
    path = f"/devtools/inspector.html?ws={content_host(chrome)}/devtools/page/{TARGET}"
    target = {"id": TARGET, "type": "page", "title": "Shop", "url": "https://shop.example/", "path": path}
    assert answer == {"available": True, "why_not": None, "targets": [target]}
    assert relay.asked == [(chrome.id, DevToolsPort(sandbox_id="box-1", port=9222))]
    assert (
        enter(client, content_host(chrome), ticket(client, people.alice, chrome), next=path).headers[
            "Location"
        ]
        == path
    )


@pytest.mark.parametrize(
    ("why", "words"), [("image", "has no Chrome DevTools"), ("ended", "is terminated now")]
)
def test_api_says_why_there_are_no_devtools(
    client: ViewerClient, store: Store, people: People, chrome: Session, why: str, words: str
) -> None:
    session = running_session(store, people.alice, sandbox_id="box-2") if why == "image" else chrome
    if why == "ended":
        store.fleet.transition(chrome.id, Status.TERMINATED)
    answer = client.get(f"/api/v1/sessions/{session.id}/devtools", headers=people.alice.headers).json
    assert (answer["available"], answer["targets"]) == (False, [])
    assert words in answer["why_not"]


def test_browser_that_is_silent_for_a_moment_is_asked_again(
    client: ViewerClient, people: People, relay: ListingRelay, chrome: Session
) -> None:
    relay.is_reachable = False
    answer = client.get(f"/api/v1/sessions/{chrome.id}/devtools", headers=people.alice.headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")
    assert "does not answer" in answer.json["detail"]


def test_without_a_content_domain_there_are_none_and_the_reason_is_said(
    settings: Settings, store: Store, people: People, chrome: Session
) -> None:
    app = create_app(settings.model_copy(update={"content_domain": None}), store)
    client = ViewerClient(app, app.response_class, use_cookies=False)
    way = f"/api/v1/sessions/{chrome.id}"
    assert "content_domain" in client.get(f"{way}/devtools", headers=people.alice.headers).json["why_not"]
    refused = client.post(f"{way}/entries", json={"page": "devtools"}, headers=people.alice.headers)
    assert (refused.status_code, "content_domain" in refused.json["detail"]) == (409, True)


def test_session_names_the_page_that_leads_to_its_devtools(
    client: ViewerClient, store: Store, people: People, chrome: Session
) -> None:
    plain = running_session(store, people.alice, sandbox_id="box-2")
    urls = {
        session.id: client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).json[
            "devtools_url"
        ]
        for session in (chrome, plain)
    }
    assert urls == {chrome.id: f"{ORIGIN}/open/{chrome.id}?page=devtools", plain.id: None}
    listed = client.get("/api/v1/sessions", headers=people.alice.headers).json["items"]
    assert {one["id"]: one["devtools_url"] for one in listed} == urls
    page = client.get(f"/open/{chrome.id}?page=devtools", headers=people.alice.headers)
    assert f'data-devtools="/api/v1/sessions/{chrome.id}/devtools"' in page.get_data(as_text=True)
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"page": "devtools"}, 201),
        ({"page": "json"}, 422),
        ({"page": "desktop"}, 409),
        ({"way": "devtools"}, 422),
    ],
)
def test_ticket_is_for_a_page_that_there_is(
    client: ViewerClient, people: People, chrome: Session, body: dict[str, str], status: int
) -> None:
    way = f"/api/v1/sessions/{chrome.id}/entries"
    assert client.post(way, json=body, headers=people.alice.headers).status_code == status


def test_watcher_gets_no_ticket_to_devtools(client: ViewerClient, people: People, chrome: Session) -> None:
    way = f"/api/v1/sessions/{chrome.id}/entries"
    answer = client.post(way, json={"page": "devtools"}, headers=people.wanda.headers)
    assert answer.status_code == 403


# ---- the session's own origin -----------------------------------------------------------------------


def test_entry_opens_devtools_under_the_lease(
    client: ViewerClient, settings: Settings, people: People, chrome: Session, inside: Headers
) -> None:
    for answer in (ask(client, chrome, inside, FRONT), ask_socket(client, chrome, inside)):
        assert (answer.status_code, answer.headers["X-Df-Upstream"]) == (200, "here")
        grant = grant_in(answer, settings)
        assert grant.target == DevToolsPort(sandbox_id="box-1", port=9222)
        assert (grant.may_control, grant.under_lease, grant.vnc_password) == (True, True, None)


@pytest.mark.parametrize(
    "uri",
    [
        "/", "/json", "/json/list", "/json/version", "/json/new?about:blank", "/json/close/1", "/devtools",
        "/devtools/", "/devtools/browser/1", "/devtools/Browser/1", "/devtools/page/1/2",
        "/devtools/%70age/1", "/devtools/../json/list", "/devtools/a/../../json", "/devtools//json/list",
        "/devtools/./x.js", "/devtools/a%2f..%2fjson", "/DEVTOOLS/x.js", "/devtools/a;b/x.js",
        "/devtools/.hidden", "/devtools/" + "a" * 600, "//devtools/x.js", "/devtools\\x.js",
    ],
)  # fmt: skip
def test_nothing_else_of_chromiums_port_is_given_out(
    client: ViewerClient, chrome: Session, inside: Headers, uri: str
) -> None:
    for answer in (ask(client, chrome, inside, uri), ask_socket(client, chrome, inside, uri)):
        assert answer.status_code in (401, 404)
        assert not [name for name, _ in answer.headers if name.lower().startswith("x-df")]


def test_socket_is_asked_for_as_one_and_a_file_as_a_file(
    client: ViewerClient, chrome: Session, inside: Headers
) -> None:
    assert ask(client, chrome, inside, SOCKET).status_code == 404
    assert ask_socket(client, chrome, inside, "/devtools/inspector.html").status_code == 404


@pytest.mark.parametrize("origin", [None, ORIGIN, "null", "http://evil.example", "https://{own}"])
def test_socket_opens_only_from_the_very_origin(
    client: ViewerClient, chrome: Session, inside: Headers, origin: str | None
) -> None:
    headers = {"Sec-WebSocket-Key": "x"} | (
        {} if origin is None else {"Origin": origin.format(own=content_host(chrome))}
    )
    assert ask(client, chrome, inside, SOCKET, **headers).status_code == 403


def test_entry_shrinks_with_its_makers_role(
    client: ViewerClient, store: Store, people: People, chrome: Session, inside: Headers
) -> None:
    declare(store, people.alice, Role.WATCHER)
    assert ask(client, chrome, inside, FRONT).status_code == 403
    assert ask_socket(client, chrome, inside).status_code == 403


def test_another_persons_control_closes_devtools_and_his_own_does_not(
    client: ViewerClient, store: Store, people: People, chrome: Session, inside: Headers
) -> None:
    def has_control(who: Principal) -> None:
        store.leases.take(
            chrome, who, name="Mara", kind=LeaseKind.PERSON, reason=None, seconds=60, force=True
        )

    mara = Principal(id="person:mara", tenant="acme", role=Role.OPERATOR, via="cookie")
    has_control(mara)
    for answer in (ask(client, chrome, inside, FRONT), ask_socket(client, chrome, inside)):
        assert answer.status_code == 423
    said = client.get(f"/api/v1/sessions/{chrome.id}/devtools", headers=people.alice.headers).json
    assert (said["available"], "Mara" in said["why_not"]) == (False, True)
    store.leases.release(chrome, mara)
    assert ask_socket(client, chrome, inside).status_code == 200


def test_image_without_devtools_and_an_ended_session_open_nothing(
    client: ViewerClient, store: Store, people: People, chrome: Session, inside: Headers
) -> None:
    plain = running_session(store, people.alice, sandbox_id="box-2")
    assert ask(client, plain, inside, FRONT).status_code == 401
    store.fleet.transition(chrome.id, Status.TERMINATED)
    assert ask(client, chrome, inside, FRONT).status_code == 401


def test_desktops_own_page_and_devtools_share_an_origin_by_their_paths(
    client: ViewerClient, store: Store, settings: Settings, people: People
) -> None:
    """No image has both yet. Which of the two is asked for depends on nothing but the path."""
    studio = kasmvnc_desktop(store, people.alice)
    host = content_host(studio)
    cookie = entry(
        client,
        host,
        client.post(f"/api/v1/sessions/{studio.id}/entries", headers=people.alice.headers).json["ticket"],
    )
    grant = grant_in(ask(client, studio, cookie, FRONT), settings)
    # No DevTools there: it is the client's own affair that it has no such file.
    assert grant.target == DesktopSocket(name="studio")
    assert not grant.under_lease


def test_viewer_and_the_tenants_own_pages_may_frame_it_and_nobody_else(
    app: Flask, client: ViewerClient, settings: Settings, people: People, chrome: Session, inside: Headers
) -> None:
    own = " ".join(settings.origins)
    assert ask(client, chrome, inside, FRONT).headers["X-Df-Framers"] == own
    tenants = tuple(
        one.model_copy(update={"embed_origins": (f"https://{one.name}.example",)}) for one in settings.tenants
    )
    app.extensions["deskfleet"].settings = settings.model_copy(update={"tenants": tenants})
    assert ask(client, chrome, inside, FRONT).headers["X-Df-Framers"] == f"{own} https://acme.example"


def test_opening_devtools_is_in_the_audit_log(
    client: ViewerClient, people: People, chrome: Session, inside: Headers
) -> None:
    ask_socket(client, chrome, inside)
    entries = client.get("/api/v1/audit?action=session.devtools", headers=people.ada.headers).json["items"]
    assert [(one["target"], one["outcome"]) for one in entries] == [(f"session:{chrome.id}", "done")]


# ---- addresses and texts ----------------------------------------------------------------------------


def test_no_random_address_leads_to_anything_but_files_and_targets() -> None:
    """Seeded."""
    dice = random.Random(20261130)
    pieces = [
        "/", "//", "devtools", "page", "browser", "Browser", "json", "list", "..", ".", "%2e", "%2F", "?",
        "#", ";", "a", "inspector.html", "x-1.js", TARGET, "\\", " ", "é", "\r\n", "@", "~",
    ]  # fmt: skip
    passed = 0
    for _ in range(20_000):
        uri = "/devtools/" + "".join(dice.choices(pieces, k=dice.randint(0, 6)))
        file, socket = front_end_file(uri), target_socket(uri)
        assert not (file and socket)
        for path in filter(None, (file, socket)):
            passed += 1
            assert is_devtools_path(path)
            assert ".." not in path
            assert "//" not in path
            assert re.fullmatch(r"[A-Za-z0-9_@~.,+=/-]+", path)
            assert not re.match("/devtools/browser(/|$)", path, re.IGNORECASE)
        assert file is None or not file.startswith("/devtools/page/")
    assert passed > 100


def test_front_end_is_told_the_kind_of_socket_that_its_scheme_has() -> None:
    socket = f"a.example:8443/devtools/page/{TARGET}"
    assert front_end_for(TARGET, "http://a.example:8443") == f"/devtools/inspector.html?ws={socket}"
    assert front_end_for(TARGET, "https://a.example:8443") == f"/devtools/inspector.html?wss={socket}"


def test_targets_are_cleaned_bounded_and_sorted() -> None:
    listed: list[dict[str, object]] = [
        {"id": "W1", "type": "worker", "title": "w", "url": "https://a.example/w.js", "extra": [1]},
        {"id": "P1", "type": "page", "title": "a\u202egnp.exe\x00\n b\u2028c", "url": "x" * 5000},
        {"id": "B1", "type": "browser_ui", "title": "omnibox", "url": "chrome://omnibox/"},
        {"id": "../../json", "type": "page", "title": "", "url": ""},
        {"id": "P2", "type": "page", "title": "t" * 5000, "url": "https://b.example/"},
    ]
    found = targets_in(json.dumps(listed).encode())
    assert [one.id for one in found] == ["P1", "P2", "W1"]
    assert found[0].title == "a gnp.exe b c"
    assert (len(found[0].url), len(found[1].title)) == (LONGEST_URL, LONGEST_TITLE)
    many = [{"id": f"P{number}", "type": "page"} for number in range(1000)]
    assert len(targets_in(json.dumps(many).encode())) == MOST_TARGETS


@pytest.mark.parametrize("listed", [b"", b"<html>", b"{}", b'[{"title": "no id"}]', b'["x"]', b'[{"id": 3}]'])
def test_what_is_no_list_of_targets_is_said_to_be_none(listed: bytes) -> None:
    with pytest.raises(DesktopUnreachable, match="not Chromium"):
        targets_in(listed)
