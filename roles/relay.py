"""Relay: joins an authorised stream to a sandbox's VNC port or a desktop's socket."""

from __future__ import annotations

from pydantic import SecretStr
from pyinfra.api.deploy import deploy

from inventory.models import Settings
from roles import wheel
from roles.files import Directory, absent, directories, no_user, place, render, sha256, system_user
from roles.opensandbox import PUBLISH_ADDRESS
from roles.units import Unit, no_unit, run

USER = "deskfleet-relay"
CONFIG = "/etc/deskfleet/relay.toml"
SECRETS = "/etc/deskfleet/secrets/relay"
KEY = f"{SECRETS}/relay.key"
DESKTOP_SECRETS = f"{SECRETS}/desktops"
DESKTOPS = Directory("/run/deskfleet/desktops")

_CHECK = (
    f'{wheel.PYTHON} -c "import pathlib, sys; from viewer.relay.settings import read_settings;'
    ' read_settings(pathlib.Path(sys.argv[1]))" "$new"'
)

# A stream ends before Caddy's `stream_close_delay` does.
_MAX_STREAM_SECONDS = 43_200


def unit(port: int) -> Unit:
    return Unit(
        name="deskfleet-relay",
        description="Deskfleet's relay",
        command=(f"{wheel.HOME}/current/bin/deskfleet-relay",),
        user=USER,
        environment={"HOME": "/nonexistent", "DESKFLEET_RELAY_SETTINGS": CONFIG, "PYTHONUNBUFFERED": "1"},
        ready=f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null",
    )


@deploy("Relay")
def relay(*, settings: Settings, key: SecretStr, has_sandboxes: bool) -> None:
    config = render(
        "relay/relay.toml.j2",
        listen=f"127.0.0.1:{settings.ports.relay}",
        key_file=KEY,
        publish_address=PUBLISH_ADDRESS,
        desktops_dir=DESKTOPS.path,
        desktop_secrets_dir=DESKTOP_SECRETS,
        opensandbox_url=f"http://127.0.0.1:{settings.ports.opensandbox}" if has_sandboxes else "",
        max_stream_seconds=_MAX_STREAM_SECONDS,
    )
    system_user(name="Make its user", user=USER, home="/nonexistent")
    secrets = (Directory(SECRETS, "750", "root", USER), Directory(DESKTOP_SECRETS, "750", "root", USER))
    directories(name="Make its directories", wanted=(*secrets, DESKTOPS))
    place(name="Write its key", path=KEY, content=key, mode="640", group=USER)
    place(name="Write relay.toml", path=CONFIG, content=config, mode="640", group=USER, check=_CHECK)
    run(
        name="Run the relay",
        unit=unit(settings.ports.relay),
        restart_on=sha256(config, key, wheel.identity()),
    )


@deploy("Relay away")
def no_relay() -> None:
    no_unit(name="Stop the relay", unit="deskfleet-relay")
    absent(name="Remove its files", paths=(CONFIG, f"{CONFIG}.new", SECRETS, DESKTOPS.path))
    no_user(name="Remove its user", user=USER)
