"""The only reader and writer of the deploy's secrets.

What a site needs is generated once; whoever changes the site (a new tenant, a new host) gets the missing
things added; what is there is never replaced, except certificates before they end. Who reads them takes
nothing away: keys of a host that is not in the site file go with `forget_former`, in a roll-out. The secrets
lie in one of three places, which `place_of` chooses.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets as random
import string
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import pyrage
import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pyrage.x25519 import Recipient

from inventory.authority import RENEWAL, renewed, with_new_authority
from inventory.models import ApiKey, Group, Secrets, Site, Ssh
from inventory.operator import IdentityUnusable, identities, identity_path

ValueT = TypeVar("ValueT")

VARIABLE = "DESKFLEET_SECRETS"
LOCAL = Path(".local")
_GENERATED = ("opensandbox_keys", "relay_keys", "desktop_keys", "tenant_keys")
_BY_NAME = (*_GENERATED, "given")
_OPERATORS = "encrypted_to"
"""Beside the secrets in an age file: for whom it was encrypted, which the file itself does not tell."""


class SecretsUnreadable(Exception):
    """The site's secrets can't be read, or some of them can't be made; the sentence says what to do."""


class Place(Protocol):
    """Where the secrets of a site lie."""

    renewal: timedelta
    """Certificates with less than this left are made anew."""

    @property
    def name(self) -> str:
        """What a sentence calls it."""

    @property
    def lock(self) -> Path | None:
        """A directory that two deploys at once take turns with."""

    def read(self) -> Secrets | None:
        """None where the site has none yet."""

    def is_current(self) -> bool:
        """Could what was read stay as it lies there?"""

    def write(self, complete: Secrets, known: Secrets | None) -> None:
        """Replace what is there, atomically."""


def load_secrets(site: Site, *, site_file: Path, now: datetime | None = None) -> Secrets:
    """Return the site's secrets, generating what is missing; SecretsUnreadable where that can't be done."""
    place = place_of(site, site_file)
    with _turn(place.lock):
        known = place.read()
        complete = _complete(known, site, site_file, now or datetime.now(UTC), place.renewal)
        if complete != known or not place.is_current():
            place.write(complete, known)
    return _without_former(complete, site)


def has_former(site: Site, *, site_file: Path) -> bool:
    """Do the site's secrets hold keys of hosts or desktops that the site has no more?"""
    known = place_of(site, site_file).read()
    return known is not None and _without_former(known, site) != known


def forget_former(site: Site, *, site_file: Path) -> None:
    """Drop what belongs to hosts and desktops that the site has no more: who comes back gets new keys."""
    place = place_of(site, site_file)
    with _turn(place.lock):
        known = place.read()
        if known is not None and (kept := _without_former(known, site)) != known:
            place.write(kept, known)


def rotate(site: Site, name: str, *, site_file: Path, now: datetime | None = None) -> None:
    """Replace one secret by a new one, by a name of `names`; the next roll-out takes it to the hosts."""
    if VARIABLE in os.environ:
        raise SecretsUnreadable(f"{VARIABLE}: is set, and nothing can be replaced in it; unset it to rotate")
    now = now or datetime.now(UTC)
    load_secrets(site, site_file=site_file, now=now)
    place = place_of(site, site_file)
    with _turn(place.lock):
        known = place.read()
        if known is not None:
            rest = _without(known, name, now)
            place.write(_complete(rest, site, site_file, now, place.renewal), known)


def names(secrets: Secrets) -> list[str]:
    """What can be rotated: `viewer_key`, `relay_keys.box1`, `certificates`, …"""
    named = [f"{field}.{name}" for field in _BY_NAME for name in getattr(secrets, field)]
    return ["viewer_key", "admin_key", *named, *(["certificates"] if secrets.certificates else [])]


def _without(secrets: Secrets, name: str, now: datetime) -> Secrets:
    """The same without this secret, or with a new one where it can't be missing."""
    field, _, key = name.partition(".")
    value: object = None
    if field == "certificates" and secrets.certificates is not None:
        value = with_new_authority(secrets.certificates, now)
    elif field == "viewer_key":
        value = fernet_key()
    elif field == "admin_key":
        value = api_key("admin", secrets.admin_key.label)
    elif field in _BY_NAME:
        value = {known: one for known, one in getattr(secrets, field).items() if known != key}
    return secrets.model_copy(update={field: value})


