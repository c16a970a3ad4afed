"""`deskfleet-check`: the whole chain as a person and an agent use it, at the end of a deploy or at any time.

It creates a desktop through the edge, opens its stream as a browser does (cookie, Origin, compression),
sees a real frame, ends the desktop and sees that it is gone. Each step is printed with its seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import TypeVar

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    WSMsgType,
    WSServerHandshakeError,
)
from aiohttp.client_ws import ClientWebSocketResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from viewer.model import Frozen, Status
from viewer.placement import NO_ROOM
from viewer.public import PublicSession
from viewer.rfb.conversation import Conversation, RfbError
from viewer.rfb.probe import Screen, probe_first_frame

URL_VARIABLE = "DESKFLEET_URL"
COOKIE = "__Host-deskfleet"
CREATE_SECONDS = 150.0
"""Longer than the fleet's own deadline for a create, so that it is the fleet that says why."""
FRAME_SECONDS = 20.0
END_SECONDS = 30.0
ANSWER_SECONDS = 20.0
TICK_SECONDS = 1.0
LIFE_SECONDS = 300
"""Should the check be killed, its desktop ends by itself after this."""

Result = TypeVar("Result")


class CheckFailed(Exception):
    """One sentence: what was wrong at the step that was being tried."""


class FleetIsFull(CheckFailed):
    """Nothing is wrong, but there is no room for the check's own desktop."""


class Step(Frozen):
    """One line of the outcome."""

    name: str
    seconds: float
    ok: bool
    detail: str = ""


class Outcome(Frozen):
    """What `--json` prints."""

    ok: bool
    steps: tuple[Step, ...]
    error: str | None = Field(default=None, description="names the step that failed")
    skipped: str | None = Field(default=None, description="why the rest was not tried")


class _Problem(BaseModel):
    """What we read of an RFC 9457 problem document."""

    model_config = ConfigDict(extra="ignore")

    title: str
    detail: str = ""


class Progress:
    """Says what is being done, while it is being done."""

    def __init__(self, *, quiet: bool) -> None:
        self.steps: list[Step] = []
        self._quiet = quiet

    async def step(self, name: str, doing: str, work: Awaitable[Result]) -> Result:
        """Await `work` as one step; a line each second shows that it moves. Raises CheckFailed."""
        started = time.monotonic()
        ticking = asyncio.create_task(self._tick(doing, started))
        try:
            result = await work
        except (ClientError, TimeoutError, OSError, RfbError) as error:
            self._done(name, started, ok=False)
            raise CheckFailed(f"{name}: {_sentence(error)}") from error
        except CheckFailed as error:
            self._done(name, started, ok=False)
            raise type(error)(f"{name}: {error}") from error
        finally:
            ticking.cancel()
        self._done(name, started, ok=True, detail=result if isinstance(result, str) else "")
        return result

    async def _tick(self, doing: str, started: float) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.say(f"  {doing} ({time.monotonic() - started:.1f} s) …")

    def _done(self, name: str, started: float, *, ok: bool, detail: str = "") -> None:
        step = Step(name=name, seconds=round(time.monotonic() - started, 3), ok=ok, detail=detail)
        self.steps.append(step)
        mark = "ok    " if ok else "FAILED"
        self.say(f"{mark} {name}: {step.seconds:.2f} s{f' ({detail})' if detail else ''}")

    def say(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)


class Check:
    """One run against the edge at `url`, with an operator's key."""

    def __init__(self, http: ClientSession, url: str, key: str, progress: Progress) -> None:
        self._http = http
        self._url = url
        self._bearer = {"Authorization": f"Bearer {key}"}
        self._key = key
        self._progress = progress

    async def run(self, image: str | None) -> None:
        """Raise CheckFailed at the first step that does not work; no desktop is left behind either way."""
        step = self._progress.step
        cookie = await step("sign in", "signing in", self._sign_in())
        session = await step("create a desktop", "creating", self._create(image))
        try:
            async with self._stream(session, cookie) as stream:
                await step("see a real frame", "waiting for a frame", _first_frame(stream))
        except CheckFailed:
            with contextlib.suppress(ClientError, TimeoutError, OSError, CheckFailed):
                await self._terminate(session)
            raise
        await step("end the desktop", "terminating", self._terminate(session))
        await step("see that it is gone", "looking", self._is_gone(session))

    async def _sign_in(self) -> _Cookie:
        async with self._http.post(
            f"{self._url}/signin", json={"key": self._key}, headers={"Origin": self._url}
        ) as answer:
            if answer.status != 204:
                raise CheckFailed(await _said(answer))
            # By hand: a cookie jar would not send a Secure cookie to plain http, as browsers do on localhost.
            jar = SimpleCookie()
            with contextlib.suppress(CookieError):
                jar.load(answer.headers.get("Set-Cookie", ""))
        if COOKIE not in jar:
            raise CheckFailed(f"the answer sets no cookie {COOKIE}")
        return _Cookie(header=f"{COOKIE}={jar[COOKIE].value}")

    async def _create(self, image: str | None) -> PublicSession:
        body: dict[str, str | int | bool] = {
            "wait": True,
            "ttl_seconds": LIFE_SECONDS,
            "agent_id": "deskfleet-check",
        }
        if image is not None:
            body["image"] = image
        async with self._http.post(
            f"{self._url}/api/v1/sessions",
            json=body,
            headers=self._bearer,
            timeout=ClientTimeout(total=CREATE_SECONDS),
        ) as answer:
            if answer.status not in (201, 202):
                said = await _said(answer)
                raise FleetIsFull(said) if NO_ROOM in said else CheckFailed(said)
            session = await _session(answer)
        if session.status is not Status.RUNNING:
            raise CheckFailed(f"it is {session.status} ({session.status_reason or 'no reason given'})")
        return session

    @contextlib.asynccontextmanager
    async def _stream(
        self, session: PublicSession, cookie: _Cookie
    ) -> AsyncIterator[ClientWebSocketResponse]:
        stream = await self._progress.step("open the stream", "connecting", self._connect(session, cookie))
        try:
            yield stream
        finally:
            await stream.close()

    async def _connect(self, session: PublicSession, cookie: _Cookie) -> ClientWebSocketResponse:
        """As a browser: cookie and Origin, subprotocol `binary`, and compression offered."""
        try:
            stream = await self._http.ws_connect(
                f"{self._url.replace('http', 'ws', 1)}/stream/{session.id}",
                headers={"Cookie": cookie.header},
                origin=self._url,
                protocols=["binary"],
                compress=15,
                max_msg_size=0,
            )
        except WSServerHandshakeError as error:
            raise CheckFailed(f"the upgrade was answered with HTTP {error.status}") from error
        if stream.protocol != "binary":
            await stream.close()
            raise CheckFailed("the subprotocol `binary` was not accepted")
        return stream

    async def _terminate(self, session: PublicSession) -> None:
        deadline = time.monotonic() + END_SECONDS
        while True:
            async with self._http.delete(
                f"{self._url}/api/v1/sessions/{session.id}", headers=self._bearer
            ) as answer:
                if answer.status == 204:
                    return
                if answer.status != 202:
                    raise CheckFailed(await _said(answer))
            if time.monotonic() > deadline:
                raise CheckFailed(f"the host did not stop it within {END_SECONDS:.0f} s")
            await asyncio.sleep(0.2)

    async def _is_gone(self, session: PublicSession) -> None:
        async with self._http.get(
            f"{self._url}/api/v1/sessions/{session.id}", headers=self._bearer
        ) as answer:
            if answer.status != 200:
                raise CheckFailed(await _said(answer))
            now = await _session(answer)
        if now.status is not Status.TERMINATED:
            raise CheckFailed(f"it should be terminated, but is {now.status}")


