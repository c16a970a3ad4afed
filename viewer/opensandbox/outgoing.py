"""A session as a sandbox of OpenSandbox's, in the field names that its clients read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flask import Response
from pydantic import BaseModel, ConfigDict

from viewer.access import principal
from viewer.answers import public, public_list
from viewer.credentials import SealBroken, open_order
from viewer.model import Role, Session, utcnow
from viewer.opensandbox.refusals import sandbox_not_found
from viewer.order import DEFAULT_ENTRYPOINT, Order
from viewer.phases import Phase, phase_of
from viewer.public import PublicSession
from viewer.sandbox_hosts import SandboxState
from viewer.services import services

STATE_OF = {
    Phase.CREATING: SandboxState.PENDING,
    Phase.RUNNING: SandboxState.RUNNING,
    Phase.PAUSING: SandboxState.PAUSING,
    Phase.PAUSED: SandboxState.PAUSED,
    Phase.RESUMING: SandboxState.RESUMING,
    Phase.STOPPING: SandboxState.STOPPING,
    Phase.FAILED: SandboxState.FAILED,
}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


class _Out(BaseModel):
    model_config = ConfigDict(
        frozen=True, alias_generator=_camel, validate_by_name=True, serialize_by_alias=True
    )


class SandboxStatusOut(_Out):
    state: SandboxState
    message: str | None = None


class ImageOut(_Out):
    uri: str


class SandboxOut(_Out):
    """Neither its environment nor its limits nor who pulls its image is told again."""

    id: str
    image: ImageOut
    status: SandboxStatusOut
    metadata: dict[str, str]
    entrypoint: Sequence[str]
    extensions: dict[str, str]
    expires_at: datetime | None
    created_at: datetime


class PaginationOut(_Out):
    page: int
    page_size: int
    total_items: int
    total_pages: int
    has_next_page: bool


class SandboxListOut(_Out):
    items: Sequence[SandboxOut]
    pagination: PaginationOut


class RenewedOut(_Out):
    expires_at: datetime | None


class EndpointOut(_Out):
    """endpoint: host, port and path, without a scheme."""

    endpoint: str


class DiagnosticsOut(_Out):
    sandbox_id: str
    kind: str
    scope: str
    delivery: str = "inline"
    content_type: str = "text/plain; charset=utf-8"
    content: str
    content_length: int
    truncated: bool = False


def answer(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(exclude_none=True), status, content_type="application/json")


def sandbox_out(session: Session) -> SandboxOut:
    """Raises SandboxRefusal for one that is there no more."""
    phase = phase_of(session, utcnow())
    if phase is None:
        raise sandbox_not_found()
    return _sandbox(session, phase, public(session))


def _sandbox(session: Session, phase: Phase, shown: PublicSession) -> SandboxOut:
    message = session.error_message if phase is Phase.FAILED else session.status_reason
    return SandboxOut(
        id=session.id,
        image=ImageOut(uri=session.image),
        status=SandboxStatusOut(state=STATE_OF[phase], message=message),
        metadata=session.labels,
        entrypoint=_entrypoint(session),
        extensions=_addresses(shown),
        expires_at=session.expires_at,
        created_at=session.created_at,
    )


def page_out(sessions: Sequence[Session], total: int, *, page: int, size: int) -> SandboxListOut:
    pages, now = -(-total // size), utcnow()
    both = zip(sessions, public_list(sessions, None).items, strict=True)
    return SandboxListOut(
        items=[
            _sandbox(session, phase, shown)
            for session, shown in both
            if (phase := phase_of(session, now)) is not None
        ],
        pagination=PaginationOut(
            page=page, page_size=size, total_items=total, total_pages=pages, has_next_page=page < pages
        ),
    )


def _addresses(shown: PublicSession) -> dict[str, str]:
    """Where people look at it; the names are ours, so that no client takes them for something else."""
    pages = {"deskfleet.page_url": shown.page_url, "deskfleet.novnc_url": shown.novnc_url}
    return {name: url for name, url in pages.items() if url is not None}


def _entrypoint(session: Session) -> Sequence[str]:
    """What was asked for, else the image's own. It may hold secrets, so a watcher is told nothing."""
    if not principal().role.covers(Role.OPERATOR):
        return ()
    settings = services().settings
    try:
        asked = open_order(session.order_sealed, settings.secret_key)
    except SealBroken:
        asked = Order()
    return asked.entrypoint or settings.image_for(session.image).entrypoint or DEFAULT_ENTRYPOINT
