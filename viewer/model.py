"""The words of the viewer as types: sessions, principals, hosts, targets. No Flask, no SQL, no sockets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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


class Scope(StrEnum):
    """What a key may be used for, beside what its role allows. A key without scopes has all but `fleet`."""

    SESSIONS = "sessions"
    """See, make, change and end sessions, tasks and agents; read hosts and events."""
    STREAMS = "streams"
    """Open desktops, their ports, and services."""
    EVENTS = "events"
    """Post events of an outside system."""
    MANAGE = "manage"
    """The tenant's people, keys, webhooks and audit log."""
    FLEET = "fleet"
    """What is every tenant's: drain hosts, read metrics. Only what names it has it."""


class Via(StrEnum):
    """Which way a session was asked for."""

    API = "api"
    WEBHOOK = "webhook"
    OPENSANDBOX = "opensandbox"
    POOL = "pool"
    INVENTORY = "inventory"


POOL_TENANT = "pool.warm"
"""Who owns a warm desktop until somebody claims it. The dot keeps it apart from every name that a site may
give, and it is a label's value all the same."""


class LeaseKind(StrEnum):
    """Who has keyboard and mouse: a program with a key, or somebody in front of a browser."""

    AGENT = "agent"
    PERSON = "person"


EventType = Literal[
    "session.created",
    "session.running",
    "session.paused",
    "session.terminated",
    "session.error",
    "session.updated",
    "session.lease",
]
"""What an event tells of: that a session is there, has become something, or anything else about it; and who
has its keyboard and mouse, or asks for them."""


class HostStatus(StrEnum):
    UNKNOWN = "unknown"
    OK = "ok"
    UNREACHABLE = "unreachable"


class DocumentType(StrEnum):
    """What a document is shown as. `sandbox`: a session, live or with what became of it."""

    SANDBOX = "sandbox"
    TEXT = "text"
    CODE = "code"
    MARKDOWN = "markdown"
    IMAGE = "image"
    FILE = "file"

    @property
    def is_text(self) -> bool:
        """Is its content UTF-8 text?"""
        return self not in (DocumentType.IMAGE, DocumentType.FILE)


class Document(Frozen):
    """What a task has brought forth, without its content. size: bytes; path: where its agent has it, once in
    a task; media_type: as it is handed out. Times are UTC."""

    id: str
    tenant_id: str
    task_id: str | None
    agent_id: str | None
    session_id: str | None
    type: DocumentType
    title: str
    path: str | None
    media_type: str
    language: str | None
    size: int
    sha256: str
    created_by: str
    created_at: datetime
    updated_at: datetime


DocumentChange = Literal["created", "changed", "deleted"]
"""What has become of a document."""


class DocumentNews(Frozen):
    """A change of a document: the document as it was right after it, or before it went."""

    change: DocumentChange
    document: Document


Resolution = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{2,3}x[1-9]\d{2,3}$")]


SortKey = Literal["created", "updated", "expires"]
"""The time by which a list is in order."""


class Sort(StrEnum):
    """What a list of sessions begins with. By their end, it has only those that live and have one."""

    NEWEST = "-created"
    OLDEST = "created"
    CHANGED_LAST = "-updated"
    CHANGED_FIRST = "updated"
    ENDS_LAST = "-expires"
    ENDS_FIRST = "expires"

    @property
    def key(self) -> SortKey:
        return _SORT_KEYS[self]

    @property
    def descending(self) -> bool:
        return self.value.startswith("-")


_SORT_KEYS: dict[Sort, SortKey] = {
    Sort.NEWEST: "created",
    Sort.OLDEST: "created",
    Sort.CHANGED_LAST: "updated",
    Sort.CHANGED_FIRST: "updated",
    Sort.ENDS_LAST: "expires",
    Sort.ENDS_FIRST: "expires",
}


class Principal(Frozen):
    """Who asks: the tenant comes from the credential, never from a payload."""

    id: str
    tenant: str
    role: Role
    via: Literal["key", "cookie", "signature", "ticket", "share"]
    scopes: frozenset[Scope] | None = None
    """None: all but `fleet`."""
    sign_in: str | None = None
    """Which of his sign-ins by key a cookie is of; None for anything else."""
    only_session: str | None = None
    """All that the bearer of a ticket or a share link may see; None: all of his tenant's."""

    def may(self, scope: Scope) -> bool:
        return scope is not Scope.FLEET if self.scopes is None else scope in self.scopes

    @property
    def holder(self) -> str:
        """In whose name a stream is held: one of a sign-in ends with it, although the key goes on."""
        return f"{self.id}/{self.sign_in}" if self.sign_in else self.id


