"""Calls for a person: who may call and who may end it, what all others see, and what the agent hears."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.viewer_fixtures import ORIGIN, UNKNOWN_ID, People, ViewerClient, running_session
from viewer.model import Principal, Role, Session, Status
from viewer.people import NewPerson
from viewer.rows import event_of
from viewer.store import Store
from viewer.tables import EventRow

CAPTCHA = "solve the captcha on the sign-in page"


@pytest.fixture
def session(store: Store, people: People) -> Session:
    return running_session(store, people.alice)


class Caller:
    """Somebody who calls, looks, or says that it is done."""

    def __init__(self, client: ViewerClient, session: Session, headers: dict[str, str]) -> None:
        self._client, self._headers = client, headers
        self._path = f"/api/v1/sessions/{session.id}"

    def ask(self, reason: object = CAPTCHA) -> tuple[int, Any]:
        answer = self._client.put(f"{self._path}/help", json={"reason": reason}, headers=self._headers)
        return answer.status_code, answer.json

    def done(self) -> tuple[int, Any]:
        answer = self._client.delete(f"{self._path}/help", headers=self._headers)
        return answer.status_code, answer.json

    def see(self, query: str = "") -> Any:
        return self._client.get(f"{self._path}/help{query}", headers=self._headers).json

    def session(self) -> Any:
        return self._client.get(self._path, headers=self._headers).json

    def principal(self) -> str:
        return str(self._client.get("/api/v1/me", headers=self._headers).json["id"])

    def lease(self, verb: str, **body: object) -> int:
        answer: Any = self._client.post(f"{self._path}/lease/{verb}", json=body, headers=self._headers)
        return int(answer.status_code)

    def listed(self, query: str) -> list[str]:
        answer = self._client.get(f"/api/v1/sessions?{query}", headers=self._headers)
        assert answer.status_code == 200
        return [one["id"] for one in answer.json["items"]]


@pytest.fixture
def robot(client: ViewerClient, session: Session, people: People) -> Caller:
    return Caller(client, session, people.alice.headers)


@pytest.fixture
def another_robot(client: ViewerClient, session: Session, store: Store) -> Caller:
    key = store.accounts.add_key("acme", Role.OPERATOR, label="another")
    return Caller(client, session, {"Authorization": f"Bearer {key.text}"})


@pytest.fixture
def mara(client: ViewerClient, session: Session, store: Store) -> Caller:
    """In front of a browser."""
    person = store.people("acme").add(NewPerson(login="mara", name="Mara", role=Role.OPERATOR), by="test")
    token = store.accounts.sign_in_person(person.id, address=None, user_agent=None)
    return Caller(client, session, {"Cookie": f"__Host-deskfleet={token}", "Origin": ORIGIN})


def told(store: Store, session: Session) -> list[tuple[str, str | None]]:
    """Each event of it: its type, and what a person was needed for then."""
    with store._database.reading() as orm:
        events = [
            event_of(row)
            for row in orm.query(EventRow).filter_by(session_id=session.id).order_by(EventRow.id)
        ]
    return [(event.type, event.session.help_reason) for event in events]


def noted(store: Store) -> list[tuple[str, str, object]]:
    entries = [entry for entry in store.audit.entries("acme") if entry.action.startswith("help.")]
    return [(entry.action, entry.principal_name, entry.detail) for entry in entries]


def test_an_agent_calls_a_person_who_comes_and_says_that_it_is_done(
    store: Store, session: Session, robot: Caller, mara: Caller
) -> None:
    status, answer = robot.ask()
    assert status == 200
    assert answer["help"] == mara.session()["help"]
    assert (answer["help"]["reason"], answer["help"]["asked_by"]) == (CAPTCHA, robot.principal())
    assert mara.lease("take") == 200
    assert mara.see()["help"]["reason"] == CAPTCHA  # who works on it has not done it yet
    status, answer = mara.done()
    assert (status, answer["help"]) == (200, None)
    seen = robot.see()
    assert (seen["help"], seen["ended_by_name"]) == (None, "Mara")
    assert seen["ended_by"].startswith("person:")
    assert told(store, session)[-3:] == [
        ("session.updated", CAPTCHA),
        ("session.lease", CAPTCHA),
        ("session.updated", None),
    ]


def test_who_gives_keyboard_and_mouse_back_may_say_at_once_that_it_is_done(
    robot: Caller, mara: Caller
) -> None:
    robot.ask()
    mara.lease("take")
    assert mara.lease("release") == 200
    assert mara.see()["help"] is not None
    mara.lease("take")
    assert mara.lease("release", done=True) == 200
    assert robot.see()["ended_by_name"] == "Mara"


def test_who_may_not_end_the_call_keeps_keyboard_and_mouse(
    store: Store, session: Session, robot: Caller, another_robot: Caller
) -> None:
    """Nothing is half done: neither is given back without the other."""
    robot.ask()
    another_robot.lease("take")
    assert another_robot.lease("release", done=True) == 403
    holder = store.leases.of(session.id).holder
    assert holder is not None
    assert holder.id == another_robot.principal()
    assert robot.see()["help"] is not None


def test_another_reason_of_the_same_agent_keeps_its_place_in_the_line(robot: Caller) -> None:
    first = robot.ask()[1]["help"]
    again = robot.ask("the second captcha")[1]["help"]
    assert (again["reason"], again["asked_at"]) == ("the second captcha", first["asked_at"])


def test_a_call_of_another_agent_begins_then(robot: Caller, another_robot: Caller) -> None:
    first = robot.ask()[1]["help"]
    other = another_robot.ask("something else")[1]["help"]
    assert other["asked_at"] > first["asked_at"]
    assert other["asked_by"] != first["asked_by"]


def test_the_same_call_once_more_says_nothing_new(store: Store, session: Session, robot: Caller) -> None:
    robot.ask()
    before = told(store, session)
    assert robot.ask()[0] == 200
    assert told(store, session) == before


def test_only_whoever_called_a_person_or_an_admin_ends_a_call(
    client: ViewerClient, session: Session, robot: Caller, another_robot: Caller, people: People, store: Store
) -> None:
    robot.ask()
    status, problem = another_robot.done()
    assert (status, problem["type"]) == (403, "urn:deskfleet:problem:not-your-call")
    assert robot.done()[0] == 200
    robot.ask()
    admin = store.accounts.add_key("acme", Role.ADMIN)
    assert Caller(client, session, {"Authorization": f"Bearer {admin.text}"}).done()[0] == 200
    assert another_robot.done()[0] == 200  # nobody is needed: nothing to end
    watcher = Caller(client, session, people.wanda.headers)
    assert watcher.ask()[0] == 403
    robot.ask()
    assert watcher.see()["help"]["reason"] == CAPTCHA


def test_the_end_of_a_session_ends_its_call(store: Store, session: Session, robot: Caller) -> None:
    robot.ask()
    store.fleet.transition(session.id, Status.TERMINATED)
    assert robot.session()["help"] is None
    seen = robot.see()
    assert (seen["help"], seen["ended_by"], seen["ended_by_name"]) == (None, "worker", "the worker")
    assert told(store, session)[-1] == ("session.terminated", None)
    assert robot.ask()[0] == 409
    assert robot.done()[0] == 200


@pytest.mark.parametrize("reason", ["", "   ", "x" * 301, "two\nlines", None, 7])
def test_a_reason_that_nobody_could_read_is_refused_with_what_to_give(robot: Caller, reason: object) -> None:
    status, problem = robot.ask(reason)
    assert status == 422
    assert "1 to 300 printable characters" in problem["detail"]
    assert robot.see()["help"] is None


def test_a_foreign_session_is_as_if_it_never_was(
    client: ViewerClient, session: Session, robot: Caller, people: People
) -> None:
    robot.ask()
    never = session.model_copy(update={"id": UNKNOWN_ID})
    for one in (session, never):
        stranger = Caller(client, one, people.bob.headers)
        assert stranger.ask()[0] == stranger.done()[0] == stranger.see()["status"] == 404
    assert robot.see()["help"] is not None


def test_the_list_shows_those_that_need_a_person(
    store: Store, session: Session, robot: Caller, people: People
) -> None:
    other = running_session(store, people.alice, sandbox_id="box-2")
    robot.ask()
    assert robot.listed("help=true") == [session.id]
    assert robot.listed("help=false") == [other.id]
    assert set(robot.listed("")) == {session.id, other.id}
    assert robot.listed("help=true&status=running&status=paused") == [session.id]
    robot.done()
    assert robot.listed("help=true") == []


def test_an_agent_that_waits_hears_at_once_that_it_is_done(
    store: Store, session: Session, robot: Caller
) -> None:
    robot.ask()
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(robot.see("?wait_seconds=20")))
    waiting.start()
    person = store.people("acme").add(NewPerson(login="mara", name="Mara", role=Role.OPERATOR), by="test")
    mara = Principal(id=person.principal_id, tenant="acme", role=Role.OPERATOR, via="cookie")
    store.help("acme").end(session.id, mara)
    waiting.join(timeout=10)
    assert [answer["ended_by_name"] for answer in answers] == ["Mara"]


def test_calling_is_use_and_keeps_an_idle_desktop_for_the_person(robot: Caller) -> None:
    assert robot.session()["last_used_at"] is None
    robot.ask()
    assert robot.session()["last_used_at"] is not None


def test_both_ends_of_a_call_are_in_the_audit_log(store: Store, robot: Caller, mara: Caller) -> None:
    robot.ask()
    mara.done()
    assert [(action, detail) for action, _, detail in noted(store)] == [
        ("help.ask", {"reason": CAPTCHA}),
        ("help.end", {"asked_by": robot.principal()}),
    ]
