"""Files, directories, users and packages: stated facts, the exact commands, and nothing where all is so
already."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pyinfra.api.config import config_defaults

from inventory.models import Caddy
from roles import caddy, docker, firewall, images, kasmvnc, lego, python
from roles.backends import HOME as HOME_OF_KASMVNC
from roles.backends import Holding, KasmvncHolding, Package
from roles.caddyfile import EDGE_CERTIFICATE, EDGE_KEY
from roles.docker import Engine
from roles.facts import STATE, Account, HasSystemd, MissingPackages, Paths, PathState, Text, User
from roles.files import Directory, absent, directories, no_user, place, system_user
from roles.packages import no_packages, packages
from tests.role_runner import RunRole

TEXT = "port = 1\n"
HASH = hashlib.sha256(TEXT.encode()).hexdigest()


def those(**states: PathState) -> Any:
    known = {f"/etc/{name}": state for name, state in states.items()}
    return {Paths: lambda paths: {path: known[path] for path in paths if path in known}}


def commands(steps: list[tuple[str, list[Any]]]) -> list[Any]:
    ((_, found),) = steps
    return found


def test_new_file_is_private_until_checked_and_then_swapped(run_role: RunRole) -> None:
    steps = run_role(
        place,
        path="/etc/a",
        content=TEXT,
        mode="640",
        group="edge",
        check='caddy validate "$new"',
        facts=those(),
    )
    assert commands(steps) == [
        "install -m 600 /dev/null /etc/a.new",
        ("put", "/etc/a.new", TEXT),
        'new=/etc/a.new; caddy validate "$new"',
        "chown root:edge /etc/a.new && chmod 640 /etc/a.new && mv -fT /etc/a.new /etc/a",
    ]


@pytest.mark.parametrize(
    ("content", "is_taken"), [("port = 2\n", True), ("port = \n", False), ("port = 3\nhalf", False)]
)
def test_file_is_read_as_before_until_its_checker_accepted_the_new_one(
    run_role: RunRole, tmp_path: Path, content: str, is_taken: bool
) -> None:
    """The commands in a real shell; a reader that had opened the old file goes on with all of it."""
    path = tmp_path / "settings.toml"
    path.write_text(TEXT)
    check = f'{sys.executable} -c \'import sys, tomllib; tomllib.load(open(sys.argv[1], "rb"))\' "$new"'
    here = {"user": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
    steps = run_role(place, path=str(path), content=content, check=check, facts={Paths: {}}, **here)
    with path.open() as reader:
        assert run_in_order(commands(steps)) is is_taken
        assert reader.read() == TEXT
    assert path.read_text() == (content if is_taken else TEXT)


def run_in_order(steps: list[Any]) -> bool:
    """As pyinfra does: the first command that fails is the operation's last."""
    for step in steps:
        if isinstance(step, tuple):
            Path(step[1]).write_text(step[2])
        elif subprocess.run(["sh", "-c", step], capture_output=True, check=False).returncode:
            return False
    return True


def test_file_that_is_as_wanted_is_left_alone(run_role: RunRole) -> None:
    facts = those(a=PathState(HASH, "640", "root", "edge"))
    steps = run_role(place, path="/etc/a", content=TEXT, mode="640", group="edge", check="false", facts=facts)
    assert commands(steps) == []


def test_wrong_mode_alone_is_mended_in_place(run_role: RunRole) -> None:
    facts = those(a=PathState(HASH, "644", "root", "root"))
    steps = run_role(place, path="/etc/a", content=TEXT, mode="640", group="edge", facts=facts)
    assert commands(steps) == ["chown root:edge /etc/a && chmod 640 /etc/a"]


def test_secret_is_in_no_command(run_role: RunRole) -> None:
    steps = run_role(place, path="/etc/a", content=SecretStr("hunter2"), mode="640", facts=those())
    shown = [command for command in commands(steps) if isinstance(command, str)]
    assert "hunter2" not in str(shown)
    assert ("put", "/etc/a.new", "hunter2\n") in commands(steps)


def test_only_directories_that_differ_are_made(run_role: RunRole) -> None:
    facts = those(a=PathState("", "755", "root", "root"), b=PathState("", "755", "root", "root"))
    wanted = (Directory("/etc/a"), Directory("/etc/b", "750", "root", "edge"), Directory("/etc/c"))
    assert commands(run_role(directories, wanted=wanted, facts=facts)) == [
        "install -d -m 750 -o root -g edge /etc/b",
        "install -d -m 755 -o root -g root /etc/c",
    ]


