"""Written otherwise than a browser would: paths, methods, headers and names that might be read in two ways.

Each is asked by three: the owner, somebody of another tenant, and nobody. Whatever is written, the two get
nothing, nothing of a tenant's hears of them, and no internal header comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from tests.adversary.ground import PORT, Ground
from tests.adversary.raw_http import Answer, Headers, ask, request, upgrade_headers
from tests.pages.content_site import DOMAIN
from viewer.access import COOKIE, ENTRY_COOKIE
from viewer.grants import GRANT_HEADER, PublishedPort

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

ADDRESS = "127.0.6.1"
CLOSE: Headers = (("Connection", "close"),)
FORGED = "127.0.0.1:9"

# What the owner, another tenant's admin and nobody are answered -> what they ask for, with ids of `names` in
# it. A plus: it reached something of a tenant's.
STREAM_PATHS = {
    "101 404 401": (
        "/stream/{own}", "/stream/{own}?", "/stream/{own}?a=/../b", "/stream/{own}?x=/stream/{foreign}",
    ),
    "404 101 401": ("/stream/{foreign}", "/stream/{foreign}?x=/stream/{own}"),
    "404 404 401": (
        "/stream/../stream/{own}", "/stream/%2e%2e/stream/{own}", "/stream/%252e%252e/stream/{own}",
        "/./stream/{own}", "//stream/{own}", "/stream//{own}", "/stream/{own}/", "/stream/{own}//",
        "/stream/{own}/x", "/stream/{own};x", "/stream/{own}%00", "/stream/{own}%20", "/stream/{own}%3f",
        "/stream/{own}%0d%0aX-Df-Grant:%20x", "/stream/{own}#x", "/stream/{OWN}", "/STREAM/{own}",
        "/stream/{hex}", "/stream%2f{own}", "/%73tream/{own}", "/stream/{own},{foreign}",
        "/stream/{own}/../{foreign}", "/stream/{foreign}/../{own}", "/stream/{own}/%2e%2e/{foreign}",
        "/stream/{own}%2f..%2f{foreign}", "/stream/{own}/..;/{foreign}", "/stream/{own}\\..\\{foreign}",
        "/stream/", "/stream/{page}",
    ),
    # The viewer's own questions to itself, and what only the edge asks a relay.
    "404 404 404": (
        "/authz/stream", "/AUTHZ/stream", "//authz/stream", "/authz//stream", "/./authz/stream",
        "/x/../authz/stream", "/%61uthz/stream", "/authz%2fstream", "/authz\\stream", "/authz;x/stream",
        "/authz/stream/", "/authz/stream?x", "/stream/../authz/stream", "/stream/%2e%2e/authz/stream",
        "/static/../authz/stream", "/v1/sandboxes/x/proxy/1/../../../../../authz/stream", "/authz/port",
        "/authz/content", "/authz/service", "/stream/{own}/..", "/stream", "/streams", "/streams/{own}",
        "/probe/{own}", "/content/", "/port/{own}/x", "/leases/{own}", "/hostwatch/events",
    ),
    "400 400 400": ("stream/{own}", "/stream/{own}\t", "/stream/{own}\x7f", "/stream/%zz{own}"),
}  # fmt: skip
PORT_PATHS = {
    "200+ 404 401": (
        "{to_own}/x", "{to_own}", "{to_own}?x", "{to_own}//x", "{to_own}/x%00", "{to_own}/#x",
        # Encoded, it is the sandbox's own business, and stays below its port.
        "{to_own}/%2e%2e/%2e%2e/%2e%2e/{foreign}/proxy/8000/x", "{to_own}/%252e%252e/x",
        "/v1/sandboxes/{own}/proxy/44772/ping", "/v1/sandboxes/{own}/proxy/44772/PROXY/8080",
    ),
    "404 200+ 401": ("{to_foreign}/x", "{to_foreign}/x?{to_own}/x"),
    "400 404 401": (
        "{to_own}/../../../{foreign}/proxy/8000/x", "{to_own}/..%2f..%2f..%2f{foreign}/proxy/8000/x",
    ),
    # The screen, by its port or through the sandbox's own proxy.
    "403 404 401": (
        "/v1/sandboxes/{own}/proxy/8080/x", "/v1/sandboxes/{own}/proxy/5901/",
        "/v1/sandboxes/{own}/proxy/6080/",
        "/v1/sandboxes/{own}/proxy/44772/proxy/8080/x", "/v1/sandboxes/{own}/proxy/44772/proxy/%38080/x",
        "/v1/sandboxes/{own}/proxy/44772/%70roxy/8080/x", "/v1/sandboxes/{own}/proxy/44772//proxy//8080/x",
        "/v1/sandboxes/{own}/proxy/44772/%2570roxy/08080/x",
        "/v1/sandboxes/{own}/proxy/44772/x/../proxy/8080/x",
    ),
    "404 404 401": (
        "/v1/sandboxes/{own}/../{foreign}/proxy/8000/x",
        "/v1/sandboxes/{own}%2f..%2f{foreign}/proxy/8000/x",
        "/v1//sandboxes/{own}/proxy/8000/x", "//v1/sandboxes/{own}/proxy/8000/x",
        "/v1/sandboxes/{OWN}/proxy/8000/x", "/v1/sandboxes/{hex}/proxy/8000/x",
        "/v1/sandboxes/{own}/proxy//8000/x", "/v1/sandboxes/{own}/proxy/0/x",
        "/v1/sandboxes/{own}/proxy/65536/x",
        "/v1/sandboxes/{own}/proxy/08000/x", "/v1/sandboxes/{own}/proxy/8000x/x",
        "/v1/sandboxes/{own}/proxy/-1/x",
        "{to_own}\\..\\..\\x", "/v1/sandboxes/{own}/proxy/%38000/x", "/v1/sandboxes/{page}/proxy/8000/x",
    ),
}  # fmt: skip
PAGE_PATHS = {
    "200+ 401 401": ("/", "/dist/client.js", "/dist/client.js?x=../"),
    "404+ 401 401": ("/DIST/client.js", "/stream/{own}", "/authz/content", "/sandboxes"),
    "404 401 401": (
        "//", "/dist//client.js", "/dist/client.js/", "/dist/client.js%00", "/dist/clien%74.js",
        # All that the desktop's owner may do, who is the relay.
        "/api/get_users", "/API/get_users", "//api/get_users", "/%61pi/get_users", "/dist/api/get_users",
        # It has none of the viewer's own routes.
        "/api/v1/me", "/content/",
    ),
    "404 404 404": (
        "/..", "/../", "/%2e%2e/", "/%2e%2e%2fdist/client.js", "/dist/../dist/client.js", "/.", "/%2e",
        "/dist/%2e%2e/dist/client.js", "/dist/..%2fclient.js", "/dist\\..\\client.js", "/%2edeskfleet/../",
        "/.deskfleet/authz/content", "/.DESKFLEET/authz/content", "//.deskfleet/authz/content",
        "/.deskfleet//authz/content", "/.deskfleet/../authz/content", "/.deskfleet/%2e%2e/authz/content",
        "/%2edeskfleet/authz/content", "/.deskfleet%2fauthz/content", "/.deskfleet/",
        "/.deskfleet/api/v1/me",
    ),
    "405 405 405": ("/.deskfleet/enter",),
}  # fmt: skip


DEVTOOLS_PATHS = {
    "200+ 401 401": (
        "/devtools/inspector.html", "/devtools/a/b.js?c=%2e%2e/", "/devtools/inspector.html?ws=evil",
    ),
    # Chromium's lists open and close tabs by an address alone, and one socket is for the browser as a whole.
    "404 401 401": (
        "/devtools/", "/devtools//inspector.html", "/devtools/.hidden", "/devtools/a%2fb",
        "/devtools/page/0A1B", "/devtools/PAGE/0A1B", "/devtools/browser/0A1B", "/devtools/Browser/x",
    ),
    "401 401 401": (
        "/json", "/json/", "/json/list", "/json/new?about:blank", "/json/version", "/json/close/0A1B",
        "/JSON/list",
        "//json/list", "/%6ason/list", "/", "/devtools", "/DevTools/inspector.html",
        "/%64evtools/inspector.html",
        "//devtools/inspector.html", "/websockify", "/api/v1/me",
    ),
    "404 404 404": (
        "/devtools/../json/list", "/devtools/%2e%2e/json/list", "/devtools/%2e%2e/json",
        "/devtools\\..\\json", "/./json/list",
    ),
}  # fmt: skip
DEVTOOLS_SOCKETS = {
    "101+ 401 401": ("/devtools/page/0A1B",),
    "404 401 401": (
        "/devtools/page/", "/devtools/page/0A1B/", "/devtools/page/0A1B?x", "/devtools/page/%30A1B",
        "/devtools/browser/0A1B", "/devtools/inspector.html", "/devtools/page//0A1B", "/devtools/PAGE/0A1B",
    ),
    "401 401 401": ("/json/list", "/", "/websockify", "//devtools/page/0A1B", "/DEVTOOLS/page/0A1B"),
    "404 404 404": ("/devtools/page/../browser/0A1B", "/devtools/page/%2e%2e/browser/0A1B"),
}  # fmt: skip


Of = Literal["sandboxes", "pages", "browsers"]


@dataclass(frozen=True)
class Asker:
    """Of one of the three: by which headers he asks for a sandbox, for a desktop's page, and for DevTools."""

    of_sandboxes: Headers
    of_pages: Headers
    of_browsers: Headers


