"""Systems that post events: with a key or signed, as a test says. Signing is written out here, so that the
viewer's is held against something else than itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from typing import Any

from tests.viewer_fixtures import Person
from viewer.credentials import seal_secret
from viewer.settings import Settings
from viewer.signatures import new_webhook_secret
from viewer.store import Store

EVENTS = "/webhooks/openclaw"


@dataclass(frozen=True)
class Source:
    """A webhook secret of a tenant."""

    id: str
    secret: str = field(repr=False)

    def headers(
        self, body: bytes, message_id: str = "msg_1", *, at: float | None = None, signed_id: str | None = None
    ) -> dict[str, str]:
        """signed_id: another id than the one that is sent."""
        sent_at = str(int(time.time() if at is None else at))
        return {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": sent_at,
            "webhook-signature": signature(self.secret, signed_id or message_id, sent_at, body),
        }


def signature(secret: str, message_id: str, sent_at: str, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{sent_at}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def new_source(store: Store, settings: Settings, person: Person) -> Source:
    secret = new_webhook_secret()
    sealed = seal_secret(secret, settings.secret_key)
    return Source(store.webhook_secrets.add(person.tenant, "openclaw", sealed, by="test").id, secret)


def run_event(action: str = "start", run: str = "run-7", **more: Any) -> dict[str, Any]:
    return {"runId": run, "action": action, **more}


def sandbox_event(event: str, sandbox_id: str, run: str = "run-7", **more: Any) -> dict[str, Any]:
    """JSON in a string in JSON. Of `more`, agentId and sessionKey belong to the outer one."""
    outer: dict[str, Any] = {name: more.pop(name) for name in ("agentId", "sessionKey") if name in more}
    content = {"event": event, "sandbox_id": sandbox_id, **more}
    document = {"title": "Desktop", "type": "sandbox", "content": json.dumps(content)}
    return {"runId": run, "action": "sandbox", "document": document, **outer}
