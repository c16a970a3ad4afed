"""People, who may do what, what was done; events of outside systems in, ours out to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _add_people()
    _add_audit_log()
    _add_webhooks_in()
    _add_webhooks_out()
    for column in (
        sa.Column("scopes", sa.JSON(), nullable=True),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("last_used_at", sa.DateTime(), nullable=True),
    ):
        op.add_column("api_keys", column)
    op.add_column("events", sa.Column("type", sa.String(), nullable=False, server_default="session.updated"))
    for name in ("person_id", "address", "user_agent"):
        op.add_column("sign_ins", sa.Column(name, sa.String(), nullable=True))
    op.add_column("signin_links", sa.Column("person_id", sa.String(), nullable=True))
    for table in ("sign_ins", "signin_links"):
        op.add_column(
            table, sa.Column("is_fleet_admin", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        op.create_index(f"ix_{table}_person_id", table, ["person_id"])
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant_id", "created_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_api_keys_tenant", "api_keys")
    for table in ("sign_ins", "signin_links"):
        op.drop_index(f"ix_{table}_person_id", table)
        op.drop_column(table, "is_fleet_admin")
    op.drop_column("signin_links", "person_id")
    for column in ("user_agent", "address", "person_id"):
        op.drop_column("sign_ins", column)
    op.drop_column("events", "type")
    for column in ("last_used_at", "created_by", "scopes"):
        op.drop_column("api_keys", column)
    for table in (
        "webhook_attempts", "webhook_deliveries", "webhook_endpoints", "webhook_receipts", "webhook_secrets",
        "audit_log", "audit_chains", "oidc_states", "attempts", "people",
    ):  # fmt: skip
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        for function in ("audit_log_append_only", "audit_chains_grow"):
            op.execute(f"DROP FUNCTION {function}")


def _add_people() -> None:
    op.create_table(
        "people",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("login", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("is_fleet_admin", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=True),
        sa.Column("password_changed_at", sa.DateTime(), nullable=True),
        sa.Column("oidc_issuer", sa.String(), nullable=True),
        sa.Column("oidc_subject", sa.String(), nullable=True),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("last_sign_in_at", sa.DateTime(), nullable=True),
        sa.Column("disabled_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_people_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_people")),
        sa.UniqueConstraint("login", name=op.f("uq_people_login")),
        sa.UniqueConstraint("oidc_issuer", "oidc_subject", name=op.f("uq_people_oidc_issuer_oidc_subject")),
    )
    op.create_index("ix_people_tenant", "people", ["tenant_id", "created_at", "id"])
    op.create_table(
        "attempts",
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(), nullable=False),
        sa.Column("last_at", sa.DateTime(), nullable=False),
        sa.Column("locked_until", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("bucket", name=op.f("pk_attempts")),
    )
    op.create_table(
        "oidc_states",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("ends_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_oidc_states")),
    )
    op.create_index("ix_oidc_states_ends_at", "oidc_states", ["ends_at"])


def _add_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("principal_name", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("chain", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "number", name=op.f("pk_audit_log")),
    )
    for column in ("action", "at", "principal", "target"):
        op.create_index(f"ix_audit_log_{column}", "audit_log", ["tenant_id", column, "number"])
    op.create_table(
        "audit_chains",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("chain", sa.String(), nullable=False),
        sa.Column("pruned_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pruned_chain", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_audit_chains")),
    )
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


# Entries are only added; what the operator has exported, and only that, may go: up to
# `audit_chains.pruned_number`. On SQLite, REPLACE deletes what is in its way without asking the triggers on
# DELETE (sqlite.org/lang_conflict.html), so an insert must be refused where a row is already.
_APPEND_ONLY = {
    "sqlite": [
        """
        CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
        BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END
        """,
        """
        CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
        WHEN OLD.number > COALESCE(
            (SELECT pruned_number FROM audit_chains WHERE tenant_id = OLD.tenant_id), 0)
        BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END
        """,
        """
        CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
        WHEN EXISTS (SELECT 1 FROM audit_log WHERE tenant_id = NEW.tenant_id AND number = NEW.number)
        BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END
        """,
        """
        CREATE TRIGGER audit_chains_grow BEFORE UPDATE ON audit_chains
        WHEN NEW.tenant_id <> OLD.tenant_id OR NEW.number < OLD.number
            OR NEW.pruned_number < OLD.pruned_number OR NEW.pruned_number > NEW.number
        BEGIN SELECT RAISE(ABORT, 'audit_chains only grows'); END
        """,
        """
        CREATE TRIGGER audit_chains_no_delete BEFORE DELETE ON audit_chains
        BEGIN SELECT RAISE(ABORT, 'audit_chains only grows'); END
        """,
        """
        CREATE TRIGGER audit_chains_no_replace BEFORE INSERT ON audit_chains
        WHEN EXISTS (SELECT 1 FROM audit_chains WHERE tenant_id = NEW.tenant_id)
        BEGIN SELECT RAISE(ABORT, 'audit_chains only grows'); END
        """,
    ],
    "postgresql": [
        """
        CREATE OR REPLACE FUNCTION audit_log_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' THEN
                IF OLD.number <= COALESCE(
                    (SELECT pruned_number FROM audit_chains WHERE tenant_id = OLD.tenant_id), 0)
                THEN RETURN OLD; END IF;
            END IF;
            RAISE EXCEPTION 'audit_log is append-only';
        END $$
        """,
        """
        CREATE OR REPLACE FUNCTION audit_chains_grow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                IF NEW.tenant_id = OLD.tenant_id AND NEW.number >= OLD.number
                    AND NEW.pruned_number >= OLD.pruned_number AND NEW.pruned_number <= NEW.number
                THEN RETURN NEW; END IF;
            END IF;
            RAISE EXCEPTION 'audit_chains only grows';
        END $$
        """,
        """
        CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE ON audit_log
        FOR EACH ROW EXECUTE FUNCTION audit_log_append_only()
        """,
        """
        CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
        FOR EACH STATEMENT EXECUTE FUNCTION audit_log_append_only()
        """,
        """
        CREATE TRIGGER audit_chains_no_change BEFORE UPDATE OR DELETE ON audit_chains
        FOR EACH ROW EXECUTE FUNCTION audit_chains_grow()
        """,
        """
        CREATE TRIGGER audit_chains_no_truncate BEFORE TRUNCATE ON audit_chains
        FOR EACH STATEMENT EXECUTE FUNCTION audit_chains_grow()
        """,
    ],
}


def _add_webhooks_in() -> None:
    op.create_table(
        "webhook_secrets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("secret_sealed", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(), nullable=True),
        sa.Column("ends_at", sa.DateTime(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhook_secrets_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_secrets")),
    )
    op.create_index("ix_webhook_secrets_tenant", "webhook_secrets", ["tenant_id", "created_at"])
    op.create_table(
        "webhook_receipts",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("answer", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhook_receipts_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "message_id", name=op.f("pk_webhook_receipts")),
    )
    op.create_index("ix_webhook_receipts_received", "webhook_receipts", ["received_at"])


def _add_webhooks_out() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("types", sa.JSON(), nullable=False),
        sa.Column("secret_sealed", sa.String(), nullable=False),
        sa.Column("former_secret_sealed", sa.String(), nullable=True),
        sa.Column("former_secret_ends_at", sa.DateTime(), nullable=True),
        sa.Column("last_event_id", NUMBER, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.Column("failing_since", sa.DateTime(), nullable=True),
        sa.Column("disabled_at", sa.DateTime(), nullable=True),
        sa.Column("disabled_reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhook_endpoints_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index("ix_webhook_endpoints_tenant", "webhook_endpoints", ["tenant_id", "created_at", "id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("event_id", NUMBER, nullable=True),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_deliveries_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhook_deliveries_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint(
            "endpoint_id", "message_id", name=op.f("uq_webhook_deliveries_endpoint_id_message_id")
        ),
    )
    for name, columns in (
        ("due", ["status", "next_attempt_at", "endpoint_id"]),
        ("endpoint", ["endpoint_id", "created_at", "id"]),
        ("finished", ["finished_at"]),
        ("next", ["endpoint_id", "status", "next_attempt_at"]),
        ("status", ["endpoint_id", "status", "created_at", "id"]),
    ):
        op.create_index(f"ix_webhook_deliveries_{name}", "webhook_deliveries", columns)
    op.create_table(
        "webhook_attempts",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("delivery_id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("took_ms", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name=op.f("fk_webhook_attempts_delivery_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_attempts")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_attempts_delivery", "webhook_attempts", ["delivery_id", "id"])
