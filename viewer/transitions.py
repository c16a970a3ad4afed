"""The session's state machine: which status may follow which. Terminal states are final."""

from __future__ import annotations

from viewer.model import Status

LEGAL: dict[Status, frozenset[Status]] = {
    Status.CREATING: frozenset({Status.RUNNING, Status.TERMINATED, Status.ERROR}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.TERMINATED, Status.ERROR}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.TERMINATED, Status.ERROR}),
    Status.TERMINATED: frozenset(),
    Status.ERROR: frozenset(),
}


class IllegalTransition(Exception):
    """A late or false report tried to move a session where it cannot go."""

    def __init__(self, current: Status, wanted: Status) -> None:
        super().__init__(f"a session that is {current} cannot become {wanted}")
        self.current = current
        self.wanted = wanted


def check_transition(current: Status, wanted: Status) -> None:
    """Raise IllegalTransition unless `wanted` may follow `current`; staying put is always legal
    except in a terminal state, where nothing changes any more."""
    if current is wanted and not current.is_terminal:
        return
    if wanted not in LEGAL[current]:
        raise IllegalTransition(current, wanted)
