"""From OpenSandbox's request for a sandbox to the row that asks for it."""

from __future__ import annotations

from pydantic import SecretStr, ValidationError

from viewer import logs
from viewer.access import principal
from viewer.creating import vnc_password
from viewer.credentials import seal_order
from viewer.desktop_options import ENV_WANTED, FIELD_OF_VARIABLE, DesktopOptions, checked_variables
from viewer.incoming import SHORTEST_TTL_SECONDS, normal_resolution
from viewer.model import Display, Frozen, Via
from viewer.opensandbox.incoming import CreateSandbox, WantedImage
from viewer.opensandbox.refusals import HOST_PATH, VOLUME, SandboxRefusal, not_supported
from viewer.order import DEFAULT_ENTRYPOINT, ImageAuth, Order
from viewer.problems import FieldError, Problem, unknown_name, wrong_fields
from viewer.resources import Resources, cpu_millis, memory_mib
from viewer.services import services
from viewer.settings import ImageSettings, Settings
from viewer.store import NewSession

_NOT_HERE = {
    "snapshot_id": "snapshotId: there are no snapshots here; name an `image`.",
    "template_id": "templateId: there are no templates here; name an `image`.",
    "platform": "platform: leave it out; every host of this fleet runs what its images are made for.",
    "resource_requests": "resourceRequests: leave them out; what `resourceLimits` says is reserved.",
    "lifecycle": "lifecycle: there are no hooks here; put what is to be run into `entrypoint`.",
    "network_policy": "networkPolicy: there is no egress control here; leave it out.",
    "credential_proxy": "credentialProxy: there is no credential proxy here; leave it out.",
    "secure_access": "secureAccess: leave it out; every port asks for your key already.",
    "extensions": "extensions: none has a meaning here; leave them out.",
}
"""What OpenSandbox may be asked for on a runtime that is not ours: field -> what to do instead."""


class Asked(Frozen):
    """may_be_warm: a desktop that was made in advance would do as well."""

    new: NewSession
    may_be_warm: bool


def asked_for(wanted: CreateSandbox) -> Asked:
    """What is to be written down. Raises the problem that names the field and what mends it."""
    _refuse_what_is_not_here(wanted)
    if wanted.image is None:
        raise _wrong("image", "is missing", "give an object with `uri`")
    settings = services().settings
    image = _image(wanted.image.uri, settings)
    start = _start(wanted, image)
    reserved = _reserved(wanted.resource_limits, image)
    has_screen = image.display is not Display.NONE
    new = NewSession(
        # An image of nobody's has its address for a name.
        image=image.name if settings.image(image.name) else image.uri,
        display=image.display,
        resolution=(start.resolution or settings.default_resolution) if has_screen else None,
        via=Via.OPENSANDBOX,
        cpu_millis=reserved.cpu_millis,
        memory_mib=reserved.memory_mib,
        labels=wanted.metadata or {},
        order_sealed=seal_order(start.order, settings.secret_key),
        ttl_seconds=_ttl(wanted.timeout, settings),
        idle_seconds=settings.idle_seconds,
        lifetime_seconds=settings.max_lifetime_seconds,
        created_by=principal().id,
        vnc_password_sealed=vnc_password(image, settings),
    )
    return Asked(new=new, may_be_warm=start.order.is_plain)


class _Start(Frozen):
    order: Order
    resolution: str | None


def _start(wanted: CreateSandbox, image: ImageSettings) -> _Start:
    env = wanted.env or {}
    lifted: dict[str, str] = {}
    if image.display is not Display.NONE:
        lifted = {name: value for name, value in env.items() if name in FIELD_OF_VARIABLE}
    try:
        rest = checked_variables({name: value for name, value in env.items() if name not in lifted})
    except ValueError as error:
        raise _wrong("env", str(error), f"give {ENV_WANTED}") from error
    order = Order(
        env=rest,
        options=_options(lifted),
        entrypoint=_entrypoint(wanted.entrypoint, image),
        image_auth=_image_auth(wanted.image),
    )
    return _Start(order=order, resolution=_resolution(lifted.get("RESOLUTION")))


