"""Who gets what on every route: the table is checked against the app's own list of routes."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from flask import Flask

import viewer.assets
import viewer.opensandbox.api
import viewer.waiting
from tests.viewer_fixtures import (
    ORIGIN,
    UNKNOWN_ID,
    Everybody,
    People,
    ViewerClient,
    everybody_after,
    kasmvnc_desktop,
    running_session,
    sign_in,
)
from viewer import __version__
from viewer.access import COOKIE, enforce_on
from viewer.credentials import new_key
from viewer.deliveries.store import NewEndpoint
from viewer.documents import NewDocument
from viewer.model import Document, DocumentType, Role, Scope, Status, utcnow
from viewer.openapi import document
from viewer.people import NewPerson
from viewer.problems import ProblemDocument
from viewer.relay.answers import SandboxProblem
from viewer.settings import OidcSettings, Settings
from viewer.store import Store
from viewer.tables import PersonRow

LOCKED = "203.0.113.9"
FOREIGN = "http://evil.content.deskfleet.localhost:8088"
COLUMNS = [
    "none", "bad", "revoked", "expired", "locked", "disabled", "scope", "watcher", "operator", "admin",
    "fleet", "other", "person", "cookie", "no origin", "foreign origin",
]  # fmt: skip
# The session is of the tenant of everyone but `other`. locked: a wrong key from an address that has shown too
# many. disabled: the browser of a person who was. scope: an admin's key that is for something else (of the
# scopes it has `events`). admin: of the tenant; fleet: the site's own admin key. person: an operator who has
# signed in by name. The last three are the operator's browser: asking from our own page, without an Origin
# (an old form), and from a sandbox's page. OUT and PAGE: the first six columns of nearly every row.
ENTER_SHARED = "POST /api/v1/shared/<session_id>/entries"
RETRY_DELIVERY = "POST /api/v1/webhooks/<endpoint_id>/deliveries/<delivery_id>/retry"
WORDS = {"OUT": "401 401 401 401 429 401", "PAGE": "303 303 303 303 429 303"}
TABLE = {
    "GET /": "303 303 303 303 303 303 303 303 303 303 303 303 303 303 303 303",
    "GET /signin": "200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200",
    "POST /signin": "403 403 403 403 403 422 403 403 403 403 403 403 422 422 403 403",
    "GET /set-password": "200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200",
    "GET /account": "PAGE 200 200 200 200 200 200 200 200 200 200",
    "POST /set-password": "403 403 403 403 403 422 403 403 403 403 403 403 422 422 403 403",
    "POST /signout": "403 403 403 403 403 303 403 403 403 403 403 403 303 303 403 403",
    "GET /oidc/start": "503 503 503 503 503 503 503 503 503 503 503 503 503 503 503 303",
    "GET /oidc/callback": "303 303 303 303 303 303 303 303 303 303 303 303 303 303 303 303",
    "GET /oidc/failed": "303 303 303 303 303 303 303 303 303 303 303 303 303 303 303 303",
    "GET /oidc/signed-out": "303 303 303 303 303 303 303 303 303 303 303 303 303 303 303 303",
    "GET /sandboxes": "PAGE 403 200 200 200 200 200 200 200 200 200",
    "GET /sandboxes/<session_id>": "PAGE 403 200 200 200 200 404 200 200 200 200",
    "GET /tasks": "PAGE 403 200 200 200 200 200 200 200 200 200",
    "GET /tasks/<task_id>": "PAGE 403 200 200 200 200 404 200 200 200 200",
    "GET /tasks/<task_id>/panel": "PAGE 403 200 200 200 200 404 200 200 200 200",
    "GET /documents": "PAGE 403 200 200 200 200 200 200 200 200 200",
    "GET /documents/<document_id>": "PAGE 403 200 200 200 200 404 200 200 200 200",
    "GET /wall": "PAGE 403 200 200 200 200 200 200 200 200 200",
    "GET /hosts": "PAGE 403 200 200 200 200 200 200 200 200 200",
    "GET /diagnosis/<session_id>": "PAGE 403 200 200 200 200 404 200 200 200 200",
    "GET /settings": "PAGE 200 200 200 200 200 200 200 200 200 200",
    "GET /settings/<section>": "PAGE 403 403 200 200 200 200 200 200 200 200",
    "GET /view/<session_id>": "PAGE 403 200 200 200 200 404 200 200 200 200",
    "GET /open/<session_id>": "PAGE 403 200 200 200 200 404 200 200 200 200",
    "GET /services/<name>": "PAGE 403 403 200 200 200 404 200 200 200 200",
    "POST /.deskfleet/enter": "404 404 404 404 404 404 404 404 404 404 404 404 404 404 404 404",
    "GET /static/build/<path:name>": "404 404 404 404 404 404 404 404 404 404 404 404 404 404 404 404",
    # What they answer where the pages are built: tests/test_embed_files.py.
    "GET /embed/sandbox-viewer.js": "404 404 404 404 404 404 404 404 404 404 404 404 404 404 404 404",
    "GET /embed/<path:name>": "404 404 404 404 404 404 404 404 404 404 404 404 404 404 404 404",
    "GET /healthz": "200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200",
    "GET /metrics": "OUT 403 403 403 403 200 403 403 403 403 403",
    "GET /authz/stream": "OUT 403 200 200 200 200 404 200 200 403 403",
    "GET /authz/content": "404 404 404 404 404 404 404 404 404 404 404 404 404 404 404 404",
    "GET /authz/port": "OUT 403 403 200 200 200 404 401 401 401 401",
    "GET /authz/service": "404 404 404 404 404 404 404 404 404 404 404 404 404 404 404 404",
    "GET /api/v1/openapi.json": "200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200",
    "GET /api/v1/me": "OUT 200 200 200 200 200 200 200 200 200 403",
    "GET /api/v1/people": "OUT 403 403 403 200 200 403 403 403 403 403",
    "POST /api/v1/people": "OUT 403 403 403 409 409 403 403 403 403 403",
    "GET /api/v1/people/<person_id>": "OUT 403 403 403 200 200 403 403 403 403 403",
    "PATCH /api/v1/people/<person_id>": "OUT 403 403 403 200 200 403 403 403 403 403",
    "DELETE /api/v1/people/<person_id>": "OUT 403 403 403 204 404 403 403 403 403 403",
    "POST /api/v1/people/<person_id>/links": "OUT 403 403 403 201 201 403 403 403 403 403",
    "GET /api/v1/people/<person_id>/sign-ins": "OUT 403 403 403 200 200 403 403 403 403 403",
    "DELETE /api/v1/people/<person_id>/sign-ins/<sign_in>": "OUT 403 403 403 404 404 403 403 403 403 403",
    "GET /api/v1/keys": "OUT 403 403 403 200 200 403 403 403 403 403",
    "POST /api/v1/keys": "OUT 403 403 403 201 201 403 403 403 403 403",
    "DELETE /api/v1/keys/<key_id>": "OUT 403 403 403 204 204 403 403 403 403 403",
    "GET /api/v1/me/sign-ins": "OUT 200 200 200 200 200 200 200 200 200 403",
    # The operator's key has ended his browsers by the time they ask.
    "DELETE /api/v1/me/sign-ins": "OUT 204 204 204 204 204 204 204 401 401 401",
    "DELETE /api/v1/me/sign-ins/<sign_in>": "OUT 404 404 404 404 404 404 404 404 403 403",
    "POST /api/v1/me/password": "OUT 409 409 409 409 409 409 409 409 403 403",
    "GET /api/v1/hosts": "OUT 403 200 200 200 200 200 200 200 200 403",
    "GET /api/v1/images": "OUT 403 200 200 200 200 200 200 200 200 403",
    "GET /api/v1/events": "OUT 403 200 200 200 200 200 200 200 200 403",
    "GET /api/v1/audit": "OUT 403 403 403 200 200 403 403 403 403 403",
    "GET /api/v1/audit/chain": "OUT 403 403 403 200 200 403 403 403 403 403",
    "GET /api/v1/audit/export": "OUT 403 403 403 200 200 403 403 403 403 403",
    "GET /api/v1/sessions": "OUT 403 200 200 200 200 200 200 200 200 403",
    "GET /api/v1/sessions/counts": "OUT 403 200 200 200 200 200 200 200 200 403",
    "POST /api/v1/sessions": "OUT 403 403 202 202 202 202 202 202 403 403",
    "GET /api/v1/sessions/<session_id>": "OUT 403 200 200 200 200 404 200 200 200 403",
    "DELETE /api/v1/sessions/<session_id>": "OUT 403 403 204 204 204 404 204 204 403 403",
    "GET /api/v1/sessions/<session_id>/lease": "OUT 403 200 200 200 200 404 200 200 200 403",
    # The operator's key has taken it: too late for the admins' keys, but a person may, and only the first.
    "POST /api/v1/sessions/<session_id>/lease/take": "OUT 403 403 200 423 423 404 200 423 403 403",
    "POST /api/v1/sessions/<session_id>/lease/request": "OUT 403 403 200 202 202 404 202 202 403 403",
    "DELETE /api/v1/sessions/<session_id>/lease/request": "OUT 403 403 204 204 204 404 204 204 403 403",
    "POST /api/v1/sessions/<session_id>/lease/give": "OUT 403 403 422 422 422 404 422 422 403 403",
    "POST /api/v1/sessions/<session_id>/lease/release": "OUT 403 403 200 200 200 404 200 200 403 403",
    "POST /api/v1/sessions/<session_id>/lease/renew": "OUT 403 403 423 423 423 404 423 423 403 403",
    "GET /api/v1/sessions/<session_id>/help": "OUT 403 200 200 200 200 404 200 200 200 403",
    "PUT /api/v1/sessions/<session_id>/help": "OUT 403 403 200 200 200 404 200 200 403 403",
    "DELETE /api/v1/sessions/<session_id>/help": "OUT 403 403 200 200 200 404 200 200 403 403",
    "GET /api/v1/sessions/<session_id>/history": "OUT 403 200 200 200 200 404 200 200 200 403",
    "POST /api/v1/sessions/<session_id>/pause": "OUT 403 403 409 409 409 404 409 409 403 403",
    "POST /api/v1/sessions/<session_id>/resume": "OUT 403 403 409 409 409 404 409 409 403 403",
    "POST /api/v1/sessions/<session_id>/renew": "OUT 403 403 409 409 409 404 409 409 403 403",
    "PUT /api/v1/sessions/<session_id>/labels": "OUT 403 403 409 409 409 404 409 409 403 403",
    "POST /api/v1/sessions/terminate": "OUT 403 403 422 422 422 422 422 422 403 403",
    "PUT /api/v1/hosts/<name>/draining": "OUT 403 403 403 403 404 403 403 403 403 403",
    # Whoever acts takes it, the operator's key first; and here no relay runs.
    "POST /api/v1/sessions/<session_id>/input": "OUT 403 403 503 423 423 404 423 423 403 403",
    "GET /api/v1/sessions/<session_id>/screenshot": "OUT 403 502 502 502 502 404 502 502 502 403",
    "POST /api/v1/thumbnails": "OUT 403 200 200 200 200 200 200 200 403 403",
    "GET /api/v1/tasks": "OUT 403 200 200 200 200 200 200 200 200 403",
    "POST /api/v1/tasks": "OUT 403 403 201 201 201 201 201 201 403 403",
    "GET /api/v1/tasks/<task_id>": "OUT 403 200 200 200 200 404 200 200 200 403",
    "GET /api/v1/agents": "OUT 403 200 200 200 200 200 200 200 200 403",
    "POST /api/v1/agents": "OUT 403 403 201 201 201 201 201 201 403 403",
    "GET /api/v1/agents/<agent_id>": "OUT 403 200 200 200 200 404 200 200 200 403",
    "GET /api/v1/documents": "OUT 403 200 200 200 200 200 200 200 200 403",
    "POST /api/v1/documents": "OUT 403 403 201 201 201 201 201 201 403 403",
    "GET /api/v1/documents/<document_id>": "OUT 403 200 200 200 200 404 200 200 200 403",
    "GET /api/v1/documents/<document_id>/content": "OUT 403 200 200 200 200 404 200 200 200 403",
    "GET /api/v1/documents/<document_id>/view": "OUT 403 200 200 200 200 404 200 200 200 403",
    # The first one deletes it.
    "DELETE /api/v1/documents/<document_id>": "OUT 403 403 204 404 404 404 404 404 403 403",
    "GET /api/v1/sessions/<session_id>/devtools": "OUT 403 403 200 200 200 404 200 200 200 403",
    "POST /api/v1/sessions/<session_id>/entries": "OUT 403 201 201 201 201 404 201 201 403 403",
    "GET /api/v1/sessions/<session_id>/events": "OUT 403 200 200 200 200 404 200 200 200 403",
    # Nobody is there who could say what is open.
    "GET /api/v1/sessions/<session_id>/streams": "OUT 403 502 502 502 502 404 502 502 502 403",
    "DELETE /api/v1/sessions/<session_id>/streams/<stream_id>": "OUT 403 403 404 404 404 404 404 404 403 403",
    # What does not answer here is what it tells.
    "GET /api/v1/sessions/<session_id>/diagnosis": "OUT 403 200 200 200 200 404 200 200 200 403",
    "POST /api/v1/sessions/<session_id>/tickets": "OUT 403 201 201 201 201 404 201 201 403 403",
    "DELETE /api/v1/sessions/<session_id>/tickets/<ticket_id>": "OUT 403 404 404 404 404 404 404 404 403 403",
    "POST /api/v1/services/<name>/entries": "OUT 403 403 201 201 201 404 201 201 403 403",
    "GET /s": "200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200",
    "POST /s": "403 403 403 403 403 422 403 403 403 403 403 403 422 422 403 403",
    # No visit of a link is shown here; what one opens is in tests/test_shares_api.py.
    "GET /shared/<session_id>": "401 401 401 401 401 401 401 401 401 401 401 401 401 401 401 401",
    "GET /api/v1/shared/<session_id>": "401 401 401 401 401 401 401 401 401 401 401 401 401 401 401 403",
    ENTER_SHARED: "403 403 403 403 403 401 403 403 403 403 403 403 401 401 403 403",
    "GET /api/v1/sessions/<session_id>/shares": "OUT 403 403 200 200 200 404 200 200 200 403",
    "GET /api/v1/shares": "OUT 403 403 200 200 200 200 200 200 200 403",
    "POST /api/v1/sessions/<session_id>/shares": "OUT 403 403 201 201 201 404 201 201 403 403",
    "DELETE /api/v1/sessions/<session_id>/shares/<share_id>": "OUT 403 403 404 404 404 404 404 404 403 403",
    "POST /webhooks/openclaw": "OUT 200 403 200 200 200 200 401 401 401 401",
    "POST /openclaw/event": "OUT 200 403 200 200 200 200 401 401 401 401",
    "GET /api/v1/webhook-secrets": "OUT 403 403 403 200 200 403 403 403 403 403",
    "POST /api/v1/webhook-secrets": "OUT 403 403 403 201 201 403 403 403 403 403",
    "POST /api/v1/webhook-secrets/<secret_id>/rotate": "OUT 403 403 403 404 404 403 403 403 403 403",
    "DELETE /api/v1/webhook-secrets/<secret_id>": "OUT 403 403 403 404 404 403 403 403 403 403",
    "GET /api/v1/webhooks": "OUT 403 403 403 200 200 403 403 403 403 403",
    "POST /api/v1/webhooks": "OUT 403 403 403 201 201 403 403 403 403 403",
    "GET /api/v1/webhooks/<endpoint_id>": "OUT 403 403 403 200 200 403 403 403 403 403",
    "PATCH /api/v1/webhooks/<endpoint_id>": "OUT 403 403 403 200 200 403 403 403 403 403",
    # The first one deletes it.
    "DELETE /api/v1/webhooks/<endpoint_id>": "OUT 403 403 403 204 404 403 403 403 403 403",
    "POST /api/v1/webhooks/<endpoint_id>/rotate": "OUT 403 403 403 200 200 403 403 403 403 403",
    "POST /api/v1/webhooks/<endpoint_id>/test": "OUT 403 403 403 202 202 403 403 403 403 403",
    "GET /api/v1/webhooks/<endpoint_id>/deliveries": "OUT 403 403 403 200 200 403 403 403 403 403",
    RETRY_DELIVERY: "OUT 403 403 403 202 202 403 403 403 403 403",
    "GET /v1/sandboxes": "OUT 403 200 200 200 200 200 401 401 401 401",
    "POST /v1/sandboxes": "OUT 403 403 202 202 202 202 401 401 401 401",
    "GET /v1/sandboxes/<sandbox_id>": "OUT 403 200 200 200 200 404 401 401 401 401",
    "DELETE /v1/sandboxes/<sandbox_id>": "OUT 403 403 404 404 404 404 401 401 401 401",
    "POST /v1/sandboxes/<sandbox_id>/pause": "OUT 403 403 202 202 202 404 401 401 401 401",
    "POST /v1/sandboxes/<sandbox_id>/resume": "OUT 403 403 409 409 409 404 401 401 401 401",
    "POST /v1/sandboxes/<sandbox_id>/renew-expiration": "OUT 403 403 200 200 200 404 401 401 401 401",
    "PATCH /v1/sandboxes/<sandbox_id>/metadata": "OUT 403 403 200 200 200 404 401 401 401 401",
    "GET /v1/sandboxes/<sandbox_id>/endpoints/<port>": "OUT 403 403 200 200 200 404 401 401 401 401",
    "GET /v1/sandboxes/<sandbox_id>/diagnostics/events": "OUT 403 200 200 200 200 404 401 401 401 401",
    "GET /v1/sandboxes/<sandbox_id>/diagnostics/<kind>": "OUT 403 501 501 501 501 404 401 401 401 401",
    "POST /v1/metrics/events": "OUT 403 204 204 204 204 204 401 401 401 401",
    "POST /v1/sandboxes/<sandbox_id>/snapshots": "OUT 403 501 501 501 501 501 401 401 401 401",
    "GET /v1/snapshots": "OUT 403 501 501 501 501 501 401 401 401 401",
    "GET /v1/snapshots/<name>": "OUT 403 501 501 501 501 501 401 401 401 401",
    "DELETE /v1/snapshots/<name>": "OUT 403 501 501 501 501 501 401 401 401 401",
    "GET /v1/templates": "OUT 403 501 501 501 501 501 401 401 401 401",
    "POST /v1/templates": "OUT 403 501 501 501 501 501 401 401 401 401",
    "GET /v1/templates/<name>": "OUT 403 501 501 501 501 501 401 401 401 401",
    "DELETE /v1/templates/<name>": "OUT 403 501 501 501 501 501 401 401 401 401",
    "GET /v1/pools": "OUT 403 501 501 501 501 501 401 401 401 401",
    "POST /v1/pools": "OUT 403 501 501 501 501 501 401 401 401 401",
    "GET /v1/pools/<name>": "OUT 403 501 501 501 501 501 401 401 401 401",
    "PUT /v1/pools/<name>": "OUT 403 501 501 501 501 501 401 401 401 401",
    "DELETE /v1/pools/<name>": "OUT 403 501 501 501 501 501 401 401 401 401",
    "GET /v1/sandboxes/<sandbox_id>/networkpolicy": "OUT 403 501 501 501 501 501 401 401 401 401",
    "PUT /v1/sandboxes/<sandbox_id>/networkpolicy": "OUT 403 501 501 501 501 501 401 401 401 401",
    "PATCH /v1/sandboxes/<sandbox_id>/networkpolicy": "OUT 403 501 501 501 501 501 401 401 401 401",
    "DELETE /v1/sandboxes/<sandbox_id>/networkpolicy": "OUT 403 501 501 501 501 501 401 401 401 401",
}


BODIES: dict[str, object] = {
    "POST /api/v1/sessions/<session_id>/lease/give": {"to": "key:nobody"},
    "POST /api/v1/people": {"login": "somebody", "role": "watcher"},
    "PATCH /api/v1/people/<person_id>": {"name": "Somebody"},
    "POST /api/v1/keys": {"role": "watcher"},
    "POST /api/v1/me/password": {"password": "a", "new_password": "b"},
    "POST /api/v1/sessions": {"wait": False},
    "PUT /api/v1/sessions/<session_id>/labels": {"labels": {}},
    "PUT /api/v1/sessions/<session_id>/help": {"reason": "a captcha"},
    "PUT /api/v1/hosts/<name>/draining": {"draining": True},
    "POST /webhooks/openclaw": {"runId": "r", "action": "start"},
    "POST /openclaw/event": {"runId": "r", "action": "start"},
    "POST /api/v1/sessions/<session_id>/input": {"type": "move", "x": 1, "y": 1},
    "POST /api/v1/thumbnails": {"items": []},
    "POST /api/v1/webhook-secrets": {"label": "openclaw"},
    "POST /api/v1/documents": {"title": "Notes", "type": "text", "content": "a"},
    "POST /api/v1/webhooks": {"url": "https://example.com/hook"},
    "POST /v1/sandboxes": {"image": {"uri": "shell"}},
    "POST /v1/sandboxes/<sandbox_id>/renew-expiration": {
        "expiresAt": (utcnow() + timedelta(hours=1)).isoformat()
    },
}
OF_ENDED_ONES = ("/pause", "/resume", "/renew", "/labels")
"""What changes a session is asked of one that has ended: nobody is there to make a change true."""


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """With an OpenID provider, which is down."""
    (tmp_path / "oidc.key").write_text("secret")
    values = {
        "issuer": "http://127.0.0.1:1",
        "client_id": "deskfleet",
        "client_secret_file": str(tmp_path / "oidc.key"),
        "name": "Acme Login",
        "rules": [{"everybody": True, "tenant": "acme", "role": "watcher"}],
    }
    return settings.model_copy(update={"oidc": OidcSettings.model_validate(values)})


Headers = dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def all_headers() -> Headers:
    """What each column's principal sends; filled by `everybody`."""
    return {}


