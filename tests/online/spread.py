"""A Deskfleet on several hosts, rolled out over SSH, as the online tests see it."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from inventory.models import Backend, Kasmvnc, Secrets, Site
from inventory.secrets import load_secrets
from inventory.site_file import load_site
from roles.check import AUTHORITY
from tests.desktops.stand_in import sha256_of, stand_in_package
from tests.fleet.desktop_images import docker_data
from tests.fleet.machines import bring_up, lan_of, machines, names_of
from tests.fleet.operator import EXAMPLE, Operator, as_user, through
from tests.fleet.roll_out import Checkout, RollOut
from tests.hosts.bare_host import CHECKOUT, BareHost, BareHosts, clone_checkout
from tests.hosts.lan import SUDOER, Lan, start_machines
from tests.hosts.listing import Listing, differences, list_host
from tests.hosts.network import inside, start_inside
from tests.hosts.scan import open_ports
from tests.online.fleet import ADMIN, Api, Door, Installed
from tests.online.streams import LiveStream

ENTERED_WITH_SUDO = "box2"
BEHIND_ANOTHER = "studio1"
WITH_A_PAGE = "drawing"
"""The desktop that brings a web page of its own."""


def example(operator: Operator) -> Site:
    """The documented example; one host entered as a person with sudo and one through a jump host, and a
    stand-in for KasmVNC's package, which can't be had everywhere."""
    site = load_site(CHECKOUT / EXAMPLE)
    site = as_user(site, ENTERED_WITH_SUDO, SUDOER)
    site = through(site, BEHIND_ANOTHER, jump=site.edge)
    package = stand_in_package(operator.folder)
    settings = site.settings.model_copy(
        update={"kasmvnc": Kasmvnc(file=str(package), sha256=sha256_of(package))}
    )
    drawing = site.desktops[WITH_A_PAGE].model_copy(update={"backend": Backend.KASMVNC})
    return operator.own(
        site.model_copy(update={"settings": settings, "desktops": {**site.desktops, WITH_A_PAGE: drawing}})
    )


@dataclass
class SpreadFleet:
    """open_before: which ports answered before the first roll-out, by host; empty where they were kept.
    before: what lay and ran on each host then. previewed: what a preview changed of it, None if kept.
    preview: what that preview said. made: what the first roll-out made of bare hosts then."""

    hosts: BareHosts
    machines: dict[str, BareHost]
    checkout: Checkout
    was_bare: bool
    open_before: dict[str, list[int]] = field(default_factory=dict)
    before: dict[str, Listing] = field(default_factory=dict)
    previewed: list[str] | None = None
    preview: str = ""
    made: list[str] = field(default_factory=list)

    @property
    def operator(self) -> Operator:
        return self.checkout.operator

    @property
    def lan(self) -> Lan:
        return self.checkout.lan

    @property
    def site(self) -> Site:
        return load_site(self.operator.site_file)

    @property
    def secrets(self) -> Secrets:
        os.environ["DESKFLEET_AGE_IDENTITY"] = str(self.operator.identity)
        return load_secrets(self.site, site_file=self.operator.site_file)

    def secret_words(self) -> list[str]:
        """Every secret of the site; of a private key any line of its PEM but the first and the last."""
        secrets = self.secrets
        values = [secrets.viewer_key, secrets.admin_key.text, *secrets.opensandbox_keys.values()]
        values += [*secrets.relay_keys.values(), *secrets.desktop_keys.values()]
        values += [key.text for key in secrets.tenant_keys.values()]
        words = [value.get_secret_value() for value in values]
        if secrets.certificates:
            pairs = [secrets.certificates.authority, *secrets.certificates.hosts.values()]
            words += [pair.key.get_secret_value().splitlines()[1] for pair in pairs]
        return words

    def on(self, name: str) -> Installed:
        return Installed(self.machines[name])

    def roll_out(self, *more: str, check: bool = True) -> RollOut:
        done = self.checkout.roll_out(*more, check=check)
        self.fetch_authority()
        return done

    def fetch_authority(self) -> None:
        """As after `make fleet`: the root by which clients trust the edge."""
        found = self.machines[self.site.edge].run(["cat", AUTHORITY], check=False)
        if found.code == 0:
            self.operator.authority.write_text(found.out)

    def scan(self, name: str, ports: Iterable[int]) -> list[int]:
        """Which ports of a host answer to the operator's machine, which is no host of the fleet."""
        address = self.machines[name].address
        return inside(self.lan.operator_pid, lambda: open_ports(address, ports))

    def scan_all(self) -> dict[str, list[int]]:
        """Every port of every host, from there."""
        addresses = {name: machine.address for name, machine in self.machines.items()}
        pid = self.lan.operator_pid
        asked = {name: start_inside(pid, partial(open_ports, address)) for name, address in addresses.items()}
        return {name: answer.result(300) for name, answer in asked.items()}

    # --- as a client ---

    @property
    def door(self) -> Door:
        return Door(self.machines[self.site.edge].address, self.operator.authority)

    def with_key(self, key: str | None) -> Api:
        return Api(self.lan.operator_pid, self.site.settings.origins[0], key, self.door)

    def api_of(self, tenant: str) -> Api:
        return self.with_key(self.secrets.tenant_keys[tenant].text.get_secret_value())

    @property
    def api(self) -> Api:
        """With the first tenant's operator key."""
        return self.api_of(self.site.tenants[0])

    def sign_in_link(self, tenant: str | None = None) -> str:
        """For an operator of that tenant; None: the first."""
        line = f"{ADMIN} signin-link --tenant {tenant or self.site.tenants[0]}"
        out = self.machines[self.site.control].run(line).out
        return next(word for word in out.split() if word.startswith("http"))

    # --- looked at as a whole ---

    def listings(self) -> dict[str, Listing]:
        """What lies and runs on every host now."""
        with ThreadPoolExecutor(2) as pool:
            return dict(zip(self.machines, pool.map(list_host, self.machines.values()), strict=True))

    def look_at_bare_hosts(self) -> None:
        """What is open and lies there before any roll-out, and that a preview changes nothing of it. Kept for
        the runs that take these hosts over."""
        kept = self.operator.folder / "bare.json"
        if self.was_bare:
            self.open_before = self.scan_all()
            self.before = self.listings()
            self.preview = self.checkout.dry("--diff").said
            self.previewed = changes_between(self.before, self.listings())
            kept.write_text(json.dumps({name: found.to_json() for name, found in self.before.items()}))
        elif kept.exists():
            read: dict[str, str] = json.loads(kept.read_text())
            self.before = {name: Listing.from_json(text) for name, text in read.items()}

    def look_at_what_was_made(self) -> None:
        """Right after the first roll-out: tests go on to change things."""
        if self.was_bare:
            self.made = changes_between(self.before, self.listings())

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{self.on(name).logs()[-2500:]}" for name in self.machines)

    @contextmanager
    def changed(self, site: Site) -> Iterator[None]:
        """The site file as `site` for a while. Whoever rolled that out rolls out again afterwards."""
        before = self.site
        self.operator.write(site)
        try:
            yield
        finally:
            self.operator.write(before)

    def add(self, site: Site) -> None:
        """Machines for the hosts that `site` has and this fleet has not; the operator pins their keys."""
        wanted = [
            machine for machine in machines(site, images=docker_data()) if machine.name not in self.machines
        ]
        key = self.operator.prepare()
        self.machines |= start_machines(self.hosts, self.lan, wanted, public_key=key, names=names_of(site))
        self.operator.pin(self.machines.values())

    def remove(self, name: str) -> None:
        """A machine that no site file names any more."""
        self.machines.pop(name).destroy()
        self.operator.pin(self.machines.values())

    @contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """The operator's SSH connections to a host are refused for a while."""
        address = ipaddress.IPv4Address(self.machines[name].address)
        self.lan.close(address)
        try:
            yield
        finally:
            self.lan.open(address)


