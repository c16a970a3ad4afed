"""What a roll-out did to each host, in words, after pyinfra's own table; on stderr, as stdout may be JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import click
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State, StateStage

from inventory.authority import left_behind
from inventory.models import Certificates

HEADING = "--> Hosts:"
"""`make up` shows what comes after this line."""


class Report(BaseStateCallback):
    """Collects while the run goes on. One for each process, because pyinfra runs once in it."""

    def __init__(self) -> None:
        self._left_out: dict[str, str] = {}
        self._failed_at: dict[str, str] = {}
        self._notes: dict[str, str | None] = {}
        self._certificates: Certificates | None = None
        self._brought: set[str] = set()
        self._newcomers: tuple[str, ...] = ()
        self._control, self._edge = "", ""

    def note(self, sentence: str, *, once_done: str | None = None) -> None:
        """Something the operator should know; said once, however many hosts say it. once_done: name of a
        host; it is true only when the roll-out to that one did not fail."""
        self._notes[sentence] = once_done

    def certificates(self, certificates: Certificates | None) -> None:
        """Those of the site."""
        self._certificates = certificates

    def brings_certificate(self, name: str) -> None:
        """This run brings the host its certificate, to all programs that have a copy."""
        self._brought.add(name)

    def newcomers(self, names: tuple[str, ...], *, control: str, edge: str) -> None:
        """Hosts that `control` learns of in this run. edge: the one that needs a way to them as well; empty:
        this run brings none there, wherever it goes."""
        self._newcomers, self._control, self._edge = names, control, edge

    def host_connect_error(self, state: State, host: Host, error: Exception) -> None:  # type: ignore[override]
        # Later it may be the firewall's new rules through which nobody comes in again.
        if state.current_stage == StateStage.Connect:
            self._left_out[host.name] = f"it cannot be reached ({_reason(error)})"

    def operation_host_error(  # type: ignore[override]
        self, state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        if retry_count >= max_retries:
            self._failed_at.setdefault(host.name, _name_of(state, op_hash))

    def lines(self, state: State) -> list[str]:
        """One line for each host of the run, then the notes."""
        hosts = [host for host in state.inventory if state.is_host_in_limit(host)]
        width = max((len(site_name(host)) for host in hosts), default=0)
        told = [
            f"    {site_name(host):{width}}  {self._outcome(state, host)}"
            for host in sorted(hosts, key=site_name)
        ]
        reached = {site_name(host) for host in hosts if host not in state.failed_hosts}
        behind = left_behind(self._certificates, reached & self._brought)
        failed = {host.name for host in state.failed_hosts}
        true = [sentence for sentence, host in self._notes.items() if host not in failed]
        notes = [*true, *behind, *self._without_a_way(reached)]
        return [HEADING, *told, *(f"    Note: {note}" for note in notes)]

    def _without_a_way(self, reached: Collection[str]) -> list[str]:
        """New desktops go to an empty host first, so that it matters at once."""
        if not self._newcomers or self._control not in reached or self._edge in reached:
            return []
        names = ", ".join(self._newcomers)
        return [
            f"The control host uses {names} now, and the edge was not part of this roll-out: unless it has a"
            " way there from an earlier one, desktops there show no picture. Roll out the edge, too."
        ]

    def show(self, state: State) -> None:
        for line in self.lines(state):
            click.echo(line, err=True)

    def _outcome(self, state: State, host: Host) -> str:
        changes = _changes(state, host)
        changed = f"{changes} change{'' if changes == 1 else 's'}" if changes else "no changes"
        if host.name in self._left_out:
            return f"left out: {self._left_out[host.name]}; the next run mends it"
        if host.name in self._failed_at:
            return f"failed at '{self._failed_at[host.name]}' after {changed}; the rest of it was left out"
        if host in state.failed_hosts:
            return f"failed after {changed}; the rest of it was left out"
        return changed


REPORT = Report()


def site_name(host: Host) -> str:
    """The host's name in the site file; pyinfra calls this machine `@local`."""
    config = host.data.get("deskfleet")
    return str(getattr(config, "name", None) or host.name)


def is_possible(state: State, what: str, *, needs: Iterable[str]) -> bool:
    """Whether every host that `what` needs is still in the run; else says that `what` is left out, and why.

    A host outside of `--limit` counts as being there: it was rolled out before.
    """
    missing = sorted({site_name(host) for host in state.failed_hosts} & set(needs))
    if missing:
        REPORT.note(f"{what} was left out, because it needs {', '.join(missing)}")
    return not missing


def _changes(state: State, host: Host) -> int:
    metas = [operation.operation_meta for operation in state.ops[host].values()]
    return sum(meta.did_succeed(_raise_if_not_complete=False) and meta.did_change() for meta in metas)


def _name_of(state: State, op_hash: str) -> str:
    return ", ".join(sorted(state.get_op_meta(op_hash).names))


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
