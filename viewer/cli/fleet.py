"""`deskfleet hosts`, `deskfleet images` and `deskfleet me`."""

from __future__ import annotations

import argparse

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, leaf, noun
from viewer.cli.output import Output, age, listing, plain, table
from viewer.incoming import DrainHost
from viewer.public import HostList, PublicHost


def add_to(nouns: Nouns) -> None:
    hosts = noun(nouns, "hosts", "the machines that carry desktops")
    leaf(hosts, "list", _list_hosts, "list hosts with what is taken of them, and what is amiss")
    drained = leaf(hosts, "drain", _drain, "give a host no new sandboxes; those that run go on (admins)")
    drained.add_argument("name")
    leaf(hosts, "undrain", _undrain, "give a host sandboxes again (admins)").add_argument("name")
    images = noun(nouns, "images", "what desktops are made from")
    leaf(images, "list", _list_images, "list the images that a desktop can be asked for with")
    leaf(nouns, "me", _me, "show whose key this is")


def _list_hosts(_asked: argparse.Namespace, api: Api, out: Output) -> int:
    found = api.hosts()
    out.show(found, _hosts_as_text(found))
    return 0


def _hosts_as_text(found: HostList) -> str:
    header = ("HOST", "STATUS", "GROUPS", "DESKTOPS", "CPU", "MEMORY", "SEEN")
    remarks = [f"{host.name}: {plain(remark)}" for host in found.items for remark in _remarks(host)]
    return "\n".join([table(header, [_row(host) for host in found.items]), *remarks])


def _row(host: PublicHost) -> tuple[str | None, ...]:
    is_for_sandboxes = host.max_desktops > 0
    return (
        host.name,
        "draining" if host.draining else host.status,
        ",".join(host.groups),
        f"{host.used_desktops}/{host.max_desktops}" if is_for_sandboxes else None,
        f"{host.used_cpu}/{host.max_cpu or 'any'}" if is_for_sandboxes else None,
        f"{host.used_memory}/{host.max_memory or 'any'}" if is_for_sandboxes else None,
        f"{age(host.last_seen_at)} ago" if host.last_seen_at else None,
    )


def _remarks(host: PublicHost) -> tuple[str, ...]:
    return host.warnings if host.detail is None else (host.detail, *host.warnings)


def _drain(asked: argparse.Namespace, api: Api, out: Output) -> int:
    host = api.drain(asked.name, DrainHost(draining=True))
    out.show(host, f"{host.name} gets no new sandboxes; {host.used_desktops} run on")
    return 0


def _undrain(asked: argparse.Namespace, api: Api, out: Output) -> int:
    host = api.drain(asked.name, DrainHost(draining=False))
    out.show(host, f"{host.name} gets sandboxes again")
    return 0


def _list_images(_asked: argparse.Namespace, api: Api, out: Output) -> int:
    found = api.images()
    rows = [
        (
            f"{image.name} (default)" if image.name == found.defaults.image else image.name,
            image.display,
            ", ".join(image.aliases),
        )
        for image in found.items
    ]
    out.show(found, table(("IMAGE", "DISPLAY", "ALSO CALLED"), rows))
    return 0


def _me(_asked: argparse.Namespace, api: Api, out: Output) -> int:
    me = api.me()
    out.show(me, listing((("key", me.id), ("tenant", me.tenant), ("role", me.role))))
    return 0
