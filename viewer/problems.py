"""Errors as RFC 9457 problem documents: what is wrong, which field, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, get_args

from flask import Response
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from viewer.model import Frozen, Lease, Role, Scope
from viewer.public_leases import HeldBy, held_by
from viewer.settings import nearest
from viewer.transitions import IllegalTransition

MEDIA_TYPE = "application/problem+json"


class FieldError(Frozen):
    """One field that is wrong; `mend` says what to send instead."""

    field: str
    message: str
    mend: str


class ProblemDocument(Frozen):
    """RFC 9457, with members of ours: the fields at fault, the session that a failed create left behind, who
    has keyboard and mouse."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] | None = None
    session_id: str | None = None
    error_message: str | None = None
    held_by: HeldBy | None = None


class Problem(Exception):
    """Raised anywhere below a view; the app answers it as a problem document (pages: as the error page)."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: dict[str, str] | None = None,
        session_id: str | None = None,
        error_message: str | None = None,
        held_by: HeldBy | None = None,
    ) -> None:
        super().__init__(detail)
        self.document = ProblemDocument(
            type=f"urn:deskfleet:problem:{slug}",
            title=title,
            status=status,
            detail=detail,
            errors=tuple(errors) or None,
            session_id=session_id,
            error_message=error_message,
            held_by=held_by,
        )
        self.headers = headers or {}

    @property
    def status(self) -> int:
        return self.document.status


def respond(problem: Problem) -> Response:
    body = problem.document.model_dump_json(exclude_none=True)
    return Response(body, problem.status, headers=problem.headers, content_type=MEDIA_TYPE)


def wrong_fields(errors: Sequence[FieldError], *, status: int = 422) -> Problem:
    """The request was understood, but these fields cannot be used."""
    detail = "; ".join(f"{error.field}: {error.message}; {error.mend}" for error in errors)
    return Problem(status, "wrong-fields", "Some fields cannot be used", detail, errors=errors)


def from_validation(error: ValidationError, model: type[BaseModel]) -> Problem:
    return wrong_fields([_field_error(problem, model) for problem in error.errors(include_url=False)])


def bad_cursor() -> Problem:
    wrong = FieldError(field="cursor", message="is not one of ours", mend="start again without it")
    return wrong_fields([wrong], status=400)


def not_found() -> Problem:
    """The same for what never was and for what is another tenant's."""
    return Problem(
        404, "not-found", "Not found", "There is nothing here for you; check the address and the id."
    )


def lease_held(lease: Lease) -> Problem:
    """Somebody else has the session's keyboard and mouse."""
    holder = held_by(lease)
    if holder is None:
        detail = "Nobody has keyboard and mouse of this desktop; take them first."
        return Problem(423, "lease-held", "Not yours", detail)
    since = f" since {lease.since:%H:%M:%S} UTC" if lease.since else ""
    why = f" ({lease.reason})" if lease.reason else ""
    detail = (
        f"{holder.name} has keyboard and mouse of this desktop{since}{why}; ask for them, or wait for the"
        " event that says who has them then."
    )
    return Problem(423, "lease-held", "Somebody else has control", detail, held_by=holder)


def not_now(error: IllegalTransition) -> Problem:
    if error.current is error.wanted:
        detail = f"This session is {error.current} and cannot be changed any more."
    else:
        detail = f"A session that is {error.current} cannot become {error.wanted}; read it again."
    return Problem(409, "wrong-status", "Not in this status", detail)


def documents_full(error: Exception) -> Problem:
    return Problem(409, "documents-full", "Your tenant keeps as much as it may", str(error))


def role_too_small(needed: Role, have: Role) -> Problem:
    return Problem(
        403,
        "role-too-small",
        "Your role does not cover this",
        f"This needs the role {needed}, yours is {have}; ask your tenant's admin for another key.",
    )


def scope_missing(needed: Scope) -> Problem:
    return Problem(
        403,
        "scope-missing",
        "Your key is not for this",
        f"This needs a key with the scope {needed}; ask your tenant's admin for one.",
    )


