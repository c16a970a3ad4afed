"""The edge's certificate from a real authority: lego, Caddy's own ACME server, and BIND, which takes the DNS
records. All on one bare host, with each supervisor."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from inventory.models import HostConfig, Site
from roles.caddy import BINARY, CADDYFILE, RUNTIME, USER
from roles.caddyfile import ADMIN, EDGE_CERTIFICATE, EDGE_KEY
from roles.lego import KEPT, SECRETS
from roles.units import SUPERVISORD_CONF
from tests.hosts.bare_host import CHECKOUT, BareHost, BareHosts, Variant
from tests.hosts.own_docker import own_dockerd
from tests.sites import fleet_secrets

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

DOMAIN, CONTENT = "desks.example.com", "pages.example.org"
NAMES = {DOMAIN, f"*.{DOMAIN}", f"*.{CONTENT}"}
SECRET = "c2VjcmV0IG9mIHRoZSBETlMgcHJvdmlkZXIhISEhISE="
CAP_NET_BIND_SERVICE = 10
WRONG_SECRET = "d3Jvbmcgc2VjcmV0IG9mIGEgRE5TIHByb3ZpZGVyISE="

NAMED = f"""
options {{
    directory "/var/cache/bind"; listen-on {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no;
}};
key "acme" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
zone "example.com" {{ type master; file "/var/lib/bind/example.com"; allow-update {{ key acme; }}; }};
zone "example.org" {{ type master; file "/var/lib/bind/example.org"; allow-update {{ key acme; }}; }};
"""
ZONE = """$TTL 1
@ IN SOA ns hostmaster 1 60 60 600 1
@ IN NS ns
ns IN A 127.0.0.1
"""
AUTHORITY = """{
	admin off
	skip_install_trust
	storage file_system /root/acme
	pki {
		ca local {
			intermediate_lifetime 200d
		}
	}
}
https://localhost:14000 {
	tls internal
	acme_server {
		lifetime 90d
		challenges dns-01
		resolvers 127.0.0.1:53
	}
}
"""
EDGE = f"""{{
	admin {ADMIN}
	auto_https disable_redirects
}}
https://{DOMAIN}, https://*.{CONTENT} {{
	tls {EDGE_CERTIFICATE} {EDGE_KEY}
	respond "the edge"
}}
"""

INVENTORY = """
import json
from pathlib import Path
from tests.test_lego_hosts import config_of

_data = json.loads(Path({data!r}).read_text())
_config = config_of(_data["secret"], _data["content"])
edge = [(_data["host"], {{"deskfleet": _config, "with_caddy": _data["with_caddy"]}})]
"""
DEPLOY = """
from pyinfra.context import host
from inventory.models import HostConfig
from roles import caddy
from roles.foundation import foundation
from roles.lego import lego
from roles.units import run, supervision

foundation()
supervision(runtime=())
lego(HostConfig.model_validate(host.data.get("deskfleet")))
if host.data.get("with_caddy"):
    run(name="Run Caddy", unit=caddy.UNIT, restart_on="")
"""


def config_of(secret: str, content: str) -> HostConfig:
    """The site of these tests, with this value of the provider's secret."""
    given = {
        "RFC2136_NAMESERVER": "127.0.0.1:53",
        "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
        "RFC2136_TSIG_KEY": "acme",
        "RFC2136_TSIG_SECRET": secret,
        "RFC2136_POLLING_INTERVAL": "1",
        "RFC2136_SEQUENCE_INTERVAL": "1",
    }
    site = Site.model_validate(
        {
            "hosts": {"edge": {"groups": ["edge", "control", "sandboxes"], "connect": "@fake/edge"}},
            "settings": {
                "domain": DOMAIN,
                "content_domain": content,
                "tls": "acme",
                "acme": {
                    "directory": "https://localhost:14000/acme/local/directory",
                    "authority": "/root/acme/pki/authorities/local/root.crt",
                    "dns": {"provider": "rfc2136", "variables": list(given)},
                },
            },
        }
    )
    values = {name: SecretStr(value) for name, value in given.items()}
    return HostConfig(name="edge", site=site, secrets=fleet_secrets().model_copy(update={"given": values}))


