"""Canary secrets: one of every kind that we handle, made for one test and then looked for where none may be.

`assert_nowhere` reads files and whole directories (logs, database files with their WAL, metrics, dumps).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from cryptography.fernet import Fernet

from viewer.credentials import new_key
from viewer.signatures import new_webhook_secret


def new_canaries() -> dict[str, str]:
    """Kind -> value; none is ever the same twice."""
    return {
        "API key": new_key().text,
        "sign-in token": secrets.token_urlsafe(32),
        "Fernet key": Fernet.generate_key().decode(),
        "sealed value": Fernet(Fernet.generate_key()).encrypt(b"a grant").decode(),
        "VNC password": f"Vp{secrets.token_hex(3)}",
        "value of env": f"e$ \"n'v\n{secrets.token_hex(4)}",
        "key of an OpenSandbox server": f"box-{secrets.token_hex(12)}",
        "webhook secret": new_webhook_secret(),
        "ticket": f"dft_{secrets.token_urlsafe(90)}.{secrets.token_urlsafe(20)}",
        "cookie of a service": f"crumb-{secrets.token_hex(6)}",
    }


def assert_nowhere(paths: Iterable[Path], canaries: Mapping[str, str]) -> None:
    """Fails with the kinds and files, and never with a value."""
    forms = {kind: set(_forms(value)) for kind, value in canaries.items()}
    found, read = [], 0
    for file in _files(paths):
        content = file.read_bytes()
        read += 1
        found += [
            f"{kind} in {file}" for kind, looks in forms.items() if any(one in content for one in looks)
        ]
    assert read, "there is nothing to look into"
    assert not found, "; ".join(found)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (below for below in sorted(path.rglob("*")) if below.is_file())
        else:
            yield path


def _forms(value: str) -> Iterator[bytes]:
    """The value as it is, and as it looks in JSON, in Python's words, in an address and in base64."""
    escaped = json.dumps(value)[1:-1]
    for form in (value, escaped, json.dumps(escaped)[1:-1], repr(value)[1:-1], quote(value, safe="")):
        yield form.encode()
    yield base64.b64encode(value.encode())
