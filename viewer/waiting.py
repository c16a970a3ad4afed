"""Waiting for a session to become what is wanted, without taking every thread of the server."""

from __future__ import annotations

import time
from collections.abc import Callable

from viewer.access import principal
from viewer.answers import host_statuses
from viewer.model import HostStatus, Session, Status
from viewer.services import services

TERMINATION_WAIT_SECONDS = 15.0
SILENT_HOST_WAIT_SECONDS = 1.0


def wait_until(session: Session, reached: Callable[[Session], bool], seconds: float) -> Session:
    """The session once it is as wanted, or as it is after `seconds`; at once when too many wait already."""
    here, who = services(), principal()
    if reached(session) or seconds <= 0 or not here.waits.take(who):
        return session
    tenant, deadline = here.store.tenant(who.tenant), time.monotonic() + seconds
    try:
        while not reached(session) and not here.stopping.is_set():
            mark = here.store.mark()
            session = tenant.get(session.id)
            left = deadline - time.monotonic()
            if reached(session) or left <= 0:
                break
            here.store.wait_for_change(left, since=mark)
        return session
    finally:
        here.waits.give_back(who)


def is_made(session: Session) -> bool:
    return session.status is not Status.CREATING


def settled(wanted: Status) -> Callable[[Session], bool]:
    """Is it so, or will it not become so?"""
    return lambda now: now.status is wanted or now.wanted_status is None


def patience(session: Session) -> float:
    """How long to wait for what was asked of the session's host, in seconds."""
    return SILENT_HOST_WAIT_SECONDS if is_host_silent(session) else TERMINATION_WAIT_SECONDS


def is_host_silent(session: Session) -> bool:
    return session.host is not None and host_statuses().get(session.host) is HostStatus.UNREACHABLE
