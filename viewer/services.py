"""What the blueprints work with: settings, store, and the limits of this process. One per app."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from flask import current_app

from viewer.event_hub import EventHub
from viewer.host_links import links_of
from viewer.lifecycle import HostLink
from viewer.model import Principal
from viewer.oidc.provider import Provider
from viewer.passwords import Passwords
from viewer.pictures import PictureDesk
from viewer.relay_client import RelayClient, RelayUnreachable, relays_of
from viewer.settings import Settings
from viewer.store import Store

# One tenant gets half of each at most, so that none can keep the others from seeing or making their desktops.
# A stream is held without a thread (`viewer.event_hub`); a wait takes one of the server's 64.
STREAMS_AT_ONCE = 2000
STREAMS_PER_TENANT = 1000
STREAMS_PER_PRINCIPAL = 500
WAITS_AT_ONCE = 24
WAITS_PER_TENANT = 12
GESTURES_AT_ONCE = 32
GESTURES_PER_TENANT = 20
"""Each takes a thread, too, mostly for milliseconds and at most for half a minute."""
PICTURES_AT_ONCE = 12
PICTURES_PER_TENANT = 8
PICTURES_PER_PRINCIPAL = 6
"""Each takes a thread for as long as the relays take: for milliseconds, or a host is silent."""
DIAGNOSES_AT_ONCE = 12
DIAGNOSES_PER_TENANT = 6
DIAGNOSES_PER_PRINCIPAL = 3
DIAGNOSES_PER_MINUTE = 20
"""Of one principal. Each takes a thread for up to 15 s, and asks every program on the way."""
_FAILURES_ALLOWED = 10
_FAILURE_WINDOW_SECONDS = 60.0
_WRONG_KEYS_ALLOWED = 60
_ADDRESSES_REMEMBERED = 10_000
_PRINCIPALS_REMEMBERED = 10_000


class Slots:
    """At most `total` held at once, `per_tenant` by one tenant, `per_principal` by one of its principals."""

    def __init__(self, total: int, *, per_tenant: int, per_principal: int) -> None:
        self._total = total
        self._per_tenant = per_tenant
        self._per_principal = per_principal
        self._lock = threading.Lock()
        self._by_tenant = Counter[str]()
        self._by_principal = Counter[tuple[str, str]]()

    def take(self, who: Principal) -> bool:
        with self._lock:
            if (
                self._by_tenant.total() >= self._total
                or self._by_tenant[who.tenant] >= self._per_tenant
                or self._by_principal[who.tenant, who.id] >= self._per_principal
            ):
                return False
            self._by_tenant[who.tenant] += 1
            self._by_principal[who.tenant, who.id] += 1
            return True

    def held(self) -> int:
        with self._lock:
            return self._by_tenant.total()

    def give_back(self, who: Principal) -> None:
        with self._lock:
            self._by_tenant -= Counter([who.tenant])
            self._by_principal -= Counter([(who.tenant, who.id)])


class RequestLimit:
    """How often one principal may ask: `per_minute` in a minute, spread as he likes. Of this process alone;
    several viewers let him ask so often each."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._per_second = per_minute / 60.0
        self._lock = threading.Lock()
        self._left: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, who: Principal) -> int:
        """0 when he may go on; else for how many seconds he is to wait."""
        now, name = time.monotonic(), (who.tenant, who.id)
        with self._lock:
            left, at = self._left.get(name, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_second)
            is_over = left < 1.0
            self._left[name] = (left if is_over else left - 1.0, now)
            self._left.move_to_end(name)
            while len(self._left) > _PRINCIPALS_REMEMBERED:
                self._left.popitem(last=False)
        return math.ceil((1.0 - left) / self._per_second) if is_over else 0


class FailureLimit:
    """Failures per address (or what else names their source) in the last minute; `allowed` of them are."""

    def __init__(self, allowed: int = _FAILURES_ALLOWED) -> None:
        self._allowed = allowed
        self._lock = threading.Lock()
        self._failures: dict[str, deque[float]] = {}

    def seconds_to_wait(self, address: str) -> int:
        """0 when the address may try now."""
        now = time.monotonic()
        with self._lock:
            times = self._recent(address, now)
            if len(times) < self._allowed:
                return 0
            return int(times[0] + _FAILURE_WINDOW_SECONDS - now) + 1

    def failed(self, address: str) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._failures) >= _ADDRESSES_REMEMBERED:
                self._failures = {
                    old: times for old in list(self._failures) if (times := self._recent(old, now))
                }
            times = self._recent(address, now)
            times.append(now)
            self._failures[address] = times

    def _recent(self, address: str, now: float) -> deque[float]:
        times = self._failures.get(address, deque(maxlen=self._allowed))
        while times and times[0] + _FAILURE_WINDOW_SECONDS <= now:
            times.popleft()
        return times


