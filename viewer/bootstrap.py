"""What must be true before the viewer begins: a migrated database with the settings' tenants and keys."""

from __future__ import annotations

from pathlib import Path

from viewer import audit
from viewer.accounts import DeclaredKey
from viewer.migrations import upgrade
from viewer.postgres import first_line
from viewer.settings import Settings, SettingsError
from viewer.store import Store


def prepare_database(settings: Settings) -> None:
    """Migrate and sync; SettingsError when the database cannot be opened where the settings want it."""
    address = settings.database
    if isinstance(address, Path) and not address.parent.is_dir():
        raise SettingsError(f"database: the directory {address.parent} does not exist; run the deploy again")
    try:
        upgrade(address)
        store = Store(address)
        _refuse_to_begin_anew(store, settings)
    except SettingsError:
        store.close()
        raise
    except Exception as error:
        mend = "its owner and mode" if isinstance(address, Path) else "docs/postgresql.md"
        raise SettingsError(
            f"database: {address} cannot be used ({first_line(error)}); see {mend}"
        ) from error
    try:
        with audit.acting("deploy"):
            store.accounts.sync_declared(
                [tenant.name for tenant in settings.tenants], declared_keys(settings)
            )
    finally:
        store.close()


def _refuse_to_begin_anew(store: Store, settings: Settings) -> None:
    """With empty tables every desktop that runs would be a stranger, whose rows are in the file beside."""
    file = settings.state / "deskfleet.db"
    if not isinstance(settings.database, Path) and file.is_file() and not store.accounts.tenants():
        raise SettingsError(
            f"database: it is empty, and {file} has the fleet's rows; move them with `deskfleet-admin"
            " move-database` (docs/postgresql.md), or move that file aside"
        )


def declared_keys(settings: Settings) -> list[DeclaredKey]:
    return [
        DeclaredKey(
            id=key.id,
            tenant=tenant.name,
            role=key.role,
            sha256=key.sha256,
            label=key.label,
            scopes=key.scopes,
        )
        for tenant in settings.tenants
        for key in tenant.keys
    ]
