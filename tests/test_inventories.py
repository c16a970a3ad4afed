"""Site files: every one in the repository loads, and what is wrong in one is said as `file:key: sentence`."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyrage.x25519 import Identity

from inventory import resources
from inventory.models import (
    Acme,
    Database,
    Desktop,
    External,
    Firewall,
    Group,
    Host,
    Images,
    Jump,
    Kasmvnc,
    Keep,
    Oidc,
    OidcRule,
    OwnImage,
    OwnService,
    Pool,
    Ports,
    Quota,
    RegistryUser,
    Settings,
    Site,
    Ssh,
    Ttl,
    Webhooks,
)  # fmt: skip
from inventory.secrets import key_hash
from inventory.site_file import DIRECTORY, SiteRefused, load_site, site_path
from tests.sites import secrets, site
from tests.soaking import examples
from viewer import resources as viewer_resources

SITES = sorted(Path("inventory").glob("*.yml"))
GOOD = """
hosts:
  here: {groups: [edge, control, sandboxes, desktops], connect: "@local"}
settings: {domain: deskfleet.localhost}
"""
FLEET = """
hosts:
  here: {groups: [edge, control], connect: {address: 10.0.0.5}}
  there: {groups: [sandboxes, desktops], connect: {address: 10.0.0.6}}
