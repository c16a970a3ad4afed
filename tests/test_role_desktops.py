"""Persistent desktops: what is shared by both backends, and what each of them has of its own."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from inventory.models import HostConfig, Site
from roles import backends, kasmvnc
from roles import desktops as desktops_role
from roles.backends import Holding, KasmvncHolding, Obstacle
from roles.facts import Paths, PathState
from roles.files import sha256
from tests.role_runner import RunRole, Step, changes
from tests.sites import host_config
from tests.test_role_services import ROLES, after, fresh, put
from viewer.relay.desktop_access import owner_of
from viewer.relay.settings import Settings as RelaySettings

OWN = "ab" * 32
"""sha256 of a package of the operator's own."""
PASSWORD = host_config().secrets.desktop_keys["studio"].get_secret_value()


def with_desktops(desktops: dict[str, Any], **settings: Any) -> HostConfig:
    config = host_config(**settings)
    site = Site.model_validate(config.site.model_dump() | {"desktops": desktops})
    return config.model_copy(update={"site": site})


def with_studio(*, tenant: str = "main", backend: str = "tigervnc", **settings: Any) -> HostConfig:
    """A host with the one desktop `studio`; `guests` is a second tenant."""
    config = with_desktops({}, **settings)
    desktop = {"tenant": tenant, "host": "here", "backend": backend}
    site = config.site.model_dump() | {"tenants": ("main", "guests"), "desktops": {"studio": desktop}}
    return config.model_copy(update={"site": Site.model_validate(site)})


def stamp(password: str) -> str:
    """What the host notes about this password of an owner."""
    return sha256(kasmvnc.OWNER, password)


def kasmvnc_host() -> dict[Any, Any]:
    """A fresh host on which KasmVNC's package can be had."""
    holding = Holding(codename="bookworm", architecture="amd64")
    return {**fresh(), KasmvncHolding: holding, Obstacle: "", kasmvnc.OwnerState: ""}


def test_desktop_is_shut_in_before_it_becomes_its_user(run_role: RunRole) -> None:
    role, arguments = ROLES["desktops"]
    script = put(run_role(role, facts=fresh(), **arguments), "/opt/deskfleet/desktops/studio")
    assert script.index("unshare --net --mount --ipc") < script.index("setpriv --reuid=desk-studio")
    assert "-rfbport=-1" in script
    assert "-rfbunixpath" in script


def test_desktops_socket_is_for_its_user_and_the_relay_only() -> None:
    assert desktops_role.runtime_of("studio")[1:] == ("2750", "desk-studio", "deskfleet-relay")


def away_of(steps: list[Step], desktop: str) -> dict[str, str]:
    """What is done about one desktop, as one text per step."""
    return {
        name.partition(" | ")[2]: "\n".join(map(str, commands))
        for name, commands in changes(steps)
        if desktop in name
    }


REMOVAL = [
    "Stop studio", "Remove the socket of studio", "Remove the user of studio",
    "Keep the home of studio for root", "Remove the session of studio",
]  # fmt: skip


@pytest.mark.parametrize("has_left_the_group", [False, True])
def test_desktop_that_left_the_site_file_ends_and_its_data_stays(
    run_role: RunRole, has_left_the_group: bool
) -> None:
    role, arguments = ROLES["desktops"]
    facts = after(run_role(role, facts=fresh(), **arguments))
    facts[Paths] = there(facts[Paths], "/etc/deskfleet/supervisor/deskfleet-desktop-studio.conf")
    steps = (
        run_role(desktops_role.former_desktops, facts=facts)
        if has_left_the_group
        else run_role(role, facts=facts, config=with_desktops({}))
    )
    assert list(away_of(steps, "studio")) == REMOVAL
    assert all("studio" in name for name, _ in changes(steps))
    removed = [c for _, cs in steps for c in cs if c.startswith("rm -rf")]
    assert not any(desktops_role.DATA in command for command in removed)
    assert away_of(steps, "studio")["Keep the home of studio for root"] == (
        "install -d -m 700 -o root -g root /var/lib/deskfleet/desktops/studio"
    )


