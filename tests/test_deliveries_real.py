"""The real worker as a process, and what becomes of deliveries when it is killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.relay_process import free_port
from tests.self_signed import self_signed
from tests.viewer_fixtures import Person, running_session, settings_values, write_settings
from tests.viewer_process import ROOT
from tests.webhook_receiver import Receiver, receiving
from viewer.bootstrap import prepare_database
from viewer.credentials import seal_secret
from viewer.deliveries.model import Endpoint, headers_of
from viewer.deliveries.store import NewEndpoint
from viewer.model import Session, utcnow
from viewer.settings import load_settings
from viewer.signatures import new_webhook_secret
from viewer.store import Store

pytestmark = pytest.mark.real


class Site:
    """A database with its settings, and workers over it; their host is nowhere."""

    def __init__(self, folder: Path) -> None:
        values = settings_values(folder)
        for url in ("relay_url", "opensandbox_url"):
            values["hosts"][0][url] = f"http://127.0.0.1:{free_port()}"
        self.file = write_settings(
            {
                **values,
                "tenants": [{"name": "acme"}, {"name": "bolt"}],
                "webhooks_allow_http": True,
                "webhooks_allow_networks": ["127.0.0.0/8"],
            },
            folder / "viewer.toml",
        )
        self.settings = load_settings(self.file)
        prepare_database(self.settings)
        self.store = Store(self.settings.database)
        self.log = folder / "worker.log"
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "viewer.worker"],
                cwd=ROOT,
                env={**os.environ, "DESKFLEET_SETTINGS": str(self.file), **(environment or {})},
                stderr=log,
            )
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self.store.close()

    def endpoint(self, url: str, tenant: str = "acme") -> tuple[Endpoint, str]:
        secret = new_webhook_secret()
        sealed = seal_secret(secret, self.settings.secret_key)
        new = NewEndpoint(url=url, label="", types=(), secret_sealed=sealed, created_by="test")
        return self.store.webhooks(tenant).create(new), secret

    def desktop(self, name: str = "studio", tenant: str = "acme") -> Session:
        """A running session, with which no worker can do anything: its host never answers."""
        return running_session(self.store, Person(tenant, key=""), sandbox_id=name)

    def change(self, session: Session, times: int) -> None:
        for number in range(times):
            self.store.fleet.update(session.id, status_reason=f"step {number}")

    def event_ids(self, endpoint: Endpoint) -> set[int]:
        """What of the outbox the endpoint has to get."""
        events = self.store.tenant(endpoint.tenant_id).events_after(endpoint.last_event_id, 1000)
        return {event.id for event in events}

    def delivered(self, endpoint: Endpoint) -> dict[str, int]:
        """`webhook-id` -> event, of all that the table calls delivered."""
        page = self.store.webhooks(endpoint.tenant_id).deliveries(endpoint.id, None, None, 1000)
        found = [one.delivery for one in page.items if one.delivery.status == "delivered"]
        return {one.message_id: one.event_id or 0 for one in found}

    def wait_until_all_is_delivered(self, endpoint: Endpoint) -> dict[str, int]:
        for _ in range(300):
            mark = self.store.mark()
            found = self.delivered(endpoint)
            wanted = self.event_ids(endpoint)
            if set(found.values()) == wanted:
                assert len(found) == len(wanted)
                return found
            self.store.wait_for_change(0.1, since=mark)
        raise AssertionError(f"{sorted(found.values())}, wanted {sorted(wanted)}\n{self.log.read_text()}")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_worker_delivers_over_tls_to_whom_the_machine_trusts(site: Site, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with receiving("127.0.0.1", certificate) as receiver:
        endpoint, secret = site.endpoint(receiver.url)
        session = site.desktop()
        worker = site.start({"SSL_CERT_FILE": str(certificate[0]), "HTTPS_PROXY": "http://127.0.0.1:9"})
        site.wait_until_all_is_delivered(endpoint)
        events = [one.verified(secret) for one in receiver.received]
        assert sorted(event["type"] for event in events)[:2] == ["session.created", "session.running"]
        assert {event["data"]["id"] for event in events} == {session.id}
        worker.terminate()
        assert worker.wait(15) == 0
    log = site.log.read_text()
    assert secret not in log
    assert "Traceback" not in log


def test_worker_that_is_killed_again_and_again_loses_no_event_and_changes_no_id(site: Site) -> None:
    """The kill comes while a request is under way: with the first, the second, the third of each worker."""
    with receiving() as receiver:
        endpoint, secret = site.endpoint(receiver.url)
        session = site.desktop()
        for kill_at in range(1, 7):
            before = len(receiver.received)
            workers: list[subprocess.Popen[bytes]] = []

            def kill_then(handler: Any, workers: list[subprocess.Popen[bytes]] = workers) -> None:
                workers[0].kill()  # it never hears an answer
                handler.close_connection = True

            good = receiver.always
            receiver.answers = [good] * (kill_at - 1) + [kill_then]
            workers.append(site.start())
            site.change(session, 5)
            workers[0].wait(30)
            assert len(receiver.received) > before
        receiver.answers = []
        site.start()
        delivered = site.wait_until_all_is_delivered(endpoint)
        _every_event_came_with_one_id(receiver, delivered, secret)
        assert len(receiver.received) > len(delivered)  # what was under way came once more


def test_worker_killed_while_it_writes_deliveries_leaves_no_gap(site: Site) -> None:
    """Kills at no particular moment while many events come: between, in, and after transactions."""
    with receiving() as receiver:
        endpoint, secret = site.endpoint(receiver.url)
        session = site.desktop()
        for round_number in range(4):
            worker = site.start()
            seen = len(receiver.received)
            # It is at work, at whatever it is then, when as many have come as the round says.
            changing = 30
            site.change(session, changing)
            receiver.wait_for(lambda got, least=seen + 1 + round_number * 3: len(got) >= least)  # type: ignore[misc]
            site.change(session, 10)
            worker.kill()
            worker.wait()
        site.start()
        delivered = site.wait_until_all_is_delivered(endpoint)
        _every_event_came_with_one_id(receiver, delivered, secret)


def test_second_worker_takes_over_what_the_first_had_not_sent(site: Site) -> None:
    with receiving() as receiver:
        endpoint, secret = site.endpoint(receiver.url)
        session = site.desktop()
        first = site.start()
        receiver.wait_for_count(1)
        second = site.start()
        site.change(session, 3)
        receiver.wait_for_count(4)
        first.kill()
        first.wait()
        site.change(session, 3)
        delivered = site.wait_until_all_is_delivered(endpoint)
        _every_event_came_with_one_id(receiver, delivered, secret)
        assert second.poll() is None


def test_tenants_are_apart(site: Site) -> None:
    with receiving() as mine, receiving() as theirs:
        my_endpoint, secret = site.endpoint(mine.url)
        their_endpoint, other = site.endpoint(theirs.url, "bolt")
        site.start()
        my_desktop, their_desktop = site.desktop("one"), site.desktop("two", "bolt")
        site.change(my_desktop, 3)
        site.change(their_desktop, 2)
        site.wait_until_all_is_delivered(my_endpoint)
        site.wait_until_all_is_delivered(their_endpoint)
        assert {one.verified(secret)["data"]["id"] for one in mine.received} == {my_desktop.id}
        assert {one.verified(other)["data"]["id"] for one in theirs.received} == {their_desktop.id}


def _every_event_came_with_one_id(receiver: Receiver, delivered: Mapping[str, int], secret: str) -> None:
    """delivered: `webhook-id` -> event, one to one."""
    by_id: dict[str, set[bytes]] = {}
    for one in receiver.received:
        one.verified(secret)
        by_id.setdefault(one.id, set()).add(one.body)
    assert set(by_id) == set(delivered)
    assert {len(bodies) for bodies in by_id.values()} == {1}


RECEIVER = ROOT / "docs" / "examples" / "webhook_receiver.py"


@contextmanager
def example(secret: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """The example receiver as a process."""
    environment = {**os.environ, "DESKFLEET_WEBHOOK_SECRET": secret, "PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(RECEIVER)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_example_receiver_takes_our_events_and_no_others(site: Site) -> None:
    port = free_port()
    endpoint, secret = site.endpoint(f"http://127.0.0.1:{port}/")
    with example(secret, port) as process:
        assert process.stdout is not None
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        forged = httpx.post(f"http://127.0.0.1:{port}/", content=b"{}", trust_env=False)
        assert forged.status_code == 400
        session = site.desktop()
        site.start()
        site.wait_until_all_is_delivered(endpoint)
        # All once more: they are accepted, and printed no second time.
        log = site.store.webhooks("acme").deliveries(endpoint.id, None, None, 50).items
        for logged in log:
            site.store.webhooks("acme").retry(endpoint.id, logged.delivery.id)
        site.wait_until_all_is_delivered(endpoint)
        site.store.webhooks("acme").try_out(endpoint.id, lambda _at: '{"type":"webhook.test","data":{}}')
        # In no promised order.
        printed = Counter(iter(process.stdout.readline, "webhook.test \n"))
        assert printed == Counter(f"{logged.delivery.type} {session.id}\n" for logged in log)
        assert printed[f"session.created {session.id}\n"] == 1


def test_signature_is_checked_by_hand_as_the_guide_says() -> None:
    """The guide's shell lines against the library."""
    guide = (ROOT / "docs" / "webhooks-out.md").read_text()
    (lines,) = [block for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) if "openssl" in block]
    secret, body = new_webhook_secret(), '{"type":"session.updated","data":{"title":"ü"}}'
    headers = headers_of("msg_1", body, utcnow(), [secret])
    given = {"secret": secret, "id": "msg_1", "timestamp": headers["webhook-timestamp"], "body": body}
    shell = subprocess.run(
        ["bash", "-euc", lines], env={**os.environ, **given}, capture_output=True, text=True, check=True
    )
    assert f"v1,{shell.stdout.strip()}" == headers["webhook-signature"]
