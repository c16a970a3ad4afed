"""The tools: their names, what each takes and answers, and what it does through the API."""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from pydantic import ValidationError

from viewer.cli.api import Api, NoAnswer, TryAgain
from viewer.cli.output import reason_of
from viewer.cli.paging import collect
from viewer.cli.problems import Refused
from viewer.document_requests import PutDocument
from viewer.incoming import AskForHelp, CreateSession, ListQuery, ScreenshotQuery
from viewer.input_actions import Gesture, InputDone
from viewer.mcp.execd import Execd
from viewer.mcp.models import (
    MOST_PICTURE_BYTES,
    AskForPerson,
    CreateDesktop,
    Desktop,
    DocumentPut,
    Downloaded,
    DownloadFile,
    ExecuteCode,
    Executed,
    ExecutedCode,
    ExecuteShell,
    GetPreviewUrl,
    Listed,
    ListSandboxes,
    PersonsWord,
    Preview,
    PutADocument,
    SandboxList,
    Screenshot,
    SendInput,
    TakeScreenshot,
    TerminatedSandbox,
    TerminateSandbox,
    Uploaded,
    UploadFile,
    WaitForPerson,
)
from viewer.model import Frozen, Kind, Status
from viewer.problems import from_validation
from viewer.public import PublicSession, SessionList

Say = Callable[[str], Awaitable[None]]
"""Tells the client how far a call is."""

MOST_LISTED = 200
_WAIT_PIECE_SECONDS = 2
# A viewer with too many who wait answers at once.
_SHORTEST_PIECE_SECONDS = 0.5
_TERMINATE_SECONDS = 60
_PATIENCE_SECONDS = 60
_LIVE = tuple(status for status in Status if not status.is_terminal)

_In = TypeVar("_In", bound=Frozen)
_Out = TypeVar("_Out", bound=Frozen)
_Answer = TypeVar("_Answer")


