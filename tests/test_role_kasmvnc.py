"""KasmVNC's package: which one, whence, and what happens where it can't be had."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.deploy import deploy
from pyinfra.context import host

from inventory.models import Backend, Kasmvnc
from roles import kasmvnc as kasmvnc_role
from roles.backends import (
    Chosen,
    Holding,
    KasmvncHolding,
    NoPackage,
    Obstacle,
    backends_of,
    obstacle,
    package_for,
    problems_of_desktops,
)
from roles.choice import Chosen as ChosenRoles
from roles.facts import HasSystemd, MissingPackages, Paths
from roles.files import directories
from roles.preflight import Database, DatabaseState, HostSituation, PreflightFailed, Situation, preflight
from tests.fake_kasmvnc import hash_password
from tests.role_runner import RunRole, changes
from tests.test_role_desktops import OWN, with_studio

SCRIPTS = Path(__file__).parent.parent / "templates" / "kasmvnc"
BOOKWORM = Holding(codename="bookworm", architecture="amd64")
RELEASE = package_for(Kasmvnc(), BOOKWORM)
NOWHERE = "Could not resolve 'github.com'"


def test_every_known_system_has_a_package_of_its_own() -> None:
    pairs = [
        (codename, arch)
        for codename in ("bookworm", "trixie", "noble", "jammy")
        for arch in ("amd64", "arm64")
    ]
    packages = [package_for(Kasmvnc(), Holding(codename=c, architecture=a)) for c, a in pairs]
    assert len({package.sha256 for package in packages}) == len(pairs)
    assert all(re.fullmatch("[0-9a-f]{64}", package.sha256) for package in packages)
    assert str(RELEASE.url).endswith("/v1.5.0/kasmvncserver_bookworm_1.5.0_amd64.deb")
    assert RELEASE.sha256.startswith("770fd3df")


def test_unknown_system_is_told_which_ones_are_known() -> None:
    with pytest.raises(
        NoPackage, match=r"for bookworm riscv64, only for bookworm amd64, bookworm arm64, .*jammy"
    ):
        package_for(Kasmvnc(), Holding(codename="bookworm", architecture="riscv64"))


def test_package_of_ones_own_serves_any_system() -> None:
    own = Kasmvnc(url="http://packages.example.com/kasmvnc.deb", sha256=OWN)
    package = package_for(own, Holding(codename="sid", architecture="riscv64"))
    assert (package.url, package.sha256) == (own.url, OWN)


def test_look_reads_what_a_host_has() -> None:
    found = KasmvncHolding().process(
        ["system bookworm amd64", f"installed {OWN}", f"kept {OWN}", "decided tigervnc no way: there"]
    )
    assert found == Holding(
        codename="bookworm", architecture="amd64", installed=OWN, kept=frozenset({OWN}),
        decision=Chosen(Backend.TIGERVNC, "no way: there"),
    )  # fmt: skip


# --- the role's commands


def kasmvnc_facts(holding: Holding, *, missing: tuple[str, ...] = (), obstacle: str = "") -> dict[Any, Any]:
    def paths(paths: tuple[str, ...]) -> dict[str, Any]:
        return {}

    return {
        KasmvncHolding: holding, MissingPackages: list(missing), HasSystemd: True, Obstacle: obstacle,
        Paths: paths,
    }  # fmt: skip


def commands_of(run_role: RunRole, holding: Holding, **settings: Any) -> dict[str, list[Any]]:
    config = with_studio(backend="kasmvnc", **settings)
    return dict(changes(run_role(kasmvnc_role.kasmvnc, facts=kasmvnc_facts(holding), config=config)))


def test_fresh_host_fetches_checks_installs_and_notes_the_package(run_role: RunRole) -> None:
    commands = commands_of(run_role, BOOKWORM)["KasmVNC | Install KasmVNC"]
    fetch, accept, install, mark = commands
    kept = "/opt/deskfleet/kasmvnc/770fd3df5151.deb"
    assert fetch.splitlines()[0] == f"URL={RELEASE.url} SHA256={RELEASE.sha256} NEW={kept}.new"
    assert accept.splitlines()[0] == f"SHA256={RELEASE.sha256} NEW={kept}.new PATH_KEPT={kept}"
    assert accept.index("sha256sum -c") < accept.index("mv -fT")
    assert f"PACKAGES='{kept}' OPTIONS='--reinstall --allow-downgrades'" in install
    assert "--no-install-recommends" in install
    assert mark.startswith(f"echo {RELEASE.sha256} $(dpkg-query")


def test_installed_package_costs_looks_only(run_role: RunRole) -> None:
    holding = BOOKWORM.model_copy(update={"installed": RELEASE.sha256})
    assert "KasmVNC | Install KasmVNC" not in commands_of(run_role, holding)


def test_kept_package_is_not_fetched_again(run_role: RunRole) -> None:
    holding = BOOKWORM.model_copy(update={"kept": frozenset({RELEASE.sha256})})
    commands = commands_of(run_role, holding)["KasmVNC | Install KasmVNC"]
    assert not any("URL=" in command for command in commands)
    assert len(commands) == 2


def test_another_hash_is_fetched_and_installed_over_what_is_there(run_role: RunRole) -> None:
    holding = BOOKWORM.model_copy(update={"installed": RELEASE.sha256, "kept": frozenset({RELEASE.sha256})})
    own = {"url": "http://packages.example.com/kasmvnc.deb", "sha256": OWN}
    commands = commands_of(run_role, holding, kasmvnc=own)["KasmVNC | Install KasmVNC"]
    assert commands[0].startswith(f"URL={own['url']} SHA256={OWN} ")
    assert "--allow-downgrades" in commands[2]


def test_own_file_is_uploaded_from_the_operators_machine(run_role: RunRole, tmp_path: Path) -> None:
    file = tmp_path / "kasmvnc.deb"
    file.write_bytes(b"a package")
    own = {"file": str(file), "sha256": hashlib.sha256(b"a package").hexdigest()}
    commands = commands_of(run_role, BOOKWORM, kasmvnc=own)["KasmVNC | Install KasmVNC"]
    assert commands[0] == ("put", f"/opt/deskfleet/kasmvnc/{own['sha256'][:12]}.deb.new", str(file))
    assert "sha256sum -c" in commands[1]


def test_host_without_kasmvnc_desktops_gets_nothing_of_it(run_role: RunRole) -> None:
    for config, holding in (
        (with_studio(backend="tigervnc"), None),
        (with_studio(backend="kasmvnc-or-tigervnc"), BOOKWORM),
    ):
        facts = kasmvnc_facts(holding, obstacle=NOWHERE) if holding else {}
        assert run_role(kasmvnc_role.kasmvnc, facts=facts, config=config) == []


# --- the choice


@pytest.fixture
def asking(run_role: RunRole, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls a function of the choice as the deploy does; `asked` of the result lists the facts asked for."""

    def ask(function: Callable[[Any], Any], config: Any, facts: dict[Any, Any], **data: str) -> Any:
        answers: list[Any] = []

        def role() -> None:
            for key, value in data.items():
                setattr(host.data, key, value)
            found = function(config)
            answers.append(found if isinstance(found, dict) else list(found))
            directories(name="nothing", wanted=())

        run_role(deploy("Ask")(role), facts={**facts, Paths: {}})
        return answers[0]

    return ask


