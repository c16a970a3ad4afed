"""`make fleet`: the example site on machines made on this one. `make fleet-down` takes all away again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from inventory.models import Site
from inventory.secrets import SecretsUnreadable, load_secrets
from inventory.site_file import SiteRefused, load_site
from roles.check import AUTHORITY
from roles.progress import Progress
from roles.up import LOCAL, failure, roll_out, sign_in_link, write_environment
from roles.wheel import WheelNotBuilt, wheel
from tests.as_root import given_back, typed_by_sudo
from tests.fleet.desktop_images import ImagesNotMade, docker_data
from tests.fleet.machines import bring_up, lan_of, machines
from tests.fleet.operator import EXAMPLE, NotOverSsh, Operator
from tests.hosts.bare_host import BareHost, BareHosts, HostCommandFailed, bare_hosts, ensure_image
from tests.hosts.lan import Lan
from tests.hosts.own_docker import OwnDockerError, take_down
from tests.run import NEEDS, install_what_is_missing

DAEMON = "fleet"
FOLDER = LOCAL / "fleet"
ENVIRONMENT = LOCAL / "fleet.env"
TELLS_WHAT_IT_NEEDS = """make fleet needs root (or sudo) and Docker's programs (dockerd, containerd, docker);
Debian's packages for what is missing are installed first. The machine's own Docker is never touched."""
WHY_ROOT = "The machines are containers with networks of their own, which takes root"
USED = {"dockerd", "docker", "containerd", "iptables", "ip", "nsenter", "mmdebstrap", "ssh-keygen"}


def up() -> int:
    started = time.monotonic()
    print(TELLS_WHAT_IT_NEEDS, flush=True)
    install_what_is_missing([need for need in NEEDS if need.program in USED])
    operator = Operator(FOLDER.resolve())
    operator.prepare()
    site = operator.own(load_site(EXAMPLE))
    operator.write(site)
    os.environ.update(operator.env)
    with bare_hosts(keep=True, daemon=DAEMON) as hosts:
        running = _machines(hosts, site, operator)
        lan = lan_of(hosts, site)
        _reach_from_here(lan)
        _build()
        secrets = load_secrets(site, site_file=operator.site_file)
        progress = Progress(sys.stdout)
        code = roll_out(progress)
        print("\n".join(progress.report))
        if code:
            print(failure(progress), file=sys.stderr)
            return code
        edge = running[site.edge]
        if site.settings.tls == "internal":
            operator.authority.write_text(edge.read(AUTHORITY))
        tenant = site.tenants[0]
        write_environment(site.settings, secrets, tenant=tenant, path=ENVIRONMENT)
        print(summary(site, operator, edge=edge.address, link=sign_in_link(tenant)))
    print(f"Done in {time.monotonic() - started:.0f} s.")
    return 0


def down() -> int:
    with _step("Remove the machines"):
        take_down(DAEMON)
    shutil.rmtree(FOLDER, ignore_errors=True)
    ENVIRONMENT.unlink(missing_ok=True)
    return 0


def _build() -> None:
    with _step("Build the viewer"):
        wheel()


def _machines(hosts: BareHosts, site: Site, operator: Operator) -> dict[str, BareHost]:
    with _step("Debian for the machines (a minute the first time)"):
        for variant in {machine.variant for machine in machines(site, images=None)}:
            ensure_image(hosts.daemon, variant, ssh=True)
    with _step("Images of the desktops (minutes the first time)"):
        docker_data()
    with _step(f"{len(site.hosts)} machines: {', '.join(site.hosts)}"):
        return bring_up(hosts, site, operator)


def _reach_from_here(lan: Lan) -> None:
    """Lead this machine's own connections to the hosts; goes away with the daemon's link."""
    found = subprocess.run(
        ["ip", "-o", "route", "show", str(lan.subnet)], capture_output=True, text=True, check=True
    ).stdout
    if found and f"dev {lan.daemon.link} " not in found:
        raise OwnDockerError(f"this machine has a network {lan.subnet} already: {found.strip()}")
    subprocess.run(["ip", "route", "replace", str(lan.subnet), "via", lan.daemon.address], check=True)


def summary(site: Site, operator: Operator, *, edge: str, link: str | None) -> str:
    """What a person reads at the end. edge: its address."""
    settings = site.settings
    url, domain, port = settings.origins[0], settings.domain, settings.port
    authority, pinned = os.path.relpath(operator.authority), os.path.relpath(operator.known_hosts)
    internal = settings.tls == "internal"
    trust, trusting = (f" --cacert {authority}", f"SSL_CERT_FILE={authority}; ") if internal else ("", "")
    variables = " ".join(f"{name}={os.path.relpath(value)}" for name, value in operator.env.items())
    lines = [
        "",
        f"Deskfleet runs at {url}, on {len(site.hosts)} hosts; the edge is {edge}",
        f"Sign in once with  {link}" if link else f"Sign in with a key from {ENVIRONMENT}",
        "",
        "No name server knows these names. On this machine:",
        f"  curl{trust} --resolve {domain}:{port}:{edge} {url}/healthz",
        "  chromium --user-data-dir=$(mktemp -d) \\",
        f'           --host-resolver-rules="MAP {domain} {edge}, MAP *.{domain} {edge}"',
        f"  echo '{edge} {domain}' | sudo tee -a /etc/hosts     # for all programs, instead",
        "From elsewhere, with the name as 127.0.0.1 in /etc/hosts there:",
        f"  sudo ssh -L {port}:{edge}:{port} <this machine>",
    ]
    if internal:
        lines.append(f"The certificate is signed by {authority}: import that into the browser.")
    lines += [
        "",
        f"For programs    set -a; . {ENVIRONMENT}; {trusting}set +a",
        f"Onto a host     ssh -i {os.path.relpath(operator.key)} -o UserKnownHostsFile={pinned} root@{edge}",
        f"Roll out again  {variables} .venv/bin/pyinfra inventory deploy.py",
    ]
    return "\n".join(lines)


@contextmanager
def _step(name: str) -> Iterator[None]:
    print(f"          … {name}", flush=True)
    started = time.monotonic()
    yield
    print(f"  {time.monotonic() - started:6.1f} s  {name}: done", flush=True)


def main(arguments: Sequence[str]) -> int:
    verbs = {"up": up, "down": down}
    if len(arguments) != 1 or arguments[0] not in verbs:
        print("usage: python -m tests.fleet up|down", file=sys.stderr)
        return 2
    verb = arguments[0]
    refusals = (HostCommandFailed, ImagesNotMade, NotOverSsh, OwnDockerError, SecretsUnreadable)
    try:
        if verb == "up" and os.geteuid() != 0:
            # By the person himself: a build runs programs of others, which need no root.
            _build()
        code = typed_by_sudo("tests.fleet", arguments, why=WHY_ROOT)
        if code is not None:
            return code
        with given_back():
            return verbs[verb]()
    except (*refusals, SiteRefused, WheelNotBuilt) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
