"""The skill's text, for agents that read one: the tools as they are, from the models that they check with.

`python -m viewer.mcp.skill` prints it, and so does `deskfleet-mcp --skill`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from viewer.mcp.models import LONGEST_RUN_SECONDS, MOST_FILE_BYTES, MOST_OUTPUT_BYTES, MOST_PICTURE_BYTES
from viewer.mcp.tools import TOOLS, AnyTool

_HEAD = """\
---
name: code-sandbox
description: Make sandboxes with live desktops that people can watch, run commands and code in them, move
  files, and end them. Use it when work needs a screen, a browser, or a machine that may be thrown away.
---

# Sandboxes with live desktops

The tools come from the MCP server `deskfleet-mcp`. Everything you make belongs to the tenant of its key.

1. `create_desktop`. Tell the person `page_url`: there the desktop can be watched while you work.
2. Work in it: `screenshot` to see it, `send_input` for keyboard and mouse, `upload_file`, `execute_shell`,
   `execute_code`, `download_file`.
3. `terminate_sandbox` when the work is done. What was in it is gone then, so download first what is to stay.

- What you cannot or may not do yourself (a captcha, a second factor, a payment, a decision): `ask_for_person`
  with a reason that says exactly what is to be done, then `wait_for_person` until `is_done`. Touch nothing
  meanwhile, and take a `screenshot` before you go on: the screen is not as you left it.
- `sandbox_id` names a sandbox in every tool.
- A tool that cannot do what it was asked to answers with an error, whose text says why and what to change.
- A sandbox that nobody uses ends by itself, after 30 minutes unless `idle_seconds` says otherwise. Being
  watched is use, and so is every call of a tool that works in it.
- If you may have to send a `create_desktop` again, give it an `idempotency_key`: one key never makes two.
- A program with a window needs `DISPLAY=:1` and, if it runs on, `background`.
"""


def skill() -> str:
    return "\n".join([_HEAD, *_limits(), *(line for tool in TOOLS for line in _section(tool)), ""])


def _limits() -> Iterator[str]:
    yield (
        f"Limits: {LONGEST_RUN_SECONDS} s for a command or program that is waited for,"
        f" {MOST_OUTPUT_BYTES // 1024} KiB of each of its outputs, {MOST_FILE_BYTES // 1024} KiB for a file,"
        f" {MOST_PICTURE_BYTES // 1024} KiB for a picture."
    )


def _section(tool: AnyTool) -> Iterator[str]:
    yield f"\n## {tool.name}\n"
    yield tool.does
    yield from _table("parameter", tool.asks.model_json_schema())
    yield from _table("result", tool.answers.model_json_schema(mode="serialization"))


def _table(title: str, schema: dict[str, Any]) -> Iterator[str]:
    rows = list(_rows(title, schema, schema.get("$defs", {})))
    if not rows:
        yield f"\nNo {title}s."
        return
    yield f"\n| {title} | type | means |"
    yield "|---|---|---|"
    yield from rows


def _rows(title: str, schema: dict[str, Any], models: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, field in schema["properties"].items():
        means = [field.get("description", "").rstrip(".")]
        if title == "parameter" and name in schema.get("required", ()):
            means.append("**needed**")
        if field.get("default") is not None:
            means.append(f"`{_plain(field['default'])}` if not given")
        yield f"| `{before}{name}` | {_type(field, models)} | {'; '.join(filter(None, means))} |"
        for one in field.get("items", {}).get("oneOf", ()):
            yield from _action_rows(title, _model_of(one, models), models, f"{before}{name}")
        inner = _model_of(field.get("items", {}), models)
        if "properties" in inner:
            yield from _rows(title, inner, models, f"{before}{name}[].")


def _action_rows(title: str, model: dict[str, Any], models: dict[str, Any], name: str) -> Iterator[str]:
    """One of several kinds of objects, told apart by their `type`."""
    tag = model["properties"]["type"]["const"]
    others = {field: its for field, its in model["properties"].items() if field != "type"}
    yield f"| `{name}[]` | `{{type: {tag}}}` | {_plain(model.get('description', '')).rstrip('.')} |"
    yield from _rows(title, {**model, "properties": others}, models, f"{name}[{tag}].")


def _type(field: dict[str, Any], models: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one, models) for one in field["anyOf"])
    enum = field.get("enum") or _model_of(field, models).get("enum")
    if enum:
        return ", ".join(f"`{value}`" for value in enum)
    if field.get("type") == "array":
        return "list"
    if "$ref" in field:
        return "object"
    return "time" if field.get("format") == "date-time" else str(field.get("type"))


def _model_of(field: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = models.get(str(field.get("$ref", "")).rpartition("/")[2], {})
    return found


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(skill(), end="")