class Asked:
    """A stated fact that counts how often it is asked for."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.times = 0

    def __call__(self, **arguments: Any) -> Any:
        self.times += 1
        return self.answer


def test_kasmvnc_that_cannot_be_had_is_refused_with_one_sentence(asking: Any) -> None:
    config = with_studio(backend="kasmvnc")
    (problem,) = asking(problems_of_desktops, config, kasmvnc_facts(BOOKWORM, obstacle=NOWHERE))
    assert problem == (
        f"desktop studio: KasmVNC's package can't be had from {RELEASE.url}: {NOWHERE};"
        " give settings.kasmvnc.file (or url) with its sha256, or set backend: tigervnc"
    )


def test_preflight_stops_the_roll_out_with_it(asking: Any) -> None:
    situation = Situation(
        os="debian", version="12", architecture="x86_64", uid=0, free_mb=50_000, installed=False, listeners=()
    )
    facts = kasmvnc_facts(BOOKWORM, obstacle=NOWHERE) | {HostSituation: situation, DatabaseState: Database()}

    def checked(config: Any) -> list[str]:
        preflight(config=config, chosen=ChosenRoles(None))
        return []

    assert asking(checked, with_studio(backend="kasmvnc-or-tigervnc"), facts) == []
    with pytest.raises(
        PreflightFailed, match="nothing was changed:\nhere: desktop studio: KasmVNC's package"
    ):
        asking(checked, with_studio(backend="kasmvnc"), facts)


def test_kasmvnc_that_can_be_had_is_no_problem(asking: Any) -> None:
    config = with_studio(backend="kasmvnc")
    assert asking(problems_of_desktops, config, kasmvnc_facts(BOOKWORM)) == []


@pytest.mark.parametrize("known", [{"installed": RELEASE.sha256}, {"kept": frozenset({RELEASE.sha256})}])
def test_what_the_host_has_is_not_asked_for_on_the_network(asking: Any, known: dict[str, Any]) -> None:
    facts = kasmvnc_facts(BOOKWORM.model_copy(update=known))
    del facts[Obstacle]
    config = with_studio(backend="kasmvnc")
    assert asking(problems_of_desktops, config, facts) == []


def test_network_is_asked_once_in_a_roll_out(asking: Any) -> None:
    obstacle = Asked(NOWHERE)
    facts = kasmvnc_facts(BOOKWORM) | {Obstacle: obstacle}
    config = with_studio(backend="kasmvnc-or-tigervnc")

    def everything(config: Any) -> Any:
        return [list(problems_of_desktops(config)), backends_of(config), backends_of(config)]

    problems, first, second = asking(everything, config, facts)
    assert problems == []
    assert first == second
    assert first["studio"].backend == "tigervnc"
    assert obstacle.times == 1


def noted(backend: str) -> Holding:
    chosen = Chosen(Backend(backend), "said then")  # type: ignore[arg-type]
    return BOOKWORM.model_copy(update={"decision": chosen})


def test_choice_that_was_made_is_not_made_again(asking: Any) -> None:
    """Although the package could be had by now; and no network is asked."""
    facts = kasmvnc_facts(noted("tigervnc"))
    del facts[Obstacle]
    config = with_studio(backend="kasmvnc-or-tigervnc")
    assert asking(backends_of, config, facts) == {"studio": Chosen(Backend.TIGERVNC, "said then")}
    assert asking(problems_of_desktops, config, facts) == []


def test_operator_can_have_the_choice_made_again(asking: Any) -> None:
    config = with_studio(backend="kasmvnc-or-tigervnc")
    found = asking(backends_of, config, kasmvnc_facts(noted("tigervnc")), deskfleet_kasmvnc="retry")
    assert found["studio"].backend == "kasmvnc"


def test_choice_for_kasmvnc_binds_as_the_site_file_would(asking: Any) -> None:
    """The package is gone and can't be had: nothing falls back to the other server."""
    config = with_studio(backend="kasmvnc-or-tigervnc")
    facts = kasmvnc_facts(noted("kasmvnc"), obstacle=NOWHERE)
    (problem,) = asking(problems_of_desktops, config, facts)
    assert NOWHERE in problem


