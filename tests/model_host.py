"""A model of a sandbox host: its OpenSandbox server and its relay, as requests and answers, in memory.

It does what the real server (1.1.1, on Docker) was measured to do: a create is synchronous and not
idempotent, a sandbox that is gone is gone from the list at once and leaves no trace, its own time limit
ends it, and port 8080 alone is published. The real clients talk to it, so their reading of answers and of
errors is part of what is tested. Beside that it does what real servers do on bad days: it is silent,
answers are lost before or after the work is done, lists are old or leave something out, containers die.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import parse_qsl

import httpx

from viewer.grants import GRANT_HEADER, GrantRefused, PublishedPort, open_grant
from viewer.relay.answers import ProbeOutcome, ProbeResult, StreamInfo, StreamList
from viewer.sandbox_hosts import REQUEST_KEY, SESSION_KEY, SandboxState

LATEST = timedelta(seconds=4)
"""A create whose answer was lost is carried out by then, if at all."""
ENDED = (SandboxState.FAILED, SandboxState.TERMINATED)


class Fate(StrEnum):
    """What becomes of one request that changes something."""

    LOST_AFTER = "it is done, and the answer is lost"
    LOST_BEFORE = "it is not done, and no answer comes"
    LATE = "no answer comes, and it is done some seconds later"
    BROKEN = "it is done, and the server answers 500 without a reason"
    REFUSED = "the host cannot do it"
    INVALID = "the server does not accept it"
    DOCKER_DOWN = "the server does not reach Docker"
    PORT_TAKEN = "the port that the server drew for it is taken"


OF_CREATES = (Fate.LATE, Fate.REFUSED, Fate.INVALID, Fate.PORT_TAKEN)
"""These wait for the next create."""


@dataclass
class Container:
    """One sandbox. is_planted: somebody else than our worker made it."""

    id: str
    metadata: dict[str, str]
    created_at: datetime
    expires_at: datetime
    port: int
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    state: SandboxState = SandboxState.RUNNING
    is_planted: bool = False
    left_out: int = 0
    """How many lists in a row have left it out."""

    def described(self) -> dict[str, object]:
        return {
            "id": self.id,
            "status": {"state": self.state.value, "message": f"It is {self.state}."},
            "metadata": self.metadata,
            "createdAt": self.created_at.isoformat(),
            "expiresAt": self.expires_at.isoformat(),
        }


@dataclass
class Late:
    """A create that is carried out at its time, whoever waits for it or not."""

    due: datetime
    body: dict[str, object]


class ModelHost:
    """One host. numbers: for ids and ports, which never come again on any host. on_trouble: is told the
    session of each sandbox whose end is the host's doing, and why; on_refusal: of each create it refuses.
    """

    def __init__(
        self,
        name: str,
        numbers: Iterator[int],
        *,
        relay_key: bytes,
        utcnow: Callable[[], datetime],
        on_trouble: Callable[[str, str], None],
        on_refusal: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self._numbers = numbers
        self._relay_key = relay_key
        self._utcnow = utcnow
        self._on_trouble = on_trouble
        self._on_refusal = on_refusal
        self.containers: dict[str, Container] = {}
        self.streams: list[StreamInfo] = []
        self.is_silent = False
        self.is_relay_silent = False
        self.fate: Fate | None = None
        self.hidden: dict[str, int] = {}
        """Sandbox id -> how many more lists leave it out."""
        self.shows_old_list = False
        self.has_hidden_from_look_ups = False
        self.look_ups = 0
        """Lists of one request's sandboxes that it has given."""
        self.renewals = 0
        self.deleted: list[Container] = []
        self.wrongs: list[str] = []
        """What no control plane may ever ask for."""
        self._late: list[Late] = []
        self._last_list: list[dict[str, object]] = []

    # --- what happens on it --------------------------------------------------------------------------

    def time_has_passed(self) -> None:
        for late in [one for one in self._late if one.due <= self._utcnow()]:
            self._late.remove(late)
            self._make(late.body)
        for one in list(self.containers.values()):
            if one.expires_at <= self._utcnow():
                self._trouble(one, "its time on the host was over")
                del self.containers[one.id]

    def plant(self, metadata: dict[str, str]) -> Container:
        now = self._utcnow()
        number = next(self._numbers)
        one = Container(
            id=f"sb-{number}",
            metadata=metadata,
            created_at=now,
            expires_at=now + timedelta(days=9),
            port=10_000 + number,
            is_planted=True,
        )
        self.containers[one.id] = one
        return one

    def dies(self, sandbox_id: str, state: SandboxState) -> None:
        self._trouble(self.containers[sandbox_id], f"it is {state}")
        self.containers[sandbox_id].state = state

    def vanishes(self, sandbox_id: str) -> None:
        self._trouble(self.containers.pop(sandbox_id), "somebody removed it")

    def heal(self) -> None:
        self.is_silent = self.is_relay_silent = self.shows_old_list = False
        self.fate = None
        self.hidden.clear()

    def of_session(self, session_id: str) -> list[Container]:
        return [one for one in self.containers.values() if one.metadata.get(SESSION_KEY) == session_id]

    # --- what it answers -----------------------------------------------------------------------------

    def answer(self, request: httpx.Request) -> httpx.Response:
        """The OpenSandbox server's answer; raises httpx's errors where none comes."""
        if self.is_silent:
            raise httpx.ConnectError("nobody is there", request=request)
        match request.method, request.url.path.strip("/").split("/")[1:]:
            case "GET", ["sandboxes"]:
                return self._list(dict(request.url.params))
            case "POST", ["sandboxes"]:
                body = json.loads(request.content)
                return self._with_fate(request, lambda: self._created(body), body)
            case "GET", ["sandboxes", sandbox_id]:
                one = self.containers.get(sandbox_id)
                return _not_found() if one is None else httpx.Response(200, json=one.described())
            case "DELETE", ["sandboxes", sandbox_id]:
                return self._with_fate(request, lambda: self._delete(sandbox_id))
            case "GET", ["sandboxes", sandbox_id, "endpoints", "8080"]:
                one = self.containers.get(sandbox_id)
                if one is None or one.state in ENDED:
                    return _not_found()
                return httpx.Response(200, json={"endpoint": f"127.0.0.1:{one.port}"})
            case "GET", ["sandboxes", _, "diagnostics", "logs"]:
                return httpx.Response(200, json={"content": "it said this\n"})
            case "POST", ["sandboxes", sandbox_id, "pause"]:
                return self._with_fate(
                    request, lambda: self._become(sandbox_id, SandboxState.RUNNING, SandboxState.PAUSED)
                )
            case "POST", ["sandboxes", sandbox_id, "resume"]:
                return self._with_fate(
                    request, lambda: self._become(sandbox_id, SandboxState.PAUSED, SandboxState.RUNNING)
                )
            case "POST", ["sandboxes", sandbox_id, "renew-expiration"]:
                until = datetime.fromisoformat(json.loads(request.content)["expiresAt"])
                return self._with_fate(request, lambda: self._renew(sandbox_id, until))
        raise AssertionError(f"the model knows no {request.method} {request.url.path}")

    def relay_answer(self, request: httpx.Request) -> httpx.Response:
        """The relay's answer."""
        if self.is_relay_silent:
            raise httpx.ConnectError("nobody is there", request=request)
        match request.method, request.url.path.strip("/").split("/"):
            case "GET", ["streams"]:
                answer = StreamList(streams=self.streams)
                return httpx.Response(200, content=answer.model_dump_json())
            case "DELETE", ["streams", _, stream_id]:
                self.streams = [one for one in self.streams if one.stream_id != stream_id]
                return httpx.Response(204)
            case "GET", ["probe", session_id]:
                seen = self._probe(session_id, request.headers[GRANT_HEADER])
                return httpx.Response(200, content=seen.model_dump_json())
        raise AssertionError(f"the model knows no {request.method} {request.url.path}")

    def _with_fate(
        self,
        request: httpx.Request,
        do: Callable[[], httpx.Response],
        create: dict[str, object] | None = None,
    ) -> httpx.Response:
        if self.fate in OF_CREATES and create is None:
            return do()
        fate, self.fate = self.fate, None
        if create is not None and fate in (Fate.REFUSED, Fate.INVALID, Fate.DOCKER_DOWN):
            self._on_refusal(_metadata_of(create)[SESSION_KEY], fate.value)
        match fate:
            case Fate.LOST_AFTER:
                do()
                raise httpx.ReadTimeout("no answer", request=request)
            case Fate.LOST_BEFORE:
                raise httpx.ReadTimeout("no answer", request=request)
            case Fate.LATE if create is not None:
                self._late.append(Late(due=self._utcnow() + LATEST, body=create))
                raise httpx.ReadTimeout("no answer", request=request)
            case Fate.BROKEN:
                do()
                return httpx.Response(500, content=b"Internal Server Error")
            case Fate.REFUSED:
                return _problem(500, "DOCKER::SANDBOX_IMAGE_PULL_FAILED", "no such image")
            case Fate.INVALID:
                return _problem(400, "SANDBOX::INVALID_PARAMETER", "it does not like it")
            case Fate.PORT_TAKEN:
                return _problem(500, "DOCKER::SANDBOX_START_FAILED", "port is already allocated")
            case Fate.DOCKER_DOWN:
                return _problem(500, "DOCKER::INTERNAL", "Error while fetching server API version")
        return do()

    def _list(self, asked: dict[str, str]) -> httpx.Response:
        wanted = dict(parse_qsl(asked.get("metadata", "")))
        if not wanted and self.shows_old_list:
            self.shows_old_list = False
            items = self._last_list
        else:
            items = [one.described() for one in self._shown(wanted)]
        self.look_ups += REQUEST_KEY in wanted
        if not wanted:
            self._last_list = items
            self._note_left_out({str(item["id"]) for item in items})
        return httpx.Response(200, json={"items": items, "pagination": {"hasNextPage": False}})

    def _shown(self, wanted: dict[str, str]) -> Iterator[Container]:
        for one in self.containers.values():
            if not wanted.items() <= one.metadata.items():
                continue
            if self.hidden.get(one.id, 0) > 0:
                self.hidden[one.id] -= 1
                self.has_hidden_from_look_ups |= bool(wanted)
                continue
            yield one

    def _note_left_out(self, shown: set[str]) -> None:
        for one in self.containers.values():
            one.left_out = 0 if one.id in shown else one.left_out + 1
            if one.left_out > 1:
                self._trouble(one, "two lists in a row have left it out")

    def _created(self, body: dict[str, object]) -> httpx.Response:
        return httpx.Response(202, json=self._make(body).described())

    def _make(self, body: dict[str, object]) -> Container:
        now, number, seconds = self._utcnow(), next(self._numbers), body["timeout"]
        environment = body["env"]
        assert isinstance(seconds, int)
        assert isinstance(environment, dict)
        one = Container(
            id=f"sb-{number}",
            metadata=_metadata_of(body),
            created_at=now,
            expires_at=now + timedelta(seconds=seconds),
            port=10_000 + number,
            environment=environment,
        )
        self.containers[one.id] = one
        return one

    def _delete(self, sandbox_id: str) -> httpx.Response:
        one = self.containers.pop(sandbox_id, None)
        if one is None:
            return _not_found()
        self.deleted.append(one)
        return httpx.Response(204)

    def _become(self, sandbox_id: str, now: SandboxState, then: SandboxState) -> httpx.Response:
        one = self.containers.get(sandbox_id)
        if one is None:
            return _not_found()
        if one.state is not now:
            return _problem(409, "DOCKER::SANDBOX_NOT_RUNNING", f"it is {one.state}")
        one.state = then
        return httpx.Response(202)

    def _renew(self, sandbox_id: str, until: datetime) -> httpx.Response:
        one = self.containers.get(sandbox_id)
        if one is None:
            return _not_found()
        one.expires_at = until
        self.renewals += 1
        return httpx.Response(200, json={"expiresAt": until.isoformat()})

    def _probe(self, session_id: str, sealed: str) -> ProbeResult:
        try:
            grant = open_grant(sealed, self._relay_key, purpose="probe", now=self._utcnow())
        except GrantRefused as problem:
            return ProbeResult(result=ProbeOutcome.UNREACHABLE, detail=str(problem), elapsed_ms=1)
        port = grant.target.port if isinstance(grant.target, PublishedPort) else 0
        one = next((one for one in self.containers.values() if one.port == port), None)
        if one is None or one.state is not SandboxState.RUNNING:
            return ProbeResult(result=ProbeOutcome.UNREACHABLE, detail="nothing answers", elapsed_ms=1)
        if not one.is_planted:
            if one.metadata.get(SESSION_KEY) != session_id:
                self.wrongs.append(f"session {session_id} is shown the screen of {one.metadata}")
            password = grant.vnc_password.get_secret_value() if grant.vnc_password else None
            if one.environment.get("VNC_PASSWORD") != password:
                self.wrongs.append(f"session {session_id} has another password than its sandbox")
        return ProbeResult(result=ProbeOutcome.FRAME, elapsed_ms=1)

    def _trouble(self, one: Container, why: str) -> None:
        self._on_trouble(one.metadata.get(SESSION_KEY, ""), why)


def _metadata_of(body: dict[str, object]) -> dict[str, str]:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    assert metadata[REQUEST_KEY]
    return metadata


def _not_found() -> httpx.Response:
    return _problem(404, "DOCKER::SANDBOX_NOT_FOUND", "no such sandbox")


def _problem(status: int, code: str, message: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": message})
