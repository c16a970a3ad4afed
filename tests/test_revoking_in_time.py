"""Whatever takes a right away ends the open streams of every kind within two seconds, and says why: a real
relay, and the worker's watch of it as it runs all the time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from tests.caddy_fleet import running_upstreams
from tests.relay_process import RelayProcess, free_port, running_relay
from tests.test_relay import Viewer, hold, rfb_server
from tests.test_relay_content import studio_at
from tests.test_relay_ports import BOX, Server
from tests.viewer_fixtures import People, kasmvnc_desktop, running_session
from viewer.accounts import DeclaredKey
from viewer.credentials import hash_of, key_id_of
from viewer.grants import GRANT_HEADER, AnyTarget, DesktopSocket, Grant, PublishedPort, seal_grant
from viewer.model import Principal, Role, Session, Status, utcnow
from viewer.people import NewPerson
from viewer.people import Person as Somebody
from viewer.relay.answers import CloseCode
from viewer.relay_client import RelayClient
from viewer.store import Store
from viewer.stream_watch import StreamWatch
from viewer.tickets import TicketRole

pytestmark = pytest.mark.real

IN_TIME_SECONDS = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    upstream = Server("opensandbox", "127.0.0.1", free_port())
    with running_upstreams(upstream):
        yield upstream


@pytest.fixture(scope="module")
def relay(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    directory = tmp_path_factory.mktemp("revoking")
    with (
        studio_at(directory, tenant="acme"),
        running_relay(directory, opensandbox_url=f"http://127.0.0.1:{server.port}") as process,
    ):
        yield process


@pytest.fixture(scope="module")
def rfb() -> Iterator[int]:
    with rfb_server(hold) as port:
        yield port


@contextmanager
def watched(relay: RelayProcess, store: Store) -> Iterator[RelayClient]:
    """The worker's watch of this relay."""
    client, stop = RelayClient("here", url=relay.url, key=relay.key), threading.Event()
    watch = StreamWatch("here", client, store)
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    try:
        yield client
    finally:
        stop.set()
        thread.join()
        client.close()


Ended = Callable[[], Coroutine[None, None, int | None]]
"""Waits for a stream's end; the code that it ended with, None where there is none to see."""


@dataclass
class Opener:
    """Opens streams of each kind, of a sandbox and of the desktop `studio`."""

    http: aiohttp.ClientSession
    relay: RelayProcess
    rfb: int
    sandbox: Session
    desktop: Session

    async def open(self, kind: str, holder: str, *, ticket_id: str = "") -> Ended:
        if kind == "exchange":
            return await self._exchange(self._grant("port", self.sandbox, holder, BOX))
        if kind == "port":
            headers = self._grant("port", self.sandbox, holder, BOX)
            return self._end_of(await self._socket(f"/port/{self.sandbox.id}/echo", headers))
        if kind == "content":
            headers = self._grant("content", self.desktop, holder, DesktopSocket(name="studio"))
            viewer = Viewer(await self._socket("/content/websockify", headers))
            await viewer.read(12)
            return self._end_of(viewer.socket)
        target = PublishedPort(port=self.rfb)
        headers = self._grant("stream", self.sandbox, holder, target, ticket_id=ticket_id)
        viewer = Viewer(await self._socket(f"/stream/{self.sandbox.id}", headers))
        await viewer.shake_hands()
        return self._end_of(viewer.socket)

    def _grant(
        self, purpose: str, session: Session, holder: str, target: AnyTarget, *, ticket_id: str = ""
    ) -> dict[str, str]:
        grant = Grant.model_validate(
            {
                "purpose": purpose,
                "session_id": session.id,
                "tenant_id": session.tenant_id,
                "principal": holder,
                "may_control": True,
                "target": target,
                "ticket_id": ticket_id,
                "expires_at": utcnow() + timedelta(minutes=1),
            }
        )
        return {GRANT_HEADER: seal_grant(grant, self.relay.key)}

    async def _socket(self, path: str, headers: dict[str, str]) -> aiohttp.ClientWebSocketResponse:
        return await self.http.ws_connect(
            self.relay.url + path, headers=headers, protocols=["binary"], max_msg_size=0
        )

    @staticmethod
    def _end_of(socket: aiohttp.ClientWebSocketResponse) -> Ended:
        async def ended() -> int | None:
            return (await Viewer(socket).ending(seconds=30))[0]

        return ended

    async def _exchange(self, headers: dict[str, str]) -> Ended:
        answer = await self.http.get(f"{self.relay.url}/port/{self.sandbox.id}/endless", headers=headers)
        await answer.content.readany()

        async def ended() -> int | None:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
            return None

        return ended


@dataclass
class Case:
    """mara has signed in by name; alice has a key."""

    store: Store
    people: People
    mara: Somebody
    cookie: str
    opener: Opener

    @property
    def mara_holder(self) -> str:
        who = self.store.accounts.principal_of_cookie(self.cookie)
        assert who is not None
        return who.holder

    @property
    def alice_holder(self) -> str:
        return f"key:{key_id_of(self.people.alice.key)}"


def declare(case: Case, role: Role, *, ends_in: timedelta | None = None) -> None:
    """As a deploy does that says this of Alice's key."""
    alice = DeclaredKey(
        id=key_id_of(case.people.alice.key) or "",
        tenant="acme",
        role=role,
        sha256=hash_of(case.people.alice.key),
        label="",
        ends_at=None if ends_in is None else utcnow() + ends_in,
    )
    case.store.accounts.sync_declared(["acme", "bolt"], [alice])


def end_sessions(case: Case) -> None:
    for session in (case.opener.sandbox, case.opener.desktop):
        case.store.fleet.transition(session.id, Status.TERMINATED)


