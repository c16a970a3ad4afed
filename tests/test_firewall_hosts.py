"""The firewall on bare hosts: ports scanned before and after, from outside and from containers, and the way
back.

    this machine ── 10.213.N.64/26 ─┬─ `wall`: the host with the firewall, its own dockerd, a canary per port
                                    └─ `far`: everything else: a stranger, a host of the fleet, a name server,
                                       the internet (203.0.113.7), clouds' metadata, two private networks
"""

from __future__ import annotations

import ipaddress
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from inventory.models import Backend, Desktop
from roles.desktops import runtime_of, session, user_of
from roles.docker import _NETWORK_OPTIONS, BRIDGE, NETWORK
from roles.firewall import RULES, SCRIPT, FirewallSurroundings
from tests.hosts.bare_host import CHECKOUT, BareHost, BareHosts, Variant
from tests.hosts.own_docker import own_dockerd

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]

SSH, EDGE, ALLOWED, NODE, VIEWER, RELAY, OPENSANDBOX, FOREIGN = (
    22,
    (80, 443),
    9100,
    8443,
    8060,
    8070,
    8080,
    9999,
)
CANARIES = (*EDGE, ALLOWED, NODE, VIEWER, RELAY, OPENSANDBOX, FOREIGN)
PUBLISHED = 5432
"""By somebody else's container, to everybody, through Docker's own rules."""
INTERNET, METADATA, PRIVATE, REACHABLE = "203.0.113.7", "169.254.169.254", "10.8.0.5", "10.9.0.5"
NAME_SERVER = "10.8.0.53"
AZURE = "168.63.129.16"
PUBLIC = "198.51.100.9"
"""An address of the host besides the one that the site file names."""
ELSEWHERE = (INTERNET, METADATA, AZURE, PRIVATE, REACHABLE, NAME_SERVER)

LISTEN = r"""
import socket, struct, sys, threading

def serve(listener):
    while True:
        connection, _ = listener.accept()
        try:
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\ncanary\n")
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(1)
            connection.recv(4096)
        except OSError:
            pass
        connection.close()

def answer_names(server):
    # Every name is an address on the internet.
    while True:
        question, sender = server.recvfrom(512)
        end = question.index(0, 12) + 5
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton("203.0.113.7")
        if question[end - 4:end - 2] != b"\0\1":
            record = b""
        header = question[:2] + struct.pack("!HHHHH", 0x8180, 1, bool(record), 0, 0)
        server.sendto(header + question[12:end] + record, sender)

def echo(server):
    while True:
        said, sender = server.recvfrom(512)
        server.sendto(said, sender)

def echoes(address, port):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    threading.Thread(target=echo, args=(server,)).start()

is_far = sys.argv[1] == "7777"
for port in map(int, sys.argv[1:]):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    threading.Thread(target=serve, args=(listener,)).start()
    # With several addresses, an answer comes from the one asked only if the socket is bound to it.
    for address in ("203.0.113.7", "10.8.0.5", "10.9.0.5") if is_far else ("",):
        echoes(address, port)
if is_far:
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("10.8.0.53", 53))
    threading.Thread(target=answer_names, args=(names,)).start()
print("listening", flush=True)
"""

SCAN = r"""
import socket, sys
from concurrent.futures import ThreadPoolExecutor
source, target, *ports = sys.argv[1:]

def answers(port):
    try:
        with socket.create_connection((target, int(port)), 1.5, (source, 0)) as connection:
            connection.settimeout(1.5)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False

with ThreadPoolExecutor(32) as pool:
    print(*(port for port, yes in zip(ports, pool.map(answers, ports)) if yes))
"""

SCAN_UDP = r"""
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def answers(target):
    address, port = target.split()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1.5)
        try:
            asking.connect((address, int(port)))
            asking.send(b"?")
            return bool(asking.recv(1))
        except OSError:
            return False

with ThreadPoolExecutor(32) as pool:
    for target, yes in zip(sys.argv[1:], pool.map(answers, sys.argv[1:])):
        if yes:
            print(target)
"""

