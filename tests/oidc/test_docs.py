"""docs/oidc.md: what it has the reader write and type, against a real provider."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from inventory.models import HostConfig, Site
from inventory.site_file import load_site
from roles.viewer import SECRETS, viewer_toml
from tests.oidc.provider_process import CLIENT_SECRET, ProviderProcess
from tests.sites import secrets
from viewer.migrations import upgrade
from viewer.oidc.failures import Reason

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "oidc.md").read_text()
ISSUER = "https://login.example.com"
ADMIN = "sudo /opt/deskfleet/viewer/bin/deskfleet-admin"
HOSTS = {"here": {"groups": ["edge", "control", "sandboxes", "desktops"], "connect": "@fake/here"}}


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in found]


def typed(beginning: str) -> str:
    """The one line of a shell block, or of the text, that begins so."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", PAGE)
    (line,) = [line for line in lines if line.startswith(beginning)]
    return line


def run(line: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DESKFLEET")}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder, env={**kept, "PYTHONPATH": str(ROOT), **more}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture
def site(there: ProviderProcess) -> dict[str, Any]:
    (block,) = blocks("yaml")
    data: dict[str, Any] = yaml.safe_load(block.replace(ISSUER, there.issuer))
    return {**data, "hosts": HOSTS}


@pytest.fixture
def control(tmp_path: Path, site: dict[str, Any]) -> dict[str, str]:
    """The environment of a control host where the page's site file was rolled out."""
    given = {"OIDC_CLIENT_SECRET": SecretStr(CLIENT_SECRET)}
    known = secrets().model_copy(update={"given": given})
    text = viewer_toml(HostConfig(name="here", site=Site.model_validate(site), secrets=known))
    database = tmp_path / "deskfleet.db"
    text = text.replace(f"{SECRETS}/oidc.key", str(tmp_path / "oidc.key"))
    text = re.sub(r"^database = .*$", f"database = {json.dumps(str(database))}", text, flags=re.MULTILINE)
    (tmp_path / "oidc.key").write_text(f"{CLIENT_SECRET}\n")
    (tmp_path / "viewer.toml").write_text(text)
    upgrade(database)
    return {"DESKFLEET_SETTINGS": str(tmp_path / "viewer.toml")}


def test_issuer_is_read_off_the_provider(there: ProviderProcess, tmp_path: Path) -> None:
    done = run(typed("curl").replace(ISSUER, there.issuer), tmp_path)
    assert done.stdout.strip() == f'"issuer": "{there.issuer}",'


def test_secret_is_taken_from_the_environment_and_replaced_from_there(
    site: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "inventory", tmp_path / "inventory")
    (tmp_path / "inventory" / "acme.yml").write_text(yaml.safe_dump(site))
    assert load_site(tmp_path / "inventory" / "acme.yml").given == {
        "settings.oidc.client_secret": ("OIDC_CLIENT_SECRET",)
    }
    keys = f"{sys.executable} -m inventory.keys"
    rotate = typed(".venv/bin/python -m inventory.keys rotate").replace(".venv/bin/python", sys.executable)
    own = {"DESKFLEET_SITE": "acme", "PYTHONPATH": str(tmp_path)}
    missing = run(f"{keys} list", tmp_path, **own)
    assert "no value is known for OIDC_CLIENT_SECRET" in missing.stderr
    # As the page's `read -rs … && export …` leaves it.
    line = f"{typed('read -rs')}; {keys} list"
    done = run(f"printf '%s\\n' first | {{ {line}; }}", tmp_path, **own)
    assert "given.OIDC_CLIENT_SECRET" in done.stdout, done.stderr
    for value in ("second", "third"):
        assert run(rotate, tmp_path, **own, OIDC_CLIENT_SECRET=value).returncode == 0
        shown = run(f"{keys} show given.OIDC_CLIENT_SECRET", tmp_path, **own)
        assert shown.stdout.strip() == value


def test_check_says_what_works(control: dict[str, str], there: ProviderProcess, tmp_path: Path) -> None:
    line = typed(f"{ADMIN} oidc check").replace(ADMIN, f"{sys.executable} -m viewer.admin")
    done = run(line, tmp_path, **control)
    assert done.stdout.splitlines() == [
        f"ok: {there.issuer} describes itself",
        "ok: it signs with 1 key that we can use",
        "ok: it knows the client deskfleet and takes the secret",
        "ok: it must know this redirect URI: http://deskfleet.localhost:8088/oidc/callback",
    ], done.stderr
    (tmp_path / "oidc.key").write_text("wrong")
    done = run(line, tmp_path, **control)
    assert (done.returncode, "does not let Deskfleet ask" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
    there.stop()
    done = run(line, tmp_path, **control)
    there.start()
    assert done.stderr.strip().endswith("Acme Login does not answer: [Errno 111] Connection refused")


def test_rules_are_tried_with_claims(control: dict[str, str], tmp_path: Path) -> None:
    line = typed("echo").replace(ADMIN, f"{sys.executable} -m viewer.admin")
    assert run(line, tmp_path, **control).stdout.strip() == "admin of main"
    nobody = run(line.replace("desk-admins", "others"), tmp_path, **control)
    assert (nobody.returncode, "no rule fits" in nobody.stderr) == (2, True)
    broken = run(line.replace("{", ""), tmp_path, **control)
    assert (broken.returncode, "JSON object" in broken.stderr) == (2, True)


def test_every_reason_is_in_the_table() -> None:
    named = set(re.findall(r"`([a-z-]+)`", PAGE.partition("## When it does not work")[2]))
    # What these say needs no mend but time.
    assert {reason.value for reason in Reason} - named <= {
        "too-many",
        "provider-busy",
        "other-issuer",
        "disabled",
    }
