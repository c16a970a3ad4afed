"""The exact commands of the documentation, in processes of their own: config.py leans on pyinfra's
internals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sites import SECRET_WORDS, secrets

ROOT = Path(__file__).resolve().parent.parent
PYINFRA = Path(sys.executable).parent / "pyinfra"
FAKE_SITE = """
hosts:
  here: {groups: [edge, control, sandboxes, desktops], connect: "@fake/h1"}
desktops:
  studio: {tenant: main, host: here}
"""
# A whole roll-out on a host that answers every command with success, as a plain Python inventory.
PYTHON_INVENTORY = """
from pathlib import Path as _Path
from roles import wheel as _wheel
from tests.sites import host_config as _host_config
_wheel.wheel = lambda: _Path("deploy.py")
_wheel.sources = lambda: "sources"
_DATA = {
    "deskfleet": _host_config(),
    "fake_delay": 0,
    "fake_delay_jitter": 0,
    "fake_responses": {
        "os-release": "os debian\\nversion 12\\narchitecture x86_64\\nuid 0\\nfree_mb 90000".split("\\n"),
        "/proc/net/if_inet6": "yes",
    },
}
edge = control = sandboxes = desktops = [("@fake/h1", _DATA)]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The project as it lies in a checkout, with a `.local` of its own."""
    for name in ("config.py", "deploy.py", "inventory", "roles", "templates", "tests", "viewer"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "fake.yml").write_text(FAKE_SITE)
    (tmp_path / "plain.py").write_text(PYTHON_INVENTORY)
    return tmp_path


def pyinfra(checkout: Path, *arguments: str, site: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("DESKFLEET")}
    env |= {"PYINFRA_FAKE_DELAY": "0", "PYINFRA_FAKE_DELAY_JITTER": "0"}
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
    made = (checkout / ".local" / "secrets-local.yml").read_text()
    key = made.split("opensandbox_key: ")[1].split()[0]
    assert key not in done.stdout


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


def test_limit_that_matches_nothing_is_an_error(checkout: Path) -> None:
    done = pyinfra(checkout, "inventory", "deploy.py", "-y", "--limit", "egde")
    assert done.returncode == 1
    assert "--limit egde matches no host; known: @local" in done.stderr


def test_empty_python_inventory_is_an_error(checkout: Path) -> None:
    (checkout / "nobody.py").write_text("edge = []\n")
    done = pyinfra(checkout, "nobody.py", "deploy.py", "-y")
    assert done.returncode == 1
    assert "has no hosts" in done.stderr


def test_whole_roll_out_shows_no_secret_however_loud(checkout: Path) -> None:
    done = pyinfra(checkout, "plain.py", "deploy.py", "-y", "-vvv", "--diff", "--debug")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Check | Create, see and end a desktop" in done.stderr
    assert "+\tadmin unix//run/deskfleet/caddy/admin.sock|0600" in done.stderr
    assert "/etc/deskfleet/viewer.toml changes (its content is not shown)" in done.stderr
    assert_no_secret_in(done)


def test_json_shows_no_secret(checkout: Path) -> None:
    done = pyinfra(checkout, "plain.py", "deploy.py", "-y", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    names = [operation["name"] for operation in json.loads(done.stdout)["results"]["operations"]]
    # An operation without a name would be shown with its arguments.
    assert [name for name in names if "(" in name and " | " not in name] == []
    assert_no_secret_in(done)


def test_removal_runs_through(checkout: Path) -> None:
    done = pyinfra(checkout, "plain.py", "deploy.py", "-y", "--json", "--data", "deskfleet_state=absent")
    assert done.returncode == 0, done.stderr[-3000:]
    names = [operation["name"] for operation in json.loads(done.stdout)["results"]["operations"]]
    assert names[-1] == "Foundation away | Remove all directories of ours"


def assert_no_secret_in(done: subprocess.CompletedProcess[str]) -> None:
    made = secrets()
    for word in (*SECRET_WORDS, made.relay_key.get_secret_value(), made.viewer_key.get_secret_value()):
        assert word not in done.stdout
        assert word not in done.stderr
