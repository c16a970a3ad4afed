"""`deskfleet`: what is there to ask for, and what the program exits with.

0: done. 1: the fleet refused or did not answer; why is one sentence on stderr. 2: the command line or the
configuration cannot be used. 130: interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import httpx

from viewer import __version__
from viewer.cli import (
    audit,
    diagnose,
    documents,
    events,
    fleet,
    input,
    lease,
    sessions,
    shares,
    streams,
    webhook_secrets,
    webhooks,
    work,
)
from viewer.cli.api import Api
from viewer.cli.connection import load_connection
from viewer.cli.output import Output, harmless
from viewer.cli.problems import CliError

_DESCRIPTION = """Desktops of a Deskfleet, from a shell."""
_EPILOG = """\
Where the fleet is and who you are: DESKFLEET_URL, and DESKFLEET_KEY_FILE (a file that only you can read) or
DESKFLEET_KEY; DESKFLEET_CA_FILE for an authority of your own. Or url, key_file, key and ca_file in
~/.config/deskfleet/config.toml, with mode 600.
Exit codes: 0 done, 1 refused or no answer, 2 wrong usage."""
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None, transport: httpx.BaseTransport | None = None) -> int:
    """Do it and return the exit code. transport: how to get at the API; None: over the network."""
    asked = parser_of_all().parse_args(arguments)
    try:
        connection = load_connection(os.environ, url=asked.url, ca_file=asked.ca)
        with Api(connection, transport) as api:
            code: int = asked.run(asked, api, Output(as_json=asked.json))
            sys.stdout.flush()
            return code
    except CliError as error:
        print(f"deskfleet: {harmless(str(error))}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough, as `head` has; the interpreter must not write again on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser_of_all() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deskfleet",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"deskfleet {__version__}")
    nouns = parser.add_subparsers(dest="noun", required=True, metavar="NOUN")
    for part in (
        sessions,
        diagnose,
        input,
        lease,
        shares,
        streams,
        work,
        documents,
        fleet,
        events,
        audit,
        webhook_secrets,
        webhooks,
    ):
        part.add_to(nouns)
    return parser
