"""API v1: webhook endpoints of the caller's tenant, and the log of what was sent to them. Admins only."""

from __future__ import annotations

from datetime import datetime

from flask import Blueprint, Response

from viewer.access import needs, principal
from viewer.answers import json_answer
from viewer.credentials import seal_secret
from viewer.deliveries.addresses import AddressPolicy, UrlRefused
from viewer.deliveries.model import (
    FORMER_SECRET_LIFE,
    MOST_ENDPOINTS,
    TEST_TYPE,
    Delivery,
    Endpoint,
)
from viewer.deliveries.public import (
    CreateWebhook,
    DeliveryList,
    DeliveryQuery,
    PatchWebhook,
    PublicAttempt,
    PublicDelivery,
    PublicWebhook,
    WebhookList,
    WebhookWithSecret,
)
from viewer.deliveries.store import (
    EndpointChanges,
    EndpointDisabled,
    LoggedDelivery,
    NewEndpoint,
    TooManyEndpoints,
    WebhookStore,
)
from viewer.incoming import json_body, query
from viewer.model import Frozen, Role, Scope
from viewer.openapi import Answer, Operation, describes
from viewer.problems import FieldError, Problem, wrong_fields
from viewer.services import services
from viewer.signatures import new_webhook_secret

webhook_api = Blueprint("webhooks", __name__, url_prefix="/api/v1/webhooks")


class Trial(Frozen):
    """The body of a trial delivery."""

    type: str
    timestamp: datetime
    data: dict[str, str]


@webhook_api.get("")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(summary="List webhook endpoints", answers={200: Answer("All of your tenant's.", WebhookList)})
)
def list_webhooks() -> Response:
    return json_answer(WebhookList(items=tuple(_public(one) for one in _mine().list())))


@webhook_api.post("")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Have events sent to an address from now on",
        body=CreateWebhook,
        answers={201: Answer("The endpoint with its secret, which is not shown again.", WebhookWithSecret)},
        problems=(400, 409, 413, 415, 422),
    )
)
def create_webhook() -> Response:
    asked = json_body(CreateWebhook)
    _check_url(asked.url)
    secret = new_webhook_secret()
    new = NewEndpoint(
        url=asked.url,
        label=asked.label,
        types=asked.types,
        secret_sealed=_seal(secret),
        created_by=principal().id,
    )
    try:
        return json_answer(_with_secret(_mine().create(new), secret), 201)
    except TooManyEndpoints as error:
        raise Problem(
            409,
            "too-many-webhooks",
            "Too many webhook endpoints",
            f"Your tenant has {MOST_ENDPOINTS} endpoints, which is as many as it may have; delete one first.",
        ) from error


@webhook_api.get("/<endpoint_id>")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(summary="One webhook endpoint", answers={200: Answer("It.", PublicWebhook)}, problems=(404,))
)
def get_webhook(endpoint_id: str) -> Response:
    return json_answer(_public(_mine().get(endpoint_id)))


@webhook_api.patch("/<endpoint_id>")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Change, disable or enable a webhook endpoint",
        body=PatchWebhook,
        answers={200: Answer("It. Once enabled, it gets the events from then on.", PublicWebhook)},
        problems=(400, 404, 413, 415, 422),
    )
)
def change_webhook(endpoint_id: str) -> Response:
    asked = json_body(PatchWebhook)
    changes: EndpointChanges = {}
    if asked.url is not None:
        _check_url(asked.url)
        changes["url"] = asked.url
    if asked.types is not None:
        changes["types"] = asked.types
    if asked.label is not None:
        changes["label"] = asked.label
    if asked.enabled is not None:
        changes["enabled"] = asked.enabled
    return json_answer(_public(_mine().change(endpoint_id, **changes)))


@webhook_api.delete("/<endpoint_id>")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Delete a webhook endpoint with its log",
        answers={204: Answer("It is gone.")},
        problems=(404,),
    )
)
def delete_webhook(endpoint_id: str) -> Response:
    _mine().delete(endpoint_id)
    return Response(status=204)