PROBE = r"""
import socket, sys
for target in sys.argv[1:]:
    address, port = target.split()
    try:
        socket.create_connection((address, int(port)), 1).close()
        print(target)
    except OSError:
        pass
print("asked")
"""

DEPLOY = """
from pyinfra.context import host
from inventory.models import HostConfig
from roles.files import place
from roles.firewall import RULES, firewall, loaded, no_firewall
from roles.foundation import foundation

config = HostConfig.model_validate(host.data.get("deskfleet"))
if text := host.data.get("other_rules"):
    place(name="Write other rules", path=RULES, content=text)
    loaded(name="Load other rules", text=text, address="", way_back_seconds=host.data.get("way_back"))
elif host.data.get("gone"):
    no_firewall()
else:
    foundation()
    firewall(config)
"""

INVENTORY = """
import json
from pathlib import Path
from inventory.models import HostConfig
from tests.test_firewall_hosts import config_of

_data = json.loads(Path({data!r}).read_text())
wall = [("wall", {{**_data, "deskfleet": config_of(_data["address"], _data["member"])}})]
"""

CUTS_SSH = """table inet deskfleet
delete table inet deskfleet
table inet deskfleet {
	chain input {
		type filter hook input priority filter - 10; policy accept;
		ct state { established, related } accept
		tcp dport 22 drop
	}
}
"""


def config_of(address: str, member: str) -> object:
    """The site of these tests: `wall` carries everything, `other` only has an address."""
    from inventory.models import HostConfig, Site
    from tests.sites import fleet_secrets

    site = Site.model_validate(
        {
            "hosts": {
                "wall": {
                    "groups": ["edge", "control", "sandboxes"],
                    "connect": {"address": address},
                },
                "other": {"groups": ["sandboxes"], "connect": "@fake/other", "address": member},
            },
            "settings": {
                "domain": "desks.example.com",
                "tls": "internal",
                "firewall": {"allow": [ALLOWED], "reach": ["10.9.0.0/24"]},
            },
        }
    )
    return HostConfig(name="wall", site=site, secrets=fleet_secrets())


