"""The only part of ours that speaks to Docker: it reads, and only what belongs to our fleet.

Whoever may use Docker's socket may do anything on the host, so nothing that comes with a request chooses what
is asked: a sandbox id is only ever compared with a label. Containers of others are not there for us.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

import requests
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.types import CancellableStream
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from viewer import __version__
from viewer.hostwatch.answers import (
    LONGEST_IMAGE_TAG,
    MOST_CONTAINERS,
    MOST_IMAGE_TAGS,
    MOST_LOG_BYTES,
    ContainerAction,
    ContainerCounts,
    ContainerEvent,
    ContainerList,
    ContainerState,
    ContainerWord,
    HostReport,
    LogTail,
    SandboxId,
)
from viewer.model import utcnow
from viewer.sandbox_hosts import FLEET_KEY

ID_LABEL = "opensandbox.io/id"
DOCKER_SECONDS = 10
"""How long one answer of Docker may take."""

AnswerT = TypeVar("AnswerT")
ModelT = TypeVar("ModelT", bound=BaseModel)

_ACTIONS = get_args(ContainerAction)
_NEVER = "0001-01-01T"
"""Docker's time for what has not happened."""
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_IS_SANDBOX_ID = TypeAdapter(SandboxId)


class DockerAway(Exception):
    """Docker gives no usable answer; the text is one sentence."""


class UnknownContainer(Exception):
    """There is no such container of ours."""


class ReadOnlyClient(APIClient):
    """Docker's API without whatever changes something: a mistake of ours ends here, not in a container."""

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        verb = method.decode() if isinstance(method, bytes) else method
        if verb.upper() not in ("GET", "HEAD"):
            raise PermissionError(f"hostwatch only reads; {verb} is refused")
        return super().request(method, url, *args, **kwargs)


