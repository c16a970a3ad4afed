from __future__ import annotations

import re
import sqlite3
import stat
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import postgres
from tests.viewer_fixtures import settings_values, write_settings
from viewer.admin import BY, main
from viewer.attempts import of_address, of_login
from viewer.credentials import hash_of
from viewer.model import Role, utcnow
from viewer.store import Store


@pytest.fixture
def admin(
    store: Store,
    settings: Any,
    database_values: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> Any:
    values = {**settings_values(tmp_path), **database_values}
    monkeypatch.setenv("DESKFLEET_SETTINGS", str(write_settings(values, tmp_path / "viewer.toml")))

    def run(*arguments: str) -> str:
        main(arguments)
        return str(capsys.readouterr().out).strip()

    return run


def refusal(admin: Any, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        admin(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_new_tenant_comes_with_an_operator_key(admin: Any, store: Store) -> None:
    principal = store.accounts.principal_of_key(admin("tenant", "add", "acme"))
    assert principal is not None
    assert (principal.tenant, principal.role) == ("acme", Role.OPERATOR)


def test_key_is_made_and_revoked(admin: Any, store: Store) -> None:
    admin("tenant", "add", "acme")
    key = admin("key", "add", "--tenant", "acme", "--role", "watcher")
    assert store.accounts.principal_of_key(key) is not None
    admin("key", "revoke", key.split("_")[1])
    assert store.accounts.principal_of_key(key) is None


def test_key_of_some_days_ends_and_its_sign_ins_with_it(
    admin: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin("tenant", "add", "acme")
    key = admin("key", "add", "--tenant", "acme", "--role", "watcher", "--days", "2")
    cookie = store.accounts.sign_in_with_key(key)
    principal = store.accounts.principal_of_key(key)
    assert cookie is not None
    assert principal is not None
    assert store.accounts.roles_of([principal.holder])

    in_two_days = utcnow() + timedelta(days=2)
    monkeypatch.setattr("viewer.accounts.utcnow", lambda: in_two_days)
    monkeypatch.setattr("viewer.accounts.SIGN_IN_IDLE", timedelta(days=7))
    assert store.accounts.principal_of_key(key) is None
    assert store.accounts.principal_of_key_id(key.split("_")[1]) is None
    assert store.accounts.principal_of_cookie(cookie) is None
    assert not store.accounts.roles_of([principal.holder])


def test_link_leads_to_the_canonical_page_with_the_token_in_the_fragment(admin: Any, store: Store) -> None:
    admin("tenant", "add", "acme")
    address, _, token = admin("signin-link", "--tenant", "acme", "--role", "admin").partition("#token=")
    assert address == "http://deskfleet.localhost:8088/signin"
    assert store.accounts.sign_in_with_link(token) is not None


def test_webhook_secret_is_made_rotated_and_revoked(admin: Any, store: Store) -> None:
    admin("tenant", "add", "acme")
    secret, address = admin("webhook-secret", "add", "--tenant", "acme", "--label", "box7").splitlines()
    [made] = store.webhook_secrets.list("acme")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    assert address == f"http://deskfleet.localhost:8088/webhooks/openclaw?source={made.id}"
    assert (made.label, made.created_by) == ("box7", BY)
    assert admin("webhook-secret", "list", "--tenant", "acme") == f"{made.id}  good  box7"
    successor, _ = admin("webhook-secret", "rotate", made.id).splitlines()
    assert successor != secret
    assert "  ends 2" in admin("webhook-secret", "list", "--tenant", "acme")
    admin("webhook-secret", "revoke", made.id)
    assert f"{made.id}  revoked  box7" in admin("webhook-secret", "list", "--tenant", "acme")


def test_backup_is_private_and_holds_the_keys_hash(admin: Any, tmp_path: Path) -> None:
    key = admin("tenant", "add", "acme")
    admin("backup", str(tmp_path / "copy.db"))
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    if postgres.IS_WANTED:
        restore = ["pg_restore", "--data-only", "--table=api_keys", "--file=-", str(tmp_path / "copy.db")]
        shown = subprocess.run(restore, capture_output=True, text=True, check=True)
        assert hash_of(key) in shown.stdout
        return
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT sha256 FROM api_keys").fetchall() == [(hash_of(key),)]
    copy.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tenant", "add", "Acme Ltd"), "is no tenant's name"),
        (("tenant", "add", "acme"), "there is a tenant acme already"),
        (("key", "add", "--tenant", "nobody", "--role", "admin"), "there is no tenant nobody; known: acme"),
        (("signin-link", "--tenant", "nobody"), "there is no tenant nobody; known: acme"),
        (("key", "revoke", "zzzzzzzz"), "there is no key zzzzzzzz"),
        (
            ("webhook-secret", "add", "--tenant", "nobody", "--label", "x"),
            "there is no tenant nobody; known: acme",
        ),
        (("webhook-secret", "list", "--tenant", "nobody"), "there is no tenant nobody; known: acme"),
        (("webhook-secret", "rotate", "zzz"), "there is no webhook secret zzz"),
        (("webhook-secret", "revoke", "zzz"), "there is no webhook secret zzz"),
        (("backup", "/nowhere/at/all.db"), "cannot be written (No such file or directory)"),
        (("backup", "/etc/hostname"), "exists already"),
        (("key", "add", "--tenant", "acme", "--role", "boss"), "invalid"),
        (("key", "add", "--tenant", "acme", "--role", "admin", "--days", "0"), "give 1 to 3650"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    admin: Any, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    admin("tenant", "add", "acme")
    assert sentence in refusal(admin, capsys, *arguments)


@pytest.mark.sqlite
def test_before_the_first_start_there_is_nothing_to_administer(
    admin: Any, settings: Any, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.database.unlink()
    assert "start the viewer first" in refusal(admin, capsys, "tenant", "add", "acme")
    assert not settings.database.exists()


def test_provider_that_the_settings_lack_is_told(admin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("check", "rules"):
        assert "there is no OpenID provider in the settings" in refusal(admin, capsys, "oidc", verb)


# --- people -------------------------------------------------------------------------------------


def person_in(admin: Any, store: Store, login: str = "mara", *more: str) -> str:
    """He is added and has set a password; his principal's id."""
    line = admin("person", "add", login, "--tenant", "acme", "--role", "operator", *more)
    address, _, token = line.partition("#token=")
    assert address == "http://deskfleet.localhost:8088/set-password"
    assert store.accounts.set_password_by_link(token, "hash") is not None
    return f"person:{store.accounts.login(login).person_id}"


def test_person_is_added_with_a_link_and_changed_by_hand(admin: Any, store: Store) -> None:
    admin("tenant", "add", "acme")
    me = person_in(admin, store)
    assert admin("person", "list").split("  ") == [
        "mara", "acme", "operator", "may come in", "by password", "mara",
    ]  # fmt: skip
    assert "admin + fleet" in admin("person", "role", "MARA", "admin", "--fleet")
    assert "admin + fleet" in admin("person", "role", "mara", "admin"), "what is not said stays"
    assert "fleet" not in admin("person", "role", "mara", "watcher", "--no-fleet")
    link = admin("person", "link", "mara").partition("#token=")[2]
    assert "disabled" in admin("person", "disable", "mara")
    assert store.accounts.person_of_link(link) is None
    assert store.accounts.sign_ins_of(me) == []
    assert "may come in" in admin("person", "enable", "mara")
    assert admin("person", "delete", "mara") == "mara is deleted"
    assert admin("person", "list", "--tenant", "acme") == "nobody yet"


def test_sign_ins_are_listed_and_ended_by_hand(admin: Any, store: Store) -> None:
    admin("tenant", "add", "acme")
    me = person_in(admin, store)
    store.accounts.sign_in_person(me.removeprefix("person:"), address="192.0.2.7", user_agent="Firefox")
    lines = admin("sign-ins", "list", "mara").splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("192.0.2.7  Firefox")
    assert "has ended" in admin("sign-ins", "end", "mara", lines[0].split()[0])
    assert admin("sign-ins", "end", "mara") == "1 sign-ins have ended"
    assert admin("sign-ins", "list", "mara") == "mara is signed in nowhere"


def test_somebody_locked_out_is_let_try_again(admin: Any, store: Store) -> None:
    admin("tenant", "add", "acme")
    person_in(admin, store)
    for bucket, words in (
        (of_login("mara"), ("mara",)),
        (of_address("192.0.2.7"), ("192.0.2.7", "--address")),
    ):
        while not store.attempts.seconds_to_wait(bucket):
            store.attempts.failed(bucket)
        assert admin("unlock", *words) == f"{words[0]} may try again"
        assert store.attempts.seconds_to_wait(bucket) == 0
        assert admin("unlock", *words) == f"{words[0]} has no failed attempts"


def test_keys_are_listed_without_their_texts(admin: Any, store: Store) -> None:
    first = admin("tenant", "add", "acme")
    key = admin(
        "key", "add", "--tenant", "acme", "--role", "watcher", "--scope", "fleet", "--label", "prometheus"
    )
    admin("key", "revoke", first.split("_")[1])
    lines = admin("key", "list").splitlines()
    assert [line.split("  ")[1:5] for line in lines] == [
        ["acme", "watcher", "fleet", "good"], ["acme", "operator", "all but fleet", "revoked"],
    ]  # fmt: skip
    assert key.split("_", 2)[2] not in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("person", "add", "a b", "--tenant", "acme", "--role", "admin"), "is not a login; give 1 to 100"),
        (
            ("person", "add", "mara", "--tenant", "acme", "--role", "admin"),
            "somebody signs in as mara already",
        ),
        (("person", "add", "nina", "--tenant", "nobody", "--role", "admin"), "there is no tenant nobody"),
        (("person", "link", "nobody"), "nobody signs in as nobody"),
        (("sign-ins", "end", "mara", "abc"), "mara has no sign-in abc"),
        (("unlock", "nobody"), "nobody signs in as nobody"),
    ],
)
def test_what_cannot_be_done_with_people_is_one_sentence(
    admin: Any, store: Store, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    admin("tenant", "add", "acme")
    person_in(admin, store)
    assert sentence in refusal(admin, capsys, *arguments)
