"""How often somebody may try to sign in: failures are counted in the database, so all viewers count as one.

An attempt is written down as failed before its password is looked at, and taken back when it was right: a
hundred attempts at once are a hundred attempts. What is counted has the same name whether or not such a login
exists, and none of it holds what was typed.

Who fails again and again under one login has to wait, longer each time up to LONGEST_WAIT. So that a stranger
who does that on purpose shuts nobody out of his own account, a browser in which somebody has signed in before
is counted by itself (`Device`), and neither a link of the admin's nor an open sign-in is ever locked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography.fernet import Fernet, InvalidToken
from pydantic import Field, ValidationError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.credentials import hash_of, new_token, same
from viewer.database import Database
from viewer.model import Frozen, utcnow
from viewer.tables import AttemptRow

LOGIN_ALLOWED = 5
ADDRESS_ALLOWED = 10
FIRST_WAIT = {"login": timedelta(seconds=15), "ip": timedelta(seconds=60)}
LONGEST_WAIT = timedelta(minutes=15)
FORGOTTEN_AFTER = timedelta(hours=1)
"""Without a failure for so long, a login or an address begins anew."""
DEVICE_LIFE = timedelta(days=180)
_MOST_FORGOTTEN_AT_ONCE = 500


class Bucket(Frozen):
    """What failures are counted of. `name`: in the table."""

    name: str
    allowed: int
    first_wait: timedelta

    def wait_after(self, failures: int) -> timedelta | None:
        """None while it is allowed to go on at once."""
        over = failures - self.allowed
        if over < 0:
            return None
        doublings: int = 2 ** min(over, 16)
        return min(LONGEST_WAIT, self.first_wait * doublings)


class Device(Frozen):
    """A browser in which this login has signed in before: it knows no secret but that."""

    login_sha256: str
    nonce: str = Field(repr=False)


def of_login(login: str) -> Bucket:
    """Of all browsers that are new to this login. Hashed, because somebody will type his password there."""
    return Bucket(name=f"login:{hash_of(login)[:32]}", allowed=LOGIN_ALLOWED, first_wait=FIRST_WAIT["login"])


def of_device(device: Device) -> Bucket:
    return Bucket(
        name=f"device:{hash_of(device.nonce)[:32]}", allowed=LOGIN_ALLOWED, first_wait=FIRST_WAIT["login"]
    )


def of_password(person_id: str) -> Bucket:
    """Of whoever has somebody's open browser, and guesses at his password there to change it."""
    return Bucket(name=f"password:{person_id}", allowed=LOGIN_ALLOWED, first_wait=FIRST_WAIT["login"])


def of_address(address: str) -> Bucket:
    """An IPv6 customer has a network of 64 bits at least, so that is what is counted."""
    return Bucket(name=f"ip:{network_of(address)}", allowed=ADDRESS_ALLOWED, first_wait=FIRST_WAIT["ip"])


def of_signatures(address: str) -> Bucket:
    """Wrong signatures of events, apart from sign-ins: both may come from an office's one address."""
    return Bucket(
        name=f"event-ip:{network_of(address)}", allowed=ADDRESS_ALLOWED, first_wait=FIRST_WAIT["ip"]
    )


def of_share_links(address: str) -> Bucket:
    """Wrong share links, apart from both: whoever is sent a bad one is to be kept out of nothing else."""
    return Bucket(
        name=f"share-ip:{network_of(address)}", allowed=ADDRESS_ALLOWED, first_wait=FIRST_WAIT["ip"]
    )


