"""The tools for agents: `mcp`'s own client and server in this process, the real API, and a stand-in for execd
(`tests.execd_stand_in`) that speaks its protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from flask import Flask
from mcp import Client
from mcp.types import CallToolResult, ImageContent, TextContent
from pydantic import SecretStr

from tests.execd_stand_in import Execd as ExecdStandIn
from tests.test_pictures_api import SOME_BYTES, Camera
from tests.viewer_fixtures import (
    ORIGIN,
    UNKNOWN_ID,
    People,
    Person,
    put_relay,
    running_session,
    session_with_password,
    settings_values,
    waiting,
    write_settings,
)
from viewer.admin import main as admin
from viewer.cli.api import Api
from viewer.cli.connection import Connection
from viewer.mcp import execd as execd_module
from viewer.mcp.execd import Execd
from viewer.mcp.main import run
from viewer.mcp.models import MOST_FILE_BYTES, MOST_OUTPUT_BYTES
from viewer.mcp.server import server_for
from viewer.mcp.skill import skill
from viewer.mcp.tools import TOOLS, Desk
from viewer.model import Principal, Role, Scope, Status
from viewer.people import NewPerson
from viewer.rows import QUEUED
from viewer.settings import Settings
from viewer.store import Store

SKILL = Path(__file__).parent.parent / "docs" / "skills" / "code-sandbox" / "SKILL.md"
BOX = "5f0c2a52-9d3b-4c55-8d0a-1e3f5a7b9c0d"
PAGE = SKILL.parents[2] / "mcp.md"
WAY = f"/v1/sandboxes/{BOX}/proxy/44772"
STAND_IN_SAYS = {
    "code": "NOT_SUPPORTED",
    "message": "This is Deskfleet's stand-in for OpenSandbox's execd: it answers /ping, but can run no"
    " commands, move no files and forward no ports.",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often instead of waiting in the API."""
    monkeypatch.setattr("viewer.mcp.tools._WAIT_PIECE_SECONDS", 0)
    monkeypatch.setattr("viewer.mcp.tools._SHORTEST_PIECE_SECONDS", 0.02)
    monkeypatch.setattr("viewer.waiting.SILENT_HOST_WAIT_SECONDS", 0.05)