class _Said(BaseModel):
    """Part of what Docker says."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Actor(_Said):
    attributes: dict[str, str] = Field(default={}, alias="Attributes")


class _Event(_Said):
    action: str = Field(alias="Action")
    actor: _Actor = Field(alias="Actor")
    time_nano: int = Field(alias="timeNano")


class _Listed(_Said):
    id: str = Field(alias="Id")
    state: str = Field(default="", alias="State")


class _State(_Said):
    status: ContainerWord = Field(alias="Status")
    exit_code: int = Field(alias="ExitCode")
    oom_killed: bool = Field(default=False, alias="OOMKilled")
    started_at: str = Field(alias="StartedAt")
    finished_at: str = Field(alias="FinishedAt")


class _Config(_Said):
    labels: dict[str, str] = Field(default={}, alias="Labels")


class _Inspected(_Said):
    state: _State = Field(alias="State")
    config: _Config = Field(alias="Config")


class _Info(_Said):
    root: Path = Field(alias="DockerRootDir")
    version: str = Field(alias="ServerVersion")


class _Image(_Said):
    tags: list[str] | None = Field(default=None, alias="RepoTags")


class OwnContainers:
    """The containers of one fleet on this machine's Docker. Safe to share between threads; each call blocks,
    DOCKER_SECONDS at most for each answer of Docker, and raises DockerAway."""

    def __init__(self, docker_socket: Path, fleet_id: str) -> None:
        self._socket = docker_socket
        self._fleet_id = fleet_id
        self._lock = threading.Lock()
        self._kept: ReadOnlyClient | None = None

    def close(self) -> None:
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def containers(self) -> ContainerList:
        """The state of all of ours, newest first."""
        found = self._listed(ID_LABEL)
        states = [self._state(one) for one in found[:MOST_CONTAINERS]]
        return ContainerList(
            containers=tuple(state for state in states if state is not None),
            left_off=max(0, len(found) - MOST_CONTAINERS),
        )

    def container(self, sandbox_id: str) -> ContainerState:
        """The state of the newest one of that sandbox. Raises UnknownContainer."""
        found = self._listed(f"{ID_LABEL}={sandbox_id}") if _is_sandbox_id(sandbox_id) else []
        state = self._state(found[0]) if found else None
        if state is None:
            raise UnknownContainer
        return state

    def log_tail(self, sandbox_id: str, lines: int) -> LogTail:
        """The last lines that its entrypoint wrote; none where Docker keeps none. Raises UnknownContainer."""
        if not _is_sandbox_id(sandbox_id):
            raise UnknownContainer
        found = self._listed(f"{ID_LABEL}={sandbox_id}")
        if not found:
            raise UnknownContainer
        try:
            text = self._ask(lambda docker: docker.logs(found[0].id, tail=lines, follow=False))
        except _Refused as refused:
            if refused.is_unknown:
                raise UnknownContainer from refused
            return LogTail(lines=(), truncated=False)
        return _tail_of(text, lines)

    def host(self) -> HostReport:
        """How much the host has to do, and what it has left."""
        info = _read(_Info, self._answer(lambda docker: docker.info()))
        disk = _disk_of(info.root)
        total, available = _memory()
        return HostReport(
            at=utcnow(),
            load_1m=os.getloadavg()[0],
            cpus=os.cpu_count() or 1,
            memory_total=total,
            memory_available=available,
            disk_total=disk.f_frsize * disk.f_blocks,
            disk_free=disk.f_frsize * disk.f_bavail,
            image_tags=tuple(self._image_tags()),
            docker_version=info.version,
            containers=_counts_of(one.state for one in self._listed(ID_LABEL)),
            hostwatch_version=__version__,
        )

    @contextmanager
    def listening(
        self, opened: Callable[[CancellableStream[object]], None]
    ) -> Iterator[Iterator[ContainerEvent]]:
        """Events of our containers from now on, until Docker ends or somebody closes what `opened` was given.
        A connection of its own: it may be silent for days."""
        client = self._connect()
        try:
            stream = client.events(
                decode=True, filters={"type": "container", "label": self._labels(ID_LABEL)}
            )
            opened(stream)
            yield self._events_of(stream)
        except (DockerException, requests.RequestException) as error:
            raise DockerAway(_why(error)) from error
        finally:
            client.close()

    def _events_of(self, stream: CancellableStream[object]) -> Iterator[ContainerEvent]:
        for said in stream:
            event = event_of(said, self._fleet_id)
            if event is not None:
                yield event

    def _labels(self, wanted: str) -> list[str]:
        return [f"{FLEET_KEY}={self._fleet_id}", wanted]

    def _listed(self, label: str) -> list[_Listed]:
        """Newest first, as Docker lists them."""
        said = self._answer(
            lambda docker: docker.containers(all=True, filters={"label": self._labels(label)})
        )
        return [_read(_Listed, one) for one in said]

    def _state(self, listed: _Listed) -> ContainerState | None:
        """None where it went away since it was listed, or is not what it seemed to be."""
        try:
            said = self._ask(lambda docker: docker.inspect_container(listed.id))
        except _Refused:
            return None
        container = _read(_Inspected, said)
        sandbox_id = container.config.labels.get(ID_LABEL, "")
        if container.config.labels.get(FLEET_KEY) != self._fleet_id or not _is_sandbox_id(sandbox_id):
            return None
        state, has_ended = container.state, container.state.status in ("exited", "dead")
        return ContainerState(
            sandbox_id=sandbox_id,
            state=state.status,
            exit_code=state.exit_code if has_ended else None,
            oom_killed=state.oom_killed,
            started_at=_time(state.started_at),
            finished_at=_time(state.finished_at) if has_ended else None,
        )

    def _image_tags(self) -> list[str]:
        images = [_read(_Image, one) for one in self._answer(lambda docker: docker.images())]
        tags = (tag for image in images for tag in image.tags or ())
        return [tag for tag in tags if tag != "<none>:<none>" and len(tag) <= LONGEST_IMAGE_TAG][
            :MOST_IMAGE_TAGS
        ]

    def _answer(self, question: Callable[[ReadOnlyClient], AnswerT]) -> AnswerT:
        """As _ask, where a refusal can only mean that Docker is not well."""
        try:
            return self._ask(question)
        except _Refused as refused:
            raise DockerAway(f"Docker refuses to answer: {refused}") from refused

    def _ask(self, question: Callable[[ReadOnlyClient], AnswerT]) -> AnswerT:
        try:
            return question(self._client())
        except APIError as error:
            raise _Refused(error) from error
        except (DockerException, requests.RequestException) as error:
            # After a restart it may be another version of Docker: the next question connects anew.
            self.close()
            raise DockerAway(_why(error)) from error

    def _client(self) -> ReadOnlyClient:
        self._knock()
        with self._lock:
            if self._kept is None:
                self._kept = self._connect()
            return self._kept

    def _connect(self) -> ReadOnlyClient:
        self._knock()
        try:
            return ReadOnlyClient(base_url=f"unix://{self._socket}", version="auto", timeout=DOCKER_SECONDS)
        except (DockerException, requests.RequestException) as error:
            raise DockerAway(_why(error)) from error

    def _knock(self) -> None:
        """The docker package leaves a socket open that could not be connected, and hides the reason."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(DOCKER_SECONDS)
            try:
                door.connect(str(self._socket))
            except OSError as error:
                if isinstance(error, PermissionError):
                    raise DockerAway(
                        "Docker's socket is closed to us; is our user in the group docker?"
                    ) from error
                raise DockerAway("Docker does not answer at its socket; is the daemon running?") from error