def there(found: Any, *more: str) -> Any:
    """The fact Paths, with some files more."""
    state = PathState("", "644", "root", "root")
    return lambda paths: {**found(paths=paths), **{path: state for path in paths if path in more}}


def test_host_without_desktops_pays_one_look(run_role: RunRole) -> None:
    facts = {desktops_role.MadeDesktops: list[str]()}
    assert run_role(desktops_role.former_desktops, facts=facts) == []


def test_make_down_takes_desktops_that_the_site_file_no_longer_names(run_role: RunRole) -> None:
    role, arguments = ROLES["desktops"]
    facts = after(run_role(role, facts=fresh(), **arguments))
    steps = dict(changes(run_role(desktops_role.no_desktops, facts=facts, wanted={})))
    assert "Desktops away | Remove the user of studio" in steps
    assert steps["Desktops away | Remove homes and sessions"] == [
        "rm -rf /opt/deskfleet/desktops /var/lib/deskfleet/desktops"
    ]


def test_made_desktops_are_those_with_a_session_script() -> None:
    listed = ["a", "a.tenant", "a.new", "b.tenant.new", "b.tenant", ""]
    assert desktops_role.MadeDesktops().process(listed) == ["a"]


def test_desktop_of_another_tenant_starts_with_an_empty_home(run_role: RunRole) -> None:
    role, arguments = ROLES["desktops"]
    facts = after(run_role(role, facts=fresh(), **arguments))
    steps = away_of(run_role(role, facts=facts, config=with_studio(tenant="guests")), "studio")
    assert list(steps) == [
        "Part with the former tenant of studio", "Note the tenant of studio",
        "Tell the relay whose studio is", "Run studio",
    ]  # fmt: skip
    parting = steps["Part with the former tenant of studio"]
    assert "OWNER=desk-studio" in parting
    assert "aside=/var/lib/deskfleet/desktops/studio.of-main;" in parting
    assert parting.index("OWNER=desk-studio") < parting.index("mv -T")
    assert "update deskfleet-desktop-studio" in steps["Run studio"]


def test_home_that_outlived_its_user_is_handed_over(run_role: RunRole) -> None:
    home = "/var/lib/deskfleet/desktops/studio"
    facts = {Paths: lambda paths: {home: PathState("", "700", "root", "root")}}
    ((_, commands),) = run_role(desktops_role.hand_over, facts=facts, home=home, user="desk-studio")
    assert commands == [f"chown -R -h desk-studio:desk-studio {home}"]


def test_host_of_tigervnc_alone_is_asked_nothing_about_kasmvnc(run_role: RunRole) -> None:
    role, arguments = ROLES["desktops"]
    assert KasmvncHolding not in fresh()
    assert run_role(kasmvnc.kasmvnc, facts={}, config=arguments["config"]) == []
    assert run_role(role, facts=fresh(), **arguments)


def test_kasmvnc_listens_on_loopback_of_its_own_network_as_plain_http(run_role: RunRole) -> None:
    config = with_studio(backend="kasmvnc")
    steps = run_role(desktops_role.desktops, facts=kasmvnc_host(), config=config)
    script = put(steps, "/opt/deskfleet/desktops/studio")
    server = script[script.index("\nXkasmvnc") : script.index("server=$!")]
    words = server.replace("\\\n", " ").split()
    assert words[words.index("-interface") + 1] == "127.0.0.1"
    assert words[words.index("-websocketPort") + 1] == "6901"
    assert words[words.index("-geometry") + 1] == "1280x800"
    assert {"-sslOnly=0", "-AcceptSetDesktopSize=0", "-BlacklistThreshold=0"} <= set(words)
    # What it does without them: it asks STUN servers, or wants a password that its own page does not know.
    assert words[words.index("-publicIP") + 1] == "127.0.0.1"
    assert words[words.index("-SecurityTypes") + 1] == "None"
    assert "*:stderr:30" in server
    assert not {"-disableBasicAuth", "-DisableBasicAuth"} & set(words)
    assert script.index("unshare --net --mount --ipc") < script.index("setpriv") < script.index("\nXkasmvnc")
    assert "web.sock,unlink-early,fork,mode=0660,backlog=128 TCP4:127.0.0.1:6901" in script
    assert "Xtigervnc" not in script


