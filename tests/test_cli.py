"""The program `deskfleet` against the real API, within this process."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flask import Flask

from tests.viewer_fixtures import ORIGIN, UNKNOWN_ID, People, Person, new_session, running_session, waiting
from viewer.cli.api import Api
from viewer.cli.connection import load_connection
from viewer.cli.events import Event, as_text, follow, read_events
from viewer.cli.main import parser_of_all, run
from viewer.cli.output import duration, plain, table
from viewer.cli.problems import Misused, Refused
from viewer.credentials import open_order
from viewer.diagnosis_answers import Diagnosis, StepName
from viewer.model import HostStatus, Lease, LeaseHolder, LeaseKind, LeaseState, Session, Status, utcnow
from viewer.public_leases import public_lease
from viewer.settings import Settings
from viewer.store import Store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the machine's own configuration."""
    for name in [name for name in os.environ if name.startswith("DESKFLEET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr("viewer.waiting.SILENT_HOST_WAIT_SECONDS", 0.05)
    return tmp_path


class Shell:
    """Runs commands as a person; keeps what they printed."""

    def __init__(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._app = app
        self._environment = monkeypatch
        self._capsys = capsys
        self.out = self.err = ""
        self._environment.setenv("DESKFLEET_URL", ORIGIN)

    def __call__(self, person: Person, command: str, *more: str) -> int:
        self._environment.setenv("DESKFLEET_KEY", person.key)
        self._capsys.readouterr()
        code = run([*command.split(), *more], httpx.WSGITransport(self._app))
        self.out, self.err = self._capsys.readouterr()
        return code

    def document(self, person: Person, command: str, *more: str) -> Any:
        assert self(person, f"{command} --json", *more) == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def shell(app: Flask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(app, monkeypatch, capsys)


@pytest.fixture
def worker(store: Store) -> Iterator[Callable[[Callable[[Session], None]], None]]:
    """Does something with the next session that is asked for, beside the command."""
    threads = []

    def act(do: Callable[[Session], None]) -> None:
        def when_asked() -> None:
            deadline = time.monotonic() + 10
            while not (asked := waiting(store)) and time.monotonic() < deadline:
                time.sleep(0.01)
            do(asked[0])

        threads.append(threading.Thread(target=when_asked))
        threads[-1].start()

    yield act
    for thread in threads:
        thread.join(15)


# --- sessions -------------------------------------------------------------------------------------------


def test_list_is_a_table_for_people_and_a_document_for_programs(
    shell: Shell, store: Store, people: People
) -> None:
    session = running_session(store, people.alice, task_id="invoices", agent_id="atlas")
    assert shell(people.alice, "sessions list") == 0
    header, row = shell.out.splitlines()
    assert header.split() == ["SESSION", "STATUS", "IMAGE", "HOST", "TASK", "AGENT", "AGE", "ENDS", "REASON"]
    assert row.split()[:6] == [session.id, "running", "desktop", "here", "invoices", "atlas"]
    assert re.search(r" \d s  in (1 h|59 min)$", row)
    [item] = shell.document(people.alice, "sessions list")["items"]
    assert item["id"] == session.id


def test_person_is_called_and_the_call_ended(shell: Shell, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    other = running_session(store, people.alice, sandbox_id="box-2")
    assert shell(people.alice, f"sessions help {session.id}") == 0
    assert shell.out == "no person is needed\n"
    assert shell(people.alice, f"sessions help {session.id}", "a \u202ecaptcha") == 0
    assert re.fullmatch(r"a person is needed since \S+ \S+: a \ufffdcaptcha\n", shell.out)
    listed = shell.document(people.alice, "sessions list --needs-person")["items"]
    assert [one["id"] for one in listed] == [session.id] != [other.id]
    assert shell(people.alice, f"sessions show {session.id}") == 0
    assert re.search(r"^needs a person +a .captcha$", shell.out, re.MULTILINE)
    assert shell(people.alice, f"sessions help {session.id} why --done") == 2
    assert shell(people.ada, f"sessions help {session.id} --done") == 0
    assert shell.out.startswith("no person is needed: ended by ")
    assert shell(people.alice, f"sessions help {session.id} --wait 5s") == 0  # nobody to wait for


def test_who_waits_for_a_person_in_vain_is_told_by_the_exit_code(
    shell: Shell, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.cli.sessions._WAIT_PIECE_SECONDS", 0)
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)), sleep=lambda _seconds: None)
    monkeypatch.setattr("viewer.cli.sessions.time", clock)
    session = running_session(store, people.alice)
    assert shell(people.alice, f"sessions help {session.id}", "a captcha", "--wait", "5s") == 1
    assert "a person is needed since" in shell.out


def test_webhook_secrets_are_made_listed_rotated_and_revoked(shell: Shell, people: People) -> None:
    made = shell.document(people.ada, "webhook-secrets create box7")
    assert (made["label"], made["secret"][:6]) == ("box7", "whsec_")
    assert shell(people.ada, f"webhook-secrets rotate {made['id']} --overlap 2h") == 0
    assert "whsec_" in shell.out
    assert made["secret"] not in shell.out
    assert shell(people.ada, "webhook-secrets list") == 0
    assert re.search(r"ends in [12] h", shell.out)
    assert "whsec_" not in shell.out
    assert shell(people.ada, f"webhook-secrets revoke {made['id']}") == 0
    assert shell(people.ada, "webhook-secrets list") == 0
    assert "revoked" in shell.out
    assert shell(people.alice, "webhook-secrets list") == 1
    assert "role admin" in shell.err


def test_another_tenant_sees_nothing(shell: Shell, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    assert shell(people.bob, "sessions list") == 0
    assert shell.out == "none\n"
    assert shell(people.bob, f"sessions show {session.id}") == 1
    assert shell.err == "deskfleet: There is nothing here for you; check the address and the id.\n"


def test_list_is_filtered_and_cut(shell: Shell, store: Store, people: People) -> None:
    red = running_session(store, people.alice, labels={"team": "red"})
    ended = new_session(store, people.alice, labels={"team": "blue"})
    store.fleet.transition(ended.id, Status.TERMINATED)

    def listed(command: str) -> list[str]:
        return [item["id"] for item in shell.document(people.alice, f"sessions list {command}")["items"]]

    assert listed("--label team=red") == [red.id]
    assert listed("--text RED") == [red.id]
    assert listed("--sort created") == [red.id, ended.id]
    assert listed("--sort=-updated --limit 1") == [ended.id]
    assert listed("--status terminated --status error") == [ended.id]
    assert listed("--limit 1") == [ended.id]
    assert "there are more; --all shows them" in shell.err
    assert listed("--all --limit 1") == [ended.id, red.id]
    assert shell.err == ""


def test_all_goes_through_every_page(
    shell: Shell, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.cli.paging.MOST_ON_A_PAGE", 2)
    made = [new_session(store, people.alice).id for _ in range(5)]
    found = shell.document(people.alice, "sessions list --all")
    assert [item["id"] for item in found["items"]] == made[::-1]
    assert found["next_cursor"] is None
    assert len(shell.document(people.alice, "sessions list --limit 3")["items"]) == 3


def test_create_waits_and_says_what_for(
    shell: Shell,
    store: Store,
    people: People,
    settings: Settings,
    worker: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "from-the-shell")

    def bring_up(session: Session) -> None:
        store.fleet.update(session.id, host="here", status_reason="waiting for the first frame")
        time.sleep(0.3)
        store.fleet.transition(session.id, Status.RUNNING, host="here", sandbox_id="box-1")

    worker(bring_up)
    options = "--image chrome --resolution 1024x768 --task invoices --label team=red --ttl 2h --idle 10m"
    more = "--env TOKEN --env A=b --cpu 500m --memory 1Gi --open-url https://example.org/"
    made = shell.document(
        people.alice, f"sessions create {options} {more}", "--command", "xeyes -geometry 9x9"
    )
    assert (made["status"], made["image"], made["resolution"], made["labels"]) == (
        "running",
        "chrome",
        "1024x768",
        {"team": "red"},
    )
    assert shell.err.splitlines()[0] == f"session {made['id']}"
    row = store.tenant("acme").get(made["id"])
    assert (row.ttl_seconds, row.idle_seconds, row.cpu_millis, row.memory_mib) == (7200, 600, 500, 1024)
    order = open_order(row.order_sealed, settings.secret_key)
    assert order.env == {"TOKEN": "from-the-shell", "A": "b"}
    assert (order.options.command, order.options.open_url) == ("xeyes -geometry 9x9", "https://example.org/")


def test_create_that_fails_says_why_and_exits_with_1(
    shell: Shell, store: Store, people: People, worker: Any
) -> None:
    worker(lambda one: store.fleet.transition(one.id, Status.ERROR, error_message="The image is missing."))
    assert shell(people.alice, "sessions create") == 1
    assert shell.err.rstrip().endswith("is over: The image is missing.")


def test_create_without_waiting_is_there_at_once_and_an_idempotency_key_finds_it(
    shell: Shell, store: Store, people: People
) -> None:
    first = shell.document(people.alice, "sessions create --no-wait --idempotency-key k1")
    again = shell.document(people.alice, "sessions create --no-wait --idempotency-key k1")
    assert first["status"] == "creating"
    assert first["id"] == again["id"]
    assert len(waiting(store)) == 1


class LosesFirstAnswer(httpx.WSGITransport):
    """Carries the request through, and loses the first answer."""

    lost = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if not self.lost:
            self.lost = True
            answer.close()
            raise httpx.ReadError("connection reset")
        return answer


def test_create_whose_answer_was_lost_makes_one_desktop(
    app: Flask, shell: Shell, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESKFLEET_KEY", people.alice.key)
    assert run(["sessions", "create", "--no-wait"], LosesFirstAnswer(app)) == 0
    assert len(waiting(store)) == 1


def test_wait_tells_the_place_in_line_and_gives_up(shell: Shell, store: Store, people: People) -> None:
    new_session(store, people.bob)
    session = new_session(store, people.alice)
    for row in waiting(store):
        store.fleet.update(row.id, status_reason="queued")
    assert shell(people.alice, f"sessions wait {session.id} --timeout 0s") == 1
    assert "waits in line, place 2" in shell.err
    assert f"session {session.id} is not usable after 0 s: waits in line, place 2" in shell.err


def test_show_has_what_a_person_asks_for(shell: Shell, store: Store, people: People) -> None:
    session = running_session(store, people.alice, labels={"team": "red"}, idle_seconds=600)
    assert shell(people.alice, f"sessions show {session.id}") == 0
    shown = dict(line.split(maxsplit=1) for line in shell.out.splitlines() if not line.startswith("idle end"))
    assert shown["session"] == session.id
    assert shown["page"] == f"{ORIGIN}/sandboxes/{session.id}"
    assert shown["labels"] == "team=red"
    assert "idle end" in shell.out


def test_renew_pause_resume_and_history(shell: Shell, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE)
    assert shell(people.alice, f"sessions renew {session.id} --ttl 2h") == 0
    assert "ends in 1 h" in shell.out or "ends in 2 h" in shell.out
    assert shell(people.alice, f"sessions pause {session.id}") == 0
    assert shell.out == f"{session.id} will be paused; its host does not answer yet\n"
    store.fleet.transition(session.id, Status.PAUSED)
    assert shell(people.alice, f"sessions pause {session.id}") == 0
    assert shell.out == f"{session.id} is paused\n"
    assert shell(people.alice, f"sessions resume {session.id}") == 0
    assert "will be running" in shell.out
    assert shell(people.alice, f"sessions history {session.id}") == 0
    statuses = [line.split()[2] for line in shell.out.splitlines()[1:]]
    assert statuses[0] == "creating"
    assert "paused" in statuses


def test_diagnosis_is_a_table_with_what_mends_and_1_where_a_step_failed(
    shell: Shell, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    store.fleet.transition(session.id, Status.ERROR, error_message="no such image")
    assert shell(people.wanda, f"diagnose {session.id}") == 1
    assert [line.split()[0] for line in shell.out.splitlines()[1:9]] == [step.value for step in StepName]
    assert "row: Create another one." in shell.out
    assert shell(people.wanda, f"diagnose {session.id} --json") == 1
    assert Diagnosis.model_validate_json(shell.out).steps[0].what == "It has failed: no such image."
    assert shell(people.bob, f"diagnose {session.id}") == 1
    assert "Not found" in shell.err or "nothing here" in shell.err


def test_labels_are_set_and_taken_away_beside_the_others(shell: Shell, store: Store, people: People) -> None:
    session = running_session(store, people.alice, labels={"team": "red", "old": "1"})
    assert shell(people.alice, f"sessions label {session.id} team=blue old- new=2") == 0
    assert store.tenant("acme").get(session.id).labels == {"team": "blue", "new": "2"}
    assert shell(people.alice, f"sessions label {session.id} nonsense") == 2
    assert "neither NAME=VALUE nor NAME-" in shell.err


def test_terminate_ends_what_is_named_and_goes_on_after_a_refusal(
    shell: Shell, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE)
    assert shell(people.alice, f"sessions terminate {UNKNOWN_ID} {session.id}") == 1
    assert f"{UNKNOWN_ID}: There is nothing here for you" in shell.err
    assert shell.out == f"{session.id} will end; its host does not answer yet\n"
    assert store.tenant("acme").get(session.id).terminate_requested_at is not None


def wanted_ends(store: Store) -> set[str]:
    return {row.id for row in store.fleet.live_sessions() if row.terminate_requested_at is not None}


def test_terminate_by_filter_asks_first(
    shell: Shell, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    red = [running_session(store, people.alice, sandbox_id=f"r{n}", task_id="red").id for n in range(2)]
    running_session(store, people.alice, task_id="blue")
    answers = io.StringIO("n\ny\n")
    answers.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", answers)
    assert shell(people.alice, "sessions terminate --task red") == 1
    assert shell.err == "End 2 sandboxes? [y/N] nothing was ended\n"
    assert wanted_ends(store) == set()
    assert shell(people.alice, "sessions terminate --task red") == 0
    assert shell.out == "2 will end\n"
    assert wanted_ends(store) == set(red)


def test_terminate_by_filter_without_a_person_needs_yes(
    shell: Shell, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running_session(store, people.alice)
    other = running_session(store, people.bob, sandbox_id="box-2")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert shell(people.alice, "sessions terminate --all") == 2
    assert "give --yes" in shell.err
    assert wanted_ends(store) == set()
    assert shell.document(people.alice, "sessions terminate --all --yes") == {
        "ids": [session.id],
        "more": False,
    }
    assert other.id not in wanted_ends(store)
    assert shell(people.alice, "sessions terminate --task nothing --yes") == 0
    assert shell.out == "nothing matches\n"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("sessions terminate", "say which: session ids, a condition such as --task, or --all"),
        (f"sessions terminate {UNKNOWN_ID} --all", "not both"),
        ("sessions create --resolution huge", "resolution: is not WIDTHxHEIGHT; give WIDTHxHEIGHT such as"),
        ("sessions create --env NO_SUCH_VARIABLE", "this shell has no such variable"),
        ("sessions create --ttl 5s", "ttl_seconds: input should be greater than or equal to 60"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exits_with_2(
    shell: Shell, people: People, command: str, sentence: str
) -> None:
    assert shell(people.alice, command) == 2
    assert sentence in shell.err
    assert len(shell.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["", "sessions", "sessions create --ttl soon", "sessions list --label x"])
def test_what_argparse_refuses_exits_with_2(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(command.split())
    assert ended.value.code == 2


def test_what_the_fleet_refuses_exits_with_1(shell: Shell, people: People) -> None:
    assert shell(people.alice, "sessions create --image dekstop") == 1
    assert "did you mean 'desktop'?" in shell.err
    assert shell(people.wanda, "sessions create") == 1
    assert "This needs the role operator, yours is watcher" in shell.err


# --- the rest of the nouns ------------------------------------------------------------------------------


def test_tasks_and_agents_are_written_down_and_found(shell: Shell, people: People) -> None:
    made = shell.document(
        people.alice, "tasks create --id t1 --agent atlas --external-run 77", "--title", "Do it"
    )
    assert (made["id"], made["title"], made["external_run_id"]) == ("t1", "Do it", "77")
    assert shell.document(people.alice, "tasks show t1") == made
    assert shell(people.alice, "tasks list --external-run 77") == 0
    assert shell.out.splitlines()[1].startswith("t1")
    assert shell(people.alice, "agents create --id atlas --name Atlas") == 0
    assert shell.document(people.alice, "agents show atlas")["name"] == "Atlas"
    assert [one["id"] for one in shell.document(people.alice, "agents list")["items"]] == ["atlas"]
    odd = shell.document(people.alice, "tasks create", "--id", "run/7 #1?")
    assert shell.document(people.alice, "tasks show", "run/7 #1?") == odd
    assert shell.document(people.bob, "tasks list")["items"] == []


def test_documents_are_put_down_read_and_deleted(shell: Shell, people: People, tmp_path: Path) -> None:
    file, copy = tmp_path / "report.md", tmp_path / "copy.md"
    file.write_text("# größe\n")
    made = shell.document(people.alice, f"documents put {file} --task t1 --path out/report.md")
    assert (made["title"], made["type"], made["size"]) == ("report.md", "markdown", 10)
    file.write_text("# Two\n")
    again = shell.document(people.alice, f"documents put {file} --task t1 --path out/report.md")
    assert again["id"] == made["id"]
    assert shell.document(people.alice, f"documents show {made['id']}") == again
    assert [one["id"] for one in shell.document(people.alice, "documents list --task t1")["items"]] == [
        made["id"]
    ]
    assert shell.document(people.alice, "documents list --type code")["items"] == []
    assert shell(people.alice, f"documents get {made['id']} --to {copy}") == 0
    assert copy.read_text() == "# Two\n"
    assert shell(people.alice, f"documents get {made['id']} --to {copy}") == 2
    assert shell(people.bob, f"documents show {made['id']}") == 1
    assert shell(people.alice, f"documents delete {made['id']}") == 0
    assert shell(people.alice, f"documents show {made['id']}") == 1


def test_hosts_are_listed_and_drained_by_admins(shell: Shell, store: Store, people: People) -> None:
    store.fleet.record_host_status("here", HostStatus.OK)
    assert shell(people.alice, "hosts list") == 0
    assert shell.out.splitlines()[1].split()[:4] == ["here", "ok", "sandboxes,desktops", "0/8"]
    assert shell(people.alice, "hosts drain here") == 1
    assert "needs the role admin" in shell.err
    assert shell(people.ada, "hosts drain here") == 0
    assert shell.out == "here gets no new sandboxes; 0 run on\n"
    assert shell(people.ada, "hosts list") == 0
    assert "draining" in shell.out.splitlines()[1]
    assert "here: it is draining" in shell.out
    assert shell(people.ada, "hosts undrain here") == 0
    assert not shell.document(people.ada, "hosts list")["items"][0]["draining"]


def test_images_and_me(shell: Shell, people: People) -> None:
    assert shell(people.wanda, "images list") == 0
    assert "desktop (default)" in shell.out
    assert shell.document(people.wanda, "me")["role"] == "watcher"


# --- events ---------------------------------------------------------------------------------------------


def api_of(person: Person, transport: httpx.BaseTransport) -> Api:
    environment = {"DESKFLEET_URL": ORIGIN, "DESKFLEET_KEY": person.key}
    return Api(load_connection(environment, url=None, ca_file=None), transport)


class Interrupted(httpx.WSGITransport):
    """Every stream of events ends after the first event that is not `ready`; the second one is refused."""

    streams = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.streams += 1
        if self.streams == 2:
            raise httpx.ConnectError("connection refused")
        answer = super().handle_request(request)
        assert isinstance(answer.stream, httpx.SyncByteStream)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=CutShort(answer.stream))


class CutShort(httpx.SyncByteStream):
    def __init__(self, whole: httpx.SyncByteStream) -> None:
        self._whole = whole

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._whole:
            yield chunk
            if b"event: session" in chunk:
                raise httpx.ReadError("connection reset")

    def close(self) -> None:
        self._whole.close()


def test_events_go_on_after_an_interruption_without_a_gap_or_a_double(
    app: Flask, store: Store, people: People
) -> None:
    before = store.tenant("acme").last_event_id()
    made = [new_session(store, people.alice).id for _ in range(3)]
    new_session(store, people.bob)
    transport, notes = Interrupted(app), list[str]()
    with api_of(people.alice, transport) as api:
        found = list(
            itertools.islice((e for e in follow(api, before, notes.append, lambda _: None) if e.session), 3)
        )
    assert [event.session.id for event in found if event.session] == made
    assert transport.streams == 4
    assert all(note.endswith("; trying again") for note in notes)
    assert len(notes) == 3


def test_events_that_cannot_begin_are_refused(app: Flask, people: People) -> None:
    stranger = Person("acme", "df_aaaaaaaa_wrong")
    with (
        api_of(stranger, httpx.WSGITransport(app)) as api,
        pytest.raises(Refused, match="The key is not valid"),
    ):
        next(follow(api, None, lambda _: None))


def test_events_are_one_object_a_line(
    shell: Shell, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = new_session(store, people.alice)
    store.fleet.transition(session.id, Status.ERROR, error_message="no \x1b[31m image")
    events = store.tenant("acme").events_after(0)

    def some(api: Api, last_id: int | None, note: Callable[[str], None]) -> Iterator[Event]:
        return itertools.islice(follow(api, last_id, note), 1 + len(events))

    monkeypatch.setattr("viewer.cli.events.follow", some)
    assert shell(people.alice, "events --json --after 0") == 0
    lines = [json.loads(line) for line in shell.out.splitlines()]
    assert [line["id"] for line in lines] == [event.id for event in events]
    assert {line["session"]["id"] for line in lines} == {session.id}
    assert shell(people.alice, f"events --after 0 --session {session.id}") == 0
    assert shell.out.splitlines()[-1].endswith("error       no �[31m image")
    assert shell(people.alice, f"events --after 0 --session {UNKNOWN_ID}") == 0
    assert shell.out == ""


def test_an_event_that_nobody_understands_is_said(people: People) -> None:
    with pytest.raises(Refused, match="install the fleet's own"):
        list(read_events(["id: 4", "event: novelty", "data: {}", ""]))


# --- where and who --------------------------------------------------------------------------------------


def configure(home: Path, text: str, mode: int = 0o600) -> Path:
    path = home / ".config" / "deskfleet" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def secret_file(home: Path, text: str = "df_a_b\n", mode: int = 0o600) -> Path:
    path = home / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_environment_comes_before_the_file_and_options_before_both(home: Path) -> None:
    configure(home, f'url = "https://a.example"\nkey_file = "{secret_file(home)}"\nca_file = "/a.pem"\n')
    environment = {"HOME": str(home)}
    found = load_connection(environment, url=None, ca_file=None)
    assert (found.url, found.key.get_secret_value(), found.ca_file) == (
        "https://a.example",
        "df_a_b",
        Path("/a.pem"),
    )
    environment |= {
        "DESKFLEET_URL": "https://b.example/",
        "DESKFLEET_KEY": "df_c",
        "DESKFLEET_CA_FILE": "/b.pem",
    }
    found = load_connection(environment, url=None, ca_file=None)
    assert (found.url, found.key.get_secret_value(), found.ca_file) == (
        "https://b.example",
        "df_c",
        Path("/b.pem"),
    )
    found = load_connection(environment, url="http://localhost:8088", ca_file=Path("/c.pem"))
    assert (found.url, found.ca_file) == ("http://localhost:8088", Path("/c.pem"))
    assert "df_c" not in repr(found)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "there is no address: set DESKFLEET_URL"),
        ({"DESKFLEET_URL": "https://a"}, "there is no key: set DESKFLEET_KEY_FILE or DESKFLEET_KEY"),
        ({"DESKFLEET_URL": "desk.example.com"}, "is no address; give one such as https://"),
        ({"DESKFLEET_URL": "https://a:99999"}, "is no address"),
        ({"DESKFLEET_URL": "http://desk.example.com"}, "would send the key in clear"),
        ({"DESKFLEET_URL": "https://a", "DESKFLEET_KEY": "a\nb"}, "is not one line of printable ASCII"),
        ({"DESKFLEET_KEY_FILE": "/nowhere"}, "/nowhere cannot be read: No such file or directory"),
        (
            {"DESKFLEET_KEY_FILE": "/etc/passwd"},
            "can be read or changed by others; run `chmod 600 /etc/passwd`",
        ),
        ({"DESKFLEET_KEY_FILE": "/x", "DESKFLEET_KEY": "y"}, "are both set; unset one of them"),
    ],
)
def test_what_is_missing_or_unsafe_is_one_sentence(
    environment: dict[str, str], sentence: str, home: Path
) -> None:
    configured = {"HOME": str(home), **environment}
    if "DESKFLEET_URL" not in environment and environment:
        configured["DESKFLEET_URL"] = "https://a"
    with pytest.raises(Misused) as raised:
        load_connection(configured, url=None, ca_file=None)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ('key = "df_a_b"', 0o640, "can be read or changed by others"),
        (
            'keyy = "df_a_b"',
            0o600,
            "keyy: extra inputs are not permitted; known: url, key, key_file, ca_file",
        ),
        ("key = ", 0o600, "is not TOML"),
        ('key = "a"\nkey_file = "b"', 0o600, "has both key and key_file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(home: Path, text: str, mode: int, sentence: str) -> None:
    configure(home, text, mode)
    with pytest.raises(Misused) as raised:
        load_connection({"HOME": str(home), "DESKFLEET_URL": "https://a"}, url=None, ca_file=None)
    assert sentence in str(raised.value)
    assert "df_a_b" not in str(raised.value)


def test_a_file_of_authorities_must_be_one(home: Path) -> None:
    environment = {
        "DESKFLEET_URL": "https://a",
        "DESKFLEET_KEY": "k",
        "DESKFLEET_CA_FILE": str(secret_file(home)),
    }
    with pytest.raises(Misused, match="give a PEM file of certificates"):
        load_connection(environment, url=None, ca_file=None).trust()


def test_nobody_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DESKFLEET_KEY", "df_a_b")
    assert run(["me", "--url", "http://127.0.0.1:9"]) == 1
    assert "deskfleet: http://127.0.0.1:9 does not answer: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (httpx.Response(200, text="<html>"), "is no Deskfleet of this version; check DESKFLEET_URL"),
        (httpx.Response(502), "answers 502 and says no more"),
        (httpx.Response(308, headers={"Location": "https://b/"}), "leads to https://b/; give that address"),
    ],
)
def test_what_is_no_deskfleet_is_one_sentence(
    answer: httpx.Response, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DESKFLEET_KEY", "df_a_b")
    assert run(["me", "--url", ORIGIN], httpx.MockTransport(lambda _: answer)) == 1
    assert sentence in capsys.readouterr().err


# --- webhooks -------------------------------------------------------------------------------------------


def test_webhooks_from_their_making_to_their_end(shell: Shell, people: People, store: Store) -> None:
    address = "https://hooks.example.com/x"
    assert shell(people.ada, f"webhooks create {address} --type session.error --label chat") == 0
    secret = re.search(r"shown this once: (whsec_\S+)", shell.out)
    assert secret is not None
    (endpoint,) = store.webhooks("acme").list()
    assert (endpoint.types, endpoint.label) == (("session.error",), "chat")
    assert shell(people.ada, "webhooks list") == 0
    assert shell.out.splitlines()[1].split()[:5] == [endpoint.id, "ok", address, "session.error", "chat"]
    assert shell(people.ada, f"webhooks change {endpoint.id} --all-types --address {address}y") == 0
    assert shell.document(people.ada, f"webhooks show {endpoint.id}")["types"] == []
    rotated = shell.document(people.ada, f"webhooks rotate {endpoint.id}")["secret"]
    assert rotated != secret[1]
    trial = shell.document(people.ada, f"webhooks test {endpoint.id}")
    assert shell(people.ada, f"webhooks deliveries {endpoint.id} --status pending") == 0
    assert shell.out.splitlines()[1].split()[:3] == [trial["id"], "webhook.test", "pending"]
    assert shell(people.ada, f"webhooks retry {endpoint.id} {trial['id']}") == 0
    assert shell(people.ada, f"webhooks disable {endpoint.id}") == 0
    assert "disabled by an admin" in shell.out
    assert shell(people.ada, f"webhooks test {endpoint.id}") == 1
    assert "enable it first" in shell.err
    assert shell(people.ada, f"webhooks enable {endpoint.id}") == 0
    assert shell(people.ada, f"webhooks delete {endpoint.id}") == 0
    assert shell(people.ada, "webhooks list") == 0
    assert shell.out == "none\n"
    assert shell(people.alice, "webhooks list") == 1
    assert "needs the role admin" in shell.err


# --- what is printed ------------------------------------------------------------------------------------


def test_table_pads_its_columns_and_keeps_control_characters_off_the_terminal() -> None:
    assert table(("A", "LONG"), [("xyz", None), ("\x1b[2J", "b")]) == "A     LONG\nxyz   -\n�[2J  b"
    assert plain("a\u202eb\n") == "a�b�"


def test_durations_are_those_of_the_pages() -> None:
    assert [duration(s) for s in (-3, 59, 60, 3599, 7200, 200_000)] == [
        "0 s", "59 s", "1 min", "59 min", "2 h", "2 d",
    ]  # fmt: skip


def commands(parser: argparse.ArgumentParser, words: str = "deskfleet") -> Iterator[str]:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield words
    for action in inner:
        for name, one in action.choices.items():
            yield from commands(one, f"{words} {name}")


def test_control_is_taken_asked_for_and_given_back(shell: Shell, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    assert shell(people.alice, f"lease take {session.id} --for 2m --reason", "fills in a form") == 0
    assert "fills in a form" in shell.out
    assert shell(people.wanda, f"lease show {session.id}") == 0
    assert store.leases.of(session.id).holder is not None
    assert shell(people.ada, f"lease take {session.id}") == 1
    assert "has keyboard and mouse of this desktop" in shell.err
    assert shell(people.ada, f"lease request {session.id} --reason", "my turn") == 0
    to = store.leases.state(session.id).requests[0].by.id
    assert to in shell.out
    assert shell(people.alice, f"lease renew {session.id} --for 10m") == 0
    assert shell(people.alice, f"lease give {session.id} {to}") == 0
    assert store.leases.of(session.id).is_held_by(to)
    assert shell(people.alice, f"lease request {session.id}") == 0
    assert shell(people.alice, f"lease withdraw {session.id}") == 0
    assert shell(people.alice, f"lease release {session.id} --force") == 1
    assert shell(people.ada, f"lease release {session.id}") == 0
    assert "nobody" in shell.out
    assert shell(people.alice, f"lease take {session.id} --for 2h") == 1


def test_a_change_of_control_is_a_line_of_the_events(store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    state = LeaseState(
        lease=Lease(
            session_id=session.id,
            number=1,
            holder=LeaseHolder(kind=LeaseKind.PERSON, id="person:bob", name="Bob"),
            since=utcnow(),
            reason="a captcha",
        ),
        at=utcnow(),
    )
    lines = ["id: 7", "event: lease", f"data: {public_lease(state).model_dump_json()}", ""]
    (event,) = read_events(lines)
    assert event.is_of(session.id)
    assert not event.is_of("another")
    assert (as_text(event) or "").endswith(f"{session.id}  Bob has control (a captcha)")


def test_share_link_is_printed_once_listed_and_revoked(shell: Shell, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    assert shell(people.alice, f"shares create {session.id} --ttl 2h --single-use --label", "for Bo") == 0
    link = shell.out.strip()
    assert re.fullmatch(re.escape(ORIGIN) + r"/s#[\w-]{43}", link)
    (share,) = store.shares.list(session)
    assert (share.label, share.is_single_use) == ("for Bo", True)
    assert share.id in shell.err
    assert shell(people.alice, f"shares list {session.id}") == 0
    assert "for Bo" in shell.out
    assert link.partition("#")[2] not in shell.out
    assert shell(people.alice, f"shares revoke {session.id} {share.id}") == 0
    assert shell(people.alice, f"shares list {session.id}") == 0
    assert "revoked" in shell.out
    assert shell(people.alice, f"shares create {session.id} --ttl 8d") == 2
    assert shell(people.wanda, f"shares list {session.id}") == 1


def test_every_command_is_documented() -> None:
    told = Path("docs/cli.md").read_text()
    assert [command for command in commands(parser_of_all()) if command not in told] == []
