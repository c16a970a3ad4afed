"""Requests of every kind, made from the OpenAPI document by schemathesis: no answer that it leaves out.

The viewer is the real one, with a real database. No worker makes anything true meanwhile, so the sessions
that are asked about are put into each status beforehand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from tests.relay_process import running_relay
from tests.soaking import examples
from tests.viewer_fixtures import ORIGIN, UNKNOWN_ID, People, ViewerClient, kasmvnc_desktop, new_session
from viewer import __version__
from viewer.deliveries.store import NewEndpoint
from viewer.model import Status
from viewer.openapi import document
from viewer.relay_client import RelayClient
from viewer.services import services
from viewer.store import Store

AnyCase: TypeAlias = schemathesis.Case[Any]
AnyOperation: TypeAlias = schemathesis.APIOperation[Any, Any, Any, Any]

MOST_LIVE = 40
"""Well below what one tenant may have in the making."""
METHODS_WITH_BODY = ("post", "put", "patch")
NOT_CHECKED: list[CheckFunction] = [
    # The document says what form a value has, not which names there are and what may be combined.
    positive_data_acceptance,
    # It leaves the key out of a request and sends others; we add ours to every one. test_access.py does it.
    ignored_auth,
    # What is wrong in a query string, such as an empty list, is often not there once it is written down.
    negative_data_rejection,
]

pytestmark = [pytest.mark.real, pytest.mark.soak]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayClient]:
    with running_relay(tmp_path_factory.mktemp("relay")) as process:
        client = RelayClient("here", url=process.url, key=process.key)
        yield client
        client.close()


@pytest.fixture
def described(app: Flask, relay: RelayClient, monkeypatch: pytest.MonkeyPatch) -> schemathesis.BaseSchema:
    """The document of an app whose streams and waits end at once, as in a server that is told to stop."""
    with app.app_context():
        services().stop()
        monkeypatch.setattr(services(), "_relays", {"here": relay})
    found = schemathesis.openapi.from_dict(document(app, __version__))
    found.app = app
    return found


class Sessions:
    """Sessions of Alice's tenant, and others to ask about."""

    def __init__(self, store: Store, people: People) -> None:
        self._store = store
        self._people = people
        self._numbers = itertools.count(1)
        self._makers: Mapping[str, Callable[[], str]] = {
            "creating": lambda: new_session(store, people.alice).id,
            "running": lambda: self._running(labels={"run": "7"}, task_id="task", idle_seconds=60),
            "paused": lambda: self._moved(Status.PAUSED),
            "ending": self._ending,
            "terminated": lambda: self._moved(Status.TERMINATED),
            "error": lambda: self._moved(Status.ERROR),
            "desktop": lambda: kasmvnc_desktop(store, people.alice).id,
            "of another tenant": lambda: new_session(store, people.bob).id,
            "unknown": lambda: UNKNOWN_ID,
        }

    @property
    def kinds(self) -> list[str]:
        return list(self._makers)

    def make(self, kind: str) -> str:
        """Its id."""
        return self._makers[kind]()

    def endpoint(self, tenant: str) -> str:
        """Of a webhook: the tenant's first one, made where it has none."""
        mine = self._store.webhooks(tenant)
        new = NewEndpoint(url="https://a/", label="", types=(), secret_sealed="x", created_by="test")
        return next((one.id for one in mine.list()), None) or mine.create(new).id

    def make_room(self) -> None:
        for endpoint in self._store.webhooks("acme").list()[5:]:
            self._store.webhooks("acme").delete(endpoint.id)
        live = self._store.fleet.live_sessions()
        for session in live if len(live) > MOST_LIVE else ():
            self._store.fleet.transition(session.id, Status.TERMINATED)

    def _running(self, **more: Any) -> str:
        made = new_session(self._store, self._people.alice, **more)
        sandbox_id = f"sb-{next(self._numbers)}"
        self._store.fleet.transition(made.id, Status.RUNNING, host="here", sandbox_id=sandbox_id)
        return made.id

    def _moved(self, to: Status) -> str:
        return self._store.fleet.transition(self._running(), to, error_message="it fell over").id

    def _ending(self) -> str:
        return self._store.tenant(self._people.alice.tenant).request_termination(self._running()).id


