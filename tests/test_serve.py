"""The real server: gunicorn with our options, in a process of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.canaries import assert_nowhere, new_canaries
from tests.event_clients import EventClients
from tests.process_figures import rss_mib, threads_of
from tests.viewer_fixtures import ORIGIN, UNKNOWN_ID, settings_values, waiting, write_settings
from tests.viewer_process import ViewerProcess, start
from viewer.model import Role, Scope, Status
from viewer.serve import THREADS
from viewer.store import Store

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewerProcess]:
    with ViewerProcess.running(tmp_path_factory.mktemp("server")) as started:
        yield started


def test_server_migrates_and_knows_the_tenants_of_its_settings(server: ViewerProcess) -> None:
    me = server.client.get("/api/v1/me").json()
    assert (me["tenant"], me["role"]) == ("main", "operator")


def test_create_is_answered_as_soon_as_another_process_makes_it_run(server: ViewerProcess) -> None:
    store = Store(server.database)
    ready: list[float] = []

    def worker() -> None:
        while not (found := waiting(store)):
            store.wait_for_change(1)
        store.fleet.transition(found[0].id, Status.RUNNING, host="here", sandbox_id="box", vnc_port=40001)
        ready.append(time.monotonic())

    thread = threading.Thread(target=worker)
    thread.start()
    answer = server.client.post("/api/v1/sessions", json={})
    answered = time.monotonic()
    thread.join()
    store.close()
    assert answer.status_code == 201
    assert answered - ready[0] < 1  # about 20 ms when nothing else runs


def test_body_too_large_is_refused_however_it_is_sent(server: ViewerProcess) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"task_id": "'
        for _ in range(70):
            yield b"x" * 1024
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    for body in (b"".join(chunks()), chunks(), b"".join(chunks()), chunks()):
        answer = server.client.post("/api/v1/sessions", content=body, headers=headers)
        assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")


def test_underscore_form_of_a_header_is_not_taken_for_ours(server: ViewerProcess) -> None:
    """WSGI maps both forms to one name; the server must drop the one that a proxy does not strip."""
    headers = {"X_Forwarded_Host": "localhost:8088", "X_Forwarded_Proto": "http", "Origin": ORIGIN}
    session = server.client.post("/api/v1/sessions", json={"wait": False}, headers=headers).json()
    assert session["page_url"].startswith(ORIGIN)


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "Script-Name"])
def test_client_cannot_choose_another_route_than_that_of_its_path(server: ViewerProcess, name: str) -> None:
    """Only the edge asks /authz/…; what a client's headers say, makes no such question of its own path."""
    here = {
        "X-Forwarded-Host": f"{UNKNOWN_ID}.content.deskfleet.localhost:8088",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Method": "GET",
    }
    assert server.client.get("/authz/content", headers=here).status_code == 401
    forged = {**here, name: "/.deskfleet"}
    assert server.client.get("/.deskfleet/authz/content", headers=forged).status_code == 404