settings: {domain: deskfleet.localhost}
"""


EVERYBODY = "{everybody: true, tenant: main, role: watcher}"


def with_oidc(rules: str) -> str:
    known = "issuer: 'https://login.example.com', client_id: x, client_secret: OIDC_SECRET, name: Acme"
    return GOOD.replace("localhost}", f"localhost, oidc: {{{known}, rules: [{rules}]}}}}")


def refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("acme.yml").write_text(text)
    with pytest.raises(SiteRefused) as error:
        load_site(Path("acme.yml"))
    return str(error.value)


@pytest.mark.parametrize("path", SITES, ids=str)
def test_every_site_in_the_repository_loads(path: Path) -> None:
    assert load_site(path).hosts


def test_site_of_the_tutorial_loads(tmp_path: Path) -> None:
    [block] = re.findall(r"^```yaml\n(.*?)^```$", Path("docs/tutorial.md").read_text(), re.S | re.M)
    path = tmp_path / "acme.yml"
    path.write_text(block.replace("age1…", str(Identity.generate().to_public())))
    found = load_site(path)
    assert (found.edge, found.control) == ("gate", "gate")
    assert set(found.hosts_in(Group.SANDBOXES)) == {"box1", "box2"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD.replace("domain", "domian"), "acme.yml:settings.domian: unknown key, did you mean 'domain'?"),
        (GOOD + "tenant: [main]\n", "acme.yml:tenant: unknown key, did you mean 'tenants'?"),
        (
            GOOD.replace("connect:", "conect:"),
            "acme.yml:hosts.here.connect: is missing\n"
            "acme.yml:hosts.here.conect: unknown key, did you mean 'connect'?",
        ),
        (
            GOOD + "desktops: {studio: {tenant: main, host: here, resolutoin: 800x600}}\n",
            "acme.yml:desktops.studio.resolutoin: unknown key, did you mean 'resolution'?",
        ),
        (GOOD + "tenants: [main, main]\n", "acme.yml:tenants: a tenant is named twice"),
        (
            GOOD + "desktops: {studio: {tenant: main, host: here, resolution: 9999x800}}\n",
            "acme.yml:desktops.studio.resolution: 9999x800 is not a screen from 640x480 to 3840x2160",
        ),
        (
            GOOD.replace("deskfleet.localhost", "desk.example.com"),
            "acme.yml:settings.tls: plain http is only for localhost and *.localhost, not for"
            " 'desk.example.com'; set tls to acme, internal, or {cert, key}",
        ),
        (
            GOOD.replace("deskfleet.localhost", "10.0.0.5"),
            "acme.yml:settings.domain: '10.0.0.5' is an address; give a name, browsers tie sign-in to it",
        ),
        (
            GOOD.replace("localhost}", "localhost, ports: {relay: 8060}}"),
            "acme.yml:settings.ports.viewer: port 8060 is also the port of relay; give each its own",
        ),
        (GOOD + "hosts: {}\n", "acme.yml:5: not valid YAML: key 'hosts' appears twice"),
        ("hosts: {}\n", "acme.yml:hosts: names no host; there is nothing to roll out to"),
        ("- here\n", "acme.yml: must be a mapping with 'hosts' and 'settings'"),
        (
            GOOD + "desktops: {studio: {tenant: other, host: here}}\n",
            "acme.yml:desktops.studio.tenant: desktop 'studio' belongs to the unknown tenant 'other'",
        ),
        (
            GOOD.replace("edge, ", "egde, "),
            "acme.yml:hosts.here.groups.0: unknown value 'egde', did you mean 'edge'?",
        ),
        (
            GOOD.replace("edge, ", ""),
            "acme.yml:hosts: exactly one host must have the group 'edge'; now: none",
        ),
        (
            GOOD.replace("sandboxes, desktops", ""),
            "acme.yml:hosts: no host has the group 'sandboxes' or 'desktops'; give one of them to a host",
        ),
        (GOOD.replace("settings:", "Settings:"), "acme.yml:Settings: unknown key, did you mean 'settings'?"),
        (
            GOOD.replace("localhost}", "localhost, acme_email: me@example.com}"),
            "acme.yml:settings.acme_email: is now settings.acme.email; write it there",
        ),
        (
            GOOD.replace('"@local"', "{adress: 10.0.0.5}"),
            "acme.yml:hosts.here.connect.address: is missing\n"
            "acme.yml:hosts.here.connect.adress: unknown key, did you mean 'address'?",
        ),
        (
            GOOD.replace('"@local"', "{address: 10.0.0.5, jump: {address: 10.0.0.1, usr: me}}"),
            "acme.yml:hosts.here.connect.jump.usr: unknown key, did you mean 'user'?",
        ),
        (
            GOOD.replace('"@local"', '"@lokal"'),
            "acme.yml:hosts.here.connect: string should match pattern"
            " '^@(local|fake/[a-z0-9-]+|docker/[A-Za-z0-9_.-]+)$' (it is '@lokal')",
        ),
        (
            GOOD.replace("localhost}", "localhost, tls: interal}"),
            "acme.yml:settings.tls: unknown value 'interal', did you mean 'internal'?",
        ),
        (
            GOOD.replace("localhost}", "localhost, tls: {cert: /a.pem, kye: /b.pem}}"),
            "acme.yml:settings.tls.key: is missing\n"
            "acme.yml:settings.tls.kye: unknown key, did you mean 'key'?",
        ),
        (
            GOOD + "services: [opensandbox, kasmvnc, {name: code-server, host: here, prot: 8090}]\n",
            "acme.yml:services.2.port: is missing\n"
            "acme.yml:services.2.prot: unknown key, did you mean 'port'?",
        ),
        (
            GOOD + "services: [opensandbx]\n",
            "acme.yml:services.0: unknown service 'opensandbx', did you mean 'opensandbox'?",
        ),
        (GOOD + "skills: [cod]\n", "acme.yml:skills.0: unknown skill 'cod', did you mean 'code'?"),
        (
            GOOD + "services: [opensandbox, {name: code-server, host: hre, port: 8090}]\n",
            "acme.yml:services.1.host: unknown host 'hre', did you mean 'here'?",
        ),
        (
            GOOD + "services: [opensandbox, {name: code-server, host: here, port: 8060}]\n",
            "acme.yml:services.1.port: port 8060 on host 'here' belongs to 'viewer';"
            " give 'code-server' another",
        ),
        (
            GOOD + "desktops: {studio: {tenant: main, host: here, backend: kasmvcn}}\n",
            "acme.yml:desktops.studio.backend: unknown value 'kasmvcn', did you mean 'kasmvnc'?",
        ),
        (
            FLEET.replace("10.0.0.6", "10.0.0.5"),
            "acme.yml:hosts.there: hosts 'here' and 'there' have the same address 10.0.0.5",
        ),
        (
            FLEET.replace("connect: {address: 10.0.0.6}", 'connect: "@fake/h2"'),
            "acme.yml:hosts.there.address: host 'there' needs 'address', the private IPv4 address where the"
            " other hosts reach it",
        ),
        (
            FLEET.replace("connect: {address: 10.0.0.6}", 'connect: "@fake/h2", address: 127.0.0.1'),
            "acme.yml:hosts.there.address: other hosts can't reach 'there' at 127.0.0.1",
        ),
        (
            GOOD.replace("deskfleet.localhost}", "desk.example.com, tls: acme}"),
            "acme.yml:settings.acme.dns: is missing: the certificate for *.content.desk.example.com is given"
            " for a DNS record only; name a provider, use tls: {cert, key}, or set content_domain: none",
        ),
        (
            GOOD.replace("localhost}", "localhost, edge_port: 8060}"),
            "acme.yml:settings.edge_port: edge_port 8060 is also the port of a service; give each its own",
        ),
        (
            GOOD.replace("localhost}", "localhost, trusted_proxies: [0.0.0.0/0]}"),
            "acme.yml:settings.trusted_proxies.0: 0.0.0.0/0 is every address there is; name those of your"
            " proxies",
        ),
        (
            GOOD.replace("localhost}", "localhost, trusted_proxies: [10.0.0.1/8]}"),
            "acme.yml:settings.trusted_proxies.0: 10.0.0.1/8 has host bits set",
        ),
        (
            GOOD.replace("localhost}", "localhost, ports: {sandboxes: [40000, 40050]}}"),
            "acme.yml:settings.ports.sandboxes: the range 40000-40050 is too small; sandboxes need at least"
            " 101 ports",
        ),
        (
            GOOD.replace("localhost}", "localhost, content_domain: deskfleet.localhost}"),
            "acme.yml:settings.content_domain: content_domain 'deskfleet.localhost' must not hold the"
            " viewer's own name 'deskfleet.localhost'; take one below it, such as"
            " content.deskfleet.localhost, or another domain",
        ),
        (
            GOOD.replace(", desktops]", "]") + "desktops: {studio: {tenant: main, host: here}}\n",
            "acme.yml:desktops.studio.host: desktop 'studio' lies on host 'here', which lacks the group"
            " 'desktops'",
        ),
        (
            GOOD.replace("localhost}", "localhost, kasmvnc: {file: k.deb}}"),
            "acme.yml:settings.kasmvnc.sha256: 'sha256' belongs to 'url' or 'file', and they need it",
        ),
        (
            GOOD.replace("localhost}", "localhost, caddy: {source: url}}"),
            "acme.yml:settings.caddy.url: source 'url' needs both 'url' and 'sha256'",
        ),
        (
            GOOD + "services: [opensandbox, {name: code-, host: here, port: 8090}]\n",
            "acme.yml:services.1.name: string should match pattern '^[a-z]([a-z0-9-]{0,21}[a-z0-9])?$'"
            " (it is 'code-')",
        ),
        (
            GOOD.replace("domain: deskfleet.localhost", r'domain: "deskfleet.localhost\n"'),
            r"acme.yml:settings.domain: 'deskfleet.localhost\n' is not a host name (lower case, no scheme,"
            " no port)",
        ),
        (
            GOOD.replace('"@local"}', '"@local", cpu: many, memory: 16GB, labels: {gpu: true}}'),
            "acme.yml:hosts.here.cpu: is not a number of cores such as 2, 0.5 or 500m\n"
            "acme.yml:hosts.here.memory: is not a size such as 512Mi or 2Gi\n"
            "acme.yml:hosts.here.labels.gpu: must be text; put True in quotes",
        ),
        (
            GOOD.replace('"@local"}', '"@local", labels: {disk/: fast}}'),
            "acme.yml:hosts.here.labels.disk/: is no name of a label: at most 63 letters, digits, '.', '_'"
            " and '-', after a domain and '/' if you like",
        ),
        (
            GOOD.replace('"@local"}', r'"@local", labels: {"a\nb": fast}}'),
            r"acme.yml:'hosts.here.labels.a\nb': is no name of a label: at most 63 letters, digits, '.', '_'"
            " and '-', after a domain and '/' if you like",
        ),
        (
            GOOD.replace('"@local"}', '"@local", labels: {disk: "very fast"}}'),
            "acme.yml:hosts.here.labels.disk: must be at most 63 letters, digits, '.', '_' and '-'",
        ),
        (
            FLEET.replace("{address: 10.0.0.5}}", "{address: 10.0.0.5}, cpu: 8}"),
            "acme.yml:hosts.here.cpu: is for hosts with the group 'sandboxes'; remove it, or give the host"
            " that group",
        ),
        (
            FLEET.replace("{address: 10.0.0.5}}", "{address: 10.0.0.5}, adopt: main}"),
            "acme.yml:hosts.here.adopt: is for hosts with the group 'sandboxes'; remove it, or give the host"
            " that group",
        ),
        (
            GOOD.replace('"@local"}', '"@local", adopt: acme}'),
            "acme.yml:hosts.here.adopt: there is no tenant 'acme'; add it to tenants, or remove adopt",
        ),
        (
            GOOD.replace("localhost}", "localhost, quotas: {acme: {desktops: 20}}}"),
            "acme.yml:settings.quotas.acme: there is no tenant 'acme'; add it to tenants, or remove its"
            " quota",
        ),
        (
            GOOD.replace("localhost}", "localhost, quotas: {main: {desktop: 20, memory: 0}}}"),
            "acme.yml:settings.quotas.main.memory: is less than 6Mi\n"
            "acme.yml:settings.quotas.main.desktop: unknown key, did you mean 'desktops'?",
        ),
        (
            with_oidc("{tenant: main, role: admin}"),
            "acme.yml:settings.oidc.rules.0.everybody: a rule has 'group', 'email_domain', or 'claim' and"
            " 'value'; or 'everybody: true' alone",
        ),
        (
            with_oidc("{group: staff, tenant: acme, role: admin}"),
            "acme.yml:settings.oidc.rules.0.tenant: there is no tenant 'acme'; add it to tenants",
        ),
        (
            with_oidc("{email_domain: '@x', tenant: main, role: admin}").replace("https", "http"),
            "acme.yml:settings.oidc.issuer: must begin with https://, as the tokens would cross the network"
            " in the clear\n"
            "acme.yml:settings.oidc.rules.0.email_domain: '@x' is no domain such as acme.example (lower"
            " case, no @)",
        ),
        (
            with_oidc(f"{EVERYBODY}, {{claim: x, tenant: main, role: admin}}"),
            "acme.yml:settings.oidc.rules.1.claim: goes with 'value'; give both or neither",
        ),
        (
            with_oidc(""),
            "acme.yml:settings.oidc.rules: is empty, so nobody would come in; add a rule, or remove 'oidc'",
        ),
        (
            with_oidc(f"{EVERYBODY}, {{group: x, tenant: main, role: admin}}"),
            "acme.yml:settings.oidc.rules: no rule after 'everybody' ever counts; put that one last",
        ),
        (
            GOOD.replace("localhost}", "localhost, idle: never, queue: -1}"),
            "acme.yml:settings.queue: input should be greater than or equal to 0 (it is -1)\n"
            "acme.yml:settings.idle: input should be a valid integer, unable to parse string as an integer"
            " (it is 'never')",
        ),
        (
            GOOD.replace("localhost}", "localhost, images: {own: {crm: {uri: crm:1, port: 5901}}}}"),
            "acme.yml:settings.images.own.crm.entrypoint: is missing",
        ),
        (
            GOOD.replace("st}", "st, images: {own: {crm: {uri: cd, port: 1, entrypoint: [x]}}}}"),
            "acme.yml:settings.images.own.crm.port: is 1, but VNC is reached on port 8080 alone; let the"
            " image serve it there, or set display: none",
        ),
        (
            GOOD.replace("localhost}", "localhost, images: {own: {Crm: {uri: c:1, entrypoint: [x]}}}}"),
            "acme.yml:settings.images.own.Crm: string should match pattern"
            " '^[a-z]([a-z0-9-]{0,21}[a-z0-9])?$' (it is 'Crm')",
        ),
        (
            GOOD.replace("localhost}", "localhost, images: {credentials: {user: me, password: PULL}}}"),
            "acme.yml:settings.images.credentials: belongs to 'registry', which is missing; name it, or"
            " remove this",
        ),
        (
            GOOD + "external: {k8s: {url: 'http://10.0.0.9', key: K8S_KEY}}\n",
            "acme.yml:external.k8s.url: must begin with https://, as its key would cross the network in the"
            " clear",
        ),
        (
            GOOD + "external: {here: {url: 'https://k8s.example.com', key: K8S_KEY}}\n",
            "acme.yml:external.here: is also the name of a host; give one of them another",
        ),
        (
            GOOD + "external: {k8s: {url: 'https://me:secret@k8s.example.com', key: hunter2}}\n",
            "acme.yml:external.k8s.url: string should match pattern"
            " '^https?://[0-9a-zA-Z.\\-\\[\\]:]+(/[0-9a-zA-Z._~/-]*)?$'"
            " (it is 'https://me:secret@k8s.example.com')\n"
            "acme.yml:external.k8s.key: string should match pattern '^[A-Z][A-Z0-9_]*$' (it is 'hunter2')",
        ),
        (
            GOOD.replace("localhost}", "localhost, database: 'postgresql://me@db.example.com'}"),
            "acme.yml:settings.database.url: names no database; write it as postgresql://user@host:5432/database",
        ),
        (
            FLEET.replace("sandboxes", "edge, sandboxes", 1),
            "acme.yml:hosts: exactly one host must have the group 'edge'; now: here, there",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(text, tmp_path, monkeypatch) == sentence


def test_all_mistakes_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("domain", "domian") + "tenant: [main]\n"
    assert len(refused(text, tmp_path, monkeypatch).splitlines()) == 2


def test_unknown_site_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESKFLEET_SITE", "nowhere")
    with pytest.raises(SiteRefused, match=r"no site 'nowhere' .* known sites: example, local"):
        site_path()


def test_name_near_a_site_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESKFLEET_SITE", "lokal")
    with pytest.raises(SiteRefused, match=r"did you mean 'local'\?"):
        site_path()


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "acme.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SiteRefused, match="can't be read as text"):
        load_site(tmp_path / "acme.yml")


def test_local_site_answers_on_localhost_too() -> None:
    assert site().settings.origins == ("http://deskfleet.localhost:8088", "http://localhost:8088")


def test_site_with_tls_has_one_origin_without_port() -> None:
    assert site(domain="desk.example.com", tls="internal").settings.origins == ("https://desk.example.com",)


def test_default_image_must_be_one_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(GOOD.replace("localhost}", "localhost, default_image: nope}"), tmp_path, monkeypatch)
    assert said == "acme.yml:settings.default_image: unknown image 'nope'; there are: desktop, chrome"


@pytest.mark.parametrize("tls", ["internal", {"cert": "/etc/ssl/desk.pem", "key": "/etc/ssl/desk.key"}])
def test_other_names_need_tls(tls: object) -> None:
    assert Settings.model_validate({"domain": "desk.example.com", "tls": tls}).scheme == "https"


def test_acme_for_localhost_is_refused() -> None:
    with pytest.raises(ValidationError, match="no certificate authority signs"):
        Settings(domain="deskfleet.localhost", tls="acme")


def test_secrets_do_not_show_themselves() -> None:
    assert "secret-of" not in repr(secrets()) + secrets().model_dump_json() + str(secrets().to_json())


def test_key_hash_is_over_the_whole_text() -> None:
    key = secrets().admin_key
    assert key_hash(key) == hashlib.sha256(key.text.get_secret_value().encode()).hexdigest()


CPUS = ["2", "0.5", "500m", "0.001", "9m", "2 ", "1e3", "", "two", "0", "10000", "1.2345", "٢"]
MEMORIES = ["16Gi", "512Mi", "1.5Gi", "6Mi", "5Mi", "16GB", "2g", "1073741824", "-1", "", "٢Gi"]


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [(resources.cpu_millis, viewer_resources.cpu_millis, text) for text in CPUS]
    + [(resources.memory_mib, viewer_resources.memory_mib, text) for text in MEMORIES],
)
def test_site_file_and_control_plane_read_cpu_and_memory_alike(
    ours: Callable[[str], int], theirs: Callable[[str], int], text: str
) -> None:
    def answer(of: Callable[[str], int]) -> int | str:
        try:
            return of(text)
        except ValueError as error:
            return str(error)

    assert answer(ours) == answer(theirs)


def test_numbers_need_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "acme.yml"
    text = GOOD.replace('"@local"}', '"@local", cpu: 0.5, memory: 1073741824}')
    path.write_text(text.replace("localhost}", "localhost, idle: none, quotas: {main: {cpu: 8}}}"))
    found = load_site(path)
    assert (found.hosts["here"].cpu, found.hosts["here"].memory) == ("0.5", "1073741824")
    assert (found.settings.idle, found.settings.quotas["main"].cpu) == (None, "8")


def places(node: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a site file."""
    yield way
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in below:
        yield from places(value, (*way, key))


