"""What our programs count and time, by Prometheus' client library; `viewer.scrape` answers with all of it.

Viewer and worker are two processes of one user. Each writes into files of its own in the settings' state
directory (the library's multiprocess mode), which the viewer reads when it is asked. The library would
decide for that mode when it is imported, by an environment variable, and name files by process id, so that
those of ended processes stay; but the directory is in our settings, and of each program one process acts at
a time. So `set_up` decides, and files carry the program's name: at its start it removes its own.
Before `set_up`, and in programs that never call it, everything is counted in memory.

Labels never hold an id, a path or anything that a client could make up.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.registry import Collector

COMPARED_AT = "deskfleet_reconcile_compared_at_seconds"
"""Kept as a time, so that it grows older by itself when the worker is dead; shown as a lag."""

PHASES = ("queued", "creating", "first_frame", "total")
_CREATE_BUCKETS = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0,
    120.0, 300.0,
)  # fmt: skip
_HTTP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_CALL_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STREAM_KINDS = ("rfb", "content", "devtools")
# What follows these words in the path of a call to a host is an id, a name or a port.
_NAMED = re.compile(
    r"(?<=/sandboxes/)[^/]+|(?<=/endpoints/)[^/]+|(?<=/probe/).+|(?<=/streams/).+|(?<=/leases/).+"
    r"|(?<=/input/).+|(?<=/devtools/).+"
)

REASONS = ("full", "unreachable", "image", "refused", "timeout", "ended", "other")
"""Why a create fails; any other word counts as the last one."""


class _Metrics:
    """All that one process records."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"deskfleet_{name}", help_text, labels, registry=registry)

        def gauge(name: str, help_text: str, *labels: str) -> Gauge:
            return Gauge(
                f"deskfleet_{name}", help_text, labels, registry=registry, multiprocess_mode="mostrecent"
            )

        def histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"deskfleet_{name}", help_text, labels, registry=registry, buckets=buckets)

        self.http_requests = counter(
            "http_requests_total", "Requests that the viewer answered.", "method", "route", "status"
        )
        self.http_seconds = histogram(
            "http_request_seconds",
            "Seconds until the viewer began its answer; a create that waits is among them.",
            _HTTP_BUCKETS,
            "route",
        )
        self.create_seconds = histogram(
            "create_seconds",
            "Seconds that a new desktop spent in each phase; total is from the request to the first frame.",
            _CREATE_BUCKETS,
            "phase",
            "image",
            "warm",
        )
        self.create_failures = counter(
            "create_failures_total", "New desktops that did not come up, by reason.", "reason"
        )
        self.pool = gauge("pool", "Warm sandboxes, by state.", "image", "host", "state")
        self.load = gauge("host_load", "Load average of the host over one minute.", "host")
        self.disk_free = gauge("host_disk_free_bytes", "Free space where the host keeps containers.", "host")
        self.streams = gauge("streams", "Open streams, as the host's relay last said.", "host", "kind")
        self.compared_at = gauge(COMPARED_AT.removeprefix("deskfleet_"), "Unix time.", "host")
        self.actions = counter(
            "reconcile_actions_total",
            "What comparing a host with the table led to, by kind of action.",
            "host",
            "action",
        )
        self.call_seconds = histogram(
            "host_calls_seconds",
            "Seconds of calls to a host's OpenSandbox server and relay, failed ones among them.",
            _CALL_BUCKETS,
            "host",
            "call",
        )
        self.webhook_attempts = counter(
            "webhook_attempts_total", "Attempts to deliver an event to a webhook endpoint.", "outcome"
        )


_in_memory = CollectorRegistry()
_metrics = _Metrics(_in_memory)
_directory: Path | None = None


def set_up(program: str, state: Path) -> None:
    """Record into this program's files in the state directory from now on; what it left there is removed.

    Called once, by the one process of that program that acts, after any fork.
    """
    global _metrics, _directory
    directory = state / "metrics"
    directory.mkdir(mode=0o700, exist_ok=True)
    for old in directory.glob(f"*_{program}.db"):
        old.unlink(missing_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: program)  # type: ignore[no-untyped-call]
    _directory = directory
    _metrics = _Metrics(None)


def close() -> None:
    """Close the files, for the end of a process. A thread that lives on still counts, and nobody sees it."""
    global _metrics
    values.ValueClass = values.MutexValue
    _metrics = _Metrics(CollectorRegistry())
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


def directory() -> Path | None:
    """Where all programs' files are; None: this process counts in memory."""
    return _directory


def in_memory() -> Collector:
    """What this process has counted without a directory."""
    return _in_memory


# --- the viewer -------------------------------------------------------------------------------------


def http_answered(method: str, route: str, status: int, seconds: float) -> None:
    """`route`: the rule of the route, never the path."""
    method = method if method in _METHODS else "other"
    _metrics.http_requests.labels(method, route, str(status)).inc()
    _metrics.http_seconds.labels(route).observe(seconds)


# --- how desktops come up ---------------------------------------------------------------------------


def create_took(phase: str, seconds: float, *, image: str, warm: bool = False) -> None:
    """`phase`: one of PHASES. `image`: a name of the catalogue."""
    if phase not in PHASES:
        raise ValueError(f"{phase} is no phase of a create; known: {', '.join(PHASES)}")
    _metrics.create_seconds.labels(phase, image, "yes" if warm else "no").observe(max(0.0, seconds))


def create_failed(reason: str | None) -> None:
    """`reason`: one of REASONS."""
    _metrics.create_failures.labels(reason if reason in REASONS else REASONS[-1]).inc()


def pool_holds(image: str, host: str, by_state: dict[str, int]) -> None:
    """How many warm sandboxes are in each state; give 0 for a state that has none any more."""
    for state, count in by_state.items():
        _metrics.pool.labels(image, host, state).set(count)


# --- webhooks out -----------------------------------------------------------------------------------

WebhookOutcome = Literal["delivered", "refused", "no_answer"]


def webhook_attempted(outcome: WebhookOutcome) -> None:
    """`refused`: the endpoint answered, but not with 2xx."""
    _metrics.webhook_attempts.labels(outcome).inc()


# --- hosts ------------------------------------------------------------------------------------------


def watching(host: str) -> None:
    """The worker begins to compare this host: until the first success, its lag counts from now."""
    compared(host)


def compared(host: str) -> None:
    """The host has just been compared with the table, to the end."""
    _metrics.compared_at.labels(host).set(time.time())


def reconciled(host: str, action: str) -> None:
    """`action`: the name of an action's class, such as DeleteSandbox."""
    _metrics.actions.labels(host, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", action).lower()).inc()


def streams_open(host: str, kinds: Iterable[str]) -> None:
    """The kinds of all streams that the host's relay has open now."""
    tally = Tally(kinds)
    for kind in _STREAM_KINDS:
        _metrics.streams.labels(host, kind).set(tally[kind])


def host_condition(host: str, *, load: float, disk_free_bytes: int) -> None:
    _metrics.load.labels(host).set(load)
    _metrics.disk_free.labels(host).set(disk_free_bytes)


@contextmanager
def host_call(host: str, method: str, path: str) -> Iterator[None]:
    """Time a call to one of the host's programs; ids in its path become `*`."""
    began = time.monotonic()
    try:
        yield
    finally:
        call = f"{method} {_NAMED.sub('*', path)}"
        _metrics.call_seconds.labels(host, call).observe(time.monotonic() - began)
