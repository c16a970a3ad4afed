"""What the API says of share links, and to those who come by one. Only `NewPublicShare` holds a secret."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from viewer.model import DesktopBackend, Display, Frozen, HostStatus, Kind, LeaseKind, Status


class ShareVisit(Frozen):
    """A browser that came by the link. streams_open: null while the desktop's host does not say."""

    id: str
    address: str | None
    user_agent: str | None
    since: datetime
    last_seen_at: datetime
    streams_open: int | None


class PublicShare(Frozen):
    """A link, without its secret. is_over: it lets nobody in any more, whatever the reason."""

    id: str
    session_id: str
    label: str | None
    single_use: bool
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    is_over: bool
    visits: tuple[ShareVisit, ...]


class ShareList(Frozen):
    """Newest first."""

    items: tuple[PublicShare, ...]


class SharePage(Frozen):
    """Newest first. streams_open of each visit is null: a list of all desktops asks no host."""

    items: tuple[PublicShare, ...]
    next_cursor: str | None


class NewPublicShare(Frozen):
    id: str
    url: str = Field(repr=False, description="Shown this once: who has it watches the desktop.")
    single_use: bool
    expires_at: datetime


class SharedSession(Frozen):
    """All that a visitor is told of the session. Times are RFC 3339 in UTC."""

    id: str
    kind: Kind
    display: Display
    backend: DesktopBackend | None
    status: Status
    status_reason: str | None
    wanted_status: Status | None
    host_status: HostStatus | None
    control: LeaseKind | None = Field(description="Who has keyboard and mouse: of nobody's name.")
    resolution: str | None
    created_at: datetime
    updated_at: datetime
    terminated_at: datetime | None
    shared_until: datetime


class WayIn(Frozen):
    """The page that shows the desktop."""

    page: str
