"""What comes in: JSON bodies and query strings, read into pydantic models or refused with a problem."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from flask import request
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import from_json
from werkzeug.datastructures import MultiDict

from viewer import logs
from viewer.desktop_options import (
    COMMAND_WANTED,
    ENV_WANTED,
    KEYBOARD_WANTED,
    LOCALE_WANTED,
    OPEN_URL_WANTED,
    TIMEZONE_WANTED,
    Command,
    Env,
    Keyboard,
    Locale,
    OpenUrl,
    Timezone,
)
from viewer.model import Role, Scope, Sort, Status
from viewer.problems import FieldError, Problem, from_validation, wrong_fields
from viewer.resources import Cpu, Memory
from viewer.tickets import (
    LONGEST_TICKET_SECONDS,
    SHORTEST_TICKET_SECONDS,
    USUAL_TICKET_SECONDS,
    TicketRole,
)

_Model = TypeVar("_Model", bound=BaseModel)

SMALLEST, LARGEST = (640, 480), (3840, 2160)
SHORTEST_TTL_SECONDS = 60
MOST_BODY_BYTES = 64 * 1024
LOGIN_WANTED = "1 to 100 of a-z, 0-9 and . _ @ + -, a letter or a digit first"
MOST_DAYS = 3650
"""That a key may be good for."""
MOST_DOCUMENT_BODY_BYTES = 12 * 1024 * 1024
"""Of the one request that brings more than fields: a file of 8 MiB in base64, and what stands around it. The
edge lets through as much there, and 1 MB everywhere else."""
_MOST_DRAINED_BYTES = MOST_DOCUMENT_BODY_BYTES

Label = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A name from outside: up to 200 printable characters."""


def normal_resolution(text: str) -> str:
    """`1280x800` for `1280x800` and `1280x800x24`; ValueError outside 640x480 … 3840x2160."""
    match = re.fullmatch(r"([1-9]\d{2,3})x([1-9]\d{2,3})(x24)?", text, re.ASCII)
    if match is None:
        raise ValueError("is not WIDTHxHEIGHT")
    width, height = int(match[1]), int(match[2])
    if width < SMALLEST[0] or height < SMALLEST[1]:
        raise ValueError("is too small")
    if width > LARGEST[0] or height > LARGEST[1]:
        raise ValueError("is too large")
    return f"{width}x{height}"


_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
RESERVED_LABELS = ("deskfleet.", "opensandbox.io/")
MOST_LABELS = 32


def check_label(key: str, value: str) -> None:
    """Raise ValueError for what is not a label in Kubernetes's syntax, or is one of ours."""
    if not _LABEL_KEY.fullmatch(key):
        raise ValueError(f"{key[:70]!r} is not a label's name: 1 to 63 of A-Z a-z 0-9 . _ / -")
    reserved = next((prefix for prefix in RESERVED_LABELS if key.startswith(prefix)), None)
    if reserved is not None:
        raise ValueError(f"{key} is reserved: take a name that does not begin with {reserved}")
    if not _LABEL_VALUE.fullmatch(value):
        raise ValueError(f"{key} has a value that is not 0 to 63 of A-Z a-z 0-9 . _ -")


def checked_labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > MOST_LABELS:
        raise ValueError(f"has {len(labels)} entries, more than {MOST_LABELS}")
    for key, value in labels.items():
        check_label(key, value)
    return labels


Labels = Annotated[dict[str, str], AfterValidator(checked_labels)]
_LABELS_WANTED = "at most 32 names with a value each, in the syntax of Kubernetes labels"


