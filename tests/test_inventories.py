"""Site files: every one in the repository loads, and what is wrong in one is said as `file:key: sentence`."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from inventory.models import Settings, Site
from inventory.secrets import SecretsUnreadable, key_hash, load_secrets
from inventory.site_file import SiteRefused, load_site, site_path
from tests.sites import secrets, site

SITES = sorted(Path("inventory").glob("*.yml"))
GOOD = """
hosts:
  here: {groups: [edge, control, sandboxes, desktops], connect: "@local"}
settings: {domain: deskfleet.localhost}
"""


def refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("acme.yml").write_text(text)
    with pytest.raises(SiteRefused) as error:
        load_site(Path("acme.yml"))
    return str(error.value)


@pytest.mark.parametrize("path", SITES, ids=str)
def test_every_site_in_the_repository_loads(path: Path) -> None:
    assert load_site(path).hosts


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD.replace("domain", "domian"), "acme.yml:settings.domian: unknown key, did you mean 'domain'?"),
        (GOOD + "tenant: [main]\n", "acme.yml:tenant: unknown key, did you mean 'tenants'?"),
        (
            GOOD.replace("connect:", "conect:"),
            "acme.yml:hosts.here.connect: is missing\n"
            "acme.yml:hosts.here.conect: unknown key, did you mean 'connect'?",
        ),
        (
            GOOD + "desktops: {studio: {tenant: main, host: here, resolutoin: 800x600}}\n",
            "acme.yml:desktops.studio.resolutoin: unknown key, did you mean 'resolution'?",
        ),
        (GOOD + "tenants: [main, main]\n", "acme.yml:site: a tenant is named twice"),
        (
            GOOD + "desktops: {studio: {tenant: main, host: here, resolution: 9999x800}}\n",
            "acme.yml:desktops.studio.resolution: 9999x800 is not a screen from 640x480 to 3840x2160",
        ),
        (
            GOOD.replace("deskfleet.localhost", "desk.example.com"),
            "acme.yml:settings: plain http is only for localhost and *.localhost, not for 'desk.example.com';"
            " set tls to acme, internal, or {cert, key}",
        ),
        (
            GOOD.replace("deskfleet.localhost", "10.0.0.5"),
            "acme.yml:settings.domain: '10.0.0.5' is an address; give a name, browsers tie sign-in to it",
        ),
        (
            GOOD.replace("localhost}", "localhost, ports: {relay: 8060}}"),
            "acme.yml:settings.ports: two services share a port: {'opensandbox': 8080, 'relay': 8060,"
            " 'viewer': 8060}; give each its own",
        ),
        (GOOD + "hosts: {}\n", "acme.yml:5: not valid YAML: key 'hosts' appears twice"),
        ("hosts: {}\n", "acme.yml:hosts: names no host; there is nothing to roll out to"),
        ("- here\n", "acme.yml: must be a mapping with 'hosts' and 'settings'"),
        (
            GOOD + "desktops: {studio: {tenant: other, host: here}}\n",
            "acme.yml:site: desktop 'studio' belongs to the unknown tenant 'other'",
        ),
        (
            GOOD.replace("edge, ", "egde, "),
            "acme.yml:hosts.here.groups.0: input should be 'edge', 'control', 'sandboxes' or 'desktops'"
            " (it is 'egde')",
        ),
        (
            GOOD.replace("edge, ", ""),
            "acme.yml:site: give one host the groups edge, control and sandboxes; a site is one host so far",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(text, tmp_path, monkeypatch) == sentence


def test_all_mistakes_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("domain", "domian") + "tenant: [main]\n"
    assert len(refused(text, tmp_path, monkeypatch).splitlines()) == 2


def test_unknown_site_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESKFLEET_SITE", "nowhere")
    with pytest.raises(SiteRefused, match=r"no site 'nowhere' .* known sites: local"):
        site_path()


def test_local_site_answers_on_localhost_too() -> None:
    assert site().settings.origins == ("http://deskfleet.localhost:8088", "http://localhost:8088")


def test_site_with_tls_has_one_origin_without_port() -> None:
    assert site(domain="desk.example.com", tls="acme").settings.origins == ("https://desk.example.com",)


def test_default_image_must_be_one_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(GOOD.replace("localhost}", "localhost, default_image: nope}"), tmp_path, monkeypatch)
    assert said == "acme.yml:settings.default_image: unknown image 'nope'; there are: desktop, chrome"


@pytest.mark.parametrize("tls", ["internal", {"cert": "/etc/ssl/desk.pem", "key": "/etc/ssl/desk.key"}])
def test_other_names_need_tls(tls: object) -> None:
    assert Settings.model_validate({"domain": "desk.example.com", "tls": tls}).scheme == "https"


def test_acme_for_localhost_is_refused() -> None:
    with pytest.raises(ValidationError, match="no certificate authority signs"):
        Settings(domain="deskfleet.localhost", tls="acme")


def test_secrets_are_made_once_and_are_private(tmp_path: Path) -> None:
    path = tmp_path / "local" / "secrets-local.yml"
    made = load_secrets(site(), path=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_secrets(site(), path=path) == made
    assert made.admin_key.text.get_secret_value().startswith(f"df_{made.admin_key.id}_")
    assert len(made.admin_key.text.get_secret_value()) == len("df_12345678_") + 43


def test_new_tenant_gets_a_key_and_the_others_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "secrets.yml"
    before = load_secrets(site(), path=path)
    wider = Site.model_validate({**site().model_dump(), "tenants": ["main", "acme"]})
    after = load_secrets(wider, path=path)
    assert set(after.tenant_keys) == {"main", "acme"}
    assert after.tenant_keys["main"] == before.tenant_keys["main"]
    assert after.viewer_key == before.viewer_key


def test_secrets_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "secrets.yml"
    load_secrets(site(), path=path)
    path.chmod(0o644)
    with pytest.raises(SecretsUnreadable, match="chmod 600"):
        load_secrets(site(), path=path)


def test_damaged_secrets_are_never_replaced_nor_shown(tmp_path: Path) -> None:
    path = tmp_path / "secrets.yml"
    path.write_text("opensandbox_key: hunter2\n")
    path.chmod(0o600)
    with pytest.raises(SecretsUnreadable) as error:
        load_secrets(site(), path=path)
    assert "hunter2" not in str(error.value)
    assert path.read_text() == "opensandbox_key: hunter2\n"


def test_secrets_do_not_show_themselves() -> None:
    assert "secret-of" not in repr(secrets()) + secrets().model_dump_json() + str(secrets().to_json())


def test_key_hash_is_over_the_whole_text() -> None:
    key = secrets().admin_key
    assert key_hash(key) == hashlib.sha256(key.text.get_secret_value().encode()).hexdigest()
