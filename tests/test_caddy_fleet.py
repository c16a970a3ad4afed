"""Two real Caddys in a row, from rendered files: who gets through, what each sees, what a reload does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSServerHandshakeError

from inventory.authority import renewed
from inventory.models import KeyPair, OwnService, Site
from tests.caddy_fleet import (
    DOMAIN,
    GROUPS,
    SHARED,
    CaddyFleet,
    address_of,
    echoes,
    first_words,
    refused_in_the_handshake,
    served_certificate,
    wait_until,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

FORGED = {
    "X-Df-Upstream": "studio1",
    "X-Df-Grant": "forged",
    "X-Df-Service": "forged",
    "X_Df_Upstream": "studio1",
    "X_Df_Grant": "forged",
    "X-Df_Grant": "forged",
    "x-df-other": "forged",
}
CONTENT = f"0b9c.content.{DOMAIN}"
CODE_SERVER, GRAFANA, OPENSANDBOX = (f"{name}.{DOMAIN}" for name in ("code-server", "grafana", "opensandbox"))


OURS = "max-age=31536000"
"""What the edge itself says of TLS."""


@pytest.fixture(scope="module")
def running() -> Iterator[CaddyFleet]:
    with CaddyFleet(GROUPS) as fleet:
        yield fleet


@pytest.fixture
def fleet(running: CaddyFleet) -> CaddyFleet:
    running.grant("box1")
    return running


def certificate(fleet: CaddyFleet, host: str) -> KeyPair:
    return fleet.certificates.hosts[host]


# Streams


@pytest.mark.parametrize("host", ["box1", "studio1"])
def test_stream_reaches_the_relay_of_the_host_that_the_viewer_names(fleet: CaddyFleet, host: str) -> None:
    fleet.grant(host)
    seen = asyncio.run(echo_once(fleet, fleet.url("/stream/abc", scheme="wss"), origin=fleet.url("")))
    assert (seen["upstream"], seen["path"]) == (f"relay of {host}", "/stream/abc")
    assert seen["headers"]["x-df-grant"] == f"grant-for-{host}"
    assert seen["headers"]["sec-websocket-protocol"] == "binary"
    assert not {"cookie", "authorization", "x-df-upstream", "sec-websocket-extensions"} & set(seen["headers"])


def test_viewer_is_asked_about_a_stream_with_all_that_it_needs(fleet: CaddyFleet) -> None:
    asyncio.run(echo_once(fleet, fleet.url("/stream/abc", scheme="wss"), origin=fleet.url("")))
    (asked,) = fleet.viewer.asked
    headers = asked["headers"]
    assert (asked["method"], asked["path"]) == ("GET", "/authz/stream")
    assert headers["x-forwarded-uri"] == "/stream/abc"
    assert headers["host"] == headers["x-forwarded-host"] == f"{DOMAIN}:{fleet.port}"
    assert (headers["origin"], headers["cookie"]) == (fleet.url(""), "mine=1")
    assert "upgrade" not in headers


@pytest.mark.parametrize(
    ("name", "path"), [(DOMAIN, "/stream/abc"), (CONTENT, "/"), (CODE_SERVER, "/"), (GRAFANA, "/stream/abc")]
)
def test_whom_the_viewer_refuses_gets_its_answer(fleet: CaddyFleet, name: str, path: str) -> None:
    fleet.viewer.says = (401, {"X-Df-Upstream": "box1", "WWW-Authenticate": "Bearer"})
    answer = fleet.get(path, name=name)
    assert (answer.status, answer.body) == (401, b"")


@pytest.mark.parametrize("named", ["nowhere", "", "127.0.78.13:8070", "box", "box1 "])
def test_upstream_that_is_no_host_of_ours_leads_nowhere(fleet: CaddyFleet, named: str) -> None:
    fleet.viewer.says = (200, {"X-Df-Upstream": named} if named else {})
    answer = fleet.get("/stream/abc", headers=FORGED)
    # Blanks around a header's value are no part of it.
    assert answer.status == (200 if named.strip() == "box1" else 502)


def test_forged_internal_headers_never_change_anything(fleet: CaddyFleet) -> None:
    stream = fleet.get("/stream/abc", headers=FORGED).seen
    content = fleet.get("/x", name=CONTENT, headers=FORGED).seen
    service = fleet.get("/x", name=CODE_SERVER, headers=FORGED).seen
    viewer = fleet.get("/x", headers=FORGED).seen
    engine = fleet.get("/x", name=OPENSANDBOX, headers=FORGED).seen
    assert stream["upstream"] == content["upstream"] == "relay of box1"
    assert stream["headers"]["x-df-grant"] == content["headers"]["x-df-grant"] == "grant-for-box1"
    assert [one["headers"].get("x-df-service") for one in fleet.viewer.asked] == [None, None, "code-server"]
    for seen in (stream, content, service, viewer, engine, *fleet.viewer.asked):
        text = str(seen).lower()
        assert "forged" not in text
        assert "studio1" not in str(seen["headers"])
    for seen in (service, viewer, engine):
        assert not [name for name in seen["headers"] if name.replace("_", "-").startswith("x-df-")]


# The viewer behind two Caddys


def test_viewer_on_another_host_sees_the_browsers_name_address_and_scheme(fleet: CaddyFleet) -> None:
    forged = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    seen = fleet.get("/page", headers=forged, source="127.0.0.9").seen
    headers = seen["headers"]
    assert seen["upstream"] == "viewer"
    assert headers["host"] == headers["x-forwarded-host"] == f"{DOMAIN}:{fleet.port}"
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.9", "https")


@pytest.mark.parametrize("name", [DOMAIN, OPENSANDBOX])
def test_client_cannot_ask_the_authoriser_itself(fleet: CaddyFleet, name: str) -> None:
    for path in ("/authz/stream", "//authz/stream", "/authz/../authz/stream", "/%61uthz/stream"):
        assert fleet.get(path, name=name).status == 404
    assert fleet.viewer.asked == []


@pytest.mark.parametrize("name", [CONTENT, CODE_SERVER])
def test_client_cannot_ask_the_authoriser_by_the_way_of_entries(fleet: CaddyFleet, name: str) -> None:
    for path in ("/.deskfleet/authz/content", "/.deskfleet//authz/service"):
        assert fleet.get(path, name=name).status == 404


def test_opensandbox_site_goes_to_the_viewer_with_the_treatment_of_streams(fleet: CaddyFleet) -> None:
    seen = asyncio.run(
        echo_once(fleet, fleet.url("/v1/x", name=OPENSANDBOX, scheme="wss"), origin="https://a")
    )
    assert seen["upstream"] == "viewer"
    assert seen["headers"]["host"] == f"{OPENSANDBOX}:{fleet.port}"
    assert "sec-websocket-extensions" not in seen["headers"]


@pytest.mark.parametrize("name", [DOMAIN, OPENSANDBOX, CODE_SERVER])
def test_client_cannot_reach_opensandboxs_proxy_route(fleet: CaddyFleet, name: str) -> None:
    fleet.viewer.says = (403, {"X-Df-Upstream": "box1"})
    assert fleet.get("/v1/sandboxes/x/proxy/8080/", name=name).status == 403
    fleet.grant("box1")
    if name != OPENSANDBOX:
        assert fleet.get("/sandboxes/x/proxy/8080/", name=name).seen["upstream"] in {"viewer", "code-server"}


def test_opensandboxs_own_name_answers_without_the_prefix_too(fleet: CaddyFleet) -> None:
    for path in ("/sandboxes?state=a%20b", "/a%2Fb//c", "/authzx", "/v1x"):
        seen = fleet.get(path, name=OPENSANDBOX).seen
        assert (seen["upstream"], seen["path"]) == ("viewer", f"/v1{path}")
    fleet.grant("box1")
    port = "/sandboxes/abc/proxy/8000/a%2Fb//?q=%2F"
    seen = fleet.get(port, name=OPENSANDBOX).seen
    assert (seen["upstream"], seen["path"]) == ("relay of box1", "/port/abc/a%2Fb//?q=%2F")
    assert fleet.viewer.asked[-1]["headers"]["x-forwarded-uri"] == f"/v1{port}"


@pytest.mark.parametrize("offered", ["binary, ticket.dft_a-b.c", "binary,ticket.dft_a", "binary"])
def test_ticket_among_the_subprotocols_is_shown_to_the_viewer_alone(fleet: CaddyFleet, offered: str) -> None:
    seen = fleet.get("/stream/abc", headers={"Sec-WebSocket-Protocol": offered}).seen
    assert seen["headers"]["sec-websocket-protocol"] == "binary"
    (asked,) = fleet.viewer.asked
    assert asked["headers"]["sec-websocket-protocol"] == offered


# Ports of sandboxes


@pytest.mark.parametrize("name", [DOMAIN, OPENSANDBOX])
def test_port_is_reached_past_the_viewer_without_what_opened_it(fleet: CaddyFleet, name: str) -> None:
    secrets = {"Cookie": "a=1", "Authorization": "Bearer k", "OPEN-SANDBOX-API-KEY": "k", **FORGED}
    path = "/v1/sandboxes/abc/proxy/8000/a%2Fb%20c//?q=%2F"
    seen = fleet.get(path, name=name, headers=secrets, method="POST").seen
    assert (seen["upstream"], seen["method"], seen["path"]) == (
        "relay of box1", "POST", "/port/abc/a%2Fb%20c//?q=%2F",
    )  # fmt: skip
    assert seen["headers"]["x-df-grant"] == "grant-for-box1"
    assert not {"cookie", "authorization", "open-sandbox-api-key", "x-df-upstream"} & set(seen["headers"])
    (asked,) = fleet.viewer.asked
    assert (asked["method"], asked["path"]) == ("GET", "/authz/port?q=%2F")
    assert (asked["headers"]["x-forwarded-method"], asked["headers"]["x-forwarded-uri"]) == ("POST", path)
    assert asked["headers"]["open-sandbox-api-key"] == "k"
    assert fleet.get("/v1/sandboxes/abc/proxy/8000", name=name).seen["path"] == "/port/abc"


def test_port_of_a_host_without_sandboxes_leads_nowhere(fleet: CaddyFleet) -> None:
    fleet.grant("studio1")
    assert fleet.get("/v1/sandboxes/abc/proxy/8000/").status == 502


@pytest.mark.parametrize("name", [DOMAIN, OPENSANDBOX])
def test_what_a_port_answers_cannot_speak_for_the_origin(fleet: CaddyFleet, name: str) -> None:
    relay = fleet.relays["box1"]
    gone = ("Set-Cookie", "Clear-Site-Data", "Alt-Svc", "Service-Worker-Allowed", "NEL", "Report-To")
    try:
        relay.adds = {**dict.fromkeys(gone, "x"), "Content-Security-Policy": "own",
                      "Strict-Transport-Security": "x"}  # fmt: skip
        answer = fleet.get("/v1/sandboxes/abc/proxy/8000/", name=name)
    finally:
        relay.adds = {}
    assert [answer.all(header.lower()) for header in gone] == [[]] * 6
    assert answer.all("strict-transport-security") == [OURS]
    assert answer.all("content-security-policy") == ["own", "sandbox"]
    assert answer.all("x-content-type-options") == ["nosniff"]


def test_websocket_to_a_port_echoes_through_both_caddys(fleet: CaddyFleet) -> None:
    url = fleet.url("/v1/sandboxes/abc/proxy/8000/ws", name=OPENSANDBOX, scheme="wss")
    seen = asyncio.run(echo_once(fleet, url, origin="https://a"))
    assert (seen["upstream"], seen["path"]) == ("relay of box1", "/port/abc/ws")
    assert "sec-websocket-extensions" not in seen["headers"]


# Nodes


@pytest.mark.parametrize("path", ["/stream/x", "/content/x", "/v1/sandboxes", "/streams", "/nothing"])
@pytest.mark.parametrize("sni", ["", None, "studio1.deskfleet.internal", "elsewhere.example"])
def test_nobody_without_a_certificate_finishes_the_handshake(
    fleet: CaddyFleet, path: str, sni: str | None
) -> None:
    with refused_in_the_handshake():
        fleet.ask_node("box1", path, shows=None, sni=sni)


def test_certificate_of_a_foreign_authority_is_refused_in_the_handshake(fleet: CaddyFleet) -> None:
    foreign = renewed(None, fleet.site, datetime.now(UTC))
    with refused_in_the_handshake():
        fleet.ask_node("box1", "/stream/x", shows=foreign.hosts["edge1"])


@pytest.mark.parametrize("thief", ["box1", "studio1"])
@pytest.mark.parametrize("host", ["box1", "studio1", "control1"])
def test_certificate_of_a_host_that_asks_nobody_is_refused_in_the_handshake(
    fleet: CaddyFleet, thief: str, host: str
) -> None:
    with refused_in_the_handshake():
        fleet.ask_node(host, "/stream/x", shows=certificate(fleet, thief))


NODE_ROUTES = [
    # host, path, upstream for the edge, upstream for the control host
    ("box1", "/stream/x", "relay of box1", None),
    ("box1", "/content/x", "relay of box1", None),
    ("box1", "/port/x", "relay of box1", None),
    ("box1", "/port/x/", "relay of box1", None),
    ("studio1", "/port/x/", None, None),
    ("box1", "/v1/sandboxes", None, "opensandbox"),
    ("box1", "/v1/sandboxes/x/endpoints/8080?x=/proxy/", None, "opensandbox"),
    ("box1", "/health", None, "opensandbox"),
    ("box1", "/version", None, "opensandbox"),
    ("box1", "/probe/x", None, "relay of box1"),
    ("box1", "/pictures", None, "relay of box1"),
    ("box1", "/streams", None, "relay of box1"),
    ("box1", "/streams/x/y", None, "relay of box1"),
    ("box1", "/healthz", None, "relay of box1"),
    ("box1", "/v1/sandboxes/x/proxy/8080/", None, None),
    ("box1", "/v1/sandboxes/x/proxy/8080", None, None),
    ("box1", "/v1/sandboxes/x/proxy", None, None),
    ("box1", "/v1/sandboxes/x/%70roxy/8080/", None, None),
    ("box1", "/v1/sandboxes/x/Proxy/8080/", None, None),
    ("box1", "/v1//sandboxes/x//proxy/8080/", None, None),
    ("box1", "/v1/sandboxes/x%2Fproxy%2F8080/", None, None),
    ("box1", "/sandboxes/x/proxy/8080/", None, None),
    ("box1", "/hostwatch/containers/x/log?lines=5", None, "hostwatch"),
    ("box1", "/hostwatch", None, None),
    ("box1", "/docs", None, None),
    ("box1", "/", None, None),
    ("studio1", "/stream/x", "relay of studio1", None),
    ("studio1", "/probe/x", None, "relay of studio1"),
    ("studio1", "/v1/sandboxes", None, None),
    ("studio1", "/hostwatch/events", None, None),
    ("control1", "/anything", "viewer", None),
]


@pytest.mark.parametrize(("host", "path", "for_edge", "for_control"), NODE_ROUTES)
def test_node_lets_each_ask_for_what_it_needs_and_nothing_else(
    fleet: CaddyFleet, host: str, path: str, for_edge: str | None, for_control: str | None
) -> None:
    for asker, upstream in (("edge1", for_edge), ("control1", for_control)):
        answer = fleet.ask_node(host, path, shows=certificate(fleet, asker))
        if upstream is None:
            assert (asker, answer.status, answer.body) == (asker, 404, b"")
        else:
            assert (asker, answer.seen["upstream"], answer.seen["path"]) == (asker, upstream, path)


@pytest.mark.parametrize(
    "sni", [None, "studio1.deskfleet.internal", "code-server.studio1.deskfleet.internal"]
)
def test_handshake_for_one_name_and_request_for_another_is_misdirected(
    fleet: CaddyFleet, sni: str | None
) -> None:
    answer = fleet.ask_node("box1", "/stream/x", shows=certificate(fleet, "edge1"), sni=sni)
    assert answer.status == 421


def test_name_that_no_node_has_leads_nowhere(fleet: CaddyFleet) -> None:
    answer = fleet.ask_node(
        "box1", "/stream/x", shows=certificate(fleet, "edge1"), name="box9.deskfleet.internal"
    )
    assert (answer.status, answer.body) == (404, b"")


def test_own_service_on_another_host_is_for_the_edge_alone(fleet: CaddyFleet) -> None:
    name = "code-server.studio1.deskfleet.internal"
    asked = fleet.ask_node("studio1", "/x", shows=certificate(fleet, "control1"), name=name)
    assert (asked.status, asked.body) == (404, b"")
    given = fleet.ask_node("studio1", "/x", shows=certificate(fleet, "edge1"), name=name)
    assert given.seen["upstream"] == "code-server"


# The content domain


def test_foreign_page_comes_from_the_relay_without_what_it_must_not_know(fleet: CaddyFleet) -> None:
    secrets = {"Cookie": "__Host-deskfleet-entry=e", "Authorization": "Bearer k", "Referer": "https://a/../b"}
    seen = fleet.get("/app/ui.js?x=1", name=CONTENT, headers=secrets).seen
    assert (seen["upstream"], seen["path"]) == ("relay of box1", "/content/app/ui.js?x=1")
    assert not {"cookie", "authorization", "referer", "x-df-upstream"} & set(seen["headers"])
    (asked,) = fleet.viewer.asked
    assert asked["path"] == "/authz/content?x=1"
    assert asked["headers"]["x-forwarded-uri"] == "/app/ui.js?x=1"
    assert asked["headers"]["x-forwarded-host"] == f"{CONTENT}:{fleet.port}"
    assert asked["headers"]["cookie"] == secrets["Cookie"]


def test_foreign_page_cannot_speak_for_the_whole_domain(fleet: CaddyFleet) -> None:
    relay = fleet.relays["box1"]
    try:
        relay.adds = {
            "Clear-Site-Data": '"*"',
            "Strict-Transport-Security": "max-age=9",
            "Alt-Svc": 'h3=":1"',
            "Content-Security-Policy": "default-src *; frame-ancestors *",
            "Set-Cookie": "a=b; Domain=desks.localhost",
            "Service-Worker-Allowed": "/",
            "NEL": "{}",
            "Report-To": "{}",
            "Reporting-Endpoints": 'a="https://evil.example/"',
            "Referrer-Policy": "unsafe-url",
            "Origin-Agent-Cluster": "?0",
            "X-Content-Type-Options": "sniff",
        }
        fleet.viewer.says[1]["X-Df-Framers"] = "https://a.example https://b.example"
        answer = fleet.get("/", name=CONTENT, headers={"X-Df-Framers": "*", "X_Df_Framers": "*"})
        del fleet.viewer.says[1]["X-Df-Framers"]
        by_nobody = fleet.get("/", name=CONTENT, headers={"X-Df-Framers": "*"})
    finally:
        relay.adds = {}
    policy = "content-security-policy"
    own = "default-src *; frame-ancestors *"
    # Each of several policies counts: a page's own cannot let in who is not named here.
    assert answer.all(policy) == [own, "frame-ancestors https://a.example https://b.example"]
    # An empty list of sources is nobody.
    assert by_nobody.all(policy) == [own, "frame-ancestors"]
    assert answer.all("referrer-policy") == ["no-referrer"]
    assert answer.all("origin-agent-cluster") == ["?1"]
    assert answer.all("x-content-type-options") == ["nosniff"]
    assert "x-df-framers" not in answer.seen["headers"]
    lost = {
        "clear-site-data", "alt-svc", "set-cookie", "service-worker-allowed", "nel", "report-to",
        "reporting-endpoints",
    }  # fmt: skip
    assert not lost & {name.lower() for name, _ in answer.headers}
    assert answer.all("strict-transport-security") == [OURS]


def test_foreign_page_gets_no_service_worker(fleet: CaddyFleet) -> None:
    answer = fleet.get("/worker.js", name=CONTENT, headers={"Service-Worker": "script"})
    assert answer.status == 403
    assert fleet.viewer.asked == []


@pytest.mark.parametrize("name", [CONTENT, CODE_SERVER])
def test_entry_is_answered_by_the_viewer(fleet: CaddyFleet, name: str) -> None:
    cookie = {"Cookie": "__Host-deskfleet-entry=e", **FORGED}
    seen = fleet.get("/.deskfleet/enter", name=name, headers=cookie, method="POST").seen
    assert (seen["upstream"], seen["method"], seen["path"]) == ("viewer", "POST", "/.deskfleet/enter")
    assert seen["headers"]["host"] == f"{name}:{fleet.port}"
    assert seen["headers"].get("x-df-service") == (None if name == CONTENT else "code-server")
    assert fleet.viewer.asked == []


@pytest.mark.parametrize(
    "path", ["/../stream/x", "/%2e%2e/stream/x", "/a/..%2f..%2fstreams", "/..%5cx", "/a/.."]
)
def test_foreign_page_cannot_climb_out_of_its_prefix(fleet: CaddyFleet, path: str) -> None:
    assert fleet.get(path, name=CONTENT).status == 404
    assert fleet.viewer.asked == []


def test_foreign_pages_path_arrives_as_it_was_encoded(fleet: CaddyFleet) -> None:
    assert fleet.get("/a%2Fb%20c/..d?q=%2F", name=CONTENT).seen["path"] == "/content/a%2Fb%20c/..d?q=%2F"


def test_stream_of_a_foreign_page_echoes_through_both_caddys(fleet: CaddyFleet) -> None:
    fleet.grant("studio1")
    origin = f"https://{CONTENT}:{fleet.port}"
    seen = asyncio.run(echo_once(fleet, fleet.url("/websockify", name=CONTENT, scheme="wss"), origin=origin))
    assert (seen["upstream"], seen["path"]) == ("relay of studio1", "/content/websockify")
    assert seen["headers"]["origin"] == origin
    (asked,) = fleet.viewer.asked
    assert asked["headers"]["origin"] == origin
    assert "sec-websocket-key" in asked["headers"]


def test_refused_stream_of_a_foreign_page_never_reaches_the_relay(fleet: CaddyFleet) -> None:
    fleet.viewer.says = (403, {"X-Df-Upstream": "box1"})
    with pytest.raises(WSServerHandshakeError, match="403"):
        asyncio.run(
            echo_once(
                fleet, fleet.url("/websockify", name=CONTENT, scheme="wss"), origin="https://evil.example"
            )
        )


# The operator's own services


def test_browser_without_a_cookie_is_sent_to_the_viewer(fleet: CaddyFleet) -> None:
    fleet.viewer.says = (303, {"Location": fleet.url("/services/code-server")})
    answer = fleet.get("/", name=CODE_SERVER)
    assert answer.status == 303
    assert answer.all("location") == [fleet.url("/services/code-server")]


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("own=1; __Host-deskfleet-entry=e; more=2", "own=1; more=2"),
        ("__Host-deskfleet=s; __Host-deskfleet-entry=e; own=1", "own=1"),
        ("own=1;  __Host-deskfleet=s", "own=1"),
        ("own=1;__Host-deskfleet=s", "own=1"),
        ("__Host-deskfleet-entry=e", None),
        ("own=1; more=2", "own=1; more=2"),
        ("x__Host-deskfleet=1", "x__Host-deskfleet=1"),
    ],
)
def test_service_gets_its_own_cookies_and_none_of_ours(
    fleet: CaddyFleet, sent: str, arrives: str | None
) -> None:
    for name in (CODE_SERVER, GRAFANA):
        seen = fleet.get("/", name=name, headers={"Cookie": sent, "Authorization": "Bearer k"}).seen
        assert seen["headers"].get("cookie") == arrives
        assert "authorization" not in seen["headers"]
        # The viewer sees all of them.
        assert cookies(fleet.viewer.asked[-1]["headers"]["cookie"]) == cookies(sent)


def test_service_behind_two_caddys_sees_the_browsers_name(fleet: CaddyFleet) -> None:
    origin = f"https://{CODE_SERVER}:{fleet.port}"
    seen = asyncio.run(echo_once(fleet, fleet.url("/ws", name=CODE_SERVER, scheme="wss"), origin=origin))
    assert (seen["upstream"], seen["path"]) == ("code-server", "/ws")
    assert seen["headers"]["host"] == seen["headers"]["x-forwarded-host"] == f"{CODE_SERVER}:{fleet.port}"
    assert seen["headers"]["x-forwarded-proto"] == "https"
    assert "sec-websocket-extensions" not in seen["headers"]


# Plain HTTP


def test_plain_http_is_sent_on_to_the_same_name_with_tls(fleet: CaddyFleet) -> None:
    for name in (DOMAIN, CONTENT, CODE_SERVER, OPENSANDBOX):
        answer = fleet.get_plain("/a?b=c", name=name)
        assert answer.status == 308
        assert answer.all("location") == [fleet.url("/a?b=c", name=name)]


# Hosts that are several things at once


def test_host_that_is_edge_and_more_lets_people_and_hosts_in_each_by_their_own_door() -> None:
    with CaddyFleet(SHARED) as fleet:
        assert fleet.get("/page").seen["upstream"] == "viewer"
        for host in ("one", "two"):
            fleet.grant(host)
            assert fleet.get("/stream/abc").seen["upstream"] == f"relay of {host}"
            assert fleet.get("/x", name=CONTENT).seen["upstream"] == f"relay of {host}"
        assert fleet.get("/", name=CODE_SERVER).seen["upstream"] == "code-server"
        one, two = certificate(fleet, "one"), certificate(fleet, "two")
        assert fleet.ask_node("one", "/v1/sandboxes", shows=two).seen["upstream"] == "opensandbox"
        assert fleet.ask_node("one", "/streams", shows=two).seen["upstream"] == "relay of one"
        # A host asks itself on loopback, never here.
        assert fleet.ask_node("one", "/v1/sandboxes", shows=one).status == 404
        assert fleet.ask_node("two", "/streams", shows=one).seen["upstream"] == "viewer"
        with refused_in_the_handshake():
            fleet.ask_node("one", "/v1/sandboxes", shows=None)
        # Browsers share a connection between names of one certificate: the edge, unlike the node, allows it.
        assert fleet.get("/x", name=CONTENT, sni=DOMAIN).status == 200


def test_log_of_what_fails_holds_no_secret() -> None:
    fleet = CaddyFleet(SHARED)
    del fleet.relays["two"]  # it does not run
    shown = {"Cookie": "__Host-deskfleet=secret-cookie", "Authorization": "Bearer secret-key"}
    shown["OPEN-SANDBOX-API-KEY"] = "secret-key"
    with fleet:
        fleet.viewer.says = (200, {"X-Df-Upstream": "two", "X-Df-Grant": "secret-grant"})
        for name, path in ((DOMAIN, "/stream/abc"), (CONTENT, "/x?token=secret-token")):
            assert fleet.get(path, name=name, headers=shown).status == 502
        logs = fleet.log("one") + fleet.log("two")
    assert logs.count("connection refused") == 2
    assert "secret" not in logs


# Reloads


def test_changed_files_reloaded_on_both_sides_drop_none_of_fifty_streams(fleet: CaddyFleet) -> None:
    longer = with_another_service(fleet.site)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            streams = await fifty_streams(fleet, stack)
            for host in ("edge1", "box1", "studio1"):
                changed = fleet.text(host, longer) if host != "box1" else fleet.text(host) + "\n# changed\n"
                fleet.write(host, changed)
                await asyncio.to_thread(fleet.reload, host, "--force")
            # Caddy would close the streams of the old configuration right now, or within a second or two.
            await asyncio.sleep(4)
            assert await how_many_echo(streams) == 50

    try:
        asyncio.run(scenario())
        # The new configuration is the one that answers.
        assert fleet.get("/", name=f"notebook.{DOMAIN}").status == 502
    finally:
        for host in ("edge1", "box1", "studio1"):
            fleet.write(host, fleet.text(host))
            fleet.reload(host, "--force")


def test_forced_reload_takes_new_certificates_and_drops_no_stream(fleet: CaddyFleet) -> None:
    old = fleet.certificates
    new = renewed(None, fleet.site, datetime.now(UTC))
    where = (address_of("box1"), fleet.node_port), "box1.deskfleet.internal"

    def served() -> bytes:
        return served_certificate(*where, insecure())

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            streams = await fifty_streams(fleet, stack)
            before = served()
            for host in ("edge1", "box1"):
                fleet.write_certificates(host, new)
                await asyncio.to_thread(fleet.reload, host)
            assert served() == before, "an unforced reload of the same text changes nothing"
            for host in ("edge1", "box1"):
                await asyncio.to_thread(fleet.reload, host, "--force")
            assert served() == der(new.hosts["box1"])
            await asyncio.sleep(3)
            assert await how_many_echo(streams) == 50

    try:
        asyncio.run(scenario())
        assert fleet.get("/stream/abc").status == 502, "the viewer's host still has the old authority"
        fleet.write_certificates("control1", new)
        fleet.reload("control1", "--force")
        assert fleet.get("/stream/abc").seen["upstream"] == "relay of box1"
        fleet.certificates = new
        assert fleet.ask_node("box1", "/stream/x", shows=new.hosts["edge1"]).status == 200
        with refused_in_the_handshake():
            fleet.ask_node("box1", "/stream/x", shows=old.hosts["edge1"])
    finally:
        fleet.certificates = new
        for host in ("edge1", "control1", "box1", "studio1"):
            fleet.write_certificates(host, new)
            fleet.reload(host, "--force")
        wait_until(lambda: fleet.get("/stream/abc").status == 200)


def cookies(header: str) -> list[str]:
    return [cookie.strip() for cookie in header.split(";")]


def with_another_service(site: Site) -> Site:
    another = OwnService(name="notebook", host="studio1", port=7999, websocket=True)
    return site.model_copy(update={"services": (*(site.services or ()), another)})


async def echo_once(fleet: CaddyFleet, url: str, *, origin: str) -> dict[str, Any]:
    """Opens a stream, sends some bytes and gets them back; what the upstream saw of the upgrade."""
    headers = {"Cookie": "mine=1", "Authorization": "Bearer k", **FORGED}
    async with (
        fleet.browser() as browser,
        browser.ws_connect(url, headers=headers, origin=origin, protocols=("binary",), compress=15) as stream,
    ):
        seen = await first_words(stream)
        assert await echoes(stream, b"\x00\x01 some bytes")
        return seen


async def fifty_streams(fleet: CaddyFleet, stack: AsyncExitStack) -> list[ClientWebSocketResponse]:
    browser = await stack.enter_async_context(fleet.browser())
    addresses = (
        fleet.url("/stream/abc", scheme="wss"),
        fleet.url("/websockify", name=CONTENT, scheme="wss"),
        fleet.url("/ws", name=CODE_SERVER, scheme="wss"),
        fleet.url("/v1/sandboxes/abc/proxy/8000/ws", scheme="wss"),
    )
    streams = []
    for number in range(50):
        stream = await browser.ws_connect(addresses[number % len(addresses)], protocols=("binary",))
        streams.append(await stack.enter_async_context(stream))
        await first_words(stream)
    assert await how_many_echo(streams) == 50
    return streams


async def how_many_echo(streams: list[ClientWebSocketResponse]) -> int:
    return sum(await asyncio.gather(*(echoes(stream, b"still here") for stream in streams)))


def insecure() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def der(pair: KeyPair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate)