def test_directory_gets_its_owner_after_all_that_is_in_it(run_role: RunRole) -> None:
    """Its own owner tells whether that was done, also after a roll-out that died in between."""
    facts = those(a=PathState("", "755", "root", "root"), b=PathState("", "700", "edge", "edge"))
    wanted = (Directory("/etc/a", "750", "edge", "edge"), Directory("/etc/b", "750", "edge", "edge"))
    steps = run_role(directories, wanted=wanted, whole=("/etc/a", "/etc/b"), facts=facts)
    assert commands(steps) == [
        "chown -R -h edge:edge /etc/a",
        "install -d -m 750 -o edge -g edge /etc/a",
        "install -d -m 750 -o edge -g edge /etc/b",
    ]


def test_user_is_made_with_its_groups(run_role: RunRole) -> None:
    steps = run_role(system_user, user="edge", home="/var/lib/edge", groups=("docker",), facts={User: None})
    assert commands(steps) == [
        "useradd --system --user-group --no-create-home --home-dir /var/lib/edge"
        " --shell /usr/sbin/nologin --groups docker edge"
    ]


def test_user_that_is_as_wanted_is_left_alone(run_role: RunRole) -> None:
    facts = {User: Account("/var/lib/edge", "/usr/sbin/nologin", ("edge", "docker"))}
    assert (
        commands(run_role(system_user, user="edge", home="/var/lib/edge", groups=("docker",), facts=facts))
        == []
    )


def test_user_in_a_group_too_many_loses_it(run_role: RunRole) -> None:
    facts = {User: Account("/var/lib/edge", "/usr/sbin/nologin", ("edge", "docker"))}
    assert commands(run_role(system_user, user="edge", home="/var/lib/edge", facts=facts)) == [
        "usermod --home /var/lib/edge --shell /usr/sbin/nologin --groups '' edge"
    ]


def test_user_that_is_not_there_needs_no_removal(run_role: RunRole) -> None:
    assert commands(run_role(no_user, user="edge", facts={User: None})) == []


def test_only_what_exists_is_removed(run_role: RunRole) -> None:
    facts = those(b=PathState("", "755", "root", "root"))
    assert commands(run_role(absent, paths=("/etc/a", "/etc/b"), facts=facts)) == ["rm -rf /etc/b"]
    assert commands(run_role(absent, paths=("/etc/a",), facts=facts)) == []


@pytest.mark.parametrize("systemd", [True, False])
def test_missing_packages_are_installed_and_recorded(run_role: RunRole, systemd: bool) -> None:
    facts = {MissingPackages: ["docker.io"], HasSystemd: systemd}
    (command,) = commands(run_role(packages, names=("docker.io", "iptables"), facts=facts))
    # Without systemd no package may start its daemon: ours are supervised.
    assert f"KEEP_QUIET='{'' if systemd else '1'}' PACKAGES='docker.io'" in command
    assert "--no-install-recommends" in command
    assert "packages.ours" in command


def test_installed_packages_cost_one_look(run_role: RunRole) -> None:
    assert commands(run_role(packages, names=("docker.io",), facts={MissingPackages: list[str]()})) == []


def test_no_packages_of_ours_no_purge(run_role: RunRole) -> None:
    assert commands(run_role(no_packages, facts={Paths: lambda paths: {}})) == []


@pytest.mark.parametrize("script", sorted(Path("templates").rglob("*.sh")), ids=str)
def test_script_is_valid_shell(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)


