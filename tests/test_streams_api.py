"""Who has a session open: told by its relay, closed by an operator, and said to pages when it changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.relay_process import RelayProcess, free_port, running_relay
from tests.test_cli import Shell
from tests.test_relay import Viewer, hold, rfb_server
from tests.test_tickets import bearer, make
from tests.viewer_fixtures import ORIGIN, UNKNOWN_ID, People, ViewerClient, running_session, sign_in
from viewer.credentials import key_id_of
from viewer.deliveries.store import NewEndpoint
from viewer.grants import GRANT_HEADER
from viewer.model import Session
from viewer.relay.answers import CloseCode
from viewer.relay_client import RelayClient
from viewer.settings import Settings
from viewer.store import Store
from viewer.stream_watch import StreamWatch

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("relay")


@pytest.fixture(scope="module")
def relay(directory: Path) -> Iterator[RelayProcess]:
    with running_relay(directory) as process:
        yield process


@pytest.fixture(scope="module")
def rfb() -> Iterator[int]:
    with rfb_server(hold) as port:
        yield port


@pytest.fixture
def settings(settings: Settings, relay: RelayProcess, directory: Path) -> Settings:
    here = settings.hosts[0].model_copy(
        update={"relay_url": relay.url, "relay_key_file": directory / "relay.key"}
    )
    return settings.model_copy(update={"hosts": (here,)})


@pytest.fixture
def session(store: Store, people: People, rfb: int) -> Session:
    session = running_session(store, people.alice)
    return store.fleet.update(session.id, vnc_port=rfb)


@pytest.fixture
def watch(relay: RelayProcess, store: Store) -> Iterator[StreamWatch]:
    with closing(RelayClient("here", url=relay.url, key=relay.key)) as client:
        yield StreamWatch("here", client, store)


async def opened(
    http: aiohttp.ClientSession,
    relay: RelayProcess,
    client: ViewerClient,
    session: Session,
    shown: dict[str, str],
) -> Viewer:
    """Past the viewer and the relay, as the edge leads there."""
    way = {"X-Forwarded-Uri": f"/stream/{session.id}", "X-Forwarded-Method": "GET"}
    answer = client.get("/authz/stream", headers={**shown, **way})
    assert answer.status_code == 200
    headers = {GRANT_HEADER: answer.headers[GRANT_HEADER]}
    viewer = Viewer(
        await http.ws_connect(f"{relay.url}/stream/{session.id}", headers=headers, protocols=["binary"])
    )
    await viewer.shake_hands()
    return viewer


def streams(client: ViewerClient, session: Session, shown: dict[str, str]) -> Any:
    return client.get(f"/api/v1/sessions/{session.id}/streams", headers=shown)


def test_list_says_who_watches_since_when_and_by_what(
    client: ViewerClient, store: Store, people: People, relay: RelayProcess, session: Session
) -> None:
    other = running_session(store, people.alice, sandbox_id="box-2")
    store.fleet.update(other.id, vnc_port=session.vnc_port)
    ticket = make(client, people.ada, session, role="control").json["ticket"]
    browser = {**sign_in(store, people.wanda), "Origin": ORIGIN}

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            ways = (people.alice.headers, browser, bearer(ticket))
            open_now = [await opened(http, relay, client, session, shown) for shown in ways]
            open_now.append(await opened(http, relay, client, other, people.alice.headers))
            answer = streams(client, session, people.wanda.headers)
            assert answer.status_code == 200
            items = answer.json["items"]
            assert [(one["via"], one["role"], one["kind"]) for one in items] == [
                ("key", "control", "rfb"),
                ("cookie", "watch", "rfb"),
                ("ticket", "control", "rfb"),
            ]
            assert items[0]["principal"] == f"key:{items[0]['name']}", "a key without a label goes by its id"
            assert items[1]["principal"] == f"key:{key_id_of(people.wanda.key)}"
            assert items == sorted(items, key=lambda one: str(one["opened_at"]))
            assert streams(client, session, people.bob.headers).status_code == 404
            assert streams(client, session, bearer(ticket)).status_code == 401
            for viewer in open_now:
                await viewer.socket.close()

    asyncio.run(body())


def test_operator_closes_one_stream_and_it_is_told_by_whom(
    client: ViewerClient, store: Store, people: People, relay: RelayProcess, session: Session
) -> None:
    def close(stream_id: str, shown: dict[str, str], of: str = session.id) -> int:
        path = f"/api/v1/sessions/{of}/streams/{stream_id}"
        return int(client.delete(path, headers=shown).status_code)

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            closing_one = await opened(http, relay, client, session, people.wanda.headers)
            going_on = await opened(http, relay, client, session, people.ada.headers)
            first, _ = streams(client, session, people.alice.headers).json["items"]
            assert close(first["stream_id"], people.wanda.headers) == 403
            assert close(first["stream_id"], people.bob.headers) == 404
            assert close(first["stream_id"], people.alice.headers, of=UNKNOWN_ID) == 404
            assert close("0123456789ab", people.alice.headers) == 404
            assert close(first["stream_id"], people.alice.headers) == 204
            code, reason = await closing_one.ending()
            assert (code, reason) == (CloseCode.REVOKED, f"closed by {key_id_of(people.alice.key)}")
            assert close(first["stream_id"], people.alice.headers) == 404
            assert len(streams(client, session, people.alice.headers).json["items"]) == 1
            await going_on.socket.close()

    asyncio.run(body())
    entries = client.get("/api/v1/audit?action=stream.close", headers=people.ada.headers).json["items"]
    assert [entry["detail"]["of"] for entry in entries] == [f"key:{key_id_of(people.wanda.key)}"]


def test_a_revoked_ticket_ends_its_stream_without_waiting_for_the_worker(
    client: ViewerClient, people: People, relay: RelayProcess, session: Session
) -> None:
    made = make(client, people.alice, session, single_use=False).json

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            by_ticket = await opened(http, relay, client, session, bearer(made["ticket"]))
            by_key = await opened(http, relay, client, session, people.alice.headers)
            path = f"/api/v1/sessions/{session.id}/tickets/{made['id']}"
            assert client.delete(path, headers=people.alice.headers).status_code == 204
            assert (await by_ticket.ending())[0] == CloseCode.SIGNED_OUT
            [left] = streams(client, session, people.alice.headers).json["items"]
            assert left["via"] == "key"
            await by_key.socket.close()

    asyncio.run(body())


def test_a_silent_relay_is_said_and_a_ticket_is_revoked_all_the_same(
    client: ViewerClient, store: Store, people: People, settings: Settings, session: Session
) -> None:
    made = make(client, people.alice, session, single_use=False).json
    relays = client.application.extensions["deskfleet"].relays
    relays["here"].close()
    relays["here"] = RelayClient("here", url=f"http://127.0.0.1:{free_port()}", key=b"x" * 43 + b"=")
    answer = streams(client, session, people.alice.headers)
    assert (answer.status_code, answer.json["type"]) == (502, "urn:deskfleet:problem:relay-silent")
    path = f"/api/v1/sessions/{session.id}/tickets/{made['id']}"
    assert client.delete(path, headers=people.alice.headers).status_code == 204
    assert store.tickets.revoked({made["id"]}) == {made["id"]}


def test_pages_are_told_when_somebody_comes_or_goes_and_webhooks_are_not(
    client: ViewerClient,
    store: Store,
    people: People,
    relay: RelayProcess,
    session: Session,
    watch: StreamWatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("viewer.stream_watch.TELL_SECONDS", 0.0)
    every = NewEndpoint(url="https://example.com/", label="", types=(), secret_sealed="x", created_by="test")
    store.webhooks("acme").create(every)

    def told(after: int) -> list[int | None]:
        events = store.tenant("acme").events_after(after, 100)
        return [event.watching for event in events if event.type == "session.watchers"]

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            begin = store.fleet.last_event_id()
            watch.look()
            assert told(begin) == []
            with client.get("/api/v1/events", headers=people.wanda.headers) as answer:
                frames = iter(answer.response)
                assert b"event: ready" in next(frames)
                one = await opened(http, relay, client, session, people.alice.headers)
                watch.look()
                watch.look()
                text = next(frames).decode()
                assert "event: watchers" in text
                data = json.loads(text.split("data: ")[1])
                assert data == {"session_id": session.id, "watching": 1}
            two = await opened(http, relay, client, session, people.ada.headers)
            watch.look()
            await one.socket.close()
            await two.socket.close()
            for _ in range(100):
                await asyncio.to_thread(watch.look)
                if told(begin)[-1] == 0:
                    break
                await asyncio.sleep(0.02)
            assert told(begin)[:2] == [1, 2]
            assert told(begin)[-1] == 0

    asyncio.run(body())
    for behind in store.deliveries.behind():
        assert any(event.type == "session.watchers" for event in behind.events)
        assert store.deliveries.write(behind, lambda event: event.type) == 0


def test_changes_are_told_together(
    client: ViewerClient,
    store: Store,
    people: People,
    relay: RelayProcess,
    session: Session,
    watch: StreamWatch,
) -> None:
    """However quickly they follow each other, and the last one is not forgotten."""

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            begin = store.fleet.last_event_id()
            open_now = []
            for _ in range(4):
                open_now.append(await opened(http, relay, client, session, people.alice.headers))
                watch.look()
            await asyncio.sleep(1.1)
            watch.look()
            events = store.tenant("acme").events_after(begin, 100)
            told = [event.watching for event in events if event.type == "session.watchers"]
            assert told[-1] == 4
            assert len(told) < 4
            for viewer in open_now:
                await viewer.socket.close()

    asyncio.run(body())


def test_the_command_line_lists_closes_and_makes_tickets(
    client: ViewerClient,
    people: People,
    relay: RelayProcess,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shell = Shell(client.application, monkeypatch, capsys)

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            viewer = await opened(http, relay, client, session, people.wanda.headers)
            assert shell(people.alice, f"streams list {session.id} --json") == 0
            [stream] = json.loads(shell.out)["items"]
            assert shell(people.alice, f"streams list {session.id}") == 0
            assert stream["stream_id"] in shell.out
            assert shell(people.alice, f"streams close {session.id} {stream['stream_id']}") == 0
            assert (await viewer.ending())[0] == CloseCode.REVOKED

    asyncio.run(body())
    assert shell(people.alice, f"tickets create {session.id} --role control --ttl 30s --several --json") == 0
    made = json.loads(shell.out)
    assert (made["role"], made["single_use"]) == ("control", False)
    assert shell(people.alice, f"tickets create {session.id}") == 0
    assert "dft_" in shell.out
    assert shell(people.alice, f"tickets revoke {session.id} {made['id']}") == 0
    assert shell(people.wanda, f"tickets create {session.id} --role control") == 1
