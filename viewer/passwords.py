"""Passwords of people: argon2id, never inside a transaction, and only a few at once.

One check takes PARAMETERS.memory_cost KiB and some tens of milliseconds of processor time on purpose, so how
many run at once is bounded: whoever sends passwords by the thousand fills neither memory nor the server.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.profiles import RFC_9106_LOW_MEMORY

from viewer import logs

PARAMETERS = RFC_9106_LOW_MEMORY
"""RFC 9106, 4, the second recommended choice, for where 2 GiB a check are too much: argon2id, three passes
over 64 MiB in four lanes. A password that was hashed with others is hashed anew when it is next shown."""
AT_ONCE = 2
WAITING = 16
"""As many more may wait for their turn; the next one is told to come again."""
SHORTEST, MOST_BYTES = 12, 1024


class PasswordRefused(Exception):
    """It cannot be somebody's password; the text says why, and what mends it."""


class TooManyChecks(Exception):
    """AT_ONCE passwords are being checked and WAITING more are waiting."""


class PasswordCheck:
    """What a check found. `new_hash`: to be stored in the old one's place, as the parameters have changed."""

    def __init__(self, *, is_right: bool, new_hash: str | None = None) -> None:
        self.is_right = is_right
        self.new_hash = new_hash


class Passwords:
    """Hashes and checks. Safe to share; one a process."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher.from_parameters(PARAMETERS)
        self._turn = threading.BoundedSemaphore(AT_ONCE)
        self._room = threading.BoundedSemaphore(AT_ONCE + WAITING)
        self._decoy_lock = threading.Lock()
        self._decoy: str | None = None

    def hash(self, password: str) -> str:
        """Raises TooManyChecks."""
        logs.hide_given(password)
        with self._one_of_a_few():
            return self._hasher.hash(password)

    def check(self, password: str, stored: str | None) -> PasswordCheck:
        """Is it the one that was hashed? `stored` None: there is none, which takes just as long. Raises
        TooManyChecks."""
        with self._one_of_a_few():
            # Before either kind of check, so that the first unknown login is not told by the time it takes.
            decoy = self._some_hash()
            try:
                self._hasher.verify(stored or decoy, password)
            except (VerifyMismatchError, VerificationError, InvalidHashError):
                return PasswordCheck(is_right=False)
            if stored is None:
                return PasswordCheck(is_right=False)
            # Only now: whoever guesses must not choose which words no log has.
            logs.hide_given(password)
            is_old = self._hasher.check_needs_rehash(stored)
            return PasswordCheck(is_right=True, new_hash=self._hasher.hash(password) if is_old else None)

    def _some_hash(self) -> str:
        with self._decoy_lock:
            if self._decoy is None:
                self._decoy = self._hasher.hash(secrets.token_urlsafe(32))
            return self._decoy

    @contextmanager
    def _one_of_a_few(self) -> Iterator[None]:
        if not self._room.acquire(blocking=False):
            raise TooManyChecks
        try:
            with self._turn:
                yield
        finally:
            self._room.release()


def check_new_password(password: str, *, login: str) -> None:
    """Raise PasswordRefused for what cannot become the password of the person with that login.

    Length is what counts: rules about kinds of characters are not made (NIST SP 800-63B-4, 3.1.1.2).
    """
    if len(password) < SHORTEST:
        raise PasswordRefused(f"has {len(password)} characters; give at least {SHORTEST}")
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        raise PasswordRefused("is not text; give characters that can be written as UTF-8") from None
    if size > MOST_BYTES:
        raise PasswordRefused(f"is longer than {MOST_BYTES} bytes; give a shorter one")
    if login and password.casefold().strip() == login:
        raise PasswordRefused("is the login; give another one")
    if len(set(password)) < 4:
        raise PasswordRefused("is one of a few characters again and again; give another one")