def on_small_host(script: str, root: Path) -> str:
    """The real script, with the machine's files that it touches moved below root."""
    text = Path("templates/packages", script).read_text()
    return text.replace("/usr/sbin/policy-rc.d", f"{root}/policy-rc.d").replace("/var/", f"{root}/var/")


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def purge(root: Path, *, accounts: str = "") -> str:
    """Run purge.sh on a host with one package of ours; returns what its tools were asked."""
    tools, asked = root / "bin", root / "asked"
    for name in ("packages.before", "users.ours", "groups.ours"):
        (root / name).touch()
    (root / "packages.ours").write_text("docker.io\n")
    (root / "lists.before").write_text("deb_main_Packages\nauxfiles\npkgcache.bin\nsrcpkgcache.bin\n")
    tool(tools, "dpkg-query", "echo docker.io installed")
    tool(tools, "getent", f"printf '{accounts}' | grep \"^$2:\"")
    for name in ("dpkg", "userdel", "groupdel"):
        tool(tools, name, f'echo {name} "$@" >> {asked}')
    subprocess.run(
        ["sh", "-c", on_small_host("purge.sh", root)],
        env={"PATH": f"{tools}:/usr/bin:/bin", "STATE": str(root)},
        capture_output=True,
        check=True,
    )
    return asked.read_text()


@pytest.mark.parametrize(("first_line", "stays"), [("# Deskfleet: none starts", False), ("# theirs", True)])
def test_guard_that_a_killed_installation_left_goes(tmp_path: Path, first_line: str, stays: bool) -> None:
    (tmp_path / "policy-rc.d").write_text(f"#!/bin/sh\n{first_line}\nexit 101\n")
    assert purge(tmp_path) == "dpkg --purge docker.io\n"
    assert (tmp_path / "policy-rc.d").exists() is stays


def test_purge_of_docker_does_not_wipe_what_was_there_before(tmp_path: Path) -> None:
    script = tmp_path / "var/lib/docker/nuke-graph-directory.sh"
    script.parent.mkdir(parents=True)
    script.touch()
    (tmp_path / "docker.before").write_text(f"path {script.parent}\n")
    assert purge(tmp_path) == "dpkg --remove docker.io\ndpkg --purge docker.io\n"
    assert not script.exists()


def test_people_are_never_removed_as_accounts_of_packages(tmp_path: Path) -> None:
    (tmp_path / "users.ours").write_text("daemon-of-it\nalice\n")
    asked = purge(tmp_path, accounts="daemon-of-it:x:998\\nalice:x:1001\\n")
    assert "userdel daemon-of-it\n" in asked
    assert "alice" not in asked


@pytest.mark.parametrize("killed", [False, True])
def test_record_of_packages_is_what_apt_plans_and_is_written_first(tmp_path: Path, killed: bool) -> None:
    """Also somebody else installs a package, and a person gets an account, while apt works for us."""
    state, tools, installed = tmp_path / "state", tmp_path / "bin", tmp_path / "installed"
    (tmp_path / "var/lib/apt/lists").mkdir(parents=True)
    (tmp_path / "var/cache/apt").mkdir(parents=True)
    installed.write_text("old installed\n")
    users = tmp_path / "users"
    users.write_text("root:x:0\n")
    tool(tools, "dpkg-query", f"cat {installed}")
    tool(tools, "dpkg", "")
    tool(tools, "getent", f"cat {users}")
    plan = (
        "Inst library:amd64 (2 Debian:12)\nInst old [1] (2 Debian:12)\n"
        "Inst engine (1 Debian:12)\nConf engine (1 Debian:12)"
    )
    dies = "kill -9 $PPID" if killed else ""
    tool(
        tools,
        "apt-get",
        f"""case "$*" in *-s*) echo '{plan}'; exit 0;; esac
cp {state}/packages.ours {tmp_path}/known-before
echo 'somebodys installed' >> {installed}
printf 'engine:x:998\nalice:x:1001\n' >> {users}
{dies}""",
    )
    variables = {"STATE": str(state), "KEEP_QUIET": "", "PACKAGES": "engine"}
    done = subprocess.run(
        ["sh", "-c", on_small_host("install.sh", tmp_path)],
        env={"PATH": f"{tools}:/usr/bin:/bin", **variables},
        capture_output=True,
        check=False,
    )
    assert (done.returncode != 0) == killed
    assert (tmp_path / "known-before").read_text() == "engine\nlibrary\n"
    assert (state / "packages.ours").read_text() == "engine\nlibrary\n"
    assert (state / "packages.before").read_text() == "old\n"
    if not killed:
        assert (state / "users.ours").read_text() == "engine\n"


