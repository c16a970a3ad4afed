"""The Caddyfile is a pure function of site and host: whole files compared, and each accepted by the real
Caddy."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from inventory.authority import renewed
from inventory.models import HostConfig, OwnService, Site
from roles.caddy import UNIT, VERSION, unit_of
from roles.caddyfile import caddyfile, needs_caddy
from roles.certificates import CADDY as TLS
from tests.caddy_fleet import caddy_binary
from tests.sites import FLEET, LAYOUTS, fleet_config, fleet_site, host_config, laid_out, secrets

GOLDEN = Path(__file__).parent / "golden"
DOMAIN = "desk.example.com"
TERMINAL = OwnService(name="terminal", host="here", port=7681, websocket=True)


def with_services(config: HostConfig, *services: OwnService | str) -> HostConfig:
    site = config.site.model_copy(update={"services": (*(config.site.services or ()), *services)})
    return config.model_copy(update={"site": site})


OWN = {"cert": "/etc/ssl/desk.pem", "key": "/etc/ssl/desk.key"}
LOCAL = host_config()
FILES: dict[str, HostConfig] = {
    "local": LOCAL,
    "acme": host_config(
        domain=DOMAIN,
        tls="acme",
        acme={"email": "ops@example.com", "dns": {"provider": "desec", "variables": ["DESEC_TOKEN"]}},
    ),
    "internal": host_config(domain=DOMAIN, tls="internal", edge_port=9443),
    "own": host_config(domain=DOMAIN, tls=OWN),
    "own-service": with_services(LOCAL, TERMINAL),
    **{name: fleet_config(name) for name in ("edge1", "control1", "box1", "studio1")},
}


@pytest.mark.parametrize("name", FILES)
def test_whole_file_is_as_agreed(name: str) -> None:
    assert caddyfile(FILES[name]) == (GOLDEN / f"Caddyfile.{name}").read_text()


def test_same_site_gives_the_same_file() -> None:
    assert caddyfile(fleet_config("edge1")) == caddyfile(fleet_config("edge1"))


def changed_lines(before: HostConfig, after: HostConfig) -> list[str]:
    lines = difflib.ndiff(caddyfile(before).splitlines(), caddyfile(after).splitlines())
    return [line[0] + line[1:].strip() for line in lines if line[0] in "+-"]


STREAMS = [
    "+header_up -Sec-WebSocket-Extensions",
    "+flush_interval -1",
    "+# Longer than any stream lives: a reload drops none.",
    "+stream_close_delay 24h",
]


def test_websocket_flag_changes_exactly_its_block() -> None:
    plain = with_services(LOCAL, TERMINAL.model_copy(update={"websocket": False}))
    assert changed_lines(plain, with_services(LOCAL, TERMINAL)) == [
        *STREAMS,
        "+transport http {",
        "+versions 1.1",
        "+}",
    ]


def toggled(host: str, *, websocket: bool) -> HostConfig:
    config = fleet_config(host)
    services = tuple(
        service if isinstance(service, str) else service.model_copy(update={"websocket": websocket})
        for service in config.site.services or ()
    )
    return config.model_copy(update={"site": config.site.model_copy(update={"services": services})})


@pytest.mark.parametrize(
    ("host", "treatment"),
    [
        # The edge has a transport block for TLS already, the node has none.
        ("edge1", [*STREAMS, "+versions 1.1"]),
        ("box2", [*STREAMS, "+transport http {", "+versions 1.1", "+}"]),
        ("box1", []),
        ("control1", []),
        ("studio1", []),
    ],
)
def test_websocket_flag_changes_its_block_in_both_caddys_of_its_way(host: str, treatment: list[str]) -> None:
    assert changed_lines(toggled(host, websocket=False), toggled(host, websocket=True)) == treatment


@pytest.mark.parametrize("host", ["edge1", "box2"])
def test_websocket_flag_changes_nothing_outside_its_site(host: str) -> None:
    before = site_blocks(caddyfile(toggled(host, websocket=False)))
    after = site_blocks(caddyfile(toggled(host, websocket=True)))
    assert [name for name in before if before[name] != after[name]] == [
        "https://code-server.desks.example.com" if host == "edge1"
        else "https://code-server.box2.deskfleet.internal:8443"
    ]  # fmt: skip


def site_blocks(text: str) -> dict[str, str]:
    """Site address -> its block."""
    return dict(re.findall(r"^(http\S*[^\n]*?) \{\n(.*?)^\}$", text, flags=re.MULTILINE | re.DOTALL))


def test_every_stream_of_the_fleet_has_the_treatment_in_both_caddys() -> None:
    edge = site_blocks(caddyfile(fleet_config("edge1")))
    for site in (
        "https://*.content.desks.example.com",
        "https://opensandbox.desks.example.com",
        "https://code-server.desks.example.com",
    ):
        assert "flush_interval -1" in edge[site]
        assert "stream_close_delay 24h" in edge[site]
    for host, name in (("studio1", "studio1"), ("box1", "box1"), ("control1", "opensandbox.control1")):
        node = site_blocks(caddyfile(fleet_config(host)))[f"https://{name}.deskfleet.internal:8443"]
        assert "flush_interval -1" in node
        assert "header_up -Sec-WebSocket-Extensions" in node


def test_plain_service_gets_no_treatment_of_streams() -> None:
    config = with_services(LOCAL, OwnService(name="grafana", host="here", port=3000))
    block = site_blocks(caddyfile(config))["http://grafana.deskfleet.localhost:8088"]
    assert "reverse_proxy 127.0.0.1:3000 {\n" in block
    assert "flush_interval" not in block
    assert "stream_close_delay" not in block


def test_every_service_behind_the_edges_question_has_to_be_asked_for_again() -> None:
    """A WebSocket is asked for once, and would go on when its maker is long out; not so those of relays,
    which are closed."""
    for config in (FILES["own-service"], FILES["edge1"]):
        for name, block in site_blocks(caddyfile(config)).items():
            assert block.count("stream_timeout 1h") == ("/authz/service" in block), name


def test_opensandbox_itself_has_no_way_in_from_the_edge() -> None:
    for name in ("local", "edge1"):
        assert ":8080" not in caddyfile(FILES[name])


def test_site_without_a_content_domain_has_no_site_for_foreign_pages() -> None:
    text = caddyfile(host_config(content_domain="none"))
    assert "/authz/content" not in text
    assert "content." not in text


def test_local_site_binds_loopback_only() -> None:
    assert "\tdefault_bind 127.0.0.1 [::1]\n" in caddyfile(LOCAL)
    assert "\tdefault_bind 127.0.0.1\n" in caddyfile(LOCAL, ipv6=False)


@pytest.mark.parametrize("host", FLEET)
def test_node_listens_on_the_fleet_address_only(host: str) -> None:
    nodes = {
        name: text for name, text in site_blocks(caddyfile(fleet_config(host))).items() if ":8443" in name
    }
    assert bool(nodes) == (host != "edge1")
    for text in nodes.values():
        assert f"\tbind {FLEET[host][0]}\n" in text
        assert "mode require_and_verify" in text


def test_site_of_one_host_has_no_node_and_asks_for_no_certificate() -> None:
    for name in ("local", "acme", "internal", "own"):
        text = caddyfile(FILES[name])
        assert "client_auth" not in text
        assert "host.pem" not in text


def test_every_host_of_a_fleet_needs_caddy_and_of_one_host_the_edge() -> None:
    assert needs_caddy(LOCAL)
    assert all(needs_caddy(fleet_config(name)) for name in FLEET)


def test_only_the_edge_may_listen_below_port_1024() -> None:
    assert unit_of(LOCAL) == UNIT
    assert unit_of(fleet_config("edge1")).capabilities == ("net_bind_service",)
    assert unit_of(fleet_config("box1")).capabilities == ()


def two_hosts(first: list[str], second: list[str]) -> Site:
    hosts = {"one": (first, "10.1.0.1"), "two": (second, "10.1.0.2")}
    return Site.model_validate(
        {
            "hosts": {
                name: {"groups": groups, "connect": f"@fake/{name}", "address": address}
                for name, (groups, address) in hosts.items()
            },
            "settings": {"domain": DOMAIN, "tls": "internal"},
        }
    )


def test_hops_of_a_host_to_itself_stay_on_loopback() -> None:
    site = two_hosts(["edge", "control", "sandboxes"], ["desktops"])
    text = caddyfile(HostConfig(name="one", site=site, secrets=secrets()))
    assert "forward_auth 127.0.0.1:8060" in text
    assert "reverse_proxy 127.0.0.1:8070" in text
    assert "reverse_proxy https://10.1.0.2:8443" in text
    assert "10.1.0.1" not in text


def test_host_that_is_edge_and_more_has_both_parts_in_one_file() -> None:
    site = two_hosts(["edge", "sandboxes"], ["control"])
    text = caddyfile(HostConfig(name="one", site=site, secrets=secrets()))
    assert site_blocks(text).keys() >= {f"https://{DOMAIN}", "https://one.deskfleet.internal:8443"}
    node = site_blocks(text)["https://one.deskfleet.internal:8443"]
    assert "CN=two.deskfleet.internal" in node
    assert "CN=one.deskfleet.internal" not in node


def test_sites_whose_certificate_dns_proves_all_use_it() -> None:
    blocks = site_blocks(caddyfile(FILES["acme"]))
    # But for what is asked for under a foreign name, which gets nowhere.
    https = [text for name, text in blocks.items() if name.startswith("https://") and name != "https://:443"]
    assert len(https) == 3
    assert all(f"\ttls {TLS}/edge.pem {TLS}/edge.key\n" in text for text in https)


def test_caddy_proves_its_names_itself_where_no_wildcard_is_needed() -> None:
    config = host_config(
        domain=DOMAIN,
        tls="acme",
        content_domain="none",
        acme={
            "email": "ops@example.com",
            "directory": "https://ca.example.com/directory",
            "authority": "/etc/ssl/ca.pem",
        },
    )
    text = caddyfile(config)
    assert "\temail ops@example.com\n\tacme_ca https://ca.example.com/directory\n" in text
    assert "\tacme_ca_root /etc/ssl/ca.pem\n" in text
    assert "\ttls " not in text


# The real Caddy


ODD_SITES: dict[str, HostConfig] = {
    "edge of a local fleet": HostConfig(
        name="edge1", site=fleet_site(domain="desks.localhost", tls="none"), secrets=secrets()
    ),
    "edge and sandboxes": HostConfig(
        name="one", site=two_hosts(["edge", "sandboxes"], ["control", "desktops"]), secrets=secrets()
    ),
    "no content domain": host_config(domain=DOMAIN, tls="acme", content_domain="none"),
    "localhost": host_config(domain="localhost"),
    **{
        f"{host} of {layout}": HostConfig(name=host, site=laid_out(layout), secrets=secrets())
        for layout, hosts in LAYOUTS.items()
        for host in hosts
    },
}
ACCEPTED = {**FILES, **ODD_SITES}


@pytest.mark.real
@pytest.mark.parametrize("name", ACCEPTED)
def test_real_caddy_accepts_the_file(name: str, tmp_path: Path) -> None:
    done = run_caddy("validate", here(ACCEPTED[name], tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    assert warnings_in(done.stderr) <= EXPECTED_WARNINGS


# What Caddy finds worth a warning in these files, and is meant so.
EXPECTED_WARNINGS = {
    "automatic HTTPS is completely disabled for server",
    "enabling strict SNI-Host enforcement because TLS client auth is configured",
    "server is listening only on the HTTP port, so no automatic HTTPS will be applied to this server",
}


def warnings_in(log: str) -> set[str]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {line["msg"] for line in lines if line["level"] not in {"info", "debug"}}


@pytest.mark.real
@pytest.mark.parametrize("name", ["local", "edge1"])
def test_stream_route_strips_first_and_authorises_before_it_forwards(name: str, tmp_path: Path) -> None:
    (shown,) = [shown for shown in order_of(FILES[name], tmp_path) if "asks /authz/stream" in shown]
    asked = shown.index("asks /authz/stream")
    assert shown[0] == "strips X-Df-*"
    after = shown[asked + 1 :]
    # forward_auth asks the viewer, then the credentials go, then the stream is joined.
    assert after[after.index("strips Cookie") :][:3] == ["strips Cookie", "strips Authorization", "forwards"]


@pytest.mark.real
@pytest.mark.parametrize("question", ["/authz/content", "/authz/service"])
def test_site_of_foreign_pages_or_services_strips_authorises_and_only_then_forwards(
    question: str, tmp_path: Path
) -> None:
    (shown,) = [shown for shown in order_of(FILES["edge1"], tmp_path) if f"asks {question}" in shown]
    asked = shown.index(f"asks {question}")
    assert shown[0] == "strips X-Df-*"
    assert "strips Authorization" not in shown[:asked]
    after = shown[asked + 1 :]
    assert after.index("strips Authorization") < after.index("forwards")
    if question == "/authz/content":
        assert after.index("prefixes") < after.index("forwards")


@pytest.mark.real
def test_caddy_of_the_tests_is_the_one_we_pin() -> None:
    said = subprocess.run([caddy_binary(), "version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"v{VERSION} ")


def order_of(config: HostConfig, tmp_path: Path) -> list[list[str]]:
    """For each site what the real Caddy does with a request, in order, in a few words."""
    done = run_caddy("adapt", caddyfile(config), tmp_path)
    servers = json.loads(done.stdout)["apps"]["http"]["servers"].values()
    return [list(_steps(route)) for server in servers for route in server["routes"]]


def _steps(config: Any) -> list[str]:
    if isinstance(config, list):
        return [word for item in config for word in _steps(item)]
    if not isinstance(config, dict):
        return []
    kind = config.get("handler")
    if kind == "reverse_proxy":
        asks = config.get("rewrite", {}).get("uri")
        return [f"asks {asks}" if asks else "forwards"]
    if kind == "headers":
        return [f"strips {name}" for name in config.get("request", {}).get("delete", [])]
    if kind == "rewrite":
        return ["prefixes"]
    return [word for value in config.values() for word in _steps(value)]


def here(config: HostConfig, tmp_path: Path) -> str:
    """The file with the paths of this test, where certificates lie that `validate` can read."""
    text = (
        caddyfile(config)
        .replace("/var/lib/deskfleet/caddy", str(tmp_path / "storage"))
        .replace(TLS, str(tmp_path))
    )
    made = renewed(None, config.site, datetime.now(UTC))
    pair = made.hosts[config.name]
    for file in ("edge", "own"):
        (tmp_path / f"{file}.pem").write_text(pair.certificate)
        (tmp_path / f"{file}.key").write_text(pair.key.get_secret_value())
    (tmp_path / "host.pem").write_text(pair.certificate + pair.key.get_secret_value())
    (tmp_path / "ca.pem").write_text(made.authority.certificate)
    return text


def run_caddy(command: str, text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "Caddyfile"
    file.write_text(text)
    return subprocess.run(
        [caddy_binary(), command, "--adapter", "caddyfile", "--config", str(file)],
        env={"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
