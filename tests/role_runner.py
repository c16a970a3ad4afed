"""Runs a role through real pyinfra against a stated host: facts in, the exact commands out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import pytest
from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.operation import add_op
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_host, ctx_state

StatedFacts = Mapping[Any, Any]
"""Fact class -> its value, or a function of the fact's arguments that returns it."""

Step = tuple[str, list[Any]]


class RunRole(Protocol):
    def __call__(self, role: Callable[..., Any], *, facts: StatedFacts, **arguments: Any) -> list[Step]: ...


@pytest.fixture
def run_role(monkeypatch: pytest.MonkeyPatch) -> RunRole:
    """Return (operation name, commands) pairs. A fact's value may be a function of the fact's arguments.

    Commands are strings, uploads `("put", destination, content)`. `_if` is decided when executing, so a
    guarded operation appears here whatever its condition says.
    """

    def run(role: Callable[..., Any], *, facts: StatedFacts, **arguments: Any) -> list[Step]:
        def stated(host: Host, fact: type[FactBase[Any]], *args: Any, **kwargs: Any) -> Any:
            if fact not in facts:
                raise LookupError(f"{role.__name__} asked for {fact.__name__}; state it in facts=")
            value = facts[fact]
            return value(*args, **kwargs) if callable(value) else value

        monkeypatch.setattr(Host, "get_fact", stated)
        hosts = (["@fake/h1"], {"fake_delay": 0, "fake_delay_jitter": 0})
        inventory = Inventory((["@fake/h1"], {}), fake=hosts)  # type: ignore[no-untyped-call]
        config = Config()  # type: ignore[no-untyped-call]
        state = State(inventory=inventory, config=config, check_for_changes=False)
        state.current_stage = StateStage.Prepare
        connect_all(state)
        add = add_op if hasattr(role, "is_idempotent") else add_deploy
        add(state, role, **arguments)
        return list(_steps(state))

    return run


def _steps(state: State) -> Iterator[Step]:
    host = state.inventory.get_host("@fake/h1")
    with ctx_state.use(state), ctx_host.use(host):
        for op in state.get_op_order():  # type: ignore[no-untyped-call]
            generate = state.get_op_data_for_host(host, op).command_generator
            (name,) = state.get_op_meta(op).names
            yield name, [_shown(command) for command in generate()]


def _shown(command: Any) -> Any:
    if isinstance(command, FileUploadCommand):
        content = command.src if isinstance(command.src, str) else command.src.read()
        return ("put", command.dest, content.decode() if isinstance(content, bytes) else content)
    if isinstance(command, StringCommand):
        return command.get_masked_value()
    return command


def changes(steps: list[Step]) -> list[Step]:
    """Those operations that would do anything."""
    return [(name, commands) for name, commands in steps if commands]
