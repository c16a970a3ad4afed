"""`make up` around pyinfra: what the person who waits sees, and what lies in `.local` afterwards."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from roles import up
from roles.down import forget, remove
from roles.progress import Progress, follow
from roles.up import failure, summary, write_environment
from roles.wheel import WheelNotBuilt
from tests.sites import SECRET_WORDS, secrets, site

SAID = """\
--> Connecting to hosts...
--> Starting operation: Docker | Install Docker
[@local] Unpacking runc ...
    [@local] Success

--> Starting operation: Docker | Make the sandboxes' network
    [@local] No changes

--> Starting operation: Caddy | Write Caddyfile
[@local] Error: adapting config: unrecognized directive: revers_proxy
    [@local] Error: executed 3 commands
""".splitlines()


def watched(step_seconds: float = 2.0) -> tuple[Progress, str]:
    out = io.StringIO()
    progress = Progress(out)
    now = 100.0
    for line in SAID:
        progress.line(line, now)
        now += step_seconds
        progress.show(now)
    progress.finish(now)
    return progress, out.getvalue()


def test_every_step_is_named_with_its_seconds() -> None:
    progress, shown = watched()
    assert "     8.0 s  Docker | Install Docker: done\n" in shown
    assert "     6.0 s  Docker | Make the sandboxes' network: as it was\n" in shown
    assert progress.changes == 1
    assert progress.table().splitlines() == [
        "Time of each step:", "    14.0 s  Docker", "     4.0 s  Caddy",
    ]  # fmt: skip


def test_long_step_is_seen_to_move() -> None:
    _, shown = watched(step_seconds=12.0)
    assert "    24.0 s  … Docker | Install Docker: Unpacking runc ...\n" in shown


def test_failed_step_shows_the_words_of_what_failed() -> None:
    progress, shown = watched()
    assert "Caddy | Write Caddyfile: failed\n      Error: adapting config: unrecognized directive" in shown
    for line in (
        "--> Hosts:",
        "    @local  failed at 'Caddy | Write Caddyfile'",
        "    Note: it is late",
        "--> x",
    ):
        progress.line(line, 0.0)
    assert failure(progress) == "The roll-out stopped at: Caddy | Write Caddyfile."
    assert len(progress.report) == 3


def test_obstacle_found_by_preflight_is_said_without_pyinfras_frame() -> None:
    progress = Progress(io.StringIO())
    for line in (
        "--> Connecting to hosts...",
        "    [@local] Connected",
        "--> pyinfra error in /x/roles/preflight.py line 8: nothing was changed:",
        "here: port 8088 is taken by nginx (pid 9)",
    ):
        progress.line(line, 0.0)
    assert failure(progress).splitlines() == [
        "nothing was changed:",
        "here: port 8088 is taken by nginx (pid 9)",
        "The roll-out stopped before its first step.",
    ]


def test_exit_code_of_the_command_is_kept() -> None:
    progress = Progress(io.StringIO())
    script = "import sys; print('--> Starting operation: One', flush=True); sys.exit(3)"
    assert follow([sys.executable, "-c", script], progress, env=dict(os.environ)) == 3
    assert [step.name for step in progress.steps] == ["One"]


def test_build_inherits_no_secret_and_the_roll_out_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESKFLEET_SECRETS", "all of them")
    monkeypatch.setenv("GANDIV5_API_KEY", "given-by-hand")
    made = secrets().model_copy(update={"given": {"GANDIV5_API_KEY": SecretStr("given-by-hand")}})
    seen: list[dict[str, str]] = []

    def failing_build() -> Path:
        seen.append(dict(os.environ))
        raise WheelNotBuilt("no network")

    monkeypatch.setattr(up, "wheel", failing_build)
    with pytest.raises(WheelNotBuilt):
        up._build(made)
    assert not {"DESKFLEET_SECRETS", "GANDIV5_API_KEY"} & set(seen[0])
    assert "PATH" in seen[0]
    assert (os.environ["DESKFLEET_SECRETS"], os.environ["GANDIV5_API_KEY"]) == (
        "all of them",
        "given-by-hand",
    )


def test_environment_file_is_private_and_complete(tmp_path: Path) -> None:
    path = tmp_path / ".local" / "deskfleet.env"
    for _ in range(2):
        write_environment(site().settings, secrets(), tenant="main", path=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().splitlines() == [
        "DESKFLEET_URL=http://localhost:8088",
        f"DESKFLEET_ADMIN_KEY={SECRET_WORDS[1]}",
        "DESKFLEET_TENANT=main",
        f"DESKFLEET_KEY={SECRET_WORDS[2]}",
    ]
    assert [file.name for file in path.parent.iterdir()] == ["deskfleet.env"]


def test_summary_says_where_and_how_to_get_in() -> None:
    text = summary(site().settings, link="http://deskfleet.localhost:8088/signin#token=t", changes=0)
    assert "Deskfleet runs at http://deskfleet.localhost:8088  (no changes)" in text
    assert "/signin#token=t" in text
    assert "ssh -L 8088:127.0.0.1:8088" in text


def test_site_with_tls_needs_no_tunnel() -> None:
    text = summary(site(domain="desk.example.com", tls="internal").settings, link=None, changes=3)
    assert "ssh -L" not in text
    assert ".local/deskfleet.env" in text


def test_down_forgets_its_site_and_keeps_the_secrets_of_others(tmp_path: Path) -> None:
    local = tmp_path / ".local"
    (local / "dist").mkdir(parents=True)
    for name in ("secrets-local.yml", "secrets-acme.yml", "deskfleet.env"):
        (local / name).write_text("x")
    forget(local, site="local")
    assert [path.name for path in local.iterdir()] == ["secrets-acme.yml"]
    forget(local, site="acme")
    assert not local.exists()


def test_down_keeps_the_ways_in_to_a_running_fleet(tmp_path: Path) -> None:
    local = tmp_path / ".local"
    (local / "fleet").mkdir(parents=True)
    for name in ("fleet/ssh.key", "fleet.env", "secrets-local.yml"):
        (local / name).write_text("x")
    forget(local, site="local")
    assert sorted(path.relative_to(local).as_posix() for path in local.rglob("*")) == [
        "fleet", "fleet.env", "fleet/ssh.key",
    ]  # fmt: skip


def test_down_names_what_is_not_ours_to_remove_and_takes_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `make fleet` left it when root made it: a folder in which this person may change nothing."""
    local = tmp_path / ".local"
    for name in ("dist", "npm", "fleet"):
        (local / name).mkdir(parents=True)
    really = shutil.rmtree

    def rmtree(path: Path, *, ignore_errors: bool = False) -> None:
        if path.name != "dist":
            really(path)
        elif not ignore_errors:
            raise PermissionError(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert not forget(local, site="local")
    dist = local / "dist"
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == [f"Not yours to remove, so it stays: {dist}; take it away with sudo rm -rf {dist}"]
    assert sorted(path.name for path in local.iterdir()) == ["dist", "fleet"]
    assert remove(tmp_path / "never-made")