def place_of(site: Site, site_file: Path) -> Place:
    """The variable, where it is set; an age file, where the site names operators; else a file of this
    checkout."""
    plain, encrypted = LOCAL / f"secrets-{site_file.stem}.yml", site_file.with_suffix(".age")
    if VARIABLE in os.environ:
        return _Variable(os.environ[VARIABLE])
    if site.operators:
        return _AgeFile(encrypted, site, site_file, former=_PlainFile(plain, site))
    if encrypted.exists():
        raise SecretsUnreadable(
            f"{_shown(site_file)}:operators: is missing, but {_shown(encrypted)} holds the site's secrets;"
            " put the operators' age keys back, or move that file away"
        )
    if any(isinstance(host.connect, Ssh) for host in site.hosts.values()):
        raise SecretsUnreadable(
            f"{_shown(site_file)}:operators: is missing; run `make operator`, and put the age key it prints"
            f" there: the site's secrets are kept encrypted to it (or set {VARIABLE})"
        )
    return _PlainFile(plain, site)


def place_name(site: Site, site_file: Path | None) -> str:
    """What a sentence calls the place of the site's secrets. `site_file` None: they came from the variable,
    which is taken out of the environment."""
    return VARIABLE if site_file is None else place_of(site, site_file).name


def take_out(environment: MutableMapping[str, str], secrets: Iterable[Secrets]) -> dict[str, str]:
    """Remove what holds secrets from `environment`, so that no program inherits it; return what it was."""
    hidden = {VARIABLE, *(name for some in secrets for name in some.given)}
    return {name: environment.pop(name) for name in sorted(hidden & set(environment))}


def key_hash(key: ApiKey) -> str:
    """What a host may know of a key: SHA-256 of the whole text, in hex."""
    return hashlib.sha256(key.text.get_secret_value().encode()).hexdigest()


def text_of(secrets: Secrets, **more: object) -> str:
    """The secrets in the clear, as YAML; what DESKFLEET_SECRETS takes."""
    return yaml.safe_dump({**more, **_revealed(secrets)}, sort_keys=False)


class _Variable:
    """The whole text in an environment variable, for machines that keep nothing, such as a CI runner."""

    name = VARIABLE
    lock = None
    renewal = timedelta()  # where nothing is kept, a certificate serves until its end

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> Secrets:
        if not self._text.strip():
            raise SecretsUnreadable(
                f"{VARIABLE}: is set but empty; give it the whole text of the secrets, or unset it"
            )
        try:
            return _parsed(self._text)
        except _NotSecrets:
            raise SecretsUnreadable(
                f"{VARIABLE}: is not the text of a site's secrets; take what"
                " `python -m inventory.keys export` prints"
            ) from None

    def is_current(self) -> bool:
        return True

    def write(self, complete: Secrets, known: Secrets | None) -> None:
        missing = _missing(known, complete) if known else []
        if missing:
            raise SecretsUnreadable(
                f"{VARIABLE}: lacks {', '.join(missing)}; roll out once where the secrets lie in a file,"
                " then export them anew"
            )


class _PlainFile:
    """On the operator's machine alone, 0600: for a site that never leaves it."""

    renewal = RENEWAL

    def __init__(self, path: Path, site: Site) -> None:
        self.path, self._site = path, site

    @property
    def name(self) -> str:
        return _shown(self.path)

    @property
    def lock(self) -> Path:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SecretsUnreadable(f"{_shown(self.path)}: can't be made: {error.strerror}") from None
        return self.path.parent

    def read(self) -> Secrets | None:
        if not self.path.exists():
            return None
        if self.path.stat().st_mode & 0o077:
            raise SecretsUnreadable(
                f"{_shown(self.path)}: others can read it; run: chmod 600 {_shown(self.path)}"
            )
        try:
            return _parsed(_bytes(self.path).decode(errors="replace"), self._site)
        except _NotSecrets:
            raise SecretsUnreadable(
                f"{_shown(self.path)}: not a secrets file of this version; restore it or move it away"
            ) from None

    def is_current(self) -> bool:
        return True

    def write(self, complete: Secrets, known: Secrets | None) -> None:
        head = "# Generated by Deskfleet for this site. Whoever has this file owns the fleet.\n"
        _replace(self.path, (head + text_of(complete)).encode())


