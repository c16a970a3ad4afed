"""The worker looks at a host right after it has changed something there, not only every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import viewer.worker
from tests.relay_process import free_port
from tests.test_sandbox_hosts import Answer, FaultyHost, listed, page
from tests.viewer_fixtures import People, new_session
from viewer.model import Display
from viewer.settings import Settings
from viewer.store import Store
from viewer.worker import Worker


@pytest.fixture
def server() -> Iterator[FaultyHost]:
    with FaultyHost(answers=[page()]) as running:
        yield running


@pytest.fixture(autouse=True)
def worker(
    server: FaultyHost, settings: Settings, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A worker that has looked at its one host once, and would look again in ten minutes."""
    monkeypatch.setattr(viewer.worker, "POLL_SECONDS", 600.0)
    relay_url = f"http://127.0.0.1:{free_port()}"
    host = settings.hosts[0].model_copy(update={"opensandbox_url": server.url, "relay_url": relay_url})
    acting = Worker(settings.model_copy(update={"hosts": (host,)}), store)
    stop = threading.Event()
    thread = threading.Thread(target=acting.run, args=(stop,))
    thread.start()
    wait_until(lambda: asked(server) == ["GET /v1/sandboxes"])
    yield
    stop.set()
    thread.join()
    acting.close()


def asked(server: FaultyHost) -> list[str]:
    return [f"{one.method} {one.path.partition('?')[0]}" for one in server.asked]


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_host_is_looked_at_right_after_a_create_and_after_an_end(
    server: FaultyHost, store: Store, people: People
) -> None:
    server.answers = [*[Answer(body=listed(1))] * 3, page()]
    session = new_session(store, people.alice, image="shell", display=Display.NONE)
    wait_until(lambda: len(server.asked) > 4)
    one = "/v1/sandboxes/sb-1"
    assert asked(server)[1:] == ["POST /v1/sandboxes", f"GET {one}", f"GET {one}", "GET /v1/sandboxes"]
    store.tenant("acme").request_termination(session.id)
    wait_until(lambda: len(server.asked) > 6)
    assert asked(server)[5:] == [f"DELETE {one}", "GET /v1/sandboxes"]
