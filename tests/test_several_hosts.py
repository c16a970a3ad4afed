"""Several hosts: a create that one host fails goes to another, and trouble on one is no trouble on the rest.

Stand-ins, by name: `FaultyHost` for an OpenSandbox server, `SeenRelay` for what a relay sees of a desktop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from tests.relay_process import RelayProcess, free_port, running_relay
from tests.test_sandbox_hosts import Answer, FaultyHost, listed, page
from tests.viewer_fixtures import People, new_session, settings_values
from viewer.chores import Chores
from viewer.fleet_store import HostRecord
from viewer.grants import Target
from viewer.lifecycle import HostLink, Lifecycle
from viewer.model import DesktopBackend, Display, HostStatus, Session, Status, WantedBackend
from viewer.placement import Capacity, Place, Refuse, decide
from viewer.reconcile import End
from viewer.relay.answers import ProbeOutcome, ProbeResult
from viewer.relay_client import RelayClient
from viewer.sandbox_hosts import SandboxHost
from viewer.settings import DesktopSettings, Settings
from viewer.store import Store
from viewer.worker import DesktopWatch, Worker

pytestmark = pytest.mark.real

MADE = [Answer(202, listed(1)), Answer(body=listed(1))]
NO_IMAGE = Answer(500, {"code": "DOCKER::SANDBOX_IMAGE_PULL_FAILED", "message": "not found"})
SENTENCE = "sandbox host {} lacks the image and cannot pull it: not found"


@dataclass
class Boxes:
    """Two sandbox hosts. `a` comes first where both are as empty."""

    a: FaultyHost
    b: FaultyHost
    store: Store
    settings: Settings
    people: People
    links: dict[str, HostLink]

    def bring_up(self, **wanted: str) -> Session:
        session = new_session(self.store, self.people.alice, image="shell", display=Display.NONE, **wanted)
        lifecycle = Lifecycle(self.store.fleet, self.settings, self.links)
        while (row := self.store.fleet.get(session.id)).status is Status.CREATING:
            self._place(row, lifecycle)
            lifecycle.bring_up(session.id)
        return row

    def _place(self, row: Session, lifecycle: Lifecycle) -> None:
        """As the worker does, with the hosts of this test."""
        capacities = {name: link.capacity for name, link in self.links.items()}
        [decision] = self.store.fleet.place(lambda table: decide(table, capacities, {}))
        if isinstance(decision, Place):
            lifecycle.note_placed(row.id, decision.host)
        elif isinstance(decision, Refuse):
            lifecycle.fail(row, decision.why, reason=decision.reason)


@pytest.fixture
def boxes(settings: Settings, store: Store, people: People) -> Iterator[Boxes]:
    with FaultyHost(answers=[*MADE]) as a, FaultyHost(answers=[*MADE]) as b, ExitStack() as stack:
        links = {name: link_to(name, host.url) for name, host in (("a", a), ("b", b))}
        for link in links.values():
            stack.callback(link.close)
            if link.relay is not None:
                stack.callback(link.relay.close)
        yield Boxes(a, b, store, settings, people, links)


def link_to(name: str, url: str) -> HostLink:
    relay = RelayClient(name, url=f"http://127.0.0.1:{free_port()}", key=Fernet.generate_key())
    host = SandboxHost(name, url=url, key="key", fleet_id="f-test")
    return HostLink(name=name, sandboxes=host, relay=relay, capacity=Capacity(desktops=8))


def creates(host: FaultyHost) -> int:
    return sum(one.method == "POST" for one in host.asked)


# --- creating -------------------------------------------------------------------------------------------


def test_create_that_one_host_refuses_goes_to_the_other(boxes: Boxes) -> None:
    boxes.a.answers = [NO_IMAGE]
    session = boxes.bring_up()
    assert (session.status, session.host) == (Status.RUNNING, "b")
    assert (creates(boxes.a), creates(boxes.b)) == (1, 1)


def test_refusal_of_every_host_says_each_reason(boxes: Boxes) -> None:
    boxes.a.answers = boxes.b.answers = [NO_IMAGE]
    session = boxes.bring_up()
    assert session.status is Status.ERROR
    assert session.error_message == f"{SENTENCE.format('a')}; {SENTENCE.format('b')}"
    assert (creates(boxes.a), creates(boxes.b)) == (1, 1)


def test_request_that_every_host_would_refuse_is_asked_once(boxes: Boxes) -> None:
    boxes.a.answers = [Answer(422, {"detail": "memory: is no quantity"})]
    session = boxes.bring_up()
    assert session.status is Status.ERROR
    assert session.error_message == "sandbox host a does not accept the request: memory: is no quantity"
    assert creates(boxes.b) == 0


def test_session_that_asked_for_its_host_goes_nowhere_else(boxes: Boxes) -> None:
    assert boxes.bring_up(wanted_host="b").host == "b"
    boxes.b.answers = [NO_IMAGE]
    session = boxes.bring_up(wanted_host="b")
    assert session.error_message == SENTENCE.format("b")
    assert creates(boxes.a) == 0
    lost = boxes.bring_up(wanted_host="c")
    assert lost.error_message is not None
    assert "sandbox host c is no longer part of this fleet" in lost.error_message


def test_host_that_cannot_be_reached_is_passed_over_at_once(boxes: Boxes) -> None:
    boxes.links["a"] = link_to("a", f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    session = boxes.bring_up()
    assert (session.status, session.host) == (Status.RUNNING, "b")
    assert time.monotonic() - started < 3
    boxes.links["a"].close()


def test_nothing_is_remembered_of_a_session_that_ended_before_it_was_made(boxes: Boxes) -> None:
    session = new_session(boxes.store, boxes.people.alice)
    lifecycle = Lifecycle(boxes.store.fleet, boxes.settings, boxes.links)
    lifecycle.note_placed(session.id, "a")
    lifecycle.terminate(session, "on request")
    assert lifecycle._placed == {}


def test_what_was_to_end_and_then_failed_has_ended_as_asked(boxes: Boxes) -> None:
    """Also when the wish came after the worker had read the row."""
    session = boxes.bring_up()
    boxes.store.tenant("acme").request_termination(session.id)
    Lifecycle(boxes.store.fleet, boxes.settings, boxes.links).end(
        End(row=session, status=Status.ERROR, message="the container failed")
    )
    ended = boxes.store.fleet.get(session.id)
    assert (ended.status, ended.status_reason) == (Status.TERMINATED, "on request")
    assert ended.error_message == "the container failed"


def test_create_whose_answer_was_lost_is_looked_up_before_anything_else_is_tried(boxes: Boxes) -> None:
    boxes.a.answers = [Answer(hang_up=True), page(listed(1)), Answer(body=listed(1))]
    session = boxes.bring_up()
    assert (session.status, session.host, session.sandbox_id) == (Status.RUNNING, "a", "sb-1")
    assert (creates(boxes.a), creates(boxes.b)) == (1, 0)


def test_host_whose_server_is_down_behind_its_caddy_is_left_after_some_patience(
    boxes: Boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 502 may mean that the create was carried out, so it is looked for first."""
    monkeypatch.setattr("viewer.lifecycle.UNREACHABLE_PATIENCE_SECONDS", 0.5)
    boxes.a.answers = [Answer(502, text="")]
    session = boxes.bring_up()
    assert (session.status, session.host) == (Status.RUNNING, "b")
    assert creates(boxes.a) == 1
    assert [one.method for one in boxes.a.asked[1:]].count("GET") >= 2


