"""The words of the viewer as types: sessions, principals, hosts, targets. No Flask, no SQL, no sockets."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Frozen(BaseModel):
    """A closed, immutable record: an unknown field is an error, not a silent loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Status(StrEnum):
    """A session's status, in the seed's words; OpenSandbox's own states stay in `sandbox_hosts`."""

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    TERMINATED = "terminated"
    ERROR = "error"

    @property
    def is_terminal(self) -> bool:
        return self in (Status.TERMINATED, Status.ERROR)


class Kind(StrEnum):
    """`sandbox`: made on demand. `desktop`: declared in the inventory, persistent."""

    SANDBOX = "sandbox"
    DESKTOP = "desktop"


class Display(StrEnum):
    RFB = "rfb"
    KASMVNC = "kasmvnc"
    NONE = "none"


DesktopBackend = Literal["kasmvnc", "tigervnc"]
"""What a persistent desktop runs."""

WantedBackend = Literal["kasmvnc", "tigervnc", "kasmvnc-or-tigervnc"]
"""What the inventory wants it to run; the last one: TigerVNC where KasmVNC's package can't be had."""


class Role(StrEnum):
    """What a principal may do, weakest first."""

    WATCHER = "watcher"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


class HostStatus(StrEnum):
    UNKNOWN = "unknown"
    OK = "ok"
    UNREACHABLE = "unreachable"


Resolution = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{2,3}x[1-9]\d{2,3}$")]


class Principal(Frozen):
    """Who asks: the tenant comes from the credential, never from a payload."""

    id: str
    tenant: str
    role: Role
    via: Literal["key", "cookie"]
    sign_in: str | None = None
    """Which of his sign-ins by key a cookie is of; None for anything else."""

    @property
    def holder(self) -> str:
        """In whose name a stream is held: one of a sign-in ends with it, although the key goes on."""
        return f"{self.id}/{self.sign_in}" if self.sign_in else self.id


class Session(Frozen):
    """One row of `sandbox_sessions`: one sandbox or desktop of one tenant. Times are UTC."""

    id: str
    tenant_id: str
    kind: Kind = Kind.SANDBOX
    display: Display = Display.RFB
    backend: DesktopBackend | None = None
    """What a persistent desktop was last seen to run; None until then, and for sandboxes."""
    status: Status = Status.CREATING
    status_reason: str | None = None
    sandbox_id: str | None = None
    host: str | None = None
    wanted_host: str | None = None
    """The caller asked for this host; None: placement chooses."""
    image: str
    resolution: Resolution | None = None
    task_id: str | None = None
    agent_id: str | None = None
    error_message: str | None = None
    request_id: str
    """Also in the sandbox's metadata, so that a create whose answer was lost is found again."""
    vnc_port: int | None = None
    """Port on the host's publish address where Xvnc answers; None until the endpoint is known."""
    vnc_password_sealed: str | None = Field(default=None, repr=False)
    """The session's VNC password under the viewer's own key; never leaves the control plane in clear."""
    ttl_seconds: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    """None only for desktops, which do not expire."""
    terminated_at: datetime | None = None
    terminate_requested_at: datetime | None = None
    """Set when somebody asked for the end; the worker makes it true, also after a restart."""


def utcnow() -> datetime:
    return datetime.now(UTC)
