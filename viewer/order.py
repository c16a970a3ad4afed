"""What a caller asked a sandbox to be made with, beside what the table can be asked for. Pure.

It is kept sealed (`viewer.credentials.seal`), because environments hold secrets.
"""

from __future__ import annotations

from pydantic import Field, SecretStr, field_serializer

from viewer.desktop_options import DesktopOptions
from viewer.model import Frozen

DEFAULT_ENTRYPOINT = ("tail", "-f", "/dev/null")
"""What the stock OpenSandbox client names where its caller names nothing."""


class ImageAuth(Frozen):
    """Who pulls the image from its registry."""

    username: str
    password: SecretStr

    @field_serializer("password", when_used="json")
    def _reveal_inside_the_seal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Order(Frozen):
    """entrypoint: instead of the image's own; beside it where the image has a display of ours.

    image_auth: None for the catalogue's own credentials. env: name -> value, as the caller gave them.
    """

    env: dict[str, str] = Field(default_factory=dict, repr=False)
    options: DesktopOptions = DesktopOptions()
    entrypoint: tuple[str, ...] | None = None
    image_auth: ImageAuth | None = None

    @property
    def is_plain(self) -> bool:
        """Nothing was asked for, so that a desktop made in advance serves as well."""
        return self == Order()