@dataclass
class Services:
    settings: Settings
    store: Store
    streams: Slots = field(
        default_factory=lambda: Slots(
            STREAMS_AT_ONCE, per_tenant=STREAMS_PER_TENANT, per_principal=STREAMS_PER_PRINCIPAL
        )
    )
    waits: Slots = field(
        default_factory=lambda: Slots(
            WAITS_AT_ONCE, per_tenant=WAITS_PER_TENANT, per_principal=WAITS_PER_TENANT
        )
    )
    gestures: Slots = field(
        default_factory=lambda: Slots(
            GESTURES_AT_ONCE, per_tenant=GESTURES_PER_TENANT, per_principal=GESTURES_PER_TENANT
        )
    )
    picture_slots: Slots = field(
        default_factory=lambda: Slots(
            PICTURES_AT_ONCE, per_tenant=PICTURES_PER_TENANT, per_principal=PICTURES_PER_PRINCIPAL
        )
    )
    diagnoses: Slots = field(
        default_factory=lambda: Slots(
            DIAGNOSES_AT_ONCE, per_tenant=DIAGNOSES_PER_TENANT, per_principal=DIAGNOSES_PER_PRINCIPAL
        )
    )
    diagnosis_limit: RequestLimit = field(default_factory=lambda: RequestLimit(DIAGNOSES_PER_MINUTE))
    passwords: Passwords = field(default_factory=Passwords)
    wrong_keys: FailureLimit = field(default_factory=lambda: FailureLimit(_WRONG_KEYS_ALLOWED))
    entry_failures: FailureLimit = field(default_factory=FailureLimit)
    """Apart, and per origin too: a desktop's own page can send wrong tickets, and must not keep people from
    signing in."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server is told to stop: streams and waits end then."""
    events: EventHub = field(init=False)
    oidc: Provider | None = field(init=False)
    """None: nobody signs in through a provider."""
    requests: RequestLimit = field(init=False)
    pictures: PictureDesk = field(init=False)
    _relays: dict[str, RelayClient] | None = field(default=None, init=False)
    _links: dict[str, HostLink] | None = field(default=None, init=False)
    _relays_made: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.requests = RequestLimit(self.settings.requests_per_minute)
        self.pictures = PictureDesk(lambda: self.relays, self._relay_key)
        self.events = EventHub(self.store, devtools=self.settings.images_with_devtools)
        wanted, origin = self.settings.oidc, self.settings.canonical_origin
        self.oidc = None if wanted is None else Provider(wanted, f"{origin}/oidc/callback")

    @property
    def relays(self) -> dict[str, RelayClient]:
        """A client for each host's relay, by host. Made at first use: their keys are files."""
        with self._relays_made:
            if self._relays is None:
                self._relays = relays_of(self.settings)
            return self._relays

    def _relay_key(self, host: str) -> bytes:
        found = self.settings.host(host)
        if found is None:
            raise RelayUnreachable(f"host {host} is not in the inventory any more")
        return found.relay_key()

    @property
    def links(self) -> dict[str, HostLink]:
        """What reaches each sandbox host, by host; made at first use, too. The viewer only asks there: it is
        the worker that acts."""
        relays = self.relays
        with self._relays_made:
            if self._links is None:
                self._links = {link.name: link for link in links_of(self.settings, relays)}
            return self._links

    def stop(self) -> None:
        """End streams and waits, and do not wait for them: also for a signal handler."""
        self.stopping.set()
        self.store.stop_waiting()
        self.events.stop()

    def close(self) -> None:
        """The same, and wait until the last words of the streams are out."""
        self.stop()
        self.events.close()
        self.pictures.close()
        for link in (self._links or {}).values():
            link.close()
        for relay in (self._relays or {}).values():
            relay.close()


def services() -> Services:
    found = current_app.extensions["deskfleet"]
    if not isinstance(found, Services):
        raise TypeError("create_app has not put Services into this app")
    return found