@dataclass(frozen=True)
class Edge:
    """A host whose name server and authority are its own."""

    host: BareHost
    folder: Path

    def roll_out(
        self, *, secret: str = SECRET, content: str = CONTENT, with_caddy: bool = True
    ) -> tuple[int, str]:
        """lego, and then the edge's Caddy, whose files lie there."""
        data = {
            "host": f"@docker/{self.host.name}",
            "secret": secret,
            "content": content,
            "with_caddy": with_caddy,
        }
        (self.folder / "data.json").write_text(json.dumps(data))
        (self.folder / "hosts.py").write_text(INVENTORY.format(data=str(self.folder / "data.json")))
        (self.folder / "deploy.py").write_text(DEPLOY)
        files = [str(self.folder / name) for name in ("hosts.py", "deploy.py")]
        done = subprocess.run(
            [str(Path(sys.executable).with_name("pyinfra")), *files, "-y", "-vvv", "--diff"],
            cwd=CHECKOUT, env=self.host.daemon.env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.host.read(EDGE_CERTIFICATE).encode())

    def served(self, name: str = DOMAIN) -> int:
        """The serial number of the certificate that Caddy shows."""
        asked = f"openssl s_client -connect 127.0.0.1:443 -servername {name} </dev/null 2>/dev/null"
        return int(self.host.run(f"{asked} | openssl x509 -noout -serial").out.split("=")[1], 16)

    def restart_renewal(self) -> None:
        self.host.run(
            "systemctl restart deskfleet-lego"
            if self.host.variant is Variant.SYSTEMD
            else f"supervisorctl -c {SUPERVISORD_CONF} restart deskfleet-lego"
        )


@pytest.fixture(scope="module")
def hosts() -> Iterator[BareHosts]:
    with own_dockerd("firewall") as daemon:
        yield BareHosts(daemon, keeping=False)


@pytest.fixture(scope="module", params=list(Variant))
def edge(request: pytest.FixtureRequest, hosts: BareHosts, tmp_path_factory: pytest.TempPathFactory) -> Edge:
    """Everything but the role's own work is there."""
    host, _ = hosts.start(request.param, f"lego-{request.param}")
    host.run(
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends"
        " bind9 lego openssl ca-certificates supervisor >/dev/null",
        timeout=300,
    )
    host.run("install -d /opt/deskfleet/caddy")
    host.put(Path(sys.executable).with_name("caddy"), BINARY)
    host.write("/etc/bind/named.conf", NAMED)
    for zone in ("example.com", "example.org"):
        host.write(f"/var/lib/bind/{zone}", ZONE)
    host.write("/root/Caddyfile", AUTHORITY)
    host.run(
        "systemctl stop named 2>/dev/null; chown -R bind /var/lib/bind && mkdir -p /run/named &&"
        " chown bind /run/named && setsid -f named -u bind &&"
        " cat > /etc/resolv.conf <<<'nameserver 127.0.0.1' &&"
        f" setsid -f {BINARY} run --config /root/Caddyfile --adapter caddyfile > /root/authority.log 2>&1"
    )
    host.run(until_there("/root/acme/pki/authorities/local/root.crt"))
    return Edge(host, tmp_path_factory.mktemp(host.name))


def until_there(path: str) -> str:
    return f"for i in $(seq 50); do [ -e {path} ] && exit; sleep 0.2; done; cat /root/*.log; exit 1"


@pytest.fixture(scope="module")
def refused(edge: Edge) -> tuple[int, str]:
    """The first roll-out, with a secret that the name server does not take."""
    return edge.roll_out(secret=WRONG_SECRET, with_caddy=False)


@pytest.fixture(scope="module")
def obtained(edge: Edge, refused: tuple[int, str]) -> Edge:
    """The second roll-out, with a Caddy that serves what it got. It starts as its unit says."""
    code, out = edge.roll_out(with_caddy=False)
    assert code == 0, out
    assert SECRET not in out
    edge.host.write(CADDYFILE, EDGE)
    edge.host.run(f"install -d -m {RUNTIME.mode} -o {USER} -g {USER} {RUNTIME.path} /var/lib/deskfleet/caddy")
    code, out = edge.roll_out()
    assert code == 0, out
    return edge


