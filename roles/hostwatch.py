"""Hostwatch: says what Docker knows of our containers on a sandbox host, and how the host is doing."""

from __future__ import annotations

from pydantic import SecretStr
from pyinfra.api.deploy import deploy

from inventory.models import Settings
from roles import wheel
from roles.files import Directory, absent, directories, no_user, place, render, sha256, system_user
from roles.units import Unit, no_unit, run

USER = "deskfleet-hostwatch"
CONFIG = "/etc/deskfleet/hostwatch.toml"
SECRETS = "/etc/deskfleet/secrets/hostwatch"
KEY = f"{SECRETS}/relay.key"
DOCKER_SOCKET = "/var/run/docker.sock"

_CHECK = (
    f'{wheel.PYTHON} -c "import pathlib, sys; from viewer.hostwatch.settings import read_settings;'
    ' read_settings(pathlib.Path(sys.argv[1]))" "$new"'
)


def unit(port: int) -> Unit:
    return Unit(
        name="deskfleet-hostwatch",
        description="Deskfleet's hostwatch",
        command=(f"{wheel.HOME}/current/bin/deskfleet-hostwatch",),
        user=USER,
        environment={
            "HOME": "/nonexistent",
            "DESKFLEET_HOSTWATCH_SETTINGS": CONFIG,
            "PYTHONUNBUFFERED": "1",
        },
        after=("docker.service",),
        ready=f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null",
    )


@deploy("Hostwatch")
def hostwatch(*, settings: Settings, key: SecretStr, fleet_id: str) -> None:
    """key: the one of this host's relay. It lies here once more, as being in the relay's group would open
    the desktops' sockets and secrets as well."""
    config = render(
        "hostwatch/hostwatch.toml.j2",
        listen=f"127.0.0.1:{settings.ports.hostwatch}",
        key_file=KEY,
        fleet_id=fleet_id,
        docker_socket=DOCKER_SOCKET,
    )
    system_user(name="Make its user", user=USER, home="/nonexistent", groups=("docker",))
    directories(name="Make its directory", wanted=(Directory(SECRETS, "750", "root", USER),))
    place(name="Write its key", path=KEY, content=key, mode="640", group=USER)
    place(name="Write hostwatch.toml", path=CONFIG, content=config, mode="640", group=USER, check=_CHECK)
    run(
        name="Run hostwatch",
        unit=unit(settings.ports.hostwatch),
        restart_on=sha256(config, key, wheel.identity()),
    )


@deploy("Hostwatch away")
def no_hostwatch() -> None:
    no_unit(name="Stop hostwatch", unit="deskfleet-hostwatch")
    absent(name="Remove its files", paths=(CONFIG, f"{CONFIG}.new", SECRETS))
    no_user(name="Remove its user", user=USER)
