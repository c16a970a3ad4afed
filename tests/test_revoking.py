"""Who loses a right loses the stream: the worker's look at one host, with a real relay and real streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from tests.relay_process import RelayProcess, free_port, running_relay
from tests.test_relay import Viewer, hold, rfb_server
from tests.viewer_fixtures import People, Person, running_session
from viewer import reconcile
from viewer.accounts import DeclaredKey
from viewer.chores import Chores
from viewer.credentials import hash_of
from viewer.grants import GRANT_HEADER, Grant, PublishedPort, seal_grant
from viewer.lifecycle import HostLink, Lifecycle
from viewer.model import Role, Session, utcnow
from viewer.people import NewPerson
from viewer.people import Person as Somebody
from viewer.placement import Capacity
from viewer.relay.answers import CloseCode
from viewer.relay_client import RelayClient
from viewer.sandbox_hosts import SandboxHost
from viewer.settings import Settings
from viewer.store import Store
from viewer.worker import HostWatch


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(tmp_path_factory.mktemp("relay")) as process:
        yield process


@pytest.fixture
def link(relay: RelayProcess) -> Iterator[HostLink]:
    """The sandbox server of this host is down: access must end all the same."""
    silent = SandboxHost("here", url=f"http://127.0.0.1:{free_port()}", key="key", fleet_id="f-test")
    relay_client = RelayClient("here", url=relay.url, key=relay.key)
    made = HostLink(name="here", sandboxes=silent, relay=relay_client, capacity=Capacity(desktops=8))
    yield made
    made.close()
    relay_client.close()


@pytest.fixture
def watch(link: HostLink, settings: Settings, store: Store, people: People) -> HostWatch:
    policy = reconcile.Policy(
        fleet_id="f-test", create_deadline=timedelta(seconds=2), max_lifetime=timedelta(hours=1)
    )
    return HostWatch(link, store, Lifecycle(store.fleet, settings, {"here": link}), Chores(), policy)


def key_id(person: Person) -> str:
    return person.key.split("_")[1]


def lower_to_watcher(store: Store, people: People) -> None:
    """As a deploy does whose settings name another role for Alice's key."""
    key = DeclaredKey(
        id=key_id(people.alice), tenant="acme", role=Role.WATCHER, sha256=hash_of(people.alice.key), label=""
    )
    ada = DeclaredKey(
        id=key_id(people.ada), tenant="acme", role=Role.ADMIN, sha256=hash_of(people.ada.key), label=""
    )
    store.accounts.sync_declared(["acme", "bolt"], [key, ada])


async def stream(
    http: aiohttp.ClientSession, relay: RelayProcess, session: Session, holder: Person | str, port: int
) -> Viewer:
    """A controlling stream of that key, or in that name, past its handshake."""
    grant = Grant(
        purpose="stream",
        session_id=session.id,
        tenant_id=session.tenant_id,
        principal=holder if isinstance(holder, str) else f"key:{key_id(holder)}",
        may_control=True,
        target=PublishedPort(port=port),
        expires_at=utcnow() + timedelta(minutes=1),
    )
    headers = {GRANT_HEADER: seal_grant(grant, relay.key)}
    viewer = Viewer(
        await http.ws_connect(f"{relay.url}/stream/{session.id}", headers=headers, protocols=["binary"])
    )
    await viewer.shake_hands()
    return viewer


@pytest.mark.parametrize("change", ["revoked", "lowered"])
def test_who_loses_the_right_loses_the_stream_and_the_others_keep_theirs(
    watch: HostWatch, link: HostLink, relay: RelayProcess, store: Store, people: People, change: str
) -> None:
    session = running_session(store, people.alice)

    async def body() -> None:
        with rfb_server(hold) as port:
            async with aiohttp.ClientSession() as http:
                alice = await stream(http, relay, session, people.alice, port)
                ada = await stream(http, relay, session, people.ada, port)
                await asyncio.to_thread(watch.look)
                assert link.relay is not None
                assert len(await asyncio.to_thread(link.relay.streams)) == 2
                if change == "revoked":
                    store.accounts.revoke_key(key_id(people.alice))
                else:
                    lower_to_watcher(store, people)
                await asyncio.to_thread(watch.look)
                told = CloseCode.SIGNED_OUT if change == "revoked" else CloseCode.REVOKED
                assert (await alice.ending())[0] == told
                await ada.socket.close()

    asyncio.run(body())


def sign_in_by_name(store: Store, person: Somebody) -> str:
    token = store.accounts.sign_in_person(person.id, address=None, user_agent=None)
    who = store.accounts.principal_of_cookie(token)
    assert who is not None
    return who.holder


CHANGES: dict[str, Callable[[Store, Somebody, str], object]] = {
    "disabled": lambda store, who, _: store.people("acme").change(who.id, {"disabled": True}),
    "deleted": lambda store, who, _: store.people("acme").delete(who.id),
    "lowered": lambda store, who, _: store.people("acme").change(who.id, {"role": Role.WATCHER}),
    "ended": lambda store, who, holder: store.accounts.end_sign_in(
        who.principal_id, holder.partition("/")[2]
    ),
    "reset": lambda store, who, _: store.accounts.set_password_by_link(
        store.people("acme").new_link(who.id), "hash"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_a_person_counts_for_his_open_streams(
    watch: HostWatch, link: HostLink, relay: RelayProcess, store: Store, people: People, change: str
) -> None:
    session = running_session(store, people.alice)
    mara = store.people("acme").add(NewPerson(login="mara", role=Role.OPERATOR), by="test")
    nina = store.people("acme").add(NewPerson(login="nina", role=Role.OPERATOR), by="test")
    hers, ninas = sign_in_by_name(store, mara), sign_in_by_name(store, nina)

    async def body() -> None:
        with rfb_server(hold) as port:
            async with aiohttp.ClientSession() as http:
                closing = await stream(http, relay, session, hers, port)
                going_on = await stream(http, relay, session, ninas, port)
                await asyncio.to_thread(watch.look)
                assert link.relay is not None
                assert len(await asyncio.to_thread(link.relay.streams)) == 2
                CHANGES[change](store, mara, hers)
                await asyncio.to_thread(watch.look)
                told = CloseCode.REVOKED if change == "lowered" else CloseCode.SIGNED_OUT
                assert (await closing.ending())[0] == told
                left = await asyncio.to_thread(link.relay.streams)
                assert [one.principal for one in left] == [ninas]
                await going_on.socket.close()

    asyncio.run(body())


def test_look_goes_on_while_the_relay_is_silent(
    settings: Settings, store: Store, people: People, tmp_path: Path
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    relay_client = RelayClient("here", url=nobody, key=b"x" * 43 + b"=")
    link = HostLink(
        name="here",
        sandboxes=SandboxHost("here", url=nobody, key="key", fleet_id="f-test"),
        relay=relay_client,
        capacity=Capacity(desktops=8),
    )
    policy = reconcile.Policy(
        fleet_id="f-test", create_deadline=timedelta(seconds=2), max_lifetime=timedelta(hours=1)
    )
    HostWatch(link, store, Lifecycle(store.fleet, settings, {"here": link}), Chores(), policy).look()
    assert [host.status for host in store.fleet.hosts()] == ["unreachable"]
    link.close()
    relay_client.close()
