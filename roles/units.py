"""Programs that must keep running: one description, two supervisors.

systemd where it is PID 1, else a supervisord of our own (Debian's package, own configuration, own socket),
so that the same roles bring up a machine that is more like a container. Whatever crashes comes back in both.
"""

from __future__ import annotations

import hashlib

from pydantic import Field
from pyinfra.api.command import StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.models import Section
from roles.facts import STATE, SUPERVISORCTL, HasSystemd, Paths, StoppedUnits, SupervisordRuns
from roles.facts import Unit as UnitFact
from roles.files import Commands, Directory, absent, directories, place, render, tell
from roles.packages import packages

SUPERVISORD_CONF = "/etc/deskfleet/supervisord.conf"
START = "/etc/deskfleet/start"
TMPFILES = "/etc/tmpfiles.d/deskfleet.conf"


class Unit(Section):
    """A program that runs for ever. `user`'s own groups are its groups."""

    name: str
    description: str
    command: tuple[str, ...]
    user: str
    environment: dict[str, str] = Field(default={})
    directory: str = "/"
    capabilities: tuple[str, ...] = ()
    """Linux capabilities it keeps although it is not root, such as `net_bind_service`."""
    after: tuple[str, ...] = ()
    """Units to start after, in systemd's words; supervisor starts everything and lets it retry."""
    stop_seconds: int = 10
    reload: str | None = None
    """Shell command, run as root, that makes it read its configuration again without dropping anything."""
    ready: str | None = None
    """Shell condition that holds once it can be used."""
    ready_seconds: int = 30


def systemd_unit(unit: Unit, stamp: str) -> str:
    """The text of the unit file. The stamp in it stands for everything the program reads at its start."""
    command = " ".join(_systemd_word(word) for word in unit.command)
    return render(
        "units/systemd.service.j2",
        unit=unit,
        stamp=stamp,
        command=command,
        capabilities=" ".join(f"CAP_{name.upper()}" for name in unit.capabilities),
        quoted=_systemd_quoted,
    )


def supervisor_program(unit: Unit, stamp: str) -> str:
    """The text of the program's file; `supervisorctl update` restarts exactly the programs whose text
    changed."""
    # supervisor cannot hand over a capability, so setpriv becomes the user.
    user = "root" if unit.capabilities else unit.user
    words = (*_with_capabilities(unit), *unit.command)
    command = " ".join(_supervisor_quoted(word) for word in words)
    return render(
        "units/supervisor.conf.j2",
        unit=unit,
        user=user,
        stamp=stamp,
        command=command,
        quoted=_supervisor_quoted,
    )


def _with_capabilities(unit: Unit) -> tuple[str, ...]:
    if not unit.capabilities:
        return ()
    given = ",".join(f"+{capability}" for capability in unit.capabilities)
    return (
        "/usr/bin/setpriv", f"--reuid={unit.user}", f"--regid={unit.user}", "--init-groups",
        f"--inh-caps={given}", f"--ambient-caps={given}", "--",
    )  # fmt: skip


