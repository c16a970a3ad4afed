"""`deskfleet lease`: who has keyboard and mouse of a desktop."""

from __future__ import annotations

import argparse

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, seconds
from viewer.cli.output import Output, listing, moment, until
from viewer.incoming import AskForLease, GiveLease, ReleaseLease, RenewLease, TakeLease
from viewer.public_leases import LeaseAnswer

_FOR = "for how long; 30s after the last input if not given"


def add_to(nouns: Nouns) -> None:
    verbs = noun(nouns, "lease", "who has keyboard and mouse of a desktop")
    leaf(verbs, "show", _show, "show who has them, and who asks for them").add_argument("session")
    takes = leaf(verbs, "take", _take, "take them where nobody has them, or keep them for longer")
    takes.add_argument("session")
    takes.add_argument("--reason", help="what for; everybody sees it")
    takes.add_argument("--for", dest="seconds", type=seconds, metavar="DURATION", help=_FOR)
    renews = leaf(verbs, "renew", _renew, "keep them, from now")
    renews.add_argument("session")
    renews.add_argument("--for", dest="seconds", type=seconds, metavar="DURATION", help=_FOR)
    asks = leaf(verbs, "request", _request, "ask whoever has them for them")
    asks.add_argument("session")
    asks.add_argument("--reason", help="what for; everybody sees it")
    leaf(verbs, "withdraw", _withdraw, "ask for them no longer").add_argument("session")
    gives = leaf(verbs, "give", _give, "give them to somebody who asks for them")
    gives.add_argument("session")
    gives.add_argument("to", help="his id, as `show` has it")
    releases = leaf(verbs, "release", _release, "give them back")
    releases.add_argument("session")
    releases.add_argument("--force", action="store_true", help="whoever has them; for admins")


def _show(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _said(api.lease(asked.session), out)


def _take(asked: argparse.Namespace, api: Api, out: Output) -> int:
    wanted = given(TakeLease, reason=asked.reason, seconds=asked.seconds)
    return _said(api.change_lease(asked.session, "take", wanted), out)


def _renew(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _said(api.change_lease(asked.session, "renew", given(RenewLease, seconds=asked.seconds)), out)


def _request(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _said(api.change_lease(asked.session, "request", given(AskForLease, reason=asked.reason)), out)


def _withdraw(asked: argparse.Namespace, api: Api, out: Output) -> int:
    api.withdraw_lease_request(asked.session)
    out.note("you do not ask for control")
    return 0


def _give(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _said(api.change_lease(asked.session, "give", given(GiveLease, to=asked.to)), out)


def _release(asked: argparse.Namespace, api: Api, out: Output) -> int:
    wanted = given(ReleaseLease, force=asked.force or None)
    return _said(api.change_lease(asked.session, "release", wanted), out)


def _said(lease: LeaseAnswer, out: Output) -> int:
    holder = lease.holder
    pairs: list[tuple[str, str | None]] = [
        ("control", "nobody" if holder is None else holder.name),
        ("kind", None if holder is None else holder.kind.value),
        ("yours", None if holder is None else "yes" if holder.id == lease.you else "no"),
        ("reason", lease.reason),
        ("since", moment(lease.since)),
        ("ends", until(lease.ends_at)),
        *((f"asked by {one.by.name}", one.by.id) for one in lease.requests),
    ]
    out.show(lease, listing(pairs))
    return 0
