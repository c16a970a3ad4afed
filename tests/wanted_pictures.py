"""Wishes for pictures of test desktops, as the control plane seals them."""

from __future__ import annotations

from datetime import timedelta

from pydantic import SecretStr

from tests.relay_process import RelayProcess
from viewer.grants import Grant, PublishedPort, Target, seal_grant
from viewer.model import utcnow
from viewer.relay.answers import Picture, PictureFormat, WantedPicture


def wanted(
    relay: RelayProcess,
    target: Target | int,
    *,
    session_id: str = "s1",
    tenant_id: str = "t1",
    etag: str | None = None,
    password: str | None = None,
) -> WantedPicture:
    """An int target is a published port."""
    grant = Grant(
        purpose="picture",
        session_id=session_id,
        tenant_id=tenant_id,
        target=PublishedPort(port=target) if isinstance(target, int) else target,
        vnc_password=SecretStr(password) if password else None,
        expires_at=utcnow() + timedelta(seconds=30),
    )
    return WantedPicture(grant=seal_grant(grant, relay.key), etag=etag)


def one(
    relay: RelayProcess,
    target: Target | int,
    *,
    width: int | None = None,
    format: PictureFormat = "jpeg",
    etag: str | None = None,
    session_id: str = "s1",
    tenant_id: str = "t1",
    password: str | None = None,
) -> Picture:
    wish = wanted(relay, target, etag=etag, session_id=session_id, tenant_id=tenant_id, password=password)
    client = relay.client()
    try:
        return client.pictures([wish], width=width, format=format)[0]
    finally:
        client.close()