def test_tigervnc_session_knows_nothing_of_kasmvnc(run_role: RunRole) -> None:
    role, arguments = ROLES["desktops"]
    script = put(run_role(role, facts=fresh(), **arguments), "/opt/deskfleet/desktops/studio")
    assert "Xkasmvnc" not in script
    assert "socat" not in script


def test_owner_is_set_before_the_relay_is_given_his_password(run_role: RunRole) -> None:
    config = with_studio(backend="kasmvnc")
    steps = run_role(desktops_role.desktops, facts=kasmvnc_host(), config=config)
    names = [name.partition(" | ")[2] for name, _ in steps]
    assert names.index("Set the owner of studio") < names.index("Tell the relay whose studio is")
    assert names.index("Tell the relay whose studio is") < names.index("Run studio")
    key = put(steps, "/etc/deskfleet/secrets/relay/desktops/studio.json")
    assert json.loads(key) == {
        "backend": "kasmvnc", "tenant": "main", "owner": "owner", "password": PASSWORD
    }  # fmt: skip
    given = dict(steps)["Desktops | Tell the relay whose studio is"]
    assert "root:deskfleet-relay" in given[2]
    assert "chmod 640" in given[2]


@pytest.mark.parametrize("backend", ["tigervnc", "kasmvnc"])
def test_relay_learns_of_another_tenant_between_the_former_ones_end_and_the_new_ones_begin(
    run_role: RunRole, backend: str
) -> None:
    """The control host learns of it later, if the roll-out gets so far."""
    first = run_role(desktops_role.desktops, facts=kasmvnc_host(), config=with_studio(backend=backend))
    assert json.loads(put(first, desktops_role.access_path("studio")))["tenant"] == "main"
    facts = {**kasmvnc_host(), **after(first), kasmvnc.OwnerState: stamp(PASSWORD)}
    given = with_studio(tenant="guests", backend=backend)
    steps = changes(run_role(desktops_role.desktops, facts=facts, config=given))
    names = [name.partition(" | ")[2] for name, _ in steps]
    told = names.index("Tell the relay whose studio is")
    assert names.index("Part with the former tenant of studio") < told < names.index("Run studio")
    found = json.loads(put(steps, desktops_role.access_path("studio")))
    assert (found["tenant"], found["backend"]) == ("guests", backend)


def test_relay_reads_the_file_that_the_deploy_writes(run_role: RunRole, tmp_path: Path) -> None:
    config = with_studio(backend="kasmvnc")
    steps = run_role(desktops_role.desktops, facts=kasmvnc_host(), config=config)
    (tmp_path / "studio.json").write_text(put(steps, desktops_role.access_path("studio")))
    settings = RelaySettings(
        listen="127.0.0.1:8070",
        key_file=tmp_path / "relay.key",
        publish_address=IPv4Address("127.0.66.1"),
        desktops_dir=tmp_path,
        desktop_secrets_dir=tmp_path,
    )
    owner = owner_of("studio", settings)
    assert (owner.user, owner.password.get_secret_value()) == ("owner", PASSWORD)


def test_owners_password_is_in_no_command(run_role: RunRole) -> None:
    config = with_studio(backend="kasmvnc")
    steps = run_role(desktops_role.desktops, facts=kasmvnc_host(), config=config)
    commands = [c for _, cs in steps for c in cs if isinstance(c, str)]
    assert any("openssl passwd" in command for command in commands)
    assert not [command for command in commands if PASSWORD in command]
    upload = dict(steps)["Desktops | Set the owner of studio"]
    assert upload[:2] == [
        "install -m 600 /dev/null /var/lib/deskfleet/stamps/studio.owner.key",
        ("put", "/var/lib/deskfleet/stamps/studio.owner.key", f"{PASSWORD}\n"),
    ]


