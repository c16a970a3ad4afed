"""Virtual environments on a host: one directory per set of requirements, and a link that is switched when it
is complete."""

from __future__ import annotations

import io
from pathlib import Path

from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.operation import operation
from pyinfra.context import host

from roles.facts import Paths, Text
from roles.files import Commands, absent, sha256, tell
from roles.packages import packages

# The distribution's own: what else is first on the PATH may lie in a home that our users can't read.
PYTHON = "/usr/bin/python3"
PIP_HOME = "/opt/deskfleet/pip"
PIP = f"PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off {PIP_HOME}/bin/pip"


@deploy("Python")
def python() -> None:
    """One pip for all environments: an environment without its own pip is made in no time."""
    packages(name="Install python3-venv", names=("python3-venv", "ca-certificates"))
    installer(name="Make pip's environment")


@operation()
def installer() -> Commands:
    if not host.get_fact(Paths, paths=[f"{PIP_HOME}/bin/pip"]):
        tell(PIP_HOME, "is made with all that is in it")
        yield StringCommand(f"rm -rf {PIP_HOME} && {PYTHON} -m venv {PIP_HOME}")


@deploy("Python away")
def no_python() -> None:
    absent(name="Remove pip's environment", paths=(PIP_HOME,))


def environment_of(requirements: str, sources: str = "") -> str:
    """The name of the environment that holds exactly these."""
    return sha256(requirements, sources)[:12]


@operation()
def environment(home: str, requirements: str, *, wheel: Path | None = None, sources: str = "") -> Commands:
    """`<home>/current` is an environment with exactly these requirements, each by hash, and our wheel.

    sources: hash of what the wheel was built from. A running program keeps its old environment until its
    restart; one older environment is kept.
    """
    name = environment_of(requirements, sources)
    if host.get_fact(Text, path=f"{home}/current/.complete") == name:
        host.noop(f"{home} is up to date")
        return
    new = f"{home}/{name}"
    # An older environment goes, too.
    tell(home, f"changes with all that is in it: {new} is made")
    yield StringCommand(f"rm -rf {new} && mkdir -p {home} && {PYTHON} -m venv --without-pip {new}")
    yield FileUploadCommand(io.BytesIO(requirements.encode()), f"{new}/requirements.txt")
    yield StringCommand(f"{PIP} --python {new}/bin/python install --require-hashes -r {new}/requirements.txt")
    if wheel is not None:
        yield FileUploadCommand(str(wheel), f"{new}/{wheel.name}")
        # Its requirements are those of the file; nothing may be fetched here.
        yield StringCommand(
            f"{PIP} --python {new}/bin/python install --no-deps --no-index {new}/{wheel.name}"
        )
    yield StringCommand(
        f"echo {name} > {new}/.complete && ln -sfnT {name} {home}/current.new"
        f" && mv -fT {home}/current.new {home}/current"
        f" && ln -sfnT current/bin {home}/bin"
        f" && ls -1dt {home}/*/ | grep -v -e '/current/' -e '/bin/' | tail -n +3 | xargs -r rm -rf"
    )
