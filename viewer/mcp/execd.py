"""Commands, code and files in a sandbox: the work of OpenSandbox's execd there, reached through Deskfleet.

What execd takes and answers: https://github.com/opensandbox-group/OpenSandbox/blob/main/specs/execd-api.yaml
Its streams are one JSON object a line, with or without `data:` before it.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from urllib.parse import quote

import anyio
import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from viewer import __version__
from viewer.cli.api import NoAnswer
from viewer.cli.connection import Connection
from viewer.cli.problems import Refused
from viewer.mcp.models import (
    MOST_FILE_BYTES,
    MOST_OUTPUT_BYTES,
    Downloaded,
    Executed,
    ExecutedCode,
    Language,
    Uploaded,
)

NOT_HERE = (
    "nothing in this sandbox runs commands or moves files: its host has Deskfleet's stand-in for"
    " OpenSandbox's execd; ask the fleet's operator to roll the host out with OpenSandbox's own execd image"
)
MILLISECONDS = 1000
_PORT = 44772
# execd ends a command at its time; it gets so long to say so.
_GRACE_SECONDS = 5
_SHORT_SECONDS = 30
_INTERRUPT_SECONDS = 1.5
_MOST_EVENT_BYTES = 1024 * 1024
_MOST_PROBLEM_BYTES = 64 * 1024
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _Model(BaseModel):
    """Of what a newer execd says beyond these, nothing is needed."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Error(_Model):
    name: str = Field("", alias="ename")
    value: str = Field("", alias="evalue")
    traceback: tuple[str, ...] | None = None


class _Event(_Model):
    type: str = ""
    text: str = ""
    execution_time: int | None = None
    results: dict[str, object] | None = None
    error: _Error | None = None


class _Refusal(_Model):
    code: str = ""
    message: str = ""


class _Context(_Model):
    id: str


