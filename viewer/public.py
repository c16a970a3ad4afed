"""What the API says: the answers' models, and how a session looks from outside. None holds a secret."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Literal

from pydantic import Field

from viewer.hostwatch.answers import HostReport
from viewer.model import (
    DesktopBackend,
    Display,
    Frozen,
    HelpCall,
    HostStatus,
    Kind,
    Principal,
    Role,
    Scope,
    Session,
    Status,
    Via,
    WantedBackend,
)
from viewer.settings import Settings


class PublicSession(Frozen):
    """A session as everyone outside sees it. Times are RFC 3339 in UTC."""

    id: str
    tenant_id: str
    kind: Kind
    display: Display
    backend: DesktopBackend | None = Field(description="What a persistent desktop runs; null for a sandbox.")
    status: Status
    status_reason: str | None = Field(
        description="Why it is so, as a short word; `terminating` while it ends."
    )
    sandbox_id: str | None
    host: str | None
    host_status: HostStatus | None
    image: str
    resolution: str | None
    task_id: str | None
    agent_id: str | None
    labels: dict[str, str]
    cpu: str = Field(description="What it reserves on its host, in thousandths of a core such as `2000m`.")
    memory: str = Field(description="What it reserves on its host, such as `2048Mi`.")
    queue_position: int | None = Field(
        description="Its place in the line for a host, from 1; null when it does not wait, and in events."
    )
    help: HelpCall | None = Field(description="What a person is needed for; null for nothing.")
    wanted_status: Status | None = Field(description="`paused` or `running`: asked for, and not yet so.")
    is_warm: bool = Field(description="It was made before it was asked for.")
    via: Via
    created_by: str
    page_url: str = Field(description="Deep link to the session in the viewer.")
    novnc_url: str | None = Field(description="A page with nothing but the desktop.")
    vnc_endpoint: str | None = Field(description="The stream: WebSocket, subprotocol `binary`, RFB 3.8.")
    devtools_url: str | None = Field(
        description="A page that leads to Chrome DevTools of its browser; null where its image has none."
    )
    error_message: str | None
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    idle_ends_at: datetime | None = Field(description="It ends then unless somebody uses it before.")
    expires_at: datetime | None
    lifetime_ends_at: datetime | None = Field(description="No renewal goes beyond.")
    terminated_at: datetime | None


class PublicStep(Frozen):
    """One step of a session's life. by: a principal, or `worker`."""

    at: datetime
    status: Status
    reason: str | None
    host: str | None
    by: str
    detail: str | None


class History(Frozen):
    """Oldest first."""

    items: tuple[PublicStep, ...]


class HelpAnswer(Frozen):
    """Is a person needed, and if not any more, who ended the call?"""

    help: HelpCall | None = Field(description="Null: for nothing (any more).")
    ended_at: datetime | None = Field(description="When the last call was ended; null: there was none.")
    ended_by: str | None = Field(
        description="By whom: a principal, or `worker`, because the session had ended."
    )
    ended_by_name: str | None = Field(description="As he is called now.")


class Terminated(Frozen):
    """Sandboxes whose end has been asked for by this request; `more` says that others match, too."""

    ids: tuple[str, ...]
    more: bool


class PublicTask(Frozen):
    """external_run_id: the name of its run in another system."""

    id: str
    title: str | None
    agent_id: str | None
    external_run_id: str | None
    created_at: datetime
    updated_at: datetime
    desktops: int = Field(description="Its sessions, those that have ended included.")
    running: int = Field(description="Those of them that run.")
    documents: int
    active_at: datetime = Field(description="When anything of it was last different.")


class PublicEntry(Frozen):
    """One entry of the audit log. chain: SHA-256 over the entry before and this one."""

    number: int
    at: datetime
    tenant_id: str
    principal: str
    principal_name: str = Field(description="As he was called then.")
    address: str | None = Field(description="The client's, as the edge saw it.")
    action: str
    target: str | None
    outcome: str
    detail: dict[str, object] | None
    request_id: str | None
    chain: str


class AuditList(Frozen):
    items: tuple[PublicEntry, ...]
    next_cursor: str | None


class AuditChain(Frozen):
    """Whether the log is as it was written: each entry is sealed with the one before it."""

    checked: int = Field(description="So many of the newest entries were looked at.")
    of: int = Field(description="So many there are, without those that were pruned.")
    problems: tuple[str, ...] = Field(description="A sentence each; none: they are as they were written.")


class TaskList(Frozen):
    items: tuple[PublicTask, ...]
    next_cursor: str | None


class PublicAgent(Frozen):
    id: str
    name: str | None
    created_at: datetime
    updated_at: datetime


