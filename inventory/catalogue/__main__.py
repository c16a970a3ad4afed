"""`python -m inventory.catalogue [site]`: the services of a site as a table, and why each is there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from inventory.catalogue import Service, stack_of
from inventory.models import Site
from inventory.site_file import SiteRefused, load_site, site_path

COLUMNS = ("name", "host", "port", "websocket", "address", "role", "requires", "chosen by")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) > 1:
        print("usage: python -m inventory.catalogue [site]", file=sys.stderr)
        return 2
    if arguments:
        os.environ["DESKFLEET_SITE"] = arguments[0]
    try:
        site = load_site(site_path())
    except SiteRefused as error:
        print(error, file=sys.stderr)
        return 1
    print(table(site))
    return 0


def table(site: Site) -> str:
    """One line per service, columns as wide as their widest word."""
    rows = [COLUMNS, *(_row(service, site) for service in stack_of(site))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(service: Service, site: Site) -> tuple[str, ...]:
    return (
        service.name,
        ", ".join(service.hosts),
        str(service.port),
        "yes" if service.websocket else "no",
        _address(service, site) or "-",
        service.role + (f" of {service.tenant}" if service.tenant else ""),
        ", ".join(service.requires) or "-",
        service.why,
    )


def _address(service: Service, site: Site) -> str | None:
    """Where people open it."""
    settings = site.settings
    origin = settings.origins[0]
    if service.name == "viewer":
        return origin
    if service.name == "kasmvnc" and settings.content:
        return origin.replace(settings.domain, f"<desktop>.{settings.content}", 1)
    name = service.host_name(settings)
    return origin.replace(settings.domain, name, 1) if name else None


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that has enough, such as `head`, is no error
    sys.exit(main(sys.argv[1:]))