def askers(ground: Ground) -> tuple[Asker, Asker, Asker]:
    """The owner, another tenant's admin, nobody."""
    callers = ground.callers

    def known(key: str, entry: str) -> Asker:
        page, browser = (f"{ENTRY_COOKIE}={of[entry].own}" for of in (callers.entries, callers.devtools))
        shown = ("Authorization", f"Bearer {callers.keys[key]}")
        return Asker((shown,), (("Cookie", page),), (("Cookie", browser),))

    return known("operator", "operator"), known("other", "other"), Asker((), (), ())


def names(ground: Ground) -> dict[str, str]:
    own, foreign = ground.screens.own, ground.screens.foreign
    return {
        "own": own,
        "foreign": foreign,
        "OWN": own.upper(),
        "hex": "".join(f"%{ord(letter):02x}" for letter in own),
        "page": ground.pages.own,
        "to_own": f"/v1/sandboxes/{own}/proxy/{PORT}",
        "to_foreign": f"/v1/sandboxes/{foreign}/proxy/{PORT}",
    }


def viewers_name(ground: Ground) -> str:
    return f"{DOMAIN}:{ground.site.port}"


def pages_name(ground: Ground) -> str:
    return f"{ground.pages.own}.{ground.site.content_domain}:{ground.site.port}"


