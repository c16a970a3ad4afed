"""What the bench's groups of the control plane share: one real opensandbox-server on a dockerd of its own,
with tiny sandboxes, so that what is measured is ours and not a desktop's start."""

from __future__ import annotations

import atexit
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from tests.hosts.own_docker import own_dockerd
from tests.real_opensandbox import RealOpenSandbox, real_opensandbox
from tests.relay_process import RelayProcess, running_relay

_stack = ExitStack()
atexit.register(_stack.close)


@cache
def tiny_host() -> tuple[RealOpenSandbox, RelayProcess]:
    """Up until the run ends."""
    daemon = _stack.enter_context(own_dockerd("bench"))
    folder = Path(_stack.enter_context(tempfile.TemporaryDirectory(prefix="deskfleet-bench-")))
    server = _stack.enter_context(real_opensandbox(daemon, folder))
    relay = _stack.enter_context(
        running_relay(folder, publish_address=daemon.address, opensandbox_url=server.url)
    )
    return server, relay
