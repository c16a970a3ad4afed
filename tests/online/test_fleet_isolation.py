"""What of a fleet answers to whom: to the outside, to sandboxes and desktops, and between hosts."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pytest

from inventory.authority import renewed
from inventory.models import Group, node_name
from tests.hosts.network import inside
from tests.online.fleet import SessionView
from tests.online.spread import BEHIND_ANOTHER, SpreadFleet

pytestmark = pytest.mark.host

METADATA = "169.254.169.254"
NODE = 8443
FOR_THE_WORLD = {22, 80, 443, NODE}
"""8443 answers to certificates only, which the tests further down ask."""
CLOSED = {BEHIND_ANOTHER}
"""Its sshd answers to the other hosts alone."""


@pytest.fixture(scope="module")
def desktop(bare_spread: SpreadFleet) -> Iterator[SessionView]:
    with bare_spread.api.desktop() as session:
        yield session


# --- from outside ---


def test_before_the_roll_out_only_ssh_answered(bare_spread: SpreadFleet) -> None:
    if not bare_spread.open_before:
        pytest.skip("the hosts were kept from an earlier run")
    wanted: dict[str, list[int]] = {name: [] if name in CLOSED else [22] for name in bare_spread.machines}
    assert bare_spread.open_before == wanted


def test_from_outside_only_ssh_and_the_web_answer(spread: SpreadFleet, desktop: SessionView) -> None:
    """Every port of every host, with a desktop running: from a machine that is no host of the fleet."""
    found = {name: set(ports) for name, ports in spread.scan_all().items()}
    assert {
        name: sorted(ports - FOR_THE_WORLD) for name, ports in found.items() if ports - FOR_THE_WORLD
    } == {}
    assert {name for name, ports in found.items() if 22 in ports} == set(spread.machines) - CLOSED
    assert {80, 443} <= found[spread.site.edge]
    assert not any({80, 443} & ports for name, ports in found.items() if name != spread.site.edge)


def test_services_listen_on_loopback_or_ask_for_a_certificate(spread: SpreadFleet) -> None:
    """The kernel's own list on every host, with IPv6: what a scan from one place could miss."""
    for name, machine in spread.machines.items():
        lines = machine.run("ss -Hlnt").out.splitlines()
        sockets = {line.split()[3].rpartition(":") for line in lines}
        outward = {
            int(port)
            for address, _, port in sockets
            if not address.strip("[]").split("%")[0].startswith("127.") and address != "[::1]"
        }
        assert outward <= FOR_THE_WORLD, name


# --- from inside a sandbox, and from a persistent desktop ---


def test_sandbox_reaches_nothing_of_the_fleet(spread: SpreadFleet, desktop: SessionView) -> None:
    """Nobody answers at the metadata address here, so that asking it only shows that nothing of ours does;
    that it is refused is shown in tests/test_firewall_hosts.py, where something answers there."""
    with spread.api.desktop() as first, spread.api.desktop() as second:
        # Two hosts for three desktops: two of them are neighbours.
        made = combinations((desktop, first, second), 2)
        mine, other = next((one, two) for one, two in made if one.host == two.host)
        box = spread.on(str(mine.host))
        pid = int(box.docker("inspect", "--format={{.State.Pid}}", box.container_of(mine)).out)
        targets = [*everything_that_listens(spread), (METADATA, 80), (METADATA, 443)]
        targets += [(_address(spread, other), port) for port in (8080, 44772, 9222)]
        itself = ("127.0.0.1", 8080)  # shows that the question is asked where we think
        assert reached(spread, str(mine.host), f"nsenter --target {pid} --net", [itself, *targets]) == [
            itself
        ]


def test_persistent_desktop_reaches_nothing_of_the_fleet(spread: SpreadFleet) -> None:
    [name] = [name for name, of in spread.site.desktops.items() if of.tenant == spread.site.tenants[0]]
    host = spread.site.desktops[name].host
    pid = spread.machines[host].run(f"pgrep -u desk-{name} | head -1").out.strip()
    assert pid.isdigit(), f"nothing of {name} runs"
    user = f"desk-{name}"
    enter = f"nsenter --target {pid} --net setpriv --reuid {user} --regid {user} --init-groups"
    assert reached(spread, host, enter, [*everything_that_listens(spread), (METADATA, 80)]) == []


def test_sandbox_reaches_the_world(spread: SpreadFleet, desktop: SessionView) -> None:
    """An agent's desktop without the network would be of no use: names are resolved in it."""
    box = spread.on(str(desktop.host))
    resolver = next(
        line.split()[1]
        for line in spread.machines[str(desktop.host)].read("/etc/resolv.conf").splitlines()
        if line.startswith("nameserver")
    )
    question = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5);"
        "s.sendto(bytes.fromhex('123401000001000000000000076578616d706c6503636f6d0000010001'),"
        f" ('{resolver}', 53)); print(len(s.recv(512)) > 12)"
    )
    pid = int(box.docker("inspect", "--format={{.State.Pid}}", box.container_of(desktop)).out)
    argv = ["nsenter", "--target", str(pid), "--net", "python3", "-c", question]
    assert box.host.run(argv).out.strip() == "True"


