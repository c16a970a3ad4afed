"""docs/api-reference.md, written from the OpenAPI document. `make reference` runs this."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.viewer_fixtures import settings_values
from viewer import __version__
from viewer.app import create_app
from viewer.migrations import upgrade
from viewer.openapi import PREFIX, document
from viewer.problems import MEDIA_TYPE as PROBLEM
from viewer.settings import Settings
from viewer.store import Store

PAGE = Path(__file__).parent.parent / "docs" / "api-reference.md"

_HEAD = """\
# The API, route by route

Written by `make reference` from what every fleet says of itself at `/api/v1/openapi.json`; do not edit.
How it is used, with examples: [api.md](api.md).

Every route but that description takes `Authorization: Bearer <key>`. A field that may be null is marked `?`.
From 400 on, the body is a [ProblemDocument](#problemdocument) of type `application/problem+json`. Beside what
stands with a route, a key that is missing or wrong gets 401, and one whose role is too small 403.
"""
# Explained once, at the top.
_EVERYWHERE = {"401", "403"}

# One route or model of the document, as JSON has it.
Node = Mapping[str, Any]


def page(described: Node) -> str:
    """The whole page, from an OpenAPI document."""
    return "\n".join([_HEAD, *_contents(described), *_routes(described), *_models(described)])


def described_here() -> Node:
    """The document of a viewer with settings of the tests; those change nothing in it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.model_validate(settings_values(Path(folder)))
        upgrade(settings.database)
        store = Store(settings.database)
        try:
            return document(create_app(settings, store), __version__)
        finally:
            store.close()


def _operations(described: Node) -> Iterator[tuple[str, str, Node]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _contents(described: Node) -> Iterator[str]:
    yield "| route | does | role |"
    yield "|---|---|---|"
    for path, method, operation in _operations(described):
        anchor = _anchor(f"{method} {path}")
        yield f"| [`{method} {_short(path)}`](#{anchor}) | {operation['summary']} | {_role(operation)} |"
    yield ""


def _routes(described: Node) -> Iterator[str]:
    yield "## Routes"
    for path, method, operation in _operations(described):
        yield f"\n### `{method} {path}`\n"
        yield f"{operation['summary']}. {_needs(operation)}\n"
        yield from _table("query or header", _parameters(operation), described)
        if "requestBody" in operation:
            name = _name(operation["requestBody"]["content"]["application/json"]["schema"])
            yield from _table("body", _fields(described["components"]["schemas"][name]), described)
        yield "| answer | means | body |"
        yield "|---|---|---|"
        for status, answer in operation["responses"].items():
            if status not in _EVERYWHERE:
                yield f"| {status} | {answer['description']} | {_body(answer)} |"


def _models(described: Node) -> Iterator[str]:
    yield "\n## Bodies"
    for name in _answered(described):
        model = described["components"]["schemas"][name]
        yield f"\n### {name}\n"
        if "description" in model:
            yield f"{_line(model['description'])}\n"
        if "enum" in model:
            yield f"One of {_values(model['enum'])}."
            continue
        yield from _table("field", _fields(model), described)


def _answered(described: Node) -> list[str]:
    """What answers hold, with all that is in it; what is only sent stands with its route, unless it may be
    null, is one of several or of a list, or is a word of a query."""
    schemas, found = described["components"]["schemas"], set[str]()
    waiting = [
        _name(content["schema"])
        for _, _, operation in _operations(described)
        for answer in operation["responses"].values()
        for content in answer.get("content", {}).values()
    ]
    for _, _, operation in _operations(described):
        waiting += _references([parameter["schema"] for parameter in operation["parameters"]])
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for _, field, _ in _fields(schemas[_name(content["schema"])]):
                waiting += _references(field.get("anyOf", [])) + _references(field.get("items", {}))
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            waiting += _references(schemas[name])
    return sorted(found)


def _references(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [*([_name(node)] if "$ref" in node else []), *_references(list(node.values()))]
    return [name for inner in node for name in _references(inner)] if isinstance(node, list) else []


Field = tuple[str, Node, bool]
"""Name, schema, must it be given?"""


def _parameters(operation: Node) -> Iterator[Field]:
    for one in operation["parameters"]:
        if one["in"] != "path":
            yield one["name"], {**one["schema"], "description": one["description"]}, one["required"]


def _fields(model: Node) -> Iterator[Field]:
    required = model.get("required", ())
    for name, schema in model.get("properties", {}).items():
        yield name, schema, name in required


def _table(title: str, fields: Iterable[Field], described: Node) -> Iterator[str]:
    """Of nested bodies that are only sent, the fields stand in the same table."""
    rows = [row for field in fields for row in _rows(*field, described=described, sent=title == "body")]
    if rows:
        yield f"| {title} | type | means |"
        yield "|---|---|---|"
        yield from rows
        yield ""


def _rows(name: str, schema: Node, required: bool, *, described: Node, sent: bool) -> Iterator[str]:
    inner = described["components"]["schemas"].get(_name(schema), {}) if sent else {}
    if "properties" in inner:
        for field, its, is_needed in _fields(inner):
            yield from _rows(f"{name}.{field}", its, is_needed, described=described, sent=sent)
        return
    means = _line(schema.get("description", ""))
    default = schema.get("default")
    if default not in (None, [], {}, ""):
        means = f"{means}; {_value(default)} if not given".removeprefix("; ")
    needed = " **needed**" if sent and required else ""
    yield f"| `{name}` | {_type(schema)}{needed} | {means} |"


def _type(schema: Node) -> str:
    several = schema.get("anyOf", schema.get("oneOf"))
    if several is not None:
        kinds = [_type(one) for one in several if one.get("type") != "null"]
        return f"{' or '.join(kinds)}{'?' if len(kinds) < len(several) else ''}"
    if "$ref" in schema:
        name = _name(schema)
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return _values(schema["enum"])
    if "const" in schema:
        return _value(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"object of {_type(inner)}" if isinstance(inner, Mapping) else "object"
    if schema.get("format") == "date-time":
        return "time"
    return str(schema.get("type", "any"))


def _body(answer: Node) -> str:
    for media_type, content in answer.get("content", {}).items():
        if media_type == PROBLEM:
            continue
        name = _name(content["schema"])
        return f"[{name}](#{name.lower()})" if name else f"`{media_type}`"
    return ""


def _needs(operation: Node) -> str:
    return str(operation.get("description", "Needs no key."))


def _role(operation: Node) -> str:
    words = operation.get("description", "").split()
    return words[3] if words[:3] == ["Needs", "the", "role"] else ""


def _name(schema: Node) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _short(path: str) -> str:
    return path.removeprefix(PREFIX.rstrip("/"))


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return "".join(one for one in heading.lower().replace(" ", "-") if one.isalnum() or one in "-_")


def _values(values: Iterable[object]) -> str:
    return ", ".join(_value(value) for value in values)


def _value(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(described_here()))
