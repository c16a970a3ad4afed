"""Keys and pointer over the API: who may, whose turn it is, and what each refusal says."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from flask import Flask
from sqlalchemy import select

from tests.test_mcp import Agent, as_person, converse
from tests.viewer_fixtures import (
    ORIGIN,
    People,
    ViewerClient,
    all_that_is_in,
    kasmvnc_desktop,
    put_relay,
    running_session,
    session_with_password,
)
from viewer.audit_store import AuditFilter
from viewer.cli.main import run
from viewer.gesture_store import GESTURE_LIFE
from viewer.grants import DesktopSocket, Grant, PublishedPort
from viewer.input_actions import AnyAction, Gesture
from viewer.model import ClipboardPolicy, Lease, Role, Session, Status, utcnow
from viewer.people import NewPerson
from viewer.relay.answers import InputOutcome, InputResult
from viewer.relay_client import RelayUnreachable
from viewer.services import Services
from viewer.settings import Settings, TenantSettings
from viewer.store import Store
from viewer.tables import GestureRow

CLICK = {"type": "click", "x": 1, "y": 2}
TAGS = [one.model_fields["type"].annotation.__args__[0] for one in get_args(get_args(AnyAction)[0])]
SECRET = "correct horse battery staple"


class HandOfTheRelay:
    """The relay, as far as input goes: it remembers what it was sent, and answers what the test says."""

    def __init__(self) -> None:
        self.sent: list[tuple[Grant, Gesture]] = []
        self.leases: list[Lease] = []
        self.answer: Callable[[Gesture], InputResult] = lambda gesture: InputResult(
            result=InputOutcome.DONE, done=len(gesture.actions), began=True, width=1280, height=800
        )

    def send_input(self, grant: Grant, gesture: Gesture) -> InputResult:
        self.sent.append((grant, gesture))
        return self.answer(gesture)

    def answers(self, result: InputOutcome, detail: str = "", **values: Any) -> None:
        self.answer = lambda _: InputResult(result=result, detail=detail, **values)

    def is_silent(self, cause: Exception) -> None:
        def fail(_: Gesture) -> InputResult:
            raise RelayUnreachable("the relay of host here does not answer") from cause

        self.answer = fail

    def set_lease(self, lease: Lease, *, given_back: bool = False) -> None:
        self.leases.append(lease)

    def close(self) -> None:
        pass


@pytest.fixture
def relay(app: Flask) -> HandOfTheRelay:
    hand = HandOfTheRelay()
    put_relay(app, hand)
    return hand


@pytest.fixture
def session(store: Store, people: People, settings: Settings) -> Session:
    return session_with_password(store, people.alice, settings, "secret12")


Send = Callable[..., Any]


@pytest.fixture
def send(client: ViewerClient, people: People, relay: HandOfTheRelay) -> Send:
    def send(
        session: Session, body: object = CLICK, headers: dict[str, str] | None = None, **more: str
    ) -> Any:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return client.post(
            f"/api/v1/sessions/{session.id}/input",
            json=body,
            headers={**(people.alice.headers if headers is None else headers), **named},
        )

    return send


def bob(store: Store) -> dict[str, str]:
    """The browser of a person who may control."""
    person = store.people("acme").add(NewPerson(login="bob", name="Bob", role=Role.OPERATOR), by="test")
    token = store.accounts.sign_in_person(person.id, address=None, user_agent=None)
    return {"Cookie": f"__Host-deskfleet={token}", "Origin": ORIGIN}


# --- what is sent


def test_an_agent_acts_and_has_the_keyboard_with_it(
    send: Send, session: Session, relay: HandOfTheRelay
) -> None:
    answer = send(session, {"actions": [CLICK, {"type": "wait", "ms": 1}]})
    assert (answer.status_code, answer.json) == (
        200,
        {"actions": 2, "screen": {"width": 1280, "height": 800}},
    )
    ((grant, gesture),) = relay.sent
    assert (grant.purpose, grant.session_id, grant.tenant_id) == ("input", session.id, "acme")
    assert grant.target == PublishedPort(port=40001)
    assert grant.vnc_password is not None
    assert grant.vnc_password.get_secret_value() == "secret12"
    assert grant.lease is not None
    assert grant.lease.is_held_by(grant.principal)
    assert len(gesture.actions) == 2
    # The relay of the session's host knows of the new holder before anything is pressed.
    assert [one.number for one in relay.leases] == [grant.lease.number]


def test_a_person_s_browser_may_as_well(send: Send, session: Session, store: Store) -> None:
    assert send(session, {"type": "key", "keys": "ctrl+alt+Delete"}, headers=bob(store)).status_code == 200


def test_the_tenants_clipboard_policy_goes_along(
    send: Send, session: Session, relay: HandOfTheRelay, app: Flask, settings: Settings
) -> None:
    closed = ClipboardPolicy(to_desktop=False)
    here: Services = app.extensions["deskfleet"]
    here.settings = settings.model_copy(update={"tenants": (TenantSettings(name="acme", clipboard=closed),)})
    relay.answers(InputOutcome.CLIPBOARD_REFUSED, "this tenant lets nothing onto the clipboards")
    answer = send(session, {"type": "clipboard", "text": "a"})
    assert relay.sent[0][0].clipboard == closed
    assert (answer.status_code, answer.json["type"]) == (403, "urn:deskfleet:problem:clipboard-off")


# --- who may not


def test_while_a_person_has_the_keyboard_an_agent_is_told_who_and_why(
    send: Send, session: Session, relay: HandOfTheRelay, client: ViewerClient, store: Store
) -> None:
    taken = client.post(
        f"/api/v1/sessions/{session.id}/lease/take", json={"reason": "a captcha"}, headers=bob(store)
    )
    assert taken.status_code == 200
    answer = send(session)
    assert (answer.status_code, answer.json["type"]) == (423, "urn:deskfleet:problem:lease-held")
    assert (answer.json["held_by"]["name"], answer.json["held_by"]["reason"]) == ("Bob", "a captcha")
    assert relay.sent == []


def test_who_loses_the_keyboard_in_the_middle_is_told_the_same(
    send: Send, session: Session, relay: HandOfTheRelay, client: ViewerClient, store: Store
) -> None:
    browser = bob(store)

    def take(_: Gesture) -> InputResult:
        client.post(f"/api/v1/sessions/{session.id}/lease/take", json={}, headers=browser)
        return InputResult(result=InputOutcome.LEASE_LOST, detail="Bob has taken control", began=True)

    relay.answer = take
    answer = send(session)
    assert (answer.status_code, answer.json["held_by"]["name"]) == (423, "Bob")


def test_another_tenants_desktop_is_one_that_never_was(
    send: Send, session: Session, people: People, relay: HandOfTheRelay
) -> None:
    foreign = send(session, headers=people.bob.headers)
    unknown = send(session.model_copy(update={"id": "11111111-2222-4333-8444-555555555555"}))
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json == unknown.json
    assert relay.sent == []


def test_a_watcher_may_not(send: Send, session: Session, people: People, relay: HandOfTheRelay) -> None:
    assert send(session, headers=people.wanda.headers).status_code == 403
    assert relay.sent == []


def test_what_does_not_run_takes_no_input(
    send: Send, session: Session, store: Store, people: People, relay: HandOfTheRelay
) -> None:
    store.fleet.transition(session.id, Status.PAUSED)
    paused = send(session)
    assert (paused.status_code, paused.json["type"]) == (409, "urn:deskfleet:problem:not-running")
    assert "It is paused now" in paused.json["detail"]
    shell = running_session(store, people.alice, sandbox_id="box-2", image="shell", display="none")
    bare = send(shell)
    assert (bare.status_code, bare.json["type"]) == (409, "urn:deskfleet:problem:no-screen")
    assert relay.sent == []
    assert relay.leases == []


# --- what goes wrong


@pytest.mark.parametrize(
    ("result", "detail", "status", "said"),
    [
        (InputOutcome.OUTSIDE, "9,9 is not on the screen", 422, "9,9 is not"),
        (InputOutcome.NO_POINTER, "where the pointer is, is not known here yet; give x and y", 422, "give x"),
        (InputOutcome.KEYBOARD_FULL, "no room; put it onto the clipboard", 422, "actions: no room"),
        (InputOutcome.WRONG_CLIPBOARD, "not this text; type it", 422, "type it"),
        (InputOutcome.BUSY, "other input is under way", 429, "again in a second"),
        (InputOutcome.CUT, "the session has ended", 409, "The session has ended; 1 of 1 actions were"),
        (InputOutcome.UNREACHABLE, "the desktop hung up", 502, "The desktop hung up; 1 of 1 actions"),
    ],
)  # fmt: skip
def test_each_way_to_fail_is_told_apart(
    send: Send,
    session: Session,
    relay: HandOfTheRelay,
    result: InputOutcome,
    detail: str,
    status: int,
    said: str,
) -> None:
    relay.answers(result, detail, done=1, began=True)
    answer = send(session)
    assert answer.status_code == status
    assert said in answer.json["detail"]


def test_a_relay_that_cannot_be_reached_has_done_nothing_and_a_silent_one_perhaps(
    send: Send, session: Session, relay: HandOfTheRelay
) -> None:
    relay.is_silent(httpx.ConnectError("refused"))
    answer = send(session)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert "nothing was done" in answer.json["detail"]
    relay.is_silent(httpx.ReadTimeout("late"))
    answer = send(session)
    assert (answer.status_code, answer.json["type"]) == (502, "urn:deskfleet:problem:input-in-doubt")
    assert "look at the screen" in answer.json["detail"]


def test_kasmvnc_desktops_are_reached_by_their_socket_and_lack_the_clipboard(
    send: Send, store: Store, people: People, relay: HandOfTheRelay
) -> None:
    desktop = kasmvnc_desktop(store, people.alice)
    assert send(desktop).status_code == 200
    assert relay.sent[0][0].target == DesktopSocket(name="studio")
    relay.answers(InputOutcome.WRONG_CLIPBOARD, "not this text")
    answer = send(desktop, {"type": "clipboard", "text": "a"})
    assert answer.status_code == 501
    assert "KasmVNC" in answer.json["detail"]


def test_more_than_its_share_at_once_is_refused(
    send: Send, session: Session, app: Flask, people: People, store: Store
) -> None:
    here: Services = app.extensions["deskfleet"]
    who = store.accounts.principal_of_key(people.alice.key)
    assert who is not None
    taken = 0
    while here.gestures.take(who):
        taken += 1
    assert taken == 20
    answer = send(session)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    here.gestures.give_back(who)
    assert send(session).status_code == 200


# --- sent once


def test_a_request_that_is_sent_again_is_not_done_again(
    send: Send, session: Session, relay: HandOfTheRelay
) -> None:
    first = send(session, Idempotency_Key="k-1")
    again = send(session, Idempotency_Key="k-1")
    assert (again.status_code, again.json) == (first.status_code, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(relay.sent) == 1
    other = send(session, {"type": "key", "keys": "a"}, Idempotency_Key="k-1")
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json["detail"]
    assert len(relay.sent) == 1


def test_of_a_request_that_was_cut_nobody_knows_and_it_is_not_done_again(
    send: Send, session: Session, relay: HandOfTheRelay
) -> None:
    relay.answers(InputOutcome.CUT, "the relay is restarting", began=True)
    assert send(session, Idempotency_Key="k-1").status_code == 409
    again = send(session, Idempotency_Key="k-1")
    assert (again.status_code, again.json["type"]) == (409, "urn:deskfleet:problem:input-in-doubt")
    relay.is_silent(httpx.ReadTimeout("late"))
    assert send(session, Idempotency_Key="k-2").status_code == 502
    assert send(session, Idempotency_Key="k-2").status_code == 409
    assert len(relay.sent) == 2


def test_a_request_of_which_nothing_was_done_may_be_sent_again(
    send: Send, session: Session, relay: HandOfTheRelay
) -> None:
    whole = relay.answer
    relay.is_silent(httpx.ConnectError("refused"))
    assert send(session, Idempotency_Key="k-1").status_code == 503
    relay.answers(InputOutcome.BUSY)
    assert send(session, Idempotency_Key="k-1").status_code == 429
    relay.answer = whole
    answer = send(session, Idempotency_Key="k-1")
    assert answer.status_code == 200
    assert "Idempotent-Replayed" not in answer.headers


def test_keys_are_forgotten_after_their_time(
    send: Send, session: Session, relay: HandOfTheRelay, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(session, Idempotency_Key="k-1")
    later = utcnow() + GESTURE_LIFE * 2
    monkeypatch.setattr("viewer.gesture_store.utcnow", lambda: later)
    assert send(session, Idempotency_Key="k-1").status_code == 200
    assert len(relay.sent) == 2
    monkeypatch.setattr("viewer.fleet_store.utcnow", lambda: later + GESTURE_LIFE * 2)
    store.fleet.purge(events_before=utcnow(), sessions_ended_before=utcnow())
    with store._database.reading() as orm:
        assert orm.scalars(select(GestureRow)).all() == []


# --- what is kept of it


def test_it_is_in_the_audit_log_once_and_never_what_was_typed(
    send: Send, session: Session, store: Store, settings: Settings
) -> None:
    for _ in range(3):
        assert send(session, {"type": "type", "text": SECRET}, Idempotency_Key="once").status_code == 200
    entries = list(store.audit.entries("acme", AuditFilter(action="session.input")))
    assert [(one.target, one.outcome) for one in entries] == [(f"session:{session.id}", "done")]
    assert entries[0].principal.startswith("key:")
    assert SECRET.encode() not in all_that_is_in(settings.database)


# --- from a shell, and as a tool


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        (["type", "ID", "a b"], [{"type": "type", "text": "a b"}]),
        (["type", "ID", "-"], [{"type": "type", "text": "from stdin\n"}]),
        (["key", "ID", "ctrl+c", "Return"], [{"type": "key", "keys": ["ctrl+c", "Return"]}]),
        (["move", "ID", "3", "4"], [{"type": "move", "x": 3, "y": 4}]),
        (
            ["click", "ID", "3", "4", "--count", "2", "--button", "right", "--keys", "shift"],
            [{"type": "click", "x": 3, "y": 4, "count": 2, "button": "right", "keys": "shift"}],
        ),
        (
            ["drag", "ID", "1", "2", "3", "4"],
            [{"type": "drag", "from": {"x": 1, "y": 2}, "to": {"x": 3, "y": 4}}],
        ),
        (["scroll", "ID", "1", "2", "--down", "-3"], [{"type": "scroll", "x": 1, "y": 2, "dy": -3}]),
        (["clipboard", "ID", "text"], [{"type": "clipboard", "text": "text"}]),
    ],
)
def test_each_action_is_a_command(
    app: Flask,
    session: Session,
    people: People,
    relay: HandOfTheRelay,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    actions: list[dict[str, Any]],
) -> None:
    as_alice(people, monkeypatch)
    monkeypatch.setattr("sys.stdin", io.StringIO("from stdin\n"))
    words = [session.id if word == "ID" else word for word in command]
    assert run(["input", *words], httpx.WSGITransport(app)) == 0
    assert capsys.readouterr().out == "done, on a screen of 1280x800 pixels\n"
    assert relay.sent[0][1] == Gesture.model_validate({"actions": actions})


def test_a_file_of_actions_is_one_gesture(
    app: Flask,
    session: Session,
    people: People,
    relay: HandOfTheRelay,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    as_alice(people, monkeypatch)
    file = tmp_path / "gesture.json"
    file.write_text(json.dumps({"actions": [CLICK, {"type": "wait", "ms": 1}]}))
    assert run(["input", "send", "--json", session.id, str(file)], httpx.WSGITransport(app)) == 0
    assert json.loads(capsys.readouterr().out)["actions"] == 2
    file.write_text('{"type": "clik"}')
    assert run(["input", "send", session.id, str(file)], httpx.WSGITransport(app)) == 2
    assert "did you mean 'click'" in capsys.readouterr().err
    assert len(relay.sent) == 1


def as_alice(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DESKFLEET_CA_FILE", "DESKFLEET_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DESKFLEET_URL", ORIGIN)
    monkeypatch.setenv("DESKFLEET_KEY", people.alice.key)


def test_it_is_a_tool_for_agents_too(
    app: Flask, session: Session, people: People, relay: HandOfTheRelay, client: ViewerClient, store: Store
) -> None:
    async def act(agent: Agent) -> None:
        drag = {"type": "drag", "from": {"x": 1, "y": 2}, "to": {"x": 3, "y": 4}}
        done = await agent.get("send_input", sandbox_id=session.id, actions=[CLICK, drag])
        assert done == {"actions": 2, "screen": {"width": 1280, "height": 800}}
        wrong = await agent.refusal(
            "send_input", sandbox_id=session.id, actions=[{"type": "key", "keys": "Retrun"}]
        )
        assert "actions[0].keys: there is no key 'Retrun'; near are Return" in wrong
        assert "must be 1 to 100" in await agent.refusal("send_input", sandbox_id=session.id, actions=[])
        client.post(
            f"/api/v1/sessions/{session.id}/lease/take", json={"reason": "a captcha"}, headers=bob(store)
        )
        refused = await agent.refusal("send_input", sandbox_id=session.id, actions=[CLICK])
        assert refused.startswith("Bob has keyboard and mouse of this desktop")
        assert "a captcha" in refused

    converse(act, **as_person(app, people.alice))
    assert len(relay.sent) == 1


# --- the page about it


def test_the_page_names_every_action_and_its_example_works(
    send: Send, session: Session, relay: HandOfTheRelay
) -> None:
    text = (Path(__file__).parents[1] / "docs" / "input.md").read_text()
    table = text.partition("| type | does | takes |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.M)) == set(TAGS)
    request, answer = (
        json.loads(found) for found in re.findall(r"^{.*?}$(?=\n```)", text, flags=re.M | re.S)
    )
    answered = send(session, request)
    assert (answered.status_code, answered.json) == (200, answer)
    assert len(relay.sent[0][1].actions) == 4
