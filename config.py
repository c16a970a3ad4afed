"""Read by pyinfra before the inventory: makes `pyinfra inventory deploy.py` mean what it says.

Stock pyinfra 3.10 cannot read a directory or a YAML file, ends with exit code 0 when the inventory is empty
or a `--limit` matches nothing, and passes over misspelt flags. tests/test_config_cli.py runs the exact
commands, so that an upgrade which moves the wrapped functions is seen at once. After the results,
`roles.report` says in words what happened to each host.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from pyinfra import logger
from pyinfra.api import operations as _operations
from pyinfra.api.exceptions import PyinfraError
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
from roles.choice import problem_of_data  # noqa: E402
from roles.report import REPORT  # noqa: E402

SSHConnector.put_file = put_privately  # type: ignore[method-assign]

_make_inventory = _cli.make_inventory
_connect_all = _cli.connect_all
_print_results = _cli.print_results
_print_run_json = _cli.print_run_json
_matches = _cli._get_inventory_pattern_matches
_exclude = _cli._apply_inventory_exclude
_run_ops = _cli.run_ops
_run_host_op = _operations._run_host_op


def _checked_inventory(inventory: str, *args: Any, **kwargs: Any) -> Inventory:
    from inventory.secrets import SecretsUnreadable
    from inventory.site_file import SiteRefused

    _refuse_misspelt_flags(kwargs.get("override_data") or {})
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


def _refuse_misspelt_flags(data: dict[str, Any]) -> None:
    """What would run, but not as meant. `data`: of `--data`."""
    if _typed("no_wait"):
        raise CliError("--no-wait ends with exit code 0 although operations failed; leave it out")
    problem = problem_of_data(data)
    if problem:
        raise CliError(f"nothing was changed: {problem}")


def _typed(parameter: str) -> Any:
    """What the command line says for one of pyinfra's parameters."""
    context = click.get_current_context(silent=True)
    return context.params.get(parameter) if context else None


def _checked_matches(inventory: Inventory, patterns: Iterable[str], option_name: str) -> list[Any]:
    for pattern in patterns:
        if not _matches(inventory, [pattern], option_name):
            known = ", ".join(sorted({host.name for host in inventory}))
            raise CliError(f"{option_name} {pattern} matches no host; known: {known}")
    return list(_matches(inventory, patterns, option_name))


def _checked_exclude(inventory: Inventory, *selection: Any) -> list[Host] | None:
    """pyinfra's last step in selecting hosts."""
    selected: list[Host] | None = _exclude(inventory, *selection)
    if selected == []:
        raise CliError("--limit and --exclude together leave no host")
    deploys = {Path(operation).absolute() for operation in _typed("operations") or ()}
    if Path("deploy.py").absolute() in deploys:
        for host in sorted(inventory if selected is None else selected, key=lambda host: host.name):
            _refuse_host_of_no_site(host)
    return selected


def _refuse_host_of_no_site(host: Host) -> None:
    """In an operator's Python inventory, where hosts of his own may stand beside ours."""
    from inventory.models import HostConfig

    found = host.data.get("deskfleet")
    try:
        HostConfig.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["deskfleet", *(str(part) for part in first["loc"])])
        what = "it has no data `deskfleet`" if found is None else f"its data `{key}`: {first['msg']}"
        raise CliError(
            f"{_typed('inventory')}:{host.name}: {what}; take the hosts from inventory.groups.groups_of(<site"
            " file>), or leave this one out with --exclude"
        ) from None


def _watched_connect_all(state: State) -> None:
    state.add_callback_handler(REPORT)  # type: ignore[no-untyped-call]
    with _told_when_it_stops(state):
        _connect_all(state)


def _watched_run_ops(state: State, **how: Any) -> None:
    with _told_when_it_stops(state):
        _run_ops(state, **how)


@contextmanager
def _told_when_it_stops(state: State) -> Iterator[None]:
    """pyinfra prints no results when no host is left."""
    try:
        yield
    except PyinfraError:
        REPORT.show(state)
        raise


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
_cli.run_ops = _watched_run_ops
_operations._run_host_op = _contained_run_host_op
_cli.print_results = _reported_results
_cli.print_run_json = _reported_run_json
_cli._get_inventory_pattern_matches = _checked_matches
_cli._apply_inventory_exclude = _checked_exclude
