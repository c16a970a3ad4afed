"""What the viewer notes of each request: its id, one line in the log, its count and its time.

The edge gives each request an id, whatever the client sent, and logs it; a request that comes without one
gets it here. Only what changes something or fails has a line: Caddy's own log has all of them. A line never
has a body, a query string or a header.
"""

from __future__ import annotations

import logging
import re
import time
import uuid

from flask import Flask, Response, g, request

from viewer import logs, metrics
from viewer.model import Principal, Session

REQUEST_ID = "X-Request-Id"

_log = logging.getLogger("deskfleet.viewer")
_OURS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def observe_on(app: Flask) -> None:
    """From now on; before anything else looks at a request."""
    app.before_request(_begin)
    app.after_request(_end)


def session_made(session: Session) -> None:
    """Join the request that asked for a session to the session's own request id, which its hosts are told."""
    _log.info(
        "session %s request %s: made; its hosts know it as request %s",
        session.id,
        g.request_id,
        session.request_id,
        extra={"session_id": session.id, "tenant": session.tenant_id},
    )


def _begin() -> None:
    given = request.headers.get(REQUEST_ID, "")
    g.request_id = given if _OURS.fullmatch(given) else str(uuid.uuid4())
    g.began = time.monotonic()
    logs.bind(request_id=g.request_id)


def _end(response: Response) -> Response:
    seconds, status = time.monotonic() - g.began, response.status_code
    metrics.http_answered(
        request.method, request.url_rule.rule if request.url_rule else "none", status, seconds
    )
    if status >= 400 or request.method not in _READS:
        who = g.get("principal")
        _log.log(
            logging.WARNING if status >= 500 else logging.INFO,
            "%s %s %d",
            request.method,
            request.path,
            status,
            extra={
                "method": request.method,
                "path": request.path,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "tenant": who.tenant if isinstance(who, Principal) else None,
            },
        )
    response.headers[REQUEST_ID] = g.request_id
    return response
