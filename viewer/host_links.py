"""What reaches each sandbox host, as the settings name it: for the worker, and for who looks into a host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from viewer.hostwatch_client import HostwatchClient
from viewer.lifecycle import HostLink
from viewer.placing import capacity_of
from viewer.relay_client import RelayClient
from viewer.sandbox_hosts import SandboxHost
from viewer.settings import HostSettings, Settings


def links_of(settings: Settings, relays: Mapping[str, RelayClient]) -> Iterator[HostLink]:
    """What reaches each sandbox host."""
    for host in settings.hosts:
        key = host.opensandbox_key()
        if host.opensandbox_url is None or key is None:
            continue
        yield HostLink(
            name=host.name,
            sandboxes=SandboxHost(
                host.name,
                url=host.opensandbox_url,
                key=key.get_secret_value(),
                fleet_id=settings.fleet_id,
                node=settings.node(host),
            ),
            relay=relays.get(host.name),
            capacity=capacity_of(host),
            hostwatch=_hostwatch_of(host, settings),
        )


def _hostwatch_of(host: HostSettings, settings: Settings) -> HostwatchClient | None:
    if host.hostwatch_url is None:
        return None
    return HostwatchClient(host.name, url=host.hostwatch_url, key=host.relay_key(), node=settings.node(host))