def words_of_three(
    ground: Ground, method: str, target: str, host: str, *, more: Headers = CLOSE, of: Of = "sandboxes"
) -> str:
    """Their three answers, as the tables write them."""
    words = []
    for asker in askers(ground):
        heard = ground.heard()
        shown = {"sandboxes": asker.of_sandboxes, "pages": asker.of_pages, "browsers": asker.of_browsers}[of]
        sent = request(method, target, (("Host", host), *more, *shown))
        answer = ask(ground.site.port, sent, address=ADDRESS)
        words.append(f"{answer.status}{'+' if ground.heard() > heard else ''}{told(answer)}")
    return " ".join(words)


def told(answer: Answer) -> str:
    """Internal headers that came back, and what was forged if it went through."""
    return "".join(f"!{name}" for name, _ in answer.headers if name.lower().startswith("x-df-"))


def check_paths(
    ground: Ground,
    table: dict[str, tuple[str, ...]],
    host: str,
    *,
    more: Headers = CLOSE,
    of: Of = "sandboxes",
) -> None:
    wrong = []
    for right, targets in table.items():
        for target in (written.format(**names(ground)) for written in targets):
            found = words_of_three(ground, "GET", target, host, more=more, of=of)
            if found != right:
                wrong.append(f"{target}: {found}, not {right}")
    assert wrong == []


