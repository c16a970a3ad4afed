"""The lease over the API: what each may do, and what all others hear of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Flask

from tests.viewer_fixtures import ORIGIN, People, Person, ViewerClient, put_relay, running_session, sign_in
from viewer.grants import GRANT_HEADER, Grant
from viewer.leases import LeaseHeld
from viewer.leasing import check_may_act, hold_for_input
from viewer.model import ClipboardPolicy, Display, Lease, LeaseKind, Principal, Role, Session, Status
from viewer.people import NewPerson
from viewer.problems import Problem
from viewer.relay_client import RelayUnreachable
from viewer.services import Services
from viewer.settings import Settings
from viewer.store import Store


class HeardBy:
    """The relay, as far as it hears of leases."""

    def __init__(self) -> None:
        self.heard: list[tuple[Lease, bool]] = []
        self.is_silent = False

    def set_lease(self, lease: Lease, *, given_back: bool = False) -> None:
        if self.is_silent:
            raise RelayUnreachable("the relay of host here does not answer")
        self.heard.append((lease, given_back))

    def close(self) -> None:
        pass


@pytest.fixture
def relay(app: Flask) -> HeardBy:
    heard = HeardBy()
    put_relay(app, heard)
    return heard


@pytest.fixture
def session(store: Store, people: People) -> Session:
    return running_session(store, people.alice)


class Caller:
    """Somebody who asks about the lease of one session."""

    def __init__(self, client: ViewerClient, session: Session, headers: dict[str, str]) -> None:
        self._client, self._path, self._headers = client, f"/api/v1/sessions/{session.id}/lease", headers

    def see(self) -> Any:
        return self._client.get(self._path, headers=self._headers).json

    def __call__(self, verb: str, **body: object) -> tuple[int, Any]:
        answer = self._client.post(f"{self._path}/{verb}", json=body, headers=self._headers)
        return answer.status_code, answer.json


def browser_of(store: Store, name: str, role: Role = Role.OPERATOR) -> dict[str, str]:
    person = store.people("acme").add(NewPerson(login=name.lower(), name=name, role=role), by="test")
    token = store.accounts.sign_in_person(person.id, address=None, user_agent=None)
    return {"Cookie": f"__Host-deskfleet={token}", "Origin": ORIGIN}


@pytest.fixture
def robot(client: ViewerClient, session: Session, people: People) -> Caller:
    return Caller(client, session, people.alice.headers)


@pytest.fixture
def bob(client: ViewerClient, session: Session, store: Store, people: People) -> Caller:
    return Caller(client, session, browser_of(store, "Bob"))


@pytest.fixture
def mara(client: ViewerClient, session: Session, store: Store, people: People) -> Caller:
    return Caller(client, session, browser_of(store, "Mara"))


def test_a_person_takes_it_from_the_agent_which_then_reads_who_has_it_and_why(
    robot: Caller, bob: Caller
) -> None:
    assert robot("take", reason="fills in a form")[0] == 200
    status, lease = bob("take", reason="a captcha")
    assert status == 200
    assert (lease["holder"]["name"], lease["holder"]["kind"], lease["number"]) == ("Bob", "person", 2)
    assert lease["holder"]["id"] == lease["you"]
    status, problem = robot("take")
    assert status == 423
    assert problem["type"] == "urn:deskfleet:problem:lease-held"
    assert problem["held_by"]["name"] == "Bob"
    assert problem["held_by"]["kind"] == "person"
    assert problem["held_by"]["reason"] == "a captcha"
    assert problem["held_by"]["since"] == lease["since"]
    assert problem["held_by"]["ends_at"] == lease["ends_at"]
    assert "Bob has keyboard and mouse of this desktop" in problem["detail"]


def test_each_change_reaches_the_relay_of_its_host(robot: Caller, bob: Caller, relay: HeardBy) -> None:
    robot("take")
    bob("take")
    bob("release")
    heard = [
        (lease.number, lease.holder and lease.holder.name, given_back) for lease, given_back in relay.heard
    ]
    assert [(number, given_back) for number, _, given_back in heard] == [(1, False), (2, False), (3, True)]
    assert heard[1][1] == "Bob"
    assert heard[2][1] is None


def test_a_silent_relay_keeps_nobody_from_taking_it(bob: Caller, relay: HeardBy) -> None:
    relay.is_silent = True
    assert bob("take")[0] == 200
    assert bob.see()["holder"]["name"] == "Bob"


def test_a_person_asks_another_one_who_gives_it_to_him(bob: Caller, mara: Caller, relay: HeardBy) -> None:
    bob("take")
    assert mara("take")[0] == 423
    status, lease = mara("request", reason="my turn")
    assert status == 202
    [request] = lease["requests"]
    assert (request["by"]["name"], request["reason"]) == ("Mara", "my turn")
    assert mara("give", to=request["by"]["id"])[0] == 423
    status, lease = bob("give", to=request["by"]["id"])
    assert status == 200
    assert lease["holder"]["name"] == "Mara"
    assert lease["requests"] == []
    # He gave it of his own will: his stream goes on as a watcher's.
    assert relay.heard[-1][1] is True


def test_nothing_is_given_to_somebody_who_may_not_control_it_any_more(
    bob: Caller, mara: Caller, store: Store
) -> None:
    bob("take")
    _, lease = mara("request")
    to = lease["requests"][0]["by"]["id"]
    store.accounts.end_sign_ins(to.partition("/")[0])
    assert bob("give", to=to)[0] == 422


def test_only_an_admin_who_insists_takes_it_from_a_person(
    client: ViewerClient, bob: Caller, mara: Caller, session: Session, store: Store, relay: HeardBy
) -> None:
    bob("take")
    assert mara("take", force=True)[0] == 403
    assert mara("release", force=True)[0] == 403
    ada = Caller(client, session, browser_of(store, "Ada", Role.ADMIN))
    assert ada("take")[0] == 423
    assert ada("take", force=True)[0] == 200
    bob("request")
    assert ada("release")[0] == 200
    bob("take")
    assert ada("release", force=True)[0] == 200
    assert relay.heard[-1][1] is False  # against his will


def test_an_agent_takes_it_from_no_person_whatever_it_says(
    client: ViewerClient, bob: Caller, session: Session, people: People
) -> None:
    bob("take")
    admin = Caller(client, session, people.ada.headers)
    assert admin("take", force=True)[0] == 423


def test_times_are_within_the_fleets_limits(bob: Caller, robot: Caller) -> None:
    assert bob("take", seconds=4)[0] == 422
    status, problem = bob("take", seconds=3601)
    assert status == 422
    assert "from 5 to 3600" in problem["detail"]
    assert bob("take", seconds="60")[0] == 422
    assert robot("renew")[0] == 423
    assert bob("renew")[1]["detail"].startswith("Nobody has keyboard and mouse")
    bob("take", seconds=10)
    before = bob.see()["ends_at"]
    assert bob("renew")[1]["ends_at"] > before


def test_what_has_no_screen_and_what_does_not_run_has_no_keyboard(
    client: ViewerClient, store: Store, people: People, bob: Caller, session: Session
) -> None:
    shell = running_session(store, people.alice, sandbox_id="box-2", image="shell", display=Display.NONE)
    caller = Caller(client, shell, people.alice.headers)
    assert caller("take")[1]["type"].endswith("no-screen")
    store.fleet.transition(session.id, Status.TERMINATED)
    assert bob("take")[0] == 409
    assert bob("request")[0] == 409
    assert bob("release")[0] == 200


def test_all_who_watch_hear_of_it_and_of_who_asks(
    client: ViewerClient, bob: Caller, mara: Caller, people: People
) -> None:
    headers = {**people.wanda.headers, "Last-Event-ID": "0"}
    bob("take")
    mara("request")
    with client.get("/api/v1/events", headers=headers) as answer:
        stream: Iterator[bytes] = iter(answer.iter_encoded())
        leases: list[str] = []
        while len(leases) < 2:
            text = next(stream).decode()
            if "event: lease" in text:
                leases.append(text)
    assert '"name":"Bob"' in leases[0]
    assert '"name":"Mara"' in leases[1]


def test_input_holds_it_for_an_agent_and_is_refused_while_another_one_has_it(
    app: Flask, store: Store, session: Session, people: People, bob: Caller, relay: HeardBy
) -> None:
    robot = store.accounts.principal_of_key(people.alice.key)
    other = store.accounts.principal_of_key(people.ada.key)
    assert robot is not None
    assert other is not None
    with app.test_request_context():
        lease = hold_for_input(session, robot)
        assert lease.holder is not None
        assert lease.holder.kind is LeaseKind.AGENT
        assert hold_for_input(session, robot) == lease
        assert [one.number for one, _ in relay.heard] == [1]
        with pytest.raises(Problem) as refusal:
            hold_for_input(session, other)
        assert refusal.value.status == 423
        check_may_act(store.leases.of(session.id), other)  # an agent's keeps nobody from commands
    bob("take")
    with app.test_request_context():
        with pytest.raises(Problem) as refusal:
            hold_for_input(session, robot)
        assert refusal.value.document.held_by is not None
        assert refusal.value.document.held_by.name == "Bob"


# --- ways around the keyboard -----------------------------------------------------------------------


def ask_for_port(client: ViewerClient, session: Session, person: Person, way: str = "44772/command") -> Any:
    uri = f"/v1/sandboxes/{session.id}/proxy/{way}"
    headers = {**person.headers, "X-Forwarded-Uri": uri, "X-Forwarded-Method": "POST"}
    return client.get("/authz/port", headers=headers)


def grant_of(answer: Any, settings: Settings) -> Grant:
    key = settings.hosts[0].relay_key()
    return Grant.model_validate_json(Fernet(key).decrypt(answer.headers[GRANT_HEADER].encode()))


def test_commands_are_refused_while_a_person_has_it_in_the_words_of_that_api(
    client: ViewerClient, session: Session, people: People, bob: Caller
) -> None:
    assert ask_for_port(client, session, people.alice).status_code == 200
    bob("take", reason="a captcha")
    answer = ask_for_port(client, session, people.alice)
    assert answer.status_code == 423
    assert answer.json["code"] == "DESKFLEET::LEASE_HELD"
    assert "Bob has keyboard and mouse of this desktop" in answer.json["message"]
    assert "(a captcha)" in answer.json["message"]
    bob("release")
    assert ask_for_port(client, session, people.alice).status_code == 200


def test_other_ports_are_nobodys_keyboard_and_devtools_are(
    client: ViewerClient, store: Store, people: People
) -> None:
    chrome = running_session(store, people.alice, sandbox_id="box-2", image="chrome")
    bob = Principal(id="person:bob", tenant="acme", role=Role.OPERATOR, via="cookie", sign_in="b1")
    store.leases.take(chrome, bob, name="Bob", kind=LeaseKind.PERSON, reason=None, seconds=60)
    ways = {
        "8000/": 200, "9222/json": 423, "44772/files": 423,
        "44772/proxy/9222/": 423, "44772/proxy/8000/": 423,
    }  # fmt: skip
    assert {way: ask_for_port(client, chrome, people.alice, way).status_code for way in ways} == ways


def test_devtools_on_a_port_of_the_images_own_are_a_way_around_the_keyboard_too(
    app: Flask, client: ViewerClient, store: Store, people: People
) -> None:
    here: Services = app.extensions["deskfleet"]
    images = tuple(
        one.model_copy(update={"devtools_port": 9333}) if one.name == "chrome" else one
        for one in here.settings.images
    )
    here.settings = here.settings.model_copy(update={"images": images})
    chrome = running_session(store, people.alice, sandbox_id="box-2", image="chrome")
    bob = Principal(id="person:bob", tenant="acme", role=Role.OPERATOR, via="cookie", sign_in="b1")
    store.leases.take(chrome, bob, name="Bob", kind=LeaseKind.PERSON, reason=None, seconds=60)
    assert ask_for_port(client, chrome, people.alice, "9333/json").status_code == 423
    assert ask_for_port(client, chrome, people.alice, "9222/json").status_code == 200


def test_an_agents_lease_and_a_person_whose_time_is_over_keep_nobody_from_commands(
    client: ViewerClient, session: Session, people: People, robot: Caller, store: Store
) -> None:
    robot("take")
    assert ask_for_port(client, session, people.ada).status_code == 200
    bob = Principal(id="person:bob", tenant="acme", role=Role.OPERATOR, via="cookie", sign_in="b1")
    store.leases.take(session, bob, name="Bob", kind=LeaseKind.PERSON, reason=None, seconds=0)
    assert ask_for_port(client, session, people.alice).status_code == 200


def test_a_tenant_may_allow_commands_whoever_has_it_but_no_devtools(
    app: Flask, client: ViewerClient, store: Store, people: People
) -> None:
    here: Services = app.extensions["deskfleet"]
    tenants = tuple(one.model_copy(update={"execd_while_held": True}) for one in here.settings.tenants)
    here.settings = here.settings.model_copy(update={"tenants": tenants})
    chrome = running_session(store, people.alice, sandbox_id="box-2", image="chrome")
    bob = Principal(id="person:bob", tenant="acme", role=Role.OPERATOR, via="cookie", sign_in="b1")
    store.leases.take(chrome, bob, name="Bob", kind=LeaseKind.PERSON, reason=None, seconds=60)
    allowed = ask_for_port(client, chrome, people.alice)
    assert allowed.status_code == 200
    assert not grant_of(allowed, here.settings).under_lease
    assert ask_for_port(client, chrome, people.alice, "44772/proxy/9222/json").status_code == 423


def test_every_grant_says_who_has_it_and_how_text_may_be_copied(
    app: Flask, client: ViewerClient, session: Session, people: People, robot: Caller
) -> None:
    here: Services = app.extensions["deskfleet"]
    uri = {"X-Forwarded-Uri": f"/stream/{session.id}", "X-Forwarded-Method": "GET"}
    nobody = grant_of(client.get("/authz/stream", headers={**people.wanda.headers, **uri}), here.settings)
    assert nobody.lease == Lease(session_id=session.id)
    robot("take")
    tenants = tuple(
        one.model_copy(update={"clipboard": ClipboardPolicy(to_desktop=False)})
        for one in here.settings.tenants
    )
    here.settings = here.settings.model_copy(update={"tenants": tenants})
    grant = grant_of(client.get("/authz/stream", headers={**people.alice.headers, **uri}), here.settings)
    assert grant.lease is not None
    assert grant.lease.is_held_by(grant.principal)
    assert not grant.under_lease
    assert grant.clipboard == ClipboardPolicy(to_desktop=False)
    port = grant_of(ask_for_port(client, session, people.alice), here.settings)
    assert port.under_lease
    assert port.lease == grant.lease
    assert not grant_of(ask_for_port(client, session, people.alice, "8000/"), here.settings).under_lease


# --- who is who -------------------------------------------------------------------------------------


def test_a_person_may_act_on_the_desktop_that_he_has(app: Flask, store: Store, session: Session) -> None:
    bob = Principal(id="person:bob", tenant="acme", role=Role.OPERATOR, via="cookie", sign_in="b1")
    store.leases.take(session, bob, name="Bob", kind=LeaseKind.PERSON, reason=None, seconds=60)
    with app.test_request_context():
        check_may_act(store.leases.of(session.id), bob)


def test_a_key_that_signs_a_browser_in_is_its_own_holder_there(
    client: ViewerClient, session: Session, store: Store, people: People, robot: Caller
) -> None:
    page = Caller(client, session, {**sign_in(store, people.alice), "Origin": ORIGIN})
    assert page("take")[0] == 200
    assert robot("take")[0] == 423
    with pytest.raises(LeaseHeld):
        store.leases.release(session, store.accounts.principal_of_key(people.alice.key))  # type: ignore[arg-type]