@pytest.fixture(scope="session")
def everybody(
    everybody: Everybody, all_headers: Headers, tmp_path_factory: pytest.TempPathFactory
) -> Everybody:
    """And all the others, made once for all routes."""

    def let_in(store: Store) -> None:
        all_headers.update(headers_of_all(store, everybody.people))

    path = tmp_path_factory.mktemp("everybody") / "everybody.db"
    return everybody_after(let_in, path, first=everybody.sqlite, people=everybody.people)


def headers_of_all(store: Store, people: People) -> Headers:
    revoked = store.accounts.add_key("acme", Role.ADMIN)
    store.accounts.revoke_key(revoked.id)
    expired = store.accounts.add_key("acme", Role.ADMIN, life=timedelta(0))
    wrong_end = "A" if people.alice.key[-1] != "A" else "B"
    foreign = {"Origin": FOREIGN, "Sec-Fetch-Site": "same-site"}
    admin = store.accounts.add_key("acme", Role.ADMIN)
    narrow = store.accounts.add_key("acme", Role.ADMIN, scopes=[Scope.EVENTS])
    return {
        "none": {},
        "bad": {"Authorization": f"Bearer {people.alice.key[:-1]}{wrong_end}"},
        "revoked": {"Authorization": f"Bearer {revoked.text}"},
        "expired": {"Authorization": f"Bearer {expired.text}"},
        "locked": {"Authorization": f"Bearer {new_key().text}", "X-Forwarded-For": LOCKED},
        "disabled": {**person_in(store, "gone", disabled=True), "Origin": ORIGIN},
        "scope": {"Authorization": f"Bearer {narrow.text}"},
        "watcher": people.wanda.headers,
        "operator": people.alice.headers,
        "admin": {"Authorization": f"Bearer {admin.text}"},
        "fleet": people.ada.headers,
        "other": people.bob.headers,
        "person": {**person_in(store, "mara"), "Origin": ORIGIN},
        "cookie": {**sign_in(store, people.alice), "Origin": ORIGIN},
        "no origin": sign_in(store, people.alice),
        "foreign origin": {**sign_in(store, people.alice), **foreign},
    }


