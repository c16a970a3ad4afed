"""`deskfleet-check`: the whole chain as a person and an agent use it, at the end of a deploy or at any time.

It creates a desktop through the edge, on each named host, opens its stream as a browser does (cookie, Origin,
compression), sees a real frame, ends the desktop and sees that it is gone. Then it looks at every persistent
desktop of the keys' tenants: is it running, and does it show itself? Each step is printed with its seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    WSMsgType,
    WSServerHandshakeError,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_ws import ClientWebSocketResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from viewer.model import Display, Frozen, Status
from viewer.placement import NO_ROOM
from viewer.public import HostDesktop, HostList, PublicSession
from viewer.rfb.conversation import Conversation, RfbError
from viewer.rfb.framebuffer import Framebuffer
from viewer.rfb.watching_client import Watched, watch_for_colours

URL_VARIABLE = "DESKFLEET_URL"
COOKIE = "__Host-deskfleet"
ENTRY_COOKIE = "__Host-deskfleet-entry"
CREATE_SECONDS = 150.0
"""Longer than the fleet's own deadline for a create, so that it is the fleet that says why."""
FRAME_SECONDS = 20.0
END_SECONDS = 30.0
PERSISTENT_SECONDS = 60.0
"""How long a persistent desktop may take to be running after a roll-out restarted it."""
ANSWER_SECONDS = 20.0
TICK_SECONDS = 1.0
LIFE_SECONDS = 300
"""Should the check be killed, its desktop ends by itself after this."""

Result = TypeVar("Result")
AnswerT = TypeVar("AnswerT", bound=BaseModel)


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


class _Entry(BaseModel):
    """What we read of a ticket for a desktop's own page."""

    model_config = ConfigDict(extra="ignore")

    url: str
    ticket: str = Field(repr=False)


