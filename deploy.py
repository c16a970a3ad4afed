"""The roll-out: one line per role, in order, a barrier between phases. `--data deskfleet_state=absent` undoes
it."""

from pyinfra.context import host

from inventory.models import HostConfig
from roles.caddy import RUNTIME as CADDY_RUNTIME
from roles.caddy import UNIT as CADDY_UNIT
from roles.caddy import caddy, no_caddy
from roles.caddyfile import needs_caddy
from roles.check import check
from roles.desktops import desktops, former_desktops, no_desktops, runtime_of
from roles.desktops import unit as desktop_unit
from roles.docker import NETWORK, docker, no_docker
from roles.files import barrier
from roles.foundation import foundation, no_foundation
from roles.images import EXECD_IMAGE, HOST_PACKAGES, images
from roles.opensandbox import no_opensandbox, opensandbox
from roles.opensandbox import unit as opensandbox_unit
from roles.packages import no_packages, packages
from roles.preflight import preflight
from roles.python import no_python, python
from roles.relay import DESKTOPS as DESKTOPS_RUNTIME
from roles.relay import no_relay, relay
from roles.relay import unit as relay_unit
from roles.units import keep_running, no_supervision, supervision
from roles.viewer import WORKER, no_viewer, viewer, viewer_unit
from roles.wheel import no_viewer_wheel, viewer_wheel

config = HostConfig.model_validate(host.data.get("deskfleet"))
settings, secrets = config.site.settings, config.secrets
on_edge, on_control = "edge" in host.groups, "control" in host.groups
on_sandboxes, on_desktops = "sandboxes" in host.groups, "desktops" in host.groups

if host.data.get("deskfleet_state") == "absent":
    if on_edge:
        no_caddy()
    if on_control:
        no_viewer()
    # Also where the host has left the group: it may have desktops of earlier site files.
    no_desktops(wanted=config.desktops)
    if on_sandboxes:
        no_relay()
        no_opensandbox()
        images(present=False)
        no_docker()
    no_viewer_wheel()
    no_python()
    no_supervision()
    no_packages(name="Purge our packages")
    no_foundation()
else:
    preflight(config=config)
    barrier(name="Phase: every host can take the roll-out")

    foundation()
    python()
    supervision(runtime=(CADDY_RUNTIME, DESKTOPS_RUNTIME, *(runtime_of(name) for name in config.desktops)))
    viewer_wheel()
    barrier(name="Phase: hosts are prepared")

    if on_sandboxes:
        docker()
        packages(name="Install what images are built with", names=HOST_PACKAGES)
        images(source=settings.images.source, registry=settings.images.registry)
        opensandbox(
            settings=settings,
            key=secrets.opensandbox_keys[config.name],
            execd_image=EXECD_IMAGE,
            network=NETWORK,
        )
        relay(settings=settings, key=secrets.relay_keys[config.name])
    if on_desktops:
        desktops(wanted=config.desktops)
    else:
        former_desktops()
    barrier(name="Phase: sandboxes and desktops are ready")

    if on_control:
        viewer(config=config)
    barrier(name="Phase: the control plane is ready")

    if needs_caddy(config):
        caddy(config=config)
    barrier(name="Phase: the edge is ready")

    keep_running(
        name="Start what was stopped",
        units=(
            opensandbox_unit(settings.ports.opensandbox),
            relay_unit(settings.ports.relay),
            *(desktop_unit(name) for name in config.desktops),
            viewer_unit(settings.ports.viewer),
            WORKER,
            CADDY_UNIT,
        ),
    )
    if on_edge:
        check(settings=settings, key=secrets.tenant_keys[config.site.tenants[0]].text)
