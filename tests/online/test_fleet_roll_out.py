"""Five hosts over SSH, by the documented commands: first run, second run, previews, and single changes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest

from inventory.models import Group, Host, OwnService, Secrets, Site
from inventory.secrets import SecretsUnreadable, load_secrets, names, rotate
from roles.desktops import HOME as DESKTOPS
from roles.relay import KEY as RELAY_KEY
from tests.fleet.operator import Operator
from tests.fleet.roll_out import RollOut
from tests.hosts.bare_host import Variant
from tests.online.fleet import eventually
from tests.online.spread import (
    BEHIND_ANOTHER,
    ENTERED_WITH_SUDO,
    WITH_A_PAGE,
    SpreadFleet,
    changes_between,
)

pytestmark = pytest.mark.host

NO_OP_SECONDS = 60
SERVICES = {
    Group.EDGE: ("caddy",),
    Group.CONTROL: ("viewer", "worker", "caddy"),
    Group.SANDBOXES: ("opensandbox", "relay", "caddy"),
    Group.DESKTOPS: ("relay", "caddy"),
}


@pytest.fixture(scope="module", autouse=True)
def the_site_as_it_was(bare_spread: SpreadFleet) -> Iterator[None]:
    """Tests of this module change values one after the other; at the end all are the example's again."""
    before = bare_spread.site
    yield
    if bare_spread.site != before:
        bare_spread.operator.write(before)
        bare_spread.roll_out()


def test_first_roll_out_is_clean_and_reaches_every_host(
    bare_spread: SpreadFleet, first_roll_out: RollOut
) -> None:
    assert first_roll_out.code == 0, first_roll_out.said[-4000:]
    assert first_roll_out.results.failed_hosts == ()
    assert first_roll_out.results.totals.error == 0
    if bare_spread.was_bare:
        assert first_roll_out.changed_hosts == set(bare_spread.machines)


def test_second_roll_out_changes_nothing_on_any_host(
    spread: SpreadFleet, figure: Callable[[str, float], None]
) -> None:
    done = spread.roll_out()
    figure(f"roll-out to {len(spread.machines)} hosts when nothing changed", done.seconds)
    asked = {name for operation in done.results.operations for name in operation.no_change}
    assert asked == set(spread.machines)
    assert done.changes == {}
    assert done.seconds < NO_OP_SECONDS


def test_roll_out_of_a_second_operator_changes_nothing(spread: SpreadFleet) -> None:
    """He has the site file, its encrypted secrets, and an identity of his own."""
    second = Operator(spread.operator.folder / "second")
    second.prepare()
    with pytest.raises(SecretsUnreadable):
        _secrets_as_read_by(second, spread)
    both = (spread.operator.recipient, second.recipient)
    site = spread.operator.change(lambda site: site.model_copy(update={"operators": both}))
    try:
        assert spread.secrets == _secrets_as_read_by(second, spread)
        identity = {"DESKFLEET_AGE_IDENTITY": str(second.identity)}
        done = spread.checkout.start("inventory", "deploy.py", "-y", "--json", env=identity).finish()
        assert (done.code, done.changes) == (0, {}), done.said[-3000:]
    finally:
        spread.operator.write(site.model_copy(update={"operators": both[:1]}))
        assert spread.secrets


def _secrets_as_read_by(operator: Operator, spread: SpreadFleet) -> Secrets:
    os.environ["DESKFLEET_AGE_IDENTITY"] = str(operator.identity)
    return load_secrets(spread.site, site_file=spread.operator.site_file)


def test_ways_in_are_the_ones_that_the_site_file_names(spread: SpreadFleet) -> None:
    """Root has no key on one host, and one host's sshd answers nobody but the others: so sudo and the jump
    host were used."""
    sudoers = spread.machines[ENTERED_WITH_SUDO]
    assert sudoers.run("test -e /root/.ssh/authorized_keys", check=False).code != 0
    assert 22 in spread.scan(ENTERED_WITH_SUDO, [22])
    assert spread.scan(BEHIND_ANOTHER, [22]) == []


def test_every_service_of_every_group_runs(spread: SpreadFleet) -> None:
    stopped = [
        f"{service} on {name}"
        for name, host in spread.site.hosts.items()
        for service in _services_of(spread, name, host)
        if not spread.on(name).pids_of(service)
    ]
    assert stopped == []


def test_both_kinds_of_supervision_are_in_the_fleet(spread: SpreadFleet) -> None:
    kinds = {spread.machines[name].variant for name in spread.site.hosts_in(Group.SANDBOXES)}
    assert kinds == set(Variant)


def _services_of(spread: SpreadFleet, name: str, host: Host) -> list[str]:
    wanted = [service for group in host.groups for service in SERVICES[group]]
    return [
        *wanted,
        *(f"desktop-{desktop}" for desktop, of in spread.site.desktops.items() if of.host == name),
    ]


