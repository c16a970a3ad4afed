"""`GET /metrics`: what viewer and worker have recorded, and what the table says at this moment.

It shows figures over all tenants, so it wants a key with the scope `fleet`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from viewer import metrics
from viewer.access import needs, principal
from viewer.model import HostStatus, Role, Scope, utcnow
from viewer.problems import Problem
from viewer.services import Services, services

scrape = Blueprint("scrape", __name__)

_TRIES = 5


@scrape.get("/metrics")
@needs(Role.WATCHER, scope=Scope.FLEET)
def give_metrics() -> Response:
    if principal().via != "key":
        raise Problem(403, "key-wanted", "Send a key", "Send your key as `Authorization: Bearer <key>`.")
    registry = CollectorRegistry()
    registry.register(_Recorded())
    registry.register(_OfTheTable(services()))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


class _Recorded(Collector):
    """What every program has recorded; the time of a comparison is shown as how long ago it was."""

    def collect(self) -> Iterator[Metric]:
        now = time.time()
        for family in _families():
            if family.name != metrics.COMPARED_AT:
                yield family
                continue
            lag = GaugeMetricFamily(
                "deskfleet_reconcile_lag_seconds",
                "Seconds since the host was last compared with the table.",
                labels=("host",),
            )
            for sample in family.samples:
                lag.add_metric((sample.labels["host"],), max(0.0, now - sample.value))
            yield lag


def _families() -> list[Metric]:
    directory = metrics.directory()
    if directory is None:
        return list(metrics.in_memory().collect())
    collector: Collector = MultiProcessCollector(None, path=str(directory))  # type: ignore[no-untyped-call]
    for _ in range(_TRIES - 1):
        try:
            return list(collector.collect())
        except (FileNotFoundError, struct.error):
            time.sleep(0.02)  # the other program starts just now and makes its files anew
    return list(collector.collect())


class _OfTheTable(Collector):
    def __init__(self, here: Services) -> None:
        self._here = here

    def collect(self) -> Iterator[Metric]:
        here, figures = self._here, self._here.store.figures.now()
        statuses = {record.name: record.status for record in here.store.fleet.hosts()}
        sessions = GaugeMetricFamily(
            "deskfleet_sessions", "Live sessions of all tenants.", labels=("status",)
        )
        for status, count in figures.by_status.items():
            sessions.add_metric((status.value,), count)
        up = GaugeMetricFamily("deskfleet_host_up", "1 while the host answers, else 0.", labels=("host",))
        desktops = GaugeMetricFamily(
            "deskfleet_host_desktops",
            "On-demand desktops of the host: used and max.",
            labels=("host", "what"),
        )
        for host in here.settings.hosts:
            up.add_metric((host.name,), float(statuses.get(host.name) is HostStatus.OK))
            if host.holds_sandboxes:
                desktops.add_metric((host.name, "used"), figures.sandboxes.get(host.name, 0))
                desktops.add_metric((host.name, "max"), host.max_desktops)
        yield from (sessions, up, desktops)
        yield GaugeMetricFamily(
            "deskfleet_queue_length", "New desktops that have no host yet.", value=figures.waiting
        )
        yield GaugeMetricFamily(
            "deskfleet_webhook_oldest_due_seconds",
            "Seconds since the delivery was due that waits longest; 0 when none is.",
            value=here.store.deliveries.oldest_due_seconds(utcnow()),
        )
        yield GaugeMetricFamily(
            "deskfleet_events_streams", "Open streams of events.", value=here.streams.held()
        )
