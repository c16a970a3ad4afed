"""What hostwatch answers over HTTP, as types, for it and for its client in the control plane. No aiohttp.

Refusals are `RelayProblem`s, as those of the relay beside it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from viewer.model import Frozen

MOST_CONTAINERS = 1000
MOST_LOG_LINES = 500
MOST_LOG_BYTES = 64 << 10
"""Of UTF-8, line ends included."""
MOST_IMAGE_TAGS = 500
LONGEST_IMAGE_TAG = 300
LONGEST_HEARTBEAT_SECONDS = 5.0

SandboxId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,63}$")]
"""OpenSandbox's id, as it can stand in a label."""

ContainerAction = Literal["create", "start", "die", "kill", "pause", "unpause", "destroy", "oom"]
ContainerWord = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
"""Docker's own word for a container's state."""


class ContainerEvent(Frozen):
    """Something happened to a container of ours. exit_code: of `die`, where Docker says it."""

    kind: Literal["event"] = "event"
    sandbox_id: SandboxId
    action: ContainerAction
    exit_code: int | None = None
    at: datetime


class Heartbeat(Frozen):
    """The stream is there and Docker is being listened to; the first line of each stream is one."""

    kind: Literal["heartbeat"] = "heartbeat"
    at: datetime


class StreamEnd(Frozen):
    """The last line of a stream. docker-away: Docker ended; renew: the stream was long enough, open a new
    one; stopping: hostwatch itself ends."""

    kind: Literal["end"] = "end"
    why: Literal["docker-away", "renew", "stopping"]
    detail: str
    """One sentence for a person."""


StreamLine = Annotated[ContainerEvent | Heartbeat | StreamEnd, Field(discriminator="kind")]
"""One line of GET /hostwatch/events."""

STREAM_LINE: TypeAdapter[ContainerEvent | Heartbeat | StreamEnd] = TypeAdapter(StreamLine)


class ContainerState(Frozen):
    """One container of ours. exit_code and finished_at: None while it has not ended."""

    sandbox_id: SandboxId
    state: ContainerWord
    exit_code: int | None
    oom_killed: bool
    started_at: datetime | None
    finished_at: datetime | None


class ContainerList(Frozen):
    """Answer of GET /hostwatch/containers, newest first. left_off: how many older ones are not in it."""

    containers: tuple[ContainerState, ...] = Field(max_length=MOST_CONTAINERS)
    left_off: int = Field(default=0, ge=0)


class LogTail(Frozen):
    """Answer of GET /hostwatch/containers/<sandbox_id>/log: the last lines, oldest first, without control
    characters. truncated: of what was asked for, something did not fit into MOST_LOG_BYTES."""

    lines: tuple[str, ...] = Field(max_length=MOST_LOG_LINES)
    truncated: bool


class ContainerCounts(Frozen):
    """Our containers on a host, by what Docker says of them. broken: dead, or restarting again and again."""

    running: int = 0
    paused: int = 0
    ended: int = 0
    broken: int = 0


class HostReport(Frozen):
    """Answer of GET /hostwatch/host. Memory and disk are bytes; disk is where Docker keeps its data.

    What hosts of an earlier version do not say is None. Of the versions, hostwatch knows its own alone; the
    worker fills in the others."""

    at: datetime
    load_1m: float
    cpus: int
    memory_total: int
    memory_available: int
    disk_total: int
    disk_free: int
    """What a user that is not root may still write."""
    image_tags: tuple[str, ...] = Field(max_length=MOST_IMAGE_TAGS)
    docker_version: str
    containers: ContainerCounts | None = None
    hostwatch_version: str | None = None
    relay_version: str | None = None
    opensandbox_version: str | None = None