def person_in(store: Store, login: str, *, disabled: bool = False) -> dict[str, str]:
    """The Cookie header of a browser in which this operator has signed in; disabled by a hand that forgot the
    sign-in."""
    person = store.people("acme").add(NewPerson(login=login, role=Role.OPERATOR), by="test")
    token = store.accounts.sign_in_person(person.id, address=None, user_agent=None)
    if disabled:
        with store._database.writing() as orm:
            orm.get_one(PersonRow, person.id).disabled_at = utcnow()
    return {"Cookie": f"{COOKIE}={token}"}


def lock(app: Flask) -> None:
    for _ in range(100):
        app.extensions["deskfleet"].wrong_keys.failed(LOCKED)


def endpoint_with_a_delivery(store: Store) -> tuple[str, str]:
    mine = store.webhooks("acme")
    new = NewEndpoint(url="https://example.com/", label="", types=(), secret_sealed="x", created_by="test")
    endpoint = mine.create(new).id
    return endpoint, mine.try_out(endpoint, lambda _at: "{}").id


def document_of(store: Store, tenant: str) -> Document:
    new = NewDocument(
        title="Notes", type=DocumentType.TEXT, content=b"a", media_type="text/plain", created_by="test"
    )
    return store.documents(tenant).put(new).document


def test_every_route_of_the_app_has_a_row(app: Flask) -> None:
    routes = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == set(TABLE)