def test_host_whose_relay_is_silent_comes_last(boxes: Boxes) -> None:
    boxes.store.fleet.record_host_status("a", HostStatus.OK, "the relay of host a does not answer")
    boxes.store.fleet.record_host_status("b", HostStatus.OK)
    assert boxes.bring_up().host == "b"
    # One that lacks something is still better than none.
    boxes.store.fleet.record_host_status("b", HostStatus.UNREACHABLE, "off")
    assert boxes.bring_up().host == "a"


# --- watching -------------------------------------------------------------------------------------------


def wait_until(reached: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def acting(tmp_path: Path, store: Store, people: People) -> Iterator[Callable[..., None]]:
    """Starts a worker on these hosts: name -> URL of its OpenSandbox server, or None for a desktop host.

    Relays that are not given are silent.
    """
    with ExitStack() as stack:

        def start(relays: dict[str, RelayProcess], **servers: str | None) -> None:
            values = settings_values(tmp_path)
            silent = values["hosts"][0]["relay_key_file"]
            hosts = []
            for name, url in servers.items():
                key_file = tmp_path / f"relay-{name}.key"
                relay = relays.get(name)
                key_file.write_bytes(relay.key if relay else Path(silent).read_bytes())
                address = relay.url if relay else f"http://127.0.0.1:{free_port()}"
                host = {"name": name, "relay_url": address, "relay_key_file": key_file}
                if url is None:
                    hosts.append({**host, "groups": ["desktops"]})
                else:
                    shape = {"opensandbox_key_file": tmp_path / "opensandbox.key", "max_desktops": 8}
                    hosts.append({**host, **shape, "opensandbox_url": url, "groups": ["sandboxes"]})
            worker = Worker(Settings.model_validate({**values, "hosts": hosts}), store)
            stop = threading.Event()
            thread = threading.Thread(target=worker.run, args=(stop,))
            thread.start()
            stack.callback(worker.close)
            stack.callback(thread.join)
            stack.callback(stop.set)

        yield start


def records(store: Store) -> dict[str, HostRecord]:
    return {host.name: host for host in store.fleet.hosts()}


def status_of(store: Store, name: str) -> HostStatus | None:
    found = records(store).get(name)
    return found.status if found else None


def test_host_that_hangs_slows_no_other(acting: Callable[..., None], store: Store) -> None:
    with FaultyHost(answers=[Answer(delay=3)]) as slow, FaultyHost(answers=[page()]) as quick:
        started = time.monotonic()
        acting({}, slow=slow.url, quick=quick.url)
        wait_until(lambda: status_of(store, "quick") is HostStatus.OK)
        assert time.monotonic() - started < 2
        assert status_of(store, "slow") is None


def test_host_with_a_silent_relay_answers_and_says_what_it_lacks(
    acting: Callable[..., None], store: Store
) -> None:
    with FaultyHost(answers=[page()]) as server:
        acting({}, box=server.url)
        wait_until(lambda: status_of(store, "box") is HostStatus.OK)
        detail = records(store)["box"].detail
        assert detail is not None
        assert detail.startswith("the relay of host box does not answer at http://127.0.0.1:")


def test_desktop_host_is_as_its_relay_answers(
    acting: Callable[..., None], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.worker.POLL_SECONDS", 0.2)
    folder = tmp_path / "relay"
    folder.mkdir()
    with running_relay(folder) as relay:
        acting({"atelier": relay}, atelier=None)
        wait_until(lambda: status_of(store, "atelier") is HostStatus.OK)
        assert records(store)["atelier"].detail is None
        relay.process.terminate()
        relay.process.wait(5)
        wait_until(lambda: status_of(store, "atelier") is HostStatus.UNREACHABLE)
        assert "the relay of host atelier does not answer" in (records(store)["atelier"].detail or "")


def test_host_that_left_the_settings_is_forgotten_and_the_others_keep_theirs(
    acting: Callable[..., None], store: Store
) -> None:
    with FaultyHost(answers=[page()]) as server:
        store.fleet.record_host_status("gone", HostStatus.OK)
        acting({}, box=server.url)
        wait_until(lambda: list(records(store)) == ["box"])


# --- persistent desktops --------------------------------------------------------------------------------


class SeenRelay(RelayClient):
    """A relay that sees the same of every desktop."""

    def __init__(self, result: ProbeOutcome, backend: DesktopBackend | None) -> None:
        super().__init__("here", url="http://127.0.0.1:9", key=Fernet.generate_key())
        self.result = result
        self.backend = backend

    def probe(
        self,
        session_id: str,
        target: Target,
        vnc_password: SecretStr | None,
        *,
        seconds: float | None = None,
        tenant_id: str = "",
    ) -> ProbeResult:
        return ProbeResult(result=self.result, detail="nothing there", elapsed_ms=1, backend=self.backend)


def seen(
    store: Store,
    result: ProbeOutcome,
    backend: DesktopBackend | None,
    *,
    wanted: WantedBackend = "kasmvnc-or-tigervnc",
    has_content_domain: bool = True,
) -> Session:
    """The desktop's row after one look."""
    desktop = DesktopSettings(
        name="studio", tenant="acme", host="here", backend=wanted, resolution="1280x800"
    )
    relay, chores = SeenRelay(result, backend), Chores()
    watch = DesktopWatch(
        (desktop,), {"here": relay}, store.fleet, chores, has_content_domain=has_content_domain
    )
    watch.look()
    chores.wait(5)
    relay.close()
    (row,) = store.fleet.live_sessions()
    return row


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize(("backend", "display"), [("kasmvnc", Display.KASMVNC), ("tigervnc", Display.RFB)])
def test_what_a_desktop_runs_is_what_the_relay_sees(
    store: Store, backend: DesktopBackend, display: Display
) -> None:
    row = seen(store, ProbeOutcome.FRAME, backend)
    assert (row.status, row.backend, row.display, row.status_reason) == (
        Status.RUNNING, backend, display, None,
    )  # fmt: skip
    assert row.image == "kasmvnc-or-tigervnc"


@pytest.mark.usefixtures("people")
def test_changed_backend_changes_the_row_and_not_the_session(store: Store) -> None:
    first = seen(store, ProbeOutcome.FRAME, "tigervnc")
    second = seen(store, ProbeOutcome.FRAME, "kasmvnc", wanted="kasmvnc")
    assert second.id == first.id
    assert (second.backend, second.display, second.image) == ("kasmvnc", Display.KASMVNC, "kasmvnc")


@pytest.mark.usefixtures("people")
def test_page_without_a_content_domain_says_why_it_cannot_be_shown(store: Store) -> None:
    row = seen(store, ProbeOutcome.FRAME, "kasmvnc", has_content_domain=False)
    assert row.status is Status.RUNNING
    assert row.status_reason is not None
    assert row.status_reason.endswith("this fleet has no content domain; set content_domain")
    assert seen(store, ProbeOutcome.FRAME, "tigervnc", has_content_domain=False).status_reason is None


@pytest.mark.usefixtures("people")
def test_desktop_runs_only_once_a_frame_was_seen(store: Store) -> None:
    row = seen(store, ProbeOutcome.UNREACHABLE, "kasmvnc")
    assert (row.status, row.backend, row.status_reason) == (Status.CREATING, "kasmvnc", "nothing there")
    assert seen(store, ProbeOutcome.BLANK, "tigervnc").status_reason == "blank"
