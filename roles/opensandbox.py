"""OpenSandbox server: from PyPI in an environment of its own, on loopback, with a key of its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pyinfra.api.deploy import deploy

from inventory.models import Settings
from roles.files import Directory, absent, directories, no_user, place, render, sha256, system_user
from roles.python import environment, environment_of
from roles.units import Unit, no_unit, run

HOME = "/opt/deskfleet/opensandbox"
DATA = "/var/lib/deskfleet/opensandbox"
CONFIG = "/etc/deskfleet/opensandbox.toml"
USER = "deskfleet-opensandbox"
PUBLISH_ADDRESS = "127.0.66.1"

_REQUIREMENTS = Path(__file__).resolve().parent.parent / "templates" / "opensandbox" / "requirements.txt"

# The server's own loader reads the candidate, so that a key it does not know stops the roll-out, not the
# server.
_CHECK = (
    f'{HOME}/current/bin/python -c "import sys; from opensandbox_server.config import load_config;'
    ' load_config(sys.argv[1])" "$new"'
)


def unit(port: int) -> Unit:
    return Unit(
        name="deskfleet-opensandbox",
        description="OpenSandbox server",
        command=(f"{HOME}/current/bin/opensandbox-server", "--config", CONFIG),
        user=USER,
        directory=DATA,
        # The server keeps renewals below HOME: with another one they would silently revert.
        environment={"HOME": DATA, "PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///var/run/docker.sock"},
        after=("docker.service",),
        ready=f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null",
        ready_seconds=60,
    )


@deploy("OpenSandbox")
def opensandbox(*, settings: Settings, key: SecretStr, execd_image: str, network: str) -> None:
    requirements = _REQUIREMENTS.read_text()
    config = render(
        "opensandbox/config.toml.j2",
        port=settings.ports.opensandbox,
        api_key=key.get_secret_value(),
        # The worker asks for more than the session's own time: the table ends it before the host does.
        max_seconds=settings.ttl.max + 600,
        execd_image=execd_image,
        network=network,
        publish_host=PUBLISH_ADDRESS,
        port_range=settings.ports.sandboxes,
    )
    system_user(name="Make its user", user=USER, home=DATA, groups=("docker",))
    directories(name="Make its directory", wanted=(Directory(DATA, "750", USER, USER),))
    environment(name="Install opensandbox-server", home=HOME, requirements=requirements)
    place(name="Write config.toml", path=CONFIG, content=config, mode="640", group=USER, check=_CHECK)
    server = unit(settings.ports.opensandbox)
    run(name="Run the server", unit=server, restart_on=sha256(config, environment_of(requirements)))


@deploy("OpenSandbox away")
def no_opensandbox() -> None:
    no_unit(name="Stop the server", unit="deskfleet-opensandbox")
    absent(name="Remove its files", paths=(HOME, DATA, CONFIG, f"{CONFIG}.new"))
    no_user(name="Remove its user", user=USER)