class Desk:
    """What one agent does with one key."""

    def __init__(self, api: Api, execd: Execd) -> None:
        self._api = api
        self._execd = execd
        self._last_made: str | None = None

    async def create_desktop(self, asked: CreateDesktop, say: Say) -> Desktop:
        wanted = asked.model_dump(exclude={"idempotency_key"}, exclude_none=True)
        key = asked.idempotency_key or str(uuid.uuid4())
        create = CreateSession(**wanted, wait=False)
        session = await _in_thread(self._api.create, create, key)
        try:
            # One from a pool runs at once; whether the call was cancelled meanwhile is noticed here.
            await anyio.lowlevel.checkpoint()
            session = await self._until(session, lambda now: now.status is not Status.CREATING, say)
        except anyio.get_cancelled_exc_class():
            # Nobody has its id. Whoever gave a key comes back with it, and finds it.
            if asked.idempotency_key is None:
                with anyio.CancelScope(shield=True), suppress(Refused):
                    await _in_thread(self._api.terminate, session.id)
            raise
        except Refused as error:
            raise Refused(
                f"{error}; the desktop may be made all the same, its sandbox_id is {session.id}"
            ) from error
        if session.status.is_terminal:
            raise Refused(f"the desktop could not be made: {reason_of(session) or session.status}")
        self._last_made = session.id
        return _desktop(session)

    async def get_preview_url(self, asked: GetPreviewUrl, _say: Say) -> Preview:
        session = await _in_thread(self._api.session, asked.sandbox_id)
        return Preview(novnc_url=session.novnc_url, vnc_endpoint=session.vnc_endpoint, status=session.status)

    async def list_sandboxes(self, _asked: ListSandboxes, _say: Say) -> SandboxList:
        def page(cursor: str | None, most: int) -> SessionList:
            return self._api.sessions(ListQuery(status=_LIVE, cursor=cursor, limit=most))

        found, cursor = await _in_thread(collect, page, MOST_LISTED)
        return SandboxList(
            sandboxes=tuple(_listed(one) for one in found if one.kind is Kind.SANDBOX),
            note=f"These are the newest {MOST_LISTED}; there are more." if cursor else None,
        )

    async def terminate_sandbox(self, asked: TerminateSandbox, say: Say) -> TerminatedSandbox:
        session = await _in_thread(self._api.terminate, asked.sandbox_id)
        with anyio.move_on_after(_TERMINATE_SECONDS):
            session = await self._until(session, lambda now: now.status.is_terminal, say)
        if not session.status.is_terminal:
            raise Refused(
                "its end is asked for, but its host does not answer; it ends when the host is back, and"
                " get_preview_url says whether it has"
            )
        return TerminatedSandbox(sandbox_id=session.id, status=session.status)

    async def screenshot(self, asked: TakeScreenshot, _say: Say) -> Pictured:
        wanted = ScreenshotQuery(width=asked.width, format=asked.format)
        shot = await _in_thread(self._api.screenshot, asked.sandbox_id, wanted)
        if len(shot.data) > MOST_PICTURE_BYTES:
            raise Refused(
                f"the picture is larger than {MOST_PICTURE_BYTES} bytes; ask for a smaller width, or for jpeg"
            )
        width, height = shot.screen or (None, None)
        # A screen that is narrower than what was asked for is not made larger.
        scale = None if width is None else max(1.0, width / asked.width)
        told = Screenshot(sandbox_id=asked.sandbox_id, screen_width=width, screen_height=height, scale=scale)
        return Pictured(told, shot.data, f"image/{asked.format}")

    async def send_input(self, asked: SendInput, _say: Say) -> InputDone:
        try:
            gesture = Gesture(actions=asked.actions)
        except ValidationError as error:
            raise Refused(from_validation(error, Gesture).document.detail) from error
        return await _in_thread(self._api.input, asked.sandbox_id, gesture)

    async def ask_for_person(self, asked: AskForPerson, say: Say) -> PersonsWord:
        await _in_thread(self._api.ask_for_help, asked.sandbox_id, AskForHelp(reason=asked.reason))
        return await self._until_done(asked.sandbox_id, asked.wait_seconds, say)

    async def wait_for_person(self, asked: WaitForPerson, say: Say) -> PersonsWord:
        return await self._until_done(asked.sandbox_id, asked.wait_seconds, say)

    async def execute_shell(self, asked: ExecuteShell, _say: Say) -> Executed:
        return await self._execd.run(
            await self._where(asked.sandbox_id),
            asked.command,
            seconds=asked.timeout_seconds,
            background=asked.background,
        )

    async def execute_code(self, asked: ExecuteCode, _say: Say) -> ExecutedCode:
        return await self._execd.run_code(
            await self._where(asked.sandbox_id), asked.language, asked.code, seconds=asked.timeout_seconds
        )

    async def put_document(self, asked: PutADocument, _say: Say) -> DocumentPut:
        given = asked.model_dump(exclude_none=True)
        if asked.sandbox_id is not None:
            given["session_id"] = given.pop("sandbox_id")
        wanted = PutDocument(**given)
        document = await _in_thread(self._api.put_document, wanted)
        return DocumentPut(document_id=document.id, page_url=document.page_url)

    async def upload_file(self, asked: UploadFile, _say: Say) -> Uploaded:
        return await self._execd.upload(asked.sandbox_id, asked.path, asked.data)

    async def download_file(self, asked: DownloadFile, _say: Say) -> Downloaded:
        return await self._execd.download(asked.sandbox_id, asked.path)

    async def _where(self, sandbox_id: str | None) -> str:
        """Never the sandbox of another agent of the tenant that just happens to be the only one."""
        if sandbox_id is not None:
            return sandbox_id
        if self._last_made is not None:
            session = await _in_thread(self._api.session, self._last_made)
            if session.status is Status.RUNNING:
                return session.id
        raise Refused(
            "sandbox_id: is not given, and no desktop that was made here runs; call create_desktop first, or"
            " give the id of one that list_sandboxes shows"
        )

    async def _until_done(self, sandbox_id: str, seconds: int, say: Say) -> PersonsWord:
        """Whether nobody is needed there (any more), after so many seconds at the latest."""
        answer = await _in_thread(self._api.help, sandbox_id)
        if seconds:
            look = partial(self._api.help, sandbox_id, wait_seconds=_WAIT_PIECE_SECONDS)
            with anyio.move_on_after(seconds):
                answer = await _look_until(
                    lambda now: now.help is None, answer, look, lambda _: "waits for a person", say
                )
        done_by = answer.ended_by_name if answer.help is None else None
        return PersonsWord(sandbox_id=sandbox_id, is_done=answer.help is None, done_by=done_by)

    async def _until(
        self, session: PublicSession, is_reached: Callable[[PublicSession], bool], say: Say
    ) -> PublicSession:
        """The session then; what it waits for is said whenever that changes."""
        look = partial(self._api.session, session.id, wait_seconds=_WAIT_PIECE_SECONDS)
        return await _look_until(is_reached, session, look, reason_of, say)


@dataclass(frozen=True)
class Pictured:
    """An answer with a picture, which models take as a picture and not as text."""

    answer: Frozen
    data: bytes
    media_type: str


@dataclass(frozen=True)
class Tool(Generic[_In, _Out]):
    """does: for the model that chooses among them. looks: it changes nothing. ends: it may take away."""

    name: str
    does: str
    asks: type[_In]
    answers: type[_Out]
    run: Callable[[Desk, _In, Say], Awaitable[_Out | Pictured]]
    looks: bool = False
    ends: bool = False