@dataclass
class Agent:
    """A client of the tools, and how far it was told that its calls are."""

    client: Client
    progress: list[str] = field(default_factory=list)

    async def ask(self, tool: str, **arguments: object) -> CallToolResult:
        return await self.client.call_tool(tool, arguments, progress_callback=self._hear)

    async def get(self, tool: str, **arguments: object) -> Any:
        answer = await self.ask(tool, **arguments)
        assert not answer.is_error, answer
        [content] = answer.content
        assert isinstance(content, TextContent)
        assert json.loads(content.text) == answer.structured_content
        return answer.structured_content

    async def refusal(self, tool: str, **arguments: object) -> str:
        answer = await self.ask(tool, **arguments)
        assert answer.is_error, answer
        [content] = answer.content
        assert isinstance(content, TextContent)
        return content.text

    async def _hear(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append(message or "")


def connection(url: str, key: str) -> Connection:
    return Connection(url=url, key=SecretStr(key))


def converse(
    do: Callable[[Agent], Awaitable[None]],
    *,
    api: httpx.BaseTransport | None = None,
    key: str = "df_a_b",
    execd_url: str = "http://127.0.0.1:9",
    mode: str = "auto",
) -> None:
    async def scenario() -> None:
        execd = Execd(connection(execd_url, key))
        try:
            with Api(connection(ORIGIN, key), api or httpx.MockTransport(nobody)) as through:
                async with Client(server_for(Desk(through, execd)), mode=mode) as client:
                    await do(Agent(client))
        finally:
            await execd.close()

    asyncio.run(scenario())


def nobody(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("[Errno 111] Connection refused", request=request)


def as_person(app: Flask, person: Person) -> dict[str, Any]:
    return {"api": httpx.WSGITransport(app), "key": person.key}


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def in_sandbox(
    do: Callable[[Agent, ExecdStandIn], Awaitable[None]], app: web.Application | None = None
) -> None:
    """`do` with an agent whose sandbox BOX has an execd."""

    async def scenario() -> None:
        stand_in = ExecdStandIn()
        async with listening(app or stand_in.app(WAY)) as url:
            execd = Execd(connection(url, "df_a_b"))
            with Api(connection(ORIGIN, "df_a_b"), httpx.MockTransport(nobody)) as through:
                async with Client(server_for(Desk(through, execd))) as client:
                    await do(Agent(client), stand_in)
            await execd.close()

    asyncio.run(scenario())


# --- what there is ----------------------------------------------------------------------------------------


def test_client_lists_every_tool_with_schemas_of_both_sides() -> None:
    async def look(agent: Agent) -> None:
        listed = (await agent.client.list_tools()).tools
        assert [tool.name for tool in listed] == [
            "create_desktop", "get_preview_url", "list_sandboxes", "terminate_sandbox", "screenshot",
            "send_input", "ask_for_person", "wait_for_person",
            "execute_shell", "execute_code", "put_document", "upload_file", "download_file",
        ]  # fmt: skip
        for tool in listed:
            assert tool.description
            assert tool.input_schema["additionalProperties"] is False
            assert tool.output_schema
            assert tool.output_schema["type"] == "object"
        shell = next(tool for tool in listed if tool.name == "execute_shell").input_schema
        assert shell["required"] == ["command"]
        assert shell["properties"]["background"]["default"] is False

    converse(look)


def test_client_of_an_older_protocol_is_served_as_well() -> None:
    async def look(agent: Agent) -> None:
        assert len((await agent.client.list_tools()).tools) == len(TOOLS)
        assert (
            await agent.refusal("create_desktop")
            == f"{ORIGIN} does not answer: [Errno 111] Connection refused"
        )
        assert agent.client.instructions

    converse(look, mode="legacy")


def test_skill_in_the_docs_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert skill() == SKILL.read_text(), "run `make reference`"
    assert run(["--skill"]) == 0
    assert capsys.readouterr().out == skill()
    for tool in TOOLS:
        assert f"\n## {tool.name}\n" in skill()
        for name in (*tool.asks.model_fields, *tool.answers.model_fields):
            assert f"`{name}`" in skill()


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("create_desktop", {"resolution": "1280"}, "resolution: is not WIDTHxHEIGHT; give WIDTHxHEIGHT or"),
        ("create_desktop", {"ttl_second": 60}, "ttl_second: unknown field; did you mean 'ttl_seconds'?"),
        ("create_desktop", {"idempotency_key": "a b"}, "idempotency_key: string should match"),
        ("screenshot", {"sandbox_id": BOX, "width": 63}, "width: input should be greater than or equal"),
        ("screenshot", {"sandbox_id": BOX, "format": "gif"}, "format: input should be 'jpeg' or 'png'; give"),
        ("execute_code", {"language": "perl", "code": "1"}, "language: input should be 'python', "),
        ("execute_shell", {"command": "true", "timeout_seconds": 301}, "timeout_seconds: input should"),
        ("execute_shell", {}, "command: field required; give a command line for the sandbox's shell"),
        ("download_file", {"sandbox_id": BOX, "path": "notes"}, "path: is not absolute; give an"),
        ("download_file", {"sandbox_id": BOX, "path": "/a/../b"}, "path: has a part that is ..; give"),
        ("download_file", {"sandbox_id": BOX, "path": "/a/$HOME"}, "path: has a $ or a control"),
        (
            "upload_file",
            {"sandbox_id": BOX, "path": "/a", "content": "?", "encoding": "base64"},
            "content: is not base64; give text, or base64",
        ),
        (
            "upload_file",
            {"sandbox_id": BOX, "path": "/a", "content": "x" * (MOST_FILE_BYTES + 1)},
            "content: is too large; give text, or base64, of at most 1048576 bytes",
        ),
        ("make_desktop", {}, "there is no tool 'make_desktop'; did you mean create_desktop? known: create_"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_sentence_with_its_mend(
    tool: str, arguments: dict[str, object], sentence: str
) -> None:
    async def refused(agent: Agent) -> None:
        assert (await agent.refusal(tool, **arguments)).startswith(sentence)

    converse(refused)


# --- desktops, through the real API -----------------------------------------------------------------------


@pytest.fixture
def worker(store: Store) -> Any:
    """Does something with the next session that is asked for."""
    threads = []

    def act(do: Callable[[str], object]) -> None:
        def when_asked() -> None:
            deadline = time.monotonic() + 10
            while not (asked := waiting(store)) and time.monotonic() < deadline:
                time.sleep(0.01)
            do(asked[0].id)

        threads.append(threading.Thread(target=when_asked))
        threads[-1].start()

    yield act
    for thread in threads:
        thread.join(15)


def test_desktop_is_made_shown_listed_and_ended(
    app: Flask, store: Store, people: People, worker: Any
) -> None:
    steps = store.fleet

    def bring_up(session_id: str) -> None:
        steps.update(session_id, status_reason="waiting for the first frame")
        time.sleep(0.1)
        steps.transition(session_id, Status.RUNNING, host="here", sandbox_id="box-1", vnc_port=40001)

    async def use(agent: Agent) -> None:
        worker(bring_up)
        made = await agent.get("create_desktop", resolution="1280x800x24", task_id="t1", agent_id="atlas")
        name = made["sandbox_id"]
        session = store.tenant("acme").get(name)
        assert (session.image, session.resolution) == ("desktop", "1280x800")
        assert (session.task_id, session.agent_id, session.idle_seconds) == ("t1", "atlas", 1800)
        assert made == {
            "sandbox_id": name, "status": "running", "devtools_url": None, "expires_at": made["expires_at"],
            "page_url": f"{ORIGIN}/sandboxes/{name}", "novnc_url": f"{ORIGIN}/view/{name}",
            "vnc_endpoint": f"{ORIGIN.replace('http', 'ws', 1)}/stream/{name}",
        }  # fmt: skip
        assert "waiting for the first frame" in agent.progress
        shown = await agent.get("get_preview_url", sandbox_id=name)
        assert shown == {
            "novnc_url": made["novnc_url"], "vnc_endpoint": made["vnc_endpoint"], "status": "running"
        }  # fmt: skip
        [listed] = (await agent.get("list_sandboxes"))["sandboxes"]
        assert (listed["id"], listed["status"], listed["image"]) == (name, "running", "desktop")
        ending = threading.Timer(0.1, lambda: steps.transition(name, Status.TERMINATED, reason="on request"))
        ending.start()
        assert await agent.get("terminate_sandbox", sandbox_id=name) == {
            "sandbox_id": name, "status": "terminated"
        }  # fmt: skip
        ending.join()
        assert (await agent.get("list_sandboxes"))["sandboxes"] == []

    converse(use, **as_person(app, people.alice))


def test_agent_calls_a_person_and_hears_who_says_that_it_is_done(
    app: Flask, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    mara = store.people("acme").add(NewPerson(login="mara", name="Mara", role=Role.OPERATOR), by="test")
    person = Principal(id=mara.principal_id, tenant="acme", role=Role.OPERATOR, via="cookie")

    async def use(agent: Agent) -> None:
        box = session.id
        waiting_on = {"sandbox_id": box, "is_done": False, "done_by": None}
        assert await agent.get("wait_for_person", sandbox_id=box) == {**waiting_on, "is_done": True}
        asked = await agent.get("ask_for_person", sandbox_id=box, reason="a captcha", wait_seconds=0)
        assert asked == waiting_on
        call = store.tenant("acme").get(box).help
        assert call is not None
        assert call.reason == "a captcha"
        helping = threading.Timer(0.05, lambda: store.help("acme").end(box, person))
        helping.start()
        done = await agent.get("wait_for_person", sandbox_id=box, wait_seconds=20)
        helping.join()
        assert done == {"sandbox_id": box, "is_done": True, "done_by": "Mara"}
        assert agent.progress == ["waits for a person"]
        store.fleet.transition(box, Status.TERMINATED)
        refusal = await agent.refusal("ask_for_person", sandbox_id=box, reason="too late")
        assert refusal == "This session is terminated and cannot be changed any more."

    converse(use, **as_person(app, people.alice))


@pytest.fixture
def camera(app: Flask, settings: Settings) -> Camera:
    camera = Camera(settings)
    put_relay(app, camera)
    return camera


@pytest.mark.parametrize(("width", "scale"), [(None, 1.0), (320, 4.0), (1920, 1.0)])
def test_desktop_is_shown_as_a_picture_and_what_clicks_are_counted_in(
    app: Flask, store: Store, people: People, settings: Settings, camera: Camera,
    width: int | None, scale: float,
) -> None:  # fmt: skip
    session = session_with_password(store, people.alice, settings, "secret12")

    async def use(agent: Agent) -> None:
        asked = {} if width is None else {"width": width}
        answer = await agent.ask("screenshot", sandbox_id=session.id, **asked)
        picture, told = answer.content
        assert isinstance(picture, ImageContent)
        assert (picture.mime_type, base64.b64decode(picture.data)) == ("image/jpeg", SOME_BYTES)
        assert isinstance(told, TextContent)
        assert json.loads(told.text) == answer.structured_content
        assert answer.structured_content == {
            "sandbox_id": session.id, "screen_width": 1280, "screen_height": 800, "scale": scale,
        }  # fmt: skip
        exact = await agent.ask("screenshot", sandbox_id=session.id, format="png")
        assert isinstance(exact.content[0], ImageContent)
        assert exact.content[0].mime_type == "image/png"
        assert [asked[1:] for asked in camera.asked] == [(width or 1280, "jpeg"), (1280, "png")]

    # To look is enough.
    converse(use, **as_person(app, people.wanda))


def test_picture_that_there_is_not_or_that_is_too_large_is_one_sentence(
    app: Flask, store: Store, people: People, settings: Settings, camera: Camera,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    session = session_with_password(store, people.alice, settings, "secret12")
    monkeypatch.setattr("viewer.mcp.tools.MOST_PICTURE_BYTES", len(SOME_BYTES) - 1)

    async def use(agent: Agent) -> None:
        assert await agent.refusal("screenshot", sandbox_id=session.id) == (
            f"the picture is larger than {len(SOME_BYTES) - 1} bytes; ask for a smaller width, or for jpeg"
        )
        camera.detail = "the screen is still black"
        black = await agent.refusal("screenshot", sandbox_id=session.id)
        assert black == "The screen is still black; ask again in a moment."
        store.fleet.transition(session.id, Status.TERMINATED)
        ended = await agent.refusal("screenshot", sandbox_id=session.id)
        assert ended == "It has ended, and no picture of it is kept."

    converse(use, **as_person(app, people.alice))


def test_picture_of_a_viewer_that_says_no_size_is_shown_all_the_same() -> None:
    async def use(agent: Agent) -> None:
        answer = await agent.ask("screenshot", sandbox_id=BOX)
        assert not answer.is_error
        assert answer.structured_content == {
            "sandbox_id": BOX, "screen_width": None, "screen_height": None, "scale": None
        }  # fmt: skip

    converse(use, api=httpx.MockTransport(lambda _request: httpx.Response(200, content=SOME_BYTES)))


def test_full_fleet_says_its_place_in_line_and_a_failure_why(
    app: Flask, store: Store, people: People, worker: Any
) -> None:
    def queue_and_fail(session_id: str) -> None:
        store.fleet.update(session_id, status_reason=QUEUED)
        time.sleep(0.3)
        store.fleet.transition(session_id, Status.ERROR, error_message="no host had room for 300 s")

    async def use(agent: Agent) -> None:
        worker(queue_and_fail)
        refusal = await agent.refusal("create_desktop")
        assert refusal == "the desktop could not be made: no host had room for 300 s"
        assert "waits in line, place 1" in agent.progress

    converse(use, **as_person(app, people.alice))


def test_same_idempotency_key_finds_what_it_made(
    app: Flask, store: Store, people: People, worker: Any
) -> None:
    async def use(agent: Agent) -> None:
        worker(lambda name: store.fleet.transition(name, Status.RUNNING, host="here", sandbox_id="b"))
        first = await agent.get("create_desktop", idempotency_key="run-1")
        again = await agent.get("create_desktop", idempotency_key="run-1")
        assert again["sandbox_id"] == first["sandbox_id"]
        other = await agent.refusal("create_desktop", idempotency_key="run-1", task_id="another")
        assert other == (
            "Idempotency-Key: was used for another request; take a new one, or send the same body again"
        )

    converse(use, **as_person(app, people.alice))


def test_lost_answer_of_a_create_makes_no_second_desktop(
    app: Flask, store: Store, people: People, worker: Any
) -> None:
    class Losing(httpx.WSGITransport):
        lost = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.method == "POST" and not self.lost:
                self.lost += 1
                raise httpx.ReadError("the connection broke", request=request)
            return answer

    async def use(agent: Agent) -> None:
        worker(lambda name: store.fleet.transition(name, Status.RUNNING, host="here", sandbox_id="b"))
        made = await agent.get("create_desktop")
        assert [row.id for row in store.tenant("acme").list().items] == [made["sandbox_id"]]

    converse(use, api=Losing(app), key=people.alice.key)


@pytest.mark.parametrize("key", [None, "run-7"])
def test_create_that_nobody_waits_for_leaves_no_desktop_but_what_its_key_finds(
    app: Flask, store: Store, people: People, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.session_api.wait_until", lambda session, _reached, _seconds: session)

    async def use(agent: Agent) -> None:
        call = asyncio.ensure_future(agent.ask("create_desktop", **({"idempotency_key": key} if key else {})))
        while not agent.progress:
            await asyncio.sleep(0.02)
            if (rows := waiting(store)) and not rows[0].status_reason:
                store.fleet.update(rows[0].id, status_reason="starting")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        [row] = store.tenant("acme").list().items
        assert (row.terminate_requested_at is None) is (key is not None)

    converse(use, **as_person(app, people.alice))


def test_crash_tells_the_client_nothing_but_that(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(agent: Agent) -> None:
        refusal = await agent.refusal("list_sandboxes")
        assert refusal == "this went wrong in deskfleet-mcp itself; its log, on stderr, says how"
        assert "list_sandboxes failed" in caplog.text

    def crash(_request: httpx.Request) -> httpx.Response:
        raise KeyError("an inner thing")

    converse(use, api=httpx.MockTransport(crash))


def test_call_that_is_cancelled_while_a_desktop_comes_out_of_a_pool_ends_it(
    app: Flask, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.session_api.wait_until", lambda session, _reached, _seconds: session)
    is_asked, may_answer = threading.Event(), threading.Event()

    class FromThePool(httpx.WSGITransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.method != "POST":
                return answer
            made = {**json.loads(answer.read()), "status": "running"}
            is_asked.set()
            assert may_answer.wait(10)
            return httpx.Response(201, json=made)

    async def use(agent: Agent) -> None:
        call = asyncio.ensure_future(agent.ask("create_desktop"))
        assert await asyncio.to_thread(is_asked.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        # Answered behind the word that the call is cancelled.
        await agent.client.list_tools()
        may_answer.set()
        await asyncio.to_thread(until, lambda: store.tenant("acme").list().items[0].terminate_requested_at)

    converse(use, api=FromThePool(app), key=people.alice.key, mode="legacy")


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_tenants_sandbox_is_not_there(app: Flask, store: Store, people: People) -> None:
    session = running_session(store, people.alice)

    async def use(agent: Agent) -> None:
        for tool in ("get_preview_url", "terminate_sandbox", "screenshot"):
            theirs = await agent.refusal(tool, sandbox_id=session.id)
            assert theirs == await agent.refusal(tool, sandbox_id=UNKNOWN_ID)
            assert theirs.startswith("There is nothing here for you")
        assert (await agent.get("list_sandboxes"))["sandboxes"] == []

    converse(use, **as_person(app, people.bob))


def test_watchers_key_makes_nothing_and_a_wrong_one_gets_nothing(app: Flask, people: People) -> None:
    async def watch(agent: Agent) -> None:
        assert await agent.refusal("create_desktop") == (
            "This needs the role operator, yours is watcher; ask your tenant's admin for another key."
        )

    converse(watch, **as_person(app, people.wanda))

    async def guess(agent: Agent) -> None:
        for tool in ("create_desktop", "list_sandboxes"):
            refusal = await agent.refusal(tool)
            assert refusal.startswith("The key is not valid here")
            assert "df_aaaaaaaa_wrong" not in refusal

    converse(guess, api=httpx.WSGITransport(app), key="df_aaaaaaaa_wrong")


def test_key_of_another_scope_is_told_which_it_needs(app: Flask, store: Store, people: People) -> None:
    key = store.accounts.add_key("acme", Role.OPERATOR, scopes=[Scope.EVENTS]).text

    async def use(agent: Agent) -> None:
        for tool in ("create_desktop", "list_sandboxes"):
            assert await agent.refusal(tool) == (
                "This needs a key with the scope sessions; ask your tenant's admin for one."
            )

    converse(use, api=httpx.WSGITransport(app), key=key)


class Interrupted(httpx.WSGITransport):
    """Lets creates and the first `passes` looks pass, and answers the next looks as a proxy whose viewer is
    away."""

    def __init__(self, app: Flask, looks: int) -> None:
        super().__init__(app)
        self.passes, self.looks = 0, looks

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and self.passes:
            self.passes -= 1
        elif request.method == "GET" and self.looks:
            self.looks -= 1
            return httpx.Response(503, text="the viewer is away")
        return super().handle_request(request)


def test_create_outlasts_a_viewer_that_is_away_for_a_moment(
    app: Flask, store: Store, people: People, worker: Any
) -> None:
    through = Interrupted(app, looks=3)

    async def use(agent: Agent) -> None:
        worker(lambda name: store.fleet.transition(name, Status.RUNNING, host="here", sandbox_id="b"))
        assert (await agent.get("create_desktop"))["status"] == "running"
        assert through.looks == 0

    converse(use, api=through, key=people.alice.key)


def test_waiting_for_a_person_outlasts_a_viewer_that_is_away_for_a_moment(
    app: Flask, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    through = Interrupted(app, looks=0)
    person = Principal(id="person:mara", tenant="acme", role=Role.OPERATOR, via="cookie")

    async def use(agent: Agent) -> None:
        await agent.get("ask_for_person", sandbox_id=session.id, reason="a captcha", wait_seconds=0)
        through.passes, through.looks = 1, 3
        helping = threading.Timer(0.5, lambda: store.help("acme").end(session.id, person))
        helping.start()
        word = await agent.get("wait_for_person", sandbox_id=session.id, wait_seconds=30)
        helping.join()
        assert (word["is_done"], through.looks) == (True, 0)

    converse(use, api=through, key=people.alice.key)


def test_create_that_loses_the_viewer_for_good_names_the_desktop(
    app: Flask, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.mcp.tools._PATIENCE_SECONDS", 0.05)

    async def use(agent: Agent) -> None:
        refusal = await agent.refusal("create_desktop")
        [row] = store.tenant("acme").list().items
        assert "answers 503 and says no more; the desktop may be made all the same" in refusal
        assert refusal.endswith(f"its sandbox_id is {row.id}")

    converse(use, api=Interrupted(app, looks=1000), key=people.alice.key)


def test_fleet_that_is_away_is_one_sentence() -> None:
    async def use(agent: Agent) -> None:
        away = f"{ORIGIN} does not answer: [Errno 111] Connection refused"
        assert await agent.refusal("list_sandboxes") == away
        ran = await agent.refusal("execute_shell", sandbox_id=BOX, command="true")
        assert ran.startswith("http://127.0.0.1:9 does not answer: ")

    converse(use)


def test_no_sandbox_named_and_none_made_here_is_refused_although_another_runs(
    app: Flask, store: Store, people: People
) -> None:
    running_session(store, people.alice)

    async def use(agent: Agent) -> None:
        refusal = await agent.refusal("execute_shell", command="true")
        assert refusal.startswith("sandbox_id: is not given, and no desktop that was made here runs; call")

    converse(use, **as_person(app, people.alice))


def test_no_sandbox_named_means_the_one_that_was_made_here_last(
    app: Flask, store: Store, people: People, worker: Any
) -> None:
    async def use(agent: Agent) -> None:
        worker(lambda name: store.fleet.transition(name, Status.RUNNING, host="here", sandbox_id="b"))
        made = await agent.get("create_desktop")
        running_session(store, people.alice)
        # It is sent on its way to execd, which is not there.
        away = await agent.refusal("execute_shell", command="true")
        assert away.startswith("http://127.0.0.1:9 does not answer: ")
        store.fleet.transition(made["sandbox_id"], Status.TERMINATED)
        refusal = await agent.refusal("execute_shell", command="true")
        assert refusal.startswith("sandbox_id: is not given, and no desktop that was made here runs; call")

    converse(use, **as_person(app, people.alice))


# --- commands, code and files, through execd --------------------------------------------------------------


def test_command_answers_what_it_printed_and_how_it_ended() -> None:
    async def use(agent: Agent, _execd: ExecdStandIn) -> None:
        ran = await agent.get(
            "execute_shell", sandbox_id=BOX, command="printf 'a\\n\\nb'; echo oops >&2; exit 3"
        )
        assert (ran["stdout"], ran["stderr"], ran["exit_code"]) == ("a\n\nb\n", "oops\n", 3)
        assert ran["note"] is None
        fine = await agent.get("execute_shell", sandbox_id=BOX, command="true")
        assert (fine["exit_code"], fine["execution_time_ms"]) == (0, 7)

    in_sandbox(use)


def test_events_with_and_without_the_prefix_of_sse_are_understood() -> None:
    stand_in = ExecdStandIn(speaks_sse=True)

    async def use(agent: Agent, _execd: ExecdStandIn) -> None:
        ran = await agent.get("execute_shell", sandbox_id=BOX, command="echo hi")
        assert (ran["stdout"], ran["exit_code"]) == ("hi\n", 0)

    in_sandbox(use, stand_in.app(WAY))


def test_background_command_is_answered_at_once_and_runs_on(tmp_path: Path) -> None:
    done = tmp_path / "done"

    async def use(agent: Agent, execd: ExecdStandIn) -> None:
        ran = await agent.get("execute_shell", sandbox_id=BOX, command=f"echo > {done}", background=True)
        assert (ran["stdout"], ran["exit_code"]) == ("", None)
        assert ran["note"].startswith("It runs on in the background")
        [process] = execd.processes.values()
        assert await process.wait() == 0
        assert done.exists()
        assert ("DELETE", f"{WAY}/command") not in execd.seen

    in_sandbox(use)


def test_command_that_runs_too_long_is_ended_by_execd() -> None:
    async def use(agent: Agent, execd: ExecdStandIn) -> None:
        with pytest.MonkeyPatch.context() as patch:
            # A whole second would be too long for a test.
            patch.setattr("viewer.mcp.execd.MILLISECONDS", 400)
            patch.setattr("viewer.mcp.execd._Execution._since_began_ms", lambda _self: 1000)
            ran = await agent.get(
                "execute_shell", sandbox_id=BOX, command="echo a; sleep 60", timeout_seconds=1
            )
        assert (ran["stdout"], ran["exit_code"]) == ("a\n", None)
        assert ran["note"] == "It ran longer than 1 s and was ended."
        [process] = execd.processes.values()
        assert process.returncode == -9

    in_sandbox(use)


def test_execd_that_lets_a_program_run_on_is_told_to_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execd_module, "_GRACE_SECONDS", -0.5)

    async def use(agent: Agent, execd: ExecdStandIn) -> None:
        ran = await agent.get(
            "execute_code", sandbox_id=BOX, language="python", code="import time; time.sleep(60)",
            timeout_seconds=1,
        )  # fmt: skip
        assert (ran["exit_code"], ran["note"]) == (None, "It ran longer than 1 s and was ended.")
        [process] = execd.processes.values()
        assert await process.wait() == -9
        assert execd.contexts == {}

    in_sandbox(use)


def test_command_of_a_call_that_is_cancelled_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, add = asyncio.Event(), execd_module._Execution.add

    def noticed(seen: execd_module._Execution, event: execd_module._Event) -> None:
        add(seen, event)
        has_begun.set()

    monkeypatch.setattr(execd_module._Execution, "add", noticed)

    async def use(agent: Agent, execd: ExecdStandIn) -> None:
        call = asyncio.ensure_future(agent.ask("execute_shell", sandbox_id=BOX, command="sleep 60"))
        await asyncio.wait_for(has_begun.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        [process] = execd.processes.values()
        assert await asyncio.wait_for(process.wait(), 5) == -9

    in_sandbox(use)


def test_much_output_is_cut_and_a_line_without_end_is_left_out() -> None:
    async def use(agent: Agent, _execd: ExecdStandIn) -> None:
        command = (
            "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done"
        )
        ran = await agent.get("execute_shell", sandbox_id=BOX, command=command)
        assert len(ran["stdout"]) == MOST_OUTPUT_BYTES
        assert ran["note"] == f"Only the first {MOST_OUTPUT_BYTES} bytes of each output are shown."
        long = await agent.get(
            "execute_shell",
            sandbox_id=BOX,
            command="echo a; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo b",
        )
        assert (long["stdout"], long["exit_code"]) == ("a\n", 0)
        assert long["note"]

    in_sandbox(use)


def test_code_runs_in_a_kernel_of_its_own_that_is_gone_afterwards() -> None:
    async def use(agent: Agent, execd: ExecdStandIn) -> None:
        ran = await agent.get("execute_code", sandbox_id=BOX, language="python", code="print('a')\n6 * 7")
        assert (ran["stdout"], ran["result"], ran["exit_code"]) == ("a\n", "42", 0)
        assert ran["execution_time_ms"] == 9
        failed = await agent.get("execute_code", sandbox_id=BOX, language="python", code="1 / 0")
        assert failed["exit_code"] == 1
        # Without the colours that a kernel gives it.
        assert failed["stderr"] == "ZeroDivisionError: division by zero"
        assert execd.contexts == {}
        shell = await agent.get("execute_code", sandbox_id=BOX, language="bash", code="exit 4")
        assert shell["exit_code"] == 4
        refusal = await agent.refusal("execute_code", sandbox_id=BOX, language="go", code="package main")
        assert refusal == (
            "this sandbox's image runs no go (error creating code context. no kernel specs found); take an"
            " image with OpenSandbox's code interpreter, or call the program with execute_shell"
        )

    in_sandbox(use)


def test_files_go_in_and_come_out_as_text_and_as_base64(tmp_path: Path) -> None:
    text, binary, large = (str(tmp_path / "new folder" / name) for name in ("ä&b.txt", "b.bin", "large"))

    async def use(agent: Agent, _execd: ExecdStandIn) -> None:
        sent = await agent.get("upload_file", sandbox_id=BOX, path=text, content="grüße\n")
        assert sent == {"path": text, "size_bytes": 8}
        assert await agent.get("download_file", sandbox_id=BOX, path=text) == {
            "content": "grüße\n", "encoding": "text", "size_bytes": 8
        }  # fmt: skip
        assert Path(text).stat().st_mode & 0o777 == 0o644
        data = base64.b64encode(bytes(range(256))).decode()
        await agent.get("upload_file", sandbox_id=BOX, path=binary, content=data, encoding="base64")
        assert Path(binary).read_bytes() == bytes(range(256))
        got = await agent.get("download_file", sandbox_id=BOX, path=binary)
        assert (got["content"], got["encoding"]) == (data, "base64")
        missing = await agent.refusal("download_file", sandbox_id=BOX, path=str(tmp_path / "none"))
        assert missing == "there is no such file in the sandbox; look with execute_shell"
        Path(large).write_bytes(b"x" * (MOST_FILE_BYTES + 1))
        refusal = await agent.refusal("download_file", sandbox_id=BOX, path=large)
        assert refusal == f"{large} is larger than 1048576 bytes; cut a part of it out with execute_shell"

    in_sandbox(use)


CALLS: list[tuple[str, dict[str, object]]] = [
    ("execute_shell", {"command": "true"}),
    ("execute_code", {"language": "python", "code": "1"}),
    ("upload_file", {"path": "/tmp/a", "content": "a"}),
    ("download_file", {"path": "/tmp/a"}),
]


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (404, STAND_IN_SAYS, execd_module.NOT_HERE),
        (404, None, execd_module.NOT_HERE),
        (
            404,
            {"code": "DOCKER::SANDBOX_NOT_FOUND", "message": "No such sandbox runs; check its id."},
            "No such sandbox runs; check its id.",
        ),
        (
            502,
            {"code": "BACKEND_CONNECTION_FAILED", "message": "172.17.0.2 refused"},
            "execd does not answer in this sandbox; try again, or make another one",
        ),
        (401, {"code": "INVALID_API_KEY", "message": "Send a valid key."}, "Send a valid key."),
    ],
)
def test_sandbox_that_cannot_says_what_is_missing(
    status: int, body: dict[str, str] | None, sentence: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, text="no" if body is None else json.dumps(body))

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)

    async def use(agent: Agent, _execd: ExecdStandIn) -> None:
        for tool, arguments in CALLS:
            assert await agent.refusal(tool, sandbox_id=BOX, **arguments) == sentence, tool

    in_sandbox(use, app)


def test_execd_that_breaks_off_is_no_success() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b'{"type":"init","text":"x"}\n\n{"type":"stdout","text":"half"}\n\n')
        return stream

    app = web.Application()
    app.router.add_post(f"{WAY}/command", answer)

    async def use(agent: Agent, _execd: ExecdStandIn) -> None:
        refusal = await agent.refusal("execute_shell", sandbox_id=BOX, command="true")
        assert refusal == "the connection to the sandbox broke before the end; it may still run there"

    in_sandbox(use, app)


# --- the page about it ------------------------------------------------------------------------------------


def test_page_names_every_tool_and_its_client_gets_no_key() -> None:
    text = PAGE.read_text()
    _, _, table = text.partition("| tool | does |")
    assert set(re.findall(r"`([a-z_]+)`", table.partition("\n\n")[0])) == {tool.name for tool in TOOLS}
    [example] = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    started = json.loads(example)["mcpServers"]["deskfleet"]
    scripts = tomllib.loads((PAGE.parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[started["command"]] == "viewer.mcp.main:main"
    assert set(started) == {"command", "env"}
    assert set(started["env"]) == {"DESKFLEET_URL", "DESKFLEET_KEY_FILE"}


def test_key_of_the_page_is_enough(
    app: Flask, store: Store, database_values: dict[str, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    values = {**settings_values(tmp_path), **database_values}
    settings_file = write_settings(values, tmp_path / "viewer.toml")
    monkeypatch.setenv("DESKFLEET_SETTINGS", str(settings_file))
    [command] = [line for line in PAGE.read_text().splitlines() if line.startswith("sudo deskfleet-admin")]
    store.accounts.add_tenant("main")
    assert "--scope sessions --scope streams" in command
    admin(shlex.split(command)[2:])
    key = capsys.readouterr().out.strip()

    async def use(agent: Agent) -> None:
        assert (await agent.get("list_sandboxes"))["sandboxes"] == []
        ended = await agent.refusal("terminate_sandbox", sandbox_id=UNKNOWN_ID)
        assert ended.startswith("There is nothing here for you")

    converse(use, api=httpx.WSGITransport(app), key=key)


# --- the program ------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("DESKFLEET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return monkeypatch


def test_program_without_an_address_or_the_extra_says_so(
    bare: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("deskfleet-mcp: there is no address: set DESKFLEET_URL, or url in ")
    bare.setattr("importlib.util.find_spec", lambda _name: None)
    assert run([]) == 2
    assert capsys.readouterr().err == (
        "deskfleet-mcp: the package `mcp` is not installed here; install `deskfleet[mcp]` in place of"
        " `deskfleet`\n"
    )


def test_key_is_never_taken_from_the_command_line(
    bare: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(["--key", "df_a_b"])
    assert "unrecognized arguments" in capsys.readouterr().err