class Execd:
    """The execd of every sandbox that the key may use. Every call raises Refused."""

    def __init__(self, connection: Connection, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = connection.url
        self._http = httpx.AsyncClient(
            base_url=connection.url,
            headers={
                "OPEN-SANDBOX-API-KEY": connection.key.get_secret_value(),
                "User-Agent": f"deskfleet-mcp/{__version__}",
            },
            # How long an answer may take is said with each request.
            timeout=httpx.Timeout(None, connect=10),
            verify=connection.trust() if connection.url.startswith("https:") else True,
            transport=transport,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, sandbox_id: str, command: str, *, seconds: int, background: bool = False) -> Executed:
        body: dict[str, object] = {"command": command, "background": background}
        if not background:
            body["timeout"] = seconds * MILLISECONDS
        seen = _Execution(is_in_lines=True, seconds=seconds)
        async with self._to_its_end(sandbox_id, "/command", seen, background=background):
            await self._follow(sandbox_id, "/command", body, seen)
        return seen.of_background() if background else seen.executed()

    async def run_code(self, sandbox_id: str, language: Language, code: str, *, seconds: int) -> ExecutedCode:
        """In a kernel of its own, which is gone afterwards. bash needs none: it is what runs commands."""
        if language == "bash":
            ran = await self.run(sandbox_id, code, seconds=seconds)
            return ExecutedCode(**ran.model_dump(), result=None)
        seen = _Execution(is_in_lines=False, seconds=seconds)
        context = await self._new_context(sandbox_id, language)
        try:
            async with self._to_its_end(sandbox_id, "/code", seen, background=False):
                seen.id = context.id
                body = {"context": {"id": context.id, "language": language}, "code": code}
                await self._follow(sandbox_id, "/code", body, seen)
        finally:
            await self._whatever_it_says(
                "DELETE", _way(sandbox_id, f"/code/contexts/{quote(context.id, safe='')}")
            )
        return seen.executed_code()

    async def upload(self, sandbox_id: str, path: str, data: bytes) -> Uploaded:
        about = json.dumps({"path": path, "mode": 644}).encode()
        files = {
            "metadata": ("metadata", about, "application/json"),
            "file": ("file", data, "application/octet-stream"),
        }
        request = self._http.build_request("POST", _way(sandbox_id, "/files/upload"), files=files)
        async with self._answer(request, _SHORT_SECONDS):
            return Uploaded(path=path, size_bytes=len(data))

    async def download(self, sandbox_id: str, path: str) -> Downloaded:
        request = self._http.build_request("GET", _way(sandbox_id, "/files/download"), params={"path": path})
        async with self._answer(request, _SHORT_SECONDS) as answer:
            data = await _at_most(answer, MOST_FILE_BYTES)
        if data is None:
            raise Refused(
                f"{path} is larger than {MOST_FILE_BYTES} bytes; cut a part of it out with execute_shell"
            )
        return Downloaded.of(data)

    # --- how it is asked ---------------------------------------------------------------------------------

    async def _new_context(self, sandbox_id: str, language: Language) -> _Context:
        request = self._http.build_request(
            "POST", _way(sandbox_id, "/code/context"), json={"language": language}
        )
        try:
            async with self._answer(request, _SHORT_SECONDS) as answer:
                return _Context.model_validate_json(await answer.aread())
        except _Failed as error:
            raise Refused(
                f"this sandbox's image runs no {language} ({error}); take an image with OpenSandbox's code"
                " interpreter, or call the program with execute_shell"
            ) from error
        except ValidationError as error:
            raise _unknown_execd() from error

    async def _follow(self, sandbox_id: str, way: str, body: Mapping[str, object], seen: _Execution) -> None:
        request = self._http.build_request("POST", _way(sandbox_id, way), json=body)
        async with (
            self._answer(request, seen.seconds + _GRACE_SECONDS) as answer,
            aclosing(_events(answer)) as events,
        ):
            async for event in events:
                seen.add(event)
                # execd keeps the stream of a command open a little longer; what a kernel printed may come
                # after its end.
                if seen.is_over and seen.is_in_lines:
                    return
        if not seen.is_over:
            raise Refused("the connection to the sandbox broke before the end; it may still run there")

    @asynccontextmanager
    async def _to_its_end(
        self, sandbox_id: str, way: str, seen: _Execution, *, background: bool
    ) -> AsyncIterator[None]:
        """What is not waited for to its end, since its time is over or nobody wants it any more, is ended."""
        try:
            yield
        except _TooLate:
            if background:
                raise
            seen.has_run_out = True
        finally:
            if seen.id and not seen.is_over and not background:
                await self._whatever_it_says("DELETE", _way(sandbox_id, way), id=seen.id)

    async def _whatever_it_says(self, method: str, way: str, **query: str) -> None:
        """Also while this call is being cancelled, but never for long."""
        with anyio.move_on_after(_INTERRUPT_SECONDS, shield=True):
            try:
                await self._http.request(method, way, params=query)
            except httpx.TransportError:
                return

    @asynccontextmanager
    async def _answer(self, request: httpx.Request, seconds: float) -> AsyncIterator[httpx.Response]:
        """A good answer, whose body is still to be read, within so many seconds."""
        try:
            with anyio.fail_after(seconds):
                answer = await self._http.send(request, stream=True)
                try:
                    await _check(answer)
                    yield answer
                finally:
                    await answer.aclose()
        except TimeoutError as error:
            raise _TooLate(f"the sandbox has not answered for {math.ceil(seconds)} s; try again") from error
        except httpx.TransportError as error:
            raise NoAnswer(f"{self._url} does not answer: {str(error) or type(error).__name__}") from error


class _TooLate(Refused):
    """No answer, or no end of it, in time."""


class _Failed(Refused):
    """execd itself says that something went wrong in it."""


class _Execution:
    """What was seen of one command or program.

    is_in_lines: execd gives a command's output line by line, without their ends; a kernel's as it came.
    """

    def __init__(self, *, is_in_lines: bool, seconds: int) -> None:
        self.is_in_lines = is_in_lines
        self.seconds = seconds
        self.id = ""
        self.is_over = self.has_run_out = False
        self._began = time.monotonic()
        self._stdout, self._stderr = _Output(is_in_lines), _Output(is_in_lines)
        self._result: str | None = None
        self._exit_code: int | None = None
        self._took_ms: int | None = None

    def add(self, event: _Event) -> None:
        if event.type == "init":
            self.id = self.id or event.text
        elif event.type == "stdout":
            self._stdout.add(event.text)
        elif event.type == "stderr":
            self._stderr.add(event.text)
        elif event.type == _LEFT_OUT:
            self._stdout.is_cut = True
        elif event.type == "result" and event.results:
            text = event.results.get("text") or event.results.get("text/plain")
            self._result = None if text is None else str(text)[:MOST_OUTPUT_BYTES]
        elif event.type == "error":
            self._end_with(event.error or _Error())
        elif event.type == "execution_complete":
            self.is_over, self._exit_code, self._took_ms = True, 0, event.execution_time

    def executed(self) -> Executed:
        return Executed(
            stdout=self._stdout.text,
            stderr=self._stderr.text,
            exit_code=None if self.has_run_out else self._exit_code,
            execution_time_ms=self._took_ms if self._took_ms is not None else self._since_began_ms(),
            note=" ".join(self._notes()) or None,
        )

    def executed_code(self) -> ExecutedCode:
        return ExecutedCode(**self.executed().model_dump(), result=self._result)

    def of_background(self) -> Executed:
        note = "It runs on in the background; what it prints is not shown, so send that to a file."
        return self.executed().model_copy(update={"exit_code": None, "note": note})

    def _end_with(self, error: _Error) -> None:
        self.is_over = True
        if not self.is_in_lines:
            self._exit_code = 1
            self._stderr.add(
                _COLOURS.sub("", "\n".join(error.traceback or (f"{error.name}: {error.value}",)))
            )
            return
        try:
            self._exit_code = int(error.value)
        except ValueError:
            # It could not even be started.
            self._exit_code = 127
            self._stderr.add(error.value)
        if self._exit_code < 0 and self._since_began_ms() >= self.seconds * 1000:
            self.has_run_out = True

    def _since_began_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)

    def _notes(self) -> list[str]:
        notes = []
        if self.has_run_out:
            notes.append(f"It ran longer than {self.seconds} s and was ended.")
        if self._stdout.is_cut or self._stderr.is_cut:
            notes.append(f"Only the first {MOST_OUTPUT_BYTES} bytes of each output are shown.")
        return notes


