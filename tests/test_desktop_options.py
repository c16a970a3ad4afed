"""What a desktop may be asked to start with: what is taken, in which form, and how the rest is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.soaking import examples
from viewer import desktop_options
from viewer.desktop_options import (
    FIELD_OF_VARIABLE,
    LONGEST_COMMAND,
    LONGEST_URL,
    LONGEST_VALUE_BYTES,
    MOST_ENV_BYTES,
    MOST_VARIABLES,
    RESERVED_VARIABLE,
    DesktopOptions,
    Env,
)

TOO_LONG_URL = "https://example.org/" + "a" * (LONGEST_URL - 19)
GROWS_TOO_LONG = "https://example.org/" + "ü" * 1000


class Wanted(BaseModel):
    env: Env = {}


def refusal(field: str, value: object) -> str:
    """The one sentence that refuses it."""
    model = Wanted if field == "env" else DesktopOptions
    with pytest.raises(ValidationError) as raised:
        model.model_validate({field: value})
    (error,) = raised.value.errors()
    assert error["loc"] == (field,)
    return error["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("locale", "de_DE.UTF-8", "de_DE.UTF-8"),
        ("locale", "de_DE", "de_DE.UTF-8"),
        ("locale", "fil_PH.utf8", "fil_PH.UTF-8"),
        ("locale", "ca_ES@valencia", "ca_ES.UTF-8@valencia"),
        ("locale", "C", "C.UTF-8"),
        ("locale", "POSIX.UTF-8", "C.UTF-8"),
        ("keyboard", "us", "us"),
        ("keyboard", "ch(fr)", "ch(fr)"),
        ("keyboard", "us(dvorak-intl)", "us(dvorak-intl)"),
        ("timezone", "UTC", "UTC"),
        ("timezone", "Europe/Berlin", "Europe/Berlin"),
        ("timezone", "America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
        ("timezone", "Etc/GMT+1", "Etc/GMT+1"),
        ("open_url", "HTTPS://Example.ORG", "https://example.org/"),
        ("open_url", "http://[::1]:8000/a?b=c#d", "http://[::1]:8000/a?b=c#d"),
        ("open_url", "https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("open_url", "https://a\\@b/", "https://a/@b/"),
        ("command", "echo hello; sleep 1\nxterm", "echo hello; sleep 1\nxterm"),
        ("command", "x" * LONGEST_COMMAND, "x" * LONGEST_COMMAND),
    ],
)
def test_option_is_kept_in_its_normal_form(field: str, given: str, kept: str) -> None:
    assert DesktopOptions.model_validate({field: given}).model_dump(exclude_none=True) == {field: kept}


@pytest.mark.parametrize(
    ("field", "given", "said"),
    [
        *(
            ("locale", text, "is not a UTF-8 locale")
            for text in (
                "",
                "de",
                "DE_de",
                "de_DE.ISO-8859-1",
                "C@euro",
                "de_DE.UTF-8\n",
                "../de_DE",
                "dé_DE",
            )
        ),
        *(
            ("keyboard", text, "is not an XKB layout")
            for text in ("", "d", "de(", "de()", "us,de", "de fr", "-option", "de(x)\n", "../de", "D" * 40)
        ),
        *(
            ("timezone", text, "is not the name of a time zone")
            for text in (
                "",
                "../etc/passwd",
                "/etc/localtime",
                ":UTC",
                "Europe/",
                "CET-1CEST,M3.5.0",
                "UTC\n",
            )
        ),
        ("timezone", "Europe/Berlinn", "'Europe/Berlinn' is not a known time zone"),
        *(
            ("open_url", text, "is not an http or https URL")
            for text in (
                "",
                "example.org",
                "file:///etc/passwd",
                "javascript:alert(1)",
                "http://",
                "http://a:b",
            )
        ),
        *(
            ("open_url", text, "has a space or a control character in it")
            for text in ("https://a/\n", "\thttps://a/", "https://a/b c", "java\tscript:x", "https://a/\x00")
        ),
        *(
            ("open_url", text, "has a user name or password in it")
            for text in ("https://me@a/", "https://me:x@a/", "https://:x@a/")
        ),
        ("open_url", TOO_LONG_URL, "is too long"),
        ("open_url", GROWS_TOO_LONG, "is too long"),
        ("command", " \n", "is empty"),
        ("command", "a\x00b", "has a NUL character in it"),
        ("command", "x" * (LONGEST_COMMAND + 1), "is too long"),
    ],
)
def test_bad_option_is_refused_with_what_is_wrong(field: str, given: str, said: str) -> None:
    assert refusal(field, given) == said


def test_machine_without_tzdata_goes_by_the_form_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desktop_options, "_known_zones", frozenset)
    assert DesktopOptions(timezone="Mars/Olympus_Mons").timezone == "Mars/Olympus_Mons"
    assert refusal("timezone", "../passwd") == "is not the name of a time zone"


def test_only_what_was_given_reaches_the_environment() -> None:
    assert DesktopOptions().as_environment() == {}
    everything = DesktopOptions(
        open_url="https://example.org/", command="xterm", locale="de_DE", keyboard="de", timezone="UTC"
    )
    assert everything.as_environment() == {
        "OPEN_URL": "https://example.org/",
        "OPEN_COMMAND": "xterm",
        "LANG": "de_DE.UTF-8",
        "KEYBOARD": "de",
        "TZ": "UTC",
    }
    assert everything.as_environment().keys() <= FIELD_OF_VARIABLE.keys()
    told = Path("templates/images/desktop/rootfs/usr/local/bin/deskfleet-desktop").read_text()
    for name in (*FIELD_OF_VARIABLE, RESERVED_VARIABLE):
        assert f"\n#   {name} " in told, "the image's entrypoint does not say what it does with it"


@settings(max_examples=examples(100), deadline=None)
@given(st.text(), st.sampled_from(["open_url", "locale", "keyboard", "timezone", "command"]))
def test_any_text_is_refused_or_already_normal_the_second_time(text: str, field: str) -> None:
    try:
        once = DesktopOptions.model_validate({field: text})
    except ValidationError:
        return
    assert DesktopOptions.model_validate(once.model_dump()) == once
    assert all("\x00" not in value for value in once.as_environment().values())


@settings(max_examples=examples(100), deadline=None)
@given(st.text(alphabet="abc.:/@\\?#[]%ü ", max_size=30))
def test_a_url_that_is_taken_is_plain_ascii_for_the_very_host_it_shows(rest: str) -> None:
    try:
        url = DesktopOptions.model_validate({"open_url": f"https://{rest}"}).open_url
    except ValidationError:
        return
    assert url is not None
    assert url.isascii()
    assert DesktopOptions(open_url=url).open_url == url
    assert "@" not in url.removeprefix("https://").split("/")[0]


# --- env ---


def test_env_is_taken_as_it_is() -> None:
    variables = {"A": "", "_b1": "x\ny", "PATH": "/bin", "N" * 128: "ü", "LARGE": "x" * LONGEST_VALUE_BYTES}
    assert Wanted(env=variables).env == variables


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"": "x"}, "'' is not the name of an environment variable"),
        ({"1A": "x"}, "'1A' is not the name of an environment variable"),
        ({"A=B": "x"}, "'A=B' is not the name of an environment variable"),
        ({"A\n": "x"}, "'A\\n' is not the name of an environment variable"),
        ({"N" * 129: "x"}, f"'{'N' * 40}' is not the name of an environment variable"),
        ({"VNC_PASSWORD": "s3cret"}, "VNC_PASSWORD is reserved: leave it out"),
        ({"OPENSANDBOX_X": "s3cret"}, "OPENSANDBOX_X is reserved: leave it out"),
        ({"EXECD_ACCESS_TOKEN": "s3cret"}, "EXECD_ACCESS_TOKEN is reserved: leave it out"),
        ({"DESKFLEET_": "s3cret"}, "DESKFLEET_ is reserved: leave it out"),
        ({"RESOLUTION": "1x1"}, "RESOLUTION has a field of its own: give it as `resolution`"),
        ({"OPEN_COMMAND": "s3cret"}, "OPEN_COMMAND has a field of its own: give it as `command`"),
        ({"TZ": "UTC"}, "TZ has a field of its own: give it as `timezone`"),
        ({"A": "s3cret\x00"}, "A has a NUL character in its value"),
        ({"A": "ü" * (LONGEST_VALUE_BYTES // 2 + 1)}, "A has a value longer than 8192 bytes"),
        ({f"A{n}": "" for n in range(MOST_VARIABLES + 1)}, "has 101 entries, more than 100"),
        ({f"A{n}": "x" * 8190 for n in range(4)} | {"A4": "x"}, "is 32771 bytes long, more than 32768"),
    ],
)
def test_bad_env_is_refused_by_name_and_without_a_value(variables: dict[str, str], said: str) -> None:
    assert refusal("env", variables) == said
    assert "s3cret" not in said
    assert MOST_ENV_BYTES == 32768
