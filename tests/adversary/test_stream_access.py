"""Who gets what on every way to a desktop, through the real edge: each cell has one answer, and no other.

Nothing of a tenant's hears of a request that is refused; and where somebody may know nothing, what belongs to
another tenant and what never was give the same answer, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import httpx
import pytest

from tests.adversary.callers import OURS, THEIRS, Four
from tests.adversary.ground import DASHBOARD, PORT, Ground
from tests.adversary.raw_http import Answer, Headers, ask, request, upgrade_headers
from tests.pages.content_site import DOMAIN
from viewer.access import COOKIE, ENTRY_COOKIE
from viewer.share_visits import COOKIE as SHARED

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@dataclass(frozen=True)
class Way:
    """How one asks for a desktop. `host`, `path`: with the session's id in place of `{id}`."""

    path: str
    host: str = DOMAIN
    upgrade: bool = False
    of: Literal["screens", "pages", "browsers"] = "screens"

    def sessions(self, ground: Ground) -> Four:
        return {"screens": ground.screens, "pages": ground.pages, "browsers": ground.browsers}[self.of]

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
    "stream as shared": Way("/stream/{id}?as=share", upgrade=True),
    "shared": Way("/api/v1/shared/{id}"),
    "page": Way("/", CONTENT, of="pages"),
    "page's socket": Way("/websockify", CONTENT, upgrade=True, of="pages"),
    "DevTools": Way("/devtools/inspector.html?ws=x", CONTENT, of="browsers"),
    "DevTools' socket": Way("/devtools/page/0A1B", CONTENT, upgrade=True, of="browsers"),
}
GREETINGS = {
    "stream": b"RFB 003.008\n",
    "stream as shared": b"RFB 003.008\n",
    "page's socket": b"RFB 003.008\n",
    "port's socket": b'{"upstream": "opensandbox"',
    "its socket": b'{"upstream": "opensandbox"',
    "DevTools' socket": b'{"upstream": "opensandbox"',
}
"""With which each WebSocket begins."""


@dataclass(frozen=True)
class Caller:
    """`key`, `cookie`, `entry`, `ticket`, `offered` (a ticket as a subprotocol), `visit` (by a share link):
    whose is shown. `origin`: may have `{viewer}`, `{other}` (the viewer's second name), `{here}` or
    `{sibling}` in it. `beside`: what is shown as well, in the same request."""

    key: str | None = None
    cookie: str | None = None
    entry: str | None = None
    ticket: str | None = None
    offered: str | None = None
    visit: str | None = None
    origin: str | None = None
    more: Headers = ()
    beside: Caller | None = None

    @property
    def tenant(self) -> str:
        theirs = {"other", "of another tenant"}
        return THEIRS if theirs & {self.key, self.cookie, self.entry, self.ticket, self.visit} else OURS

    def headers(self, ground: Ground, way: Way, at: int) -> Headers:
        shown = list(self.more)
        if self.key is not None:
            shown.append(("Authorization", f"Bearer {ground.callers.keys[self.key]}"))
        if self.cookie is not None:
            shown.append(("Cookie", f"{COOKIE}={ground.callers.cookies[self.cookie]}"))
        if self.entry is not None:
            entries = ground.callers.devtools if way.of == "browsers" else ground.callers.entries
            shown.append(("Cookie", f"{ENTRY_COOKIE}={entries[self.entry].all()[at]}"))
        if self.ticket is not None:
            shown.append(("Authorization", f"Bearer {ground.callers.tickets[self.ticket].all()[at]}"))
        if self.offered is not None:
            ticket = f"ticket.{ground.callers.tickets[self.offered].all()[at]}"
            shown.append(("Sec-WebSocket-Protocol", ticket))
        if self.visit is not None:
            shown.append(("Cookie", f"{SHARED}={ground.callers.visits[self.visit].all()[at]}"))
        if self.origin is not None:
            names = {
                "viewer": ground.site.origin,
                "other": f"http://localhost:{ground.site.port}",
                "here": f"http://{way.name(ground, way.sessions(ground).all()[at])}",
                "sibling": ground.site.content_origin_of(ground.pages.ended),
            }
            shown.append(("Origin", self.origin.format(**names)))
        shown += self.beside.headers(ground, way, at) if self.beside else ()
        return with_one_cookie(shown)