def too_many_attempts(seconds: int) -> Problem:
    return Problem(
        429,
        "too-many-attempts",
        "Too many attempts",
        f"Too many sign-ins under this name or from your address have failed; try again in {seconds} s.",
        headers={"Retry-After": str(seconds)},
    )


def too_many_wrong_keys(seconds: int) -> Problem:
    return Problem(
        429,
        "too-many-wrong-keys",
        "Too many wrong keys",
        f"Too many keys from your address were refused; mend the key, and try again in {seconds} s.",
        headers={"Retry-After": str(seconds)},
    )


def too_many_requests(seconds: int) -> Problem:
    return Problem(
        429,
        "too-many-requests",
        "Too many requests",
        f"You ask more often than this fleet lets one key or person; go on in {seconds} s.",
        headers={"Retry-After": str(seconds)},
    )


def unknown_name(field: str, value: str, known: Iterable[str]) -> Problem:
    """`value` is not one of the `known` names; the nearest one is offered."""
    names = list(known)
    near = nearest(value, names)
    mend = (f"did you mean {near!r}? " if near else "") + f"known: {', '.join(names) or 'none'}"
    return wrong_fields([FieldError(field=field, message=f"{value[:80]!r} is not known", mend=mend)])


def _field_error(problem: ErrorDetails, model: type[BaseModel]) -> FieldError:
    place = _place_of(problem["loc"], model)
    field, context = place.field[:80] or "body", problem.get("ctx", {})
    if problem["type"] == "extra_forbidden":
        names = [info.alias or name for one in place.models for name, info in one.model_fields.items()]
        near = nearest(str(problem["loc"][-1]), names)
        mend = f"did you mean {near!r}?" if near else "leave it out"
        mend += f"; known: {', '.join(names)}"
        return FieldError(field=field, message="unknown field", mend=mend)
    if problem["type"] == "union_tag_invalid":
        tag, tags = str(context["tag"]), str(context["expected_tags"]).replace("'", "").split(", ")
        near = nearest(tag, tags)
        mend = (f"did you mean {near!r}? " if near else "") + f"known: {', '.join(tags)}"
        return FieldError(field=f"{field}.type", message=f"{tag[:80]!r} is not known", mend=mend)
    message = problem["msg"].removeprefix("Value error, ")
    wanted = place.info.description if place.info is not None else None
    return FieldError(
        field=field,
        message=f"{message[:1].lower()}{message[1:]}",
        mend=f"give {wanted}" if wanted else "give another value",
    )


class _Place(NamedTuple):
    """Where something is wrong. info: of that field, which says what it asks for. models: what it is a part
    of, if it is unknown itself."""

    field: str
    info: FieldInfo | None
    models: tuple[type[BaseModel], ...]


def _place_of(location: Sequence[int | str], model: type[BaseModel]) -> _Place:
    """Locations also name the positions in lists and the branches of unions: of those, a reader needs to know
    which one of several objects is meant."""
    field, info = "", None
    models: tuple[type[BaseModel], ...] = (model,)
    for part in location:
        if isinstance(part, int):
            field += f"[{part}]" if models else ""
            continue
        found = [
            (one, name) for one in models for name, its in one.model_fields.items() if _is(name, its, part)
        ]
        chosen = tuple(one for one in models if part in _tags_of(one))
        if chosen and len(models) > 1:
            models = chosen
        elif found:
            field += f".{part}" if field else part
            info = found[0][0].model_fields[found[0][1]]
            models = tuple(_models_in(info.annotation))
        elif part == location[-1]:
            field += f".{part}" if field else part
    return _Place(field, info, models)


def _is(name: str, info: FieldInfo, part: str) -> bool:
    return part == (info.alias or name)


def _tags_of(model: type[BaseModel]) -> tuple[object, ...]:
    tag = model.model_fields.get("type")
    return get_args(tag.annotation) if tag is not None else ()


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