def test_word_that_means_nothing_is_refused(asking: Any) -> None:
    config = with_studio(backend="tigervnc")
    (problem,) = asking(problems_of_desktops, config, {}, deskfleet_kasmvnc="again")
    assert problem == "--data deskfleet_kasmvnc=again means nothing; the one word it knows is `retry`"


def test_system_without_a_package_falls_back_where_that_is_allowed(asking: Any) -> None:
    strange = Holding(codename="sid", architecture="riscv64")
    config = with_studio(backend="kasmvnc-or-tigervnc")
    (chosen,) = asking(backends_of, config, kasmvnc_facts(strange)).values()
    assert chosen.backend == "tigervnc"
    assert "no known package for sid riscv64" in chosen.reason
    (problem,) = asking(problems_of_desktops, with_studio(backend="kasmvnc"), kasmvnc_facts(strange))
    assert "only for bookworm amd64" in problem


@pytest.mark.parametrize("backend", ["kasmvnc", "kasmvnc-or-tigervnc"])
def test_own_file_that_is_missing_is_refused_whatever_the_backend(asking: Any, backend: str) -> None:
    config = with_studio(backend=backend, kasmvnc={"file": "/nowhere/kasmvnc.deb", "sha256": OWN})
    (problem,) = asking(problems_of_desktops, config, kasmvnc_facts(BOOKWORM))
    assert problem.startswith(
        "desktop studio: settings.kasmvnc.file: /nowhere/kasmvnc.deb: No such file or directory;"
    )


