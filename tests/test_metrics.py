"""Metrics: what `GET /metrics` says, in the words of Prometheus' own parser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.viewer_fixtures import People, ViewerClient, kasmvnc_desktop, new_session, running_session, sign_in
from viewer import metrics
from viewer.accounts import AccountStore
from viewer.model import HostStatus, Role, Scope, Status
from viewer.store import Store

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(client: ViewerClient, people: People, **headers: str) -> Samples:
    answer = client.get("/metrics", headers={**people.ada.headers, **headers})
    assert answer.status_code == 200
    return samples_of(answer.get_data(as_text=True))


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"deskfleet_{name}", frozenset(labels.items())))


def test_table_is_read_when_asked(client: ViewerClient, people: People, store: Store) -> None:
    before = scraped(client, people)
    assert value(before, "sessions", status="running") == 0
    assert value(before, "host_up", host="here") == 0
    running_session(store, people.alice)
    new_session(store, people.bob)
    kasmvnc_desktop(store, people.bob)
    ended = new_session(store, people.bob)
    store.fleet.transition(ended.id, Status.TERMINATED)
    store.fleet.record_host_status("here", HostStatus.OK)
    now = scraped(client, people)
    assert value(now, "sessions", status="running") == 2  # a desktop is a session too
    assert value(now, "sessions", status="creating") == 1
    assert value(now, "sessions", status="terminated") is None
    assert value(now, "queue_length") == 1
    assert value(now, "host_up", host="here") == 1
    assert value(now, "host_desktops", host="here", what="used") == 1
    assert value(now, "host_desktops", host="here", what="max") == 8
    assert value(now, "events_streams") == 0


def test_requests_are_counted_by_route_never_by_path(
    client: ViewerClient, people: People, store: Store
) -> None:
    session = running_session(store, people.alice)
    route = "/api/v1/sessions/<session_id>"
    labels = {"method": "GET", "route": route, "status": "200"}
    before = value(scraped(client, people), "http_requests_total", **labels) or 0
    client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers)
    client.open(f"/made-up-{session.id}", method="INVENTED")
    answer = client.get("/metrics", headers=people.ada.headers).get_data(as_text=True)
    now = samples_of(answer)
    assert value(now, "http_requests_total", **labels) == before + 1
    assert value(now, "http_request_seconds_count", route=route) is not None
    assert value(now, "http_requests_total", method="other", route="none", status="404")
    assert session.id not in answer
    assert "INVENTED" not in answer


def test_open_event_stream_is_counted_while_it_is_open(client: ViewerClient, people: People) -> None:
    stream = client.get("/api/v1/events", headers=people.alice.headers)
    assert value(scraped(client, people), "events_streams") == 1
    stream.close()
    assert value(scraped(client, people), "events_streams") == 0


def test_only_an_admins_key_opens_it(client: ViewerClient, people: People, store: Store) -> None:
    refused = client.get("/metrics", headers=sign_in(store, people.ada))
    assert (refused.status_code, refused.mimetype) == (403, "application/problem+json")
    assert client.get("/metrics", headers=people.alice.headers).status_code == 403
    plain = client.get("/metrics", headers=people.ada.headers)
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    asked = {"Accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = client.get("/metrics", headers={**people.ada.headers, **asked})
    assert open_metrics.mimetype == "application/openmetrics-text"
    assert open_metrics.get_data(as_text=True).endswith("# EOF\n")


def test_everything_that_can_be_recorded_is_shown(client: ViewerClient, people: People) -> None:
    call = "GET /v1/sandboxes/*/endpoints/*"
    bucket = {"phase": "first_frame", "image": "desktop", "warm": "yes"}
    before = scraped(client, people)
    metrics.create_took("first_frame", 1.4, image="desktop", warm=True)
    metrics.create_failed("full")
    metrics.create_failed("something new")
    metrics.pool_holds("desktop", "here", {"ready": 2, "claimed": 0})
    metrics.host_condition("here", load=0.5, disk_free_bytes=7_000_000)
    metrics.streams_open("here", ["rfb", "rfb"])
    metrics.reconciled("here", "DeleteSandbox")
    metrics.compared("here")
    metrics.webhook_attempted("no_answer")
    with (
        pytest.raises(OSError, match="away"),
        metrics.host_call("here", "GET", "/v1/sandboxes/an-id/endpoints/80"),
    ):
        raise OSError("away")
    now = scraped(client, people)

    def more(name: str, **labels: str) -> float:
        """Than before: they count for the whole process, whatever tests it ran."""
        return (value(now, name, **labels) or 0) - (value(before, name, **labels) or 0)

    assert more("create_seconds_bucket", le="1.5", **bucket) == 1
    assert more("create_seconds_bucket", le="1.0", **bucket) == 0
    assert more("create_failures_total", reason="full") == 1
    assert more("create_failures_total", reason="other") == 1
    assert value(now, "pool", image="desktop", host="here", state="ready") == 2
    assert value(now, "host_load", host="here") == 0.5
    assert value(now, "host_disk_free_bytes", host="here") == 7_000_000
    assert value(now, "streams", host="here", kind="rfb") == 2
    assert value(now, "streams", host="here", kind="content") == 0
    assert more("reconcile_actions_total", host="here", action="delete_sandbox") == 1
    assert more("webhook_attempts_total", outcome="no_answer") == 1
    assert value(now, "webhook_oldest_due_seconds") == 0
    lag = value(now, "reconcile_lag_seconds", host="here")
    assert lag is not None
    assert 0 <= lag < 60
    assert more("host_calls_seconds_count", host="here", call=call) == 1
    with pytest.raises(ValueError, match="known: queued"):
        metrics.create_took("firstframe", 1, image="desktop")


def test_every_metric_is_explained_to_operators(client: ViewerClient, people: People) -> None:
    guide = (Path(metrics.__file__).parent.parent / "docs/operating.md").read_text()
    explained = set(re.findall(r"^\| .*?\|", guide, re.MULTILINE))
    named = set(re.findall(r"`(deskfleet_\w+)(?:\{([\w,]+)\})?`", " ".join(explained)))
    recorded = {
        (metric._name + ("_total" if metric._type == "counter" else ""), ",".join(metric._labelnames))
        for metric in vars(metrics._metrics).values()
    } - {(metrics.COMPARED_AT, "host")}
    assert recorded <= named
    answer = client.get("/metrics", headers=people.ada.headers).get_data(as_text=True)
    shown = {line.split()[2] for line in answer.splitlines() if line.startswith("# HELP")}
    assert {name for name in shown if not name.endswith("_created")} <= {name for name, _ in named}


# A process of each program: it begins, records, and says what the directory of both holds then.
PROGRAM = """
import json, sys
from pathlib import Path
from prometheus_client.multiprocess import MultiProcessCollector
from viewer import metrics
for kind in sys.argv[2].split(","):
    metrics.set_up(kind, Path(sys.argv[1]))
    metrics.create_failed("full")
    metrics.streams_open("of-" + kind, ["rfb"])