class ResourceLimits(BaseModel):
    """What one desktop may use, and reserves on its host."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    cpu: Cpu | None = Field(None, description="cores, such as 2, 0.5 or 500m, in quotes")
    memory: Memory | None = Field(None, description="a size such as 512Mi or 2Gi")


class CreateSession(BaseModel):
    """What a new desktop may be asked for; everything has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image: Label | None = Field(None, description="the name or alias of an image of the catalogue")
    resolution: Annotated[str, AfterValidator(normal_resolution)] | None = Field(
        None, description="WIDTHxHEIGHT such as 1280x800, from 640x480 to 3840x2160"
    )
    host: Label | None = Field(None, description="the name of the sandbox host to make it on")
    task_id: Label | None = Field(None, description="1 to 200 printable characters")
    agent_id: Label | None = Field(None, description="1 to 200 printable characters")
    ttl_seconds: int | None = Field(
        None, ge=SHORTEST_TTL_SECONDS, description="a whole number of seconds, from 60 to the fleet's maximum"
    )
    max_lifetime_seconds: int | None = Field(
        None, ge=SHORTEST_TTL_SECONDS, description="a whole number of seconds, from 60 to the fleet's maximum"
    )
    idle_seconds: int | None = Field(
        None, ge=SHORTEST_TTL_SECONDS, description="a whole number of seconds, at least 60"
    )
    labels: Labels = Field(default_factory=dict, description=_LABELS_WANTED)
    host_labels: Labels = Field(
        default_factory=dict,
        description="labels that the sandbox host must have, as the inventory gives them",
    )
    resource_limits: ResourceLimits = Field(
        default_factory=ResourceLimits, description="an object with `cpu`, `memory` or both"
    )
    env: Env = Field(default_factory=dict, repr=False, description=ENV_WANTED)
    open_url: OpenUrl | None = Field(None, description=OPEN_URL_WANTED)
    command: Command | None = Field(None, description=COMMAND_WANTED)
    locale: Locale | None = Field(None, description=LOCALE_WANTED)
    keyboard: Keyboard | None = Field(None, description=KEYBOARD_WANTED)
    timezone: Timezone | None = Field(None, description=TIMEZONE_WANTED)
    queue: bool = Field(
        True, description="true to wait for a place where the fleet is full, false to be refused then"
    )
    wait: bool = Field(
        True, description="true to be answered when the desktop is usable, false to be answered at once"
    )


def _pair(text: str) -> str:
    key, sign, value = text.partition("=")
    if not sign:
        raise ValueError("is not NAME=VALUE")
    check_label(key, value)
    return text


class WaitQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    wait_seconds: int = Field(0, ge=0, le=300, description="a whole number of seconds from 0 to 300")


class ScreenshotQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["png", "jpeg"] = Field(
        "png", description="`png`, which is exact, or `jpeg`, which is small"
    )
    width: int | None = Field(
        None,
        ge=16,
        le=8192,
        description="a whole number of pixels from 16 to 8192; the screen's own if not given",
    )


class WantedThumbnail(BaseModel):
    """etag: of the picture that you have."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    session_id: str = Field(max_length=100, description="a session's id")
    etag: str | None = Field(None, max_length=200, description="as the last answer said it")


class WantedThumbnails(BaseModel):
    """The desktops that somebody looks at now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: tuple[WantedThumbnail, ...] = Field(max_length=100, description="a list of up to 100 desktops")
    width: int = Field(320, ge=64, le=640, description="a whole number of pixels from 64 to 640")


class RenewSession(BaseModel):
    """How long it is to live from now on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    ttl_seconds: int | None = Field(
        None, ge=SHORTEST_TTL_SECONDS, description="a whole number of seconds, from 60 to the fleet's maximum"
    )


class CreateTicket(BaseModel):
    """What a ticket is to open, and for how long that may begin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: TicketRole = Field(TicketRole.WATCH, description="`watch` or `control`")
    ttl_seconds: int = Field(
        USUAL_TICKET_SECONDS,
        ge=SHORTEST_TICKET_SECONDS,
        le=LONGEST_TICKET_SECONDS,
        strict=True,
        description=f"a whole number of seconds from {SHORTEST_TICKET_SECONDS} to {LONGEST_TICKET_SECONDS}",
    )
    single_use: bool = Field(
        True, strict=True, description="true to open one stream by it, false for as many as come in its time"
    )


_LEASE_REASON = "1 to 200 printable characters: what for"
_LEASE_SECONDS = "a whole number of seconds, from 5 to the fleet's maximum"


