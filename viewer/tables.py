"""The database's tables. Times are UTC; text columns hold the words of `viewer.model`.

Only the stores (such as `store.py`, `accounts.py`, `people.py`), `audit.py` and the migrations import this
module.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
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


Number = Annotated[int, "number"]
"""One that grows for ever, such as an event's id. SQLite has one kind of integers, and numbers rows by itself
only under that name."""


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
        Number: BigInteger().with_variant(Integer, "sqlite"),
        dict[str, str]: JSON(),
        dict[str, object]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
    }


def _of_the_live(name: str, *columns: str) -> Index:
    """An index that leaves out the sessions which have ended."""
    return _where(name, "terminated_at IS NULL", *columns)


def _where(name: str, condition: str, *columns: str) -> Index:
    return Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


class TenantRow(Base):
    """`id` is the tenant's name: it never changes and says who it is in every log line."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    from_settings: Mapped[bool] = mapped_column(server_default=false())
    """The settings name it, or did when they were last read."""
    disabled_at: Mapped[datetime | None]
    """Since then the settings name it no more: none of its keys and people comes in."""


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
        _of_the_live("ix_sessions_live", "status", "host"),
        _of_the_live("ix_sessions_live_host", "host", "created_at", "id"),
        # As does each create of a tenant with a quota, and holds the one write lock meanwhile.
        _of_the_live("ix_sessions_live_tenant", "tenant_id", "created_at", "id"),
        # Of the few that need a person.
        _where("ix_sessions_tenant_help", "help_reason IS NOT NULL", "tenant_id", "created_at", "id"),
        # Lists in the order of change and of end. Only who spells out the condition gets them: SQLite would
        # take either for the one above, whose leading column is the same.
        _where("ix_sessions_tenant_updated", "updated_at IS NOT NULL", "tenant_id", "updated_at", "id"),
        _where(
            "ix_sessions_live_expires",
            "terminated_at IS NULL AND expires_at IS NOT NULL",
            "tenant_id",
            "expires_at",
            "id",
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
    help_reason: Mapped[str | None]
    help_asked_at: Mapped[datetime | None]
    help_asked_by: Mapped[str | None]
    help_ended_at: Mapped[datetime | None]
    help_ended_by: Mapped[str | None]


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

    id: Mapped[Number] = mapped_column(primary_key=True, autoincrement=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sandbox_sessions.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    status: Mapped[str]
    reason: Mapped[str | None]
    host: Mapped[str | None]
    by: Mapped[str]
    detail: Mapped[str | None]


class IdempotencyRow(Base):
    """The session that a create with this key made. key: its hash. body_sha256: of what was asked for."""

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

    id: Mapped[Number] = mapped_column(primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    session_id: Mapped[str]
    type: Mapped[str] = mapped_column(server_default="session.updated")
    """What it tells of: `viewer.rows.EventType`."""
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
    __table_args__ = (Index("ix_api_keys_tenant", "tenant_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str]
    sha256: Mapped[str]
    label: Mapped[str]
    from_settings: Mapped[bool]
    """Such a key is revoked when the settings no longer hold it; one made by hand stays."""
    scopes: Mapped[list[str] | None]
    """`viewer.model.Scope`: what of its role it may use; None: all of it, but for what must be named."""
    created_by: Mapped[str | None]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    """From then on it is as if revoked; None: it is good until somebody revokes it."""
    revoked_at: Mapped[datetime | None]


class PersonRow(Base):
    """Somebody of one tenant who signs in by name and password, or through the tenant's OIDC provider."""

    __tablename__ = "people"
    __table_args__ = (
        UniqueConstraint("login"),
        UniqueConstraint("oidc_issuer", "oidc_subject"),
        Index("ix_people_tenant", "tenant_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    login: Mapped[str]
    """What he types to sign in, folded to one form; one over all tenants, because nobody types a tenant."""
    name: Mapped[str]
    role: Mapped[str]
    is_fleet_admin: Mapped[bool] = mapped_column(server_default=false())
    password_hash: Mapped[str | None]
    """argon2id, with its own salt and parameters; None: he has no password (yet)."""
    password_changed_at: Mapped[datetime | None]
    oidc_issuer: Mapped[str | None]
    oidc_subject: Mapped[str | None]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    last_sign_in_at: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]


class OidcStateRow(Base):
    """A sign-in through the provider that has come back: its `state` is good once, in whichever process. The
    states themselves lie in the browsers' cookies; only what was used is here, until it would be over."""

    __tablename__ = "oidc_states"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    ends_at: Mapped[datetime] = mapped_column(index=True)


class AttemptRow(Base):
    """Failed attempts to sign in under one name, or from one address, lately. `bucket`: `login:…`, `ip:…`."""

    __tablename__ = "attempts"

    bucket: Mapped[str] = mapped_column(primary_key=True)
    failures: Mapped[int]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    locked_until: Mapped[datetime | None]


class AuditRow(Base):
    """Who did what, from where, with what outcome. Rows are only added: triggers refuse all else."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_target", "tenant_id", "target", "number"),
        Index("ix_audit_log_principal", "tenant_id", "principal", "number"),
        Index("ix_audit_log_action", "tenant_id", "action", "number"),
        Index("ix_audit_log_at", "tenant_id", "at", "number"),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    """No foreign key: what was done stays on record, whoever is gone."""
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Counts the tenant's own entries from 1, without a gap: one that is taken out leaves its number."""
    at: Mapped[datetime]
    principal: Mapped[str]
    principal_name: Mapped[str]
    """As he was called then."""
    address: Mapped[str | None]
    action: Mapped[str]
    target: Mapped[str | None]
    outcome: Mapped[str]
    detail: Mapped[dict[str, object] | None]
    request_id: Mapped[str | None]
    chain: Mapped[str]
    """SHA-256 over the tenant's entry before and this one: a row taken out or changed by hand shows."""


class AuditChainRow(Base):
    """Where a tenant's audit log ends, and from where on it is still here. Triggers let both only grow."""

    __tablename__ = "audit_chains"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    chain: Mapped[str]
    """Of the newest entry: the end of the log cannot be cut off unseen."""
    pruned_number: Mapped[int] = mapped_column(server_default="0")
    pruned_chain: Mapped[str]
    """Of the newest entry that the operator has exported and taken out; the chain goes on from there. Only
    entries up to it can be deleted."""


class WebhookSecretRow(Base):
    """What a tenant's outside system signs its events with. Kept sealed, not hashed: a signature is checked
    with the secret itself."""

    __tablename__ = "webhook_secrets"
    __table_args__ = (Index("ix_webhook_secrets_tenant", "tenant_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    label: Mapped[str]
    secret_sealed: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    """After a rotation the old one is good for a while."""
    revoked_at: Mapped[datetime | None]


class ReceiptRow(Base):
    """An event that came in, by its sender's id: a second delivery of it gets the first one's answer."""

    __tablename__ = "webhook_receipts"
    __table_args__ = (Index("ix_webhook_receipts_received", "received_at"),)

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    message_id: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    received_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    status: Mapped[int]
    answer: Mapped[str]


class WebhookEndpointRow(Base):
    """Where a tenant wants its events sent. `last_event_id`: up to which of them deliveries are written."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_tenant", "tenant_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    url: Mapped[str]
    label: Mapped[str]
    types: Mapped[list[str]]
    """`viewer.rows.EventType`; empty: all."""
    secret_sealed: Mapped[str]
    former_secret_sealed: Mapped[str | None]
    former_secret_ends_at: Mapped[datetime | None]
    """Until then deliveries carry a signature of both."""
    last_event_id: Mapped[Number]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]


class DeliveryRow(Base):
    """One event on its way to one endpoint."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("endpoint_id", "message_id"),
        # The log of an endpoint, whole and by status.
        Index("ix_webhook_deliveries_endpoint", "endpoint_id", "created_at", "id"),
        Index("ix_webhook_deliveries_status", "endpoint_id", "status", "created_at", "id"),
        # What has been due for longest, of all and of one endpoint.
        Index("ix_webhook_deliveries_due", "status", "next_attempt_at", "endpoint_id"),
        Index("ix_webhook_deliveries_next", "endpoint_id", "status", "next_attempt_at"),
        # For what is forgotten after its time.
        Index("ix_webhook_deliveries_finished", "finished_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    message_id: Mapped[str]
    """`webhook-id` of all its attempts."""
    type: Mapped[str]
    event_id: Mapped[Number | None]
    """None for a trial that somebody asked for."""
    body: Mapped[str]
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class DeliveryAttemptRow(Base):
    """The delivery log: what one attempt met with."""

    __tablename__ = "webhook_attempts"
    __table_args__ = (
        Index("ix_webhook_attempts_delivery", "delivery_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[Number] = mapped_column(primary_key=True, autoincrement=True)
    delivery_id: Mapped[str] = mapped_column(ForeignKey("webhook_deliveries.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    took_ms: Mapped[int]
    status_code: Mapped[int | None]
    """None when no answer came; `error` says why."""
    error: Mapped[str | None]


class SignInRow(Base):
    """A signed-in browser: the hash of its cookie, and whose it is."""

    __tablename__ = "sign_ins"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str]
    principal_id: Mapped[str]
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    """The key it was opened with, if any: revoking that key ends the sign-in too."""
    person_id: Mapped[str | None] = mapped_column(index=True)
    """Who signed in, if it was by name: his role is the one that he has now, not `role`. No foreign key:
    SQLite would have to make the table anew, and the entries that hang on it would go."""
    is_fleet_admin: Mapped[bool] = mapped_column(server_default=false())
    """Of one by a link that is nobody's: what the link let in for."""
    address: Mapped[str | None]
    user_agent: Mapped[str | None]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    ends_at: Mapped[datetime]


class SignInLinkRow(Base):
    """A one-time way in, printed by the deploy or made for a person; gone once used."""

    __tablename__ = "signin_links"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str]
    person_id: Mapped[str | None] = mapped_column(index=True)
    """Whose it is, and whose password it lets be set; None: it lets a browser in under no name."""
    is_fleet_admin: Mapped[bool] = mapped_column(server_default=false())
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime]


class EntryRow(Base):
    """A way in to an origin beside the viewer: the hash of a one-time ticket, later of the cookie that took
    its place. It goes with the sign-in, the key or the share link's visit it was made by, and with its
    session."""

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
    share_visit_id: Mapped[str | None]
    """No foreign key: SQLite would have to make the table anew."""
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime]


class LeaseRow(Base):
    """Who has keyboard and mouse of a session; one without a row: nobody, ever. `viewer.model.Lease`."""

    __tablename__ = "leases"
    __table_args__ = (Index("ix_leases_held", "ends_at"),)

    session_id: Mapped[str] = mapped_column(
        ForeignKey("sandbox_sessions.id", ondelete="CASCADE"), primary_key=True
    )
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    number: Mapped[Number]
    kind: Mapped[str | None]
    holder: Mapped[str | None]
    holder_name: Mapped[str | None]
    since: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    """When the holder last did something with it, to within seconds."""
    reason: Mapped[str | None]


class LeaseRequestRow(Base):
    """Somebody asks the holder for it. They go when the lease changes hands to him, or he takes it back."""

    __tablename__ = "lease_requests"

    session_id: Mapped[str] = mapped_column(
        ForeignKey("sandbox_sessions.id", ondelete="CASCADE"), primary_key=True
    )
    holder: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    reason: Mapped[str | None]
    at: Mapped[datetime]


class StreamTicketRow(Base):
    """A short-lived way to one session's stream, made by a principal for a program or a foreign page."""

    __tablename__ = "stream_tickets"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    session_id: Mapped[str] = mapped_column(ForeignKey("sandbox_sessions.id", ondelete="CASCADE"), index=True)
    holder: Mapped[str]
    """`Principal.holder` of its maker: it is worth what he may do now."""
    role: Mapped[str]
    """`watch` or `control`."""
    is_single_use: Mapped[bool]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    ends_at: Mapped[datetime] = mapped_column(index=True)


class ShareLinkRow(Base):
    """A way to watch one session without an account."""

    __tablename__ = "share_links"
    __table_args__ = (
        Index("ix_share_links_session", "session_id", "created_at", "id"),
        Index("ix_share_links_tenant", "tenant_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    session_id: Mapped[str] = mapped_column(ForeignKey("sandbox_sessions.id", ondelete="CASCADE"))
    label: Mapped[str]
    is_single_use: Mapped[bool]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class ShareVisitRow(Base):
    """A browser that came by a share link: the hash of its cookie, from where, and when it was last seen."""

    __tablename__ = "share_visits"

    id: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    link_id: Mapped[str] = mapped_column(ForeignKey("share_links.id", ondelete="CASCADE"), index=True)
    address: Mapped[str | None]
    user_agent: Mapped[str | None]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]


class GestureRow(Base):
    """Input that was sent with an idempotency key. key: its hash. answer: None while it is under way, and for
    good where it was cut in the middle: then nobody knows how far it got."""

    __tablename__ = "gestures"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    session_id: Mapped[str] = mapped_column(ForeignKey("sandbox_sessions.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(index=True)
    answer: Mapped[str | None]


class DocumentRow(Base):
    """What a task has brought forth; its content is apart, so that a list does not read it. session_id: no
    key to the table, because a document outlives its session. size: bytes."""

    __tablename__ = "documents"
    __table_args__ = (
        Index("ix_documents_tenant", "tenant_id", "created_at", "id"),
        Index("ix_documents_tenant_task", "tenant_id", "task_id", "created_at", "id"),
        Index("ix_documents_tenant_session", "tenant_id", "session_id", "created_at", "id"),
        Index("ix_documents_tenant_type", "tenant_id", "type", "created_at", "id"),
        # For what is forgotten after its time.
        Index("ix_documents_updated", "updated_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    task_id: Mapped[str | None]
    agent_id: Mapped[str | None]
    session_id: Mapped[str | None]
    type: Mapped[str]
    title: Mapped[str]
    path: Mapped[str | None]
    media_type: Mapped[str]
    language: Mapped[str | None]
    size: Mapped[int]
    sha256: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class DocumentContentRow(Base):
    __tablename__ = "document_contents"

    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    data: Mapped[bytes]