@pytest.fixture
def sessions(store: Store, people: People) -> Sessions:
    return Sessions(store, people)


def operations_of(described: schemathesis.BaseSchema) -> list[AnyOperation]:
    found = list(described.get_all_operations())
    assert found
    return [one.ok() for one in found if isinstance(one, Ok)]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize("who", ["wanda", "alice", "ada"])
def test_every_answer_is_one_that_the_document_describes(
    who: str,
    mode: GenerationMode,
    described: schemathesis.BaseSchema,
    sessions: Sessions,
    people: People,
) -> None:
    headers = getattr(people, who).headers
    for operation in operations_of(described):
        if mode is GenerationMode.NEGATIVE and not (operation.body or any(operation.iter_parameters())):
            continue  # it takes nothing that could be wrong

        @settings(max_examples=examples(15), suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode), st.data())
        def ask(case: AnyCase, data: st.DataObject) -> None:
            _name_things_that_are_there(case, data, sessions)
            left_out = not_checked_of(case.operation)
            case.call_and_validate(base_url=ORIGIN, headers=headers, excluded_checks=left_out)

        ask()


def not_checked_of(operation: AnyOperation) -> list[CheckFunction]:
    """A picture is of a desktop, and none is behind this relay: 502 is right, and described."""
    is_picture = operation.path.endswith("/screenshot")
    return [*NOT_CHECKED, not_a_server_error] if is_picture else NOT_CHECKED


def _name_things_that_are_there(case: AnyCase, data: st.DataObject, sessions: Sessions) -> None:
    """An id that was made up would get 404 every time."""
    sessions.make_room()
    if "session_id" in case.path_parameters:
        case.path_parameters["session_id"] = sessions.make(data.draw(st.sampled_from(sessions.kinds)))
    if "endpoint_id" in case.path_parameters:
        case.path_parameters["endpoint_id"] = sessions.endpoint(data.draw(st.sampled_from(["acme", "bolt"])))
    if "name" in case.path_parameters:
        case.path_parameters["name"] = data.draw(st.sampled_from(["here", "code", "wiki", "nothing"]))
    if isinstance(case.body, dict) and isinstance(case.body.get("image"), str):
        case.body["image"] = data.draw(st.sampled_from(["desktop", "shell", "opensandbox/desktop", "none"]))


@settings(max_examples=examples(200), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_body_of_any_bytes_gets_an_answer_that_the_document_describes(
    described: schemathesis.BaseSchema,
    client: ViewerClient,
    sessions: Sessions,
    people: People,
    data: st.DataObject,
) -> None:
    operations = [one for one in operations_of(described) if one.method in METHODS_WITH_BODY]
    operation = data.draw(st.sampled_from(operations))
    sessions.make_room()
    about = sessions.make(data.draw(st.sampled_from(sessions.kinds)))
    path = operation.path.replace("{session_id}", about).replace("{name}", "here")
    path = path.replace("{endpoint_id}", sessions.endpoint("acme"))
    kind = data.draw(
        st.sampled_from(["application/json", "application/json; charset=latin-1", "text/plain", ""])
    )
    beginning = data.draw(
        st.sampled_from([b"", b"{", b'{"labels": {', b'{"draining": ', b'{"env": ', b"\xff"])
    )
    answer = client.open(
        path,
        method=operation.method.upper(),
        data=beginning + data.draw(st.binary(max_size=60)),
        headers={**people.ada.headers, **({"Content-Type": kind} if kind else {})},
    )
    assert str(answer.status_code) in operation.definition.raw["responses"], answer.json
    operation.validate_response(answer)
