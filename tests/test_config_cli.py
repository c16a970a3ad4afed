"""The exact commands of the documentation, in processes of their own: config.py leans on pyinfra's
internals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from pyrage.x25519 import Identity

from inventory.models import Secrets
from inventory.secrets import load_secrets, text_of
from inventory.site_file import load_site
from tests.sites import ALL_GROUPS, LAYOUTS, fleet_site, laid_out, secret_words, secrets
from tests.sites import FLEET as SITE_HOSTS

# Each test is a run of pyinfra's own command line.
pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parent.parent
PYINFRA = Path(sys.executable).parent / "pyinfra"
FAKE_SITE = """
hosts:
  here: {groups: [edge, control, sandboxes, desktops], connect: "@fake/h1"}
desktops:
  studio: {tenant: main, host: here}
"""
# A whole roll-out on hosts that answer every command with success, as a plain Python inventory.
ANSWERS = """
from pathlib import Path as _Path
from roles import wheel as _wheel
_wheel.wheel = lambda: _Path("deploy.py")
_wheel.sources = lambda: "sources"
_FAKE = {
    "fake_delay": 0,
    "fake_delay_jitter": 0,
    "fake_responses": {
        "HELD=": "system bookworm amd64",
        "URL=": "obtainable",
        "os-release": [
            "os debian", "version 12", "architecture x86_64", "uid 0", "free_mb 90000",
            "addresses 10.77.0.11 10.77.0.12 10.77.0.13 10.77.0.14 10.77.0.15",
        ],
        "/proc/net/if_inet6": "yes",
    },
}
"""
ONE_HOST = f"""{ANSWERS}
from tests import sites as _sites
edge = control = sandboxes = desktops = [("@fake/h1", {{"deskfleet": _sites.host_config(), **_FAKE}})]
"""
FLEET = f"""{ANSWERS}
from inventory.groups import groups_of
edge, control, sandboxes, desktops = groups_of("fleet.yml")
for _members in (edge, control, sandboxes, desktops):
    for _, _data in _members:
        _data.update(_FAKE)
"""
CRM = {
    "uri": "registry.example.com/crm:1",
    "entrypoint": ["/start"],
    "registry": {"user": "puller", "password": "CRM_PASSWORD"},
}
GIVEN = {"CRM_PASSWORD": "password-for-crm", "K8S_KEY": "key-for-k8s"}
SSH_SITE = """
hosts:
  here: {groups: [edge, control], connect: {address: 10.0.0.5}}
  there:
    groups: [sandboxes, desktops]
    connect: {address: 10.0.0.6, user: op, key: own.key, jump: {address: 10.0.0.5, port: 2222}}
operators: [OPERATOR]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return lay_out(tmp_path)


def lay_out(tmp_path: Path) -> Path:
    """The project as it lies in a checkout, with a `.local` of its own."""
    for name in ("config.py", "deploy.py", "inventory", "roles", "templates", "tests", "viewer"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "fake.yml").write_text(FAKE_SITE)
    (tmp_path / "plain.py").write_text(ONE_HOST)
    (tmp_path / "fleet.py").write_text(FLEET)
    site = fleet_site().model_dump(mode="json", exclude_unset=True)
    site["settings"]["images"] = {"own": {"crm": CRM}}
    site["external"] = {"k8s": {"url": "https://k8s.example.com", "key": "K8S_KEY"}}
    (tmp_path / "fleet.yml").write_text(yaml.safe_dump(site))
    return tmp_path


