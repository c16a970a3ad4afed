"""Who gets what on every way to a desktop, through the real edge: each cell has one answer, and no other.

Nothing of a tenant's hears of a request that is refused; and where somebody may know nothing, what belongs to
another tenant and what never was give the same answer, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.adversary.callers import OURS, THEIRS, Four
from tests.adversary.ground import PORT, Ground
from tests.adversary.raw_http import Answer, Headers, ask, request, upgrade_headers
from tests.pages.content_site import DOMAIN
from viewer.access import COOKIE, ENTRY_COOKIE

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@dataclass(frozen=True)
class Way:
    """How one asks for a desktop. `host`, `path`: with the session's id in place of `{id}`."""

    path: str
    host: str = DOMAIN
    upgrade: bool = False
    is_page: bool = False
    """Of a desktop with a page of its own."""

    def sessions(self, ground: Ground) -> Four:
        return ground.pages if self.is_page else ground.screens

    def name(self, ground: Ground, session: str) -> str:
        return f"{self.host.format(id=session, content=ground.site.content_domain)}:{ground.site.port}"


CONTENT, OPENSANDBOX = "{id}.{content}", f"opensandbox.{DOMAIN}"
TO_PORT = f"/v1/sandboxes/{{id}}/proxy/{PORT}"
WAYS = {
    "stream": Way("/stream/{id}", upgrade=True),
    "unupgraded": Way("/stream/{id}"),
    "port": Way(f"{TO_PORT}/a%2Fb?c=d"),
    "port's socket": Way(f"{TO_PORT}/ws", upgrade=True),
    "port by OpenSandbox's name": Way(f"{TO_PORT}/", OPENSANDBOX),
    "its socket": Way(TO_PORT, OPENSANDBOX, upgrade=True),
    "page": Way("/", CONTENT, is_page=True),
    "page's socket": Way("/websockify", CONTENT, upgrade=True, is_page=True),
}
GREETINGS = {
    "stream": b"RFB 003.008\n",
    "page's socket": b"RFB 003.008\n",
    "port's socket": b'{"upstream": "opensandbox"',
    "its socket": b'{"upstream": "opensandbox"',
}
"""With which each WebSocket begins."""


@dataclass(frozen=True)
class Caller:
    """`key`, `cookie`, `entry`: whose is shown. `origin`: may have `{viewer}`, `{other}` (the viewer's second
    name), `{here}` or `{sibling}` in it. `beside`: what is shown as well, later in the same request."""

    key: str | None = None
    cookie: str | None = None
    entry: str | None = None
    origin: str | None = None
    more: Headers = ()
    beside: Caller | None = None

    @property
    def tenant(self) -> str:
        return THEIRS if "other" in (self.key, self.cookie, self.entry) else OURS

    def headers(self, ground: Ground, way: Way, at: int) -> Headers:
        shown = list(self.more)
        if self.key is not None:
            shown.append(("Authorization", f"Bearer {ground.callers.keys[self.key]}"))
        if self.cookie is not None:
            shown.append(("Cookie", f"{COOKIE}={ground.callers.cookies[self.cookie]}"))
        if self.entry is not None:
            shown.append(("Cookie", f"{ENTRY_COOKIE}={ground.callers.entries[self.entry].all()[at]}"))
        if self.origin is not None:
            names = {
                "viewer": ground.site.origin,
                "other": f"http://localhost:{ground.site.port}",
                "here": f"http://{way.name(ground, way.sessions(ground).all()[at])}",
                "sibling": ground.site.content_origin_of(ground.pages.ended),
            }
            shown.append(("Origin", self.origin.format(**names)))
        return (*shown, *(self.beside.headers(ground, way, at) if self.beside else ()))


def by_key(who: str) -> Caller:
    return Caller(key=who)


def by_cookie(who: str, origin: str | None = "{viewer}", *, beside: Caller | None = None) -> Caller:
    return Caller(cookie=who, origin=origin, beside=beside)


def by_entry(who: str, origin: str | None = "{here}", fetch: Headers = ()) -> Caller:
    return Caller(entry=who, origin=origin, more=fetch)


def fetched(site: str, mode: str, destination: str) -> Headers:
    """What a browser says of where a request comes from, which no page can change."""
    return (("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", destination))


