"""Client of one sandbox host: its OpenSandbox server's REST API (written against 1.1.1), as types.

The only place that knows OpenSandbox's words, its metadata keys of ours, and its two error shapes.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, field_validator

from viewer import logs, metrics
from viewer.model import POOL_TENANT, Frozen
from viewer.nodes import Node, client_of, is_refused_by_tls, why
from viewer.order import ImageAuth

ModelT = TypeVar("ModelT", bound=BaseModel)

KEY_HEADER = "OPEN-SANDBOX-API-KEY"
SHORTEST_TIMEOUT_SECONDS = 60
"""OpenSandbox refuses a create with less."""
PAGE_SIZE = 200
MOST_PAGES = 50
"""A host that says there are more has been broken into, or is broken."""

# Kubernetes label syntax: values of 63 characters at most, [A-Za-z0-9._-].
FLEET_KEY = "deskfleet.fleet"
REQUEST_KEY = "deskfleet.request"
TENANT_KEY = "deskfleet.tenant"
SESSION_KEY = "deskfleet.session"

_OUR_KEYS = frozenset({FLEET_KEY, REQUEST_KEY, TENANT_KEY, SESSION_KEY})
LONGEST_VALUE = 63

LOG_TIME = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ")

CONNECT_SECONDS = 2.0
READ_SECONDS = 10.0
CREATE_READ_SECONDS = 60.0
LIST_READ_SECONDS = 5.0
"""A list of 50 takes 0.2 s; a server that hangs must be noticed within ten seconds."""


class SandboxState(StrEnum):
    """OpenSandbox's own words for a container's state."""

    PENDING = "Pending"
    RUNNING = "Running"
    PAUSING = "Pausing"
    PAUSED = "Paused"
    RESUMING = "Resuming"
    STOPPING = "Stopping"
    TERMINATED = "Terminated"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class HostUnreachable(Exception):
    """Host, OpenSandbox server or Docker gives no usable answer: nothing is known about its sandboxes."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__(f"sandbox host {host} is unreachable: {why}")
        self.host = host
        self.why = why


class AnswerLost(HostUnreachable):
    """The request was sent, but no answer came: it may have been carried out all the same."""