@pytest.mark.parametrize("route", TABLE)
def test_route_answers_each_principal_as_the_table_says(
    route: str,
    app: Flask,
    client: ViewerClient,
    store: Store,
    people: People,
    all_headers: Headers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    lock(app)
    monkeypatch.setattr(viewer.assets, "BUILD", tmp_path)
    # Nobody is there to make true what is waited for.
    monkeypatch.setattr(viewer.opensandbox.api, "CREATE_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(viewer.waiting, "TERMINATION_WAIT_SECONDS", 0.0)
    method, _, path = route.partition(" ")
    somebody = store.people("acme").add(NewPerson(login="somebody", role=Role.WATCHER), by="test")
    spare = store.accounts.add_key("acme", Role.WATCHER)
    if path.endswith("/entries"):
        session = kasmvnc_desktop(store, people.alice)
    else:
        session = running_session(store, people.alice, task_id="t", agent_id="a")
    path = (
        path.replace("<task_id>", "t")
        .replace("<agent_id>", "a")
        .replace("<session_id>", session.id)
        .replace("<sandbox_id>", session.id)
        .replace("<port>", "8000")
        .replace("<person_id>", somebody.id)
        .replace("<sign_in>", "0123456789abcdef")
        .replace("<key_id>", spare.id)
        .replace("<kind>", "logs")
        .replace("<section>", "shares")
        .replace("<path:name>", "nothing-here.js")
    )
    path = path.replace("<name>", "code")
    if "<endpoint_id>" in path:
        endpoint, delivery = endpoint_with_a_delivery(store)
        path = path.replace("<endpoint_id>", endpoint).replace("<delivery_id>", delivery)
    if "<document_id>" in path:
        path = path.replace("<document_id>", document_of(store, "acme").id)
    if method == "DELETE" or (
        "/lease/" not in path and path.startswith("/api/") and path.endswith(OF_ENDED_ONES)
    ):
        store.fleet.transition(session.id, Status.TERMINATED)
    uri = f"/v1/sandboxes/{session.id}/proxy/8000/" if path == "/authz/port" else f"/stream/{session.id}"
    is_sandbox_api = path == "/authz/port" or path.startswith("/v1/")
    document = SandboxProblem if is_sandbox_api else ProblemDocument
    stream = {"X-Forwarded-Uri": uri, "X-Forwarded-Method": "GET"}
    got = {}
    for who, headers in all_headers.items():
        body = json.dumps(BODIES.get(route, {})) if method in ("POST", "PUT", "PATCH") else None
        kind = {"Content-Type": "application/json"} if body else {}
        with client.open(path, method=method, data=body, headers={**headers, **kind, **stream}) as answer:
            got[who] = answer.status_code
            if answer.status_code >= 400 and path.startswith(("/api", "/authz", "/v1")):
                document.model_validate_json(answer.get_data())
        if method == "GET":
            with client.head(path, headers={**headers, **stream}) as answer:
                assert answer.status_code == got[who]
    first, _, rest = TABLE[route].partition(" ")
    expected = f"{WORDS.get(first, first)} {rest}".split()
    assert got == dict(zip(COLUMNS, map(int, expected), strict=True))


BESIDE = {
    f"{UNKNOWN_ID}.content.deskfleet.localhost:8088": ["POST /.deskfleet/enter", "GET /authz/content"],
    "code.deskfleet.localhost:8088": ["POST /.deskfleet/enter", "GET /authz/service"],
    "content.deskfleet.localhost:8088": [],
    "a.content.deskfleet.localhost:8088": [],
}


@pytest.mark.parametrize("host", BESIDE)
def test_names_beside_the_viewer_answer_nothing_of_the_viewers(
    host: str, app: Flask, client: ViewerClient, store: Store, people: People
) -> None:
    headers = {"X-Forwarded-Host": host, "X-Forwarded-Proto": "http", "Origin": f"http://{host}"}
    session, own = running_session(store, people.alice), set()
    cookie = sign_in(store, people.ada)
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<session_id>", session.id)
        path = path.replace("<path:name>", "app-1.css").replace("<name>", "code")
        for method in (rule.methods or set()) - {"OPTIONS"}:
            for shown in (people.ada.headers, cookie):
                with client.open(path, method=method, headers={**headers, **shown}) as answer:
                    if answer.status_code != 404 and method != "HEAD":
                        own.add(f"{method} {rule.rule}")
                    assert not answer.headers.get("Location", "").startswith(ORIGIN) or "authz" in path
    assert own == set(BESIDE[host])
    assert client.get("/api/v1/me", headers=cookie).status_code == 200  # none of them has ended the sign-in


def test_what_is_foreign_looks_like_what_never_was(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    for path in ("/api/v1/sessions/", "/sandboxes/", "/view/"):
        answers = [
            client.get(path + name, headers=people.bob.headers) for name in (session.id, session.id[::-1])
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].get_data() == answers[1].get_data()


def test_of_a_foreign_session_nothing_is_said_not_even_that_a_body_is_missing(
    app: Flask, client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    described = cast(dict[str, dict[str, object]], document(app, __version__)["paths"])
    asked = [
        (method, path)
        for path in described
        if path.startswith("/api/v1/sessions/{session_id}")
        for method in described[path]
    ]
    assert len(asked) > 20
    for method, path in asked:
        filled = re.sub(r"\{[^}]+\}", session.id, path)
        answer = client.open(filled, method=method.upper(), headers=people.bob.headers)
        assert answer.status_code == 404, (method, path, answer.get_data())


def test_key_wins_over_cookie_and_a_wrong_key_is_not_saved_by_one(
    client: ViewerClient, store: Store, people: People
) -> None:
    cookie = sign_in(store, people.alice)
    assert client.get("/api/v1/me", headers={**cookie, **people.bob.headers}).json["tenant"] == "bolt"
    assert client.get("/api/v1/me", headers={**cookie, "Authorization": "Bearer nonsense"}).status_code == 401
    assert client.get("/api/v1/me", headers={**cookie, "Authorization": "Basic eDp5"}).status_code == 401


def test_key_needs_no_origin_for_a_state_change(client: ViewerClient, people: People) -> None:
    headers = {**people.alice.headers, "Origin": FOREIGN}
    assert client.post("/api/v1/sessions", json={"wait": False}, headers=headers).status_code == 202


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:8088"}, 403),  # ours, but not the one that was asked
        ({"Origin": ORIGIN + ".evil.example"}, 403),
        ({"Origin": FOREIGN, "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": ORIGIN, "X-Forwarded-Host": "localhost:8088"}, 403),
        ({"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"}, 403),
    ],
)
def test_cookie_changes_state_only_from_the_very_origin_asked(
    client: ViewerClient, store: Store, people: People, headers: dict[str, str], status: int
) -> None:
    cookie = sign_in(store, people.alice)
    answer = client.post("/api/v1/sessions", json={"wait": False}, headers={**cookie, **headers})
    assert answer.status_code == status


def test_a_route_without_a_rule_stops_the_app_from_being_made() -> None:
    app = Flask("forgetful")
    app.add_url_rule("/open", view_func=lambda: "everything", endpoint="open")
    with pytest.raises(TypeError, match="no access rule on: open"):
        enforce_on(app)
