"""The lease as the viewer's routes need it: taken or refused, and told to the relay that keeps it.

The table is the truth, and changes first. The relay of the session's host hears of it right afterwards; where
it does not answer, the change stands all the same, and the worker tells it as soon as it does.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from datetime import timedelta

from viewer.leases import LeaseHeld, kind_of
from viewer.model import Lease, LeaseKind, Principal, Session, utcnow
from viewer.problems import lease_held
from viewer.relay_client import RelayUnreachable
from viewer.services import services

EXECD_PORT = 44772
"""OpenSandbox's own program in every sandbox; its `/proxy/<port>/` leads on to any other port there."""

_log = logging.getLogger("deskfleet.viewer")


def tell_relay(session: Session, lease: Lease, *, given_back: bool = False) -> None:
    """given_back: nobody lost it against his will, so no stream of his is to be cut."""
    relay = services().relays.get(session.host or "")
    if relay is None:
        return
    try:
        relay.set_lease(lease, given_back=given_back)
    except RelayUnreachable as problem:
        _log.warning("session %s: its relay will hear of the new holder later: %s", session.id, problem)


def seconds_of(kind: LeaseKind) -> int:
    """How long it is his who names no time."""
    control = services().settings.control
    return control.agent_seconds if kind is LeaseKind.AGENT else control.most_seconds


def hold_for_input(session: Session, who: Principal) -> Lease:
    """For input that is sent through the API: taken where nobody has it, and lasting from now on where it is
    his. Raises the problem 423 where anybody else has it. The session runs."""
    here, kind = services(), kind_of(who)
    seconds = here.settings.control.agent_seconds if kind is LeaseKind.AGENT else seconds_of(kind)
    known = here.store.leases.of(session.id)
    if known.is_held_by(who.holder) and _lasts(known, seconds):
        return known
    try:
        lease = here.store.leases.hold(
            session, who, name=here.store.accounts.name_of(who), kind=kind, seconds=seconds
        )
    except LeaseHeld as error:
        raise lease_held(error.lease) from error
    if lease.number != known.number:
        tell_relay(session, lease)
    return lease


def _lasts(lease: Lease, seconds: int) -> bool:
    """Not each input is worth a line in the database: half of the time is left."""
    return lease.ends_at is not None and lease.ends_at - utcnow() > timedelta(seconds=seconds / 2)


def acts_around_the_keyboard(session: Session, ports: Set[int]) -> bool:
    """Does one of these ports of the session lead to its desktop beside keyboard and mouse: execd, which runs
    commands (unless the tenant lets it, whoever has them), or the browser's DevTools?"""
    here = services().settings
    devtools = here.devtools_port(session.image)
    around = set() if devtools is None else {devtools}
    if not here.tenant(session.tenant_id).execd_while_held:
        around.add(EXECD_PORT)
    return bool(ports & around)


def check_may_act(lease: Lease | None, who: Principal) -> None:
    """Raise the problem 423 while another person has keyboard and mouse; for ways around them."""
    if lease is not None and is_anothers(lease, who):
        raise lease_held(lease)


def is_anothers(lease: Lease, who: Principal) -> bool:
    """Has another person keyboard and mouse?"""
    lasts = lease.ends_at is None or lease.ends_at > utcnow()
    return lasts and lease.is_a_persons and not lease.is_held_by(who.holder)
