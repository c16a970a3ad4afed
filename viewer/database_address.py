"""Where the control plane's database is: a file for SQLite, or the URL of a PostgreSQL server's database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator

_OPTIONS = frozenset(
    {
        "connect_timeout", "gssencmode", "host", "hostaddr", "passfile", "port", "sslcert", "sslcrl",
        "sslkey", "sslmode", "sslrootcert", "target_session_attrs",
    }
)  # fmt: skip
"""Of libpq's. What else there is, we set ourselves, or it would put a secret into the URL."""


@dataclass(frozen=True)
class PostgresAddress:
    """A URL as libpq reads it, and so `psql` and `pg_dump` too. It holds no password: that is in the file
    that `passfile` names, or there is none because the server trusts a certificate or the unix user.

    Raises ValueError with one sentence.
    """

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "postgresql":
            raise ValueError("is no PostgreSQL URL; write it as postgresql://user@host:5432/database")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.password is not None or "password" in options:
            raise ValueError(
                "must not hold the password; put it into a file as libpq wants it, and name that file with"
                " ?passfile=/path"
            )
        if not parts.path.strip("/"):
            raise ValueError("names no database; write it as postgresql://user@host:5432/database")
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise ValueError(f"has the option {unknown[0]!r}; use only {', '.join(sorted(_OPTIONS))}")

    def __str__(self) -> str:
        return self.url

    @property
    def passfile(self) -> Path | None:
        """The file that has the password."""
        named = dict(parse_qsl(urlsplit(self.url).query)).get("passfile")
        return None if named is None else Path(named)


def address_of(text: str) -> Path | PostgresAddress:
    """Raises ValueError with one sentence."""
    return PostgresAddress(text) if "://" in text else Path(text)


def _parsed(value: object) -> object:
    return address_of(value) if isinstance(value, str) else value


DatabaseAddress = Annotated[Path | PostgresAddress, BeforeValidator(_parsed)]