def test_own_file_with_another_hash_is_refused(asking: Any, tmp_path: Path) -> None:
    file = tmp_path / "kasmvnc.deb"
    file.write_bytes(b"something else")
    config = with_studio(backend="kasmvnc", kasmvnc={"file": str(file), "sha256": OWN})
    (problem,) = asking(problems_of_desktops, config, kasmvnc_facts(BOOKWORM))
    assert f"has the sha256 {hashlib.sha256(b'something else').hexdigest()}, not {OWN}" in problem


# --- the download, by apt's own downloader from a server of this test


CONTENT = b"the package\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """/whole, /moved (leads there), /cut (half of it), /slow (for ever), /silent (no answer), else 404."""

    def do_GET(self) -> None:
        kind = self.path.removeprefix("/").partition("?")[0]
        if kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/whole?sig=a%2Bb%2Fc%3D")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if kind == "silent":
            time.sleep(4)
            return
        if kind not in ("whole", "cut", "slow"):
            self.send_error(404)
            return
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if kind == "whole" else CONTENT[:5000])
        self.close_connection = True
        while kind == "slow":
            try:
                self.wfile.write(b"x")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.2)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.daemon_threads = True
        running.asked = []  # type: ignore[attr-defined]
        running.block_on_close = False
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


def address(server: ThreadingHTTPServer, kind: str) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{kind}"


def run_script(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a host runs it, with sh and root's or anybody's own rights."""
    return subprocess.run(
        ["sh", "-c", text], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def tried(url: str, sha256: str = SHA256) -> str:
    script = Obstacle().command(url=url, sha256=sha256)
    assert "timeout 10 " in script
    done = run_script(script.replace("timeout 10 ", "timeout 2 "))
    assert done.returncode == 0
    return Obstacle().process((done.stdout + done.stderr).splitlines())


@pytest.mark.parametrize("kind", ["whole", "moved"])
def test_package_that_is_there_can_be_had(server: ThreadingHTTPServer, kind: str) -> None:
    assert tried(address(server, kind)) == ""


def test_redirection_keeps_its_signature_as_it_is(server: ThreadingHTTPServer) -> None:
    """Release hosts redirect to signed addresses; one that decodes and encodes them anew breaks the sign."""
    tried(address(server, "moved"))
    assert server.asked == ["/whole?sig=a%2Bb%2Fc%3D"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "sha256", "why"),
    [
        ("none", SHA256, "404 Not Found"),
        ("whole", OWN, "the file there has another sha256"),
        ("cut", SHA256, "Undetermined Error"),
    ],
)
def test_package_that_cannot_be_had_says_why(
    server: ThreadingHTTPServer, kind: str, sha256: str, why: str
) -> None:
    assert tried(address(server, kind), sha256) == why