EXAMPLE = yaml.safe_load(Path("inventory/example.yml").read_text())
STRAY = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.sampled_from(["@local", "age1x", "none", "10.0.0.1", "0", "Ssh", "str", "edge"]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip


@pytest.mark.soak
@settings(max_examples=examples(60))
@given(way=st.sampled_from(list(places(EXAMPLE))), stray=STRAY, key=st.text(max_size=6), adds=st.booleans())
def test_any_slip_in_a_site_file_is_loaded_or_said(
    tmp_path_factory: pytest.TempPathFactory, way: tuple[Any, ...], stray: object, key: str, adds: bool
) -> None:
    data = copy.deepcopy(EXAMPLE)
    here: Any = data
    for part in way[:-1]:
        here = here[part]
    if not way:
        data = stray
    elif adds and isinstance(here[way[-1]], dict):
        here[way[-1]][key] = stray
    else:
        here[way[-1]] = stray
    path = tmp_path_factory.getbasetemp() / "slip.yml"
    path.write_text(yaml.safe_dump(data))
    said = ""
    try:
        load_site(path)
    except SiteRefused as refusal:
        said = str(refusal)
    assert all(": " in line for line in said.splitlines())


def test_firewall_is_on_for_a_fleet_and_off_for_a_machine_of_its_own() -> None:
    assert load_site(DIRECTORY / "example.yml").has_firewall
    assert not load_site(DIRECTORY / "local.yml").has_firewall


def test_every_key_of_a_site_file_is_described() -> None:
    """In the table of docs/sites.md and in the example, which is the reference."""
    described = (DIRECTORY.parent / "docs" / "sites.md").read_text()
    example = (DIRECTORY / "example.yml").read_text()
    for model in (
        Site, Settings, Host, Ssh, Jump, Desktop, OwnService, Firewall, Acme, Kasmvnc, Ttl, Ports, External,
        Images, OwnImage, RegistryUser, Quota, Pool, Keep, Database, Webhooks, Oidc, OidcRule,
    ):  # fmt: skip
        for key in model.model_fields:
            assert key in described, f"{model.__name__}.{key}"
            assert key in example, f"{model.__name__}.{key}"