def test_installation_first_ends_what_a_dead_one_began(tmp_path: Path) -> None:
    """Something is half configured, and dpkg is still at work once."""
    for path in ("var/lib/apt/lists", "var/cache/apt", "var/lib/dpkg/updates"):
        (tmp_path / path).mkdir(parents=True)
    tools = tmp_path / "bin"
    for name in ("dpkg-query", "getent", "sleep"):
        tool(tools, name, "")
    tool(tools, "apt-get", f'echo "apt-get $*" >> {tmp_path}/asked')
    busy = "dpkg: error: dpkg frontend lock was locked by another process with pid 7"
    tool(
        tools,
        "dpkg",
        f"""[ "$1" != --audit ] || {{ echo docker.io; exit; }}
echo "dpkg $*" >> {tmp_path}/asked
[ -e {tmp_path}/free ] || {{ touch {tmp_path}/free; echo '{busy}' >&2; exit 2; }}""",
    )
    variables = {"STATE": str(tmp_path / "state"), "KEEP_QUIET": "", "PACKAGES": "engine"}
    script = on_small_host("install.sh", tmp_path)
    subprocess.run(["sh", "-c", script], env={"PATH": f"{tools}:/usr/bin:/bin", **variables}, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[:2] == ["dpkg --configure -a"] * 2
    assert asked[-1].endswith("install --no-install-recommends engine")


def test_purge_takes_exactly_what_came_and_nothing_that_others_need(tmp_path: Path) -> None:
    """The real script against a dpkg that refuses, as the real one does, what something else depends on."""
    (tmp_path / "packages.ours").write_text("engine\nlibrary\nsudo\ngone\n")
    (tmp_path / "packages.before").write_text("sudo\n")
    (tmp_path / "users.ours").write_text("")
    (tmp_path / "groups.ours").write_text("")
    (tmp_path / "lists.before").write_text("deb_main_Packages\nauxfiles\npkgcache.bin\nsrcpkgcache.bin\n")
    tools = tmp_path / "bin"
    tools.mkdir()
    installed = tmp_path / "installed"
    installed.write_text("engine installed\nlibrary installed\nneeds-library installed\nsudo installed\n")
    (tools / "dpkg-query").write_text(f"#!/bin/sh\ncat {installed}\n")
    (tools / "dpkg").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nsed -i /^engine/d {installed}\nexit 1\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", on_small_host("purge.sh", tmp_path)],
        env={"PATH": f"{tools}:/usr/bin:/bin", "STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "asked").read_text() == "--purge engine library\n"
    assert "kept, because other packages need them: library" in done.stdout


def test_unstated_fact_is_an_error(run_role: RunRole) -> None:
    with pytest.raises(LookupError, match="place asked for Paths; state it in facts="):
        run_role(place, path="/etc/a", content=TEXT, facts={})


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage().rpartition("] ")[2] for record in caplog.records]
    return [line for line in lines if line.startswith("/")]


@pytest.fixture
def difference(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What `--diff` says."""
    monkeypatch.setattr("pyinfra.api.config.config_defaults", {**config_defaults, "DIFF": True})
    caplog.set_level("INFO", logger="pyinfra")
    return caplog


def test_preview_names_what_goes(run_role: RunRole, difference: pytest.LogCaptureFixture) -> None:
    facts = those(a=PathState(HASH, "644", "root", "root"), b=PathState("", "755", "root", "root"))
    run_role(absent, paths=("/etc/a", "/etc/b", "/etc/c"), facts=facts)
    assert said(difference) == ["/etc/a goes", "/etc/b goes with all that is in it"]


def test_preview_names_what_gets_another_owner_or_mode(
    run_role: RunRole, difference: pytest.LogCaptureFixture
) -> None:
    facts = those(a=PathState(HASH, "644", "root", "root"), b=PathState("", "755", "root", "root"))
    run_role(place, path="/etc/a", content=TEXT, mode="640", group="edge", facts=facts)
    run_role(directories, wanted=(Directory("/etc/b", "700"), Directory("/etc/c")), facts=facts)
    assert said(difference) == [
        "/etc/a goes to root:edge with mode 640",
        "/etc/b goes to root:root with mode 700",
        "/etc/c is made, of root:root with mode 755",
    ]


def test_preview_names_the_books_of_accounts(run_role: RunRole, difference: pytest.LogCaptureFixture) -> None:
    run_role(system_user, user="edge", home="/var/lib/edge", facts={User: None})
    assert said(difference)[0] == "/etc/passwd changes (the account edge)"
    assert len(said(difference)) == 4


EVERY: Any = lambda paths: {path: PathState("", "755", "root", "root") for path in paths}  # noqa: E731
STOPPED = Engine(installed=True, running=False, ours=False, supervised=False)
PACKAGE = Package(sha256="a" * 64, url="http://packages.example.com/kasmvnc.deb")
HELD = Holding(codename="bookworm", architecture="amd64", kept=frozenset({"b" * 64}))
BOOKS = {f"{STATE}/{name}.ours" for name in ("packages", "users", "groups")}
FIRST_BOOKS = {f"{STATE}/packages.before", f"{STATE}/lists.before"}
BOOT_LINKS = {
    f"/etc/systemd/system/{target}.wants/deskfleet-firewall.service"
    for target in ("sysinit.target", "nftables.service")
}


@pytest.mark.parametrize(
    ("operation", "arguments", "facts", "told"),
    [
        pytest.param(
            firewall.loaded,
            {"text": "", "address": "", "systemd": True},
            {firewall.FirewallSurroundings: firewall.Surroundings()},
            {firewall.KEPT, *BOOT_LINKS},
            id="rules that are loaded",
        ),
        pytest.param(
            firewall.removed, {}, {Paths: EVERY, HasSystemd: True}, BOOT_LINKS, id="rules that go"
        ),
        pytest.param(caddy.binary, {"source": Caddy()}, those(), {caddy.HOME}, id="Caddy's binary"),
        pytest.param(
            images.images_present,
            {"names": ("desktop",), "source": "build", "registry": "", "upstream_execd": "none"},
            {images.ImageSources: {}},
            {images.STORE},
            id="images",
        ),
        pytest.param(
            docker.remember, {}, those(), {docker.OURS, docker.BEFORE}, id="an engine of ours"
        ),
        pytest.param(
            docker.remember,
            {},
            {Paths: lambda paths: {docker.DAEMON_JSON: PathState(HASH, "644", "root", "root")}},
            {docker.OURS, docker.BEFORE, f"{docker.DAEMON_JSON}.before-deskfleet"},
            id="an engine of ours where somebody's settings lie",
        ),
        pytest.param(docker.note_network, {}, those(), {docker.BEFORE}, id="the network before"),
        pytest.param(docker.started, {}, {docker.DockerEngine: STOPPED}, {docker.STARTED}, id="Docker"),
        pytest.param(python.installer, {}, those(), {python.PIP_HOME}, id="pip"),
        pytest.param(
            python.environment,
            {"home": "/opt/deskfleet/x", "requirements": ""},
            {Text: ""},
            {"/opt/deskfleet/x"},
            id="an environment",
        ),
        pytest.param(
            packages, {"names": ("a",)}, {MissingPackages: ["a"], HasSystemd: True, Paths: EVERY}, BOOKS,
            id="packages",
        ),
        pytest.param(
            packages, {"names": ("a",)}, {MissingPackages: ["a"], HasSystemd: True, **those()},
            BOOKS | FIRST_BOOKS, id="the first packages",
        ),
        pytest.param(
            lego.obtained,
            {"names": ("a.example.com",), "server": "b"},
            {lego.ServedCertificate: lego.EdgeCertificate()},
            {EDGE_CERTIFICATE, EDGE_KEY, lego.KEPT},
            id="a certificate",
        ),
        pytest.param(
            kasmvnc.installed,
            {"package": PACKAGE},
            {KasmvncHolding: HELD, HasSystemd: True, Paths: EVERY},
            {HOME_OF_KASMVNC, *BOOKS},
            id="KasmVNC's package",
        ),
    ],
)  # fmt: skip
def test_preview_names_what_commands_of_ours_write(
    run_role: RunRole, difference: pytest.LogCaptureFixture,
    operation: Any, arguments: dict[str, Any], facts: dict[Any, Any], told: set[str],
) -> None:  # fmt: skip
    run_role(operation, facts=facts, **arguments)
    assert {line.split()[0] for line in said(difference)} == told


def test_without_a_preview_nothing_is_said(run_role: RunRole, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyinfra")
    run_role(absent, paths=("/etc/b",), facts=those(b=PathState(HASH, "644", "root", "root")))
    assert said(caplog) == []
