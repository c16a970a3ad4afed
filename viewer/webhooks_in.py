"""Where outside systems post their events: with a tenant's key, or signed with a tenant's secret.

A cookie is no credential here, so that no page can post in a person's name. The tenant is the one whose key
or secret it is; nothing in the body chooses it.
"""

from __future__ import annotations

import hashlib
import logging

from flask import Blueprint, Response, request

from viewer.access import authenticate, client_address, needs, principal
from viewer.accounts import Credential
from viewer.attempts import of_signatures
from viewer.creating import limits, quota_exceeded, too_many_creating
from viewer.credentials import SealBroken, open_secret
from viewer.document_content import UnusableContent
from viewer.documents import DocumentsFull
from viewer.event_intake import Adoption, Message, MessageReused
from viewer.incoming import SourceQuery, json_body, query, read_body
from viewer.model import Display, Principal, Role, Scope, Via, utcnow
from viewer.new_sessions import (
    MOST_SOUGHT,
    NewSession,
    QuotaExceeded,
    TooManyCreating,
    TooManySought,
)
from viewer.openapi import Answer, Operation, describes
from viewer.openclaw import (
    NewsRefused,
    NotNews,
    OpenClawEvent,
    SandboxContent,
    document_of,
    mission_of,
    sandbox_content,
)
from viewer.problems import (
    FieldError,
    Problem,
    documents_full,
    from_validation,
    not_found,
    role_too_small,
    wrong_fields,
)
from viewer.public import EventTaken
from viewer.rows import SessionNotFound
from viewer.run_news import (
    LONGEST_ERROR,
    LONGEST_TITLE,
    BroughtDocument,
    RunNews,
    SandboxNews,
    one_line,
)
from viewer.services import services
from viewer.signatures import (
    SignedMessage,
    Stale,
    Unsigned,
    checked_id,
    new_webhook_secret,
    signed_message,
    signer,
)
from viewer.webhook_secrets import MOST_TRIED, SecretNotFound

webhooks_in = Blueprint("webhooks_in", __name__)

_log = logging.getLogger("deskfleet.viewer")
_DECOYS = tuple(new_webhook_secret() for _ in range(3))
_HEADERS = {
    "webhook-id": "The sender's own id of the event, the same when it is sent again.",
    "webhook-timestamp": "When it was signed, in seconds since 1970; at most five minutes off.",
    "webhook-signature": "`v1,…` of one of your tenant's webhook secrets, or several with spaces between"
    " them; in place of a key.",
}


