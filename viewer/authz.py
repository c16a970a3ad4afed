"""Caddy's forward_auth target: 2xx lets a stream through and names its upstream, all else goes to the client.

Nothing here is taken from the request but the credential, the Origin and the path that the client asked for;
the upstream and the relay's target come from the store and the settings alone.
"""

from __future__ import annotations

import re
from datetime import timedelta

from flask import Blueprint, Response, request
from pydantic import SecretStr

from viewer.access import anyone, authenticate, check_origin
from viewer.credentials import SealBroken, open_password
from viewer.grants import (
    GRANT_HEADER,
    UPSTREAM_HEADER,
    DesktopSocket,
    Grant,
    PublishedPort,
    Target,
    seal_grant,
)
from viewer.model import Display, Kind, Principal, Role, Session, Status, utcnow
from viewer.problems import Problem, not_found
from viewer.services import services

authz = Blueprint("authz", __name__, url_prefix="/authz")

GRANT_LIFE = timedelta(seconds=30)
"""Long enough to reach the relay, too short to be worth stealing."""

# The whole path, as the client sent it: no decoding, so `%2e%2e`, `//` and the like are simply not a stream.
_STREAM = re.compile(
    r"/stream/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:\?[^#\s]*)?", re.ASCII
)


@authz.get("/stream")
@anyone
def authorise_stream() -> Response:
    who = authenticate()
    if who.via == "cookie":
        check_origin()
    session = services().store.tenant(who.tenant).get(_session_id_asked_for())
    host = services().settings.host(session.host) if session.host else None
    target = _target(session)
    if host is None or target is None:
        raise not_found()
    answer = Response(status=200)
    answer.headers[UPSTREAM_HEADER] = host.name
    answer.headers[GRANT_HEADER] = seal_grant(_grant(session, who, target), host.relay_key())
    return answer


def _session_id_asked_for() -> str:
    match = _STREAM.fullmatch(request.headers.get("X-Forwarded-Uri", ""))
    if match is None or request.headers.get("X-Forwarded-Method") != "GET":
        raise not_found()
    return match.group(1)


def _target(session: Session) -> Target | None:
    """Where the relay finds this session's VNC; None when there is nothing to stream now."""
    if session.status is not Status.RUNNING or session.display is not Display.RFB:
        return None
    if session.kind is Kind.DESKTOP:
        return DesktopSocket(name=session.sandbox_id) if session.sandbox_id else None
    return PublishedPort(port=session.vnc_port) if session.vnc_port else None


def _grant(session: Session, who: Principal, target: Target) -> Grant:
    return Grant(
        purpose="stream",
        session_id=session.id,
        tenant_id=session.tenant_id,
        principal=who.id,
        may_control=who.role.covers(Role.OPERATOR),
        target=target,
        vnc_password=_vnc_password(session),
        expires_at=utcnow() + GRANT_LIFE,
    )


def _vnc_password(session: Session) -> SecretStr | None:
    if session.vnc_password_sealed is None:
        return None
    try:
        return SecretStr(open_password(session.vnc_password_sealed, services().settings.secret_key))
    except SealBroken as error:
        raise Problem(
            409,
            "password-lost",
            "This desktop's password cannot be opened",
            "The fleet's secret key has changed since this desktop was made; end it and create another one.",
        ) from error
