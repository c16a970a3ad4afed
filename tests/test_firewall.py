"""The firewall's rules as a pure function of site and host, and what the role does with them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inventory.models import HostConfig, Site
from roles.facts import HasSystemd, MissingPackages, Paths, PathState
from roles.firewall import (
    HOME,
    RULES,
    SCRIPT,
    UNIT,
    FirewallSurroundings,
    PublicAddresses,
    Surroundings,
    _public_addresses,
    come_in_again,
    firewall,
    no_firewall,
    rules_for,
)
from roles.units import supervision
from tests.role_runner import RunRole, changes
from tests.sites import fleet_config, fleet_secrets

GOLDEN = Path(__file__).parent / "golden"
TEMPLATES = Path(__file__).parent.parent / "templates" / "firewall"
FOUND = Surroundings(ssh_ports=(22,), outer=("ens3",), resolvers=("10.77.0.2", "2001:db8::53"))
CONFIGS = {
    "edge": fleet_config("edge1"),
    "sandboxes": fleet_config("box2", firewall={"allow": [9100], "reach": ["10.9.0.0/24"]}),
}
NOWHERE: Any = lambda paths: {}  # noqa: E731


def text_for(config: HostConfig, found: Surroundings = FOUND) -> str:
    return rules_for(config, found)


def one_host(**host: Any) -> HostConfig:
    """A site of one host with a firewall."""
    settings = {"domain": "desks.example.com", "tls": "internal"}
    groups = ["edge", "control", "sandboxes"]
    hosts = {"alone": {"groups": groups, "connect": "@fake/alone", **host}}
    site = Site.model_validate({"hosts": hosts, "settings": settings})
    return HostConfig(name="alone", site=site, secrets=fleet_secrets())


def facts(config: HostConfig, found: Surroundings, *, systemd: bool = True, installed: bool = False) -> Any:
    """A host that has nothing of the firewall, or, `installed`, all its files."""
    content = {
        HOME: PathState("", "700", "root", "root"),
        SCRIPT: PathState(digest((TEMPLATES / "firewall.sh").read_text()), "755", "root", "root"),
        RULES: PathState(digest(text_for(config, found)), "600", "root", "root"),
        UNIT: PathState(
            digest((TEMPLATES / "deskfleet-firewall.service").read_text()), "644", "root", "root"
        ),
    }
    return {
        FirewallSurroundings: found,
        HasSystemd: systemd,
        MissingPackages: [] if installed else ["nftables"],
        Paths: lambda paths: {path: content[path] for path in paths if installed and path in content},
    }


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class OtherHost:
    """A host of the run that tells its addresses."""

    name: str
    addresses: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.name)

    def get_fact(self, fact: type) -> tuple[str, ...]:
        assert fact is PublicAddresses
        return self.addresses


@pytest.mark.parametrize("name", CONFIGS)
def test_rules_are_the_golden_file(name: str) -> None:
    assert text_for(CONFIGS[name]) == (GOLDEN / f"firewall.{name}.nft").read_text()


def test_azures_own_address_is_a_name_server_to_sandboxes_and_nothing_else() -> None:
    found = Surroundings(resolvers=("168.63.129.16",))
    config = fleet_config("box2", firewall={"reach": ["168.63.129.16/32"]})
    lines = [line.strip() for line in text_for(config, found).splitlines()]
    assert "ip daddr 168.63.129.16 meta l4proto { tcp, udp } th dport 53 accept" in lines
    own = lines[lines.index("chain from_sandbox {") :]
    refused = own.index("ip daddr { 169.254.0.0/16, 168.63.129.16 } goto refuse")
    assert own.index("jump name_servers") < refused < own.index("ip daddr @reach accept")


def test_public_addresses_of_the_hosts_are_kept_from_sandboxes() -> None:
    lines = rules_for(CONFIGS["sandboxes"], FOUND, ["203.0.113.9", "2001:db8::9", "198.51.100.2"])
    assert "elements = { 198.51.100.2, 203.0.113.9 }" in lines
    assert "elements = { 2001:db8::9 }" in lines
    own = lines[lines.index("chain from_sandbox {") :]
    for rule in ("ip daddr @public4 goto refuse", "ip6 daddr @public6 goto refuse"):
        assert own.index(rule) < own.index("ip daddr @reach accept") < own.index("\t\taccept\n")


def test_own_addresses_are_those_that_last_and_are_public(tmp_path: Path) -> None:
    (tmp_path / "ip").write_text(
        "#!/bin/sh\ncat <<'END'\n"
        "2: eth0    inet 203.0.113.9/24 brd 203.0.113.255 scope global eth0\\       valid_lft forever\n"
        "2: eth0    inet6 2001:db8::9/64 scope global dynamic mngtmpaddr \\       valid_lft 86395sec\n"
        "2: eth0    inet6 2001:db8::77/64 scope global temporary dynamic \\       valid_lft 86395sec\n"
        "3: eth1    inet 10.77.0.11/24 scope global eth1\\       valid_lft forever\n"
        "4: docker0    inet 172.17.0.1/16 scope global docker0\\       valid_lft forever\n"
        "5: wg0    inet6 fd00::1/64 scope global \\       valid_lft forever\n"
        "6: ppp0    inet 198.51.100.7 peer 198.51.100.1/32 scope global ppp0\\       valid_lft forever\nEND\n"
    )
    (tmp_path / "ip").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    asked = ["sh", "-c", PublicAddresses().command()]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    found = PublicAddresses().process(done.stdout.splitlines())
    assert found == ("198.51.100.7", "2001:db8::9", "203.0.113.9")


def test_hosts_that_are_not_in_the_run_stay_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config, found = one_host(), FOUND.model_copy(update={"refused": ("198.51.100.2",)})
    here = OtherHost("alone", ("203.0.113.9",))
    out_of_limit = OtherHost("alone", ("192.0.2.1",))
    stranger = OtherHost("of-another-site", ("192.0.2.2",))

    def public(*active: OtherHost, config: HostConfig = config) -> set[str]:
        now = SimpleNamespace(active_hosts=active, is_host_in_limit=lambda host: host is not out_of_limit)
        monkeypatch.setattr("roles.firewall.state", now)
        return _public_addresses(config, found)

    assert public(here, stranger) == {"203.0.113.9"}
    assert public(out_of_limit) == public() == {"198.51.100.2"}
    assert public(here, config=CONFIGS["edge"]) == set()  # has no sandboxes to keep from anything


def test_what_the_rules_refuse_is_read_from_them(tmp_path: Path) -> None:
    rules = tmp_path / "rules.nft"
    rules.write_text(rules_for(CONFIGS["edge"], FOUND, ["203.0.113.9", "198.51.100.2", "2001:db8::9"]))
    look = FirewallSurroundings().command(address="").replace(RULES, str(rules)) + "\n:"
    done = subprocess.run(["sh", "-c", look], capture_output=True, text=True, check=True)
    found = FirewallSurroundings().process(done.stdout.splitlines())
    assert found.refused == ("198.51.100.2", "2001:db8::9", "203.0.113.9")


def test_only_the_edge_opens_its_ports() -> None:
    assert "\t\ttcp dport { 22, 80, 443 } accept\n" in text_for(CONFIGS["edge"])
    assert "\t\ttcp dport { 22, 9100 } accept\n" in text_for(CONFIGS["sandboxes"])


def test_port_of_the_running_connection_and_of_the_site_file_stay_open() -> None:
    connect = {"address": "10.77.0.9", "port": 2201}
    text = text_for(one_host(connect=connect), Surroundings(ssh_ports=(2202, 22)))
    assert "\t\ttcp dport { 22, 80, 443, 2201, 2202 } accept\n" in text


def test_tunnel_that_the_way_to_the_host_may_lead_through_stays_open() -> None:
    assert "udp dport { 51820 } accept" in text_for(CONFIGS["edge"], Surroundings(tunnel_ports=(51820,)))
    assert "esp" not in text_for(CONFIGS["edge"], Surroundings(tunnel_ports=(51820,)))
    assert "meta l4proto { esp, ah } accept" in text_for(
        CONFIGS["edge"], Surroundings(tunnel_ports=(500, 4500))
    )
    lines = ["tunnel_port 51820", "tunnel_port 0", "tunnel_port *"]
    assert FirewallSurroundings().process(lines).tunnel_ports == (51820,)


def test_without_any_sign_of_ssh_its_usual_port_stays_open() -> None:
    site = fleet_config("box1")
    assert "\t\ttcp dport { 22 } accept\n" in text_for(site, Surroundings())
    assert "\t\ttcp dport { 22, 80, 443 } accept\n" in text_for(
        one_host(connect="@local", address="10.77.0.9"), Surroundings()
    )


def test_node_is_let_in_where_there_are_other_hosts_alone() -> None:
    assert "ip saddr @hosts ip daddr 10.77.0.14 tcp dport 8443 accept" in text_for(CONFIGS["sandboxes"])
    assert "8443 accept" not in text_for(one_host())


def test_own_service_is_closed_to_other_containers_on_its_host_alone() -> None:
    assert "tcp dport { 8050, 8060, 8070, 8080, 8090, 8443, 40000-40999 } reject" in text_for(
        CONFIGS["sandboxes"]
    )
    assert "8090" not in text_for(CONFIGS["edge"])


def test_plain_http_site_opens_its_one_port() -> None:
    site = Site.model_validate(
        {"hosts": {"here": {"groups": ["edge", "control", "sandboxes"], "connect": "@local"}}}
    )
    text = text_for(HostConfig(name="here", site=site, secrets=fleet_secrets()))
    assert "\t\ttcp dport { 22, 8088 } accept\n" in text


def test_name_servers_that_no_container_can_ask_are_left_out() -> None:
    fact = FirewallSurroundings()
    lines = [
        "resolver 127.0.0.53",
        "resolver ::1",
        "resolver fe80::1%eth0",
        "resolver 10.0.0.2",
        "resolver 1.1.1.1",
    ]
    assert fact.process(lines).resolvers == ("1.1.1.1", "10.0.0.2")


def test_look_is_read_whatever_its_order() -> None:
    lines = [
        "outer ens3",
        "ssh_port 22",
        "ssh_port 22",
        "ssh_port 2222",
        "live ab",
        "pending yes",
        "enabled yes",
    ]
    assert FirewallSurroundings().process(lines) == Surroundings(
        ssh_ports=(22, 2222), outer=("ens3",), live="ab", pending=True, enabled=True
    )


def test_port_by_which_one_came_in_is_found_although_sudo_took_the_variable(tmp_path: Path) -> None:
    look = FirewallSurroundings().command(address="")
    (tmp_path / "ss").write_text("#!/bin/sh\n")
    (tmp_path / "ss").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 2204",
    }
    without = ["env", "-u", "SSH_CONNECTION", "sh", "-c", look + "\n:"]
    # The outer shell stays, so that the variable is in an ancestor's environment alone.
    done = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", *without],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "ssh_port 2204" in done.stdout.splitlines()


LISTENER, SESSION = "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", "sshd: root@pts/0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs of several accounts")
@pytest.mark.parametrize(
    ("user", "title", "local", "opens"),
    [
        (0, LISTENER, "0.0.0.0", True),
        (0, LISTENER, "[::]", True),
        (0, LISTENER, "127.0.0.1", False),
        (0, LISTENER, "[::1]", False),
        (0, SESSION, "0.0.0.0", False),
        (1500, LISTENER, "0.0.0.0", False),
    ],
)
def test_ssh_port_is_of_a_server_that_root_started_and_not_of_a_session(
    user: int, title: str, local: str, opens: bool
) -> None:
    # pytest's own directory is closed to other accounts.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        found = ssh_ports_with(Path(folder), user, title, local)
    assert found == ({2297} if opens else set())


def ssh_ports_with(folder: Path, user: int, title: str, local: str) -> set[int]:
    """What a host says where such a program `sshd` listens on port 2297; without the machine's own SSH."""
    program = Path(shutil.copy("/bin/sleep", folder / "sshd"))
    with subprocess.Popen([title, "60"], executable=program, user=user) as named:
        (folder / "ss").write_text(
            "#!/bin/sh\n[ $1 = -Hltnp ] || exit 0\n"
            f"echo 'LISTEN 0 128 {local}:2297 *:* users:((\"sshd\",pid={named.pid},fd=3))'\n"
        )
        (folder / "systemctl").write_text("#!/bin/sh\nexit 1\n")
        for name in ("ss", "systemctl"):
            (folder / name).chmod(0o755)
        environment = {"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"}
        look = FirewallSurroundings().command(address="") + "\n:"
        out = subprocess.run(["sh", "-c", look], env=environment, capture_output=True, text=True, check=True)
        named.terminate()
    return set(FirewallSurroundings().process(out.stdout.splitlines()).ssh_ports)


