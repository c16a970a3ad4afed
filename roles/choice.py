"""What the operator says with `--data`. Which roles of the deploy run: all of them, or those that
`--data deskfleet_roles=caddy,viewer` names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pyinfra.api.exceptions import PyinfraError

ROLES = (
    "firewall", "docker", "images", "opensandbox", "hostwatch", "relay", "desktops", "viewer", "lego",
    "caddy", "check",
)  # fmt: skip
"""In the order of the deploy. What they all stand on (directories, Python, supervision) always runs."""

_STATES = ("present", "absent")
_KEYS = ("deskfleet_state", "deskfleet_roles", "deskfleet_drop", "deskfleet_replace", "deskfleet_kasmvnc")


class UnknownRole(PyinfraError):
    """A role was asked for that does not exist; nothing was changed."""


class Chosen:
    """`"caddy" in Chosen("caddy,viewer")`."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = [name.strip() for name in (wanted or "").split(",") if name.strip()]
        for name in self._wanted:
            if name not in ROLES:
                raise UnknownRole(f"nothing was changed: deskfleet_roles: {_unknown(name)}")

    def __contains__(self, role: str) -> bool:
        return not self._wanted or role in self._wanted


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, ROLES, n=1, cutoff=0.5)
    return f"unknown role {name!r}; {_hint(near, ROLES)}"


def _hint(near: Sequence[str], known: Sequence[str]) -> str:
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def problem_of_data(data: Mapping[str, object]) -> str | None:
    """What is wrong with the `--data` of a roll-out; keys of others are theirs."""
    for key in data:
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.8)
        if key not in _KEYS and (near or key.startswith("deskfleet")):
            return f"--data {key}: unknown key; {_hint(near, _KEYS)}"
    state = data.get("deskfleet_state", "present")
    if state not in _STATES:
        return f"--data deskfleet_state={state}: unknown value; there are: {', '.join(_STATES)}"
    if state == "absent" and "deskfleet_roles" in data:
        return "--data deskfleet_state=absent takes everything away; leave out deskfleet_roles"
    return None
