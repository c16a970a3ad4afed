"""Waiting for a session to become what is wanted, without taking every thread of the server."""

from __future__ import annotations

import time
from collections.abc import Callable

from viewer.access import principal
from viewer.model import Session
from viewer.services import services


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