def test_fresh_host_gets_the_rules_on_trial_and_confirms_them_by_a_new_connection(run_role: RunRole) -> None:
    config = CONFIGS["sandboxes"]
    steps = dict(run_role(firewall, facts=facts(config, FOUND), config=config))
    placing = steps["Firewall | Check and place the rules"]
    assert ("put", f"{RULES}.new", text_for(config)) in placing
    assert f'new={RULES}.new; nft -c -f "$new"' in placing
    enable, trial, again, confirm = steps["Firewall | Load the rules"]
    assert enable == "systemctl daemon-reload && systemctl enable --quiet deskfleet-firewall"
    assert trial == f"{SCRIPT} try {RULES} 60"
    assert again.function is come_in_again
    assert confirm == f"{SCRIPT} confirm {RULES}"


@pytest.mark.parametrize("systemd", [True, False])
def test_second_run_changes_nothing(run_role: RunRole, systemd: bool) -> None:
    config = CONFIGS["sandboxes"]
    assert changes(run_role(firewall, facts=settled(config, systemd=systemd), config=config)) == []


def settled(config: HostConfig, *, systemd: bool = True, **changed: Any) -> Any:
    loaded = {
        "live": "a1",
        "confirmed_live": "a1",
        "confirmed_text": digest(text_for(config)),
        "enabled": systemd,
    }
    return facts(
        config,
        Surroundings.model_validate({**FOUND.model_dump(), **loaded, **changed}),
        systemd=systemd,
        installed=True,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"live": ""},
        {"live": "b2"},
        {"confirmed_text": "c3"},
        {"pending": True},
        {"live": "", "confirmed_live": ""},
    ],
)
def test_rules_are_loaded_again_when_they_are_not_what_was_confirmed(
    run_role: RunRole, changed: dict[str, Any]
) -> None:
    config = CONFIGS["sandboxes"]
    ((name, commands),) = changes(run_role(firewall, facts=settled(config, **changed), config=config))
    assert name == "Firewall | Load the rules"
    assert commands[0] == f"{SCRIPT} try {RULES} 60"


