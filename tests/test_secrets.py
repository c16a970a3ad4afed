"""A site's secrets: where they lie, who can read them, what is added, what is said when they can't be had."""

from __future__ import annotations

import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml
from pydantic import SecretStr
from pyrage.x25519 import Identity, Recipient

from inventory import keys, operator
from inventory.authority import ends, left_behind
from inventory.models import External, Secrets, Site
from inventory.secrets import (
    SecretsUnreadable,
    forget_former,
    has_former,
    load_secrets,
    rotate,
    take_out,
    text_of,
)
from tests.sites import fleet_secrets, fleet_site, secret_words, secrets, site

OTHER = Identity.generate()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, an operator with an identity, and nothing in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DESKFLEET_SECRETS", raising=False)
    monkeypatch.setenv("DESKFLEET_AGE_IDENTITY", str(tmp_path / "home" / "identity.txt"))
    operator.make_identity(tmp_path / "home" / "identity.txt")
    (tmp_path / "inventory").mkdir()
    return tmp_path


SITE_FILE = Path("inventory/acme.yml")
AGE_FILE = Path("inventory/acme.age")
PLAIN_FILE = Path(".local/secrets-acme.yml")


def own_key() -> str:
    (identity,) = operator.identities(operator.identity_path())
    return str(identity.to_public())


def operated(*operators: str, **settings: Any) -> Site:
    """The fleet with these operators; without any, with one's own key."""
    data = fleet_site(**settings).model_dump()
    return Site.model_validate(data | {"operators": operators or (own_key(),)})


def load(of: Site, **more: Any) -> Secrets:
    return load_secrets(of, site_file=SITE_FILE, **more)


def refused(of: Site) -> str:
    with pytest.raises(SecretsUnreadable) as error:
        load(of)
    # A chained error would be printed, with what it quotes.
    assert error.value.__cause__ is None
    assert error.value.__context__ is None or error.value.__suppress_context__
    return str(error.value)


def clear(path: Path = AGE_FILE) -> dict[str, Any]:
    own = operator.identities(operator.identity_path())
    found: dict[str, Any] = yaml.safe_load(pyrage.decrypt(path.read_bytes(), own))
    return found


def test_secrets_of_one_machine_are_made_once_and_are_private() -> None:
    made = load(site())
    assert stat.S_IMODE(PLAIN_FILE.stat().st_mode) == 0o600
    assert stat.S_IMODE(PLAIN_FILE.parent.stat().st_mode) == 0o700
    assert load(site()) == made
    assert made.admin_key.text.get_secret_value().startswith(f"df_{made.admin_key.id}_")
    assert len(made.admin_key.text.get_secret_value()) == len("df_12345678_") + 43


def test_fleet_gets_keys_where_they_are_needed_and_a_certificate_per_host() -> None:
    made = load(operated())
    assert set(made.opensandbox_keys) == {"box1", "box2"}
    assert set(made.relay_keys) == {"box1", "box2", "studio1"}
    assert set(made.desktop_keys) == {"drawing", "plotting"}
    assert set(made.tenant_keys) == {"main", "acme"}
    assert made.certificates is not None
    assert set(made.certificates.hosts) == {"edge1", "control1", "box1", "box2", "studio1"}
    assert not PLAIN_FILE.exists()


def test_age_file_shows_nothing_and_is_not_written_again() -> None:
    made = load(operated())
    before = AGE_FILE.read_bytes()
    assert stat.S_IMODE(AGE_FILE.stat().st_mode) == 0o600
    assert made.viewer_key.get_secret_value().encode() not in before
    assert b"PRIVATE KEY" not in before
    assert load(operated()) == made
    assert AGE_FILE.read_bytes() == before