class _OneAddress(AbstractResolver):
    """Every name is at this address, as with curl's `--resolve`."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        numeric = socket.AI_NUMERICHOST
        return [
            ResolveResult(hostname=host, host=self._address, port=port, family=family, proto=0, flags=numeric)
        ]

    async def close(self) -> None:
        return None


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

    async def signed_in(self) -> _Cookie:
        """As a person is; raises CheckFailed."""
        return await self._progress.step("sign in", "signing in", self._sign_in())

    async def made_desktops(
        self, cookie: _Cookie, image: str | None, hosts: Sequence[str]
    ) -> list[CheckFailed]:
        """Make, see and end a desktop on each of the hosts at the same time; without hosts, one anywhere.

        Returns what failed; no desktop is left behind either way.
        """
        runs = [self._made_desktop(cookie, image, host) for host in hosts or (None,)]
        return [problem for problem in await asyncio.gather(*runs) if problem is not None]

    async def _made_desktop(self, cookie: _Cookie, image: str | None, host: str | None) -> CheckFailed | None:
        step, there = self._progress.step, f" on {host}" if host else ""
        try:
            session = await step(f"create a desktop{there}", f"creating{there}", self._create(image, host))
            try:
                async with self._stream(session, cookie, there) as stream:
                    await step(
                        f"see a real frame{there}", f"waiting for a frame{there}", _first_frame(stream)
                    )
            except CheckFailed:
                with contextlib.suppress(ClientError, TimeoutError, OSError, CheckFailed):
                    await self._terminate(session)
                raise
            await step(f"end the desktop{there}", f"terminating{there}", self._terminate(session))
            await step(f"see that it is gone{there}", f"looking{there}", self._is_gone(session))
        except CheckFailed as failure:
            return failure
        return None

    async def persistent_desktops(self) -> list[CheckFailed]:
        """See that every persistent desktop of the key's tenant is there; returns what failed."""
        try:
            found = [
                (host.name, desktop) for host in (await self._hosts()).items for desktop in host.desktops
            ]
        except (ClientError, TimeoutError, OSError, CheckFailed) as error:
            return [CheckFailed(f"persistent desktops: {_sentence(error)}")]
        runs = [self._persistent(host, desktop.name) for host, desktop in found]
        return [problem for problem in await asyncio.gather(*runs) if problem is not None]

    async def _persistent(self, host: str, name: str) -> CheckFailed | None:
        try:
            await self._progress.step(
                f"persistent desktop {name}", f"waiting for {name} on {host}", self._seen(host, name)
            )
        except CheckFailed as failure:
            return failure
        return None

    async def _seen(self, host: str, name: str) -> str:
        """Wait until it runs, and see it through the edge. Returns what it runs; raises CheckFailed."""
        session = await self._running(host, name)
        said = [f"{session.backend or 'unknown'} on {host}"]
        if session.status_reason is not None:
            # It runs, and says what is amiss with it: nothing is to be seen then.
            return "; ".join([*said, session.status_reason])
        if session.display is Display.KASMVNC:
            await self._page_of(session)
        else:
            stream = await self._connect(session, self._bearer)
            try:
                said.append(await _first_frame(stream))
            finally:
                await stream.close()
        return ", ".join(said)

    async def _running(self, host: str, name: str) -> PublicSession:
        deadline = time.monotonic() + PERSISTENT_SECONDS
        while True:
            found = await self._persistent_now(host, name)
            if found.session_id is not None and found.status is Status.RUNNING:
                return await self._get(found.session_id)
            if time.monotonic() > deadline:
                why = found.status_reason or "nobody has said why"
                raise CheckFailed(f"it is {found.status or 'not known to the worker yet'}: {why}")
            await asyncio.sleep(1)

    async def _persistent_now(self, host: str, name: str) -> HostDesktop:
        for one in (await self._hosts()).items:
            for desktop in one.desktops:
                if (one.name, desktop.name) == (host, name):
                    return desktop
        raise CheckFailed("the viewer no longer knows it")

    async def _hosts(self) -> HostList:
        async with self._http.get(f"{self._url}/api/v1/hosts", headers=self._bearer) as answer:
            if answer.status != 200:
                raise CheckFailed(await _said(answer))
            return _read(HostList, await answer.read())

    async def _page_of(self, session: PublicSession) -> None:
        """Enter the desktop's own origin as a browser does, and be answered with its page."""
        entries = f"{self._url}/api/v1/sessions/{session.id}/entries"
        async with self._http.post(entries, headers=self._bearer) as answer:
            if answer.status != 201:
                raise CheckFailed(await _said(answer))
            entry = _read(_Entry, await answer.read())
        async with self._http.post(entry.url, data={"ticket": entry.ticket}, allow_redirects=False) as answer:
            if answer.status != 303:
                raise CheckFailed(await _said(answer))
            cookie = _cookie_in(answer, ENTRY_COOKIE)
        place = urlsplit(entry.url)
        async with self._http.get(
            f"{place.scheme}://{place.netloc}/", headers={"Cookie": cookie.header, "Accept": "text/html"}
        ) as answer:
            if answer.status != 200 or answer.content_type != "text/html":
                raise CheckFailed(await _said(answer))

    async def _sign_in(self) -> _Cookie:
        async with self._http.post(
            f"{self._url}/signin", json={"key": self._key}, headers={"Origin": self._url}
        ) as answer:
            if answer.status != 204:
                raise CheckFailed(await _said(answer))
            return _cookie_in(answer, COOKIE)

    async def _create(self, image: str | None, host: str | None) -> PublicSession:
        body: dict[str, str | int | bool] = {
            "wait": True,
            "queue": False,
            "ttl_seconds": LIFE_SECONDS,
            "agent_id": "deskfleet-check",
        }
        if image is not None:
            body["image"] = image
        if host is not None:
            body["host"] = host
        async with self._http.post(
            f"{self._url}/api/v1/sessions",
            json=body,
            headers=self._bearer,
            timeout=ClientTimeout(total=CREATE_SECONDS),
        ) as answer:
            if answer.status not in (201, 202):
                said = await _said(answer)
                raise FleetIsFull(said) if NO_ROOM in said else CheckFailed(said)
            session = _read(PublicSession, await answer.read())
        if session.status is not Status.RUNNING:
            raise CheckFailed(f"it is {session.status} ({session.status_reason or 'no reason given'})")
        return session

    @contextlib.asynccontextmanager
    async def _stream(
        self, session: PublicSession, cookie: _Cookie, there: str
    ) -> AsyncIterator[ClientWebSocketResponse]:
        stream = await self._progress.step(
            f"open the stream{there}",
            f"connecting{there}",
            self._connect(session, {"Cookie": cookie.header}),
        )
        try:
            yield stream
        finally:
            await stream.close()

    async def _connect(self, session: PublicSession, credential: dict[str, str]) -> ClientWebSocketResponse:
        """As a browser: Origin, subprotocol `binary`, and compression offered; `credential` is a header."""
        try:
            stream = await self._http.ws_connect(
                f"{self._url.replace('http', 'ws', 1)}/stream/{session.id}",
                headers=credential,
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
        now = await self._get(session.id)
        if now.status is not Status.TERMINATED:
            raise CheckFailed(f"it should be terminated, but is {now.status}")

    async def _get(self, session_id: str) -> PublicSession:
        async with self._http.get(
            f"{self._url}/api/v1/sessions/{session_id}", headers=self._bearer
        ) as answer:
            if answer.status != 200:
                raise CheckFailed(await _said(answer))
            return _read(PublicSession, await answer.read())


class _Cookie(Frozen):
    header: str = Field(repr=False)


async def _first_frame(stream: ClientWebSocketResponse) -> str:
    """Complete the RFB handshake and return the size of the first full screen with two colours or more."""
    screen = Framebuffer(None)
    server = Watched(screen)
    try:
        async with asyncio.timeout(FRAME_SECONDS):
            await _watch(stream, server)
    except TimeoutError as error:
        if server.colours.seen:
            raise CheckFailed(f"the screen stayed one colour for {FRAME_SECONDS:.0f} s") from error
        raise CheckFailed(f"no frame came within {FRAME_SECONDS:.0f} s") from error
    return f"{screen.width}x{screen.height}"


async def _watch(stream: ClientWebSocketResponse, server: Watched) -> None:
    """Until it shows two colours."""
    conversation = Conversation(watch_for_colours(None, server))
    if opening := conversation.opening():
        await stream.send_bytes(opening)
    while not server.colours.are_enough:
        data = b""
        if not conversation.behind:
            message = await stream.receive()
            if message.type is not WSMsgType.BINARY:
                raise CheckFailed(
                    f"the stream was closed with code {stream.close_code}: {message.extra or 'no reason'}"
                )
            data = message.data
        if reply := conversation.feed(data):
            await stream.send_bytes(reply)


def _cookie_in(answer: ClientResponse, name: str) -> _Cookie:
    # By hand: a cookie jar would not send a Secure cookie to plain http, as browsers do on localhost; and
    # Python's own parser (3.11) drops a cookie that says Partitioned.
    for line in answer.headers.getall("Set-Cookie", []):
        pair = line.partition(";")[0].strip()
        if pair.startswith(f"{name}="):
            return _Cookie(header=pair)
    raise CheckFailed(f"the answer sets no cookie {name}")


def _read(model: type[AnswerT], text: bytes) -> AnswerT:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise CheckFailed("the answer is not one of this version; is the viewer up to date?") from error


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


class Edge(Frozen):
    """Where the edge is and whom to believe.

    address: where every name of the edge is looked for; None: DNS says it. authority: PEM file with
    certificates that count beside the machine's own authorities.
    """

    url: str
    address: str | None = None
    authority: str | None = None

    def session(self) -> ClientSession:
        """Raises OSError (ssl.SSLError is one) for an authority that cannot be read."""
        context = ssl.create_default_context()
        if self.authority is not None:
            context.load_verify_locations(cafile=self.authority)
            # The file may hold the edge's own certificate without the authority that signed it.
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        resolver = _OneAddress(self.address) if self.address is not None else None
        return ClientSession(
            connector=TCPConnector(ssl=context, resolver=resolver),
            timeout=ClientTimeout(total=ANSWER_SECONDS),
            cookie_jar=DummyCookieJar(),
            trust_env=False,
        )


async def check(
    edge: Edge,
    keys: Sequence[str],
    *,
    image: str | None = None,
    hosts: Sequence[str] = (),
    makes_desktops: bool = True,
    quiet: bool = False,
) -> Outcome:
    """Run all steps against the edge; the outcome says what worked and what did not.

    The first key makes the desktops; each looks at the persistent ones of its tenant.
    """
    progress, url = Progress(quiet=quiet), edge.url.rstrip("/")
    try:
        session = edge.session()
    except OSError as error:
        return Outcome(
            ok=False, steps=(), error=f"{edge.authority}: cannot be used: {error.strerror or error}"
        )
    problems: list[CheckFailed] = []
    async with session as http:
        checks = [Check(http, url, key, progress) for key in keys]
        try:
            cookie = await checks[0].signed_in()
        except CheckFailed as failure:
            return _outcome(progress, [failure])
        if makes_desktops:
            problems += await checks[0].made_desktops(cookie, image, hosts)
        for one in checks:
            problems += await one.persistent_desktops()
    return _outcome(progress, problems)


def _outcome(progress: Progress, problems: Iterable[CheckFailed]) -> Outcome:
    # A full fleet is in good use; a deploy must not fail for it.
    full = [str(problem) for problem in problems if isinstance(problem, FleetIsFull)]
    failed = [str(problem) for problem in problems if not isinstance(problem, FleetIsFull)]
    for said in full:
        progress.say(f"skipped the rest: {said}")
    return Outcome(
        ok=not failed,
        steps=tuple(progress.steps),
        error="; ".join(failed) or None,
        skipped="; ".join(full) or None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all works, 1 with one sentence naming the step that failed, 2 for a wrong call."""
    options, problem = _parser().parse_args(arguments), None
    lines = [sys.stdin.readline()] if sys.stdin.isatty() else sys.stdin.readlines()
    keys = [line.strip() for line in lines if line.strip()]
    if not options.url:
        problem = f"give --url or set {URL_VARIABLE}"
    elif not keys:
        problem = "no key on standard input"
    if problem:
        _parser().error(problem)
    outcome = asyncio.run(
        check(
            Edge(url=options.url, address=options.resolve, authority=options.authority),
            keys,
            image=options.image,
            hosts=options.host,
            makes_desktops=not options.persistent_only,
            quiet=options.json,
        )
    )
    if options.json:
        print(outcome.model_dump_json(indent=2))
    if outcome.error:
        print(f"deskfleet-check: {outcome.error}", file=sys.stderr)
    return 0 if outcome.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deskfleet-check", description=__doc__)
    parser.add_argument("--url", default=os.environ.get(URL_VARIABLE), help=f"default: ${URL_VARIABLE}")
    parser.add_argument("--image", help="default: the fleet's own")
    parser.add_argument("--host", action="append", default=[], help="make a desktop there; may be repeated")
    parser.add_argument("--persistent-only", action="store_true", help="make no desktop")
    parser.add_argument("--resolve", metavar="ADDRESS", help="where the edge is, whatever DNS says")
    parser.add_argument("--authority", metavar="FILE", help="PEM certificates to believe as well")
    parser.add_argument("--json", action="store_true", help="print the steps as one JSON document")
    parser.add_argument(
        "--key-stdin",
        action="store_true",
        help="the default: keys are always read from standard input, one a line; all but the first only look"
        " at the persistent desktops of their tenants",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