class TakeLease(BaseModel):
    """force: also from another person; for admins who sit at a browser."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reason: Label | None = Field(None, description=_LEASE_REASON)
    seconds: int | None = Field(None, description=_LEASE_SECONDS)
    force: bool = Field(False, description="true to take them from another person, which an admin may")


class AskForLease(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reason: Label | None = Field(None, description=_LEASE_REASON)


class GiveLease(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    to: Label = Field(description="the `by.id` of one who asks")


class ReleaseLease(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    force: bool = Field(False, description="true to take them from whoever has them, which an admin may")
    done: bool = Field(False, description="true to say as well that no person is needed any more")


class RenewLease(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seconds: int | None = Field(None, description=_LEASE_SECONDS)


class TerminateSessions(BaseModel):
    """Which sandboxes are to end: all given conditions hold. Without any, `all` must be true."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: tuple[Status, ...] = Field((), description=f"a list of {', '.join(Status)}")
    task_id: Label | None = Field(None, description="1 to 200 printable characters")
    agent_id: Label | None = Field(None, description="1 to 200 printable characters")
    image: Label | None = Field(None, description="the name or alias of an image of the catalogue")
    host: Label | None = Field(None, description="the name of a host")
    labels: Labels = Field(default_factory=dict, description=_LABELS_WANTED)
    all: bool = Field(False, description="true to end every sandbox of your tenant")


class SetLabels(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    labels: Labels = Field(description=_LABELS_WANTED)


class PutTask(BaseModel):
    """What an agent works on; one that is there is brought in line."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Label | None = Field(None, description="1 to 200 printable characters")
    title: Label | None = Field(None, description="1 to 200 printable characters")
    agent_id: Label | None = Field(None, description="1 to 200 printable characters")
    external_run_id: Label | None = Field(None, description="1 to 200 printable characters")


class PutAgent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Label | None = Field(None, description="1 to 200 printable characters")
    name: Label | None = Field(None, description="1 to 200 printable characters")


class SourceQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Label | None = Field(None, description="the id of one of your tenant's webhook secrets")


class CreateWebhookSecret(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    label: Label = Field(description="1 to 200 printable characters, such as the name of what sends")


class RotateWebhookSecret(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    overlap_seconds: int = Field(
        86_400, ge=0, le=604_800, description="a whole number from 0 to 604800, for which the old one is good"
    )


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    cursor: Label | None = Field(None, description="a `next_cursor` as it was given out")
    limit: int = Field(50, ge=1, le=200, description="a whole number from 1 to 200")


class TaskQuery(PageQuery):
    external_run_id: Label | None = Field(None, description="1 to 200 printable characters")


class DrainHost(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    draining: bool = Field(description="true to give it no new sandboxes, false to give it some again")


def _whole_day(text: object) -> object:
    """A day alone is its beginning in UTC."""
    is_day = isinstance(text, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII)
    return f"{text}T00:00:00Z" if is_day else text


_Moment = Annotated[AwareDatetime, BeforeValidator(_whole_day)]
_MOMENT = "a time such as 2026-11-30T06:00:00Z, or a day, which begins in UTC"


class AuditConditions(BaseModel):
    """All given conditions hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Label | None = Field(None, description="an action such as `key.create`, or a kind such as `key`")
    principal: Label | None = Field(None, description="who did it, such as `key:…` or `person:…`")
    target: Label | None = Field(None, description="what it was done to, such as `session:…`")
    since: _Moment | None = Field(None, description=f"not before {_MOMENT}")
    until: _Moment | None = Field(None, description=f"before {_MOMENT}")


class AuditQuery(AuditConditions):
    cursor: Label | None = Field(None, description="a `next_cursor` as it was given out")
    limit: int = Field(50, ge=1, le=200, description="a whole number from 1 to 200")


class ExportQuery(AuditConditions):
    format: Literal["ndjson", "csv"] = Field(
        "ndjson", description="`ndjson`, which can be verified, or `csv` for a spreadsheet"
    )


HelpReason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$"),
]


