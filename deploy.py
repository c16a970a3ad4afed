"""The roll-out: one line per role, in order, a barrier between phases. `--data deskfleet_state=absent` undoes
it; `--data deskfleet_roles=caddy,viewer` runs these roles alone; `--data deskfleet_drop=box1` lets sandboxes
end whose host has left the site file; `--data deskfleet_replace=f-…` lets a fleet get
the keys of another one."""

from datetime import UTC, datetime

from pyinfra.context import host, state

from inventory.authority import warnings
from inventory.catalogue import images_of
from inventory.models import HostConfig
from roles.backends import backends_of
from roles.caddy import RUNTIME as CADDY_RUNTIME
from roles.caddy import caddy, no_caddy
from roles.caddy import unit_of as caddy_unit
from roles.caddyfile import needs_caddy
from roles.certificates import are_brought, no_certificates
from roles.check import check
from roles.choice import Chosen
from roles.desktops import desktops, former_desktops, no_desktops, runtime_of
from roles.desktops import unit as desktop_unit
from roles.docker import NETWORK, docker, no_docker
from roles.files import barrier
from roles.firewall import firewall, no_firewall
from roles.former import former
from roles.foundation import foundation, no_foundation
from roles.hostwatch import hostwatch, no_hostwatch
from roles.hostwatch import unit as hostwatch_unit
from roles.images import EXECD_IMAGE, HOST_PACKAGES, images
from roles.kasmvnc import kasmvnc
from roles.lego import UNIT as LEGO
from roles.lego import lego, needs_lego, no_lego
from roles.opensandbox import no_opensandbox, opensandbox
from roles.opensandbox import unit as opensandbox_unit
from roles.own_images import login_of, no_own_images, own_images
from roles.own_services import silent_services
from roles.packages import no_packages, packages
from roles.preflight import preflight
from roles.python import no_python, python
from roles.relay import DESKTOPS as DESKTOPS_RUNTIME
from roles.relay import no_relay, relay
from roles.relay import unit as relay_unit
from roles.report import REPORT, is_possible
from roles.units import keep_running, no_supervision, supervision
from roles.viewer import WORKER, newcomers, no_viewer, viewer, viewer_unit
from roles.wheel import no_viewer_wheel, viewer_wheel

config = HostConfig.model_validate(host.data.get("deskfleet"))
site, secrets, chosen = config.site, config.secrets, Chosen(host.data.get("deskfleet_roles"))
settings, ports = site.settings, site.settings.ports
on_edge, on_control = "edge" in host.groups, "control" in host.groups
on_sandboxes, on_desktops = "sandboxes" in host.groups, "desktops" in host.groups
has_relay, has_caddy = on_sandboxes or on_desktops, needs_caddy(config)

if host.data.get("deskfleet_state") == "absent":
    # Each also where the host has left the group: it may have what an earlier site file brought.
    no_caddy()
    no_lego()
    no_certificates()
    no_viewer()
    no_desktops(wanted=config.desktops)
    no_relay()
    no_hostwatch()
    no_opensandbox()
    no_own_images()
    images(present=False)
    no_docker()
    no_firewall()
    no_viewer_wheel()
    no_python()
    no_supervision()
    no_packages(name="Purge our packages")
    no_foundation()
