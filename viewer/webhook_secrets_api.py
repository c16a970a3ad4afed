"""API v1: the secrets that outside systems sign their events with. Each is shown once, when it is made."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response

from viewer.access import needs, principal, public_origin
from viewer.answers import json_answer
from viewer.credentials import seal_secret
from viewer.incoming import CreateWebhookSecret, RotateWebhookSecret, json_body
from viewer.model import Role, Scope
from viewer.openapi import Answer, Operation, describes
from viewer.problems import Problem
from viewer.public import NewWebhookSecret, PublicWebhookSecret, WebhookSecretList
from viewer.services import services
from viewer.signatures import new_webhook_secret
from viewer.webhook_secrets import (
    MOST_SECRETS,
    SecretOver,
    TooManySecrets,
    WebhookSecret,
    WebhookSecretStore,
    events_address,
)

webhook_secrets_api = Blueprint("webhook_secrets", __name__, url_prefix="/api/v1/webhook-secrets")


@webhook_secrets_api.get("")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="List the secrets that events are signed with, newest first",
        answers={200: Answer("All of your tenant's; none is shown itself.", WebhookSecretList)},
    )
)
def list_webhook_secrets() -> Response:
    found = _secrets().list(principal().tenant)
    return json_answer(WebhookSecretList(items=tuple(_public(one) for one in found)))


@webhook_secrets_api.post("")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Make a secret for a system that posts events",
        body=CreateWebhookSecret,
        answers={201: Answer("It is shown this once.", NewWebhookSecret)},
        problems=(400, 409, 413, 415, 422),
    )
)
def create_webhook_secret() -> Response:
    asked, who = json_body(CreateWebhookSecret), principal()
    secret = new_webhook_secret()
    try:
        made = _secrets().add(who.tenant, asked.label, _sealed(secret), by=who.id)
    except TooManySecrets as error:
        raise _too_many() from error
    return json_answer(_shown_once(made, secret), 201)


@webhook_secrets_api.post("/<secret_id>/rotate")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Put a new secret in the place of one, which is good for a while still",
        body=RotateWebhookSecret,
        answers={201: Answer("The new one; it is shown this once.", NewWebhookSecret)},
        problems=(400, 404, 409, 413, 415, 422),
    )
)
def rotate_webhook_secret(secret_id: str) -> Response:
    asked, who = json_body(RotateWebhookSecret), principal()
    secret = new_webhook_secret()
    overlap = timedelta(seconds=asked.overlap_seconds)
    try:
        made = _secrets().rotate(who.tenant, secret_id, _sealed(secret), by=who.id, overlap=overlap)
    except SecretOver as error:
        raise Problem(
            409,
            "secret-over",
            "Another one took its place already",
            "It is revoked or was rotated before; rotate the one that followed it, or make a new one.",
        ) from error
    except TooManySecrets as error:
        raise _too_many() from error
    return json_answer(_shown_once(made, secret), 201)


@webhook_secrets_api.delete("/<secret_id>")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Revoke a secret: what is signed with it is refused from now on",
        answers={204: Answer("It is good no more.")},
        problems=(404,),
    )
)
def revoke_webhook_secret(secret_id: str) -> Response:
    _secrets().revoke(principal().tenant, secret_id)
    return Response(status=204)


def _secrets() -> WebhookSecretStore:
    return services().store.webhook_secrets


def _sealed(secret: str) -> str:
    return seal_secret(secret, services().settings.secret_key)


def _public(one: WebhookSecret) -> PublicWebhookSecret:
    return PublicWebhookSecret.model_validate(one.model_dump(exclude={"tenant_id"}))


def _shown_once(made: WebhookSecret, secret: str) -> NewWebhookSecret:
    return NewWebhookSecret(
        **made.model_dump(exclude={"tenant_id"}), secret=secret, url=events_address(public_origin(), made.id)
    )


def _too_many() -> Problem:
    return Problem(
        409,
        "too-many-secrets",
        "Your tenant has enough secrets",
        f"There are {MOST_SECRETS} good webhook secrets already; revoke one that is no longer used.",
    )