@webhook_api.post("/<endpoint_id>/rotate")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Sign with a new secret, and for 24 hours with the former one too",
        answers={200: Answer("The endpoint with its new secret, shown once.", WebhookWithSecret)},
        problems=(404,),
    )
)
def rotate_webhook_secret(endpoint_id: str) -> Response:
    secret = new_webhook_secret()
    endpoint = _mine().rotate(endpoint_id, _seal(secret), former_life=FORMER_SECRET_LIFE)
    return json_answer(_with_secret(endpoint, secret))


@webhook_api.post("/<endpoint_id>/test")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Send a trial delivery of the type `webhook.test`",
        answers={202: Answer("It is on its way; the log says how it went.", PublicDelivery)},
        problems=(404, 409),
    )
)
def try_webhook(endpoint_id: str) -> Response:
    def compose(at: datetime) -> str:
        return Trial(type=TEST_TYPE, timestamp=at, data={"endpoint_id": endpoint_id}).model_dump_json()

    try:
        return json_answer(_public_delivery(_mine().try_out(endpoint_id, compose)), 202)
    except EndpointDisabled as error:
        raise _disabled() from error


@webhook_api.get("/<endpoint_id>/deliveries")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="What was sent to a webhook endpoint, and how that went",
        query=DeliveryQuery,
        answers={200: Answer("One page, newest first.", DeliveryList)},
        problems=(400, 404, 422),
    )
)
def list_deliveries(endpoint_id: str) -> Response:
    asked = query(DeliveryQuery)
    page = _mine().deliveries(endpoint_id, asked.status, asked.cursor, asked.limit)
    return json_answer(
        DeliveryList(items=tuple(_logged(one) for one in page.items), next_cursor=page.next_cursor)
    )


@webhook_api.post("/<endpoint_id>/deliveries/<delivery_id>/retry")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Attempt a delivery now, also one that arrived or was given up",
        answers={202: Answer("It is due now, under the same `webhook-id`.", PublicDelivery)},
        problems=(404, 409),
    )
)
def retry_delivery(endpoint_id: str, delivery_id: str) -> Response:
    try:
        return json_answer(_public_delivery(_mine().retry(endpoint_id, delivery_id)), 202)
    except EndpointDisabled as error:
        raise _disabled() from error


def _mine() -> WebhookStore:
    return services().store.webhooks(principal().tenant)


def _check_url(url: str) -> None:
    try:
        AddressPolicy.of(services().settings).check_url(url)
    except UrlRefused as refusal:
        mend = f"give {CreateWebhook.model_fields['url'].description}"
        raise wrong_fields([FieldError(field="url", message=str(refusal), mend=mend)]) from refusal


def _seal(secret: str) -> str:
    return seal_secret(secret, services().settings.secret_key)


def _disabled() -> Problem:
    return Problem(
        409,
        "webhook-disabled",
        "The endpoint is disabled",
        "Nothing is sent to a disabled endpoint; enable it first.",
    )


def _public(endpoint: Endpoint) -> PublicWebhook:
    return PublicWebhook.model_validate(_shown(endpoint))


def _with_secret(endpoint: Endpoint, secret: str) -> WebhookWithSecret:
    return WebhookWithSecret.model_validate({**_shown(endpoint), "secret": secret})


def _shown(endpoint: Endpoint) -> dict[str, object]:
    names = set(PublicWebhook.model_fields) - {"enabled"}
    return {**{name: getattr(endpoint, name) for name in names}, "enabled": endpoint.disabled_at is None}


def _logged(one: LoggedDelivery) -> PublicDelivery:
    attempts = tuple(PublicAttempt.model_validate(attempt.model_dump()) for attempt in one.attempts)
    return _public_delivery(one.delivery, attempts)


def _public_delivery(delivery: Delivery, attempts: tuple[PublicAttempt, ...] = ()) -> PublicDelivery:
    return PublicDelivery(
        id=delivery.id,
        webhook_id=delivery.message_id,
        type=delivery.type,
        event_id=delivery.event_id,
        status=delivery.status,
        next_attempt_at=delivery.next_attempt_at,
        attempts=attempts,
        created_at=delivery.created_at,
        finished_at=delivery.finished_at,
    )