def sender(role: Role) -> Principal:
    """The door of this module's routes: whose key or signature it is, or the problem that says why not."""
    if "Authorization" in request.headers:
        return _holder_of_key(role)
    if "webhook-signature" in request.headers:
        return _signer()
    raise Problem(
        401,
        "no-credential",
        "Say who you are",
        "Send `Authorization: Bearer <key>`, or sign the event as Standard Webhooks says"
        " (webhook-id, webhook-timestamp, webhook-signature) with a webhook secret of your tenant.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _operation(summary: str) -> Operation:
    return Operation(
        summary=summary,
        body=OpenClawEvent,
        query=SourceQuery,
        headers=_HEADERS,
        answers={200: Answer("It was taken; sent again, it gets the same answer.", EventTaken)},
        problems=(400, 404, 409, 413, 415, 422, 429),
    )


@webhooks_in.post("/webhooks/openclaw")
@needs(Role.OPERATOR, scope=Scope.EVENTS, door=sender)
@describes(_operation("Take an event of an OpenClaw host"))
def take_openclaw_event() -> Response:
    return _taken()


@webhooks_in.post("/openclaw/event")
@needs(Role.OPERATOR, scope=Scope.EVENTS, door=sender)
@describes(_operation("The same, at the address that OpenClaw's own hooks post to"))
def take_openclaw_event_of_hook() -> Response:
    return _taken()


def _taken() -> Response:
    who = principal()
    try:
        return _effect_of_event(who)
    except (Problem, SessionNotFound) as refusal:
        problem = refusal if isinstance(refusal, Problem) else not_found()
        why = problem.document.type.rpartition(":")[2]
        services().store.refused_events.note(who.tenant, who.id, why, problem.status)
        raise


def _effect_of_event(who: Principal) -> Response:
    query(SourceQuery)
    event = json_body(OpenClawEvent)
    content, brought = _content_of(event), _document_of(event)
    news, message, adoption = _news(event, content, brought), _message(), _adoption(content, who)
    try:
        taken = services().store.intake(who.tenant).take(news, message, by=who.id, adoption=adoption)
    except MessageReused as error:
        raise Problem(
            409,
            "id-reused",
            "That id was another event's",
            "Another event was sent under this webhook-id; give each event an id of its own.",
        ) from error
    except TooManySought as error:
        raise Problem(
            429,
            "too-many-sought",
            "Too many sandboxes are looked for",
            f"Hosts are being asked for {MOST_SOUGHT} sandboxes that your tenant named; try again later.",
            headers={"Retry-After": "30"},
        ) from error
    except TooManyCreating as error:
        raise too_many_creating() from error
    except QuotaExceeded as error:
        raise quota_exceeded(error) from error
    except DocumentsFull as error:
        raise documents_full(error) from error
    headers = {"Idempotent-Replayed": "true"} if taken.is_replay else {}
    return Response(taken.answer, headers=headers, content_type="application/json")


def _news(event: OpenClawEvent, content: SandboxContent | None, brought: BroughtDocument | None) -> RunNews:
    sandbox = None
    if content is not None:
        error = one_line(content.error, LONGEST_ERROR)
        sandbox = SandboxNews(event=content.event, sandbox_id=content.sandbox_id, error=error)
    return RunNews(
        run_id=event.run_id,
        mission=_mission_of(event),
        agent=event.agent_id,
        title=one_line(event.prompt, LONGEST_TITLE),
        sandbox=sandbox,
        document=brought,
    )


def _content_of(event: OpenClawEvent) -> SandboxContent | None:
    try:
        return sandbox_content(event)
    except NotNews as error:
        raise _wrong(error) from error
    except NewsRefused as error:
        found = from_validation(error.problem, SandboxContent).document.errors or ()
        raise wrong_fields(
            [one.model_copy(update={"field": f"document.content.{one.field}"}) for one in found]
        ) from error


def _document_of(event: OpenClawEvent) -> BroughtDocument | None:
    try:
        return document_of(event)
    except UnusableContent as error:
        wrong = FieldError(field=f"document.{error.field}", message=str(error), mend=error.mend)
        raise wrong_fields([wrong]) from error


def _mission_of(event: OpenClawEvent) -> str | None:
    try:
        return mission_of(event.session_key)
    except NotNews as error:
        raise _wrong(error) from error


def _wrong(error: NotNews) -> Problem:
    return wrong_fields([FieldError(field=error.field, message=str(error), mend=error.mend)])


def _message() -> Message:
    """How it is known again: by its sender's id, else by its very bytes."""
    digest = hashlib.sha256(read_body()).hexdigest()
    given = request.headers.get("webhook-id")
    if given is None:
        return Message(id=digest, is_digest=True, body_sha256=digest)
    try:
        return Message(id=checked_id(given), is_digest=False, body_sha256=digest)
    except Unsigned as error:
        raise _unsigned(error) from error


def _adoption(content: SandboxContent | None, who: Principal) -> Adoption | None:
    """The session that its sandbox becomes if it is none of ours; None where no host gives any away."""
    here = services().settings
    if content is None or not content.event.is_there or not here.hosts_giving_to(who.tenant):
        return None
    known = here.image(content.image or here.default_image)
    image = known or here.image_for(content.image or here.default_image)
    reserved = limits(None, None, image)
    new = NewSession(
        # An image of nobody's has its address for a name.
        image=known.name if known else image.uri,
        display=image.display,
        resolution=content.resolution if image.display is not Display.NONE else None,
        via=Via.WEBHOOK,
        cpu_millis=reserved.cpu_millis,
        memory_mib=reserved.memory_mib,
        ttl_seconds=here.default_ttl_seconds,
        idle_seconds=here.idle_seconds,
        lifetime_seconds=here.max_lifetime_seconds,
        created_by=who.id,
    )
    return Adoption(new=new, quota=here.quota(who.tenant))


# --- who sends ------------------------------------------------------------------------------------------


def _holder_of_key(role: Role) -> Principal:
    found = authenticate(Credential(authorization=request.headers["Authorization"], cookie=None))
    if not found.role.covers(role):
        raise role_too_small(role, found.role)
    return found


def _signer() -> Principal:
    store, address = services().store, client_address()
    bucket = of_signatures(address)
    seconds = store.attempts.seconds_to_wait(bucket)
    if seconds:
        raise _too_many_signatures(seconds)
    message, source = _signed_message(), query(SourceQuery).source
    found = _secret_of(message, source)
    if found is None:
        store.attempts.failed(bucket)
        store.refused_events.note(_tenant_named_by(source), address, "bad-signature", 401)
        raise Problem(
            401,
            "bad-signature",
            "The signature is not right",
            "It is of no good webhook secret: check the secret, and that the body is sent exactly as it was"
            " signed. `?source=<id of the secret>` says whose it is.",
        )
    secret_id, tenant = found
    store.webhook_secrets.note_use(secret_id)
    return Principal(id=f"webhook_secret:{secret_id}", tenant=tenant, role=Role.OPERATOR, via="signature")


def _tenant_named_by(source: str | None) -> str | None:
    try:
        return None if source is None else services().store.webhook_secrets.tenant_of(source)
    except SecretNotFound:
        return None


def _too_many_signatures(seconds: int) -> Problem:
    return Problem(
        429,
        "too-many-attempts",
        "Too many attempts",
        f"Too many events from your address were signed wrongly; try again in {seconds} s.",
        headers={"Retry-After": str(seconds)},
    )


def _signed_message() -> SignedMessage:
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    message_id, timestamp, signature = (request.headers.get(name) for name in names)
    try:
        return signed_message(message_id, timestamp, signature, read_body(), now=utcnow())
    except Unsigned as error:
        raise _unsigned(error) from error
    except Stale as error:
        raise Problem(
            401,
            "stale-signature",
            "It was signed at another time",
            "webhook-timestamp is more than five minutes off; sign it when it is sent, and set the clock.",
        ) from error


def _unsigned(error: Unsigned) -> Problem:
    mend = "sign the event as Standard Webhooks says, or send a key"
    return wrong_fields([FieldError(field=error.field, message=str(error), mend=mend)], status=400)


def _secret_of(message: SignedMessage, source: str | None) -> tuple[str, str] | None:
    """Id and tenant of the secret that signed it. As much work for a wrong signature as for a right one, and
    whatever there is to try."""
    here = services()
    known: list[tuple[str, str]] = []
    tenants: dict[str, str] = {}
    for one in here.store.webhook_secrets.candidates(source):
        tenants[one.id] = one.tenant_id
        try:
            known.append((one.id, open_secret(one.sealed, here.settings.secret_key)))
        except SealBroken:
            _log.warning("webhook secret %s was sealed under another key; make a new one", one.id)
    found = signer(message, known, tries=MOST_TRIED, decoys=_DECOYS)
    return None if found is None else (found, tenants[found])