def with_one_cookie(headers: list[tuple[str, str]]) -> Headers:
    """As a browser sends all of its cookies in one header."""
    cookies = "; ".join(value for name, value in headers if name == "Cookie")
    rest = [(name, value) for name, value in headers if name != "Cookie"]
    return (*rest, ("Cookie", cookies)) if cookies else tuple(rest)


def by_key(who: str) -> Caller:
    return Caller(key=who)


def by_cookie(who: str, origin: str | None = "{viewer}", *, beside: Caller | None = None) -> Caller:
    return Caller(cookie=who, origin=origin, beside=beside)


def by_entry(who: str, origin: str | None = "{here}", fetch: Headers = ()) -> Caller:
    return Caller(entry=who, origin=origin, more=fetch)


def by_ticket(which: str) -> Caller:
    return Caller(ticket=which)


def by_offer(which: str, origin: str | None = DASHBOARD) -> Caller:
    return Caller(offered=which, origin=origin)


def by_visit(which: str, origin: str | None = "{viewer}", fetch: Headers = ()) -> Caller:
    return Caller(visit=which, origin=origin, more=fetch)


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
# tenant, and the odd one is that one's. With bars: each by itself. The words in capitals stand for the cells
# that nearly all such rows have. A page's socket is asked for its Origin before anything else, and whoever
# came by a link asks for his stream in the name of that alone (`?as=share`).
WORDS = {
    "OUT": "401 401 401 401 401 401 401 401 401 403 401 403",
    "COOKIE": "401 401 401 401 401 401 401 403 401 403",
    "PLACE": "401 401 401 401 401 401 401 401",
    "OFFER": "401 401 401 401 401 401 403 403 403 403",
    "VISIT": "401 401 401 401 401 401",
    "KEY": "200/404 101/404 200/404 101/404 401 401 401 403 401 403",
}
TABLE: dict[str, tuple[Caller, str]] = {
    "nobody": (Caller(), "OUT"),
    "wrong key": (by_key("wrong"), "OUT"),
    "unknown key": (by_key("unknown"), "OUT"),
    "revoked key": (by_key("revoked"), "OUT"),
    "expired key": (by_key("expired"), "OUT"),
    "key for events": (by_key("narrow"), "403 403 403 403 403 403 401 401 401 403 401 403"),
    "watcher's key": (by_key("watcher"), "101/404 426/404 403 403 403 403 401 401 401 403 401 403"),
    "operator's key": (by_key("operator"), "101/404 426/404 KEY"),
    "admin's key": (by_key("admin"), "101/404 426/404 KEY"),
    "site admin's key": (by_key("site's admin"), "101/404 426/404 KEY"),
    "other's key": (
        by_key("other"),
        ":101/404 :426/404 :200/404 :101/404 :200/404 :101/404 401 401 401 403 401 403",
    ),
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
    "origin of a page": (
        by_cookie("mara", "{sibling}"),
        "403 403 401 401 401 401 401 401 401 403|401|403|403 401 403",
    ),
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
    "entry, watcher": (by_entry("watcher"), "PLACE 200/401 101/401 403/401 403/401"),
    "entry, operator": (by_entry("operator"), "PLACE 200/401 101/401 200/401 101/401"),
    "entry, person": (by_entry("mara"), "PLACE 200/401 101/401 200/401 101/401"),
    "entry, other": (by_entry("other"), "PLACE :200/401 :101/401 :200/401 :101/401"),
    "entry, for events": (
        by_entry("narrow"),
        "PLACE 403|403|401|401 403|403|401|401 403|403|401|401 403|403|401|401",
    ),
    "entry, unknown": (by_entry("unknown"), "PLACE 401 401 401 401"),
    "entry, over": (by_entry("over"), "PLACE 401 401 401 401"),
    "entry of a revoked key": (by_entry("revoked"), "PLACE 401 401 401 401"),
    "entry of an expired key": (by_entry("expired"), "PLACE 401 401 401 401"),
    "entry, disabled": (by_entry("disabled"), "PLACE 401 401 401 401"),
    "entry, signed out": (by_entry("signed-out"), "PLACE 401 401 401 401"),
    "entry, idle": (by_entry("idle"), "PLACE 401 401 401 401"),
    "entry of a sibling": (by_entry("sibling"), "PLACE 401 401 401 401"),
    "unused ticket for one": (by_entry("ticket"), "PLACE 401 401 401 401"),
    "viewer's cookie for one": (by_entry("viewer's"), "PLACE 401 401 401 401"),
    "entry, no origin": (by_entry("mara", None), "PLACE 200/401 403 200/401 403"),
    "entry, null origin": (by_entry("mara", "null"), "PLACE 200/401 403 200/401 403"),
    "entry, viewer's origin": (by_entry("mara", "{viewer}"), "PLACE 200/401 403 200/401 403"),
    "entry, a sibling's origin": (by_entry("mara", "{sibling}"), "PLACE 200/401 403|401|403|403 200/401 403"),
    "entry, from itself": (by_entry("mara", None, FROM_ITSELF), "PLACE 200/401 403 200/401 403"),
    "entry, framed": (
        by_entry("mara", None, FRAMED),
        "401 401 401 401 401 401 401 403 200/401 403 200/401 403",
    ),
    "entry, a sibling's fetch": (
        by_entry("mara", None, A_SIBLINGS_FETCH),
        "401 401 401 401 401 401 401 403 403 403 403 403",
    ),
    "entry, foreign picture": (
        by_entry("mara", None, A_PICTURE),
        "401 401 401 401 401 401 401 403 403 403 403 403",
    ),
    "entry, foreign object": (
        by_entry("mara", None, AN_OBJECT),
        "401 401 401 401 401 401 401 403 403 403 403 403",
    ),
    "ticket, watch": (by_ticket("watch"), "101/404 426/404 COOKIE"),
    "ticket, control": (by_ticket("control"), "101/404 426/404 COOKIE"),
    "ticket of a watcher": (by_ticket("of a watcher"), "101/404 426/404 COOKIE"),
    "ticket of a revoked key": (by_ticket("of a revoked key"), "OUT"),
    "ticket of another tenant": (by_ticket("of another tenant"), ":101/404 :426/404 COOKIE"),
    "ticket for another session": (by_ticket("for another session"), "404 404 COOKIE"),
    "tampered ticket": (by_ticket("tampered"), "OUT"),
    "forged ticket": (by_ticket("of another key"), "OUT"),
    "revoked ticket": (by_ticket("revoked"), "OUT"),
    "used ticket": (by_ticket("used"), "401/404 401/404 COOKIE"),
    "ticket that is over": (by_ticket("over"), "OUT"),
    "wide ticket, offered": (by_offer("watch"), "403 403 OFFER"),
    "used ticket, offered": (by_offer("used"), "403 403 OFFER"),
    "forged ticket, offered": (by_offer("of another key"), "401 401 OFFER"),
    "offered, foreign origin": (by_offer("watch", "https://evil.example"), "403 403 OFFER"),
    "offered, viewer's origin": (by_offer("watch", "{viewer}"), "403 403 OFFER"),
    "offered, no origin": (by_offer("watch", None), "403 403 OFFER"),
    "visitor": (by_visit("good"), "VISIT 101|404|401|401 200|200|401|401 401 403 401 403"),
    "visitor, no origin": (by_visit("good", None), "VISIT 403|403|401|401 200|200|401|401 401 403 401 403"),
    "visitor, foreign origin": (
        by_visit("good", "https://evil.example"),
        "VISIT 403|403|401|401 200|200|401|401 401 403 401 403",
    ),
    "visitor, from a page": (
        by_visit("good", None, A_SIBLINGS_FETCH),
        "VISIT 403|403|401|401 403 403 403 403 403",
    ),
    "visitor, revoked": (by_visit("revoked"), "VISIT 410|410|401|401 410|410|401|401 401 403 401 403"),
    "visitor, expired": (by_visit("expired"), "VISIT 410|410|401|401 410|410|401|401 401 403 401 403"),
    "visitor, key revoked": (
        by_visit("of a revoked key"),
        "VISIT 410|410|401|401 410|410|401|401 401 403 401 403",
    ),
    "visitor of another tenant": (by_visit("of another tenant"), "VISIT :101/401 :200/401 401 403 401 403"),
    "unknown visit": (by_visit("unknown"), "OUT"),
    "link for a visit": (by_visit("the link itself"), "OUT"),
    "visitor who is signed in": (
        by_cookie("mara", beside=Caller(visit="good")),
        "101/404 426/404 401 401 401 401 101|404|401|401 200|200|401|401 401 403 401 403",
    ),
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


CALLERS = [caller for caller, _ in TABLE.values()]


def answers(ground: Ground, way: Way, caller: Caller) -> list[Answer]:
    """Of own, ended, foreign, never. From ever new addresses: wrong keys are counted by it."""
    found = []
    for at, session in enumerate(way.sessions(ground).all()):
        headers = [
            ("Host", way.name(ground, session)),
            *(upgrade_headers() if way.upgrade else ()),
            *caller.headers(ground, way, at),
        ]
        sent = request("GET", way.path.format(id=session), headers)
        found.append(
            ask(
                ground.site.port,
                sent,
                address=f"127.0.{10 + list(WAYS.values()).index(way)}.{1 + CALLERS.index(caller) // 8}",
            )
        )
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
    if (not name.startswith(("stream", "unupgraded", "shared"))) and heard != let_in:
        yield f"{heard} requests reached a desktop or a port, not {let_in}"
    for answer in found:
        if answer.status == 101 and not answer.greeting.startswith(GREETINGS[name]):
            yield f"greeted with {answer.greeting[:40]!r}"


def test_ticket_of_a_page_opens_one_stream_from_a_listed_origin(ground: Ground) -> None:
    key, session = ground.callers.keys["operator"], ground.screens.own
    made = httpx.post(
        f"http://127.0.0.1:{ground.site.port}/api/v1/sessions/{session}/tickets",
        headers={"Host": f"{DOMAIN}:{ground.site.port}", "Authorization": f"Bearer {key}"},
        json={"role": "watch", "ttl_seconds": 30, "single_use": True},
        timeout=15,
        trust_env=False,
    )
    ticket = made.json()["ticket"]

    def opened(*headers: tuple[str, str]) -> Answer:
        sent = request("GET", f"/stream/{session}", [("Host", f"{DOMAIN}:{ground.site.port}"), *headers])
        return ask(ground.site.port, sent, address="127.0.8.1")

    offer = upgrade_headers(f"binary, ticket.{ticket}")
    # Neither of these uses it up.
    assert opened(*offer, ("Origin", "https://evil.example")).status == 403
    assert opened(*offer).status == 403
    first = opened(*offer, ("Origin", DASHBOARD))
    assert (first.status, first.greeting) == (101, b"RFB 003.008\n")
    assert first.header("Sec-WebSocket-Protocol") == ["binary"]
    assert opened(*offer, ("Origin", DASHBOARD)).status == 401
    assert opened(*upgrade_headers(), ("Authorization", f"Bearer {ticket}")).status == 401
    logs = [path.read_text() for path in (*ground.site.folder.glob("log-*"), ground.relay.log)]
    assert logs
    assert not [text for text in logs if ticket in text]


def test_person_at_the_keyboard_shuts_the_ways_around_it_to_all_others(ground: Ground) -> None:
    session, origin = ground.browsers.own, ground.site.content_origin_of(ground.browsers.own)
    person = (("Cookie", f"{COOKIE}={ground.callers.cookies['mara']}"), ("Origin", ground.site.origin))
    agent = (("Authorization", f"Bearer {ground.callers.keys['operator']}"),)

    def lease(verb: str) -> int:
        body = b"{}"
        headers = (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *person)
        return asked("POST", f"/api/v1/sessions/{session}/lease/{verb}", headers, body=body)

    def asked(
        method: str,
        path: str,
        headers: Headers,
        *,
        host: str = f"{DOMAIN}:{ground.site.port}",
        body: bytes = b"",
    ) -> int:
        sent = request(method, path, [("Host", host), ("Connection", "close"), *headers], body=body)
        return ask(ground.site.port, sent, address="127.0.8.2").status

    def port(way: str) -> int:
        return asked("GET", f"/v1/sandboxes/{session}/proxy/{way}", agent)

    def devtools(who: str) -> int:
        cookie = ("Cookie", f"{ENTRY_COOKIE}={ground.callers.devtools[who].own}")
        return asked("GET", "/devtools/inspector.html", (cookie,), host=origin.removeprefix("http://"))

    def found() -> dict[str, int]:
        ways = ("44772/command", "44772/proxy/8000/", "9222/json/list", f"{PORT}/")
        return {way: port(way) for way in ways} | {who: devtools(who) for who in ("operator", "mara")}

    everybody = dict.fromkeys(found(), 200)
    assert found() == everybody
    assert lease("take") == 200
    shut = {"44772/command": 423, "44772/proxy/8000/": 423, "9222/json/list": 423, "operator": 423}
    assert found() == everybody | shut
    assert lease("release") == 200
    assert found() == everybody
