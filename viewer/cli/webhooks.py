"""`deskfleet webhooks`: where events are sent, and how that went. For admins."""

from __future__ import annotations

import argparse

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, whole_number
from viewer.cli.output import Output, age, listing, moment, plain, table, until
from viewer.cli.paging import collect
from viewer.deliveries.model import EVENT_TYPES, DeliveryStatus
from viewer.deliveries.public import (
    CreateWebhook,
    DeliveryList,
    DeliveryQuery,
    PatchWebhook,
    PublicDelivery,
    PublicWebhook,
    WebhookWithSecret,
)


def add_to(nouns: Nouns) -> None:
    verbs = noun(nouns, "webhooks", "addresses that your tenant's events are sent to (admins)")
    leaf(verbs, "list", _list, "list them")
    made = leaf(
        verbs, "create", _create, "have events sent to an address from now on; shows its secret, once"
    )
    made.add_argument("webhook_url", metavar="ADDRESS")
    _add_wishes(made)
    leaf(verbs, "show", _show, "show one of them").add_argument("id")
    changed = leaf(verbs, "change", _change, "change its address, types or label")
    changed.add_argument("id")
    changed.add_argument("--address", metavar="ADDRESS")
    _add_wishes(changed)
    changed.add_argument("--all-types", action="store_true", help="every type of event again")
    leaf(verbs, "disable", _disable, "send nothing there").add_argument("id")
    leaf(verbs, "enable", _enable, "send there what happens from now on").add_argument("id")
    leaf(verbs, "delete", _delete, "delete it with its log").add_argument("id")
    leaf(verbs, "rotate", _rotate, "sign with a new secret, shown once").add_argument("id")
    leaf(verbs, "test", _test, "send a trial").add_argument("id")
    logged = leaf(verbs, "deliveries", _deliveries, "show what was sent there, and how that went")
    logged.add_argument("id")
    logged.add_argument("--status", choices=[status.value for status in DeliveryStatus])
    logged.add_argument("--limit", type=whole_number, default=50, help="how many at most, 50 if not given")
    again = leaf(verbs, "retry", _retry, "send one delivery now, also one that was given up")
    again.add_argument("id")
    again.add_argument("delivery")


def _add_wishes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--label", help="what you call it")
    parser.add_argument(
        "--type", action="append", choices=EVENT_TYPES, help="only these events; may be given again"
    )


def _list(_asked: argparse.Namespace, api: Api, out: Output) -> int:
    found = api.webhooks()
    header = ("WEBHOOK", "STATE", "ADDRESS", "TYPES", "LABEL", "AGE")
    rows = [
        (one.id, _state(one), one.url, ", ".join(one.types) or "all", one.label or None, age(one.created_at))
        for one in found.items
    ]
    out.show(found, table(header, rows))
    return 0


def _create(asked: argparse.Namespace, api: Api, out: Output) -> int:
    types = tuple(asked.type) if asked.type else None
    return _say_secret(
        api.create_webhook(given(CreateWebhook, url=asked.webhook_url, label=asked.label, types=types)), out
    )


def _show(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say(api.webhook(asked.id), out)


def _change(asked: argparse.Namespace, api: Api, out: Output) -> int:
    types: tuple[str, ...] | None = () if asked.all_types else tuple(asked.type) if asked.type else None
    wanted = given(PatchWebhook, url=asked.address, label=asked.label, types=types)
    return _say(api.change_webhook(asked.id, wanted), out)


def _disable(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say(api.change_webhook(asked.id, PatchWebhook(enabled=False)), out)


def _enable(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say(api.change_webhook(asked.id, PatchWebhook(enabled=True)), out)


def _delete(asked: argparse.Namespace, api: Api, out: Output) -> int:
    api.delete_webhook(asked.id)
    out.note(f"webhook {asked.id} is gone")
    return 0


def _rotate(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say_secret(api.rotate_webhook(asked.id), out)


def _test(asked: argparse.Namespace, api: Api, out: Output) -> int:
    trial = api.try_webhook(asked.id)
    out.show(trial, f"trial {trial.id} is on its way; `deskfleet webhooks deliveries {asked.id}` says more")
    return 0


def _deliveries(asked: argparse.Namespace, api: Api, out: Output) -> int:
    def page(cursor: str | None, limit: int) -> DeliveryList:
        return api.deliveries(asked.id, given(DeliveryQuery, status=asked.status, limit=limit, cursor=cursor))

    found, cursor = collect(page, asked.limit)
    header = ("DELIVERY", "TYPE", "STATUS", "AGE", "ATTEMPTS", "NEXT", "LAST OUTCOME")
    rows = [
        (
            one.id,
            one.type,
            one.status,
            age(one.created_at),
            str(len(one.attempts)),
            until(one.next_attempt_at),
            _last_outcome(one),
        )
        for one in found
    ]
    out.show(DeliveryList(items=found, next_cursor=cursor), table(header, rows))
    return 0


def _retry(asked: argparse.Namespace, api: Api, out: Output) -> int:
    delivery = api.retry_delivery(asked.id, asked.delivery)
    out.show(delivery, f"delivery {delivery.id} is due now")
    return 0


def _last_outcome(delivery: PublicDelivery) -> str | None:
    if not delivery.attempts:
        return None
    last = delivery.attempts[-1]
    said = " ".join(str(part) for part in (last.status_code, last.error) if part is not None)
    return f"{said} ({last.took_ms} ms)"


def _state(webhook: PublicWebhook) -> str:
    if not webhook.enabled:
        return "disabled"
    return "ok" if webhook.failing_since is None else "failing"


def _say(webhook: PublicWebhook, out: Output) -> int:
    out.show(webhook, _listing(webhook))
    return 0


def _say_secret(webhook: WebhookWithSecret, out: Output) -> int:
    out.show(webhook, f"{_listing(webhook)}\nsecret, shown this once: {plain(webhook.secret)}")
    return 0


def _listing(webhook: PublicWebhook) -> str:
    return listing(
        (
            ("webhook", webhook.id),
            ("address", webhook.url),
            ("label", webhook.label),
            ("types", ", ".join(webhook.types) or "all"),
            ("state", _state(webhook)),
            ("disabled", webhook.disabled_reason),
            ("failing since", moment(webhook.failing_since)),
            ("former secret", f"until {moment(end)}" if (end := webhook.former_secret_ends_at) else None),
            ("created", f"{moment(webhook.created_at)} by {webhook.created_by}"),
        )
    )
