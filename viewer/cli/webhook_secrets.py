"""`deskfleet webhook-secrets`: what outside systems sign their events with."""

from __future__ import annotations

import argparse

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, seconds
from viewer.cli.output import Output, age, listing, table, until
from viewer.incoming import CreateWebhookSecret, RotateWebhookSecret
from viewer.public import NewWebhookSecret, PublicWebhookSecret


def add_to(nouns: Nouns) -> None:
    verbs = noun(nouns, "webhook-secrets", "what outside systems sign their events with (admins)")
    leaf(verbs, "list", _list, "list them, newest first; none is shown itself")
    made = leaf(verbs, "create", _create, "make one; it is shown this once")
    made.add_argument("label", help="such as the name of what sends")
    rotated = leaf(verbs, "rotate", _rotate, "put a new one in the place of one; it is shown this once")
    rotated.add_argument("id")
    rotated.add_argument("--overlap", type=seconds, help="for how long the old one is good, 1d if not given")
    leaf(verbs, "revoke", _revoke, "end one at once").add_argument("id")


def _list(_asked: argparse.Namespace, api: Api, out: Output) -> int:
    found = api.webhook_secrets()
    rows = [
        (one.id, one.label, _state(one), one.created_by, age(one.created_at), _last_use(one))
        for one in found.items
    ]
    out.show(found, table(("ID", "LABEL", "GOOD", "BY", "AGE", "USED"), rows))
    return 0


def _state(one: PublicWebhookSecret) -> str:
    if one.revoked_at is not None:
        return "revoked"
    return "yes" if one.ends_at is None else f"ends {until(one.ends_at)}"


def _last_use(one: PublicWebhookSecret) -> str | None:
    return None if one.last_used_at is None else f"{age(one.last_used_at)} ago"


def _create(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say(api.create_webhook_secret(given(CreateWebhookSecret, label=asked.label)), out)


def _rotate(asked: argparse.Namespace, api: Api, out: Output) -> int:
    wanted = given(RotateWebhookSecret, overlap_seconds=asked.overlap)
    return _say(api.rotate_webhook_secret(asked.id, wanted), out)


def _say(made: NewWebhookSecret, out: Output) -> int:
    out.show(made, listing((("id", made.id), ("url", made.url), ("secret", made.secret))))
    return 0


def _revoke(asked: argparse.Namespace, api: Api, out: Output) -> int:
    api.revoke_webhook_secret(asked.id)
    out.note(f"{asked.id} is good no more")
    return 0
