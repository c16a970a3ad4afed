"""Why streams of desktops' own web clients ended: such a client hears it, and the page around it does
not. So that page asks here, through the frame. Kept in memory alone: after a restart nobody knows."""

from __future__ import annotations

from aiohttp import web

from viewer.grants import Grant

ENDED = "/deskfleet-ended"
"""Asked for like a file of the web client; KasmVNC has none of that name."""
_MOST = 1000


class Endings:
    """The last close code of each person's streams of a session, of the last so many that ended."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], int] = {}

    def remember(self, grant: Grant, code: int) -> None:
        self.forget(grant)
        self._codes[_whose(grant)] = code
        if len(self._codes) > _MOST:
            del self._codes[next(iter(self._codes))]

    def forget(self, grant: Grant) -> None:
        """There is a stream again."""
        self._codes.pop(_whose(grant), None)

    def page(self, grant: Grant) -> web.Response:
        """What the frame shows for a moment: it tells the page around it the code, or null."""
        code = self._codes.get(_whose(grant))
        message = f'{{action: "deskfleet_ended", value: {"null" if code is None else code}}}'
        return web.Response(
            text=f'<!doctype html><title>Ended</title><script>parent.postMessage({message}, "*");</script>',
            content_type="text/html",
            headers={"Cache-Control": "no-store"},
        )


def _whose(grant: Grant) -> tuple[str, str]:
    return grant.session_id, grant.principal