def test_two_operators_deploy_the_same_site(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = own_key()
    operator.make_identity(place / "other" / "identity.txt")
    monkeypatch.setenv("DESKFLEET_AGE_IDENTITY", str(place / "other" / "identity.txt"))
    both = operated(first, own_key())
    made = load(both)
    monkeypatch.setenv("DESKFLEET_AGE_IDENTITY", str(place / "home" / "identity.txt"))
    assert load(both) == made


def test_changed_operators_are_what_the_next_deploy_encrypts_to() -> None:
    made = load(operated())
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(AGE_FILE.read_bytes(), [OTHER])
    assert load(operated(own_key(), str(OTHER.to_public()))) == made
    assert pyrage.decrypt(AGE_FILE.read_bytes(), [OTHER])
    load(operated())
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(AGE_FILE.read_bytes(), [OTHER])


def test_new_tenant_host_and_desktop_get_keys_and_the_others_keep_theirs() -> None:
    before = load(operated())
    data = operated().model_dump()
    data["tenants"] = ["main", "acme", "extra"]
    data["hosts"]["box3"] = data["hosts"]["box1"] | {"connect": "@fake/box3", "address": "10.77.0.16"}
    data["desktops"]["writing"] = {"tenant": "extra", "host": "studio1"}
    after = load(Site.model_validate(data))
    for field in ("opensandbox_keys", "relay_keys", "desktop_keys", "tenant_keys"):
        (new,) = set(getattr(after, field)) - set(getattr(before, field))
        assert new in ("box3", "writing", "extra")
        assert {**getattr(after, field), **getattr(before, field)} == getattr(after, field)
    assert before.certificates is not None
    assert after.certificates is not None
    assert {**after.certificates.hosts, **before.certificates.hosts} == after.certificates.hosts
    assert (after.viewer_key, after.fleet_id) == (before.viewer_key, before.fleet_id)


def smaller() -> Site:
    """The fleet without one host and one desktop."""
    data = operated().model_dump()
    del data["hosts"]["box1"], data["desktops"]["drawing"]
    return Site.model_validate(data)


def test_host_or_desktop_that_is_not_in_the_site_file_just_now_keeps_its_keys() -> None:
    before = load(operated(), now=datetime.now(UTC) - timedelta(days=61))
    before = load(operated())
    lies_there = AGE_FILE.read_bytes()
    without = load(smaller())
    assert set(without.opensandbox_keys) == {"box2"}
    assert set(without.relay_keys) == {"box2", "studio1"}
    assert set(without.desktop_keys) == {"plotting"}
    assert without.certificates is not None
    assert set(without.certificates.hosts) == set(smaller().hosts)
    assert set(without.certificates.former) == set(smaller().hosts)
    assert has_former(smaller(), site_file=SITE_FILE)
    assert AGE_FILE.read_bytes() == lies_there
    assert load(operated()) == before


def test_host_or_desktop_that_left_in_a_roll_out_and_came_back_has_new_keys() -> None:
    before = load(operated())
    without = load(smaller())
    forget_former(smaller(), site_file=SITE_FILE)
    assert load(smaller()) == without
    assert not has_former(smaller(), site_file=SITE_FILE)
    after = load(operated())
    assert after.opensandbox_keys["box1"] != before.opensandbox_keys["box1"]
    assert after.relay_keys["box1"] != before.relay_keys["box1"]
    assert after.desktop_keys["drawing"] != before.desktop_keys["drawing"]
    assert after.relay_keys["box2"] == before.relay_keys["box2"]
    assert before.certificates is not None
    assert after.certificates is not None
    changed = {
        name for name, pair in after.certificates.hosts.items() if pair != before.certificates.hosts[name]
    }
    assert changed == {"box1"}


def test_what_holds_secrets_is_taken_out_of_the_environment_and_can_be_put_back() -> None:
    made = secrets().model_copy(update={"given": {"GANDIV5_API_KEY": SecretStr("given")}})
    environment = {"DESKFLEET_SECRETS": "all of them", "GANDIV5_API_KEY": "given", "PATH": "/bin"}
    taken = take_out(environment, [made])
    assert environment == {"PATH": "/bin"}
    assert taken == {"DESKFLEET_SECRETS": "all of them", "GANDIV5_API_KEY": "given"}


def test_certificates_are_renewed_and_nothing_else_is() -> None:
    before = load(operated())
    after = load(operated(), now=datetime.now(UTC) + timedelta(days=61))
    assert after != before
    assert after.model_copy(update={"certificates": before.certificates}) == before


def test_site_that_gets_operators_keeps_its_secrets_and_loses_the_plain_file() -> None:
    made = load(fleet_site())
    assert PLAIN_FILE.exists()
    assert load(operated()) == made
    assert not PLAIN_FILE.exists()
    assert clear()["viewer_key"] == made.viewer_key.get_secret_value()


def test_secrets_of_the_version_before_keep_serving() -> None:
    text = text_of(secrets())
    data = yaml.safe_load(text)
    data["opensandbox_key"] = data.pop("opensandbox_keys")["here"]
    data["relay_key"] = data.pop("relay_keys")["here"]
    del data["desktop_keys"], data["given"]
    PLAIN_FILE.parent.mkdir()
    PLAIN_FILE.write_text(yaml.safe_dump(data))
    PLAIN_FILE.chmod(0o600)
    found = load(site())
    assert found.opensandbox_keys == secrets().opensandbox_keys
    assert found.relay_keys == secrets().relay_keys
    assert set(found.desktop_keys) == {"studio"}


def test_deploys_at_the_same_moment_agree() -> None:
    wanted, made = operated(), []
    threads = [threading.Thread(target=lambda: made.append(load(wanted))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert {one.fleet_id for one in made} == {made[0].fleet_id}


def test_ssh_site_without_operators_is_told_how_to_make_an_identity() -> None:
    data = fleet_site().model_dump()
    data["hosts"]["box1"]["connect"] = {"address": "10.77.0.13"}
    said = refused(Site.model_validate(data))
    assert said == (
        "inventory/acme.yml:operators: is missing; run `make operator`, and put the age key it prints there:"
        " the site's secrets are kept encrypted to it (or set DESKFLEET_SECRETS)"
    )
    assert not list(Path("inventory").iterdir())


def test_operators_taken_away_never_start_the_site_anew() -> None:
    load(operated())
    assert "operators: is missing, but inventory/acme.age holds the site's secrets" in refused(fleet_site())


def test_missing_identity_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = operated()
    monkeypatch.setenv("DESKFLEET_AGE_IDENTITY", "elsewhere.txt")
    assert refused(wanted) == (
        "elsewhere.txt: there is no age identity; run `make operator` and have the key it prints added to the"
        " site's `operators:`, or name yours in DESKFLEET_AGE_IDENTITY"
    )


def test_identity_that_others_can_read_is_refused(place: Path) -> None:
    wanted = operated()
    (place / "home" / "identity.txt").chmod(0o640)
    assert "others can read your age identity; run: chmod 600" in refused(wanted)


def test_identity_file_without_an_identity_is_refused(place: Path) -> None:
    wanted = operated()
    (place / "home" / "identity.txt").write_text("AGE-SECRET-KEY-1HUNTER2\n")
    said = refused(wanted)
    assert "holds no age identity" in said
    assert "HUNTER2" not in said


def test_file_for_others_is_refused_with_the_key_to_add() -> None:
    wanted = operated()
    recipient = Recipient.from_str(str(OTHER.to_public()))
    AGE_FILE.write_bytes(pyrage.encrypt(b"viewer_key: hunter2", [recipient]))
    said = refused(wanted)
    assert "inventory/acme.age: is not encrypted to your identity" in said
    assert f"add {own_key()} under `operators:`" in said


def test_operators_without_oneself_are_refused_before_anything_is_written() -> None:
    wanted = operated(str(OTHER.to_public()))
    assert f"inventory/acme.yml:operators: lacks your own key {own_key()}; add it" in refused(wanted)
    assert not AGE_FILE.exists()


def test_mistyped_operator_is_named() -> None:
    typo = own_key()[:-1] + ("q" if own_key()[-1] != "q" else "p")
    said = refused(operated(own_key(), typo))
    assert said == f"inventory/acme.yml:operators.1: {typo} is not an age public key; copy it again"


@pytest.mark.parametrize("content", [b"", b"not age", b"age-encryption.org/v1\n-> X25519 hunter2\n"])
def test_damaged_age_file_is_never_replaced(content: bytes) -> None:
    wanted = operated()
    AGE_FILE.write_bytes(content)
    said = refused(wanted)
    assert "inventory/acme.age: is damaged or not an age file; restore it" in said
    assert "hunter2" not in said
    assert AGE_FILE.read_bytes() == content


@pytest.mark.parametrize("text", ["viewer_key: hunter2\n", "- hunter2\n", "hunter2: {"])
def test_damaged_secrets_are_never_replaced_nor_shown(text: str) -> None:
    PLAIN_FILE.parent.mkdir()
    PLAIN_FILE.write_text(text)
    PLAIN_FILE.chmod(0o600)
    said = refused(site())
    assert "not a secrets file of this version; restore it or move it away" in said
    assert "hunter2" not in said
    assert PLAIN_FILE.read_text() == text
    AGE_FILE.write_bytes(pyrage.encrypt(text.encode(), [Recipient.from_str(own_key())]))
    assert "hunter2" not in refused(operated())


def test_secrets_that_others_can_read_are_refused() -> None:
    load(site())
    PLAIN_FILE.chmod(0o644)
    assert "chmod 600 .local/secrets-acme.yml" in refused(site())


def test_variable_holds_the_whole_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESKFLEET_SECRETS", text_of(fleet_secrets()))
    assert load(fleet_site()) == fleet_secrets()
    assert sorted(path.name for path in Path().iterdir()) == ["home", "inventory"]
    assert not list(Path("inventory").iterdir())


def test_variable_that_lacks_something_says_what(monkeypatch: pytest.MonkeyPatch) -> None:
    partial = fleet_secrets().model_copy(update={"tenant_keys": {}, "relay_keys": {}})
    monkeypatch.setenv("DESKFLEET_SECRETS", text_of(partial))
    said = refused(fleet_site())
    assert said.startswith(
        "DESKFLEET_SECRETS: lacks relay_keys.box1, relay_keys.box2, relay_keys.studio1, tenant_keys.main,"
        " tenant_keys.acme; "
    )


def test_variable_serves_until_its_certificates_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESKFLEET_SECRETS", text_of(fleet_secrets()))
    assert load(fleet_site(), now=datetime.now(UTC) + timedelta(days=89)) == fleet_secrets()
    with pytest.raises(SecretsUnreadable, match=r"lacks certificates\.hosts\.edge1, .*; roll out once"):
        load(fleet_site(), now=datetime.now(UTC) + timedelta(days=91))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is set but empty"),
        ("viewer_key: hunter2", "is not the text of a site's secrets"),
        ("hunter2: {", "is not the text of a site's secrets"),
    ],
)
def test_variable_that_is_no_secrets_is_refused(
    text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESKFLEET_SECRETS", text)
    said = refused(site())
    assert said.startswith(f"DESKFLEET_SECRETS: {sentence}")
    assert "hunter2" not in said


DNS = {"tls": "acme", "acme": {"dns": {"provider": "gandiv5", "variables": ["GANDIV5_API_KEY"]}}}


def test_what_only_the_operator_knows_is_taken_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(operated(**DNS)) == (
        "inventory/acme.yml:settings.acme.dns.variables: no value is known for GANDIV5_API_KEY; set it in the"
        " environment of the next roll-out, which keeps it among the site's secrets"
    )
    monkeypatch.setenv("GANDIV5_API_KEY", "given-by-hand")
    assert load(operated(**DNS)).given["GANDIV5_API_KEY"].get_secret_value() == "given-by-hand"
    monkeypatch.setenv("GANDIV5_API_KEY", "another")
    assert load(operated(**DNS)).given["GANDIV5_API_KEY"].get_secret_value() == "given-by-hand"
    rotate(operated(**DNS), "given.GANDIV5_API_KEY", site_file=SITE_FILE)
    monkeypatch.delenv("GANDIV5_API_KEY")
    assert load(operated(**DNS)).given["GANDIV5_API_KEY"].get_secret_value() == "another"


def test_keys_and_passwords_of_others_are_asked_for_by_their_place_in_the_site_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = {"uri": "r.example.com/crm:1", "entrypoint": ["/x"]}
    images = {
        "registry": "r.example.com/ours",
        "credentials": {"user": "me", "password": "PULL"},
        "own": {"crm": {**image, "registry": {"user": "you", "password": "PULL_CRM"}}},
    }
    server = External(url="https://k8s.example.com", key="K8S_KEY")
    wanted = operated(images=images).model_copy(update={"external": {"k8s": server}})
    monkeypatch.setenv("PULL", "password-of-me")
    assert [line.partition(";")[0] for line in refused(wanted).splitlines()] == [
        "inventory/acme.yml:settings.images.own.crm.registry.password: no value is known for PULL_CRM",
        "inventory/acme.yml:external.k8s.key: no value is known for K8S_KEY",
    ]
    monkeypatch.setenv("PULL_CRM", "password-of-you")
    monkeypatch.setenv("K8S_KEY", "key-of-k8s")
    assert load(wanted).given.keys() == {"PULL", "PULL_CRM", "K8S_KEY"}


@pytest.mark.parametrize(
    "name", ["viewer_key", "admin_key", "relay_keys.box1", "tenant_keys.acme", "certificates"]
)
def test_rotation_replaces_one_and_keeps_the_others(name: str) -> None:
    before = load(operated())
    rotate(operated(), name, site_file=SITE_FILE)
    after = load(operated())
    field = name.split(".")[0]
    assert getattr(after, field) != getattr(before, field)
    assert after.model_copy(update={field: getattr(before, field)}) == before


def test_rotated_certificates_are_remembered_as_what_the_hosts_still_have() -> None:
    before = load(operated()).certificates
    rotate(operated(), "certificates", site_file=SITE_FILE)
    after = load(operated()).certificates
    assert before is not None
    assert after is not None
    assert after.authority != before.authority
    assert not {pair.certificate for pair in after.hosts.values()} & {
        pair.certificate for pair in before.hosts.values()
    }
    assert after.former == {name: ends(pair) for name, pair in before.hosts.items()}
    assert len(left_behind(after, {"box1"})) == len(before.hosts) - 1


SMALL_SITE = """
hosts:
  here: {groups: [edge, control, sandboxes, desktops], connect: "@fake/h1"}
"""


def command(*arguments: str) -> int:
    return keys.main(list(arguments))


def test_command_lists_shows_rotates_and_exports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SITE_FILE.write_text(SMALL_SITE)
    monkeypatch.setenv("DESKFLEET_SITE", str(SITE_FILE))
    assert command("show", "tenant_keys.main") == 0
    first = capsys.readouterr().out.strip()
    assert first.startswith("df_")
    assert command("list") == 0
    listed = capsys.readouterr().out
    assert "tenant_keys.main" in listed
    assert first not in listed
    assert command("rotate", "tenant_keys.main") == 0
    assert first not in capsys.readouterr().out
    assert command("export") == 0
    exported = capsys.readouterr().out
    assert first not in exported
    monkeypatch.setenv("DESKFLEET_SECRETS", exported)
    assert command("show", "tenant_keys.main") == 0
    assert capsys.readouterr().out.strip() in exported
    assert command("rotate", "tenant_keys.main") == 1
    assert "unset it to rotate" in capsys.readouterr().err


def test_all_is_rotated_but_what_was_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GANDIV5_API_KEY", "given-by-hand")
    SITE_FILE.write_text(yaml.safe_dump(operated(**DNS).model_dump(mode="json", exclude_unset=True)))
    monkeypatch.setenv("DESKFLEET_SITE", str(SITE_FILE))
    before = load(operated(**DNS))
    assert command("rotate", "all") == 0
    after = load(operated(**DNS))
    assert after.fleet_id == before.fleet_id
    assert after.given == before.given
    assert set(secret_words(after)) & set(secret_words(before)) == {"given-by-hand"}


def test_all_are_rotated_also_those_of_a_host_that_is_away_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(operated())
    SITE_FILE.write_text(yaml.safe_dump(smaller().model_dump(mode="json", exclude_unset=True)))
    monkeypatch.setenv("DESKFLEET_SITE", str(SITE_FILE))
    assert command("rotate", "all") == 0
    assert not set(secret_words(load(operated()))) & set(secret_words(before))


def test_folder_that_cannot_be_made_is_one_sentence() -> None:
    PLAIN_FILE.parent.write_text("in the way")
    assert refused(site()) == ".local/secrets-acme.yml: can't be made: File exists"


def test_command_names_the_nearest_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SITE_FILE.write_text(SMALL_SITE)
    monkeypatch.setenv("DESKFLEET_SITE", str(SITE_FILE))
    assert command("rotate", "tenant_keys.mian") == 1
    assert capsys.readouterr().err == (
        "no secret is named 'tenant_keys.mian', did you mean 'tenant_keys.main'?\n"
    )


def test_operator_gets_one_identity_and_its_key_is_said_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "new" / "identity.txt"
    monkeypatch.setenv("DESKFLEET_AGE_IDENTITY", str(path))
    assert operator.main() == 0
    first = capsys.readouterr()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "AGE-SECRET-KEY" not in first.out + first.err
    assert first.out == f"{own_key()}\n"
    assert operator.main() == 0
    assert capsys.readouterr().out == first.out


def test_identity_is_never_made_inside_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Path(operator.__file__).parent / "identity.txt"
    monkeypatch.setenv("DESKFLEET_AGE_IDENTITY", str(inside))
    assert operator.main() == 1
    assert not inside.exists()


@pytest.mark.parametrize(("folder", "is_refused"), [("", True), ("inventory", True), (".local", False)])
def test_identity_is_never_read_where_a_commit_could_carry_it_away(
    place: Path, monkeypatch: pytest.MonkeyPatch, folder: str, is_refused: bool
) -> None:
    made, inside = place / "home" / "identity.txt", place / "checkout" / folder / "identity.txt"
    monkeypatch.setattr(operator, "_CHECKOUT", place / "checkout")
    inside.parent.mkdir(parents=True)
    made.rename(inside)
    monkeypatch.setenv("DESKFLEET_AGE_IDENTITY", str(inside))
    if not is_refused:
        assert own_key()
        return
    said = refused(operated(str(OTHER.to_public())))
    assert said == (
        f"{inside}: your age identity lies inside the checkout, where a commit could carry it away; move it"
        " out and name its new place in DESKFLEET_AGE_IDENTITY"
    )


def test_file_can_be_read_by_age_itself() -> None:
    """The format is age's own: header, and one stanza per operator."""
    load(operated(own_key(), str(OTHER.to_public())))
    head = AGE_FILE.read_bytes().split(b"\n---")[0].decode()
    assert head.startswith("age-encryption.org/v1\n")
    assert head.count("-> X25519 ") == 2