@pytest.mark.parametrize("upgrade", [True, False], ids=["upgraded", "plain"])
def test_stream_has_one_path_and_no_other_way_of_writing_it(ground: Ground, upgrade: bool) -> None:
    table = {
        right if upgrade else right.replace("101", "426"): paths for right, paths in STREAM_PATHS.items()
    }
    # As if the edge had said so already.
    forged = (("X-Forwarded-Uri", f"/stream/{ground.screens.own}"), ("X-Forwarded-Method", "GET"))
    more = (*(upgrade_headers() if upgrade else CLOSE), *forged)
    check_paths(ground, table, viewers_name(ground), more=more)


@pytest.mark.parametrize("upgrade", [True, False], ids=["upgraded", "plain"])
@pytest.mark.parametrize("name", [DOMAIN, f"opensandbox.{DOMAIN}"])
def test_path_to_a_port_never_leads_to_another_sandbox(ground: Ground, name: str, upgrade: bool) -> None:
    table = {right.replace("200", "101") if upgrade else right: paths for right, paths in PORT_PATHS.items()}
    ground.sandboxes.seen.clear()
    more = upgrade_headers() if upgrade else CLOSE
    check_paths(ground, table, f"{name}:{ground.site.port}", more=more)
    store = ground.site.store.fleet
    own, foreign = (store.get(one).sandbox_id for one in (ground.screens.own, ground.screens.foreign))
    roots = tuple(f"/v1/sandboxes/{box}/proxy/" for box in (own, foreign))
    counts = [sum(path.startswith(root) for path in ground.sandboxes.seen) for root in roots]
    assert counts == [len(PORT_PATHS["200+ 404 401"]), len(PORT_PATHS["404 200+ 401"])]
    assert sum(counts) == len(ground.sandboxes.seen)


def test_page_is_its_files_alone(ground: Ground) -> None:
    check_paths(ground, PAGE_PATHS, pages_name(ground), of="pages")


def test_devtools_are_files_and_targets_alone(ground: Ground) -> None:
    host = f"{ground.browsers.own}.{ground.site.content_domain}:{ground.site.port}"
    check_paths(ground, DEVTOOLS_PATHS, host, of="browsers")
    more = (*upgrade_headers(), ("Origin", f"http://{host}"))
    check_paths(ground, DEVTOOLS_SOCKETS, host, more=more, of="browsers")


# Which way -> the answers of the three -> methods. A screen is a WebSocket's GET and nothing else, a page is
# only read, and a port takes what HTTP APIs use.
METHODS = {
    "stream": {
        "101 404 401": ("GET",),
        "404 404 401": (
            "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "PRI",
        ),
    },
    "port": {
        "200+ 404 401": ("GET", "POST", "PUT", "PATCH", "DELETE"),
        "405 404 401": ("HEAD", "OPTIONS", "TRACE", "PROPFIND"),
        "404 404 401": ("CONNECT",),
        "400 404 401": ("get", "PRI"),
    },
    "port's socket": {
        "101+ 404 401": ("GET",),
        "405 404 401": ("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"),
        "404 404 401": ("CONNECT",),
        "400 404 401": ("get", "PRI"),
    },
    "page": {
        "200+ 401 401": ("GET",),
        "405 405 405": (
            "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "PRI",
        ),
    },
}  # fmt: skip
WAYS = {
    "stream": ("/stream/{own}", True),
    "port": ("{to_own}/x", False),
    "port's socket": ("{to_own}/x", True),
    "page": ("/", False),
}


