"""The tools as an MCP server: schemas from the models, refusals as answers that a model can read."""

from __future__ import annotations

import base64
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp.types import Tool as Described
from pydantic import ValidationError

from viewer import __version__
from viewer.cli.problems import CliError
from viewer.mcp.tools import TOOLS, AnyTool, Desk, Pictured, Say
from viewer.problems import from_validation
from viewer.settings import nearest

_INSTRUCTIONS = (
    "Sandboxes with live desktops. Make one with create_desktop, tell the person its page_url, work in it,"
    " and end it with terminate_sandbox."
)
_log = logging.getLogger(__name__)


def server_for(desk: Desk) -> Server[dict[str, Any]]:
    tools = {tool.name: tool for tool in TOOLS}

    async def list_tools(
        _context: ServerRequestContext, _asked: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=[_described(tool) for tool in TOOLS])

    async def call_tool(context: ServerRequestContext, asked: CallToolRequestParams) -> CallToolResult:
        tool = tools.get(asked.name)
        if tool is None:
            near = nearest(asked.name, list(tools))
            return _refused(
                f"there is no tool {asked.name[:80]!r}; {f'did you mean {near}? ' if near else ''}known:"
                f" {', '.join(tools)}"
            )
        return await _called(tool, desk, asked.arguments or {}, _saying(context.session.report_progress))

    return Server(
        "deskfleet",
        version=__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _called(tool: AnyTool, desk: Desk, arguments: dict[str, Any], say: Say) -> CallToolResult:
    try:
        answer = await tool.run(desk, tool.asks.model_validate(arguments), say)
    except ValidationError as error:
        return _refused(from_validation(error, tool.asks).document.detail)
    except CliError as error:
        return _refused(str(error))
    except Exception:
        _log.exception("%s failed", tool.name)
        return _refused("this went wrong in deskfleet-mcp itself; its log, on stderr, says how")
    content: list[ContentBlock] = []
    if isinstance(answer, Pictured):
        encoded = base64.b64encode(answer.data).decode()
        content.append(ImageContent(type="image", data=encoded, mime_type=answer.media_type))
        answer = answer.answer
    content.append(TextContent(type="text", text=answer.model_dump_json()))
    return CallToolResult(content=content, structured_content=answer.model_dump(mode="json"))


def _refused(sentence: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=sentence)], is_error=True)


def _saying(report: Callable[[float, float | None, str | None], Awaitable[None]]) -> Say:
    """Each step counts one; how many there will be nobody knows."""
    steps = itertools.count(1)

    async def say(text: str) -> None:
        await report(next(steps), None, text)

    return say


def _described(tool: AnyTool) -> Described:
    return Described(
        name=tool.name,
        description=tool.does,
        input_schema=tool.asks.model_json_schema(),
        output_schema=tool.answers.model_json_schema(mode="serialization"),
        annotations=ToolAnnotations(
            read_only_hint=tool.looks,
            destructive_hint=None if tool.looks else tool.ends,
            open_world_hint=True,
        ),
    )