class LeaseHolder(Frozen):
    """id: `Principal.holder`. name: what people call him."""

    kind: LeaseKind
    id: str
    name: str


class Lease(Frozen):
    """Who has keyboard and mouse of a session now. `number` grows with every change of the holder, so that of
    two messages about it the newer one is known; 0: nobody ever had it. Times are UTC."""

    session_id: str
    number: int = Field(default=0, ge=0)
    holder: LeaseHolder | None = None
    """None: nobody."""
    since: datetime | None = None
    ends_at: datetime | None = None
    """Without a renewal it ends then."""
    reason: str | None = None
    """Why he wanted it, in his words."""

    @property
    def is_a_persons(self) -> bool:
        return self.holder is not None and self.holder.kind is LeaseKind.PERSON

    def is_held_by(self, holder: str) -> bool:
        """holder: `Principal.holder`."""
        return self.holder is not None and self.holder.id == holder


class LeaseRequest(Frozen):
    """Somebody asks whoever has keyboard and mouse for them."""

    by: LeaseHolder
    reason: str | None = None
    at: datetime


class LeaseState(Frozen):
    """A lease and those who ask for it, oldest first, as they were then."""

    lease: Lease
    requests: tuple[LeaseRequest, ...] = ()
    at: datetime


class ClipboardPolicy(Frozen):
    """Which way the clipboard's text may go between a desktop and whoever controls or watches it."""

    to_desktop: bool = True
    from_desktop: bool = True


class HelpCall(Frozen):
    """A person is needed at a desktop. reason: what for, in the words of whoever asked."""

    reason: str
    asked_at: datetime
    asked_by: str = Field(description="A principal: `key:…` for an agent's key, `person:…`.")


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
    wanted_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that its host must have."""
    failed_hosts: dict[str, str] = Field(default_factory=dict)
    """Host -> why it could not be made there; placement leaves these out."""
    may_queue: bool = True
    """Does it wait for a place where there is none now?"""
    via: Via = Via.API
    cpu_millis: int = 0
    memory_mib: int = 0
    """What it reserves on its host: thousandths of a core, MiB."""
    labels: dict[str, str] = Field(default_factory=dict)
    order_sealed: str | None = Field(default=None, repr=False)
    """What the caller asked for beside all this (`viewer.order.Order`), under the viewer's own key, because
    its environment may hold secrets."""
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
    idle_seconds: int | None = None
    """It ends when nobody has used it for this long; None: never."""
    last_used_at: datetime | None = None
    """When it was last watched or worked with; None: not yet."""
    lifetime_ends_at: datetime | None = None
    """No renewal goes beyond."""
    wanted_status: Status | None = None
    """`paused` or `running`: asked for, and not yet true on the host."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    placed_at: datetime | None = None
    """When a host was first chosen; made_at: when its sandbox was there; running_at: when it was usable."""
    made_at: datetime | None = None
    running_at: datetime | None = None
    is_warm: bool = False
    """It came out of the pool."""
    expires_at: datetime | None
    """None only for desktops, which do not expire."""
    terminated_at: datetime | None = None
    terminate_requested_at: datetime | None = None
    """Set when somebody asked for the end; the worker makes it true, also after a restart."""
    help_reason: str | None = None
    """What a person is needed for, in the words of whoever asked; None: for nothing."""
    help_asked_at: datetime | None = None
    help_asked_by: str | None = None
    """A principal's id."""
    help_ended_at: datetime | None = None
    help_ended_by: str | None = None
    """When and by whom the last call was ended; a principal's id, or `worker`: the session had ended."""

    @property
    def help(self) -> HelpCall | None:
        """What a person is needed for now."""
        if self.help_reason is None or self.help_asked_at is None or self.help_asked_by is None:
            return None
        return HelpCall(reason=self.help_reason, asked_at=self.help_asked_at, asked_by=self.help_asked_by)

    @property
    def is_sought(self) -> bool:
        """An event named its sandbox, and no host has shown it yet."""
        return self.status is Status.CREATING and self.host is None and self.sandbox_id is not None

    @property
    def idle_ends_at(self) -> datetime | None:
        """When it ends unless somebody uses it before; None while it cannot idle."""
        since = self.last_used_at or self.running_at
        if self.idle_seconds is None or since is None or self.status is not Status.RUNNING:
            return None
        return since + timedelta(seconds=self.idle_seconds)


def utcnow() -> datetime:
    return datetime.now(UTC)