class AskForHelp(BaseModel):
    """A person is needed at this desktop."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reason: HelpReason = Field(description="1 to 300 printable characters: what a person is to do")


class ListQuery(BaseModel):
    """All given conditions hold; `status` may be given several times and means any of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: tuple[Status, ...] = Field((), description=f"one of {', '.join(Status)}")
    task_id: Label | None = Field(None, description="1 to 200 printable characters")
    agent_id: Label | None = Field(None, description="1 to 200 printable characters")
    sandbox_id: Label | None = Field(None, description="1 to 200 printable characters")
    image: Label | None = Field(None, description="the name or alias of an image of the catalogue")
    host: Label | None = Field(None, description="the name of a host")
    help: bool | None = Field(None, description="true for those that need a person, false for the others")
    label: tuple[Annotated[str, AfterValidator(_pair)], ...] = Field(
        (), description="NAME=VALUE; given several times, all of them hold"
    )
    q: Label | None = Field(
        None,
        description="1 to 200 printable characters: words that all are somewhere in what a person reads of a"
        " session: its ids, status, image, host, task, agent, its labels' values, its error, what it needs a"
        " person for. It is no pattern",
    )
    sort: Sort = Field(
        Sort.NEWEST,
        description="what comes first: `-created` the newest, `created` the oldest, `-updated` what changed"
        " last, `updated` what has not changed for longest; of those that live and have an end, `expires`"
        " what ends first, `-expires` what ends last",
    )
    cursor: Label | None = Field(None, description="a `next_cursor` as it was given out")
    limit: int = Field(50, ge=1, le=200, description="a whole number from 1 to 200")


class SignIn(BaseModel):
    """A login with its password, or one of the others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    login: str | None = Field(None, max_length=200, description="the name that you sign in under")
    password: str | None = Field(None, max_length=1024, repr=False, description="your password")
    key: str | None = Field(None, max_length=200, repr=False, description="an API key")
    token: str | None = Field(
        None, max_length=200, repr=False, description="the token of a one-time sign-in link"
    )


class CreatePerson(BaseModel):
    """Who is to come in, by a one-time link that the answer has."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    login: str = Field(max_length=200, description=LOGIN_WANTED)
    name: Label | None = Field(None, description="1 to 200 printable characters")
    role: Annotated[Role, Field(strict=False)] = Field(description=f"one of {', '.join(Role)}")