class _Refused(Exception):
    """Docker answered and said no."""

    def __init__(self, error: APIError) -> None:
        super().__init__(" ".join(str(error.explanation or error).split())[:200])
        self.is_unknown = isinstance(error, NotFound)


def event_of(said: object, fleet_id: str) -> ContainerEvent | None:
    """What Docker said, as an event; None for what is not ours or of no interest."""
    try:
        event = _Event.model_validate(said)
    except ValidationError:
        return None
    labels = event.actor.attributes
    if event.action not in _ACTIONS or labels.get(FLEET_KEY) != fleet_id:
        return None
    code = labels.get("exitCode", "")
    try:
        return ContainerEvent.model_validate(
            {
                "sandbox_id": labels.get(ID_LABEL),
                "action": event.action,
                "exit_code": int(code) if event.action == "die" and code.isdigit() else None,
                "at": datetime.fromtimestamp(event.time_nano / 1e9, UTC),
            }
        )
    except ValidationError:
        return None


def plain(text: str) -> str:
    """`text` without control characters; a tabulator is a space, and line ends stay."""
    text = _ESCAPES.sub("", text.replace("\t", " "))
    return "".join(letter for letter in text if letter == "\n" or unicodedata.category(letter) != "Cc")


def _tail_of(log: bytes, most: int) -> LogTail:
    """The last lines of it that fit into MOST_LOG_BYTES; of a single longer one its end."""
    kept: list[str] = []
    room = MOST_LOG_BYTES
    said = [line for line in plain(log.decode(errors="replace")).split("\n") if line][-most:]
    for line in reversed(said):
        size = len(line.encode()) + 1
        if size > room:
            if not kept:
                kept.append(line.encode()[-(room - 1) :].decode(errors="ignore"))
            return LogTail(lines=tuple(reversed(kept)), truncated=True)
        room -= size
        kept.append(line)
    return LogTail(lines=tuple(reversed(kept)), truncated=False)


def _counts_of(states: Iterable[str]) -> ContainerCounts:
    """By Docker's own words; one that is only made, or is being removed, counts for nothing."""
    found = Counter(states)
    return ContainerCounts(
        running=found["running"],
        paused=found["paused"],
        ended=found["exited"],
        broken=found["dead"] + found["restarting"],
    )


def _is_sandbox_id(text: str) -> bool:
    try:
        _IS_SANDBOX_ID.validate_python(text)
    except ValidationError:
        return False
    return True


def _read(model: type[ModelT], said: object) -> ModelT:
    try:
        return model.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DockerAway(f"what answers is not Docker as we know it ({where}: {first['msg']})") from error


def _time(text: str) -> datetime | None:
    return None if text.startswith(_NEVER) else TypeAdapter(datetime).validate_python(_to_microseconds(text))


def _to_microseconds(text: str) -> str:
    """Docker's times have nanoseconds, of which Python's keep six digits."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text)


def _memory() -> tuple[int, int]:
    """Total and available, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return kilobytes["MemTotal"] << 10, kilobytes["MemAvailable"] << 10


def _disk_of(path: Path) -> os.statvfs_result:
    """Of the file system that holds `path`; where we may not look into its parents, of the nearest we may."""
    for place in (path, *path.parents):
        with suppress(OSError):
            return os.statvfs(place)
    return os.statvfs("/")


def _why(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return f"Docker does not answer within {DOCKER_SECONDS} s; is the daemon well?"
    return "Docker broke off its answer; is the daemon restarting?"
