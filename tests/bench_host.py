"""The live stack that the bench measures: a bare host after `make up`, shared by the groups of one run."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cache

from tests.hosts.bare_host import Variant, bare_hosts
from tests.hosts.listing import list_host
from tests.online.fleet import Fleet

_stack = ExitStack()
atexit.register(_stack.close)


@cache
def bench_fleet() -> Fleet:
    """Brought up once a run. With DESKFLEET_TEST_KEEP=1 the host stays, and the next run takes it over."""
    hosts = _stack.enter_context(bare_hosts())
    host, is_new = hosts.start(Variant.PLAIN, "bare-bench")
    host.put_clone()
    fleet = Fleet(host, list_host(host))
    up = fleet.make("up")
    fleet.first_up = up if is_new else None
    return fleet
