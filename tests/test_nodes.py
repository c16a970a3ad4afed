"""The way to another host: the real Caddy with a client certificate required, as on a sandbox host.

Stand-in, by name: `canned` answers of Caddy where OpenSandbox and the relay would be.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.relay_process import free_port, wait_for_listener
from viewer.nodes import Credentials, Node, NodeFilesUnusable, client_of
from viewer.relay_client import RelayClient, RelayUnreachable
from viewer.sandbox_hosts import AnswerLost, HostUnreachable, SandboxHost

pytestmark = pytest.mark.real

CADDY = str(Path(sys.executable).with_name("caddy"))
NAME = "box1.deskfleet.internal"
CADDYFILE = """
{{
	admin off
	auto_https off
	fallback_sni {name}
	default_bind 127.0.0.1
}}
https://{name}:{port} {{
	tls {folder}/box.pem {folder}/box.key {{
		protocols {protocol}
		client_auth {{
			mode require_and_verify
			trust_pool file {folder}/ca.pem
		}}
	}}
	@stranger not vars {{http.request.tls.client.subject}} CN=control.deskfleet.internal
	respond @stranger 403
	respond /version `{{"version": "1.1.1"}}`
	respond /streams `{{"streams": []}}`
	respond /v1/sandboxes `{{"host": "{{http.request.host}}", "proto": "{{http.request.proto}}"}}`
}}
"""


@dataclass
class Authority:
    folder: Path
    name: str

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        made = (
            self._builder(self._subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = self.folder / f"{self.name}.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def certificate(self, file: str, host: str) -> tuple[Path, Path]:
        """Certificate and key of `host`, as files `<file>.pem` and `<file>.key`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        made = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        paths = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )


@dataclass
class Box:
    """A node and the certificates of its fleet and of a foreign one."""

    url: str
    credentials: Credentials
    foreign: Credentials
    foreign_authority: Path

    def node(self, credentials: Credentials | None = None, server_name: str = NAME) -> Node:
        return Node(server_name=server_name, credentials=credentials or self.credentials)


@pytest.fixture(scope="module", params=["tls1.3", "tls1.2"])
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("node")
    ours, theirs = Authority(folder, "ca"), Authority(folder, "foreign")
    ours.certificate("box", NAME)
    certificate, key = ours.certificate("control", "control.deskfleet.internal")
    other_certificate, other_key = theirs.certificate("intruder", "control.deskfleet.internal")
    with _caddy(folder, request.param) as url:
        yield Box(
            url=url,
            credentials=Credentials(certificate_file=certificate, key_file=key, authority_file=ours.file),
            foreign=Credentials(
                certificate_file=other_certificate, key_file=other_key, authority_file=ours.file
            ),
            foreign_authority=theirs.file,
        )


@contextmanager
def _caddy(folder: Path, protocol: str) -> Iterator[str]:
    port = free_port()
    file = folder / "Caddyfile"
    file.write_text(CADDYFILE.format(name=NAME, port=port, folder=folder, protocol=protocol))
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen(
            [CADDY, "run", "--adapter", "caddyfile", "--config", str(file)],
            env={"HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_listener("127.0.0.1", port)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def sandbox_host(box: Box, node: Node) -> closing[SandboxHost]:
    return closing(SandboxHost("box1", url=box.url, key="k", fleet_id="f-1", node=node))


def relay_client(box: Box, node: Node) -> closing[RelayClient]:
    return closing(RelayClient("box1", url=box.url, key=Fernet.generate_key(), node=node))


def test_both_clients_reach_a_node_that_asks_for_our_certificate(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    with sandbox_host(box, box.node()) as host, relay_client(box, box.node()) as relay:
        assert host.version() == "1.1.1"
        assert relay.streams() == []
        ends = [relay.certificate_ends, box.credentials.certificate_ends()]
        assert all(end and timedelta(hours=23) < end - datetime.now(UTC) < timedelta(days=1) for end in ends)


def test_host_header_is_the_nodes_name_and_the_protocol_is_http_1(box: Box) -> None:
    timeout, limits = httpx.Timeout(5), httpx.Limits(max_connections=1)
    with client_of(box.url, box.node(), timeout=timeout, limits=limits) as http:
        assert http.get("/v1/sandboxes").json() == {"host": NAME, "proto": "HTTP/1.1"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda box: box.node(server_name="box2.deskfleet.internal"),
            "its certificate is not the one of this fleet: Hostname mismatch",
        ),
        (
            lambda box: box.node(
                box.credentials.model_copy(update={"authority_file": box.foreign_authority})
            ),
            "its certificate is not the one of this fleet: unable to get local issuer certificate",
        ),
        (lambda box: box.node(box.foreign), "no TLS connection comes about: "),
    ],
    ids=["other name", "authority that did not sign the node's", "certificate of a foreign authority"],
)
def test_wrong_certificate_on_either_side_is_one_sentence_and_nothing_was_sent(
    box: Box, change: Callable[[Box], Node], sentence: str
) -> None:
    with sandbox_host(box, change(box)) as host, pytest.raises(HostUnreachable) as refused:
        host.delete("box-1")
    assert not isinstance(refused.value, AnswerLost)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "_ssl.c" not in str(refused.value)
    said = r"the relay of host box1 does not answer at https://127\S+: "
    with relay_client(box, change(box)) as relay, pytest.raises(RelayUnreachable, match=said):
        relay.streams()


def test_without_a_certificate_the_node_says_nothing(box: Box) -> None:
    context = ssl.create_default_context(cafile=box.credentials.authority_file)
    with httpx.Client(verify=context, trust_env=False) as http, pytest.raises(httpx.TransportError):
        http.get(f"{box.url}/version", headers={"Host": NAME}, extensions={"sni_hostname": NAME})


@pytest.mark.parametrize("broken", ["certificate_file", "key_file", "authority_file"])
def test_unusable_files_are_one_sentence_that_names_the_file(tmp_path: Path, broken: str) -> None:
    ours = Authority(tmp_path, "ca")
    certificate, key = ours.certificate("control", "control.deskfleet.internal")
    good = {"certificate_file": certificate, "key_file": key, "authority_file": ours.file}
    for content in (None, "not a certificate\n"):
        file = tmp_path / "broken"
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
        with pytest.raises(NodeFilesUnusable) as refused:
            Credentials(**{**good, broken: file}).context()
        assert str(file) in str(refused.value)
        assert "not a certificate" not in str(refused.value)