def test_closed_port_says_so_at_once() -> None:
    started = time.monotonic()
    assert "Could not connect to 127.0.0.1:9" in tried("http://127.0.0.1:9/package.deb")
    assert time.monotonic() - started < 5


def test_silent_server_is_given_up(server: ThreadingHTTPServer) -> None:
    started = time.monotonic()
    assert tried(address(server, "silent")) == "no answer within 10 s"
    assert 1.9 < time.monotonic() - started < 5


def test_slow_server_is_given_time_as_the_package_comes(server: ThreadingHTTPServer) -> None:
    assert tried(address(server, "slow")) == ""


def test_try_leaves_nothing_behind(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    script = f"TMPDIR={tmp_path}; export TMPDIR\n" + Obstacle().command(
        url=address(server, "whole"), sha256=SHA256
    )
    tmp_path.chmod(0o777)
    run_script(script)
    assert list(tmp_path.iterdir()) == []


def test_own_address_may_be_a_file_on_the_host(tmp_path: Path) -> None:
    package = tmp_path / "package.deb"
    package.write_bytes(CONTENT)
    assert tried(f"file://{package}") == ""
    assert tried(f"file://{package}", OWN) == "the file there has another sha256"
    assert "No such file" in tried(f"file://{package}.gone")


@pytest.mark.parametrize(
    ("kind", "sha256", "comes"),
    [("whole", SHA256, True), ("moved", SHA256, True), ("whole", OWN, False), ("cut", SHA256, False),
     ("none", SHA256, False)],
)  # fmt: skip
def test_download_is_whole_and_right_or_not_there(
    server: ThreadingHTTPServer, tmp_path: Path, kind: str, sha256: str, comes: bool
) -> None:
    new = tmp_path / "package.deb.new"
    script = (SCRIPTS / "fetch.sh").read_text().replace("Retries=2", "Retries=0")
    done = run_script(script, URL=address(server, kind), SHA256=sha256, NEW=str(new))
    assert (done.returncode == 0) == comes
    assert new.exists() == comes
    if comes:
        assert new.read_bytes() == CONTENT


def make_package(folder: Path, name: str = "kasmvncserver") -> Path:
    control = folder / name / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nDescription: x\n"
        "Maintainer: Tests <tests@example.com>\n"
    )
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", folder / name], check=True, capture_output=True
    )
    return folder / f"{name}.deb"


def accepted(new: Path, sha256: str) -> subprocess.CompletedProcess[str]:
    kept = new.with_name("kept.deb")
    return run_script((SCRIPTS / "accept.sh").read_text(), NEW=str(new), PATH_KEPT=str(kept), SHA256=sha256)


def test_package_takes_its_name_once_its_hash_is_right(tmp_path: Path) -> None:
    new = make_package(tmp_path)
    content = new.read_bytes()
    assert accepted(new, hashlib.sha256(content).hexdigest()).returncode == 0
    assert (tmp_path / "kept.deb").read_bytes() == content
    assert not new.exists()


@pytest.mark.parametrize("name", ["kasmvncserver", "something-else"])
def test_wrong_file_is_refused_and_removed(tmp_path: Path, name: str) -> None:
    new = make_package(tmp_path, name)
    right = hashlib.sha256(new.read_bytes()).hexdigest()
    done = accepted(new, OWN if name == "kasmvncserver" else right)
    assert done.returncode != 0
    assert ("has not the sha256" if name == "kasmvncserver" else "but 'something-else'") in done.stderr
    assert not new.exists()
    assert not (tmp_path / "kept.deb").exists()


def test_reason_is_half_a_sentence_without_addresses_of_machines() -> None:
    said = (
        "Err:1 http://x/y\n  404  Not Found [IP: 10.0.0.1 80]\n"
        "E: Failed to fetch http://x/y  404  Not Found [IP: 10.0.0.1 80]\nE: Download Failed"
    )
    assert obstacle(said) == "404 Not Found"