def _systemd_quoted(word: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        word = word.replace(plain, escaped)
    return f'"{word}"'


def _systemd_word(word: str) -> str:
    # Only command lines expand variables.
    return _systemd_quoted(word).replace("$", "$$")


def _supervisor_quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


@deploy("Supervision")
def supervision(*, runtime: tuple[Directory, ...]) -> None:
    """What units need on this host: their runtime directories, also after a reboot, and a supervisor.

    `runtime` is made again when the machine starts; the first time each role makes its own, after its user.
    """
    base = Directory("/run/deskfleet")
    runtime = (base, *runtime)
    systemd = host.get_fact(HasSystemd)
    text = "".join(f"d {d.path} {d.mode} {d.user} {d.group} -\n" for d in runtime)
    if systemd:
        place(name="Write tmpfiles.d/deskfleet.conf", path=TMPFILES, content=text)
    else:
        packages(name="Install supervisor", names=("supervisor",))
        place(
            name="Write supervisord.conf", path=SUPERVISORD_CONF, content=render("units/supervisord.conf.j2")
        )
        start = render("units/start.sh.j2", runtime=runtime)
        place(name="Write start script", path=START, content=start, mode="755")
    directories(name="Make the runtime directory", wanted=(base,))
    if not systemd:
        supervisord(name="Start supervisord")


@operation()
def supervisord() -> Commands:
    """Our supervisord runs."""
    if not host.get_fact(SupervisordRuns):
        yield StringCommand(START)


@deploy("Supervision away")
def no_supervision() -> None:
    stop_supervisord(name="Stop supervisord")
    absent(name="Remove its files", paths=("/etc/deskfleet/supervisor", SUPERVISORD_CONF, START, TMPFILES))


@operation()
def stop_supervisord() -> Commands:
    """Our supervisord and whatever it still runs have ended."""
    if host.get_fact(SupervisordRuns):
        yield StringCommand(
            "pid=$(cat /run/deskfleet/supervisord.pid); kill $pid; "
            "for i in $(seq 300); do [ -d /proc/$pid ] || exit 0; sleep 0.1; done; kill -9 $pid"
        )


def _starts_at_boot(unit: str) -> str:
    """systemd's link."""
    return f"/etc/systemd/system/multi-user.target.wants/{unit}.service"


def path_of(unit: str, *, systemd: bool) -> str:
    return f"/etc/systemd/system/{unit}.service" if systemd else f"/etc/deskfleet/supervisor/{unit}.conf"


def _stamp(unit: str) -> str:
    return f"{STATE}/stamps/{unit}"


@operation()
def run(unit: Unit, *, restart_on: str, reload_on: str = "") -> Commands:
    """The unit runs, with what it reads now.

    `restart_on` and `reload_on` are hashes over what it reads at its start, and over what a reload makes it
    read again. The host forgets what was in force before it restarts or reloads, and remembers what is only
    after that succeeded: a roll-out that dies in between is mended by the next one, also by one that goes
    back.
    """
    systemd = host.get_fact(HasSystemd)
    path = path_of(unit.name, systemd=systemd)
    text = systemd_unit(unit, restart_on) if systemd else supervisor_program(unit, restart_on)
    started = hashlib.sha256(text.encode()).hexdigest()
    known = host.get_fact(UnitFact, path=path, unit=unit.name)
    if systemd and not known.config:
        tell(_starts_at_boot(unit.name), "is made")
    if known.config != started:
        yield from place._inner(path=path, content=text)
    if known.started != started:
        yield StringCommand(f"{_forget(unit, 'started', 'loaded')} && {_restart(unit, systemd=systemd)}")
        yield from _remember(unit, started=started, loaded=reload_on)
    elif known.loaded != reload_on:
        yield StringCommand(f"{_forget(unit, 'loaded')} && {unit.reload or _restart(unit, systemd=systemd)}")
        yield from _remember(unit, started=started, loaded=reload_on)


def _restart(unit: Unit, *, systemd: bool) -> str:
    if systemd:
        name = unit.name
        start = f"systemctl daemon-reload && systemctl enable --quiet {name} && systemctl restart {name}"
    else:
        # `update` starts or restarts a program exactly when its text changed, and the text holds the stamp.
        start = f"{SUPERVISORCTL} reread >/dev/null && {SUPERVISORCTL} update {unit.name}"
    return f"{start} && {_wait(unit)}" if unit.ready else start


def _wait(unit: Unit) -> str:
    tries = unit.ready_seconds * 5
    return (
        f"( for i in $(seq {tries}); do if {unit.ready}; then exit 0; fi; sleep 0.2; done; "
        f"echo '{unit.name} is not ready after {unit.ready_seconds} s; "
        f"see /var/log/deskfleet/{unit.name}.log or journalctl -u {unit.name}' >&2; exit 1 )"
    )


def _forget(unit: Unit, *stamps: str) -> str:
    return " ".join(["rm -f", *(f"{_stamp(unit.name)}.{stamp}" for stamp in stamps)])


def _remember(unit: Unit, *, started: str, loaded: str) -> Commands:
    stamp = _stamp(unit.name)
    yield StringCommand(f"echo {started} > {stamp}.started; echo '{loaded}' > {stamp}.loaded")


@operation()
def keep_running(units: tuple[Unit, ...]) -> Commands:
    """Start what somebody stopped: a unit whose files did not change is not restarted by `run`."""
    systemd = host.get_fact(HasSystemd)
    by_name = {unit.name: unit for unit in units}
    for name in host.get_fact(StoppedUnits, units=tuple(by_name), systemd=systemd):
        yield StringCommand(f"systemctl start {name}" if systemd else f"{SUPERVISORCTL} start {name}")
        if by_name[name].ready:
            yield StringCommand(_wait(by_name[name]))


@operation()
def no_unit(unit: str) -> Commands:
    """The unit is stopped and forgotten."""
    systemd = host.get_fact(HasSystemd)
    path = path_of(unit, systemd=systemd)
    if host.get_fact(Paths, paths=[path]):
        tell(path, "goes")
        if systemd:
            tell(_starts_at_boot(unit), "goes")
        if systemd:
            yield StringCommand(
                f"systemctl disable --now --quiet {unit}; rm -f {path}; systemctl daemon-reload"
            )
        else:
            yield StringCommand(
                f"rm -f {path}; {SUPERVISORCTL} reread >/dev/null; {SUPERVISORCTL} update {unit} || true"
            )
    stamp = _stamp(unit)
    yield from absent._inner(paths=(f"{stamp}.started", f"{stamp}.loaded"))
