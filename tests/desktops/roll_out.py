"""For pyinfra: of the roll-out, what a host of persistent desktops gets; of the relay, only its user."""

from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import host

from inventory.models import HostConfig
from roles import relay
from roles.backends import problems_of_desktops
from roles.desktops import desktops, no_desktops, runtime_of, unit
from roles.files import Directory, absent, directories, no_user, system_user
from roles.foundation import foundation, no_foundation
from roles.kasmvnc import kasmvnc
from roles.packages import no_packages
from roles.units import keep_running, no_supervision, supervision

config = HostConfig.model_validate(host.data.get("deskfleet"))

if host.data.get("deskfleet_state") == "absent":
    no_desktops(wanted=config.desktops)
    absent(name="Remove the relay's directories", paths=(relay.SECRETS, relay.DESKTOPS.path))
    no_user(name="Remove the relay's user", user=relay.USER)
    no_supervision()
    no_packages(name="Purge our packages")
    no_foundation()
else:
    if problems := list(problems_of_desktops(config)):
        raise PyinfraError("; ".join(problems))
    foundation()
    supervision(runtime=(relay.DESKTOPS, *(runtime_of(name) for name in config.desktops)))
    system_user(name="Make the relay's user", user=relay.USER, home="/nonexistent")
    directories(
        name="Make the relay's directories",
        wanted=(Directory(relay.SECRETS, "750", "root", relay.USER), relay.DESKTOPS),
    )
    kasmvnc(config=config)
    desktops(config=config)
    keep_running(name="Start what was stopped", units=tuple(unit(name) for name in config.desktops))