class HostRefused(Exception):
    """The host answered and said no; the message is one sentence for a person."""

    def __init__(self, host: str, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.host = host
        self.status = status
        self.code = code

    @property
    def is_of_the_request(self) -> bool:
        """Would every host say so?"""
        return self.code in ("INVALID", "SANDBOX::INVALID_PARAMETER")

    @property
    def is_of_the_moment(self) -> bool:
        """May the same host take it if it is asked again? The port that its server drew was taken; it draws
        another one each time, and three by itself (server 1.1.1, `port_allocator.py`)."""
        return "port is already allocated" in str(self) or "address already in use" in str(self)


class Reply(BaseModel):
    """Part of an answer. Open, because a newer server may say more than we read."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class SandboxStatus(Reply):
    state: SandboxState
    message: str | None = None

    @field_validator("state", mode="before")
    @classmethod
    def a_new_word_is_unknown(cls, value: object) -> object:
        return value if value in list(SandboxState) else SandboxState.UNKNOWN


class Stamp(Frozen):
    """What we write into a sandbox's metadata when we create it."""

    fleet: str
    request_id: str
    tenant_id: str
    session_id: str

    def as_metadata(self) -> dict[str, str]:
        return {
            FLEET_KEY: self.fleet,
            REQUEST_KEY: self.request_id,
            TENANT_KEY: self.tenant_id,
            SESSION_KEY: self.session_id,
        }


class Sandbox(Reply):
    """One sandbox as its host describes it."""

    id: str
    status: SandboxStatus
    metadata: dict[str, str] = Field(default_factory=dict)
    """Only what may be ours: sandboxes of others carry what they like."""
    created_at: datetime = Field(alias="createdAt")
    expires_at: datetime | None = Field(default=None, alias="expiresAt")

    @field_validator("metadata")
    @classmethod
    def of_our_keys(cls, value: dict[str, str]) -> dict[str, str]:
        return {key: text for key, text in value.items() if key in _OUR_KEYS and len(text) <= LONGEST_VALUE}

    @property
    def state(self) -> SandboxState:
        return self.status.state

    @property
    def fleet(self) -> str | None:
        return self.metadata.get(FLEET_KEY)

    @property
    def request_id(self) -> str | None:
        return self.metadata.get(REQUEST_KEY)

    def is_of(self, *, tenant_id: str, session_id: str) -> bool:
        """A warm one keeps the pool's name when somebody has claimed it; its session is the same."""
        named = self.metadata.get(TENANT_KEY)
        return named in (tenant_id, POOL_TENANT) and self.metadata.get(SESSION_KEY) == session_id


class SandboxOrder(Frozen):
    """What to create. `timeout_seconds` is when the host itself ends the sandbox, as a last resort."""

    image_uri: str
    entrypoint: list[str]
    cpu: str
    memory: str
    timeout_seconds: int = Field(ge=SHORTEST_TIMEOUT_SECONDS)
    resolution: str | None
    vnc_password: SecretStr | None
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    image_auth: ImageAuth | None = None
    stamp: Stamp

    def as_body(self) -> dict[str, object]:
        auth = self.image_auth
        credentials = {"auth": auth.model_dump(mode="json")} if auth is not None else {}
        return {
            "image": {"uri": self.image_uri, **credentials},
            "entrypoint": self.entrypoint,
            "resourceLimits": {"cpu": self.cpu, "memory": self.memory},
            "timeout": self.timeout_seconds,
            "env": self._environment(),
            "metadata": self.stamp.as_metadata(),
        }

    def _environment(self) -> dict[str, str]:
        environment = dict(self.env)
        if self.resolution:
            environment["RESOLUTION"] = self.resolution
        if self.vnc_password:
            environment["VNC_PASSWORD"] = self.vnc_password.get_secret_value()
        logs.hide_environment(environment)
        return environment


class _Pagination(Reply):
    has_next_page: bool = Field(alias="hasNextPage")


class _SandboxPage(Reply):
    items: list[Sandbox] = Field(max_length=PAGE_SIZE)
    pagination: _Pagination


class _Endpoint(Reply):
    endpoint: str


class _Log(Reply):
    content: str


class _Version(Reply):
    version: str


class _Problem(Reply):
    """OpenSandbox's own error shape."""

    code: str
    message: str


class _FieldProblem(Reply):
    loc: list[str | int]
    msg: str


class _Invalid(Reply):
    """FastAPI's error shape, for bodies that do not validate (422)."""

    detail: list[_FieldProblem] | str


def _segment(sandbox_id: str) -> str:
    """Of a path; an id may have come from a host, or from an event, and must not lead elsewhere."""
    return quote(sandbox_id, safe="")


class SandboxHost:
    """One host. Safe to share between threads; connections are kept open between calls."""

    def __init__(self, name: str, *, url: str, key: str, fleet_id: str, node: Node | None = None) -> None:
        self.name = name
        self._fleet_id = fleet_id
        self._http = client_of(
            url,
            node,
            headers={KEY_HEADER: key},
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=25),
        )
        # OpenSandbox (uvicorn) drops idle connections after 30 s; ours expire first.

    def close(self) -> None:
        self._http.close()

    def create(self, order: SandboxOrder) -> Sandbox:
        """Create and start a sandbox; takes 0.5-3 s. Not idempotent: after AnswerLost look it up first.

        Raises HostRefused (nothing was created), AnswerLost (perhaps it was), HostUnreachable (it was not).
        """
        timeout = httpx.Timeout(CREATE_READ_SECONDS, connect=CONNECT_SECONDS)
        with logs.about(request_id=order.stamp.request_id):
            answer = self._call("POST", "/v1/sandboxes", json=order.as_body(), timeout=timeout)
        return self._read(Sandbox, answer)

    def find_by_request(self, request_id: str) -> list[Sandbox]:
        """Return the sandboxes that were created for this request: none, one, or doubles; oldest first."""
        return sorted(
            self._list({FLEET_KEY: self._fleet_id, REQUEST_KEY: request_id}), key=lambda s: s.created_at
        )

    def ours(self) -> list[Sandbox]:
        """Return all sandboxes that carry our fleet id, in any state."""
        return self._list({FLEET_KEY: self._fleet_id})

    def everything(self) -> list[Sandbox]:
        """Return all sandboxes on the host, also those of others; ~3.5 ms of the host's time for each."""
        return self._list({})

    def get(self, sandbox_id: str) -> Sandbox | None:
        """Return the sandbox, or None if the host has no such one (any more)."""
        answer = self._call("GET", f"/v1/sandboxes/{_segment(sandbox_id)}", fine=(404,))
        return None if answer.status_code == 404 else self._read(Sandbox, answer)

    def published_port(self, sandbox_id: str, container_port: int) -> int:
        """Return the port on the host's publish address behind which `container_port` answers.

        Only the port: the address in the answer is the server's idea of itself (it says 127.0.0.1).
        """
        answer = self._call("GET", f"/v1/sandboxes/{_segment(sandbox_id)}/endpoints/{container_port}")
        endpoint = self._read(_Endpoint, answer).endpoint
        authority, _, path = endpoint.partition("/")
        port = authority.rpartition(":")[2]
        if path or not port.isdigit():
            raise HostRefused(
                self.name,
                f"sandbox host {self.name} does not publish port {container_port} as plain TCP;"
                " only 8080 is, so the image must serve VNC there",
                status=answer.status_code,
                code="NOT_PUBLISHED",
            )
        return int(port)

    def delete(self, sandbox_id: str) -> None:
        """Kill and remove the sandbox (0.25-1.1 s); one that is gone already is a success."""
        self._call("DELETE", f"/v1/sandboxes/{_segment(sandbox_id)}", fine=(404,))

    def renew(self, sandbox_id: str, until: datetime) -> None:
        """Let the host keep the sandbox until then. Raises HostRefused with status 404 if it is gone."""
        self._call(
            "POST",
            f"/v1/sandboxes/{_segment(sandbox_id)}/renew-expiration",
            json={"expiresAt": until.isoformat()},
        )

    def pause(self, sandbox_id: str) -> None:
        """Freeze it; its memory stays. Raises HostRefused with status 404 if it is gone."""
        self._call("POST", f"/v1/sandboxes/{_segment(sandbox_id)}/pause")

    def resume(self, sandbox_id: str) -> None:
        """Let it run on. Raises HostRefused with status 404 if it is gone."""
        self._call("POST", f"/v1/sandboxes/{_segment(sandbox_id)}/resume")

    def log_tail(self, sandbox_id: str, lines: int = 5) -> list[str]:
        """Return the last lines that the sandbox's entrypoint wrote; empty if the host has none to give."""
        try:
            answer = self._call(
                "GET", f"/v1/sandboxes/{_segment(sandbox_id)}/diagnostics/logs", params={"scope": "container"}
            )
            content = self._read(_Log, answer).content
        except (HostRefused, HostUnreachable):
            return []
        said = [LOG_TIME.sub("", line).strip() for line in content.splitlines()]
        return [line for line in said if line][-lines:]

    def version(self) -> str:
        """Return the server's version; needs no key, so it tells a wrong key from a server that is down."""
        return self._read(_Version, self._call("GET", "/version")).version

    def _list(self, metadata: dict[str, str]) -> list[Sandbox]:
        found: dict[str, Sandbox] = {}
        timeout = httpx.Timeout(LIST_READ_SECONDS, connect=CONNECT_SECONDS)
        for page in range(1, MOST_PAGES + 1):
            params: dict[str, str | int] = {"page": page, "pageSize": PAGE_SIZE}
            if metadata:
                params["metadata"] = urlencode(metadata)
            answer = self._read(
                _SandboxPage, self._call("GET", "/v1/sandboxes", params=params, timeout=timeout)
            )
            # Newest first, so a create between two pages shows one sandbox twice.
            found.update((sandbox.id, sandbox) for sandbox in answer.items)
            if not answer.pagination.has_next_page:
                return list(found.values())
        raise HostUnreachable(
            self.name, f"{self._http.base_url} lists more than {MOST_PAGES * PAGE_SIZE} sandboxes"
        )

    def _call(self, method: str, path: str, *, fine: tuple[int, ...] = (), **request: Any) -> httpx.Response:
        try:
            with metrics.host_call(self.name, method, path):
                answer = self._send(method, path, **request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise HostUnreachable(
                self.name, f"no connection to {self._http.base_url}: {why(error)}"
            ) from error
        except httpx.TransportError as error:
            if is_refused_by_tls(error):
                raise HostUnreachable(
                    self.name, f"no connection to {self._http.base_url}: {why(error)}"
                ) from error
            raise AnswerLost(self.name, f"no answer from {self._http.base_url}: {why(error)}") from error
        if answer.is_success or answer.status_code in fine:
            return answer
        raise self._refusal(answer)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        request_id = logs.request_id()
        if request_id is not None:
            # OpenSandbox has it in its own log, and sends it back.
            request["headers"] = {"X-Request-ID": request_id}
        try:
            return self._http.request(method, path, **request)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # The server closed a kept connection just as we used it. What only reads may simply ask again.
            if method != "GET":
                raise
            return self._http.request(method, path, **request)

    def _read(self, model: type[ModelT], answer: httpx.Response) -> ModelT:
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise HostUnreachable(
                self.name,
                f"{self._http.base_url} does not answer like OpenSandbox ({where}: {first['msg']})",
            ) from error

    def _refusal(self, answer: httpx.Response) -> HostRefused | HostUnreachable:
        code, message = _problem_of(answer)
        if answer.status_code in (401, 403):
            return HostUnreachable(self.name, f"its OpenSandbox server refuses our key ({code})")
        if _docker_is_down(code, message):
            return HostUnreachable(
                self.name, "its OpenSandbox server cannot reach Docker; is the daemon running?"
            )
        if answer.status_code >= 500 and code == NO_CODE:
            # An exception inside the server, or a proxy before it: what was asked may have been done or not.
            return AnswerLost(
                self.name,
                f"{self._http.base_url} answers {answer.status_code} without a reason; is its Docker up?",
            )
        sentence = _SENTENCES.get(code, "sandbox host {host} refused: {message}").format(
            host=self.name, message=message
        )
        return HostRefused(self.name, sentence, status=answer.status_code, code=code)


NO_CODE = "HTTP"

_SENTENCES = {
    "DOCKER::SANDBOX_IMAGE_PULL_FAILED": "sandbox host {host} lacks the image and cannot pull it: {message}",
    "DOCKER::SANDBOX_START_FAILED": "the container does not start on sandbox host {host}: {message}",
    "DOCKER::SANDBOX_EXECD_START_FAILED": "the execd image does not start on sandbox host {host}: {message}",
    "INVALID": "sandbox host {host} does not accept the request: {message}",
    "SANDBOX::INVALID_PARAMETER": "sandbox host {host} does not accept the request: {message}",
}

_DOCKER_DOWN = ("Connection aborted", "Error while fetching server API")


def _docker_is_down(code: str, message: str) -> bool:
    """OpenSandbox has no code of its own for this: it passes on what its Docker client said."""
    return code.startswith("DOCKER::") and any(sign in message for sign in _DOCKER_DOWN)


def _problem_of(answer: httpx.Response) -> tuple[str, str]:
    """Return (code, message) of either error shape; (NO_CODE, …) for a body that is neither."""
    shapes: TypeAdapter[_Problem | _Invalid] = TypeAdapter(_Problem | _Invalid)
    try:
        problem = shapes.validate_json(answer.content)
    except ValidationError:
        return NO_CODE, f"it answered {answer.status_code}"
    if isinstance(problem, _Problem):
        return problem.code, _one_line(problem.message)
    if isinstance(problem.detail, str):
        return "INVALID", _one_line(problem.detail)
    return "INVALID", "; ".join(f"{'.'.join(map(str, one.loc))}: {one.msg}" for one in problem.detail)


def _one_line(text: str) -> str:
    """The message without line breaks and without the docker client's own noise (its URL and HTTP status)."""
    plain = re.sub(r"\d{3} (Client|Server) Error for http\+docker://\S+: [A-Z][A-Za-z ]+", "", text)
    return " ".join(plain.split())[:300]
