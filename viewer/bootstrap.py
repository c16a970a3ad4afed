"""What must be true before the viewer begins: a migrated database with the settings' tenants and keys."""

from __future__ import annotations

from viewer import audit
from viewer.accounts import DeclaredKey
from viewer.migrations import upgrade
from viewer.settings import Settings, SettingsError
from viewer.store import Store


def prepare_database(settings: Settings) -> None:
    """Migrate and sync; SettingsError when the database cannot be opened where the settings want it."""
    parent = settings.database.parent
    if not parent.is_dir():
        raise SettingsError(f"database: the directory {parent} does not exist; run the deploy again")
    try:
        upgrade(settings.database)
        store = Store(settings.database)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"database: {settings.database} cannot be used ({reason}); see its owner and mode"
        ) from error
    try:
        with audit.acting("deploy"):
            store.accounts.sync_declared(
                [tenant.name for tenant in settings.tenants], declared_keys(settings)
            )
    finally:
        store.close()


def declared_keys(settings: Settings) -> list[DeclaredKey]:
    return [
        DeclaredKey(id=key.id, tenant=tenant.name, role=key.role, sha256=key.sha256, label=key.label)
        for tenant in settings.tenants
        for key in tenant.keys
    ]
