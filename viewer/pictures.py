"""Pictures of desktops, asked of the relays beside them: one, or a wall's worth at once.

Each host is asked once, all of them at the same time, so that a silent one costs its own desktops alone. A
host that did not answer is left alone for a moment: what is remembered of it only saves waiting, and is
this process's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from viewer.grants import Grant, seal_grant
from viewer.relay.answers import Picture, PictureFormat, PictureResult, WantedPicture
from viewer.relay_client import RelayClient, RelayUnreachable

DEADLINE_SECONDS = 2.5
"""For all hosts together; a relay takes up to two for a first picture."""
SILENT_FOR_SECONDS = 5.0
"""A host that did not answer is not asked again so soon: each question would hold a thread."""
ASKED_AT_ONCE = 24
ASKED_OF_A_HOST = 12
"""Questions under way, of this process."""


@dataclass(frozen=True)
class Wish:
    """One desktop's picture. grant: of purpose `picture`; etag: of the picture that the asker has."""

    host: str
    grant: Grant
    etag: str | None = None


@dataclass(frozen=True)
class Look:
    """How the pictures are to be."""

    width: int | None
    format: PictureFormat


class PictureDesk:
    """What this process asks the relays for. Safe to share between threads."""

    def __init__(
        self, relays: Callable[[], Mapping[str, RelayClient]], key_of: Callable[[str], bytes]
    ) -> None:
        self._relays = relays
        self._key_of = key_of
        self._lock = threading.Lock()
        self._silent: dict[str, tuple[float, str]] = {}
        self._under_way = Counter[str]()
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)

    def one(self, wish: Wish, look: Look) -> Picture:
        """Block until the relay has it. Raises RelayUnreachable."""
        relay = self._relays().get(wish.host)
        if relay is None:
            raise RelayUnreachable(f"host {wish.host} has no relay")
        (picture,) = self._ask(relay, [wish], look)
        return picture

    def many(self, wishes: Sequence[Wish], look: Look) -> dict[str, Picture]:
        """By session, one for each wish: `none`, with the reason, for those of a host that is not in time."""
        by_host: dict[str, list[Wish]] = {}
        for wish in wishes:
            by_host.setdefault(wish.host, []).append(wish)
        asked: dict[str, Future[tuple[Picture, ...]]] = {}
        found: dict[str, Picture] = {}
        for host, its in by_host.items():
            answer = self._begin(host, its, look)
            if isinstance(answer, str):
                found |= _none(its, answer)
            else:
                asked[host] = answer
        wait(asked.values(), timeout=DEADLINE_SECONDS)
        for host, future in asked.items():
            found |= self._result(host, by_host[host], future)
        return found

    def _begin(self, host: str, wishes: list[Wish], look: Look) -> Future[tuple[Picture, ...]] | str:
        """Ask in a thread of its own; a sentence says why that is not done."""
        relay = self._relays().get(host)
        if relay is None:
            return f"host {host} has no relay"
        with self._lock:
            until, why = self._silent.get(host, (0.0, ""))
            if until > time.monotonic():
                return why
            if self._under_way[host] >= ASKED_OF_A_HOST:
                return f"host {host} is asked for too much at once"
            if self._threads is None:
                self._threads = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="pictures")
            self._under_way[host] += 1
            future = self._threads.submit(self._ask, relay, wishes, look)
        future.add_done_callback(lambda _: self._done(host))
        return future

    def _done(self, host: str) -> None:
        with self._lock:
            self._under_way -= Counter([host])

    def _ask(self, relay: RelayClient, wishes: Sequence[Wish], look: Look) -> tuple[Picture, ...]:
        key = self._key_of(wishes[0].host)
        wanted = [WantedPicture(grant=seal_grant(wish.grant, key), etag=wish.etag) for wish in wishes]
        pictures = relay.pictures(wanted, width=look.width, format=look.format)
        if [picture.session_id for picture in pictures] != [wish.grant.session_id for wish in wishes]:
            raise RelayUnreachable(f"the relay of host {wishes[0].host} answered for other desktops")
        return pictures

    def _result(
        self, host: str, wishes: list[Wish], future: Future[tuple[Picture, ...]]
    ) -> dict[str, Picture]:
        if not future.done():
            return _none(wishes, self._note_silence(host, f"host {host} does not answer in time"))
        try:
            return {picture.session_id: picture for picture in future.result()}
        except RelayUnreachable as error:
            return _none(wishes, self._note_silence(host, str(error)))

    def _note_silence(self, host: str, why: str) -> str:
        with self._lock:
            self._silent[host] = (time.monotonic() + SILENT_FOR_SECONDS, why)
        return why


def _none(wishes: Iterable[Wish], why: str) -> dict[str, Picture]:
    return {
        wish.grant.session_id: Picture(
            session_id=wish.grant.session_id, result=PictureResult.NONE, detail=why
        )
        for wish in wishes
    }