# --- the owner


ME = pwd.getpwuid(os.getuid()).pw_name
"""Whose the homes of these tests are."""


def set_owner(tmp_path: Path, password: str, users: str | None, *, meanwhile: str = "") -> str:
    """Run owner.sh on a home with these users; returns the file afterwards. meanwhile: a program that goes
    before owner.py."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    if users is not None:
        (home / ".kasmpasswd").write_text(users)
    (tmp_path / "key").write_text(f"{password}\n")
    done = run_script(
        (SCRIPTS / "owner.sh").read_text(), PROGRAM=meanwhile + (SCRIPTS / "owner.py").read_text(),
        OWNER="owner", USER=ME, HOME_OF=str(home), KEY=str(tmp_path / "key"), STAMP="stamp",
        NOTED=str(tmp_path / "noted"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "key").exists()
    return (home / ".kasmpasswd").read_text()


def test_owner_has_the_hash_that_kasmvnc_makes_itself(tmp_path: Path) -> None:
    assert set_owner(tmp_path, "a password", None) == f"owner:{hash_password('a password')}:rwo\n"
    assert (tmp_path / "home" / ".kasmpasswd").stat().st_mode & 0o777 == 0o600


def test_users_of_streams_stay_when_the_owner_changes(tmp_path: Path) -> None:
    others = "s-one:$5$kasm$aaa:r\ns-two:$5$kasm$bbb:rw\nowner-of-old:$5$kasm$ccc:r\n"
    found = set_owner(tmp_path, "new password", f"owner:$5$kasm$old:rwo\n{others}")
    assert found.endswith(others)
    assert found.count("\n") == 4
    assert "$old" not in found


KASMVNC_WRITES = """
import os
def interfere(name, when, users, times):
    call, left = getattr(os, name), [times]
    def instead(*args, **more):
        if when == "before": kasmvnc(users, left)
        answer = call(*args, **more)
        if when == "after": kasmvnc(users, left)
        return answer
    setattr(os, name, instead)
def kasmvnc(users, left):
    if left[0] > 0:
        left[0] -= 1
        file = os.path.join(os.environ["HOME_OF"], ".kasmpasswd")
        with open(file + ".tmp", "w") as stream: stream.write(users + "#" * left[0])
        os.replace(file + ".tmp", file)