class _Output:
    """The beginning of what was printed."""

    def __init__(self, is_in_lines: bool) -> None:
        self._is_in_lines = is_in_lines
        self._parts: list[str] = []
        self._size = 0
        self.is_cut = False

    def add(self, text: str) -> None:
        if self.is_cut:
            return
        if self._is_in_lines:
            # An empty line comes as one line's end.
            text = f"{'' if text == _EMPTY_LINE else text}\n"
        data = text.encode(errors="replace")
        left = MOST_OUTPUT_BYTES - self._size
        self.is_cut = len(data) > left
        self._size += min(len(data), left)
        self._parts.append(data[:left].decode(errors="ignore") if self.is_cut else text)

    @property
    def text(self) -> str:
        return "".join(self._parts)


_EMPTY_LINE = "\n"


async def _events(answer: httpx.Response) -> AsyncGenerator[_Event, None]:
    rest, is_too_long = b"", False
    async for chunk in answer.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if is_too_long:
                yield _Event(type=_LEFT_OUT)
            elif (data := line.removeprefix(b"data:").strip()).startswith(b"{"):
                yield _read_event(data)
            is_too_long = False
        # A sandbox is not trusted to end its lines: of one that is too long nothing is kept.
        if is_too_long or len(rest) > _MOST_EVENT_BYTES:
            rest, is_too_long = b"", True


_LEFT_OUT = "left out"


def _read_event(data: bytes) -> _Event:
    try:
        return _Event.model_validate_json(data)
    except ValidationError as error:
        raise _unknown_execd() from error


def _unknown_execd() -> Refused:
    return Refused("execd answers in another way than OpenSandbox's; its host has another version of it")


async def _at_most(answer: httpx.Response, size: int) -> bytes | None:
    """The body; None for one that is larger."""
    data = bytearray()
    async for chunk in answer.aiter_bytes():
        data += chunk
        if len(data) > size:
            return None
    return bytes(data)


async def _check(answer: httpx.Response) -> None:
    """Raise Refused with what Deskfleet or execd says, unless it is good."""
    if answer.status_code == 200:
        return
    refusal = _refusal(await _at_most(answer, _MOST_PROBLEM_BYTES) or b"")
    says = refusal.message or f"the sandbox's execd answers {answer.status_code} and says no more"
    # Only Deskfleet's codes have a part before them.
    if "::" in refusal.code or answer.status_code in (401, 403, 429):
        raise Refused(says)
    if refusal.code == "FILE_NOT_FOUND":
        raise Refused("there is no such file in the sandbox; look with execute_shell")
    if answer.status_code in (404, 405, 501):
        raise Refused(NOT_HERE)
    if answer.status_code in (502, 504):
        raise Refused("execd does not answer in this sandbox; try again, or make another one")
    raise _Failed(says)


def _refusal(body: bytes) -> _Refusal:
    try:
        return _Refusal.model_validate_json(body)
    except ValidationError:
        return _Refusal()


def _way(sandbox_id: str, way: str) -> str:
    return f"/v1/sandboxes/{quote(sandbox_id, safe='')}/proxy/{_PORT}{way}"