class _AgeFile:
    """Beside the site file, encrypted to its operators, so that it can be kept and shared with it."""

    renewal = RENEWAL

    def __init__(self, path: Path, site: Site, site_file: Path, *, former: _PlainFile) -> None:
        self.path, self._site, self._site_file, self._former = path, site, site_file, former
        self._encrypted_to: list[str] = []

    @property
    def name(self) -> str:
        return _shown(self.path)

    @property
    def lock(self) -> Path:
        return self.path.parent

    def read(self) -> Secrets | None:
        if not self.path.exists():
            return self._former.read()  # of the time before the site had operators
        text = self._decrypted().decode(errors="replace")
        try:
            self._encrypted_to = _mapping(text).get(_OPERATORS, [])
            return _parsed(text, self._site)
        except _NotSecrets:
            raise SecretsUnreadable(
                f"{_shown(self.path)}: holds no secrets of this version; restore it or move it away"
            ) from None

    def is_current(self) -> bool:
        return self._encrypted_to == list(self._site.operators)

    def write(self, complete: Secrets, known: Secrets | None) -> None:
        recipients = [self._recipient(index, text) for index, text in enumerate(self._site.operators)]
        own = [str(identity.to_public()) for identity in self._identities()]
        if not set(own) & set(self._site.operators):
            raise SecretsUnreadable(
                f"{_shown(self._site_file)}:operators: lacks your own key {own[0]}; add it, or you could not"
                f" read {_shown(self.path)} any more"
            )
        text = text_of(complete, **{_OPERATORS: list(self._site.operators)})
        _replace(self.path, pyrage.encrypt(text.encode(), recipients))
        self._former.path.unlink(missing_ok=True)

    def _decrypted(self) -> bytes:
        own = self._identities()
        try:
            return pyrage.decrypt(_bytes(self.path), own)
        except pyrage.DecryptError as error:
            if "No matching keys" not in str(error):
                raise SecretsUnreadable(
                    f"{_shown(self.path)}: is damaged or not an age file; restore it"
                ) from None
        raise SecretsUnreadable(
            f"{_shown(self.path)}: is not encrypted to your identity {identity_path()}; have an operator of"
            f" the site add {own[0].to_public()} under `operators:` and roll out once"
        )

    def _identities(self) -> list[pyrage.x25519.Identity]:
        try:
            return identities(identity_path())
        except IdentityUnusable as error:
            raise SecretsUnreadable(str(error)) from None

    def _recipient(self, index: int, text: str) -> Recipient:
        try:
            return Recipient.from_str(text)
        except pyrage.RecipientError:
            raise SecretsUnreadable(
                f"{_shown(self._site_file)}:operators.{index}: {text} is not an age public key; copy it again"
            ) from None


@contextmanager
def _turn(directory: Path | None) -> Iterator[None]:
    """Two deploys that generate at the same moment must not each make their own."""
    if directory is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _complete(
    known: Secrets | None, site: Site, site_file: Path, now: datetime, renewal: timedelta
) -> Secrets:
    known = known or Secrets(
        fleet_id=f"f-{random.token_hex(6)}",
        viewer_key=fernet_key(),
        opensandbox_keys={},
        relay_keys={},
        desktop_keys={},
        admin_key=api_key("admin", "first admin"),
        tenant_keys={},
    )
    boxes = site.hosts_in(Group.SANDBOXES)
    return known.model_copy(
        update={
            "opensandbox_keys": _filled(known.opensandbox_keys, boxes, random_key),
            "relay_keys": _filled(known.relay_keys, {**boxes, **site.hosts_in(Group.DESKTOPS)}, fernet_key),
            "desktop_keys": _filled(known.desktop_keys, site.desktops, random_key),
            "tenant_keys": {
                **{name: api_key("operator", f"operator of {name}") for name in site.tenants},
                **known.tenant_keys,
            },
            "certificates": (
                renewed(known.certificates, site, now, left=renewal) if site.spreads else known.certificates
            ),
            "given": _given(known.given, site, site_file),
        }
    )


