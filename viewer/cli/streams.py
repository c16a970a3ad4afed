"""`deskfleet streams` and `deskfleet tickets`: who has a desktop open, and ways to one stream of it."""

from __future__ import annotations

import argparse

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, seconds
from viewer.cli.output import Output, age, listing, moment, table
from viewer.incoming import CreateTicket
from viewer.tickets import TicketRole


def add_to(nouns: Nouns) -> None:
    streams = noun(nouns, "streams", "who has a desktop open")
    leaf(streams, "list", _list, "list who has this session open, since when").add_argument("session")
    closes = leaf(streams, "close", _close, "close somebody's stream; it does not come back by itself")
    closes.add_argument("session")
    closes.add_argument("stream", help="its id, as the list shows it")
    tickets = noun(nouns, "tickets", "short-lived ways to one session's stream")
    makes = leaf(tickets, "create", _create, "make one; it is shown this once")
    makes.add_argument("session")
    makes.add_argument("--role", type=TicketRole, choices=list(TicketRole), help="watch if not given")
    makes.add_argument("--ttl", type=seconds, metavar="DURATION", help="from 5s to 1h, 60s if not given")
    makes.add_argument(
        "--several", action="store_true", help="for as many streams as come in its time, not for one alone"
    )
    revokes = leaf(tickets, "revoke", _revoke, "revoke one, and close what was opened by it")
    revokes.add_argument("session")
    revokes.add_argument("ticket", help="its id, not the ticket itself")


def _list(asked: argparse.Namespace, api: Api, out: Output) -> int:
    found = api.streams(asked.session)
    rows = [
        (one.stream_id, one.kind, one.name, one.role, one.via, age(one.opened_at),
         None if one.last_input_at is None else f"{age(one.last_input_at)} ago")
        for one in found.items
    ]  # fmt: skip
    out.show(found, table(("STREAM", "KIND", "WHO", "ROLE", "BY", "SINCE", "LAST INPUT"), rows))
    return 0


def _close(asked: argparse.Namespace, api: Api, out: Output) -> int:
    api.close_stream(asked.session, asked.stream)
    out.note(f"{asked.stream} is closed")
    return 0


def _create(asked: argparse.Namespace, api: Api, out: Output) -> int:
    wanted = given(
        CreateTicket, role=asked.role, ttl_seconds=asked.ttl, single_use=False if asked.several else None
    )
    made = api.create_ticket(asked.session, wanted)
    pairs = (
        ("id", made.id),
        ("ticket", made.ticket),
        ("stream", made.stream_url),
        ("role", made.role),
        ("until", moment(made.expires_at)),
    )
    out.show(made, listing(pairs))
    return 0


def _revoke(asked: argparse.Namespace, api: Api, out: Output) -> int:
    api.revoke_ticket(asked.session, asked.ticket)
    out.note(f"{asked.ticket} is good no more")
    return 0