# --- one value changes exactly what depends on it ---


def shorter_life(site: Site) -> Site:
    ttl = site.settings.ttl.model_copy(update={"default": 1800})
    return with_settings(site, ttl=ttl)


def another_screen(site: Site) -> Site:
    return with_settings(site, default_resolution="1024x768")


def smaller_box(site: Site) -> Site:
    box = site.hosts["box1"].model_copy(update={"max_desktops": 11})
    return site.model_copy(update={"hosts": {**site.hosts, "box1": box}})


def plain_service(site: Site) -> Site:
    services = [
        service.model_copy(update={"websocket": not service.websocket})
        if isinstance(service, OwnService)
        else service
        for service in site.services or ()
    ]
    return site.model_copy(update={"services": tuple(services)})


def wider_desktop(site: Site) -> Site:
    desktop = site.desktops["plotting"].model_copy(update={"resolution": "1440x900"})
    return site.model_copy(update={"desktops": {**site.desktops, "plotting": desktop}})


def one_more_open_port(site: Site, port: int = 9999) -> Site:
    return with_settings(site, firewall=site.settings.firewall.model_copy(update={"allow": (port,)}))


def two_more_open_ports(site: Site) -> Site:
    return with_settings(site, firewall=site.settings.firewall.model_copy(update={"allow": (9998, 9999)}))


def with_settings(site: Site, **values: object) -> Site:
    return site.model_copy(update={"settings": site.settings.model_copy(update=values)})


@pytest.mark.parametrize(
    ("change", "on", "roles"),
    [
        (smaller_box, {"control1"}, {"Viewer"}),
        (plain_service, {"edge1", "box2"}, {"Caddy"}),
        (wider_desktop, {"studio1", "control1"}, {"Desktops", "Viewer"}),
        (one_more_open_port, {"edge1", "control1", "box1", "box2", "studio1"}, {"Firewall"}),
    ],
)
def test_changed_value_changes_exactly_its_dependents(
    spread: SpreadFleet, change: Callable[[Site], Site], on: set[str], roles: set[str]
) -> None:
    spread.operator.change(change)
    done = spread.roll_out()
    assert done.changed_hosts == on, done.changes
    assert {name.split(" | ")[0] for name in done.changes} == roles


def test_preview_of_bare_hosts_changed_nothing(bare_spread: SpreadFleet) -> None:
    if bare_spread.previewed is None:
        pytest.skip("the hosts were kept from an earlier run")
    assert [line for line in bare_spread.previewed if not is_noise(line)] == []


def test_preview_of_bare_hosts_names_every_file_of_ours_that_is_made_then(
    spread: SpreadFleet,
) -> None:
    """What packages bring is apt's to tell."""
    if not spread.was_bare:
        pytest.skip("the hosts were kept from an earlier run")
    files = {(name, path) for name, path in files_of(spread.made) if _OURS.match(path)}
    assert {
        (name, f"/var/lib/deskfleet/{file}")
        for name in spread.machines
        for file in ("packages.ours", "firewall/confirmed.nft")
    } <= files
    assert ("box1", "/var/lib/deskfleet/docker.ours") in files
    assert "\n".join(sorted(unnamed(files, spread.preview))) == ""


_OURS = re.compile(
    r"/(etc|opt|var/lib)/deskfleet(/|$)|/etc/systemd/system/(\S+/)?deskfleet-|/etc/supervisor/conf\.d/"
)


def test_preview_changes_nothing_and_names_every_file_that_is_changed_then(spread: SpreadFleet) -> None:
    """Values, a desktop that goes, one that becomes another tenant's, and a key that is replaced."""
    spread.operator.change(lambda site: shorter_life(another_screen(plain_service(site))))
    spread.operator.change(two_more_open_ports)
    spread.operator.change(lambda site: handed_over(without_a_page(site)))
    assert RELAY_KEY_OF_BOX2 in names(spread.secrets)
    rotate(spread.site, RELAY_KEY_OF_BOX2, site_file=spread.operator.site_file)
    eventually(lambda: no_sandboxes(spread), within=30, what="no sandbox is left")
    before = spread.listings()
    preview = spread.checkout.dry("--diff")
    assert [line for line in changes_between(before, spread.listings()) if not is_noise(line)] == []
    spread.roll_out()
    changed = changes_between(before, spread.listings())
    files = files_of(changed)
    # The comparison sees what is loaded, too.
    loaded = {line.split(":")[0] for line in changed if ": + firewall inet deskfleet" in line}
    assert loaded == set(spread.machines)
    assert {("control1", VIEWER_TOML), ("box2", RELAY_KEY), ("studio1", "/etc/passwd")} <= files
    assert {path for name, path in files if name == "studio1"} >= {f"{DESKTOPS}/{WITH_A_PAGE}"}
    assert {(name, "/var/lib/deskfleet/firewall/confirmed.nft") for name in spread.machines} <= files
    assert "\n".join(sorted(unnamed(files, preview.said))) == ""