else:
    preflight(
        config=config,
        drop=host.data.get("deskfleet_drop"),
        replace=host.data.get("deskfleet_replace"),
        chosen=chosen,
    )
    for sentence in silent_services(config):
        REPORT.note(sentence)
    if are_brought(config, chosen):
        REPORT.brings_certificate(config.name)
    REPORT.certificates(secrets.certificates)
    for sentence in warnings(secrets.certificates, datetime.now(UTC)):
        REPORT.note(sentence)
    barrier(name="Phase: every host can take the roll-out")

    foundation()
    python()
    supervision(
        runtime=(
            *((CADDY_RUNTIME,) if has_caddy else ()),
            *((DESKTOPS_RUNTIME,) if has_relay else ()),
            *(runtime_of(name) for name in config.desktops),
        )
    )
    if (
        (has_relay and "relay" in chosen)
        or (on_sandboxes and "hostwatch" in chosen)
        or (on_control and "viewer" in chosen)
        or (on_edge and "check" in chosen)
    ):
        # Under a program that is not restarted it is not switched: a crash would bring up half of the new.
        viewer_wheel()
    barrier(name="Phase: hosts are prepared")

    if "firewall" in chosen and site.has_firewall:
        firewall(config=config)
    if "firewall" in chosen and not site.has_firewall:
        no_firewall()
    barrier(name="Phase: hosts are shut")

    if on_sandboxes and "docker" in chosen:
        docker()
    if on_sandboxes and "images" in chosen:
        packages(name="Install what images are built with", names=HOST_PACKAGES)
        images(
            source=settings.images.source,
            registry=settings.images.registry,
            names=tuple(image.name for image in images_of(site) if not image.is_own),
            login=login_of(config),
        )
        own_images(config=config)
    if on_sandboxes and "opensandbox" in chosen:
        opensandbox(
            settings=settings,
            key=secrets.opensandbox_keys[config.name],
            execd_image=EXECD_IMAGE,
            network=NETWORK,
        )
    if on_sandboxes and "hostwatch" in chosen:
        hostwatch(settings=settings, key=secrets.relay_keys[config.name], fleet_id=secrets.fleet_id)
    if has_relay and "relay" in chosen:
        relay(settings=settings, key=secrets.relay_keys[config.name], has_sandboxes=on_sandboxes)
    if on_desktops and "desktops" in chosen:
        kasmvnc(config=config)
        desktops(config=config)
        for name, runs in backends_of(config).items():
            sentence = f"desktop {name} on {config.name} runs {runs.backend}: {runs.reason}"
            REPORT.note(sentence, once_done=host.name)
    if not on_desktops and "desktops" in chosen:
        former_desktops()
    former(config=config, chosen=chosen)
    barrier(name="Phase: sandboxes and desktops are ready")

    if on_control and "viewer" in chosen:
        if site.spreads:
            edge = site.edge if "caddy" in chosen else ""
            REPORT.newcomers(newcomers(config), control=config.name, edge=edge)
        viewer(config=config)
    barrier(name="Phase: the control plane is ready")

    if has_caddy and not on_edge and "caddy" in chosen:
        caddy(config=config)
    barrier(name="Phase: the hosts let each other in")

    if on_edge and "lego" in chosen and needs_lego(config):
        lego(config=config)
    if on_edge and "caddy" in chosen:
        caddy(config=config)
    if on_edge and "lego" in chosen and not needs_lego(config):
        # After Caddy, which served what lego had obtained until now.
        no_lego()
    barrier(name="Phase: the edge is ready")

    keep_running(
        name="Start what was stopped",
        units=(
            *((opensandbox_unit(ports.opensandbox),) if on_sandboxes and "opensandbox" in chosen else ()),
            *((hostwatch_unit(ports.hostwatch),) if on_sandboxes and "hostwatch" in chosen else ()),
            *((relay_unit(ports.relay),) if has_relay and "relay" in chosen else ()),
            *(desktop_unit(name) for name in config.desktops if "desktops" in chosen),
            *((viewer_unit(ports.viewer), WORKER) if on_control and "viewer" in chosen else ()),
            *((caddy_unit(config),) if has_caddy and "caddy" in chosen else ()),
            *((LEGO,) if on_edge and needs_lego(config) and "lego" in chosen else ()),
        ),
    )
    barrier(name="Phase: everything runs")

    if on_edge and "check" in chosen:
        check(
            config=config,
            _if=lambda: is_possible(state, "The check", needs=(site.edge, site.control)),
        )
    if not on_edge and "check" in chosen:
        # The host where it runs may be the one that is left out, and then says nothing.
        is_possible(state, "The check", needs=(site.edge, site.control))