def everything_that_listens(spread: SpreadFleet) -> list[tuple[str, int]]:
    """Every port that listens on any host, by each of the host's own addresses but loopback."""
    targets = []
    for machine in spread.machines.values():
        lines = machine.run("ss -Hlnt").out.splitlines()
        ports = sorted({int(line.split()[3].rpartition(":")[2]) for line in lines})
        found = machine.run("ip -4 -o addr | awk '{print $4}' | cut -d/ -f1").out.split()
        addresses = [address for address in found if not ipaddress.ip_address(address).is_loopback]
        targets += [(address, port) for address in addresses for port in ports]
    return targets


def reached(
    spread: SpreadFleet, host: str, enter: str, targets: list[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Those of the targets that answer to a process on `host` behind the prefix `enter`."""
    question = "\n".join(f"{address} {port}" for address, port in targets)
    script = f"{enter} python3 -c '{_ALL_AT_ONCE}'"
    *found, last = spread.machines[host].run(script, stdin=question, timeout=300).out.splitlines()
    assert last == "asked", found
    return [(line.split()[0], int(line.split()[1])) for line in found]


# The question of the one-host tests, asked by many threads: silence costs a second each.
_ALL_AT_ONCE = """
import concurrent.futures, socket, sys
def answers(line):
    host, port = line.split()
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return None
    return line.strip()
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    for line in pool.map(answers, sys.stdin):
        if line:
            print(line)
print("asked")
"""


def _address(spread: SpreadFleet, session: SessionView) -> str:
    box = spread.on(str(session.host))
    template = "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return box.docker("inspect", template, box.container_of(session)).out.strip()


# --- between hosts ---


@pytest.fixture(scope="module")
def papers(bare_spread: SpreadFleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<host>.pem` with certificate and key of each host, `ca.pem`; and those of a foreign authority that
    carry the same names."""
    folder = tmp_path_factory.mktemp("papers")
    site, own = bare_spread.site, bare_spread.secrets.certificates
    assert own
    foreign = renewed(None, site, now=datetime.now(UTC))
    for prefix, certificates in (("", own), ("foreign-", foreign)):
        (folder / f"{prefix}ca.pem").write_text(certificates.authority.certificate)
        for name, pair in certificates.hosts.items():
            (folder / f"{prefix}{name}.pem").write_text(pair.certificate + pair.key.get_secret_value())
    return folder


def node_status(spread: SpreadFleet, host: str, papers: Path, certificate: str | None, path: str) -> int:
    """HTTP status of a request from the control host to a node; raises OSError where it gets no answer.

    Also a refusal after the handshake is one: with TLS 1.3 the client's certificate is looked at last.
    """
    context = ssl.create_default_context(cafile=str(papers / "ca.pem"))
    if certificate:
        context.load_cert_chain(str(papers / f"{certificate}.pem"))
    address = spread.machines[host].address

    def ask() -> int:
        with (
            socket.create_connection((address, NODE), 5) as plain,
            context.wrap_socket(plain, server_hostname=node_name(host)) as secure,
        ):
            secure.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {node_name(host)}\r\nConnection: close\r\n\r\n".encode()
            )
            with secure.makefile("rb") as answer:
                line = answer.readline()
            if not line:
                raise ConnectionResetError("closed without an answer")
            return int(line.split()[1])

    return inside(spread.machines[spread.site.control].pid, ask)


def test_control_plane_is_let_in_by_its_certificate(spread: SpreadFleet, papers: Path) -> None:
    """So that the refusals below are refusals of these very requests."""
    for box in spread.site.hosts_in(Group.SANDBOXES):
        assert node_status(spread, box, papers, spread.site.control, "/health") == 200


@pytest.mark.parametrize("certificate", [None, "foreign-control1", "foreign-edge1", "box2", "studio1"])
def test_node_refuses_who_has_no_certificate_of_edge_or_control(
    spread: SpreadFleet, papers: Path, certificate: str | None
) -> None:
    for host in spread.machines:
        if host != spread.site.edge:
            assert node_status(spread, host, papers, spread.site.edge, "/health") < 500
            with pytest.raises(OSError):  # noqa: PT011 (ssl.SSLError, a reset or silence, as TLS has it)
                node_status(spread, host, papers, certificate, "/health")


def test_node_gives_each_certificate_its_own_routes(spread: SpreadFleet, papers: Path) -> None:
    edge, control = spread.site.edge, spread.site.control
    assert node_status(spread, "box1", papers, edge, "/v1/sandboxes") in (403, 404)
    assert node_status(spread, "box1", papers, edge, "/health") in (403, 404)
    assert node_status(spread, "box1", papers, control, "/stream/x") in (403, 404)
    assert node_status(spread, "box1", papers, control, "/v1/sandboxes/x/proxy/8080/") in (403, 404)
    assert node_status(spread, control, papers, control, "/healthz") in (403, 404)


def test_node_shows_only_a_certificate_of_the_fleet(spread: SpreadFleet, papers: Path) -> None:
    """A client that trusts another authority doesn't get as far as to show its own."""
    context = ssl.create_default_context(cafile=str(papers / "foreign-ca.pem"))
    address = spread.machines["box1"].address

    def ask() -> None:
        with socket.create_connection((address, NODE), 5) as plain:
            context.wrap_socket(plain, server_hostname=node_name("box1"))

    with pytest.raises(ssl.SSLCertVerificationError):
        inside(spread.machines[spread.site.control].pid, ask)