def network_of(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def new_device(login: str, key: bytes) -> str:
    """What such a browser keeps as a cookie, sealed."""
    device = Device(login_sha256=hash_of(login), nonce=new_token())
    return Fernet(key).encrypt(device.model_dump_json().encode()).decode()


def device_of(sealed: str | None, login: str, key: bytes) -> Device | None:
    """None unless it was made here, for this login, and not too long ago."""
    if not sealed:
        return None
    try:
        text = Fernet(key).decrypt(sealed, ttl=int(DEVICE_LIFE.total_seconds()))
        device = Device.model_validate_json(text)
    except (InvalidToken, ValidationError):
        return None
    return device if same(device.login_sha256, hash_of(login)) else None


class AttemptStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def seconds_to_wait(self, bucket: Bucket) -> int:
        """0 when it may be tried now."""
        with self._database.reading() as orm:
            return _seconds_to_wait(orm, [bucket], utcnow())

    def begin(self, buckets: Sequence[Bucket]) -> int:
        """Write an attempt down as failed and return 0; or, where one of them must wait, return for how many
        seconds and write nothing."""
        now = utcnow()
        with self._database.reading() as orm:
            if seconds := _seconds_to_wait(orm, buckets, now):
                return seconds  # looked at before, so that who must wait does not take the one write lock
        with self._database.writing() as orm:
            if seconds := _seconds_to_wait(orm, buckets, now):
                return seconds
            for bucket in buckets:
                _add_failure(orm, bucket, now)
        return 0

    def failed(self, bucket: Bucket) -> None:
        """For what is only counted when it has gone wrong."""
        self.begin([bucket])

    def succeeded(self, forgiven: Bucket, also: Sequence[Bucket] = ()) -> None:
        """Take the attempt back. Of `forgiven` all failures are forgotten; `also` keep their former ones, or
        who has a login of his own could guess others' for ever."""
        with self._database.writing() as orm:
            orm.execute(delete(AttemptRow).where(AttemptRow.bucket == forgiven.name))
            for bucket in also:
                _take_one_back(orm, bucket)

    def take_back(self, buckets: Sequence[Bucket]) -> None:
        """It was no attempt after all."""
        with self._database.writing() as orm:
            for bucket in buckets:
                _take_one_back(orm, bucket)

    def unlock(self, bucket: Bucket, *, person_id: str | None = None, tenant_id: str | None = None) -> bool:
        """Was anything counted? The person, where it was his login, is for the audit log."""
        with self._database.writing() as orm:
            target = None if person_id is None else f"person:{person_id}"
            audit.note(orm, tenant_id or audit.NO_TENANT, "person.unlock", target)
            row = orm.get(AttemptRow, bucket.name)
            if row is None:
                return False
            orm.delete(row)
            return True

    def forget(self) -> bool:
        """Forget some of what is too long ago; True while there is more."""
        now = utcnow()
        old = (
            select(AttemptRow.bucket)
            .where(
                AttemptRow.last_at < now - FORGOTTEN_AFTER,
                AttemptRow.locked_until.is_(None) | (AttemptRow.locked_until <= now),
            )
            .limit(_MOST_FORGOTTEN_AT_ONCE)
        )
        with self._database.reading() as orm:
            names = list(orm.scalars(old))
        if names:
            with self._database.writing() as orm:
                orm.execute(
                    delete(AttemptRow).where(
                        AttemptRow.bucket.in_(names), AttemptRow.last_at < now - FORGOTTEN_AFTER
                    )
                )
        return len(names) == _MOST_FORGOTTEN_AT_ONCE


def _seconds_to_wait(orm: OrmSession, buckets: Sequence[Bucket], now: datetime) -> int:
    rows = orm.scalars(select(AttemptRow).where(AttemptRow.bucket.in_([one.name for one in buckets])))
    ends = [row.locked_until for row in rows if row.locked_until is not None and row.locked_until > now]
    return int((max(ends) - now).total_seconds()) + 1 if ends else 0


def _take_one_back(orm: OrmSession, bucket: Bucket) -> None:
    row = orm.get(AttemptRow, bucket.name)
    if row is None:
        return
    row.failures -= 1
    # It was let in, so no wait was running; the one that it began is taken back with it.
    row.locked_until = None
    if row.failures <= 0:
        orm.delete(row)


def _add_failure(orm: OrmSession, bucket: Bucket, now: datetime) -> None:
    row = orm.get(AttemptRow, bucket.name)
    if row is not None and row.last_at < now - FORGOTTEN_AFTER:
        orm.delete(row)
        orm.flush()
        row = None
    if row is None:
        row = AttemptRow(bucket=bucket.name, failures=0, first_at=now, last_at=now, locked_until=None)
        orm.add(row)
    row.failures += 1
    row.last_at = now
    wait = bucket.wait_after(row.failures)
    row.locked_until = None if wait is None else now + wait
