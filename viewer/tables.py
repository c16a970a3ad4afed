"""The database's tables. Times are UTC; text columns hold the words of `viewer.model`.

Only `store.py`, `accounts.py`, `entries.py` and the migrations import this module.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    UniqueConstraint,
    false,
    text,
    true,
)
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
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime(),
        dict[str, str]: JSON(),
        dict[str, object]: JSON(none_as_null=True),
    }


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
        Index("ix_sessions_tenant_agent", "tenant_id", "agent_id", "created_at", "id"),
        Index("ix_sessions_tenant_host", "tenant_id", "host", "created_at", "id"),
        Index("ix_sessions_tenant_image", "tenant_id", "image", "created_at", "id"),
        # The worker looks at the live rows every few seconds, whatever the history has grown to.
        Index("ix_sessions_live", "status", "host", sqlite_where=text("terminated_at IS NULL")),
        Index(
            "ix_sessions_live_host", "host", "created_at", "id", sqlite_where=text("terminated_at IS NULL")
        ),
        # As does each create of a tenant with a quota, and holds the one write lock meanwhile.
        Index(
            "ix_sessions_live_tenant",
            "tenant_id",
            "created_at",
            "id",
            sqlite_where=text("terminated_at IS NULL"),
        ),
        # For what is forgotten after its time.
        Index("ix_sessions_ended", "terminated_at"),
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
    wanted_labels: Mapped[dict[str, str]] = mapped_column(server_default="{}")
    failed_hosts: Mapped[dict[str, str]] = mapped_column(server_default="{}")
    may_queue: Mapped[bool] = mapped_column(server_default=true())
    via: Mapped[str] = mapped_column(server_default="api")
    cpu_millis: Mapped[int] = mapped_column(server_default="0")
    memory_mib: Mapped[int] = mapped_column(server_default="0")
    labels: Mapped[dict[str, str]] = mapped_column(server_default="{}")
    order_sealed: Mapped[str | None]
    image: Mapped[str]
    resolution: Mapped[str | None]
    task_id: Mapped[str | None]
    agent_id: Mapped[str | None]
    error_message: Mapped[str | None]
    request_id: Mapped[str]
    vnc_port: Mapped[int | None]
    vnc_password_sealed: Mapped[str | None]
    ttl_seconds: Mapped[int]
    idle_seconds: Mapped[int | None]
    last_used_at: Mapped[datetime | None]
    lifetime_ends_at: Mapped[datetime | None]
    wanted_status: Mapped[str | None]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    placed_at: Mapped[datetime | None]
    made_at: Mapped[datetime | None]
    running_at: Mapped[datetime | None]
    is_warm: Mapped[bool] = mapped_column(server_default=false())
    expires_at: Mapped[datetime | None]
    terminated_at: Mapped[datetime | None]
    terminate_requested_at: Mapped[datetime | None]


class SessionLabelRow(Base):
    """A session's labels once more, one a row, so that a list by label stays as quick as any other."""

    __tablename__ = "session_labels"
    __table_args__ = (
        Index("ix_session_labels_value", "tenant_id", "key", "value", "created_at", "session_id"),
    )

    session_id: Mapped[str] = mapped_column(
        ForeignKey("sandbox_sessions.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    tenant_id: Mapped[str]
    created_at: Mapped[datetime]
    """The session's own."""


class HistoryRow(Base):
    """One step of a session's life: kept as long as the session is. `by`: a principal, `worker` or a host."""

    __tablename__ = "session_history"
    __table_args__ = (
        Index("ix_session_history_session", "session_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sandbox_sessions.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    status: Mapped[str]
    reason: Mapped[str | None]
    host: Mapped[str | None]
    by: Mapped[str]
    detail: Mapped[str | None]


class IdempotencyRow(Base):
    """The session that a create with this key made. body_sha256: of what was asked for."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    session_id: Mapped[str] = mapped_column(ForeignKey("sandbox_sessions.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]


class TaskRow(Base):
    """What an agent works on. external_run_id: the name of its run in another system."""

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("tenant_id", "external_run_id"),
        Index("ix_tasks_tenant", "tenant_id", "created_at", "id"),
    )

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    agent_id: Mapped[str | None]
    external_run_id: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class AgentRow(Base):
    """A program that makes and uses desktops."""

    __tablename__ = "agents"
    __table_args__ = (Index("ix_agents_tenant", "tenant_id", "created_at", "id"),)

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


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
    is_draining: Mapped[bool] = mapped_column(server_default=false())
    report: Mapped[dict[str, object] | None]
    """What its hostwatch said last: `viewer.hostwatch.answers.HostReport`."""


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
    ends_at: Mapped[datetime | None]
    """From then on it is as if revoked; None: it is good until somebody revokes it."""
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