@pytest.mark.parametrize("name", METHODS)
def test_each_way_takes_its_methods_alone(ground: Ground, name: str) -> None:
    path, upgrade = WAYS[name]
    host = pages_name(ground) if name == "page" else viewers_name(ground)
    more = upgrade_headers() if upgrade else CLOSE
    wrong = []
    for right, methods in METHODS[name].items():
        for method in methods:
            target = path.format(**names(ground))
            found = words_of_three(
                ground, method, target, host, more=more, of="pages" if name == "page" else "sandboxes"
            )
            if found != right:
                wrong.append(f"{method}: {found}, not {right}")
    assert wrong == []


def forged_headers(ground: Ground) -> dict[str, Headers]:
    """What a client sends that only the edge, or a proxy before it, might say."""
    grant = ground.relay.grant("stream", session_id=ground.screens.own, target=PublishedPort(port=1))[
        GRANT_HEADER
    ]
    uri, foreign = f"/stream/{ground.screens.own}", f"/stream/{ground.screens.foreign}"
    own_place = viewers_name(ground)
    return {
        "a grant": (("X-Df-Grant", grant), ("X-Df-Upstream", "here")),
        "a grant in small letters": (("x-df-grant", grant), ("x-df-upstream", "here")),
        "a grant with underscores": (("X_Df_Grant", grant), ("X_Df_Upstream", "here")),
        "a grant, half and half": (("X-Df_Grant", grant), ("X_Df-Upstream", "here")),
        "two grants": (("X-Df-Grant", grant), ("X-Df-Grant", grant), ("X-Df-Upstream", "here")),
        "another upstream": (("X-Df-Upstream", FORGED),),
        "a service": (("X-Df-Service", "wiki"), ("X-Df-Tenant", "bolt"), ("X-Df-Principal", FORGED)),
        "another uri": (("X-Forwarded-Uri", foreign), ("X-Forwarded-Uri", uri)),
        "another uri, underscored": (("X_Forwarded_Uri", uri), ("X_Forwarded_Method", "GET")),
        "another method": (("X-Forwarded-Method", "GET"), ("X-HTTP-Method-Override", "GET")),
        "another place": (
            ("X-Forwarded-Host", own_place),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Port", "9"),
        ),
        "another client": (
            ("X-Forwarded-For", FORGED),
            ("X-Real-Ip", FORGED),
            ("Forwarded", f"for={FORGED}"),
        ),
        "rewriting": (("X-Original-Url", uri), ("X-Rewrite-Url", uri), ("X-Original-Method", "GET")),
        "a prefix": (("Script-Name", "/stream"), ("Path-Info", uri), ("X-Forwarded-Prefix", "/stream")),
        "a prefix, underscored": (("SCRIPT_NAME", "/stream"), ("PATH_INFO", uri), ("REMOTE_USER", "ada")),
        "what ends at the hop": (
            (
                "Connection",
                "X-Forwarded-Uri, X-Forwarded-Host, X-Forwarded-Method, X-Forwarded-For",
            ),
        ),
    }


@pytest.mark.parametrize("name", WAYS)
def test_forged_headers_change_no_answer_and_go_nowhere(ground: Ground, name: str) -> None:
    """A real grant among them: whoever has read one gets nothing for it at the edge."""
    path, upgrade = WAYS[name]
    of: Of = "pages" if name == "page" else "sandboxes"
    host = pages_name(ground) if of == "pages" else viewers_name(ground)
    targets = [path.format(**names(ground)), path.replace("own", "foreign").format(**names(ground))]
    plain = upgrade_headers() if upgrade else CLOSE
    wrong = []
    for target in targets:
        right = words_of_three(ground, "GET", target, host, more=plain, of=of)
        for what, forged in forged_headers(ground).items():
            found = words_of_three(ground, "GET", target, host, more=(*plain, *forged), of=of)
            if found != right:
                wrong.append(f"{what}, {target}: {found}, not {right}")
    assert wrong == []
    reached = [
        *map(str, ground.sandboxes.headers),
        *(one.text for one in ground.desktops[0].fake.seen.requests),
    ]
    assert reached
    assert not [one for one in reached if "x-df-" in one.lower() or "x_df" in one.lower()]