class AgentList(Frozen):
    items: tuple[PublicAgent, ...]
    next_cursor: str | None


class HostDesktop(Frozen):
    """A persistent desktop of the caller's tenant."""

    name: str
    session_id: str | None = Field(description="Its live session; null until the worker has looked at it.")
    status: Status | None
    status_reason: str | None
    wanted_backend: WantedBackend
    backend: DesktopBackend | None = Field(description="What it runs; null until it was seen.")


class PublicHost(Frozen):
    """One host that carries desktops."""

    name: str
    groups: tuple[str, ...]
    status: HostStatus
    detail: str | None = Field(description="Why it is unreachable, or what it lacks although it answers.")
    last_seen_at: datetime | None
    since: datetime | None = Field(description="Since when its status is so; null while nobody has looked.")
    own_sessions: int = Field(description="Live sessions of your tenant on it.")
    used_desktops: int = Field(description="On-demand desktops of all tenants.")
    max_desktops: int = Field(description="0 for a host that takes no on-demand desktops.")
    used_cpu: str = Field(description="What they reserve, in thousandths of a core such as `2000m`.")
    max_cpu: str | None = Field(description="What they may reserve together; null for no limit.")
    used_memory: str = Field(description="What they reserve, such as `2048Mi`.")
    max_memory: str | None = Field(description="What they may reserve together; null for no limit.")
    draining: bool = Field(description="It gets no new sandboxes; those that run go on.")
    drained_at: datetime | None = Field(
        description="When the last of its sandboxes ends at the latest, unless somebody renews it; null where"
        " none runs, and for all but admins of the fleet."
    )
    certificate_ends: datetime | None = Field(
        description="The first to end of the certificates between it and the control host; for admins only."
    )
    labels: dict[str, str]
    report: HostReport | None = Field(description="Load and free space; for admins only.")
    desktops: tuple[HostDesktop, ...] = Field(description="Persistent desktops of your tenant.")
    warnings: tuple[str, ...]
    address: str | None = Field(description="Where the fleet reaches it; for admins only.")


class HostList(Frozen):
    items: tuple[PublicHost, ...]


class SessionList(Frozen):
    items: tuple[PublicSession, ...]
    next_cursor: str | None = Field(
        description="Send it as `cursor` for the next page; null on the last one."
    )


class SessionCounts(Frozen):
    """Of those that have ended, no more than 10000 are counted."""

    creating: int
    running: int
    paused: int
    terminated: int
    error: int
    needs_person: int = Field(description="Live ones that ask for a person.")


class Me(Frozen):
    """Who the credential belongs to."""

    id: str
    tenant: str
    role: Role
    via: Literal["key", "cookie"]
    name: str = Field(description="A person's name, a key's label, or else an id.")
    scopes: tuple[Scope, ...] = Field(description="What it may be used for, within its role.")

    @classmethod
    def of(cls, who: Principal, *, name: str) -> Me:
        scopes = tuple(scope for scope in Scope if who.may(scope))
        return cls(id=who.id, tenant=who.tenant, role=who.role, via=who.via, name=name, scopes=scopes)


Did = Literal[
    "task-created",
    "run-linked",
    "agent-created",
    "session-linked",
    "session-claimed",
    "end-requested",
    "document-created",
    "document-changed",
    "nothing",
]


class EventTaken(Frozen):
    """What came of an event of an outside system."""

    ok: Literal[True] = True
    did: tuple[Did, ...] = Field(
        description="What is different now. `session-claimed`: a session for a sandbox that is now looked for"
        " on the hosts whose sandboxes are given to your tenant."
    )
    task_id: str = Field(description="The task of the event's run.")
    agent_id: str | None
    session_id: str | None = Field(description="The session that the event is about.")
    document_id: str | None = Field(None, description="The document that it brought.")


class PublicWebhookSecret(Frozen):
    """What an outside system signs its events with, without the secret itself."""

    id: str = Field(description="Name it as `?source=…` where events are sent to.")
    label: str
    created_by: str
    created_at: datetime
    last_used_at: datetime | None = Field(description="To within five minutes.")
    ends_at: datetime | None = Field(description="Another one took its place; it is good until then.")
    revoked_at: datetime | None


class NewWebhookSecret(PublicWebhookSecret):
    secret: str = Field(repr=False, description="`whsec_…`: shown this once.")
    url: str = Field(description="Where events that are signed with it go.")


class WebhookSecretList(Frozen):
    items: tuple[PublicWebhookSecret, ...]


