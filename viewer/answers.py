"""Answers with a JSON body, and what every answer about sessions needs to know beside them."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Response
from pydantic import BaseModel

from viewer.access import public_origin
from viewer.model import HostStatus, Session
from viewer.public import PublicSession, SessionList, public_session, session_list
from viewer.rows import QUEUED
from viewer.services import services


def json_answer(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, content_type="application/json")


def host_statuses() -> dict[str, HostStatus]:
    return {host.name: host.status for host in services().store.fleet.hosts()}


def public(session: Session) -> PublicSession:
    """The session as its tenant sees it, at the origin that was asked."""
    return public_session(
        session,
        origin=public_origin(),
        hosts=host_statuses(),
        devtools=services().settings.images_with_devtools,
        queue=_queue_if_needed([session]),
    )


def public_list(sessions: Iterable[Session], next_cursor: str | None) -> SessionList:
    shown = tuple(sessions)
    return session_list(
        shown,
        next_cursor,
        origin=public_origin(),
        hosts=host_statuses(),
        devtools=services().settings.images_with_devtools,
        queue=_queue_if_needed(shown),
    )


def _queue_if_needed(sessions: Iterable[Session]) -> dict[str, int]:
    """Who waits is asked for only when somebody does."""
    if any(session.host is None and session.status_reason == QUEUED for session in sessions):
        return services().store.fleet.queue()
    return {}