def test_host_without_systemd_gets_no_unit_but_a_start_script_that_loads_the_rules(run_role: RunRole) -> None:
    config = CONFIGS["edge"]
    steps = dict(run_role(firewall, facts=facts(config, FOUND, systemd=False), config=config))
    assert "Firewall | Write its unit" not in steps
    assert steps["Firewall | Load the rules"][0] == f"{SCRIPT} try {RULES} 60"


def test_going_takes_the_table_and_every_file(run_role: RunRole) -> None:
    everywhere = lambda paths: {path: PathState("", "755", "root", "root") for path in paths}  # noqa: E731
    steps = run_role(no_firewall, facts={Paths: everywhere, HasSystemd: True})
    assert changes(steps) == [
        (
            "Firewall away | Remove the rules",
            [f"{SCRIPT} remove", "systemctl disable --quiet deskfleet-firewall"],
        ),
        (
            "Firewall away | Remove its files",
            ["rm -rf /etc/deskfleet/firewall /etc/systemd/system/deskfleet-firewall.service"
             " /var/lib/deskfleet/firewall /run/deskfleet-firewall"],
        ),
    ]  # fmt: skip


def test_where_there_was_none_going_does_nothing(run_role: RunRole) -> None:
    assert changes(run_role(no_firewall, facts={Paths: NOWHERE, HasSystemd: True})) == []


def test_start_script_loads_the_rules_before_anything_of_ours_runs(run_role: RunRole) -> None:
    from roles.facts import SupervisordRuns

    stated = {HasSystemd: False, MissingPackages: [], Paths: NOWHERE, SupervisordRuns: True}
    steps = dict(run_role(supervision, facts=stated, runtime=()))
    (script,) = (command[2] for command in steps["Supervision | Write start script"] if command[0] == "put")
    assert script.index(f"{SCRIPT} load") < script.index("exec /usr/bin/supervisord")