@dataclass(frozen=True)
class Wall:
    """The host with the firewall, and the machine that is everything around it."""

    host: BareHost
    far: BareHost
    key: Path
    folder: Path

    @property
    def stranger(self) -> str:
        return self.far.address

    @property
    def member(self) -> str:
        """A second address of `far`: a host of the fleet."""
        last = ipaddress.IPv4Address(self.far.address) + 20
        return str(last)

    def answering(
        self, ports: Sequence[int], *, source: str | None = None, target: str | None = None
    ) -> set[int]:
        """Which ports of the host answer to `far`."""
        words = [source or self.stranger, target or self.host.address, *map(str, ports)]
        return set(map(int, self.far.run(["python3", "-c", SCAN, *words]).out.split()))

    def answering_udp(self, ports: Sequence[int]) -> set[int]:
        """Which UDP ports of the host answer to `far`."""
        targets = [f"{self.host.address} {port}" for port in ports]
        out = self.far.run(["python3", "-c", SCAN_UDP, *targets]).out
        return {int(line.split()[1]) for line in out.splitlines()}

    def reaches_udp(self, container: str, *targets: tuple[str, int]) -> set[tuple[str, int]]:
        """Which UDP targets answer to a program in the container's network."""
        pid = self.host.run(["docker", "inspect", "-f", "{{.State.Pid}}", container]).out.strip()
        words = [f"{address} {port}" for address, port in targets]
        argv = ["nsenter", "--target", pid, "--net", "python3", "-c", SCAN_UDP, *words]
        found = map(str.split, self.host.run(argv).out.splitlines())
        return {(address, int(port)) for address, port in found}

    def reaches(self, container: str, *targets: tuple[str, int]) -> set[tuple[str, int]]:
        """Which targets answer to a program in the container."""
        request = "printf 'GET / HTTP/1.0\\r\\n\\r\\n'"
        asked = " & ".join(
            f"({request} | nc -w 2 {address} {port} 2>/dev/null | grep -q . && echo {address} {port})"
            for address, port in targets
        )
        out = self.host.run(["docker", "exec", container, "sh", "-c", f"{asked} & wait"]).out
        return {(line.split()[0], int(line.split()[1])) for line in out.splitlines() if line}

    def command(self, **data: object) -> list[str]:
        """The roll-out as a command: the real role, by the real connector."""
        values = {
            "ssh_hostname": self.host.address,
            "ssh_key": str(self.key),
            "ssh_strict_host_key_checking": "off",
            "address": self.host.address,
            "member": self.member,
            **data,
        }
        (self.folder / "data.json").write_text(json.dumps(values))
        (self.folder / "hosts.py").write_text(INVENTORY.format(data=str(self.folder / "data.json")))
        (self.folder / "deploy.py").write_text(DEPLOY)
        files = [str(self.folder / name) for name in ("hosts.py", "deploy.py")]
        return [str(Path(sys.executable).with_name("pyinfra")), *files, "-y"]

    def roll_out(self, **data: object) -> tuple[int, str]:
        done = subprocess.run(
            self.command(**data), cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def ssh_answers(self) -> bool:
        try:
            with socket.create_connection((self.host.address, SSH), 1) as connection:
                return connection.recv(3) == b"SSH"
        except OSError:
            return False

    def table(self) -> str:
        return self.host.run("nft -s list table inet deskfleet", check=False).out


def ipv6_of(host: BareHost) -> str:
    """A unique local address of a host, made of its IPv4 address."""
    return f"fd00:213::{host.address.rpartition('.')[2]}"


def give_ipv6(host: BareHost) -> None:
    host.run(f"ip -6 address replace {ipv6_of(host)}/64 dev eth0 nodad")


@pytest.fixture(scope="module")
def hosts() -> Iterator[BareHosts]:
    with own_dockerd("firewall") as daemon:
        yield BareHosts(daemon, keeping=False)


@pytest.fixture(scope="module")
def far(hosts: BareHosts) -> BareHost:
    far, _ = hosts.start(Variant.PLAIN, "far")
    second = ipaddress.IPv4Address(far.address) + 20
    far.run(f"ip address add {second}/26 dev eth0")
    for address in ELSEWHERE:
        far.run(f"ip address add {address}/32 dev lo")
    give_ipv6(far)
    start_listening(far, 7777)
    return far


@pytest.fixture(scope="module", params=list(Variant))
def wall(
    request: pytest.FixtureRequest, hosts: BareHosts, far: BareHost, tmp_path_factory: pytest.TempPathFactory
) -> Wall:
    """A host with an engine and sandboxes, and no firewall yet. Where there is no systemd, dockerd and sshd
    are started by hand."""
    variant: Variant = request.param
    folder = tmp_path_factory.mktemp(f"wall-{variant}")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    host, _ = hosts.start(variant, f"wall-{variant}")
    host.run(
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends"
        " docker.io iptables busybox-static openssh-server nftables iproute2 >/dev/null",
        timeout=300,
    )
    host.run("install -d -m 700 /root/.ssh")
    host.write("/root/.ssh/authorized_keys", (folder / "key.pub").read_text(), mode="600")
    wall = Wall(host, far, folder / "key", folder)
    boot(wall)
    options = " ".join(f"--opt {key}={value}" for key, value in _NETWORK_OPTIONS.items())
    host.run(
        "mkdir -p /root/box/bin && cp /bin/busybox /root/box/bin/sh && cd /root/box/bin &&"
        " for name in nc grep sleep httpd wget nslookup; do ln -sf sh $name; done &&"
        " tar -C /root/box -c . | docker import - box >/dev/null &&"
        f" docker network create --driver bridge {options} {NETWORK} >/dev/null"
    )
    start_containers(wall)
    return wall


def boot(wall: Wall) -> None:
    """What the machine's owner brings up; also after a restart."""
    host = wall.host
    for address in ELSEWHERE:
        host.run(f"ip route replace {address} via {wall.stranger}")
    give_ipv6(host)
    host.run(f"ip address replace {PUBLIC}/32 dev lo")
    host.run(f"cat > /etc/resolv.conf <<<'nameserver {NAME_SERVER}'")
    if host.variant is Variant.PLAIN:
        host.run("mkdir -p /run/sshd && (pgrep -x sshd || /usr/sbin/sshd); rm -f /run/docker.pid")
        host.run("pgrep -x dockerd || setsid -f dockerd >/var/log/dockerd.log 2>&1")
    host.run("for i in $(seq 100); do docker info >/dev/null 2>&1 && exit; sleep 0.2; done; exit 1")
    if not host.run("pgrep -f listen.py", check=False).out:
        start_listening(host, *CANARIES)


def start_listening(host: BareHost, *ports: int) -> None:
    host.write("/root/listen.py", LISTEN)
    host.run(
        f"setsid -f python3 /root/listen.py {' '.join(map(str, ports))} > /root/listening 2>&1;"
        " for i in $(seq 50); do grep -q listening /root/listening && exit; sleep 0.1; done;"
        " cat /root/listening; exit 1"
    )


def start_containers(wall: Wall) -> None:
    """Two sandboxes, published as OpenSandbox does it; somebody's server, published to everybody; and
    somebody's client."""
    serve = "httpd -f -p 8080 -h /bin"
    sandboxes = f"docker run -d --network {NETWORK}"
    for number in (1, 2):
        wall.host.run(f"{sandboxes} --name sandbox{number} -p 127.0.66.1:{40000 + number}:8080 box {serve}")
    wall.host.run(f"docker run -d --name server -p {PUBLISHED}:8080 box {serve}")
    wall.host.run("docker run -d --name client box sleep 100000")


@pytest.fixture(scope="module")
def address_of(wall: Wall) -> dict[str, str]:
    names = ("sandbox1", "sandbox2", "server")
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return {name: wall.host.run(["docker", "inspect", "-f", template, name]).out.strip() for name in names}


@dataclass(frozen=True)
class Reached:
    """What answered at one moment."""

    stranger: set[int]
    member: set[int]
    sandbox: set[tuple[str, int]]
    client: set[tuple[str, int]]
    by_ipv6: set[int]
    by_udp: set[int]
    sandbox_udp: set[tuple[str, int]]


ALL_PORTS = (SSH, *CANARIES, PUBLISHED)
FAR_PORT = 7777


def targets_of(wall: Wall, address_of: dict[str, str]) -> list[tuple[str, int]]:
    """Everything that a container may try."""
    host = [wall.host.address, gateway_of(wall, BRIDGE), gateway_of(wall, "docker0")]
    return [
        *((address, port) for address in host for port in (SSH, VIEWER, NODE, EDGE[1], FOREIGN)),
        *((address_of[name], 8080) for name in ("sandbox2", "server")),
        (wall.host.address, PUBLISHED),
        *((address, FAR_PORT) for address in (wall.member, wall.stranger, *ELSEWHERE)),
    ]


def udp_targets_of(wall: Wall) -> set[tuple[str, int]]:
    """What a sandbox may try by UDP."""
    elsewhere = {(address, FAR_PORT) for address in (INTERNET, PRIVATE, REACHABLE)}
    return {(gateway_of(wall, BRIDGE), FOREIGN), *elsewhere}


def gateway_of(wall: Wall, bridge: str) -> str:
    """The host's own address on a bridge."""
    (line,) = wall.host.run(f"ip -o -4 address show dev {bridge}").out.splitlines()
    return line.split()[3].split("/")[0]


def look(wall: Wall, address_of: dict[str, str]) -> Reached:
    targets = targets_of(wall, address_of)
    return Reached(
        stranger=wall.answering(ALL_PORTS),
        member=wall.answering(ALL_PORTS, source=wall.member),
        sandbox=wall.reaches("sandbox1", *targets),
        client=wall.reaches("client", *targets),
        by_ipv6=wall.answering(ALL_PORTS, source=ipv6_of(wall.far), target=ipv6_of(wall.host)),
        by_udp=wall.answering_udp(CANARIES),
        sandbox_udp=wall.reaches_udp("sandbox1", *udp_targets_of(wall)),
    )


@pytest.fixture(scope="module")
def before(wall: Wall, address_of: dict[str, str]) -> Reached:
    """Without it, everything is reached: else a refusal later on would prove nothing."""
    reached = look(wall, address_of)
    assert reached.stranger == reached.member == reached.by_ipv6 == set(ALL_PORTS)
    assert reached.by_udp == set(CANARIES)
    assert reached.sandbox_udp == udp_targets_of(wall)
    others = {target for target in targets_of(wall, address_of) if target[0] not in address_of.values()}
    assert reached.sandbox >= others - {(wall.host.address, PUBLISHED)}
    assert reached.client >= others - {(wall.host.address, PUBLISHED)}
    return reached


@pytest.fixture(scope="module")
def walled(wall: Wall, before: Reached) -> Wall:
    code, out = wall.roll_out()
    assert code == 0, out
    return wall


@pytest.fixture(scope="module")
def after(walled: Wall, address_of: dict[str, str]) -> Reached:
    return look(walled, address_of)


def test_from_outside_only_what_is_meant_to_answer_does(after: Reached) -> None:
    assert after.stranger == after.by_ipv6 == {SSH, *EDGE, ALLOWED}
    assert after.by_udp == set()


def test_node_answers_to_hosts_of_the_fleet_alone(after: Reached) -> None:
    assert after.member == {SSH, *EDGE, ALLOWED, NODE}


def test_sandbox_reaches_the_internet_and_what_the_site_grants_alone(after: Reached) -> None:
    assert after.sandbox == after.sandbox_udp == {(INTERNET, FAR_PORT), (REACHABLE, FAR_PORT)}


def test_sandbox_finds_names_although_the_name_server_is_private(walled: Wall, after: Reached) -> None:
    asked = ["docker", "exec", "sandbox1", "wget", "-q", "-O-", f"http://pages.example.com:{FAR_PORT}/"]
    assert "canary" in walled.host.run(asked).out


def test_other_containers_lose_only_what_is_ours(
    wall: Wall, before: Reached, after: Reached, address_of: dict[str, str]
) -> None:
    lost = before.client - after.client
    assert lost == {target for target in before.client if target[1] in (VIEWER, NODE)}
    assert (wall.host.address, FOREIGN) in after.client


def test_persistent_desktop_reaches_nothing_at_all(walled: Wall, address_of: dict[str, str]) -> None:
    """It has a network of its own with loopback only; no rule is needed, and none may be missed."""
    script = session("studio", Desktop(tenant="main", host="wall"), Backend.TIGERVNC)
    shuts_itself_in, _, _ = script.partition("umask 027")
    words = [f"{address} {port}" for address, port in targets_of(walled, address_of)]
    asking = " ".join(["python3 /opt/probe.py", f"'127.0.0.1 {VIEWER}'", *(f"'{word}'" for word in words)])
    walled.host.write("/opt/probe.py", PROBE)
    walled.host.write("/opt/desktop", f"{shuts_itself_in}exec {asking}\n", mode="755")
    walled.host.run(f"id {user_of('studio')} 2>/dev/null || useradd {user_of('studio')}")
    walled.host.run(f"mkdir -p {runtime_of('studio').path}")
    on_the_host = walled.host.run(asking).out.splitlines()
    assert f"127.0.0.1 {VIEWER}" in on_the_host
    assert f"{INTERNET} {FAR_PORT}" in on_the_host
    assert walled.host.run("/opt/desktop").out == "asked\n"


def test_host_reaches_its_sandboxes_by_both_ways(walled: Wall, address_of: dict[str, str]) -> None:
    for target in (f"{address_of['sandbox1']}:8080", "127.0.66.1:40001"):
        walled.host.run(
            f"python3 -c 'import urllib.request as u; u.urlopen(\"http://{target}/sh\", timeout=3)'"
        )


def test_second_roll_out_changes_nothing(walled: Wall) -> None:
    code, out = walled.roll_out()
    assert code == 0, out
    assert "[wall] Success" not in out
    assert "[wall] No changes" in out


def test_public_address_that_no_site_file_names_is_kept_from_sandboxes(walled: Wall) -> None:
    refused = walled.table().partition("set public4 {")[2].partition("set private4 {")[0]
    assert refused.count("elements = ") == 1
    assert f"elements = {{ {PUBLIC} }}" in refused


def test_only_servers_of_root_open_a_port_for_everybody(walled: Wall) -> None:
    """Not what an account names so, runs itself, or listens on through its session."""
    host = walled.host
    host.run("id guest 2>/dev/null || useradd --uid 1500 --create-home guest; mkdir -p /run/sshd")
    host.run("cp $(readlink -f /usr/bin/python3) /home/guest/sshd; cp /home/guest/sshd /home/guest/openvpn")
    kept = "s.bind(('', int(sys.argv[1]))); {} time.sleep(600)"
    for name, kind, listen, port in (
        ("sshd", "SOCK_STREAM", "s.listen();", 2290),
        ("openvpn", "SOCK_DGRAM", "", 2291),
    ):
        script = f"import socket, sys, time; s = socket.socket(type=socket.{kind}); {kept.format(listen)}"
        start = f"setsid -f setpriv --reuid 1500 --clear-groups /home/guest/{name}"
        host.run(f'{start} -c "{script}" {port} >/dev/null 2>&1')
    host.run("setpriv --reuid 1500 --clear-groups ssh-keygen -q -t ed25519 -N '' -f /home/guest/key")
    own = "-p 2292 -h /home/guest/key -o PidFile=none -o UsePAM=no"
    host.run(f"setpriv --reuid 1500 --clear-groups /usr/sbin/sshd {own}")
    host.run("/usr/sbin/sshd -p 2293 -o GatewayPorts=yes -o PidFile=none")
    look = FirewallSurroundings().command(address=host.address)
    host.run("nft insert rule inet deskfleet outside_to_host tcp dport 2293 accept")
    session = subprocess.Popen(
        ["ssh", "-i", str(walled.key), "-p", "2293", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
         "-o", "UserKnownHostsFile=/dev/null", "-R", "2294:127.0.0.1:22", f"root@{host.address}",
         "sleep 600"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wanted = {2290, 2292, 2293, 2294}
        heard = "ss -Hltn | awk '{n = split($4, a, \":\"); print a[n]}'"
        wait_until(lambda: wanted <= set(map(int, host.run(heard).out.split())), seconds=20)
        found = FirewallSurroundings().process(host.run(["sh", "-c", look + "\n:"]).out.splitlines())
    finally:
        session.terminate()
        session.wait()
        host.run("pkill -u 1500; pkill -f '[ ]-p 2293'; :")
        walled.roll_out()
    assert found.ssh_ports == (SSH, 2293)
    assert found.tunnel_ports == ()


def test_table_is_back_whenever_the_machines_own_rules_are_loaded_again(walled: Wall) -> None:
    if walled.host.variant is not Variant.SYSTEMD:
        pytest.skip("there is no nftables.service")
    whole = walled.table()
    for verbs in (["restart"], ["reload"], ["stop", "start"]):
        for verb in verbs:
            walled.host.run(f"systemctl {verb} nftables")
        wait_until(lambda: walled.table() == whole, seconds=10)


@pytest.mark.parametrize(
    "harm", ["flush ruleset", "flush chain inet deskfleet input", "delete table inet deskfleet"]
)
def test_next_roll_out_mends_what_somebody_flushed(walled: Wall, harm: str) -> None:
    whole = walled.table()
    walled.host.run(f"nft {harm}")
    assert walled.table() != whole
    code, out = walled.roll_out()
    assert code == 0, out
    assert walled.table() == whole


def test_restart_of_docker_opens_nothing(walled: Wall) -> None:
    """It also brings back Docker's own rules, which an earlier test has flushed."""
    if walled.host.variant is Variant.SYSTEMD:
        walled.host.run("systemctl reset-failed docker; systemctl restart docker")
    else:
        walled.host.run("kill $(pgrep -x dockerd); while pgrep -x dockerd; do sleep 0.1; done")
        boot(walled)
    walled.host.run("docker start sandbox1 sandbox2 server client")
    assert walled.answering(ALL_PORTS) == {SSH, *EDGE, ALLOWED}
    (published,) = walled.host.run("iptables -t nat -S DOCKER | grep -- '--dport 5432'").out.splitlines()
    assert "DNAT" in published


def test_rules_that_cut_ssh_are_taken_back_by_the_roll_out_itself(walled: Wall) -> None:
    whole = walled.table()
    code, out = walled.roll_out(other_rules=CUTS_SSH, way_back=60)
    assert code != 0
    assert "no new connection comes through the new firewall rules" in out
    assert walled.table() == whole
    assert walled.ssh_answers()


def test_rules_that_cut_ssh_are_taken_back_when_the_roll_out_is_dead(walled: Wall) -> None:
    whole = walled.table()
    command = walled.command(other_rules=CUTS_SSH, way_back=8)
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_until(lambda: not walled.ssh_answers(), seconds=60)
        run.send_signal(signal.SIGKILL)
    assert not walled.ssh_answers()
    wait_until(walled.ssh_answers, seconds=12)
    assert walled.table() == whole


def test_roll_out_after_a_dead_one_confirms_the_rules_that_wait(walled: Wall) -> None:
    """It must not take rules for good whose way back is under way."""
    code, out = walled.roll_out()
    assert code == 0, out
    whole = walled.table()
    walled.host.run([SCRIPT, "try", RULES, "4"])
    code, out = walled.roll_out()
    assert code == 0, out
    assert "Load the rules" in out
    time.sleep(5)
    assert walled.table() == whole


def test_machine_comes_up_with_the_rules(walled: Wall) -> None:
    whole = walled.table()
    if walled.host.variant is Variant.PLAIN:
        # Such a container does not restart; what its start script calls is the same.
        walled.host.run(f"nft flush ruleset && {SCRIPT} load")
    else:
        walled.host.daemon.docker("restart", walled.host.name)
    wait_until(lambda: walled.table() == whole, seconds=30)
    boot(walled)
    assert walled.answering(ALL_PORTS) <= {SSH, *EDGE, ALLOWED}


def test_without_it_everything_answers_again_and_nothing_is_left(walled: Wall) -> None:
    code, out = walled.roll_out(gone=True)
    assert code == 0, out
    assert walled.answering(CANARIES) == set(CANARIES)
    left = (
        "find / -xdev -name '*firewall*' -path '*deskfleet*' -not -path '/proc/*'; ls /run; nft list tables"
    )
    assert "firewall" not in walled.host.run(left).out
    assert "inet deskfleet" not in walled.host.run(left).out


def wait_until(holds: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
