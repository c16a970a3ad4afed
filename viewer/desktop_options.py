"""What a desktop may be asked to start with, and the environment that says so to its image.

Every type here takes a string and gives its normal form, or raises ValueError with what is wrong; what to
send instead is the field's description. Pure, but for a look at this machine's list of time zones.
"""

from __future__ import annotations

import functools
import re
import zoneinfo
from typing import Annotated

from pydantic import AfterValidator, AnyHttpUrl, Field, TypeAdapter, ValidationError

from viewer.model import Frozen

LONGEST_COMMAND = 4096
LONGEST_URL = 2048
MOST_VARIABLES = 100
LONGEST_VALUE_BYTES = 8 * 1024
MOST_ENV_BYTES = 32 * 1024

LOCALE_WANTED = "a UTF-8 locale such as de_DE.UTF-8"
KEYBOARD_WANTED = "an XKB layout, with a variant if you like, such as de, us or ch(fr)"
TIMEZONE_WANTED = "a time zone's name such as Europe/Berlin"
OPEN_URL_WANTED = (
    f"an http or https URL of at most {LONGEST_URL} characters, without a user name or password in it"
)
COMMAND_WANTED = f"a command line for sh of 1 to {LONGEST_COMMAND} characters"
ENV_WANTED = f"at most {MOST_VARIABLES} names with a string each of at most 8 KiB, and 32 KiB in all"

FIELD_OF_VARIABLE = {
    "OPEN_URL": "open_url",
    "OPEN_COMMAND": "command",
    "LANG": "locale",
    "KEYBOARD": "keyboard",
    "TZ": "timezone",
    "RESOLUTION": "resolution",
}
"""Variables of our images which a field of its own sets."""
RESERVED_VARIABLE = "VNC_PASSWORD"
RESERVED_PREFIXES = ("OPENSANDBOX_", "EXECD_", "DESKFLEET_")

_HTTP_URL = TypeAdapter(AnyHttpUrl)


def normal_locale(text: str) -> str:
    """`de_DE.UTF-8` for `de_DE` and `de_DE.utf8`, `C.UTF-8` for `C` and `POSIX`; @modifiers stay."""
    match = re.fullmatch(
        r"(?:(C|POSIX)|([a-z]{2,3}_[A-Z]{2}))(?:\.(?i:utf-?8))?(@[a-z]{1,16})?", text, re.ASCII
    )
    if match is None or (match[1] and match[3]):
        raise ValueError("is not a UTF-8 locale")
    return f"{match[2] or 'C'}.UTF-8{match[3] or ''}"


def checked_keyboard(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{1,31}(\([A-Za-z0-9_-]{1,32}\))?", text, re.ASCII):
        raise ValueError("is not an XKB layout")
    return text


@functools.cache
def _known_zones() -> frozenset[str]:
    """Empty where the machine has no tzdata."""
    return frozenset(zoneinfo.available_timezones())


def checked_timezone(text: str) -> str:
    """A machine without tzdata takes whatever has the form of a name; the image then ignores one it lacks."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z][A-Za-z0-9_+-]{0,31}){0,2}", text, re.ASCII):
        raise ValueError("is not the name of a time zone")
    if _known_zones() and text not in _known_zones():
        raise ValueError(f"{text!r} is not a known time zone")
    return text


def normal_url(text: str) -> str:
    """The URL as a browser understands it: lower-case host, everything that is not ASCII encoded."""
    # Before it is parsed, as browsers and parsers silently drop some of these.
    if re.search(r"[\x00-\x20\x7f-\x9f]", text):
        raise ValueError("has a space or a control character in it")
    try:
        url = _HTTP_URL.validate_python(text)
    except ValidationError:
        raise ValueError("is not an http or https URL") from None
    if url.username is not None or url.password is not None:
        raise ValueError("has a user name or password in it")
    if max(len(text), len(str(url))) > LONGEST_URL:
        raise ValueError("is too long")
    return str(url)


def checked_command(text: str) -> str:
    if "\x00" in text:
        raise ValueError("has a NUL character in it")
    if not text.strip():
        raise ValueError("is empty")
    if len(text) > LONGEST_COMMAND:
        raise ValueError("is too long")
    return text


def checked_env(variables: dict[str, str]) -> dict[str, str]:
    """The variables as they are. What is wrong is said without a value, which may be a secret."""
    for name in variables:
        if name in FIELD_OF_VARIABLE:
            raise ValueError(f"{name} has a field of its own: give it as `{FIELD_OF_VARIABLE[name]}`")
    return checked_variables(variables)


def checked_variables(variables: dict[str, str]) -> dict[str, str]:
    """The same where no variable has a field of its own."""
    if len(variables) > MOST_VARIABLES:
        raise ValueError(f"has {len(variables)} entries, more than {MOST_VARIABLES}")
    size = 0
    for name, value in variables.items():
        _check_variable(name, value)
        size += len(name) + len(value.encode())
    if size > MOST_ENV_BYTES:
        raise ValueError(f"is {size} bytes long, more than {MOST_ENV_BYTES}")
    return variables


def _check_variable(name: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name, re.ASCII):
        raise ValueError(f"{name[:40]!r} is not the name of an environment variable")
    if name == RESERVED_VARIABLE or name.startswith(RESERVED_PREFIXES):
        raise ValueError(f"{name} is reserved: leave it out")
    if "\x00" in value:
        raise ValueError(f"{name} has a NUL character in its value")
    if len(value.encode()) > LONGEST_VALUE_BYTES:
        raise ValueError(f"{name} has a value longer than {LONGEST_VALUE_BYTES} bytes")


Locale = Annotated[str, AfterValidator(normal_locale)]
Keyboard = Annotated[str, AfterValidator(checked_keyboard)]
Timezone = Annotated[str, AfterValidator(checked_timezone)]
OpenUrl = Annotated[str, AfterValidator(normal_url)]
Command = Annotated[str, AfterValidator(checked_command)]
Env = Annotated[dict[str, str], AfterValidator(checked_env)]
"""Environment of a new desktop beside what has a field of its own: name -> value."""


class DesktopOptions(Frozen):
    """What one desktop starts with; None: as its image is made."""

    open_url: OpenUrl | None = Field(None, description=OPEN_URL_WANTED)
    command: Command | None = Field(None, description=COMMAND_WANTED)
    locale: Locale | None = Field(None, description=LOCALE_WANTED)
    keyboard: Keyboard | None = Field(None, description=KEYBOARD_WANTED)
    timezone: Timezone | None = Field(None, description=TIMEZONE_WANTED)

    def as_environment(self) -> dict[str, str]:
        """The container's variables for what was given; no value of `Env` can be among them."""
        given = {
            "OPEN_URL": self.open_url,
            "OPEN_COMMAND": self.command,
            "LANG": self.locale,
            "KEYBOARD": self.keyboard,
            "TZ": self.timezone,
        }
        return {name: value for name, value in given.items() if value is not None}