def _given(known: Mapping[str, SecretStr], site: Site, site_file: Path) -> dict[str, SecretStr]:
    """What only the operator can know; taken from the environment once, then kept."""
    wanted = {name for names in site.given.values() for name in names}
    found = {name: SecretStr(os.environ[name]) for name in wanted if os.environ.get(name)}
    have = {**found, **known}
    problems = [
        f"{_shown(site_file)}:{key}: no value is known for {', '.join(missing)};"
        " set it in the environment of the next roll-out, which keeps it among the site's secrets"
        for key, names in site.given.items()
        if (missing := [name for name in names if name not in have])
    ]
    if problems:
        raise SecretsUnreadable("\n".join(problems))
    return have


def _filled(
    known: Mapping[str, SecretStr], wanted: Iterable[str], make: Callable[[], SecretStr]
) -> dict[str, SecretStr]:
    return {**known, **{name: make() for name in wanted if name not in known}}


def _without_former(secrets: Secrets, site: Site) -> Secrets:
    """The same without what belongs to hosts and desktops that the site has not, or not in that group."""
    boxes = site.hosts_in(Group.SANDBOXES)
    wanted = {
        "opensandbox_keys": boxes.keys(),
        "relay_keys": {*boxes, *site.hosts_in(Group.DESKTOPS)},
        "desktop_keys": site.desktops.keys(),
    }
    certificates = secrets.certificates
    return secrets.model_copy(
        update={
            **{field: _only(getattr(secrets, field), names) for field, names in wanted.items()},
            "certificates": certificates
            and certificates.model_copy(
                update={
                    "hosts": _only(certificates.hosts, site.hosts),
                    "former": _only(certificates.former, site.hosts),
                }
            ),
        }
    )


def _only(known: Mapping[str, ValueT], names: Container[str]) -> dict[str, ValueT]:
    return {name: value for name, value in known.items() if name in names}


def _missing(known: Secrets, complete: Secrets) -> list[str]:
    """What `complete` has beyond `known`, by name. What was given may come from the environment each time."""
    missing = [
        f"{field}.{name}"
        for field in _GENERATED
        for name in getattr(complete, field)
        if name not in getattr(known, field)
    ]
    if complete.certificates is not None and complete.certificates != known.certificates:
        before = known.certificates.hosts if known.certificates else {}
        missing += [
            f"certificates.hosts.{name}"
            for name, pair in complete.certificates.hosts.items()
            if pair != before.get(name)
        ]
    return missing


def random_key() -> SecretStr:
    return SecretStr(random.token_hex(32))


def api_key(role: Literal["admin", "operator", "watcher"], label: str) -> ApiKey:
    ident = "".join(random.choice(string.ascii_lowercase + string.digits) for _ in range(8))
    return ApiKey(id=ident, text=SecretStr(f"df_{ident}_{random.token_urlsafe(32)}"), role=role, label=label)


def fernet_key() -> SecretStr:
    return SecretStr(base64.urlsafe_b64encode(os.urandom(32)).decode())


class _NotSecrets(Exception):
    """The text is not one of ours. It never says why: the reasons quote the text."""


def _parsed(text: str, site: Site | None = None) -> Secrets:
    data = _mapping(text)
    data.pop(_OPERATORS, None)
    _rename_former(data, site)
    try:
        return Secrets.model_validate(data)
    except ValidationError:
        raise _NotSecrets from None


def _mapping(text: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        raise _NotSecrets from None
    if not isinstance(data, dict):
        raise _NotSecrets
    return data


def _rename_former(data: dict[str, Any], site: Site | None) -> None:
    """Up to 0.1 a site was one host, and its two keys were not named after it."""
    if site is None or site.spreads:
        return
    (host,) = site.hosts
    for former in ("opensandbox_key", "relay_key"):
        if former in data:
            data[f"{former}s"] = {host: data.pop(former)}
            data.setdefault("desktop_keys", {})


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SecretsUnreadable(f"{_shown(path)}: can't be read: {error.strerror}") from None


def _replace(path: Path, content: bytes) -> None:
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=".secrets-"
        )  # 0600 from the first moment
    except OSError as error:
        raise SecretsUnreadable(f"{_shown(path)}: can't be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _revealed(value: object) -> Any:
    """Models as mappings and secrets in the clear."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _revealed(field) for name, field in fields.items() if field is not None}
    if isinstance(value, Mapping):
        return {name: _revealed(item) for name, item in value.items()}
    return value


def _shown(path: Path) -> str:
    return os.path.relpath(path)