def test_refused_record_fails_the_roll_out_with_a_sentence_and_no_secret(
    edge: Edge, refused: tuple[int, str]
) -> None:
    code, out = refused
    assert code != 0
    # `--diff` shows the program's own line as well.
    (sentence,) = {
        found for found in re.findall(f"{DOMAIN} got no certificate: .*", out) if "$why" not in found
    }
    assert "DNS update failed: dns: bad authentication" in sentence
    assert WRONG_SECRET not in out
    assert edge.host.run(f"! ls {EDGE_CERTIFICATE} {EDGE_KEY}", check=False).out.count("No such file") == 2


def test_certificate_is_of_every_name_and_its_key_is_caddys_alone(obtained: Edge) -> None:
    names = obtained.certificate().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert set(names.value.get_values_for_type(x509.DNSName)) == NAMES
    listing = obtained.host.run(["stat", "-c", "%a %U:%G %n", EDGE_CERTIFICATE, EDGE_KEY, SECRETS, KEPT]).out
    assert listing.splitlines() == [
        f"644 root:root {EDGE_CERTIFICATE}",
        f"640 root:{USER} {EDGE_KEY}",
        f"600 root:root {SECRETS}",
        f"700 root:root {KEPT}",
    ]


def test_second_roll_out_changes_nothing(obtained: Edge) -> None:
    before = obtained.certificate().serial_number
    code, out = obtained.roll_out()
    assert code == 0, out
    assert "] Success" not in out
    assert obtained.certificate().serial_number == before


def test_caddy_serves_it_for_all_its_names(obtained: Edge) -> None:
    serial = obtained.certificate().serial_number
    assert obtained.served() == obtained.served(f"s1.{CONTENT}") == serial


def test_caddy_listens_below_1024_by_its_one_capability(obtained: Edge) -> None:
    """Under both supervisors, where nobody but root may without it."""
    assert obtained.host.read("/proc/sys/net/ipv4/ip_unprivileged_port_start").strip() == "1024"
    pid = obtained.host.run(["pgrep", "-u", USER, "-x", "caddy"]).out.strip()
    words = map(str.split, obtained.host.read(f"/proc/{pid}/status").splitlines())
    held = {word[0]: int(word[1], 16) for word in words if word[0] in ("CapEff:", "CapPrm:", "CapAmb:")}
    assert held == dict.fromkeys(("CapEff:", "CapPrm:", "CapAmb:"), 1 << CAP_NET_BIND_SERVICE)


def test_renewal_replaces_an_old_certificate_and_caddy_serves_the_new_one(obtained: Edge) -> None:
    lay_old_certificate(obtained, days_left=29)
    obtained.restart_renewal()
    wait_for_another(obtained, serial=1)
    assert obtained.certificate().issuer != obtained.certificate().subject
    assert obtained.served() == obtained.certificate().serial_number


def test_renewal_leaves_a_certificate_alone_that_lasts(obtained: Edge) -> None:
    lay_old_certificate(obtained, days_left=31)
    obtained.restart_renewal()
    time.sleep(6)
    assert obtained.certificate().serial_number == 1
    assert obtained.served() == 1, "what lies there is read all the same"


def test_roll_out_renews_as_well(obtained: Edge) -> None:
    lay_old_certificate(obtained, days_left=2)
    code, out = obtained.roll_out()
    assert code == 0, out
    assert obtained.served() == obtained.certificate().serial_number != 1


def test_another_content_domain_gets_another_certificate(obtained: Edge) -> None:
    code, out = obtained.roll_out(content=f"content.{DOMAIN}")
    assert code == 0, out
    names = obtained.certificate().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert f"*.content.{DOMAIN}" in names.value.get_values_for_type(x509.DNSName)


def lay_old_certificate(edge: Edge, *, days_left: int) -> None:
    """One for the same names with serial number 1 and 90 days of life, of which so many are left."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, DOMAIN)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=90 - days_left))
        .not_valid_after(now + datetime.timedelta(days=days_left))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in sorted(NAMES)]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    edge.host.write(EDGE_KEY, key.private_bytes(pem, *plain).decode(), mode="640")
    edge.host.write(EDGE_CERTIFICATE, certificate.public_bytes(pem).decode())


def wait_for_another(edge: Edge, *, serial: int) -> None:
    deadline = time.monotonic() + 60
    while edge.certificate().serial_number == serial or edge.served() == serial:
        assert time.monotonic() < deadline, edge.host.run(f"cat {KEPT}/last.log", check=False).out
        time.sleep(0.5)