metrics.close()
metrics.create_failed("full")
samples = [s for f in MultiProcessCollector(None).collect() for s in f.samples]
print(json.dumps([[s.name, s.labels, s.value] for s in samples]))
"""


def test_two_programs_are_one_answer_and_one_that_starts_again_leaves_nothing_old(tmp_path: Path) -> None:
    def run(programs: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path), programs],
            capture_output=True, text=True, check=True, cwd=Path(metrics.__file__).parent.parent,
        )  # fmt: skip
        assert done.stderr == ""
        return {
            f"{name}{sorted(labels.values())}": number for name, labels, number in json.loads(done.stdout)
        }

    failures = "deskfleet_create_failures_total['full']"
    assert run("viewer")[failures] == 1
    both = run("worker")
    assert both[failures] == 2
    assert both["deskfleet_streams['of-viewer', 'rfb']"] == 1
    assert run("worker")[failures] == 2
    assert run("viewer")[failures] == 2
    directory = tmp_path / "metrics"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stem.rpartition("_")[2] for path in directory.iterdir()} == {"viewer", "worker"}


def test_a_key_of_any_tenant_with_the_scope_may_ask(client: ViewerClient, store: Store) -> None:
    accounts: AccountStore = store.accounts
    key = accounts.add_key("bolt", Role.WATCHER, scopes=[Scope.FLEET]).text
    headers = {"Authorization": f"Bearer {key}"}
    assert client.get("/metrics", headers=headers).status_code == 200
    assert client.get("/api/v1/sessions", headers=headers).status_code == 403
    drain = client.put("/api/v1/hosts/here/draining", json={"draining": True}, headers=headers)
    assert drain.status_code == 403
