"""`deskfleet shares`: links by which a desktop is watched without an account."""

from __future__ import annotations

import argparse

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, seconds
from viewer.cli.output import Output, age, moment, plain, table, until
from viewer.incoming import CreateShare
from viewer.share_answers import PublicShare, ShareVisit


def add_to(nouns: Nouns) -> None:
    verbs = noun(nouns, "shares", "links by which a desktop is watched without an account")
    made = leaf(verbs, "create", _create, "make a link to watch a desktop; shows it, once")
    made.add_argument("session")
    made.add_argument("--label", help="whom it is for")
    made.add_argument("--ttl", type=seconds, metavar="DURATION", help="good for so long; 1h if not given")
    made.add_argument("--single-use", action="store_true", help="only for the first browser that opens it")
    leaf(verbs, "list", _list, "list the links to a desktop, and who came by them").add_argument("session")
    revoked = leaf(verbs, "revoke", _revoke, "revoke one: whoever watches by it is out")
    revoked.add_argument("session")
    revoked.add_argument("share")


def _create(asked: argparse.Namespace, api: Api, out: Output) -> int:
    wanted = given(CreateShare, label=asked.label, ttl_seconds=asked.ttl, single_use=asked.single_use)
    made = api.create_share(asked.session, wanted)
    out.show(made, plain(made.url))
    out.note(f"share {made.id}, good until {moment(made.expires_at)}; the link is shown this once")
    return 0


def _list(asked: argparse.Namespace, api: Api, out: Output) -> int:
    found = api.shares(asked.session)
    rows = [row for share in found.items for row in _rows(share)]
    out.show(found, table(("SHARE", "STATE", "LABEL", "AGE", "ADDRESS", "LAST SEEN", "WATCHING"), rows))
    return 0


def _rows(share: PublicShare) -> list[tuple[str | None, ...]]:
    """One for each browser that came by it, and one for a link that nobody has used."""
    known = (share.id, _state(share), share.label, age(share.created_at))
    return [(*known, *_seen(visit)) for visit in share.visits] or [(*known, None, None, None)]


def _state(share: PublicShare) -> str:
    if share.revoked_at is not None:
        return "revoked"
    return "over" if share.is_over else f"ends {until(share.expires_at)}"


def _seen(visit: ShareVisit) -> tuple[str | None, str | None, str | None]:
    watching = None if visit.streams_open is None else "yes" if visit.streams_open else "no"
    return visit.address, age(visit.last_seen_at), watching


def _revoke(asked: argparse.Namespace, api: Api, out: Output) -> int:
    api.revoke_share(asked.session, asked.share)
    out.note(f"share {asked.share} lets nobody in any more")
    return 0
