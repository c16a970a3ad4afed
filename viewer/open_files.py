"""How many files and connections a process may have open."""

from __future__ import annotations

import logging
import resource

_log = logging.getLogger("deskfleet")


def allow_open_files(needed: int, *, what: str) -> None:
    """Raise the soft limit, which is usually 1024, to what `what` need, as far as the hard one lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if possible > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < needed:
        _log.warning("open files are limited to %d; %s need %d", hard, what, needed)
