"""The database's tables. Times are UTC; text columns hold the words of `viewer.model`.

Only `store.py`, `accounts.py`, `entries.py` and the migrations import this module.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import DateTime, Dialect, ForeignKey, Index, MetaData, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in Python, a naive UTC one in the database: in SQLite text order is then time order."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    # Named constraints: Alembic can only change or drop what has a name.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime()}  # noqa: RUF012


class TenantRow(Base):
    """`id` is the tenant's name: it never changes and says who it is in every log line."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]


class SessionRow(Base):
    """One sandbox or desktop of one tenant; the fields are those of `viewer.model.Session`."""

    __tablename__ = "sandbox_sessions"
    __table_args__ = (
        # Across all tenants: nobody can claim a sandbox that is another one's.
        UniqueConstraint("host", "sandbox_id"),
        UniqueConstraint("request_id"),
        Index("ix_sessions_tenant", "tenant_id", "created_at", "id"),
        Index("ix_sessions_tenant_status", "tenant_id", "status", "created_at", "id"),
        Index("ix_sessions_tenant_task", "tenant_id", "task_id", "created_at", "id"),
        Index("ix_sessions_tenant_sandbox", "tenant_id", "sandbox_id", "created_at", "id"),
        # The worker looks at the live rows every few seconds, whatever the history has grown to.
        Index("ix_sessions_live", "status", "host", sqlite_where=text("terminated_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]
    display: Mapped[str]
    backend: Mapped[str | None]
    status: Mapped[str]
    status_reason: Mapped[str | None]
    sandbox_id: Mapped[str | None]
    host: Mapped[str | None]
    wanted_host: Mapped[str | None]
    image: Mapped[str]
    resolution: Mapped[str | None]
    task_id: Mapped[str | None]
    agent_id: Mapped[str | None]
    error_message: Mapped[str | None]
    request_id: Mapped[str]
    vnc_port: Mapped[int | None]
    vnc_password_sealed: Mapped[str | None]
    ttl_seconds: Mapped[int]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    terminated_at: Mapped[datetime | None]
    terminate_requested_at: Mapped[datetime | None]


class EventRow(Base):
    """The outbox: written in the transaction of the change it tells of. Ids grow and are never reused."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_tenant", "tenant_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    session_id: Mapped[str]
    at: Mapped[datetime]
    payload: Mapped[str]


class HostRow(Base):
    __tablename__ = "hosts"

    name: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    detail: Mapped[str | None]
    last_seen_at: Mapped[datetime | None]
    changed_at: Mapped[datetime]
    certificate_ends: Mapped[datetime | None]


class ApiKeyRow(Base):
    """`sha256` is of the whole key text, 256 random bits inside, so a slow hash would add nothing."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str]
    sha256: Mapped[str]
    label: Mapped[str]
    from_settings: Mapped[bool]
    """Such a key is revoked when the settings no longer hold it; one made by hand stays."""
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class SignInRow(Base):
    """A signed-in browser: the hash of its cookie, and whose it is."""

    __tablename__ = "sign_ins"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str]
    principal_id: Mapped[str]
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    """The key it was opened with, if any: revoking that key ends the sign-in too."""
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    ends_at: Mapped[datetime]


class SignInLinkRow(Base):
    """A one-time way in, printed by the deploy; gone once used."""

    __tablename__ = "signin_links"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str]
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime]


class EntryRow(Base):
    """A way in to an origin beside the viewer: the hash of a one-time ticket, later of the cookie that took
    its place. It goes with the sign-in or the key it was made by, and with its session."""

    __tablename__ = "entries"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    is_ticket: Mapped[bool]
    origin: Mapped[str]
    session_id: Mapped[str | None] = mapped_column(
        ForeignKey("sandbox_sessions.id", ondelete="CASCADE"), index=True
    )
    service: Mapped[str | None]
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str]
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    sign_in_sha256: Mapped[str | None] = mapped_column(
        ForeignKey("sign_ins.sha256", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime]
