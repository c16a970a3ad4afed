"""The OpenAPI description, generated from the routes, their access rules and their pydantic models."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from viewer.access import needed_role, needed_scope
from viewer.problems import MEDIA_TYPE, ProblemDocument

PREFIX = "/api/v1/"

_View = TypeVar("_View", bound=Callable[..., Any])
_DESCRIPTION = "deskfleet_operation"
_SERVED = "deskfleet_openapi"


@dataclass(frozen=True)
class Answer:
    """A successful answer: what it means, its body's model, or another media type."""

    meaning: str
    body: type[BaseModel] | None = None
    media_type: str = "application/json"
    also: tuple[str, ...] = ()
    """Further media types that the same answer may have."""


@dataclass(frozen=True)
class Operation:
    summary: str
    answers: dict[int, Answer]
    problems: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: dict[str, str] = field(default_factory=dict)


def describes(operation: Operation) -> Callable[[_View], _View]:
    """Attach the view's description; every route below /api/v1/ must have one, others may."""

    def attach(view: _View) -> _View:
        setattr(view, _DESCRIPTION, operation)
        return view

    return attach


def document(app: Flask, version: str) -> dict[str, object]:
    """The whole OpenAPI 3.1 document. Raises TypeError for a route of the API that says nothing of itself."""
    routes = sorted(_routes(app), key=lambda route: (route[0], route[1]))
    paths: dict[str, dict[str, object]] = {}
    for path, method, view in routes:
        paths.setdefault(path, {})[method] = _operation(view, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Deskfleet",
            "version": version,
            "description": "Live desktops for agents, per tenant.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas([view for _, _, view in routes]),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, `df_<id>_<secret>`."},
            },
        },
    }


def served(app: Flask, version: str) -> str:
    """The document as JSON. Kept: making it takes a tenth of a second, and anybody may ask for it."""
    text = app.extensions.get(_SERVED)
    if not isinstance(text, str):
        text = app.extensions[_SERVED] = app.json.dumps(document(app, version))
    return text


def _routes(app: Flask) -> list[tuple[str, str, Callable[..., Any]]]:
    found = []
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if rule.rule.startswith(PREFIX) or hasattr(view, _DESCRIPTION):
            path = re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                found.append((path, method.lower(), view))
    return found


def _described(view: Callable[..., Any]) -> Operation:
    operation = getattr(view, _DESCRIPTION, None)
    if not isinstance(operation, Operation):
        raise TypeError(f"{view.__name__} is below {PREFIX} and has no @describes(Operation(…))")
    return operation


def _operation(view: Callable[..., Any], path: str) -> dict[str, object]:
    operation = _described(view)
    role = needed_role(view)
    problems = {*operation.problems, *((401, 403, 429) if role else ())}
    described: dict[str, object] = {
        "operationId": view.__name__,
        "summary": operation.summary,
        "parameters": [
            *_path_parameters(path),
            *_query_parameters(operation),
            *_header_parameters(operation),
        ],
        "responses": {
            **{str(status): _answer(answer) for status, answer in operation.answers.items()},
            **{str(status): _problem(status) for status in sorted(problems)},
        },
        "security": [{"key": []}] if role else [],
    }
    if role:
        scope = needed_scope(view)
        named = f", and the scope `{scope}`" if scope else ""
        described["description"] = f"Needs the role {role} or a stronger one{named}."
    if operation.body:
        described["requestBody"] = {
            "required": False,
            "content": {"application/json": {"schema": _ref(operation.body)}},
        }
    return described


def _answer(answer: Answer) -> dict[str, object]:
    if answer.body is None and answer.media_type == "application/json":
        return {"description": answer.meaning}
    schema: dict[str, object] = _ref(answer.body) if answer.body else {"type": "string"}
    content = {media_type: {"schema": schema} for media_type in (answer.media_type, *answer.also)}
    return {"description": answer.meaning, "content": content}


def _problem(status: int) -> dict[str, object]:
    return {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {"schema": _ref(ProblemDocument)}}}


_MEANINGS = {
    400: "The body or the cursor cannot be read.",
    401: "No valid credential.",
    403: "The role or the scopes do not cover it, or a cookie was used from a foreign page.",
    404: "Unknown, or another tenant's.",
    409: "Not possible for what is there.",
    410: "It is over: a share link that was revoked, has expired or was used, or its session has ended.",
    413: "The body is over 64 KiB; that of a document over 12 MiB.",
    415: "The body is not JSON.",
    422: "Fields cannot be used; `errors` names each one and what mends it.",
    423: "Somebody else has keyboard and mouse; `held_by` says who, since when and why.",
    429: "Your tenant has as many desktops as it may, or too many in the making; or too much was asked in a"
    " short time, or with wrong keys or signatures. Try again later.",
    501: "This desktop's backend cannot do that; the answer names it.",
    502: "The sandbox host could not make the desktop or does not answer, or input did not arrive whole.",
    503: "The sandbox host does not answer, or too many are waiting; try again later.",
}


def _path_parameters(path: str) -> list[dict[str, object]]:
    names = re.findall(r"{([^}]+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(operation: Operation) -> list[dict[str, object]]:
    if operation.query is None:
        return []
    schema = operation.query.model_json_schema(ref_template=_TEMPLATE)
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": properties.get("description", ""),
            "schema": {key: value for key, value in properties.items() if key != "description"},
        }
        for name, properties in schema["properties"].items()
    ]


def _header_parameters(operation: Operation) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": meaning,
            "schema": {"type": "string"},
        }
        for name, meaning in operation.headers.items()
    ]


_TEMPLATE = "#/components/schemas/{model}"


def _ref(model: type[BaseModel]) -> dict[str, object]:
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def _schemas(views: list[Callable[..., Any]]) -> dict[str, object]:
    incoming: set[type[BaseModel]] = set()
    outgoing: set[type[BaseModel]] = {ProblemDocument}
    for view in views:
        operation = _described(view)
        incoming.update(model for model in (operation.body, operation.query) if model)
        outgoing.update(answer.body for answer in operation.answers.values() if answer.body)
    wanted = sorted(
        [*((model, "validation") for model in incoming), *((model, "serialization") for model in outgoing)],
        key=lambda pair: pair[0].__name__,
    )
    _, schema = models_json_schema(wanted, ref_template=_TEMPLATE)  # type: ignore[arg-type]
    definitions: dict[str, object] = schema["$defs"]
    return definitions
