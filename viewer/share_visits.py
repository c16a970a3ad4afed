"""The door for those who come by a share link: which visit a request shows, and what it is worth.

The cookie counts at the routes that ask here and nowhere else: any other takes its bearer for nobody.
Who is signed in keeps his sign-in beside it, which in turn counts for nothing here: what is shown as shared
is seen by everybody alike, and ends with the link.
"""

from __future__ import annotations

import re

from flask import Response, request

from viewer.access import check_same_origin, foreign_origin
from viewer.credentials import SecretToken
from viewer.model import Principal, Role
from viewer.problems import Problem
from viewer.services import services
from viewer.shares import LONGEST, ShareOver, Visitor, Why

COOKIE = "__Host-deskfleet-share"
_MOST_SHOWN = 6
"""Desktops that one browser may watch by links side by side; the one that it entered first goes first."""
_QUERY = re.compile(r"as=share")
"""How a stream is asked for by a visit; the whole query."""

_SAID: dict[Why, tuple[int, str, str]] = {
    "unknown": (404, "This link leads nowhere",
                "It is incomplete, or none of ours; ask whoever sent it for another one."),
    "revoked": (410, "This link was withdrawn",
                "Whoever shared the desktop has ended it; ask for another link."),
    "expired": (410, "This link has expired", "It was good for a while only; ask for another link."),
    "used": (410, "This link was used already",
             "It lets one browser in, and another one was first; ask for another link."),
    "ended": (410, "The desktop has ended", "There is nothing to watch any more."),
    "crowded": (409, "Too many have used this link", "It lets nobody else in; ask for another link."),
}  # fmt: skip


def over(why: Why) -> Problem:
    """The same sentence wherever a link or a visit lets nobody in."""
    status, title, detail = _SAID[why]
    return Problem(status, f"share-{why}", title, detail)


def visits_shown() -> list[str]:
    """Each is a secret; newest first."""
    return [part for part in request.cookies.get(COOKIE, "").split(".") if part][:_MOST_SHOWN]


def visitor_to(session_id: str) -> Visitor:
    """Who watches that session by a link; the problem that says why nobody does."""
    try:
        found = services().store.shares.visitor(visits_shown(), session_id)
    except ShareOver as error:
        raise over(error.why) from error
    if found is None:
        raise Problem(
            401,
            "no-share",
            "Open the link that you were sent",
            "This browser has not come by a link to this desktop.",
        )
    return found


def by_share(_role: Role) -> Principal:
    """A door (`viewer.access.Door`) for routes with a `session_id`."""
    if request.method not in ("GET", "HEAD"):
        check_same_origin()
    if request.headers.get("Sec-Fetch-Site") in ("same-site", "cross-site"):
        # A desktop's own page can be same-site, so the Lax cookie comes along.
        raise foreign_origin()
    return visitor_to((request.view_args or {}).get("session_id", "")).who


def is_asked_by_visit(uri: str) -> bool:
    """Is that stream to be opened in the name of a visit, whoever is signed in beside?"""
    return bool(_QUERY.fullmatch(uri.partition("?")[2]))


def let_in(response: Response, cookie: SecretToken) -> None:
    """The visits of one browser share a cookie: there may be only so many, and none says of which desktop."""
    kept = [cookie, *(other for other in visits_shown() if other != cookie)][:_MOST_SHOWN]
    response.set_cookie(
        COOKIE,
        ".".join(kept),
        max_age=int(LONGEST.total_seconds()),
        path="/",
        secure=True,
        httponly=True,
        samesite="Lax",
    )