# What the stream answers to a key and to a cookie with the viewer's Origin, and a page's socket and a page to
# an entry of theirs -> the names that are asked.
NAMES = {
    "101 101 404 303": ("{viewer}", "{VIEWER}", " {viewer} "),
    # A key needs no name; a cookie goes with its origin.
    "101 403 302 302": ("{domain}", "{domain}:1", "localhost:{port}"),
    "302 302 302 302": (
        "{domain}.:{port}", "localhost.:{port}", "127.0.0.1:{port}", "[::1]:{port}", "evil.example",
        "x.{domain}:{port}", "{content}:{port}", "x.{page}", "{id}.{domain}:{port}", "{id}.{content}.:{port}",
        "{id}.content.evil.example:{port}", "{id}..{content}:{port}", "{viewer}:80",
        "{domain},{domain}",
    ),
    "403 403 101 200": ("{page}", "{PAGE}"),
    "404 404 404 404": ("{id}.{content}", "{id}.{content}:1", "x.{content}:{port}", "%61.{content}:{port}"),
    "404 401 401 401": ("opensandbox.{domain}:{port}",),
    "400 400 400 400": (
        "", "{viewer}@evil.example", "evil.example@{viewer}", "{viewer}/x", "{viewer} x",
        "{domain}\xa0:{port}",
    ),
}  # fmt: skip


def test_name_that_is_asked_decides_and_every_other_one_leads_nowhere(ground: Ground) -> None:
    site, callers = ground.site, ground.callers
    origin = ground.site.content_origin_of(ground.pages.own)
    key: Headers = (("Authorization", f"Bearer {callers.keys['operator']}"),)
    cookie: Headers = (("Cookie", f"{COOKIE}={callers.cookies['mara']}"), ("Origin", site.origin))
    entry: Headers = (("Cookie", f"{ENTRY_COOKIE}={callers.entries['mara'].own}"),)
    stream = f"/stream/{ground.screens.own}"
    asked: tuple[tuple[str, Headers], ...] = (
        (stream, (*upgrade_headers(), *key)),
        (stream, (*upgrade_headers(), *cookie)),
        ("/websockify", (*upgrade_headers(), *entry, ("Origin", origin))),
        ("/", (*CLOSE, *entry)),
    )
    known = {
        "domain": DOMAIN,
        "port": site.port,
        "viewer": viewers_name(ground),
        "VIEWER": viewers_name(ground).upper(),
        "content": site.content_domain,
        "id": ground.pages.own,
        "page": pages_name(ground),
        "PAGE": pages_name(ground).upper(),
    }
    wrong = []
    for right, hosts in NAMES.items():
        for host in (written.format(**known) for written in hosts):
            answers = [
                ask(site.port, request("GET", target, (("Host", host), *headers)), address=ADDRESS)
                for target, headers in asked
            ]
            found = " ".join(str(answer.status) for answer in answers)
            elsewhere = [
                to
                for answer in answers
                for to in answer.header("Location")
                if not to.startswith((f"{site.origin}/", "/"))
            ]
            if found != right or elsewhere:
                wrong.append(f"{host}: {found}, not {right}; leads to {elsewhere}")
    assert wrong == []


def test_whole_address_in_the_request_line_is_the_one_that_counts(ground: Ground) -> None:
    """Whatever the Host header says beside it (RFC 9112, 3.2.2)."""
    stream = f"/stream/{ground.screens.own}"
    upgrade, viewer, page = upgrade_headers(), viewers_name(ground), pages_name(ground)
    right = {
        (f"http://{viewer}{stream}", page): "101 404 401",
        (f"http://{page}{stream}", viewer): "403 403 403",
        (f"http://evil.example{stream}", viewer): "302 302 302",
        (f"http://{viewer}/authz/stream", page): "404 404 404",
        (f"http://x@{viewer}{stream}", viewer): "101 404 401",
        ("*", viewer): "200 200 200",
    }
    found = {
        (target, host): words_of_three(ground, "GET", target, host, more=upgrade) for target, host in right
    }
    assert found == right