FROM_ITSELF = fetched("same-origin", "cors", "empty")
FRAMED = fetched("cross-site", "navigate", "iframe")
A_SIBLINGS_FETCH = fetched("same-site", "cors", "empty")
A_PICTURE = fetched("cross-site", "no-cors", "image")
AN_OBJECT = fetched("cross-site", "navigate", "object")

# A cell is what an own session answers, and after the slash what the three others do: one that has ended,
# another tenant's, one that never was. One word: all four alike. A colon first: who asks is of the other
# tenant, and the odd one is that one's. With bars: each by itself. OUT, COOKIE and PLACE stand for the cells
# that nearly all such rows have. A page's socket is asked for its Origin before anything else.
WORDS = {
    "OUT": "401 401 401 401 401 401 401 403",
    "COOKIE": "401 401 401 401 401 403",
    "PLACE": "401 401 401 401 401 401",
}
TABLE: dict[str, tuple[Caller, str]] = {
    "nobody": (Caller(), "OUT"),
    "wrong key": (by_key("wrong"), "OUT"),
    "unknown key": (by_key("unknown"), "OUT"),
    "revoked key": (by_key("revoked"), "OUT"),
    "expired key": (by_key("expired"), "OUT"),
    "key for events": (by_key("narrow"), "403 403 403 403 403 403 401 403"),
    "watcher's key": (by_key("watcher"), "101/404 426/404 403 403 403 403 401 403"),
    "operator's key": (by_key("operator"), "101/404 426/404 200/404 101/404 200/404 101/404 401 403"),
    "admin's key": (by_key("admin"), "101/404 426/404 200/404 101/404 200/404 101/404 401 403"),
    "site admin's key": (by_key("site's admin"), "101/404 426/404 200/404 101/404 200/404 101/404 401 403"),
    "other's key": (by_key("other"), ":101/404 :426/404 :200/404 :101/404 :200/404 :101/404 401 403"),
    "wrong key, right cookie": (Caller(key="wrong", beside=by_cookie("mara")), "OUT"),
    "two right keys": (Caller(key="operator", beside=by_key("operator")), "OUT"),
    "key as password": (Caller(more=(("Authorization", "Basic b3BlcmF0b3I6"),)), "OUT"),
    "watcher": (by_cookie("watcher"), "101/404 426/404 COOKIE"),
    "operator": (by_cookie("operator"), "101/404 426/404 COOKIE"),
    "person": (by_cookie("mara"), "101/404 426/404 COOKIE"),
    "other": (by_cookie("other"), ":101/404 :426/404 COOKIE"),
    "for events": (by_cookie("narrow"), "403 403 COOKIE"),
    "no origin": (by_cookie("mara", None), "403 403 COOKIE"),
    "null origin": (by_cookie("mara", "null"), "403 403 COOKIE"),
    "viewer's origin, TLS": (by_cookie("mara", f"https://{DOMAIN}"), "403 403 COOKIE"),
    "viewer's other name": (by_cookie("mara", "{other}"), "403 403 COOKIE"),
    "origin of a page": (by_cookie("mara", "{sibling}"), "403 403 401 401 401 401 401 403|401|403|403"),
    "foreign origin": (by_cookie("mara", "https://evil.example"), "403 403 COOKIE"),
    "two origins": (
        by_cookie("mara", "https://evil.example", beside=Caller(origin="{viewer}")),
        "403 403 COOKIE",
    ),
    "unknown cookie": (by_cookie("unknown"), "OUT"),
    "of a revoked key": (by_cookie("revoked"), "OUT"),
    "of an expired key": (by_cookie("expired"), "OUT"),
    "disabled": (by_cookie("disabled"), "OUT"),
    "signed out": (by_cookie("signed-out"), "OUT"),
    "idle": (by_cookie("idle"), "OUT"),
    "entry, watcher": (by_entry("watcher"), "PLACE 200/401 101/401"),
    "entry, operator": (by_entry("operator"), "PLACE 200/401 101/401"),
    "entry, person": (by_entry("mara"), "PLACE 200/401 101/401"),
    "entry, other": (by_entry("other"), "PLACE :200/401 :101/401"),
    "entry, for events": (by_entry("narrow"), "PLACE 403|403|401|401 403|403|401|401"),
    "entry, unknown": (by_entry("unknown"), "PLACE 401 401"),
    "entry, over": (by_entry("over"), "PLACE 401 401"),
    "entry of a revoked key": (by_entry("revoked"), "PLACE 401 401"),
    "entry of an expired key": (by_entry("expired"), "PLACE 401 401"),
    "entry, disabled": (by_entry("disabled"), "PLACE 401 401"),
    "entry, signed out": (by_entry("signed-out"), "PLACE 401 401"),
    "entry, idle": (by_entry("idle"), "PLACE 401 401"),
    "entry of a sibling": (by_entry("sibling"), "PLACE 401 401"),
    "unused ticket for one": (by_entry("ticket"), "PLACE 401 401"),
    "viewer's cookie for one": (by_entry("viewer's"), "PLACE 401 401"),
    "entry, no origin": (by_entry("mara", None), "PLACE 200/401 403"),
    "entry, null origin": (by_entry("mara", "null"), "PLACE 200/401 403"),
    "entry, viewer's origin": (by_entry("mara", "{viewer}"), "PLACE 200/401 403"),
    "entry, a sibling's origin": (by_entry("mara", "{sibling}"), "PLACE 200/401 403|401|403|403"),
    "entry, from itself": (by_entry("mara", None, FROM_ITSELF), "PLACE 200/401 403"),
    "entry, framed": (by_entry("mara", None, FRAMED), "PLACE 200/401 403"),
    "entry, a sibling's fetch": (by_entry("mara", None, A_SIBLINGS_FETCH), "PLACE 403 403"),
    "entry, foreign picture": (by_entry("mara", None, A_PICTURE), "PLACE 403 403"),
    "entry, foreign object": (by_entry("mara", None, AN_OBJECT), "PLACE 403 403"),
}


