"""What OpenSandbox's clients send, in its lifecycle API's own field names (server 1.1.1), as types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import parse_qsl

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    model_validator,
)

from viewer.incoming import SHORTEST_TTL_SECONDS, Labels, checked_labels
from viewer.sandbox_hosts import SandboxState

MOST_ARGUMENTS = 200
LONGEST_ARGUMENT = 4096
LARGEST_PAGE = 1_000_000
_METADATA_WANTED = "at most 32 names with a value each, in the syntax of Kubernetes labels"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def what_is_unknown_and_asks_for_nothing_may_pass(cls, value: Any) -> Any:
        """A newer client names what it does not want: `null`, `false`, an empty list."""
        if not isinstance(value, Mapping):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: given for name, given in value.items() if name in known or given not in _NOTHING}


_NOTHING: tuple[object, ...] = (None, False, "", [], {})


class ImageCredentials(_Body):
    username: str = Field(min_length=1, max_length=255, description="the registry's user name")
    password: str = Field(min_length=1, max_length=8192, repr=False, description="his password or token")


def _plain_reference(text: str) -> str:
    if not text.isascii() or any(not character.isprintable() or character.isspace() for character in text):
        raise ValueError("is not the address of an image")
    return text


class WantedImage(_Body):
    """uri: the name, an alias or the address of an image of the catalogue, or any other image's address."""

    uri: Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_plain_reference)]
    auth: ImageCredentials | None = None


def _argument(text: str) -> str:
    if "\x00" in text:
        raise ValueError("has a NUL character in it")
    return text


Argument = Annotated[str, StringConstraints(max_length=LONGEST_ARGUMENT), AfterValidator(_argument)]


class CreateSandbox(_Body):
    """POST /sandboxes. What is not to be had is named too, so that it is refused with a reason of its own."""

    image: WantedImage | None = Field(None, description="an object with `uri`, and `auth` where it is needed")
    entrypoint: list[Argument] | None = Field(
        None,
        min_length=1,
        max_length=MOST_ARGUMENTS,
        description="a list of a program and its arguments",
    )
    timeout: int | None = Field(
        None, ge=SHORTEST_TTL_SECONDS, description="a whole number of seconds, at least 60, or null"
    )
    resource_limits: dict[str, str] = Field(
        default_factory=dict, alias="resourceLimits", description="an object with `cpu`, `memory` or both"
    )
    env: dict[str, str] | None = Field(
        None, repr=False, description="names of environment variables with a string each"
    )
    metadata: Labels | None = Field(None, description=_METADATA_WANTED)

    snapshot_id: object = Field(None, alias="snapshotId")
    template_id: object = Field(None, alias="templateId")
    platform: object = None
    resource_requests: object = Field(None, alias="resourceRequests")
    lifecycle: object = None
    network_policy: object = Field(None, alias="networkPolicy")
    credential_proxy: object = Field(None, alias="credentialProxy")
    secure_access: object = Field(None, alias="secureAccess")
    volumes: object = None
    extensions: object = None

    def asks_for(self, field: str) -> bool:
        return getattr(self, field) not in _NOTHING


def _as_utc(value: datetime) -> datetime:
    """A time without a zone is UTC, as it is to OpenSandbox."""
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is no time in UTC") from None


class RenewExpiration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    expires_at: Annotated[datetime, AfterValidator(_as_utc)] = Field(
        alias="expiresAt", description="a time in the future such as 2030-01-31T12:00:00Z"
    )


class PatchMetadata(RootModel[dict[str, str | None]]):
    """A JSON merge patch: a value sets, null takes away, what is not named stays."""

    model_config = ConfigDict(frozen=True, strict=True)


def _state(text: str) -> str:
    if text not in list(SandboxState):
        raise ValueError(f"{text[:40]!r} is not a state")
    return text


def _labels_in(text: str) -> dict[str, str]:
    """`a=1&b=2`, each part encoded as in a query string, as labels. Raises ValueError."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True) if text else []
    except ValueError:
        raise ValueError("is not NAME=VALUE, joined by &") from None
    return checked_labels(dict(pairs))


class SandboxListQuery(BaseModel):
    """All given conditions hold; `state` may be given several times and means any of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: tuple[Annotated[str, AfterValidator(_state)], ...] = Field(
        (), description=f"one of {', '.join(SandboxState)}"
    )
    metadata: Annotated[dict[str, str], BeforeValidator(_labels_in)] = Field(
        default_factory=dict, description="NAME=VALUE, joined by & and encoded"
    )
    page: int = Field(1, ge=1, le=LARGEST_PAGE, description=f"a whole number from 1 to {LARGEST_PAGE}")
    page_size: int = Field(20, ge=1, le=200, alias="pageSize", description="a whole number from 1 to 200")


class EndpointQuery(BaseModel):
    """`use_server_proxy` changes nothing: every port is reached through Deskfleet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use_server_proxy: bool = Field(False, description="true or false")
    expires: str | None = None


class DiagnosticsQuery(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    scope: str | None = None