class _Cookie(Frozen):
    header: str = Field(repr=False)


async def _first_frame(stream: ClientWebSocketResponse) -> str:
    """Complete the RFB handshake and return the size of the first full screen with two colours or more."""
    screen = Screen()
    conversation = Conversation(probe_first_frame(None, screen))
    try:
        async with asyncio.timeout(FRAME_SECONDS):
            await _converse(stream, conversation)
    except TimeoutError as error:
        if screen.colours:
            raise CheckFailed(f"the screen stayed one colour for {FRAME_SECONDS:.0f} s") from error
        raise CheckFailed(f"no frame came within {FRAME_SECONDS:.0f} s") from error
    return f"{screen.width}x{screen.height}"


async def _converse(stream: ClientWebSocketResponse, conversation: Conversation[None]) -> None:
    if opening := conversation.opening():
        await stream.send_bytes(opening)
    while not conversation.done:
        message = await stream.receive()
        if message.type is not WSMsgType.BINARY:
            raise CheckFailed(
                f"the stream was closed with code {stream.close_code}: {message.extra or 'no reason'}"
            )
        if reply := conversation.feed(message.data):
            await stream.send_bytes(reply)


async def _session(answer: ClientResponse) -> PublicSession:
    try:
        return PublicSession.model_validate_json(await answer.read())
    except ValidationError as error:
        raise CheckFailed("the answer is not a session of this version; is the viewer up to date?") from error


async def _said(answer: ClientResponse) -> str:
    """The problem document's own words, else the bare status."""
    try:
        problem = _Problem.model_validate_json(await answer.read())
    except ValidationError:
        return f"{answer.method} {answer.url.path} was answered with HTTP {answer.status}"
    return f"{problem.title} ({answer.status}): {problem.detail}".rstrip(": ")


def _sentence(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    return " ".join(str(error).split()) or type(error).__name__


async def check(url: str, key: str, *, image: str | None = None, quiet: bool = False) -> Outcome:
    """Run all steps against the edge at `url`; the outcome says what worked and what did not."""
    progress = Progress(quiet=quiet)
    # Python resolves no *.localhost: `url` is an address that it can resolve, and is its own Origin.
    async with ClientSession(
        timeout=ClientTimeout(total=ANSWER_SECONDS), cookie_jar=DummyCookieJar(), trust_env=False
    ) as http:
        try:
            await Check(http, url.rstrip("/"), key, progress).run(image)
        except FleetIsFull as full:
            # A full fleet is in good use; a deploy must not fail for it.
            progress.say(f"skipped the rest: {full}")
            return Outcome(ok=True, steps=tuple(progress.steps), skipped=str(full))
        except CheckFailed as failure:
            return Outcome(ok=False, steps=tuple(progress.steps), error=str(failure))
    return Outcome(ok=True, steps=tuple(progress.steps))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all works, 1 with one sentence naming the step that failed, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="deskfleet-check", description=__doc__)
    parser.add_argument("--url", default=os.environ.get(URL_VARIABLE), help=f"default: ${URL_VARIABLE}")
    parser.add_argument("--image", help="default: the fleet's own")
    parser.add_argument("--json", action="store_true", help="print the steps as one JSON document")
    parser.add_argument(
        "--key-stdin", action="store_true", help="the default: the key is always read from standard input"
    )
    options = parser.parse_args(arguments)
    if not options.url:
        parser.error(f"give --url or set {URL_VARIABLE}")
    key = sys.stdin.readline().strip()
    if not key:
        parser.error("no key on standard input")
    outcome = asyncio.run(check(options.url, key, image=options.image, quiet=options.json))
    if options.json:
        print(outcome.model_dump_json(indent=2))
    if outcome.error:
        print(f"deskfleet-check: {outcome.error}", file=sys.stderr)
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