def expected(words: str) -> list[tuple[int, ...]]:
    """For each way the answers of own, ended, foreign and never."""
    for word, cells in WORDS.items():
        words = words.replace(word, cells)
    return [_cell(cell) for cell in words.split()]


def _cell(cell: str) -> tuple[int, ...]:
    if "|" in cell:
        return tuple(map(int, cell.split("|")))
    odd, _, others = cell.removeprefix(":").partition("/")
    one, rest = int(odd), int(others or odd)
    return (rest, rest, one, rest) if cell.startswith(":") else (one, rest, rest, rest)


def answers(ground: Ground, way: Way, caller: Caller) -> list[Answer]:
    """Of own, ended, foreign, never. Each way from an address of its own: wrong keys are counted by it."""
    found = []
    for at, session in enumerate(way.sessions(ground).all()):
        headers = [
            ("Host", way.name(ground, session)),
            *(upgrade_headers() if way.upgrade else ()),
            *caller.headers(ground, way, at),
        ]
        sent = request("GET", way.path.format(id=session), headers)
        found.append(ask(ground.site.port, sent, address=f"127.0.5.{1 + list(WAYS.values()).index(way)}"))
    return found


@pytest.mark.parametrize("name", WAYS)
def test_each_cell_has_its_answer_and_no_other(ground: Ground, name: str) -> None:
    way, column = WAYS[name], list(WAYS).index(name)
    wrong = []
    for who, (caller, words) in TABLE.items():
        heard = ground.heard()
        found = answers(ground, way, caller)
        statuses = tuple(answer.status for answer in found)
        if statuses != (right := expected(words)[column]):
            wrong.append(f"{who}: {statuses}, not {right}")
        wrong += [f"{who}: {what}" for what in slips(ground, name, found, ground.heard() - heard)]
        _own, _ended, foreign, never = (answer.without(*way.sessions(ground).all()) for answer in found)
        if caller.tenant != THEIRS and foreign != never:
            wrong.append(f"{who}: the other tenant's answers {foreign}, one that never was {never}")
    assert wrong == []


def slips(ground: Ground, name: str, found: list[Answer], heard: int) -> Iterator[str]:
    """What is wrong with these answers beside their status; `heard`: how many requests have got through."""
    let_in = sum(answer.status in (101, 200) for answer in found)
    if name not in ("stream", "unupgraded") and heard != let_in:
        yield f"{heard} requests reached a desktop or a port, not {let_in}"
    for answer in found:
        if answer.status == 101 and not answer.greeting.startswith(GREETINGS[name]):
            yield f"greeted with {answer.greeting[:40]!r}"
