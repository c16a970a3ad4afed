"""Where the fleet is and with which key: from the environment, else from a file that nobody else can read.

A key is never taken from the command line, which every user of the machine can read.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import httpx
from pydantic import Field, SecretStr, ValidationError

from viewer.cli.problems import Misused
from viewer.model import Frozen


class ConfigFile(Frozen):
    """`config.toml`; everything may be left out."""

    url: str | None = None
    key: SecretStr | None = None
    key_file: Path | None = None
    ca_file: Path | None = None


class Connection(Frozen):
    """url: without a slash at its end. ca_file: the only authorities to trust; None: those of the system."""

    url: str
    key: SecretStr = Field(repr=False)
    ca_file: Path | None = None

    def trust(self) -> ssl.SSLContext:
        """Raises Misused for a file that holds no certificates."""
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Misused(
                f"{self.ca_file} cannot be used: {error}; give a PEM file of certificates"
            ) from error


def load_connection(environment: Mapping[str, str], *, url: str | None, ca_file: Path | None) -> Connection:
    """url, ca_file: what the command line says, which comes first. Raises Misused with what is missing."""
    path = config_path(environment)
    configured = _config(path)
    ca_text = environment.get("DESKFLEET_CA_FILE")
    return Connection(
        url=_checked_url(url or environment.get("DESKFLEET_URL") or configured.url, path),
        key=_key(environment, configured, path),
        ca_file=ca_file or (Path(ca_text) if ca_text else configured.ca_file),
    )


def config_path(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or "/") / ".config"
    return Path(home) / "deskfleet" / "config.toml"


def _config(path: Path) -> ConfigFile:
    if not path.exists():
        return ConfigFile()
    try:
        return ConfigFile.model_validate(tomllib.loads(_private_text(path)))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misused(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        known = ", ".join(ConfigFile.model_fields)
        raise Misused(f"{path}: {field}: {first['msg'].lower()}; known: {known}") from error


def _key(environment: Mapping[str, str], configured: ConfigFile, path: Path) -> SecretStr:
    """The environment's, else the file's; each may hold it or name the file that does."""
    key = _found_key(environment, configured, path)
    if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        raise Misused("the key is not one line of printable ASCII; give one such as df_<id>_<secret>")
    return key


def _found_key(environment: Mapping[str, str], configured: ConfigFile, path: Path) -> SecretStr:
    text, file = environment.get("DESKFLEET_KEY"), environment.get("DESKFLEET_KEY_FILE")
    if text and file:
        raise Misused("DESKFLEET_KEY and DESKFLEET_KEY_FILE are both set; unset one of them")
    if text or file:
        return SecretStr(text) if text else _key_in(Path(file or ""))
    if configured.key and configured.key_file:
        raise Misused(f"{path} has both key and key_file; take one of them out")
    if configured.key_file:
        return _key_in(configured.key_file.expanduser())
    if configured.key:
        return configured.key
    raise Misused(f"there is no key: set DESKFLEET_KEY_FILE or DESKFLEET_KEY, or key_file or key in {path}")


def _key_in(path: Path) -> SecretStr:
    key = _private_text(path).strip()
    if not key:
        raise Misused(f"{path} is empty; write the key into it")
    return SecretStr(key)


def _private_text(path: Path) -> str:
    """The file's text, unless others than its owner can get at it."""
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise Misused(f"{path} can be read or changed by others; run `chmod 600 {path}`")
            return file.read()
    except OSError as error:
        raise Misused(f"{path} cannot be read: {error.strerror}") from error


def _checked_url(url: str | None, path: Path) -> str:
    if not url:
        raise Misused(f"there is no address: set DESKFLEET_URL, or url in {path}")
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL()
    if parts.scheme not in ("http", "https") or not parts.host or parts.userinfo or (parts.port or 1) > 65535:
        raise Misused(f"{url!r} is no address; give one such as https://desk.example.com")
    if parts.scheme == "http" and not _is_this_machine(parts.host):
        raise Misused(f"{url} would send the key in clear; give an address that begins with https://")
    return url.rstrip("/")


def _is_this_machine(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
