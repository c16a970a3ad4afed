"""The control plane's settings and keys for a fleet of several hosts."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from pyinfra.api.state import State

from inventory.authority import renewed
from inventory.catalogue import CatalogueError, stack_of
from inventory.models import ApiKey, Group, HostConfig, Site
from inventory.secrets import load_secrets
from roles import viewer as viewer_role
from roles import wheel
from roles.facts import HasSystemd, MissingPackages, Paths, UnitState, User
from roles.facts import Unit as UnitFact
from roles.firewall import rules
from roles.preflight import Database, problems_of_database
from roles.report import Report
from tests.role_runner import RunRole, changes
from tests.sites import FLEET, fleet_config, fleet_site, host_config
from tests.soaking import examples
from viewer.database_address import PostgresAddress
from viewer.resources import Quota
from viewer.settings import PoolSettings, Settings, load_settings


@pytest.fixture(autouse=True)
def fixed_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "sources", lambda: "sources")


def fresh() -> dict[Any, Any]:
    return {
        HasSystemd: True,
        Paths: lambda paths: {},
        User: None,
        UnitFact: UnitState("", "", ""),
        viewer_role.HeldKeys: list[str](),
        MissingPackages: lambda packages: list(packages),
    }


def fleet(name: str = "control1") -> HostConfig:
    config = fleet_config(name)
    made = renewed(None, config.site, datetime(2026, 11, 1, tzinfo=UTC))
    return config.model_copy(update={"secrets": config.secrets.model_copy(update={"certificates": made})})


CERTIFICATES = fleet().secrets.certificates


def read(config: HostConfig, tmp_path: Path) -> Settings:
    file = tmp_path / "viewer.toml"
    file.write_text(viewer_role.viewer_toml(config))
    return load_settings(file, check_secrets=False)


def test_every_sandbox_and_desktop_host_is_reached_through_its_node(tmp_path: Path) -> None:
    settings = read(fleet(), tmp_path)
    ways = {host.name: (host.relay_url, host.opensandbox_url, host.server_name) for host in settings.hosts}
    box1, box2, studio = (f"https://10.77.0.{last}:8443" for last in (13, 14, 15))
    assert ways == {
        "box1": (box1, box1, "box1.deskfleet.internal"),
        "box2": (box2, box2, "box2.deskfleet.internal"),
        "studio1": (studio, None, "studio1.deskfleet.internal"),
    }
    assert [host.hostwatch_url for host in settings.hosts] == [box1, box2, None]
    assert [host.max_desktops for host in settings.hosts] == [8, 8, 0]
    assert [host.address for host in settings.hosts] == ["10.77.0.13", "10.77.0.14", "10.77.0.15"]
    assert {str(host.relay_key_file) for host in settings.hosts} == {
        f"/etc/deskfleet/secrets/viewer/relay-{name}.key" for name in ways
    }


PLACEMENT: dict[str, Any] = {
    "queue": 60,
    "idle": 900,
    "keep": {"sessions_days": 90, "events_days": 2, "deliveries_days": 3},
    "webhooks": {"http": True, "networks": ["10.20.0.0/16", "fd00:1::/64"]},
    "quotas": {"acme": {"desktops": 20, "cpu": 16, "memory": "32Gi"}},
    "images": {
        "any": False,
        "own": {
            "crm": {
                "uri": "registry.example.com/crm:1", "entrypoint": ["/start", "it's \"quoted\""],
                "cpu": "500m", "registry": {"user": "puller", "password": "CRM_PASSWORD"},
            },
            "jobs": {"uri": "registry.example.com/jobs:1", "entrypoint": ["/jobs"], "display": "none"},
        },
    },
    "pools": [
        {"image": "crm", "resolution": "1280x800", "size": 2, "memory": "1Gi"},
        {"image": "jobs", "size": 1, "hosts": ["k8s"], "max_age": 600},
    ],
}  # fmt: skip
K8S = {
    "url": "https://k8s.example.com/opensandbox/", "key": "K8S_KEY", "max_desktops": 50, "cpu": 64,
    "labels": {"example.com/zone": "a"}, "adopt": "acme",
}  # fmt: skip


def placed(
    *, given: dict[str, str] | None = None, box1: dict[str, Any] | None = None, **settings: Any
) -> HostConfig:
    """The fleet with all that a site file says of placement."""
    config = fleet()
    data = fleet_site().model_dump(exclude_unset=True)
    data["settings"] |= {**PLACEMENT, **settings}
    data["hosts"]["box1"] |= box1 or {
        "cpu": 8,
        "memory": "16Gi",
        "max_creates": 2,
        "labels": {"disk": "fast"},
        "adopt": "main",
    }
    values = {"CRM_PASSWORD": "password-of-crm", "K8S_KEY": "key-of-k8s", **(given or {})}
    secrets = config.secrets.model_copy(
        update={"given": {name: SecretStr(one) for name, one in values.items()}}
    )
    return HostConfig(
        name="control1", site=Site.model_validate({**data, "external": {"k8s": K8S}}), secrets=secrets
    )


def test_what_the_site_file_says_of_placement_reaches_the_control_plane(tmp_path: Path) -> None:
    settings = read(placed(), tmp_path)
    assert (settings.queue_seconds, settings.idle_seconds, settings.any_image) == (60, 900, False)
    assert (settings.keep_sessions_days, settings.keep_events_days) == (90, 2)
    assert (settings.keep_deliveries_days, settings.webhooks_allow_http) == (3, True)
    assert list(map(str, settings.webhooks_allow_networks)) == ["10.20.0.0/16", "fd00:1::/64"]
    assert settings.quota("acme") == Quota(desktops=20, cpu_millis=16_000, memory_mib=32_768)
    assert settings.quota("main") == Quota()
    rooms = {
        one.name: (one.cpu_millis, one.memory_mib, one.max_creates, one.labels) for one in settings.hosts
    }
    assert rooms == {
        "box1": (8000, 16_384, 2, {"disk": "fast"}),
        "box2": (None, None, 3, {}),
        "studio1": (None, None, 3, {}),
        "k8s": (64_000, None, 3, {"example.com/zone": "a"}),
    }
    assert {tenant: settings.hosts_giving_to(tenant) for tenant in ("main", "acme", "bolt")} == {
        "main": ("box1",),
        "acme": ("k8s",),
        "bolt": (),
    }
    crm, jobs = settings.image("crm"), settings.image("jobs")
    assert crm is not None
    assert jobs is not None
    assert (crm.cpu, crm.entrypoint, crm.registry_user) == ("500m", ("/start", 'it\'s "quoted"'), "puller")
    assert str(crm.registry_password_file) == "/etc/deskfleet/secrets/viewer/registry-crm.key"
    assert (jobs.display, jobs.registry_user, jobs.registry_password_file) == ("none", None, None)
    assert settings.pools == (
        PoolSettings(image="crm", resolution="1280x800", hosts=("box1", "box2"), size=2, memory="1Gi"),
        PoolSettings(image="jobs", hosts=("k8s",), size=1, max_age_seconds=600),
    )


def test_external_server_is_an_address_and_a_key_and_no_machine_of_ours(tmp_path: Path) -> None:
    config = placed()
    (server,) = [host for host in read(config, tmp_path).hosts if host.external]
    assert (server.groups, server.max_desktops, server.relay_url, server.server_name) == (
        ("sandboxes",), 50, None, None,
    )  # fmt: skip
    assert server.opensandbox_url == "https://k8s.example.com/opensandbox"
    assert str(server.opensandbox_key_file) == "/etc/deskfleet/secrets/viewer/opensandbox-k8s.key"
    assert config.site.placed_on == ("box1", "box2", "k8s")
    assert set(config.site.hosts_in(Group.SANDBOXES)) == {"box1", "box2"}
    seen = Database(exists=True, live={"k8s": 3})
    assert list(problems_of_database(seen, config, drop=[], elsewhere=None)) == []
    assert "hook output" not in rules(config)  # nothing stands between the control host and the server


def test_site_that_says_nothing_of_placement_leaves_it_to_the_control_plane(tmp_path: Path) -> None:
    settings = read(fleet(), tmp_path)
    assert (settings.queue_seconds, settings.idle_seconds, settings.any_image) == (300, None, True)
    assert (settings.pools, settings.quota("acme")) == ((), Quota())
    assert (settings.webhooks_allow_http, settings.webhooks_allow_networks) == (False, ())


@pytest.mark.parametrize(
    "changed",
    [
        {"queue": 61}, {"idle": "none"}, {"keep": {"sessions_days": 90}}, {"quotas": {}}, {"pools": []},
        {"images": {**PLACEMENT["images"], "any": True}}, {"box1": {"cpu": 9}},
        {"box1": {"labels": {"a": "b"}}}, {"given": {"CRM_PASSWORD": "another"}},
        {"given": {"K8S_KEY": "another"}},
        {"database": "postgresql://deskfleet@db.example.com/deskfleet"},
    ],
    ids=str,
)  # fmt: skip
def test_changed_placement_restarts_viewer_and_worker(run_role: RunRole, changed: dict[str, Any]) -> None:
    def starts(config: HostConfig) -> list[str]:
        steps = dict(run_role(viewer_role.viewer, facts=fresh(), config=config))
        return [str(steps[f"Viewer | Run the {name}"]) for name in ("viewer", "worker")]

    # Certificates are new each time.
    before, same, after = (
        one.model_copy(update={"secrets": one.secrets.model_copy(update={"certificates": CERTIFICATES})})
        for one in (placed(), placed(), placed(**changed))
    )
    assert starts(before) == starts(same)
    assert all(was != now for was, now in zip(starts(before), starts(after), strict=True))


def test_keys_and_passwords_of_others_are_files_of_the_viewers_group(run_role: RunRole) -> None:
    steps = dict(run_role(viewer_role.viewer, facts=fresh(), config=placed()))
    for file, value in (("registry-crm.key", "password-of-crm"), ("opensandbox-k8s.key", "key-of-k8s")):
        path = f"/etc/deskfleet/secrets/viewer/{file}"
        commands = steps[f"Viewer | Write {file}"]
        assert ("put", f"{path}.new", f"{value}\n") in commands
        assert f"chown root:deskfleet-viewer {path}.new && chmod 640 {path}.new && mv -fT" in str(commands)
    said = [one for _, commands in steps.items() for one in commands if isinstance(one, str)]
    assert "password-of-crm" not in str(said) + viewer_role.viewer_toml(placed())


URL = "postgresql://deskfleet@db.example.com/deskfleet?sslmode=verify-full"


def on_postgres(password: str | None = r"a:b\c") -> HostConfig:
    wanted = {"url": URL, "password": "DATABASE_PASSWORD"} if password else URL
    return placed(given={"DATABASE_PASSWORD": password} if password else {}, database=wanted)


def test_database_of_a_server_is_a_url_whose_password_is_in_a_file_that_libpq_reads(
    run_role: RunRole, tmp_path: Path
) -> None:
    passfile = "/etc/deskfleet/secrets/viewer/database.pgpass"
    settings = read(on_postgres(), tmp_path)
    assert settings.database == PostgresAddress(f"{URL}&passfile={passfile}")
    assert settings.state == Path("/var/lib/deskfleet/viewer")
    steps = dict(run_role(viewer_role.viewer, facts=fresh(), config=on_postgres()))
    commands = steps["Viewer | Write the database's password"]
    assert ("put", f"{passfile}.new", "*:*:*:*:a\\:b\\\\c\n") in commands
    assert f"chown deskfleet-viewer:root {passfile}.new && chmod 600 {passfile}.new" in str(commands)
    said = [one for _, commands in steps.items() for one in commands if isinstance(one, str)]
    assert r"a:b\c" not in str(said) + viewer_role.viewer_toml(on_postgres())
    assert "postgresql-client" in str(steps["Viewer | Install PostgreSQL's client, for backups"])


def test_server_that_asks_for_no_password_gets_no_file(run_role: RunRole, tmp_path: Path) -> None:
    assert read(on_postgres(password=None), tmp_path).database == PostgresAddress(URL)
    facts = {
        **fresh(),
        viewer_role.HeldKeys: viewer_role.HeldKeys().process(["database.pgpass", "viewer.key"]),
    }
    steps = dict(run_role(viewer_role.viewer, facts=facts, config=on_postgres(password=None)))
    assert "Viewer | Write the database's password" not in steps
    assert steps["Viewer | Forget keys of former hosts"] == [
        "rm -f /etc/deskfleet/secrets/viewer/database.pgpass"
    ]


# A little more than what a site file takes.
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,23}", fullmatch=True)
LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", fullmatch=True)
DOMAINS = st.builds(
    "{}{}".format,
    st.lists(LABELS, min_size=1, max_size=3).map(".".join),
    st.sampled_from(["", "", "", "-", "\n"]),
)
SCREENS = st.tuples(st.integers(640, 3841), st.integers(480, 2160))


@pytest.mark.soak
@trying(max_examples=examples(100))
@given(
    names=st.lists(NAMES, min_size=6, max_size=6, unique=True),
    domain=DOMAINS,
    content=st.none() | DOMAINS,
    screen=SCREENS,
    ttl=st.lists(st.integers(60, 100_000), min_size=3, max_size=3).map(sorted),
)
@example(names=["a", "b", "c", "d", "e-", "f"], domain="d", content=None, screen=(800, 600), ttl=[60, 60, 60])
def test_settings_take_whatever_a_site_file_may_say(
    names: list[str], domain: str, content: str | None, screen: tuple[int, int], ttl: list[int]
) -> None:
    gate, box, tenant, other, service, desktop = names
    resolution = f"{screen[0]}x{screen[1]}"
    try:
        site = Site.model_validate(
            {
                "hosts": {
                    gate: {"groups": ["edge", "control"], "connect": "@fake/h1", "address": "10.77.0.1"},
                    box: {
                        "groups": ["sandboxes", "desktops"], "connect": "@fake/h2", "address": "10.77.0.2",
                    },
                },
                "settings": {
                    "domain": domain, "content_domain": content, "tls": "internal",
                    "default_resolution": resolution,
                    "ttl": dict(zip(("default", "max", "lifetime"), ttl, strict=True)),
                },
                "tenants": [tenant, other],
                "services": [
                    "opensandbox", "kasmvnc", {"name": service, "host": box, "port": 8090, "tenant": other},
                ],
                "desktops": {desktop: {"tenant": tenant, "host": box, "resolution": resolution}},
            }
        )  # fmt: skip
        stack_of(site)
    except (ValidationError, CatalogueError):
        return
    keys = {
        name: ApiKey(id=f"oper000{n}", text=SecretStr("df_text"), role="operator", label=name)
        for n, name in enumerate(site.tenants)
    }
    made = fleet_config("control1").secrets.model_copy(update={"tenant_keys": keys})
    text = viewer_role.viewer_toml(HostConfig(name=gate, site=site, secrets=made))
    assert Settings.model_validate(tomllib.loads(text)).services


def test_host_that_is_control_itself_is_reached_on_loopback(tmp_path: Path) -> None:
    config = fleet("box1")
    hosts = {name: host for name, host in config.site.hosts.items() if name != "control1"}
    groups = (Group.CONTROL, Group.SANDBOXES)
    hosts["box1"] = hosts["box1"].model_copy(update={"groups": groups})
    site = config.site.model_copy(update={"hosts": hosts})
    settings = read(config.model_copy(update={"site": site}), tmp_path)
    here, there = settings.hosts[:2]
    assert (here.relay_url, here.opensandbox_url) == ("http://127.0.0.1:8070", "http://127.0.0.1:8080")
    assert here.hostwatch_url == "http://127.0.0.1:8050"
    assert settings.node(here) is None
    node = settings.node(there)
    assert node is not None
    assert node.server_name == "box2.deskfleet.internal"


def test_services_have_host_names_and_belong_to_tenants(tmp_path: Path) -> None:
    settings = read(fleet(), tmp_path)
    assert [(one.name, one.host_name, one.role, one.tenant) for one in settings.services] == [
        ("opensandbox", "opensandbox.desks.example.com", "operator", None),
        ("code-server", "code-server.desks.example.com", "operator", "acme"),
    ]
    assert settings.content_domain == "content.desks.example.com"
    assert [(desktop.name, desktop.backend) for desktop in settings.desktops] == [
        ("drawing", "kasmvnc"),
        ("plotting", "tigervnc"),
    ]


def test_site_of_persistent_desktops_alone_has_no_images(tmp_path: Path) -> None:
    here = (
        host_config()
        .site.hosts["here"]
        .model_copy(update={"groups": (Group.EDGE, Group.CONTROL, Group.DESKTOPS)})
    )
    site = host_config().site.model_copy(update={"hosts": {"here": here}})
    settings = read(host_config().model_copy(update={"site": site}), tmp_path)
    assert (settings.images, settings.sandbox_hosts) == ((), ())
    assert [desktop.name for desktop in settings.desktops] == ["studio"]


def test_one_host_alone_needs_no_certificates(tmp_path: Path) -> None:
    settings = read(host_config(content_domain="none"), tmp_path)
    assert settings.credentials is None
    assert settings.content_domain is None
    assert not [key for key in tomllib.loads(viewer_role.viewer_toml(host_config())) if key.startswith("tls")]


def test_control_host_gets_a_key_for_each_host_and_its_certificate_before_the_check(
    run_role: RunRole,
) -> None:
    steps = run_role(viewer_role.viewer, facts=fresh(), config=fleet())
    placed = [
        command[1].removesuffix(".new").rpartition("/")[2]
        for _, commands in steps
        for command in commands
        if isinstance(command, tuple) and "/deskfleet/" in command[1]
    ]
    assert {
        "relay-box1.key", "relay-box2.key", "relay-studio1.key", "opensandbox-box1.key",
        "opensandbox-box2.key", "ca.pem", "host.pem",
    } < set(placed)  # fmt: skip
    assert placed.index("host.pem") < placed.index("viewer.toml")
    assert "opensandbox-studio1.key" not in placed


def test_keys_of_a_host_that_left_are_forgotten_and_nothing_else(run_role: RunRole) -> None:
    listed = ["ca.pem", "host.pem", "opensandbox-box1.key", "opensandbox-gone.key", "registry-gone.key",
              "relay-box1.key", "relay-gone.key", "relay.key", "viewer.key"]  # fmt: skip
    held = viewer_role.HeldKeys().process(listed)
    steps = dict(run_role(viewer_role.viewer, facts={**fresh(), viewer_role.HeldKeys: held}, config=fleet()))
    removed = steps["Viewer | Forget keys of former hosts"]
    assert removed == [
        f"rm -f /etc/deskfleet/secrets/viewer/{name}"
        for name in ("opensandbox-gone.key", "registry-gone.key", "relay-gone.key", "relay.key")
    ]


def test_keys_of_a_host_that_left_go_on_the_machine_of_the_deploy_too(
    run_role: RunRole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command runs only in a roll-out; what previews it, and asks twice, takes nothing away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DESKFLEET_SECRETS", raising=False)
    whole, site_file = fleet_site(), Path("acme.yml")
    hosts = {name: host for name, host in whole.hosts.items() if name != "box1"}
    site = whole.model_copy(update={"hosts": hosts})
    load_secrets(whole, site_file=site_file)
    config = HostConfig(
        name="control1", site=site, secrets=load_secrets(site, site_file=site_file), site_file=site_file
    )

    def commands() -> list[Any]:
        steps = dict(run_role(viewer_role.viewer, facts=fresh(), config=config))
        return steps["Viewer | Forget them among the site's secrets"]

    file = tmp_path / ".local" / "secrets-acme.yml"
    before = file.read_bytes()
    (forget,) = commands()
    assert file.read_bytes() == before
    forget.function(*forget.args, **forget.kwargs)
    assert commands() == []
    assert "box1" not in file.read_text()


@pytest.mark.parametrize(
    ("failed", "edge", "is_said"),
    [
        ((), "edge1", False),
        (("edge1",), "edge1", True),
        ((), "", True),
        (("control1", "edge1"), "edge1", False),
    ],
)
def test_host_that_the_control_plane_learns_of_without_the_edge_is_told(
    failed: tuple[str, ...], edge: str, is_said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ["relay-box1.key", "opensandbox-box1.key", "relay-studio1.key"]
    monkeypatch.setattr(viewer_role, "host", SimpleNamespace(get_fact=lambda _: held))
    new = viewer_role.newcomers(fleet())
    assert new == ("box2",)
    hosts = [SimpleNamespace(name=name, data={}) for name in FLEET]
    report = Report()
    report.newcomers(new, control="control1", edge=edge)
    state = SimpleNamespace(
        inventory=hosts, ops={}, failed_hosts=[host for host in hosts if host.name in failed],
        is_host_in_limit=lambda _: True,
    )  # fmt: skip
    monkeypatch.setattr(Report, "_outcome", lambda *_: "")
    said = "\n".join(report.lines(cast("State", state)))
    assert ("The control host uses box2 now" in said) is is_said


def test_renewed_certificate_restarts_viewer_and_worker(run_role: RunRole) -> None:
    def starts(config: HostConfig) -> list[str]:
        steps = dict(run_role(viewer_role.viewer, facts=fresh(), config=config))
        return [str(steps[f"Viewer | Run the {name}"]) for name in ("viewer", "worker")]

    first, same = fleet(), starts(fleet())
    made = first.secrets.certificates
    other = HostConfig(
        name=first.name,
        site=first.site,
        secrets=first.secrets.model_copy(
            update={"certificates": renewed(made, first.site, datetime(2027, 1, 15, tzinfo=UTC))}
        ),
    )
    assert starts(first) != same  # two authorities
    assert all(before != after for before, after in zip(starts(first), starts(other), strict=True))
    assert starts(first) == starts(first)


def test_a_run_after_the_first_changes_nothing(run_role: RunRole) -> None:
    assert changes(run_role(viewer_role.forget_keys, facts=fresh(), wanted=("relay-box1.key",))) == []


OIDC: dict[str, Any] = {
    "issuer": "https://login.example.com/realms/acme",
    "client_id": "deskfleet",
    "client_secret": "OIDC_SECRET",
    "name": 'Acme "Login"',
    "rules": [
        {"group": "it's-admins", "tenant": "main", "role": "admin"},
        {
            "claim": "dept",
            "value": "QA",
            "email_domain": "acme.example",
            "tenant": "acme",
            "role": "operator",
        },
        {"everybody": True, "tenant": "acme", "role": "watcher"},
    ],
}


def with_provider(secret: str = "the-client-secret", **changed: Any) -> HostConfig:
    return placed(given={"OIDC_SECRET": secret}, oidc={**OIDC, **changed})


def test_what_the_site_file_says_of_the_provider_reaches_the_viewer(tmp_path: Path) -> None:
    oidc = read(with_provider(), tmp_path).oidc
    assert oidc is not None
    assert (oidc.issuer, oidc.name) == (OIDC["issuer"], OIDC["name"])
    assert str(oidc.client_secret_file) == "/etc/deskfleet/secrets/viewer/oidc.key"
    assert oidc.scopes == ("openid", "profile", "email")
    assert [rule.model_dump(mode="json", exclude_defaults=True) for rule in oidc.rules] == OIDC["rules"]
    assert read(placed(), tmp_path).oidc is None


def test_secret_at_the_provider_is_a_file_of_the_viewers_group(run_role: RunRole) -> None:
    steps = dict(run_role(viewer_role.viewer, facts=fresh(), config=with_provider()))
    path = "/etc/deskfleet/secrets/viewer/oidc.key"
    assert ("put", f"{path}.new", "the-client-secret\n") in steps["Viewer | Write oidc.key"]
    assert f"chown root:deskfleet-viewer {path}.new && chmod 640 {path}.new" in str(
        steps["Viewer | Write oidc.key"]
    )
    said = [one for _, commands in steps.items() for one in commands if isinstance(one, str)]
    assert "the-client-secret" not in str(said) + viewer_role.viewer_toml(with_provider())


def test_provider_that_leaves_the_site_file_takes_its_secret_along(run_role: RunRole) -> None:
    facts = {**fresh(), viewer_role.HeldKeys: ["oidc.key", "registry-crm.key"]}
    steps = dict(run_role(viewer_role.viewer, facts=facts, config=placed()))
    forgotten = str(steps["Viewer | Forget keys of former hosts"])
    assert "oidc.key" in forgotten
    assert "registry-crm.key" not in forgotten