def _options(lifted: dict[str, str]) -> DesktopOptions:
    """What our images take by environment has fields of its own with us, checked like any other."""
    given = {FIELD_OF_VARIABLE[name]: value for name, value in lifted.items() if name != "RESOLUTION"}
    try:
        return DesktopOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        variable = next(name for name, its in FIELD_OF_VARIABLE.items() if its == field)
        mend = f"give {DesktopOptions.model_fields[field].description}"
        raise _wrong(f"env.{variable}", first["msg"].removeprefix("Value error, "), mend) from error


def _resolution(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return normal_resolution(text)
    except ValueError as error:
        mend = "give WIDTHxHEIGHT such as 1280x800, from 640x480 to 3840x2160"
        raise _wrong("env.RESOLUTION", str(error), mend) from error


def _entrypoint(asked: list[str] | None, image: ImageSettings) -> tuple[str, ...] | None:
    """None where it asks for nothing else than the image does by itself."""
    program = tuple(asked) if asked else None
    if program == DEFAULT_ENTRYPOINT and (
        image.display is not Display.NONE or image.entrypoint in ((), DEFAULT_ENTRYPOINT)
    ):
        return None
    return program


def _image_auth(image: WantedImage | None) -> ImageAuth | None:
    if image is None or image.auth is None:
        return None
    logs.hide(image.auth.password)
    return ImageAuth(username=image.auth.username, password=SecretStr(image.auth.password))


def _image(name: str, settings: Settings) -> ImageSettings:
    """Of the catalogue by name, alias or address; any other one where the site allows it."""
    by_address = next((image for image in settings.images if image.uri == name), None)
    found = settings.image(name) or by_address
    if found is None and not settings.any_image:
        raise unknown_name("image.uri", name, [image.name for image in settings.images])
    return found or settings.image_for(name)


def _reserved(asked: dict[str, str], image: ImageSettings) -> Resources:
    """As asked for, else as the image says."""
    for name in asked:
        if name not in ("cpu", "memory"):
            mend = "leave it out; only `cpu` and `memory` can be limited"
            raise _wrong(f"resourceLimits.{name[:40]}", "is not to be had here", mend)
    cpu, memory = asked.get("cpu", image.cpu), asked.get("memory", image.memory)
    try:
        millis = cpu_millis(cpu)
    except ValueError as error:
        raise _wrong("resourceLimits.cpu", str(error), "give cores, such as 2, 0.5 or 500m") from error
    try:
        return Resources(cpu_millis=millis, memory_mib=memory_mib(memory))
    except ValueError as error:
        raise _wrong("resourceLimits.memory", str(error), "give a size such as 512Mi or 2Gi") from error


def _ttl(timeout: int | None, settings: Settings) -> int:
    """Seconds. Without a timeout it lives as long as a session may at most: none lives for ever."""
    if timeout is None:
        return settings.max_lifetime_seconds
    if timeout > settings.max_ttl_seconds:
        mend = f"give a whole number of seconds from {SHORTEST_TTL_SECONDS} to {settings.max_ttl_seconds}"
        raise _wrong("timeout", f"{timeout} is too long", mend)
    return timeout


def _refuse_what_is_not_here(wanted: CreateSandbox) -> None:
    if wanted.asks_for("volumes"):
        volumes = wanted.volumes if isinstance(wanted.volumes, list) else [wanted.volumes]
        if any(isinstance(volume, dict) and volume.get("host") for volume in volumes):
            raise SandboxRefusal(
                400, HOST_PATH, "volumes: no directory of a host is mounted here; leave the mount out."
            )
        raise SandboxRefusal(400, VOLUME, "volumes: there are none here; leave them out.")
    for field, sentence in _NOT_HERE.items():
        if wanted.asks_for(field):
            raise not_supported(sentence, status=400)


def _wrong(field: str, message: str, mend: str) -> Problem:
    return wrong_fields([FieldError(field=field, message=message, mend=mend)])
