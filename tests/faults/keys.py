"""An API key for each of two tenants, as the deploy declares them."""

from __future__ import annotations

from viewer.credentials import hash_of, new_key

KEYS = {"main": new_key(), "other": new_key()}
"""Tenant -> an operator's key of it."""
TENANTS = [
    {"name": name, "keys": [{"id": key.id, "role": "operator", "sha256": hash_of(key.text)}]}
    for name, key in KEYS.items()
]
"""What the settings say of them."""
