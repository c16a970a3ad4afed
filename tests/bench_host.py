"""The machines that the bench measures: one dockerd for all groups of a run, and on it a bare host after
`make up`."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cache

from tests.hosts.bare_host import BareHosts, Variant, bare_hosts
from tests.hosts.listing import list_host
from tests.online.fleet import Fleet

_stack = ExitStack()
atexit.register(_stack.close)


@cache
def bench_hosts() -> BareHosts:
    """Up until the run ends. One for all groups: a process can't have the same dockerd twice."""
    return _stack.enter_context(bare_hosts())


@cache
def bench_fleet() -> Fleet:
    """Brought up once a run. With DESKFLEET_TEST_KEEP=1 the host stays, and the next run takes it over."""
    host, is_new = bench_hosts().start(Variant.PLAIN, "bare-bench")
    host.put_clone()
    fleet = Fleet(host, list_host(host))
    up = fleet.make("up")
    fleet.first_up = up if is_new else None
    return fleet