def test_request_with_two_readings_is_refused(ground: Ground) -> None:
    key = askers(ground)[0].of_sandboxes
    host, stream = ("Host", viewers_name(ground)), f"/stream/{ground.screens.own}"
    right: dict[int, tuple[Headers, ...]] = {
        400: (
            (),
            (host, host),
            (host, ("Host", "evil.example")),
            (("Host", f"{viewers_name(ground)}\r\n evil.example"),),
            (host, ("Content-Length", "0"), ("Content-Length", "5")),
            (host, ("Content-Length", "-1")),
            (host, ("Transfer-Encoding ", "chunked")),
        ),
        501: (
            (host, ("Transfer-Encoding", "xchunked")),
            (host, ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")),
        ),
    }
    for status, written in right.items():
        for headers in written:
            sent = request("GET", stream, (*headers, *upgrade_headers(), *key), body=b"0\r\n\r\n")
            assert ask(ground.site.port, sent, address=ADDRESS).status == status, headers


def test_upgrade_that_is_not_a_whole_one_opens_nothing(ground: Ground) -> None:
    key = askers(ground)[0].of_sandboxes
    whole = dict(upgrade_headers())
    for change in (
        {"Sec-WebSocket-Version": None}, {"Sec-WebSocket-Key": None}, {"Sec-WebSocket-Key": "x"},
        {"Connection": None},
        {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMA"},
    ):  # fmt: skip
        headers = [(name, value) for name, value in {**whole, **change}.items() if value is not None]
        sent = request(
            "GET", f"/stream/{ground.screens.own}", [("Host", viewers_name(ground)), *headers, *key]
        )
        answer = ask(ground.site.port, sent, address=ADDRESS)
        assert (answer.status, answer.greeting) == (426, b""), change


def test_edge_echoes_only_the_protocol_it_knows_and_no_extension(ground: Ground) -> None:
    key = askers(ground)[0].of_sandboxes
    for wanted, chosen in (("binary", ["binary"]), ("evil, binary", ["binary"]), ("evil", [])):
        headers = [*upgrade_headers(wanted), ("Sec-WebSocket-Extensions", "permessage-deflate"), *key]
        sent = request("GET", f"/stream/{ground.screens.own}", [("Host", viewers_name(ground)), *headers])
        answer = ask(ground.site.port, sent, address=ADDRESS)
        assert answer.status == 101
        assert answer.header("Sec-WebSocket-Protocol") == chosen
        assert answer.header("Sec-WebSocket-Extensions") == []


def test_address_with_too_many_wrong_keys_waits_and_right_keys_go_on(ground: Ground) -> None:
    wrong, right = ground.callers.keys["unknown"], ground.callers.keys["operator"]
    host = ("Host", viewers_name(ground))

    def status(key: str, address: str, *more: tuple[str, str]) -> int:
        headers = [host, *upgrade_headers(), ("Authorization", f"Bearer {key}"), *more]
        sent = request("GET", f"/stream/{ground.screens.own}", headers)
        return ask(ground.site.port, sent, address=address).status

    # Who says that he is somebody else each time, or would have his address left out, is counted too.
    for attempt in range(60):
        claimed = ("X-Forwarded-For", f"203.0.113.{attempt}"), ("Connection", "X-Forwarded-For")
        assert status(wrong, "127.0.7.1", claimed[attempt % 2]) == 401
    assert status(wrong, "127.0.7.1") == 429
    assert status(right, "127.0.7.1") == 101
    assert status(wrong, "127.0.7.2") == 401