def test_second_run_of_a_kasmvnc_desktop_changes_nothing(run_role: RunRole) -> None:
    config = with_studio(backend="kasmvnc")
    first = run_role(desktops_role.desktops, facts=kasmvnc_host(), config=config)
    facts = {**kasmvnc_host(), **after(first), kasmvnc.OwnerState: stamp(PASSWORD)}
    assert changes(run_role(desktops_role.desktops, facts=facts, config=config)) == []


def test_new_password_changes_the_owner_and_the_relays_file_only(run_role: RunRole) -> None:
    config = with_studio(backend="kasmvnc")
    first = run_role(desktops_role.desktops, facts=kasmvnc_host(), config=config)
    facts = {**kasmvnc_host(), **after(first), kasmvnc.OwnerState: stamp(PASSWORD)}
    keys = config.secrets.model_copy(update={"desktop_keys": {"studio": SecretStr("another")}})
    changed = changes(
        run_role(desktops_role.desktops, facts=facts, config=config.model_copy(update={"secrets": keys}))
    )
    assert [name.partition(" | ")[2] for name, _ in changed] == [
        "Set the owner of studio", "Tell the relay whose studio is"
    ]  # fmt: skip


def test_change_of_backend_keeps_home_and_user(run_role: RunRole) -> None:
    role, arguments = ROLES["desktops"]
    tiger = run_role(role, facts=fresh(), **arguments)
    facts = {**kasmvnc_host(), **after(tiger), kasmvnc.OwnerState: ""}
    to_kasmvnc = run_role(role, facts=facts, config=with_studio(backend="kasmvnc"))
    assert list(away_of(to_kasmvnc, "studio")) == [
        "Write the session of studio", "Set the owner of studio", "Tell the relay whose studio is",
        "Run studio",
    ]  # fmt: skip

    kasm = run_role(role, facts=kasmvnc_host(), config=with_studio(backend="kasmvnc"))
    back = away_of(run_role(role, facts=after(kasm), **arguments), "studio")
    assert list(back) == ["Write the session of studio", "Tell the relay whose studio is", "Run studio"]
    assert PASSWORD not in back["Tell the relay whose studio is"]


def test_another_package_restarts_the_desktop(run_role: RunRole) -> None:
    config = with_studio(backend="kasmvnc")
    first = run_role(desktops_role.desktops, facts=kasmvnc_host(), config=config)
    facts = {**kasmvnc_host(), **after(first), kasmvnc.OwnerState: stamp(PASSWORD)}
    own = {"url": "http://packages.example.com/kasmvnc.deb", "sha256": OWN}
    steps = changes(
        run_role(desktops_role.desktops, facts=facts, config=with_studio(backend="kasmvnc", kasmvnc=own))
    )
    assert [name.partition(" | ")[2] for name, _ in steps] == ["Run studio"]


@pytest.mark.parametrize("obstacle", ["", "Could not resolve 'github.com'"])
def test_choice_left_to_the_first_roll_out_is_noted_with_its_reason(run_role: RunRole, obstacle: str) -> None:
    config = with_studio(backend="kasmvnc-or-tigervnc")
    steps = run_role(desktops_role.desktops, facts=kasmvnc_host() | {Obstacle: obstacle}, config=config)
    noted = put(steps, backends.DECISION)
    if obstacle:
        assert noted.startswith("tigervnc KasmVNC's package can't be had from https://")
        assert noted.endswith("kasmvncserver_bookworm_1.5.0_amd64.deb: Could not resolve 'github.com'\n")
    else:
        assert noted == "kasmvnc its package can be had\n"
    script = put(steps, "/opt/deskfleet/desktops/studio")
    assert ("Xtigervnc" if obstacle else "Xkasmvnc") in script


def test_note_goes_when_no_desktop_leaves_the_choice_open(run_role: RunRole) -> None:
    role, arguments = ROLES["desktops"]
    facts = fresh() | {Paths: there(lambda paths: {}, backends.DECISION)}
    steps = dict(run_role(role, facts=facts, **arguments))
    assert steps["Desktops | Note what kasmvnc-or-tigervnc means here"] == [f"rm -rf {backends.DECISION}"]
