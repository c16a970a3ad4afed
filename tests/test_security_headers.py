"""What every answer of the viewer says to a browser, route by route, and that all of it passes the edge."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from flask import Flask

import viewer.opensandbox.api
import viewer.waiting
from tests.pages.content_site import BELOW, ContentSite
from tests.viewer_fixtures import ORIGIN, People, ViewerClient, running_session, sign_in
from viewer.model import Role, Session
from viewer.settings import TenantSettings
from viewer.store import Store

EMBEDDER = "https://dashboard.example.com"


def policy_of(answer: Any) -> dict[str, str]:
    (text,) = [value for name, value in answer.headers.items() if name.lower() == "content-security-policy"]
    return dict(part.strip().partition(" ")[::2] for part in text.split(";"))


def check(answer: Any, path: str, *, shown_by: str = "'none'") -> None:
    """By what it is: a page, or anything else."""
    headers = answer.headers
    assert headers["X-Content-Type-Options"] == "nosniff", path
    assert headers["Referrer-Policy"] in ("same-origin", "no-referrer"), path
    is_for_any_page = path.startswith("/embed/") and answer.status_code == 200
    wanted = "cross-origin" if is_for_any_page else "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == wanted, path
    assert "camera=()" in headers["Permissions-Policy"], path
    policy = policy_of(answer)
    assert policy["default-src"] == "'none'", path
    assert policy["frame-ancestors"] == shown_by, path
    if headers.get("Content-Type", "").startswith("text/html"):
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", path
        assert "unsafe" not in str(policy), path


def paths_of(app: Flask, session: Session) -> Iterator[tuple[str, str]]:
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<session_id>", session.id).replace("<sandbox_id>", session.id)
        path = path.replace("<path:name>", "app.css").replace("<name>", "code")
        path = re.sub(r"<[^>]+>", "thing", path)
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            yield method, path


def test_every_route_says_it_to_everybody(
    app: Flask, client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody is there to make true what is waited for.
    monkeypatch.setattr(viewer.opensandbox.api, "CREATE_WAIT_SECONDS", 0.0)
    for name in ("TERMINATION_WAIT_SECONDS", "SILENT_HOST_WAIT_SECONDS"):
        monkeypatch.setattr(viewer.waiting, name, 0.0)
    session = running_session(store, people.alice)
    asked = 0
    for headers in ({}, {**sign_in(store, people.alice), "Origin": ORIGIN}):
        for method, path in paths_of(app, session):
            body = {"wait": False} if path == "/api/v1/sessions" else {}
            sent = {} if method == "GET" else {"json": body}
            with client.open(path, method=method, headers=headers, **sent) as answer:
                check(answer, path)
            asked += 1
    assert asked > 250


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/nothing", "/v1/nothing", "/sandboxes//x", "/%2e%2e/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_what_is_no_route_says_it_too(client: ViewerClient, people: People, method: str, path: str) -> None:
    with client.open(path, method=method) as answer:
        assert answer.status_code >= 400
        check(answer, path)


def test_one_page_may_be_shown_by_those_that_its_tenant_lists(
    app: Flask, client: ViewerClient, store: Store, people: People
) -> None:
    services = app.extensions["deskfleet"]
    listed = TenantSettings(name="acme", embed_origins=(EMBEDDER,))
    services.settings = services.settings.model_copy(
        update={"tenants": (listed, TenantSettings(name="bolt"))}
    )
    ours, theirs = (
        running_session(store, people.alice, task_id="t-1"),
        running_session(store, people.bob, sandbox_id="b"),
    )
    mine, his = sign_in(store, people.alice), sign_in(store, people.bob)
    for path, cookie, shown_by in (
        (f"/view/{ours.id}", mine, EMBEDDER),
        (f"/view/{theirs.id}", his, "'none'"),
        (f"/view/{theirs.id}", mine, "'none'"),
        (f"/sandboxes/{ours.id}", mine, "'none'"),
        ("/tasks/t-1/panel", mine, EMBEDDER),
        ("/tasks/t-1/panel", his, "'none'"),
        ("/tasks/t-1", mine, "'none'"),
        ("/documents", mine, "'none'"),
        ("/account", mine, "'none'"),
        ("/signin", {}, "'none'"),
        (f"/shared/{ours.id}", {}, "'none'"),
    ):
        check(client.get(path, headers=cookie), path, shown_by=shown_by)


@pytest.mark.real
def test_every_route_says_it_through_the_edge(
    app: Flask, store: Store, people: People, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On the real Caddy with the rendered file; in plain HTTP, so of HSTS see tests/test_edge.py."""
    session = running_session(store, people.alice)
    routes = sorted(set(paths_of(app, session)))
    with (
        ContentSite(tmp_path_factory.mktemp("headers"), BELOW) as site,
        httpx.Client(
            base_url=f"http://localhost:{site.port}",
            headers={
                "Authorization": f"Bearer {site.key(Role.WATCHER)}",
                "Host": f"deskfleet.localhost:{site.port}",
            },
        ) as client,
    ):
        for method, path in [*routes, ("GET", "/nothing"), ("PROPFIND", "/nothing"), ("GET", "/stream/x")]:
            if method == "HEAD" or path == "/api/v1/events":
                continue  # nothing ends that by itself
            answer = client.request(method, path)
            assert "Server" not in answer.headers, path
            assert "Via" not in answer.headers, path
            if path.startswith("/authz/"):
                continue  # Caddy's own; see tests/test_edge.py
            if "/proxy/" not in path:
                check(answer, path)
