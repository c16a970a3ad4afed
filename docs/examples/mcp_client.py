"""A client of the tools, without an agent: makes a desktop, works in it, ends it. Needs `deskfleet[mcp]`."""

import asyncio
import os
import sys

from mcp import Client, StdioServerParameters

settings = {name: value for name, value in os.environ.items() if name.startswith("DESKFLEET_")}


async def main() -> None:
    async with Client(StdioServerParameters(command="deskfleet-mcp", env=settings)) as fleet:
        print("tools:", *(tool.name for tool in (await fleet.list_tools()).tools))
        desktop = await fleet.call_tool("create_desktop", {"resolution": "1280x800x24"})
        if desktop.is_error:
            sys.exit(desktop.content[0].text)
        name = desktop.structured_content["sandbox_id"]
        print("watch it at", desktop.structured_content["page_url"], flush=True)
        ran = await fleet.call_tool("execute_shell", {"sandbox_id": name, "command": "id -un"})
        print("execute_shell:", ran.content[0].text)
        ended = await fleet.call_tool("terminate_sandbox", {"sandbox_id": name})
        print("ended:", ended.content[0].text)


asyncio.run(main())