VIEWER_TOML = "/etc/deskfleet/viewer.toml"
RELAY_KEY_OF_BOX2 = "relay_keys.box2"


def no_sandboxes(spread: SpreadFleet) -> bool:
    return not any(spread.on(name).sandbox_containers() for name in spread.site.hosts_in(Group.SANDBOXES))


def without_a_page(site: Site) -> Site:
    left = {name: desktop for name, desktop in site.desktops.items() if name != WITH_A_PAGE}
    return site.model_copy(update={"desktops": left})


def handed_over(site: Site) -> Site:
    """The other desktop is the first tenant's from now on."""
    desktops = {
        name: desktop.model_copy(update={"tenant": site.tenants[0]})
        for name, desktop in site.desktops.items()
    }
    return site.model_copy(update={"desktops": desktops})


def files_of(changed: list[str]) -> set[tuple[str, str]]:
    """Host and path of each file that came, went or changed, as far as a preview has to tell it."""
    return {
        (name.rstrip(":"), path)
        for name, _, kind, path, *_ in map(str.split, changed)
        if kind == "files" and not is_noise(f"{name} {kind} {path}") and not is_stamp(path)
    }


def unnamed(files: set[tuple[str, str]], said: str) -> set[str]:
    """Those that a preview did not name."""
    named = named_in(said)
    return {" ".join(file) for file in files if not is_named(*file, named)}


def named_in(said: str) -> set[tuple[str, str, bool]]:
    """Of a preview's words: host, path, and whether all that is below it is meant, too."""
    lines = re.findall(r"\[(\w+)\] +(/\S+) (.*)", _COLOURS.sub("", said))
    return {(name, path, "all that is in it" in rest) for name, path, rest in lines}


def is_named(name: str, path: str, named: set[tuple[str, str, bool]]) -> bool:
    path = re.sub(r"(/desktops/\S+\.of-\w+)-\d+$", r"\1", path)  # a number where the name is taken
    return any(
        host == name and (path == of or (whole and path.startswith(f"{of}/"))) for host, of, whole in named
    )


def test_chosen_role_on_a_chosen_host_is_all_that_runs(spread: SpreadFleet) -> None:
    """Two of the host's roles have work, and one of them on the other hosts, too."""
    spread.operator.change(lambda site: with_settings(site, default_resolution="1152x864"))
    spread.operator.change(lambda site: one_more_open_port(site, 9998))
    done = spread.roll_out("--limit", "control", "--data", "deskfleet_roles=viewer")
    assert done.changed_hosts == {"control1"}
    assert {name.split(" | ")[0] for name in done.changes} == {"Viewer"}
    left = spread.roll_out()
    assert left.changed_hosts == set(spread.machines)
    assert {name.split(" | ")[0] for name in left.changes} == {"Firewall"}


def test_no_secret_is_shown_however_loud_the_roll_out(spread: SpreadFleet) -> None:
    """Secrets travel in it: two keys are replaced, each on its host and the control host."""
    spread.operator.change(lambda site: with_settings(site, default_resolution="1280x720"))
    words = spread.secret_words()
    for name in (RELAY_KEY_OF_BOX2, "opensandbox_keys.box1"):
        rotate(spread.site, name, site_file=spread.operator.site_file)
    words += spread.secret_words()
    printed = spread.operator.folder / "printed"
    preview = spread.checkout.dry("--diff", "-vvv")
    text = preview.said + printed.read_text()
    done = spread.checkout.roll_out("--diff", "-vvv", show=False)
    text += done.said + printed.read_text()
    assert done.changed_hosts >= {"box1", "box2", "control1"}
    assert [word for word in words if word in text] == []


# --- what changes by itself on a live host ---

_NOISE = re.compile(
    r": [+-] (processes|sockets) "
    r"|/var/log/|/var/lib/deskfleet/(viewer|caddy|opensandbox)/|/run/|/home/|/root/\.(ssh|cache)|/tmp/"
    r"|/var/lib/deskfleet/desktops/[^ /]+/"
)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def is_noise(line: str) -> bool:
    """Neither a roll-out's doing nor to be told by its preview."""
    return bool(_NOISE.search(line))


def is_alive(line: str) -> bool:
    return is_noise(line) or ": + containers " in line or ": - containers " in line


def is_stamp(path: str) -> bool:
    """The roll-out's own marks of what is in force."""
    return path.startswith("/var/lib/deskfleet/stamps/")
