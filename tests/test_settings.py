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