interfere(NAME, WHEN, USERS, TIMES)
"""
OLD_OWNER, SOMEBODY = "owner:$5$kasm$old:rwo\n", "s-one:$5$kasm$aaa:r\n"


@pytest.mark.parametrize(
    ("name", "when"), [("fchown", "before"), ("rename", "after")], ids=["while we write", "right after us"]
)
@pytest.mark.parametrize("times", [1, 99], ids=["once", "without end"])
def test_stream_user_that_comes_meanwhile_stays(tmp_path: Path, name: str, when: str, times: int) -> None:
    """KasmVNC had read the list before, and puts it in place with somebody more."""
    program = KASMVNC_WRITES.replace("USERS", repr(OLD_OWNER + SOMEBODY)).replace("TIMES", str(times))
    program = program.replace("NAME", repr(name)).replace("WHEN", repr(when))
    found = set_owner(tmp_path, "new password", OLD_OWNER, meanwhile=program)
    assert SOMEBODY in found
    if times == 1:
        assert found == f"owner:{hash_password('new password')}:rwo\n{SOMEBODY}"
    assert [path.name for path in (tmp_path / "home").iterdir()] == [".kasmpasswd"]


@pytest.mark.parametrize("mischief", ["a link", "a pipe", "a folder", "a socket", "no end"])
def test_what_is_in_the_homes_way_is_neither_followed_nor_waited_for(tmp_path: Path, mischief: str) -> None:
    """Root does it, in a folder whose owner may put there what he likes."""
    foreign = tmp_path / "foreign"
    foreign.write_text("secret:of:others\n")
    home = tmp_path / "home"
    home.mkdir()
    place_mischief(home / ".kasmpasswd", mischief, foreign)
    started = time.monotonic()
    assert set_owner(tmp_path, "a password", None) == f"owner:{hash_password('a password')}:rwo\n"
    assert time.monotonic() - started < 4
    assert foreign.read_text() == "secret:of:others\n"
    left = [path.name for path in home.iterdir() if not path.name.endswith(".aside")]
    assert left == [".kasmpasswd"]
    if mischief == "a folder":
        (aside,) = home.glob("*.aside")
        assert (aside / "kept").read_text() == "mine"


def place_mischief(path: Path, kind: str, foreign: Path) -> None:
    if kind == "a link":
        path.symlink_to(foreign)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
        (path / "kept").write_text("mine")
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes files of others")
def test_file_of_another_user_is_not_read(tmp_path: Path) -> None:
    """A hard link to it, where the kernel allows one."""
    set_owner(tmp_path, "a password", "s-one:$5$kasm$aaa:r\n")
    os.chown(tmp_path / "home" / ".kasmpasswd", 65534, 65534)
    assert state_of_owner(tmp_path) == ""
    assert "s-one" not in set_owner(tmp_path, "a password", None)


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes files of others")
def test_home_that_is_not_its_users_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    with pytest.raises(AssertionError, match="is not its user's"):
        set_owner(tmp_path, "a password", None)
    assert list(home.iterdir()) == []


def test_nothing_runs_as_a_desktops_user_but_inside_of_it() -> None:
    """His programs may attach to whatever runs as him, and are where that is."""
    templates = SCRIPTS.parent
    texts = {path: path.read_text() for path in templates.rglob("*") if path.is_file()}
    texts |= {path: path.read_text() for path in Path("roles").glob("*.py")}
    becoming = re.compile(r"runuser|setpriv|\bsu -|sudo -u|setuid\(|--reuid")
    found = {path.name for path, text in texts.items() if becoming.search(text)}
    # Caddy's and the viewer's own users, capabilities; and the session, once it has shut itself in.
    assert found == {"caddy.py", "up.py", "units.py", "session.sh.j2"}


def state_of_owner(tmp_path: Path) -> str:
    command = kasmvnc_role.OwnerState().command(
        user=ME, home=str(tmp_path / "home"), noted=str(tmp_path / "noted")
    )
    done = run_script(command)
    assert done.returncode == 0, done.stderr
    return kasmvnc_role.OwnerState().process(done.stdout.splitlines())


def test_owner_is_known_again_whoever_came_and_went_beside_him(tmp_path: Path) -> None:
    assert state_of_owner(tmp_path) == ""
    text = set_owner(tmp_path, "a password", None)
    passwords = tmp_path / "home" / ".kasmpasswd"
    assert state_of_owner(tmp_path) == "stamp"
    passwords.write_text(f"s-one:$5$kasm$aaa:r\n{text}s-two:$5$kasm$bbb:rw\n")
    assert state_of_owner(tmp_path) == "stamp"


@pytest.mark.parametrize(
    "mischief", ["another hash", "no line", "no file", "a pipe", "a folder", "no end", "no home"]
)
def test_owner_who_was_tampered_with_is_set_anew(tmp_path: Path, mischief: str) -> None:
    text = set_owner(tmp_path, "a password", None)
    passwords = tmp_path / "home" / ".kasmpasswd"
    passwords.unlink()
    if mischief == "another hash":
        passwords.write_text(text.replace(":rwo", ":r"))
    elif mischief == "no line":
        passwords.write_text("s-one:$5$kasm$aaa:r\n")
    elif mischief == "no home":
        passwords.parent.rmdir()
    elif mischief != "no file":
        place_mischief(passwords, mischief, tmp_path / "foreign")
    started = time.monotonic()
    assert state_of_owner(tmp_path) == ""
    assert time.monotonic() - started < 4
