"""What the API of webhooks takes and gives. A secret is in the answer to the request that made it, alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from viewer.deliveries.model import EVENT_TYPES, ONLY_WHEN_NAMED, DeliveryStatus, WebhookType
from viewer.model import EventType, Frozen

_URL_WANTED = "an https address of the public internet, such as https://example.com/hooks/deskfleet"
_TYPES_WANTED = (
    f"any of {', '.join(EVENT_TYPES)}, each once; an empty list for all but {', '.join(ONLY_WHEN_NAMED)}"
)
_LABEL_WANTED = "0 to 200 printable characters"

Url = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
HookLabel = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


def _each_once(types: tuple[EventType, ...]) -> tuple[EventType, ...]:
    if len(set(types)) != len(types):
        raise ValueError("names a type twice")
    return types


# Not strict, because JSON has lists and no tuples.
Types = Annotated[tuple[EventType, ...], Field(strict=False), AfterValidator(_each_once)]


class CreateWebhook(BaseModel):
    """A new endpoint. It gets the events from now on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: Url = Field(description=_URL_WANTED)
    types: Types = Field((), description=_TYPES_WANTED)
    label: HookLabel = Field("", description=_LABEL_WANTED)


class PatchWebhook(BaseModel):
    """What is not given stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: Url | None = Field(None, description=_URL_WANTED)
    types: Types | None = Field(None, description=_TYPES_WANTED)
    label: HookLabel | None = Field(None, description=_LABEL_WANTED)
    enabled: bool | None = Field(None, description="true or false")


class DeliveryQuery(BaseModel):
    """The query string of a list of deliveries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: DeliveryStatus | None = Field(None, description="pending, delivered, failed or cancelled")
    limit: int = Field(50, ge=1, le=200, description="a whole number from 1 to 200")
    cursor: str | None = Field(None, max_length=200, description="the `next_cursor` of the page before")


class PublicWebhook(Frozen):
    """An endpoint, without its secret."""

    id: str
    url: str
    label: str
    types: tuple[EventType, ...] = Field(
        description="Which events it gets; empty: all of them but `session.lease`."
    )
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None = Field(
        description="The first failed attempt since the last that succeeded; after 5 days it is disabled."
    )
    former_secret_ends_at: datetime | None = Field(
        description="Until then deliveries are signed with the secret before the last rotation, too."
    )
    created_by: str
    created_at: datetime
    updated_at: datetime


class WebhookWithSecret(PublicWebhook):
    """The only answer that has the secret: keep it."""

    secret: str = Field(repr=False, description="`whsec_…`; it is not shown again.")


class WebhookList(Frozen):
    """Newest first; a tenant has 10 at most."""

    items: tuple[PublicWebhook, ...]


class PublicAttempt(Frozen):
    at: datetime
    took_ms: int
    status_code: int | None = Field(description="Null when no answer came.")
    error: str | None = Field(description="Why it failed; null for a success.")


class PublicDelivery(Frozen):
    """One event on its way to one endpoint, and what its attempts met with."""

    id: str
    webhook_id: str = Field(description="The header `webhook-id` of every attempt.")
    type: WebhookType
    event_id: int | None = Field(description="As in the event stream; null for a trial.")
    status: DeliveryStatus
    next_attempt_at: datetime | None
    attempts: tuple[PublicAttempt, ...] = Field(description="Oldest first, the newest 20 of them.")
    created_at: datetime
    finished_at: datetime | None


class DeliveryList(Frozen):
    """Newest first."""

    items: tuple[PublicDelivery, ...]
    next_cursor: str | None