def pyinfra(
    checkout: Path,
    *arguments: str,
    site: str | None = None,
    identity: str = "identity.txt",
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("DESKFLEET")}
    env = {**inherited, **GIVEN, **(env or {})}
    env |= {"PYINFRA_FAKE_DELAY": "0", "PYINFRA_FAKE_DELAY_JITTER": "0", "DESKFLEET_AGE_IDENTITY": identity}
    if site:
        env["DESKFLEET_SITE"] = site
    return subprocess.run(
        [str(PYINFRA), *arguments],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_directory_is_an_inventory(checkout: Path) -> None:
    done = pyinfra(checkout, "inventory", "debug-inventory", "--json")
    assert done.returncode == 0, done.stderr
    (host,) = json.loads(done.stdout)
    assert host["name"] == "@local"
    assert {"edge", "control", "sandboxes", "desktops"} <= set(host["groups"])
    assert_no_secret_in(done, made_secrets(checkout, "local"))


def test_site_file_is_an_inventory(checkout: Path) -> None:
    done = pyinfra(checkout, "fake.yml", "debug-inventory", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["name"] == "@fake/h1"
    assert (checkout / ".local" / "secrets-fake.yml").exists()


def test_literal_command_reaches_preflight_and_changes_nothing(checkout: Path) -> None:
    done = pyinfra(checkout, "inventory", "deploy.py", "-y", site="fake.yml")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert "here: could not be examined" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Starting operation" not in done.stderr


@pytest.mark.parametrize(
    ("site", "sentence"),
    [
        ("nowhere", "no site 'nowhere'"),
        ("empty.yml", "empty.yml:hosts: names no host; there is nothing to roll out to"),
        ("typo.yml", "typo.yml:settings.domian: unknown key, did you mean 'domain'?"),
        (
            "port.yml",
            "port.yml:settings.edge_port: input should be less than or equal to 65535 (it is 99999)",
        ),
    ],
)
def test_wrong_site_is_one_sentence_and_an_error(checkout: Path, site: str, sentence: str) -> None:
    (checkout / "empty.yml").write_text("hosts: {}\n")
    (checkout / "typo.yml").write_text(FAKE_SITE + "settings: {domian: deskfleet.localhost}\n")
    (checkout / "port.yml").write_text(FAKE_SITE + "settings: {edge_port: 99999}\n")
    done = pyinfra(checkout, "inventory", "deploy.py", "-y", site=site)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--limit", "@local", "--limit", "egde"), "--limit egde matches no host; known: @local"),
        (("--exclude", "box2"), "--exclude box2 matches no host; known: @local"),
        (("--limit", "edge", "--exclude", "@local"), "--limit and --exclude together leave no host"),
        (("--data", "deskfleet_role=caddy"), "unknown key; did you mean 'deskfleet_roles'?"),
        (("--no-wait",), "--no-wait ends with exit code 0 although operations failed; leave it out"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_flags_that_do_not_mean_what_they_say_are_errors(
    checkout: Path, flags: tuple[str, ...], sentence: str
) -> None:
    done = pyinfra(checkout, "inventory", "deploy.py", "-y", *flags)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Connecting" not in done.stderr


def test_empty_python_inventory_is_an_error(checkout: Path) -> None:
    (checkout / "nobody.py").write_text("edge = []\n")
    done = pyinfra(checkout, "nobody.py", "deploy.py", "-y")
    assert done.returncode == 1
    assert "has no hosts" in done.stderr


LOUD = ("-y", "-vvv", "--diff", "--debug")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    """`pyinfra INVENTORY deploy.py …` in one checkout; each command is run once for all tests."""
    folder = lay_out(tmp_path_factory.mktemp("checkout"))
    return Typed(folder, cache(lambda *arguments: pyinfra(folder, *arguments)))


@dataclass(frozen=True)
class Typed:
    checkout: Path
    run: Callable[..., subprocess.CompletedProcess[str]]

    def roll_out(self, inventory: str, *flags: str) -> subprocess.CompletedProcess[str]:
        done = self.run(inventory, "deploy.py", *flags)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    def operations(self, inventory: str, *flags: str) -> list[dict[str, Any]]:
        done = self.roll_out(inventory, "-y", "--json", *flags)
        return list(json.loads(done.stdout)["results"]["operations"])


@pytest.mark.parametrize("flags", [LOUD, ("-y", "--json"), ("--dry", "--diff", "-v")], ids=" ".join)
@pytest.mark.parametrize("inventory", ["plain.py", "fleet.py"])
def test_no_secret_shows_however_loud(typed: Typed, inventory: str, flags: tuple[str, ...]) -> None:
    done = typed.roll_out(inventory, *flags)
    made = secrets() if inventory == "plain.py" else made_secrets(typed.checkout, "fleet")
    assert inventory == "plain.py" or made.given.keys() == GIVEN.keys()
    assert_no_secret_in(done, made)


def test_whole_roll_out_says_what_changes(typed: Typed) -> None:
    said = typed.roll_out("plain.py", *LOUD).stderr
    assert "Check | Create, see and end a desktop" in said
    assert "+\tadmin unix//run/deskfleet/caddy/admin.sock|0600" in said
    assert "/etc/deskfleet/viewer.toml changes (its content is not shown)" in said


@pytest.mark.parametrize(
    ("role", "runs", "switches"), [("docker", [], False), ("relay", ["deskfleet-relay"], True)]
)
def test_chosen_role_leaves_the_programs_of_the_others_alone(
    typed: Typed, role: str, runs: list[str], switches: bool
) -> None:
    """Neither are they started, where they are not there yet, nor do they get another version below them."""
    flags = ("-y", "-vvv", "--json", "--data", f"deskfleet_roles={role}")
    said = typed.roll_out("plain.py", *flags)
    asked = [line for line in said.stderr.splitlines() if "for u in " in line]
    found = re.findall(r"deskfleet-[a-z-]+", " ".join(line.partition("for u in ")[2] for line in asked))
    assert sorted(set(found)) == runs
    names = {operation["name"] for operation in json.loads(said.stdout)["results"]["operations"]}
    assert ("Viewer wheel | Install viewer and relay" in names) is switches


@pytest.mark.parametrize("inventory", ["plain.py", "fleet.py"])
def test_every_operation_has_a_name(typed: Typed, inventory: str) -> None:
    names = [operation["name"] for operation in typed.operations(inventory)]
    # An operation without a name would be shown with its arguments.
    assert [name for name in names if "(" in name and " | " not in name] == []


@pytest.mark.parametrize(
    ("limit", "hosts"), [("@fake/box1", {"@fake/box1"}), ("sandboxes", {"@fake/box1", "@fake/box2"})]
)
def test_limit_names_a_host_or_a_group_of_a_fleet(typed: Typed, limit: str, hosts: set[str]) -> None:
    operations = typed.operations("fleet.py", "--limit", limit)
    assert {host for operation in operations for host in operation["success"]} == hosts


def test_limit_without_the_edge_says_which_hosts_it_may_have_no_way_to(typed: Typed) -> None:
    said = typed.roll_out("fleet.py", "-y", "--limit", "control").stderr
    assert "Note: The control host uses box1, box2, studio1 now, and the edge was not part of this" in said


@pytest.mark.parametrize("inventory", ["fleet.yml", "fleet.py", "inventory"])
def test_all_three_inventories_of_a_fleet_are_the_same(checkout: Path, inventory: str) -> None:
    done = pyinfra(checkout, inventory, "debug-inventory", "--json", site="fleet.yml")
    assert done.returncode == 0, done.stderr
    groups = {host["name"]: set(host["groups"]) & set(ALL_GROUPS) for host in json.loads(done.stdout)}
    assert groups == {f"@fake/{name}": set(wanted) for name, (_, wanted) in SITE_HOSTS.items()}
    assert_no_secret_in(done, made_secrets(checkout, "fleet"))


BOXES, DESKS = {"box1", "box2"}, {"studio1"}
# Between one barrier and the next: role -> the hosts where it runs.
PHASES: list[dict[str, set[str]]] = [
    {},
    {role: set(SITE_HOSTS) for role in ("Foundation", "Python", "Supervision", "Viewer wheel")},
    {"Firewall": set(SITE_HOSTS)},
    {
        **dict.fromkeys(("Docker", "Install what images are built with", "Images"), BOXES),
        **dict.fromkeys(("Own images", "OpenSandbox", "Hostwatch"), BOXES),
        "Relay": BOXES | DESKS,
        **dict.fromkeys(("KasmVNC", "Desktops"), DESKS),
    },
    {"Viewer": {"control1"}},
    {"Caddy": set(SITE_HOSTS) - {"edge1"}},
    {"Caddy": {"edge1"}, "lego away": {"edge1"}},
    {"Start what was stopped": set(SITE_HOSTS)},
    {"Check": {"edge1"}},
]


def test_no_host_begins_a_phase_before_all_have_ended_the_one_before(typed: Typed) -> None:
    """Without an operation that all hosts share pyinfra runs one host ahead of the others."""
    phases: list[dict[str, set[str]]] = [{}]
    for operation in typed.operations("fleet.py"):
        hosts = {name.removeprefix("@fake/") for name in (*operation["success"], *operation["no_change"])}
        if operation["name"].startswith("Phase: "):
            assert hosts == set(SITE_HOSTS), operation["name"]
            phases.append({})
        else:
            phases[-1].setdefault(operation["name"].partition(" | ")[0], set()).update(hosts)
    assert phases == PHASES


# Operation -> the group of the hosts where it runs; a host's Caddy is everywhere.
WHERE = {
    "Viewer | Write viewer.toml": "control",
    "OpenSandbox | Write config.toml": "sandboxes",
    "Desktops | Write the session of drawing": "desktops",
    "Check | Create, see and end a desktop": "edge",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_may_be_spread_over_hosts_in_any_way(checkout: Path, layout: str) -> None:
    site = laid_out(layout).model_dump(mode="json", exclude_unset=True)
    (checkout / "fleet.yml").write_text(yaml.safe_dump(site))
    done = pyinfra(checkout, "fleet.py", "deploy.py", "-y", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    ran: dict[str, set[str]] = {}
    for operation in json.loads(done.stdout)["results"]["operations"]:
        ran.setdefault(operation["name"], set()).update(operation["success"], operation["no_change"])
    hosts = LAYOUTS[layout]
    for name, group in WHERE.items():
        assert ran[name] == {f"@fake/{host}" for host, groups in hosts.items() if group in groups}, name
    assert ran["Caddy | Run Caddy"] == {f"@fake/{host}" for host in hosts}
    assert_no_secret_in(done, made_secrets(checkout, "fleet"))


def test_only_a_roll_out_costs_a_host_that_left_its_keys(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    load_secrets(load_site(checkout / "fleet.yml"), site_file=checkout / "fleet.yml")
    kept = checkout / ".local" / "secrets-fleet.yml"
    before = kept.read_bytes()
    site = yaml.safe_load((checkout / "fleet.yml").read_text())
    del site["hosts"]["box1"]
    (checkout / "fleet.yml").write_text(yaml.safe_dump(site))
    assert pyinfra(checkout, "fleet.py", "deploy.py", "--dry").returncode == 0
    refused = pyinfra(checkout, "fleet.yml", "deploy.py", "-y")
    assert "nothing was changed" in refused.stderr
    assert kept.read_bytes() == before
    done = pyinfra(checkout, "fleet.py", "deploy.py", "-y")
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(made_secrets(checkout, "fleet").relay_keys) == {"box2", "studio1"}


def ssh_site(checkout: Path) -> None:
    identity = Identity.generate()
    (checkout / "identity.txt").write_text(f"{identity}\n")
    (checkout / "identity.txt").chmod(0o600)
    (checkout / "own.key").write_text("not read before a host is connected")
    (checkout / "ssh.yml").write_text(SSH_SITE.replace("OPERATOR", str(identity.to_public())))
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMhYJNLgTyaMSNxBj8ya3vLsQ8J7dQwq8VKbsCTZGCNS"
    pins = "".join(f"{host} {key}\n" for host in ("10.0.0.5", "10.0.0.6", "[10.0.0.5]:2222"))
    (checkout / "ssh.known_hosts").write_text(pins)


def test_host_over_ssh_is_pinned_and_entered_as_its_user(checkout: Path) -> None:
    ssh_site(checkout)
    done = pyinfra(checkout, "ssh.yml", "debug-inventory", "--json")
    assert done.returncode == 0, done.stderr
    here, there = (host["data"] for host in sorted(json.loads(done.stdout), key=lambda host: host["name"]))
    assert (here["ssh_hostname"], here["ssh_user"], here.get("_sudo")) == ("10.0.0.5", "root", None)
    assert (there["ssh_user"], there["_sudo"], there["ssh_key"]) == ("op", True, str(checkout / "own.key"))
    for data in (here, there):
        assert data["ssh_strict_host_key_checking"] == "yes"
        assert data["ssh_known_hosts_file"] == str(checkout / "ssh.known_hosts")


def test_hosts_that_nobody_has_pinned_are_not_connected(checkout: Path) -> None:
    ssh_site(checkout)
    (checkout / "ssh.known_hosts").unlink()
    (checkout / "own.key").unlink()
    done = pyinfra(checkout, "ssh.yml", "deploy.py", "-y")
    assert done.returncode == 1
    said = done.stderr.split("pyinfra error")[-1]
    assert (
        "ssh.yml:hosts.here.connect: ssh.known_hosts is not there or not readable, so it pins no key of"
        " 10.0.0.5; run: ssh-keyscan -p 22 10.0.0.5 >> ssh.known_hosts"
    ) in said
    assert "ssh.yml:hosts.there.connect.jump: " in said
    assert "run: ssh -p 2222 root@10.0.0.5 ssh-keyscan -p 22 10.0.0.6 >> ssh.known_hosts" in said
    assert "ssh.yml:hosts.there.connect.key: there is no file own.key" in said
    assert "Traceback" not in done.stderr
    assert not (checkout / "ssh.age").exists()


def test_secrets_that_cannot_be_had_are_one_sentence(checkout: Path) -> None:
    ssh_site(checkout)
    for inventory in ("ssh.yml", "own.py"):
        (checkout / "own.py").write_text(
            "from inventory.groups import groups_of\n"
            "edge, control, sandboxes, desktops = groups_of('ssh.yml')\n"
        )
        done = pyinfra(checkout, inventory, "deploy.py", "-y", identity="nowhere.txt")
        assert done.returncode == 1
        assert "nowhere.txt: there is no age identity; run `make operator`" in done.stderr
        assert "Traceback" not in done.stderr


def test_programs_of_this_machine_inherit_no_secret(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "here.yml").write_text(
        FAKE_SITE.replace("@fake/h1", "@local")
        + "settings: {domain: desks.example.com, tls: acme,"
        + " acme: {dns: {provider: gandiv5, variables: [GANDIV5_API_KEY]}}}\n"
    )
    (checkout / "look.py").write_text(
        "from pyinfra.operations import server\n"
        f"server.shell(name='Look', commands=['env > {checkout}/seen'], _sudo=False)\n"
    )
    made = secrets().model_copy(update={"given": {"GANDIV5_API_KEY": SecretStr("given-by-hand")}})
    done = pyinfra(
        checkout, "here.yml", "look.py", "-y",
        env={"DESKFLEET_SECRETS": text_of(made), "GANDIV5_API_KEY": "given-by-hand"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = (checkout / "seen").read_text()
    assert "PATH=" in seen
    assert [word for word in secret_words(made) if word in seen] == []
    assert not (checkout / ".local").exists()


def test_group_that_is_nearly_ours_is_refused(checkout: Path) -> None:
    (checkout / "own.py").write_text("sandbox = ['@fake/h1']\nberlin = ['@fake/h1']\n")
    done = pyinfra(checkout, "own.py", "debug-inventory")
    assert done.returncode == 1
    assert "own.py:sandbox: unknown group, did you mean 'sandboxes'?" in done.stderr
    (checkout / "own.py").write_text("berlin = ['@fake/h1']\n")
    assert pyinfra(checkout, "own.py", "debug-inventory").returncode == 0


def test_host_of_no_site_is_one_sentence_and_may_be_left_out(checkout: Path) -> None:
    (checkout / "own.py").write_text((checkout / "plain.py").read_text() + "berlin = ['@fake/h2']\n")
    done = pyinfra(checkout, "own.py", "deploy.py", "-y")
    assert done.returncode == 1
    assert "own.py:@fake/h2: it has no data `deskfleet`; take the hosts from" in done.stderr
    assert "Connecting" not in done.stderr
    done = pyinfra(checkout, "own.py", "deploy.py", "--dry", "--exclude", "berlin")
    assert done.returncode == 0, done.stderr[-3000:]


def test_removal_runs_through(checkout: Path) -> None:
    done = pyinfra(checkout, "plain.py", "deploy.py", "-y", "--json", "--data", "deskfleet_state=absent")
    assert done.returncode == 0, done.stderr[-3000:]
    names = [operation["name"] for operation in json.loads(done.stdout)["results"]["operations"]]
    assert names[-1] == "Foundation away | Remove all directories of ours"


def made_secrets(checkout: Path, site: str) -> Secrets:
    text = (checkout / ".local" / f"secrets-{site}.yml").read_text()
    return Secrets.model_validate(yaml.safe_load(text))


def assert_no_secret_in(done: subprocess.CompletedProcess[str], made: Secrets) -> None:
    words = secret_words(made)
    assert len(words) > 5
    assert [word for word in words if word in done.stdout + done.stderr] == []


def test_summary_names_hosts_that_keep_a_former_certificate_and_what_desktops_run(checkout: Path) -> None:
    """The fleet's secrets are made anew in each run; here they hold what a renewal of last week left."""
    inventory = (checkout / "fleet.py").read_text()
    renewed_last_week = """
from datetime import UTC as _UTC, datetime as _datetime, timedelta as _timedelta
_former = {name: _datetime.now(_UTC) + _timedelta(days=20) for name in ("box1", "control1")}
for _, _data in (*edge, *control, *sandboxes, *desktops):
    _config = _data["deskfleet"]
    _certificates = _config.secrets.certificates.model_copy(update={"former": _former})
    _secrets = _config.secrets.model_copy(update={"certificates": _certificates})
    _data["deskfleet"] = _config.model_copy(update={"secrets": _secrets})
"""
    (checkout / "fleet.py").write_text(inventory + renewed_last_week)
    everywhere = pyinfra(checkout, "fleet.py", "deploy.py", "-y")
    assert "The certificate of" not in everywhere.stderr
    assert "the edge was not part of this" not in everywhere.stderr
    assert "Note: desktop plotting on studio1 runs tigervnc: as the site file says" in everywhere.stderr
    elsewhere = pyinfra(checkout, "fleet.py", "deploy.py", "-y", "--limit", "edge")
    assert "Note: The certificate of box1 was renewed, and this roll-out did not bring it" in elsewhere.stderr
    caddy_alone = pyinfra(checkout, "fleet.py", "deploy.py", "-y", "--data", "deskfleet_roles=caddy")
    assert "Roll out control1." in caddy_alone.stderr  # whose viewer keeps the former one
    assert "Roll out box1." not in caddy_alone.stderr
