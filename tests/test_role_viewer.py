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
from roles.facts import HasSystemd, Paths, UnitState, User
from roles.facts import Unit as UnitFact
from roles.report import Report
from tests.role_runner import RunRole, changes
from tests.sites import FLEET, fleet_config, fleet_site, host_config
from tests.soaking import examples
from viewer.settings import Settings, load_settings


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
    }


def fleet(name: str = "control1") -> HostConfig:
    config = fleet_config(name)
    made = renewed(None, config.site, datetime(2026, 11, 1, tzinfo=UTC))
    return config.model_copy(update={"secrets": config.secrets.model_copy(update={"certificates": made})})


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
    assert [host.max_desktops for host in settings.hosts] == [8, 8, 0]
    assert [host.address for host in settings.hosts] == ["10.77.0.13", "10.77.0.14", "10.77.0.15"]
    assert {str(host.relay_key_file) for host in settings.hosts} == {
        f"/etc/deskfleet/secrets/viewer/relay-{name}.key" for name in ways
    }


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
    listed = ["ca.pem", "host.pem", "opensandbox-box1.key", "opensandbox-gone.key", "relay-box1.key",
              "relay-gone.key", "relay.key", "viewer.key"]  # fmt: skip
    held = viewer_role.HeldKeys().process(listed)
    steps = dict(run_role(viewer_role.viewer, facts={**fresh(), viewer_role.HeldKeys: held}, config=fleet()))
    removed = steps["Viewer | Forget keys of former hosts"]
    assert removed == [
        f"rm -f /etc/deskfleet/secrets/viewer/{name}"
        for name in ("opensandbox-gone.key", "relay-gone.key", "relay.key")
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
