"""Read by pyinfra before the inventory: makes `pyinfra inventory deploy.py` mean what it says.

Stock pyinfra 3.10 cannot read a directory or a YAML file, and ends with exit code 0 when the inventory is
empty or a `--limit` matches nothing. tests/test_config_cli.py runs the exact commands, so that an upgrade
which moves the wrapped functions is seen at once. After the results, `roles.report` says in words what
happened to each host.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyinfra import logger
from pyinfra.api import operations as _operations
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.context import config, state
from pyinfra_cli import cli as _cli  # type: ignore[import-untyped]
from pyinfra_cli.exceptions import CliError, UnexpectedExternalError  # type: ignore[import-untyped]

config.REQUIRE_PYINFRA_VERSION = "~=3.10"  # the wrappers lean on internals of its command line

_HERE = str(Path.cwd())
if _HERE not in sys.path[:1]:
    # pyinfra appends the working directory; an installed package called `inventory` or `roles` would win.
    sys.path.insert(0, _HERE)

if os.environ.get("DESKFLEET_PROGRESS"):
    # `make up` shows the last line of what runs, so that long steps are seen to move.
    state.print_output = True

from inventory.transport import put_privately  # noqa: E402 (needs the path above)
from roles.report import REPORT  # noqa: E402

SSHConnector.put_file = put_privately  # type: ignore[method-assign]

_make_inventory = _cli.make_inventory
_connect_all = _cli.connect_all
_print_results = _cli.print_results
_print_run_json = _cli.print_run_json
_matches = _cli._get_inventory_pattern_matches
_run_host_op = _operations._run_host_op


def _checked_inventory(inventory: str, *args: Any, **kwargs: Any) -> Inventory:
    from inventory.secrets import SecretsUnreadable
    from inventory.site_file import SiteRefused

    path = Path(inventory)
    if path.suffix in (".yml", ".yaml"):
        os.environ["DESKFLEET_SITE"] = inventory
        inventory = str(Path("inventory") / "hosts.py")
    elif path.is_dir():
        inventory = str(path / "hosts.py")
    try:
        made: Inventory = _make_inventory(inventory, *args, **kwargs)
    except UnexpectedExternalError as error:
        if isinstance(error.exception, (SiteRefused, SecretsUnreadable)):
            raise CliError(str(error.exception)) from None
        raise
    if not len(made):
        raise CliError(f"inventory {inventory!r} has no hosts")
    _refuse_misspelt_groups(made, inventory)
    _forget_secrets(made)
    return made


def _refuse_misspelt_groups(made: Inventory, inventory: str) -> None:
    """An operator's Python inventory may have groups of its own, but none that is nearly one of ours: its
    hosts would be left out without a word."""
    from inventory.models import Group

    ours = [group.value for group in Group]
    for name in set(made.groups) - {*ours, Path(inventory).stem}:
        near = difflib.get_close_matches(name, ours, n=1, cutoff=0.8)
        if near:
            raise CliError(f"{inventory}:{name}: unknown group, did you mean {near[0]!r}?")


def _forget_secrets(made: Inventory) -> None:
    """What runs on this machine inherits the environment; a supervisor started by it would pass it on to
    people's desktops."""
    from inventory.models import HostConfig
    from inventory.secrets import take_out

    configs = [host.data.get("deskfleet") for host in made]
    take_out(os.environ, [config.secrets for config in configs if isinstance(config, HostConfig)])


def _checked_matches(inventory: Inventory, patterns: Iterable[str], option_name: str) -> list[Any]:
    found = _matches(inventory, patterns, option_name)
    if not found and option_name == "--limit":
        known = ", ".join(sorted({host.name for host in inventory}))
        raise CliError(f"--limit {' '.join(patterns)} matches no host; known: {known}")
    return list(found)


def _watched_connect_all(state: State) -> None:
    state.add_callback_handler(REPORT)  # type: ignore[no-untyped-call]
    _connect_all(state)


def _contained_run_host_op(state: State, host: Host, op_hash: str) -> bool:
    """What an operation raises is its host's failure alone; pyinfra would end the run of all hosts.

    It happens when a connection dies while an operation asks the host for a fact."""
    try:
        return _run_host_op(state, host, op_hash)
    except Exception as error:
        logger.debug(traceback.format_exc())
        logger.error(f"{host.print_prefix}Error: {type(error).__name__}: {error}")
        state.trigger_callbacks("operation_host_error", host, op_hash)
        return False


def _reported_results(state: State) -> None:
    _print_results(state)
    REPORT.show(state)


def _reported_run_json(state: State, dry: bool) -> None:
    _print_run_json(state, dry=dry)
    if not dry:
        REPORT.show(state)


_cli.make_inventory = _checked_inventory
_cli.connect_all = _watched_connect_all
_operations._run_host_op = _contained_run_host_op
_cli.print_results = _reported_results
_cli.print_run_json = _reported_run_json
_cli._get_inventory_pattern_matches = _checked_matches