def test_one_scrape_has_what_viewer_and_worker_recorded_and_no_secret_is_left_anywhere(
    tmp_path: Path,
) -> None:
    """The worker's host does not answer; that is something to record too."""
    server, canaries = ViewerProcess(tmp_path), new_canaries()
    worker = start(server.settings_file, "viewer.worker")
    store = Store(server.database)
    admin = store.accounts.add_key("main", Role.WATCHER, scopes=[Scope.FLEET]).text
    own = {"scraper's key": admin, "operator's key": server.key}
    own |= {name: (tmp_path / name).read_text().strip() for name in ("viewer.key", "relay.key")}

    def scrape() -> dict[str, float]:
        answer = server.client.get("/metrics", headers={"Authorization": f"Bearer {admin}"})
        assert answer.status_code == 200
        (tmp_path / "scraped").write_text(answer.text)
        return {
            f"{sample.name} {' '.join(sample.labels.values())}".strip(): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    try:
        made = server.client.post("/api/v1/sessions", json={"wait": False}).json()["id"]
        for kind, value in canaries.items():
            shown = value.replace("\n", "")
            headers = {"Cookie": f"theirs={shown}", "X-Df-Grant": shown, "OPEN-SANDBOX-API-KEY": shown}
            asked: dict[str, Any] = {"params": {"token": value}, "headers": headers}
            body = {"env": {kind: value}, "image": value}
            assert server.client.post("/api/v1/sessions", json=body, **asked).status_code == 422
            assert server.client.get(f"/api/v1/{quote(shown, safe='')}", **asked).status_code == 404
        deadline = time.monotonic() + 20
        call = "deskfleet_host_calls_seconds_count GET /streams here"
        while not (now := scrape()).get(call):
            assert time.monotonic() < deadline, now
            time.sleep(0.1)
        time.sleep(0.1)
        assert scrape()["deskfleet_reconcile_lag_seconds here"] > 0.1
        assert now["deskfleet_host_up here"] == 0
        assert {"deskfleet_sessions creating", "deskfleet_queue_length"} <= now.keys()
        assert now["deskfleet_http_requests_total POST /api/v1/sessions 202"] == 1
        assert now["deskfleet_http_requests_total POST /api/v1/sessions 422"] == len(canaries)
    finally:
        store.close()
        worker.terminate()
        said = [server.stop(), worker.communicate(timeout=20)[1]]
    lines = [json.loads(line) for text in said for line in text.splitlines()]
    assert {line["program"] for line in lines} == {"deskfleet-viewer", "deskfleet-worker"}
    of_the_session = [line for line in lines if line.get("session_id") == made]
    assert {line["program"] for line in of_the_session} == {"deskfleet-viewer", "deskfleet-worker"}
    (tmp_path / "said").write_text("\n".join(said))
    places = [tmp_path / "said", tmp_path / "scraped", tmp_path / "metrics", *tmp_path.glob("deskfleet.db*")]
    assert_nowhere(places, canaries | own)


def test_two_hundred_clients_get_an_event_and_cost_no_threads(server: ViewerProcess) -> None:
    worker = server.worker
    session = server.client.post("/api/v1/sessions", json={"wait": False}).json()["id"]
    threads, memory = threads_of(worker), rss_mib(worker)
    store = Store(server.database)
    with EventClients(server.port, [server.key], 200) as clients:
        for number in range(20):
            store.fleet.update(session, status_reason=f"step {number}")
        newest = store.fleet.last_event_id()
        arrived = clients.wait_until_all_have(newest)
        assert all(len(clients.arrivals[newest - before]) == 200 for before in range(20))
        assert max(arrived) - min(arrived) < 2
        # Two of the hub's, those that read for streams that begin, and gunicorn's own, as far as it had to
        # start them.
        assert threads_of(worker) - threads < THREADS + 10
        assert rss_mib(worker) - memory < 30
        assert server.client.get("/api/v1/me").status_code == 200
        assert clients.lost == 0
    store.close()


def test_server_that_stops_ends_open_streams_properly(server: ViewerProcess) -> None:
    """Not by killing them after the graceful time, which the client would see as a torn answer."""
    with server.client.stream("GET", "/api/v1/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 2000"
        server.process.terminate()
        rest = list(lines)  # to the very end: a torn answer raises
        assert rest[0].startswith("id: ")
    said = server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in said


def test_bad_settings_are_one_sentence_and_exit_status_2(tmp_path: Path) -> None:
    path = write_settings({**settings_values(tmp_path), "listne": "x"}, tmp_path / "viewer.toml")
    process = start(path)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert said == f"deskfleet-viewer: {path}: listne: unknown key, did you mean 'listen'?\n"


def test_database_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "deskfleet.db").write_text("this is not a database, it is far too long a text for that" * 50)
    process = start(write_settings(settings_values(tmp_path), tmp_path / "viewer.toml"))
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert said.startswith("deskfleet-viewer: database: ")
    assert "not a database" in said
    assert said.count("\n") == 1