class ChangePerson(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Label | None = Field(None, description="1 to 200 printable characters")
    role: Annotated[Role, Field(strict=False)] | None = Field(None, description=f"one of {', '.join(Role)}")
    disabled: bool | None = Field(None, description="true to shut him out, false to let him in again")


class CreateShare(BaseModel):
    """A link by which somebody without an account watches a session."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    label: Label | None = Field(None, description="1 to 200 printable characters: whom it is for")
    ttl_seconds: int = Field(
        3600, ge=60, le=7 * 24 * 3600, description="a whole number of seconds from 60 to 604800 (7 days)"
    )
    single_use: bool = Field(False, description="true to let in only the first browser that comes by it")


class OpenShare(BaseModel):
    """What the page behind a share link posts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token: str = Field(max_length=200, repr=False, description="what stands behind the # of the link")


class CreateKey(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    role: Annotated[Role, Field(strict=False)] = Field(description=f"one of {', '.join(Role)}")
    label: Label | None = Field(None, description="1 to 200 printable characters")
    scopes: tuple[Annotated[Scope, Field(strict=False)], ...] | None = Field(
        None, strict=False, min_length=1, description=f"a list of {', '.join(Scope)}, no more than yours"
    )
    days: int | None = Field(None, ge=1, le=MOST_DAYS, description=f"a whole number from 1 to {MOST_DAYS}")


class ChangePassword(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    password: str = Field(max_length=1024, repr=False, description="your password as it is now")
    new_password: str = Field(
        max_length=1024, repr=False, description="a password of 12 characters to 1 KiB that is not your login"
    )


class SetPassword(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token: str = Field(max_length=200, repr=False, description="the token of your one-time link")
    password: str = Field(
        max_length=1024, repr=False, description="a password of 12 characters to 1 KiB that is not your login"
    )


class WantedEntry(BaseModel):
    """Which of a session's own pages is to be opened."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    page: Literal["desktop", "devtools"] = Field("desktop", description="`desktop` or `devtools`")


class EnterForm(BaseModel):
    """What a page posts at the door of another origin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticket: str = Field(max_length=200, repr=False, description="a one-time ticket, as it was given out")
    next: str = Field("/", max_length=2000, description="a path there, such as /")


def too_large(most: int | None = None) -> Problem:
    limit = most or request.max_content_length or MOST_BODY_BYTES
    return Problem(413, "body-too-large", "The body is too large", f"Send at most {limit} bytes.")


def drain_body() -> None:
    """Read what the view left unread, as far as the edge lets any request go.

    gunicorn reads on to 64 KiB only and then drops the connection, after an answer that promised to keep it:
    a proxy's next request on it would fail.
    """
    if not request.content_length and "Transfer-Encoding" not in request.headers:
        return
    stream, left = request.environ["wsgi.input"], _MOST_DRAINED_BYTES
    with contextlib.suppress(OSError):  # the client went, or its chunks are malformed: gunicorn closes
        while left > 0 and (chunk := stream.read(min(left, 65536))):
            left -= len(chunk)


def read_body(most: int = MOST_BODY_BYTES) -> bytes:
    """All of it. Raises 413 for more than `most` bytes."""
    request.max_content_length = most
    try:
        data = request.get_data()
    except OSError as error:
        raise Problem(400, "malformed-body", "The body cannot be read", "Send the body whole.") from error
    if request.content_length is None and len(data) >= most:
        # A chunked body is cut off at the limit without a word (werkzeug's LimitedStream).
        raise too_large(most)
    return data


_OF_NO_BODY = ("", "application/octet-stream")
"""What clients call the type of a body that they do not send."""


def json_body(model: type[_Model], *, most: int = MOST_BODY_BYTES) -> _Model:
    """The request's body as `model`, of at most `most` bytes. No body at all counts as `{}`."""
    value = _json_object(most)
    _hide_environment(value)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise from_validation(error, model) from error


def _json_object(most: int) -> dict[str, object]:
    data = read_body(most)
    if not data and request.mimetype in _OF_NO_BODY:
        return {}
    if request.mimetype != "application/json":
        raise Problem(
            415,
            "not-json",
            "The body is not JSON",
            "Send the body as JSON with `Content-Type: application/json`.",
        )
    try:
        value: object = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(
            400,
            "malformed-json",
            "The body is not valid JSON",
            f"The JSON ends in an error: {error}; mend it there.",
        ) from error
    if not isinstance(value, dict):
        raise Problem(400, "malformed-json", "The body is not a JSON object", "Send one JSON object, `{…}`.")
    return value


def _hide_environment(body: Mapping[str, object]) -> None:
    """Before anything else is done with it, because what is refused is told too."""
    given = body.get("env")
    if isinstance(given, dict):
        logs.hide_environment({str(name): value for name, value in given.items() if isinstance(value, str)})


def form_body(model: type[_Model]) -> _Model:
    """The request's form as `model`; no field may be given more than once."""
    if request.mimetype != "application/x-www-form-urlencoded":
        raise Problem(
            415,
            "not-a-form",
            "The body is not a form",
            "Send the fields as `application/x-www-form-urlencoded`, as a form of a page does.",
        )
    return _single_values(request.form, model)


def query(model: type[_Model]) -> _Model:
    """The query string as `model`; only tuple fields may be given more than once."""
    return _single_values(request.args, model)


def _single_values(fields: MultiDict[str, str], model: type[_Model]) -> _Model:
    values: dict[str, object] = {}
    for name, given in fields.lists():
        field = model.model_fields.get(name)
        if field is not None and isinstance(field.get_default(), tuple):
            values[name] = tuple(given)
        elif len(given) > 1:
            raise wrong_fields([FieldError(field=name, message="is given twice", mend="give it once")])
        else:
            values[name] = given[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise from_validation(error, model) from error