class PublicPerson(Frozen):
    """Somebody of your tenant who signs in by name."""

    id: str
    login: str
    name: str
    role: Role
    is_fleet_admin: bool = Field(description="Also for what is every tenant's; given on the control host.")
    has_password: bool
    is_disabled: bool
    created_by: str
    created_at: datetime
    last_sign_in_at: datetime | None


class PersonList(Frozen):
    items: tuple[PublicPerson, ...]
    next_cursor: str | None


class OneTimeLink(Frozen):
    """Give it to whom it is for: he sets his password with it, once."""

    url: str = Field(repr=False)
    expires_at: datetime


class NewPublicPerson(Frozen):
    person: PublicPerson
    link: OneTimeLink


class PublicSignIn(Frozen):
    """A browser that is signed in."""

    id: str
    is_this_one: bool = Field(description="It is the browser that asks.")
    address: str | None = Field(description="From where it signed in.")
    user_agent: str | None
    created_at: datetime
    used_at: datetime = Field(description="To within five minutes.")
    ends_at: datetime = Field(description="At the latest; after 12 hours without use before.")


class SignInList(Frozen):
    items: tuple[PublicSignIn, ...]


class PublicKey(Frozen):
    """An API key, without its text."""

    id: str
    label: str
    role: Role
    scopes: tuple[Scope, ...] | None = Field(description="What it may be used for; null for all but `fleet`.")
    declared: bool = Field(description="It comes from the site's own secrets; a roll-out brings it back.")
    created_by: str | None
    created_at: datetime
    last_used_at: datetime | None = Field(description="To within five minutes.")
    ends_at: datetime | None
    revoked_at: datetime | None


class KeyList(Frozen):
    items: tuple[PublicKey, ...]
    next_cursor: str | None


class NewPublicKey(Frozen):
    """`text` is shown this once."""

    key: PublicKey
    text: str = Field(repr=False)


class ImageChoice(Frozen):
    name: str
    aliases: tuple[str, ...]
    display: Display
    devtools: bool


class Defaults(Frozen):
    """What a create without these fields gets, and what it may ask for at most."""

    image: str
    resolution: str
    ttl_seconds: int
    max_ttl_seconds: int


class Catalogue(Frozen):
    items: tuple[ImageChoice, ...]
    defaults: Defaults


_AS_THEY_ARE = tuple(
    name for name in PublicSession.model_fields if name in {*Session.model_fields, *dir(Session)}
)
"""What a session shows of itself unchanged. Worked out once: a list shows it up to 200 times."""


def way_to_devtools(session_id: str) -> str:
    """The viewer's page that leads there."""
    return f"/open/{session_id}?page=devtools"


def public_session(
    session: Session,
    *,
    origin: str,
    hosts: Mapping[str, HostStatus],
    devtools: Collection[str],
    queue: Mapping[str, int] | None = None,
) -> PublicSession:
    """`origin`: where the addresses point; `hosts`: the status of each known host; `devtools`: names of the
    images that have them; `queue`: places in the line by session."""
    streams = session.display is not Display.NONE
    ws_origin = origin.replace("http", "ws", 1)
    values = {name: getattr(session, name) for name in _AS_THEY_ARE}
    return PublicSession(
        **values,
        cpu=f"{session.cpu_millis}m",
        memory=f"{session.memory_mib}Mi",
        queue_position=(queue or {}).get(session.id),
        host_status=hosts.get(session.host, HostStatus.UNKNOWN) if session.host else None,
        page_url=f"{origin}/sandboxes/{session.id}",
        novnc_url=f"{origin}/view/{session.id}" if streams else None,
        vnc_endpoint=f"{ws_origin}/stream/{session.id}" if session.display is Display.RFB else None,
        devtools_url=f"{origin}{way_to_devtools(session.id)}" if session.image in devtools else None,
    )


def session_list(
    sessions: Iterable[Session],
    next_cursor: str | None,
    *,
    origin: str,
    hosts: Mapping[str, HostStatus],
    devtools: Collection[str],
    queue: Mapping[str, int],
) -> SessionList:
    items = tuple(
        public_session(one, origin=origin, hosts=hosts, devtools=devtools, queue=queue) for one in sessions
    )
    return SessionList(items=items, next_cursor=next_cursor)


def catalogue(settings: Settings) -> Catalogue:
    items = tuple(
        ImageChoice.model_validate(image.model_dump(include=set(ImageChoice.model_fields)))
        for image in settings.images
    )
    return Catalogue(items=items, defaults=defaults(settings))


def defaults(settings: Settings) -> Defaults:
    return Defaults(
        image=settings.default_image,
        resolution=settings.default_resolution,
        ttl_seconds=settings.default_ttl_seconds,
        max_ttl_seconds=settings.max_ttl_seconds,
    )
