from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.viewer_fixtures import settings_values, write_settings
from viewer.settings import SettingsError, load_settings


def load_with(directory: Path, **changes: Any) -> Any:
    path = write_settings({**settings_values(directory), **changes}, directory / "viewer.toml")
    return load_settings(path)


def test_rendered_file_loads_with_its_secrets(tmp_path: Path) -> None:
    settings = load_with(tmp_path)
    assert settings.canonical_origin == "http://deskfleet.localhost:8088"
    assert settings.hosts[0].opensandbox_key().get_secret_value() == "box-key"
    assert settings.hosts[0].relay_key() == (tmp_path / "relay.key").read_bytes().strip()
    assert settings.image("opensandbox/desktop").name == "desktop"


def test_path_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "DESKFLEET_SETTINGS", str(write_settings(settings_values(tmp_path), tmp_path / "x.toml"))
    )
    assert load_settings().fleet_id == "f-test"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"defualt_image": "x"}, "defualt_image: unknown key, did you mean 'default_image'?"),
        ({"hosts": []}, "hosts: tuple should have at least 1 item"),
        ({"listen": "8060"}, "listen: string should match pattern"),
        ({"origins": ["deskfleet.localhost"]}, "origins.0: string should match pattern"),
        (
            {"default_image": "nope"},
            "default_image: 'nope' is not among the images; use one of desktop, chrome, shell",
        ),
        ({"default_ttl_seconds": 50_000}, "default_ttl_seconds: is more than max_ttl_seconds; lower it"),
        ({"max_lifetime_seconds": 60}, "max_ttl_seconds: is more than max_lifetime_seconds; lower it"),
        (
            {"tenants": [{"name": "a", "keys": [{"id": "abcd1234", "role": "boss", "sha256": "0" * 64}]}]},
            "tenants.0.keys.0.role: input should be 'watcher', 'operator' or 'admin'",
        ),
        ({"tenants": [{"name": "a"}, {"name": "a"}]}, "tenants: a is given twice; keep one"),
        (
            {
                "desktops": [
                    {
                        "name": "s",
                        "tenant": "x",
                        "host": "here",
                        "backend": "tigervnc",
                        "resolution": "1280x800",
                    }
                ]
            },
            "desktops.s.tenant: no tenant 'x'; add it to tenants",
        ),
    ],
)
def test_wrong_setting_is_one_sentence_with_file_and_key(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_with(tmp_path, **changes)
    assert str(refused.value).startswith(f"{tmp_path}/viewer.toml: {sentence}")
    assert "\n" not in str(refused.value)


def test_unknown_key_of_a_host_offers_the_hosts_keys(tmp_path: Path) -> None:
    host = copy.deepcopy(settings_values(tmp_path)["hosts"][0])
    host["relay_ur"] = host["relay_url"]
    with pytest.raises(SettingsError, match=r"hosts\.0\.relay_ur: unknown key, did you mean 'relay_url'\?"):
        load_with(tmp_path, hosts=[host])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_desktops": 0}, "host here is in sandboxes; it needs opensandbox_url"),
        ({"groups": ["desktops"]}, "host here is not in sandboxes; remove opensandbox_url"),
        ({"groups": []}, "groups: tuple should have at least 1 item"),
        ({"server_name": "here.deskfleet.internal"}, "relay_url of host here must begin with https://"),
        ({"relay_url": "https://10.0.0.5:8443"}, "relay_url of host here must begin with http://"),
        ({"hostwatch_url": "https://10.0.0.5:8443"}, "hostwatch_url of host here must begin with http://"),
        ({"relay_url": "http://10.0.0.5:8443/x"}, "relay_url: string should match pattern"),
    ],
)
def test_host_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    host = {**settings_values(tmp_path)["hosts"][0], **changes}
    with pytest.raises(SettingsError, match=r"viewer\.toml: hosts\.0") as refused:
        load_with(tmp_path, hosts=[host])
    assert sentence in str(refused.value)


def other_host(directory: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "studio1",
        "groups": ["desktops"],
        "address": "10.0.0.5",
        "relay_url": "https://10.0.0.5:8443",
        "relay_key_file": str(directory / "relay.key"),
        "server_name": "studio1.deskfleet.internal",
        **changes,
    }


def test_other_host_needs_certificates_and_all_three_files(tmp_path: Path) -> None:
    hosts = [*settings_values(tmp_path)["hosts"], other_host(tmp_path)]
    with pytest.raises(
        SettingsError, match="tls_certificate_file: is missing; host studio1 is another machine"
    ):
        load_with(tmp_path, hosts=hosts)
    with pytest.raises(SettingsError, match="give all three or none"):
        load_with(tmp_path, hosts=hosts, tls_key_file=str(tmp_path / "host.key"))


def test_unusable_certificate_stops_the_start(tmp_path: Path) -> None:
    names = ("host.pem", "host.key", "ca.pem")
    for name in names:
        (tmp_path / name).write_text("not PEM, but secret\n")
    keys = ("tls_certificate_file", "tls_key_file", "tls_authority_file")
    files = {key: str(tmp_path / name) for key, name in zip(keys, names, strict=True)}
    with pytest.raises(SettingsError, match=r"viewer\.toml: \S+/ca\.pem: is no certificate") as refused:
        load_with(tmp_path, **files)
    assert "secret" not in str(refused.value)


def test_service_of_an_unknown_tenant_is_refused(tmp_path: Path) -> None:
    service = {"name": "code", "host_name": "code.example.com", "role": "operator", "tenant": "acme"}
    with pytest.raises(SettingsError, match=r"services\.code\.tenant: no tenant 'acme'; add it to tenants"):
        load_with(tmp_path, services=[service])
    twice = [{**service, "tenant": "a"}, {**service, "name": "two", "tenant": "a"}]
    with pytest.raises(SettingsError, match=r"services.host_name: code.example.com is given twice"):
        load_with(tmp_path, services=twice, tenants=[{"name": "a"}])


def test_missing_key_is_named(tmp_path: Path) -> None:
    values = settings_values(tmp_path)
    del values["database"]
    with pytest.raises(SettingsError, match=r"viewer\.toml: database: is missing; give it a value"):
        load_settings(write_settings(values, tmp_path / "viewer.toml"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("viewer.key", None, "the secret cannot be read (No such file or directory)"),
        ("viewer.key", b"", "the secret is empty"),
        ("relay.key", b"short", "is not a key of 32 bytes in URL-safe base64"),
        ("opensandbox.key", b"\xff\xfe", "the secret cannot be read (it is not text)"),
    ],
)
def test_unusable_secret_stops_the_start_and_is_not_shown(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = write_settings(settings_values(tmp_path), tmp_path / "viewer.toml")
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    assert str(refused.value).startswith(f"{path}: {tmp_path / name}: {sentence}")
    assert "short" not in str(refused.value)


def test_file_that_is_not_there_or_not_toml_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings(tmp_path / "bad.toml")