CAUSES: dict[str, tuple[int, str, Callable[[Case], object]]] = {
    "signed out": (CloseCode.SIGNED_OUT, "mara", lambda case: case.store.accounts.sign_out(case.cookie)),
    "person disabled": (
        CloseCode.SIGNED_OUT,
        "mara",
        lambda case: case.store.people("acme").change(case.mara.id, {"disabled": True}),
    ),
    "person's role lowered": (
        CloseCode.REVOKED,
        "mara",
        lambda case: case.store.people("acme").change(case.mara.id, {"role": Role.WATCHER}),
    ),
    "tenant taken out of the settings": (
        CloseCode.SIGNED_OUT,
        "mara",
        lambda case: case.store.accounts.sync_declared(["bolt"], []),
    ),
    "key revoked": (
        CloseCode.SIGNED_OUT,
        "alice",
        lambda case: case.store.accounts.revoke_key(key_id_of(case.people.alice.key) or ""),
    ),
    "key over": (
        CloseCode.SIGNED_OUT,
        "alice",
        lambda case: declare(case, Role.OPERATOR, ends_in=timedelta(seconds=0.1)),
    ),
    "key's role lowered": (CloseCode.REVOKED, "alice", lambda case: declare(case, Role.WATCHER)),
    "session ended": (CloseCode.ENDED, "alice", end_sessions),
}


@pytest.fixture
def case(store: Store, people: People, relay: RelayProcess, rfb: int) -> Case:
    mara = store.people("acme").add(NewPerson(login="mara", role=Role.OPERATOR), by="test")
    cookie = store.accounts.sign_in_person(mara.id, address=None, user_agent=None)
    # So that taking it out of the settings is news.
    alice = declared(people.alice.key)
    store.accounts.sync_declared(["acme", "bolt"], [alice])
    sandbox, desktop = running_session(store, people.alice), kasmvnc_desktop(store, people.alice)
    # The client session is made where there is a loop.
    opener = Opener(None, relay, rfb, sandbox, desktop)  # type: ignore[arg-type]
    return Case(store, people, mara, cookie, opener)


def declared(key: str) -> DeclaredKey:
    return DeclaredKey(
        id=key_id_of(key) or "", tenant="acme", role=Role.OPERATOR, sha256=hash_of(key), label=""
    )


@pytest.mark.parametrize("cause", CAUSES)
def test_streams_of_every_kind_end_within_two_seconds_and_say_why(
    cause: str, case: Case, relay: RelayProcess, store: Store
) -> None:
    code, whose, take_away = CAUSES[cause]
    holder = case.mara_holder if whose == "mara" else case.alice_holder

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            case.opener.http = http
            kinds = ("rfb", "content", "port", "exchange")
            ends = [await case.opener.open(kind, holder) for kind in kinds]
            assert len(await asyncio.to_thread(client.streams)) == 4
            waiting = [asyncio.create_task(ended()) for ended in ends]
            await asyncio.to_thread(take_away, case)
            async with asyncio.timeout(IN_TIME_SECONDS):
                got = await asyncio.gather(*waiting)
            assert dict(zip(kinds, got, strict=True)) == {
                "rfb": code,
                "content": code,
                "port": code,
                "exchange": None,
            }

    with watched(relay, store) as client:
        asyncio.run(body())


def test_a_revoked_ticket_ends_its_own_streams_and_no_others_of_its_maker(
    case: Case, relay: RelayProcess, store: Store
) -> None:
    who = Principal(id=case.alice_holder, tenant="acme", role=Role.OPERATOR, via="key")

    def ticket() -> str:
        made = store.tickets.make(
            who, case.opener.sandbox.id, TicketRole.CONTROL, life=timedelta(seconds=60), is_single_use=False
        )
        return made.id

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            case.opener.http = http
            revoked, good = ticket(), ticket()
            ended = await case.opener.open("rfb", case.alice_holder, ticket_id=revoked)
            others = [
                await case.opener.open("rfb", case.alice_holder, ticket_id=good),
                await case.opener.open("rfb", case.alice_holder),
            ]
            store.tickets.revoke("acme", case.opener.sandbox.id, revoked, who=who)
            async with asyncio.timeout(IN_TIME_SECONDS):
                assert await ended() == CloseCode.SIGNED_OUT
            left = await asyncio.to_thread(client.streams)
            assert sorted(one.ticket_id for one in left) == ["", good]
            del others

    with watched(relay, store) as client:
        asyncio.run(body())


def test_what_loses_its_right_while_the_relay_is_away_ends_when_it_is_back(
    case: Case, store: Store, rfb: int, tmp_path: Path
) -> None:
    """The watch goes on, whatever it meets."""
    with running_relay(tmp_path) as relay:
        client, stop = RelayClient("here", url=relay.url, key=relay.key), threading.Event()
        looks: list[str] = []

        class Faulty(StreamWatch):
            def look(self):  # type: ignore[no-untyped-def]
                looks.append("")
                if len(looks) < 3:
                    raise RuntimeError("something that nobody thought of")
                return super().look()

        async def body() -> None:
            async with aiohttp.ClientSession() as http:
                case.opener.http, case.opener.relay = http, relay
                ended = await case.opener.open("rfb", case.alice_holder)
                store.accounts.revoke_key(key_id_of(case.people.alice.key) or "")
                async with asyncio.timeout(10):
                    assert await ended() == CloseCode.SIGNED_OUT

        thread = threading.Thread(target=Faulty("here", client, store).run, args=(stop,))
        thread.start()
        try:
            asyncio.run(body())
        finally:
            stop.set()
            thread.join()
            client.close()
