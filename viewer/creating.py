"""From a request for a desktop to the row that asks for it, once for every API that takes one."""

from __future__ import annotations

import hashlib
import time

from flask import request

from viewer import metrics
from viewer.access import principal
from viewer.credentials import new_vnc_password, seal_order, seal_secret
from viewer.desktop_options import DesktopOptions
from viewer.incoming import SHORTEST_TTL_SECONDS, CreateSession
from viewer.model import Display, Session, Status, Via
from viewer.order import Order
from viewer.problems import FieldError, Problem, unknown_name, wrong_fields
from viewer.resources import Resources
from viewer.services import services
from viewer.settings import ImageSettings, Settings
from viewer.store import (
    MOST_CREATING,
    Created,
    KeyReused,
    NewSession,
    Once,
    QuotaExceeded,
    TooManyCreating,
)
from viewer.waiting import is_host_silent

LONGEST_KEY = 255


def create(new: NewSession, once: Once | None, *, may_be_warm: bool) -> Created:
    """Write the session down, within its tenant's quota; raise the problem that says why not."""
    here, tenant = services(), principal().tenant
    began = time.monotonic()
    try:
        made = here.store.tenant(tenant).create(
            new, quota=here.settings.quota(tenant), once=once, may_be_warm=may_be_warm
        )
    except TooManyCreating as error:
        raise too_many_creating() from error
    except QuotaExceeded as error:
        raise quota_exceeded(error) from error
    except KeyReused as error:
        raise key_reused() from error
    if made.session.is_warm and not made.is_replay:
        metrics.create_took("total", time.monotonic() - began, image=new.image, warm=True)
    return made


def failed_create(session: Session) -> Problem:
    """The row stays, as `error` or `terminated`; the problem names it."""
    if session.status is Status.TERMINATED:
        return Problem(
            409,
            "ended-while-created",
            "It was ended while it was being made",
            "Somebody ended this session before the desktop was ready; create another one.",
            session_id=session.id,
        )
    # No host had room or answered, or the one that was chosen has gone silent: the request itself was fine.
    later = session.host is None or is_host_silent(session)
    return Problem(
        503 if later else 502,
        "create-failed",
        "The desktop could not be made",
        session.error_message or "The sandbox host gave no reason; see the worker's log.",
        headers={"Retry-After": "10"} if later else {},
        session_id=session.id,
        error_message=session.error_message,
    )


def may_be_warm(wanted: CreateSession, order: Order) -> bool:
    """Could a desktop that was made in advance be the wanted one? Its image and limits are compared later."""
    return order.is_plain and not wanted.host_labels


def order_of(wanted: CreateSession) -> Order:
    options = {name: getattr(wanted, name) for name in DesktopOptions.model_fields}
    return Order(env=wanted.env, options=DesktopOptions(**options))


def new_session(wanted: CreateSession, order: Order) -> NewSession:
    """Raises the problem that names the field and what mends it."""
    settings = services().settings
    image = _image(wanted.image or settings.default_image)
    reserved = limits(wanted.resource_limits.cpu, wanted.resource_limits.memory, image)
    has_screen = image.display is not Display.NONE
    return NewSession(
        image=image.name,
        display=image.display,
        resolution=(wanted.resolution or settings.default_resolution) if has_screen else None,
        task_id=wanted.task_id,
        agent_id=wanted.agent_id,
        wanted_host=_host(wanted.host) if wanted.host is not None else None,
        wanted_labels=wanted.host_labels,
        may_queue=wanted.queue,
        via=Via.API,
        cpu_millis=reserved.cpu_millis,
        memory_mib=reserved.memory_mib,
        labels=wanted.labels,
        order_sealed=seal_order(order, settings.secret_key),
        ttl_seconds=ttl(wanted.ttl_seconds),
        idle_seconds=wanted.idle_seconds or settings.idle_seconds,
        lifetime_seconds=_lifetime(wanted.max_lifetime_seconds, settings),
        created_by=principal().id,
        vnc_password_sealed=vnc_password(image, settings),
    )


def once_of(body: bytes) -> Once | None:
    """The request's idempotency key with what it asks for; None without one. Raises 422."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        mend = f"give 1 to {LONGEST_KEY} printable ASCII characters, such as a UUID"
        raise wrong_fields([FieldError(field="Idempotency-Key", message="cannot be used", mend=mend)])
    return Once(key=key, body_sha256=hashlib.sha256(body).hexdigest())


def key_reused() -> Problem:
    wrong = FieldError(
        field="Idempotency-Key",
        message="was used for another request",
        mend="take a new one, or send the same body again",
    )
    return wrong_fields([wrong])


def limits(cpu: str | None, memory: str | None, image: ImageSettings) -> Resources:
    """What it reserves: as asked for, else as its image says."""
    return Resources.of(cpu or image.cpu, memory or image.memory)


def vnc_password(image: ImageSettings, settings: Settings) -> str | None:
    """A new one, sealed; None for an image without a screen."""
    if image.display is Display.NONE:
        return None
    return seal_secret(new_vnc_password(), settings.secret_key)


def ttl(seconds: int | None) -> int:
    settings = services().settings
    if seconds is None:
        return settings.default_ttl_seconds
    return _at_most(seconds, settings.max_ttl_seconds, "ttl_seconds")


def _lifetime(seconds: int | None, settings: Settings) -> int:
    if seconds is None:
        return settings.max_lifetime_seconds
    return _at_most(seconds, settings.max_lifetime_seconds, "max_lifetime_seconds")


def _at_most(seconds: int, most: int, field: str) -> int:
    if seconds > most:
        mend = f"give a whole number of seconds from {SHORTEST_TTL_SECONDS} to {most}"
        raise wrong_fields([FieldError(field=field, message=f"{seconds} is too long", mend=mend)])
    return seconds


def _image(name: str) -> ImageSettings:
    settings = services().settings
    image = settings.image(name)
    if image is None:
        raise unknown_name("image", name, [image.name for image in settings.images])
    return image


def _host(name: str) -> str:
    known = [host.name for host in services().settings.sandbox_hosts]
    if name not in known:
        raise unknown_name("host", name, known)
    return name


def too_many_creating() -> Problem:
    return Problem(
        429,
        "too-many-creating",
        "Too many desktops are being made",
        f"Your tenant has {MOST_CREATING} desktops in the making already; try again when some are ready.",
        headers={"Retry-After": "10"},
    )


def quota_exceeded(error: QuotaExceeded) -> Problem:
    return Problem(
        429,
        "quota-exceeded",
        "Your tenant has as much as it may",
        f"{str(error)[0].upper()}{str(error)[1:]}; end some, or ask the fleet's operator for more.",
        headers={"Retry-After": "30"},
    )