AnyTool = Tool[Any, Any]

TOOLS: tuple[AnyTool, ...] = (
    Tool(
        "create_desktop",
        "Make a sandbox with a desktop that people can watch live. It answers when the desktop shows its"
        " first picture; where the fleet is full it waits in line, and says at which place.",
        CreateDesktop,
        Desktop,
        Desk.create_desktop,
    ),
    Tool(
        "get_preview_url",
        "Where the live screen of a sandbox can be watched, and whether it runs.",
        GetPreviewUrl,
        Preview,
        Desk.get_preview_url,
        looks=True,
    ),
    Tool(
        "list_sandboxes",
        "The sandboxes that are there.",
        ListSandboxes,
        SandboxList,
        Desk.list_sandboxes,
        looks=True,
    ),
    Tool(
        "terminate_sandbox",
        "End a sandbox for good, with all that is in it. It answers when its container is gone.",
        TerminateSandbox,
        TerminatedSandbox,
        Desk.terminate_sandbox,
        ends=True,
    ),
    Tool(
        "screenshot",
        "See what a desktop shows now, as a picture. Look before you click, and again when you have.",
        TakeScreenshot,
        Screenshot,
        Desk.screenshot,
        looks=True,
    ),
    Tool(
        "send_input",
        "Use the desktop's keyboard, mouse and clipboard. While a person has them it is refused, and the"
        " answer says who and why: wait, and look at the screen before you go on.",
        SendInput,
        InputDone,
        Desk.send_input,
        ends=True,
    ),
    Tool(
        "ask_for_person",
        "Call a person to the desktop for what you cannot or may not do yourself: a captcha, a second factor,"
        " a decision. It answers when somebody says that it is done, or after `wait_seconds`.",
        AskForPerson,
        PersonsWord,
        Desk.ask_for_person,
    ),
    Tool(
        "wait_for_person",
        "Wait on for a person that ask_for_person called.",
        WaitForPerson,
        PersonsWord,
        Desk.wait_for_person,
        looks=True,
    ),
    Tool(
        "execute_shell",
        "Run a command line in a sandbox.",
        ExecuteShell,
        Executed,
        Desk.execute_shell,
        ends=True,
    ),
    Tool(
        "execute_code",
        "Run a program in a sandbox, in a fresh interpreter of its language.",
        ExecuteCode,
        ExecutedCode,
        Desk.execute_code,
        ends=True,
    ),
    Tool(
        "put_document",
        "Put a result down where people see it, beside the desktops of its task: a report in markdown, a"
        " patch as code, a picture, a file. They get its page_url.",
        PutADocument,
        DocumentPut,
        Desk.put_document,
    ),
    Tool(
        "upload_file",
        "Write a file in a sandbox; one that is there is replaced, folders that are missing are made.",
        UploadFile,
        Uploaded,
        Desk.upload_file,
        ends=True,
    ),
    Tool(
        "download_file", "Read a file of a sandbox.", DownloadFile, Downloaded, Desk.download_file, looks=True
    ),
)


async def _in_thread(call: Callable[..., _Answer], *arguments: object) -> _Answer:
    return await anyio.to_thread.run_sync(partial(call, *arguments))


async def _look_until(
    is_reached: Callable[[_Answer], bool],
    answer: _Answer,
    look: Callable[[], _Answer],
    reason: Callable[[_Answer], str],
    say: Say,
) -> _Answer:
    """The answer to the look that sees it; the reason why it is not yet so is said whenever that changes. A
    viewer that is away for less than a minute is waited for."""
    said, away_since = "", math.inf
    while not is_reached(answer):
        why = reason(answer)
        if why and why != said:
            await say(why)
            said = why
        began = anyio.current_time()
        try:
            answer = await anyio.to_thread.run_sync(look, abandon_on_cancel=True)
            away_since = math.inf
        except (NoAnswer, TryAgain):
            away_since = min(away_since, began)
            if anyio.current_time() - away_since > _PATIENCE_SECONDS:
                raise
        if not is_reached(answer):
            await anyio.sleep(max(0.0, _SHORTEST_PIECE_SECONDS - (anyio.current_time() - began)))
    return answer


def _desktop(session: PublicSession) -> Desktop:
    values = {name: getattr(session, name) for name in Desktop.model_fields if name != "sandbox_id"}
    return Desktop(sandbox_id=session.id, **values)


def _listed(session: PublicSession) -> Listed:
    return Listed(**{name: getattr(session, name) for name in Listed.model_fields})
