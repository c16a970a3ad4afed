"""`deskfleet-mcp`: serves the tools over stdin and stdout, for the program that started it.

Nothing but MCP is ever written to stdout. Exit codes: 0 when the client has gone, 2 when the environment or
the configuration cannot be used (stderr says why in one sentence), 130 when it was interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence

import anyio

from viewer import __version__
from viewer.cli.api import Api
from viewer.cli.connection import Connection, load_connection
from viewer.cli.problems import CliError, Misused
from viewer.mcp.execd import Execd
from viewer.mcp.skill import skill
from viewer.mcp.tools import Desk

_EPILOG = """\
Where the fleet is and who you are: DESKFLEET_URL, and DESKFLEET_KEY_FILE (a file that only you can read) or
DESKFLEET_KEY; DESKFLEET_CA_FILE for an authority of your own. Or url, key_file, key and ca_file in
~/.config/deskfleet/config.toml, with mode 600."""


_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    if asked.skill:
        print(skill(), end="")
        return 0
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="deskfleet-mcp: %(message)s")
    try:
        _check_extra()
        connection = load_connection(os.environ, url=None, ca_file=None)
        anyio.run(_serve, connection)
    except CliError as error:
        print(f"deskfleet-mcp: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deskfleet-mcp",
        description="Desktops of a Deskfleet as tools for an agent: an MCP server over stdin and stdout.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--skill", action="store_true", help="print the skill's text instead, and end")
    parser.add_argument("--version", action="version", version=f"deskfleet-mcp {__version__}")
    return parser


def _check_extra() -> None:
    if importlib.util.find_spec("mcp") is None:
        raise Misused(
            "the package `mcp` is not installed here; install `deskfleet[mcp]` in place of `deskfleet`"
        )


async def _serve(connection: Connection) -> None:
    # Only where the extra is installed.
    from mcp.server.stdio import stdio_server

    from viewer.mcp.server import server_for

    execd = Execd(connection)
    try:
        with Api(connection) as api:
            server = server_for(Desk(api, execd))
            async with stdio_server() as (incoming, outgoing):
                await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await execd.close()