def bring_up_spread(hosts: BareHosts) -> SpreadFleet:
    """The example's machines, nothing rolled out yet. What the operator keeps lies beside the daemon's files,
    so it goes when the daemon does."""
    folder = hosts.daemon.run_dir / "operator"
    operator = Operator(folder)
    operator.prepare()
    was_bare = not operator.site_file.exists()
    if was_bare:
        operator.write(example(operator))
    site = load_site(operator.site_file)
    running = bring_up(hosts, site, operator)
    path = folder / "deskfleet"
    if was_bare or os.environ.get("DESKFLEET_TEST_UP") != "0":
        shutil.rmtree(path, ignore_errors=True)
        clone_checkout(path, dirty=os.environ.get("DESKFLEET_TEST_DIRTY") == "1")
    return SpreadFleet(hosts, running, Checkout(path, lan_of(hosts, site), operator), was_bare)


def changes_between(before: dict[str, Listing], after: dict[str, Listing]) -> list[str]:
    """`box1: + files /etc/x …` for each thing that came or went."""
    return [f"{name}: {line}" for name in before for line in differences(before[name], after[name])]


@contextmanager
def many_streams(api: Api, sessions: list[str], count: int) -> Iterator[list[LiveStream]]:
    """`count` streams spread over the sessions, all of which have shown pixels."""
    streams = [LiveStream(api, sessions[index % len(sessions)]) for index in range(count)]
    try:
        for stream in streams:
            stream.wait_for_frame(60)
        yield streams
    finally:
        for stream in streams:
            stream.close()
