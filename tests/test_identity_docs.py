"""docs/identities.md: each of its commands does what the page says, in the order of the page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.test_people import OURS, cookie_of
from tests.viewer_fixtures import ORIGIN, ViewerClient, settings_values, write_settings
from viewer.admin import main
from viewer.attempts import (
    ADDRESS_ALLOWED,
    DEVICE_LIFE,
    FIRST_WAIT,
    FORGOTTEN_AFTER,
    LOGIN_ALLOWED,
    LONGEST_WAIT,
)
from viewer.model import Role, Scope
from viewer.passwords import MOST_BYTES, PARAMETERS, SHORTEST
from viewer.settings import Settings
from viewer.store import Store

PAGE = (Path(__file__).parent.parent / "docs" / "identities.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("api ", "deskfleet-admin "))
]


def test_every_command_of_the_page_works(
    client: ViewerClient,
    store: Store,
    database_values: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = {**settings_values(tmp_path), **database_values}
    settings = write_settings(values, tmp_path / "viewer.toml")
    monkeypatch.setenv("DESKFLEET_SETTINGS", str(settings))
    store.accounts.add_tenant("main")
    headers: dict[str, str] = {}
    known: dict[str, str] = {}

    def admin(arguments: list[str]) -> str:
        main(arguments)
        return capsys.readouterr().out.strip()

    def api(method: str, path: str, *body: str) -> Any:
        for name, value in known.items():
            path = path.replace(f"${name}", value)
        kind = {"Content-Type": "application/json"} if body else {}
        answer = client.open(f"/api/v1{path}", method=method, data="".join(body), headers={**headers, **kind})
        assert answer.status_code < 300, (method, path, answer.get_data(as_text=True))
        return answer.json if answer.mimetype == "application/json" else None

    assert len(COMMANDS) > 20
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "deskfleet-admin":
            said = admin(words)
            assert said, command
            if words[:2] == ["person", "add"]:
                # As the page says: Mara sets her password with it, and does the rest herself.
                body = {"token": said.partition("#token=")[2], "password": "correct horse battery"}
                done = client.post("/set-password", json=body, headers=OURS)
                headers = {"Cookie": cookie_of(done), "Origin": ORIGIN}
            continue
        said = api(*words)
        if words[:2] == ["POST", "/people"]:
            known["person"] = said["person"]["id"]
        if words[:2] == ["POST", "/keys"]:
            known["key"] = said["key"]["id"]


def test_page_knows_every_role_and_scope_and_every_number() -> None:
    for word in (*Role, *Scope):
        assert f"| `{word}` |" in PAGE, word
    assert (LOGIN_ALLOWED, ADDRESS_ALLOWED, SHORTEST, MOST_BYTES) == (5, 10, 12, 1024)
    assert (FIRST_WAIT["login"].seconds, FIRST_WAIT["ip"].seconds, LONGEST_WAIT.seconds) == (15, 60, 900)
    assert (DEVICE_LIFE.days, FORGOTTEN_AFTER.seconds) == (180, 3600)
    assert (PARAMETERS.memory_cost, PARAMETERS.time_cost) == (65536, 3)
    assert Settings.model_fields["requests_per_minute"].default == 6000
