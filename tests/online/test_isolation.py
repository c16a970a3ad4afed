"""What belongs to another does not exist; what is not meant to be reached does not answer."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.online.fleet import ADMIN, CANONICAL, Api, Fleet, SessionView
from tests.online.streams import stream_answer

pytestmark = pytest.mark.host

COOKIE = "__Host-deskfleet"
FORGED = [
    {"X-Df-Upstream": "127.0.0.1:8060"},
    {"X-Df-Grant": "forged"},
    {"X_Df_Upstream": "127.0.0.1:8060"},
    {"X_Df_Grant": "forged"},
    {"X-Df_Upstream": "127.0.0.1:8060", "X-DF-GRANT": "forged"},
    {"Connection": "Upgrade, X-Df-Upstream", "X-Df-Upstream": "127.0.0.1:8060"},
]
LISTENING = r"""
import socket, sys
for line in sys.stdin:
    host, port = line.split()
    try:
        socket.create_connection((host, int(port)), 1).close()
        print(host, port)
    except OSError:
        pass
print("asked")
"""


@pytest.fixture(scope="module")
def fleet(plain_fleet: Fleet) -> Fleet:
    """The plain host alone: isolation does not depend on the supervisor."""
    return plain_fleet


@pytest.fixture(scope="module")
def bee(fleet: Fleet) -> Api:
    """A second tenant's operator."""
    added = fleet.host.run([ADMIN, "tenant", "add", "bee"], check=False)
    made = fleet.host.run([ADMIN, "key", "add", "--tenant", "bee", "--role", "operator"], check=False)
    keys = re.findall(r"df_[a-z0-9]{8}_[\w-]{43}", added.out + made.out)
    assert keys, added.out + made.out
    return fleet.with_key(keys[-1])


@pytest.fixture(scope="module")
def desktop(fleet: Fleet) -> Iterator[SessionView]:
    """A live desktop of the first tenant."""
    with fleet.api.desktop(task_id="private") as session:
        yield session


@pytest.fixture(scope="module")
def cookie(fleet: Fleet) -> str:
    """A signed-in browser's cookie of the first tenant, as a Cookie header."""
    answer = fleet.anonymous.call(
        "POST", "/signin", json={"key": fleet.variables["DESKFLEET_KEY"]}, headers=as_page()
    )
    assert answer.status_code < 400, answer.text
    value = re.search(rf"{COOKIE}=([^;]+)", answer.headers["set-cookie"])
    assert value
    attributes = answer.headers["set-cookie"].lower()
    assert all(word in attributes for word in ("secure", "httponly", "samesite=lax", "path=/"))
    assert "domain=" not in attributes
    return f"{COOKIE}={value.group(1)}"


def as_page(origin: str | None = CANONICAL) -> dict[str, str]:
    """Headers as one of our own pages (or, with another origin, a hostile one) sends them."""
    headers = {"Host": CANONICAL.removeprefix("http://")}
    return {**headers, "Origin": origin} if origin else headers


SESSION_ROUTES: list[tuple[str, str]] = [
    ("GET", "/api/v1/sessions/{id}"),
    ("DELETE", "/api/v1/sessions/{id}"),
    ("GET", "/stream/{id}"),
]
ROUTES = [
    *SESSION_ROUTES,
    ("GET", "/api/v1/sessions"),
    ("POST", "/api/v1/sessions"),
    ("GET", "/api/v1/events"),
]
FOREIGN_ORIGINS = [
    None,
    "null",
    "http://evil.example",
    "http://deskfleet.localhost",
    "https://deskfleet.localhost:8088",
    "http://x.deskfleet.localhost:8088",
]


@pytest.mark.parametrize(("method", "path"), SESSION_ROUTES)
def test_other_tenants_session_is_a_404_like_one_that_never_was(
    fleet: Fleet, bee: Api, desktop: SessionView, method: str, path: str
) -> None:
    foreign = bee.call(method, path.format(id=desktop.id))
    unknown = bee.call(method, path.format(id="00000000-0000-4000-8000-000000000000"))
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace(desktop.id, "*") == unknown.text.replace(
        "00000000-0000-4000-8000-000000000000", "*"
    )
    assert fleet.api.get(desktop.id).status == "running"


def test_no_route_of_the_api_answers_for_another_tenant(bee: Api, desktop: SessionView) -> None:
    """Every path of the API's own description that names something, so that no new one is forgotten. What is
    an admin's alone is refused to an operator before anybody looks for it, and what only a share link opens
    to whoever has none."""
    described = bee.call("GET", "/api/v1/openapi.json").json()["paths"]
    asked = []
    for path, methods in described.items():
        if "{" not in path or path.startswith("/api/v1/hosts/"):  # a host is no tenant's
            continue
        for method in set(methods) & {"get", "post", "put", "patch", "delete"}:
            filled = re.sub(r"\{[^}]+\}", desktop.id, path)
            asked.append(filled)
            body: dict[str, object] | None = {"labels": {}} if path.endswith("/labels") else None
            refusals = (404,) if "{session_id}" in path else (404, 403)
            if path.startswith("/api/v1/shared/"):
                refusals = (401, 403)
            assert bee.call(method.upper(), filled, json=body).status_code in refusals, (method, path)
    assert asked


def test_other_tenants_stream_is_a_404(bee: Api, desktop: SessionView) -> None:
    assert stream_answer(bee, desktop.id) == 404


def test_lists_and_filters_hold_only_ones_own(fleet: Fleet, bee: Api, desktop: SessionView) -> None:
    assert bee.sessions() == []
    assert desktop.sandbox_id
    assert bee.sessions(sandbox_id=desktop.sandbox_id) == []
    assert bee.sessions(task_id="private") == []
    assert desktop.id in {session.id for session in fleet.api.sessions(task_id="private")}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_key_every_route_says_401(
    fleet: Fleet, desktop: SessionView, method: str, path: str
) -> None:
    assert fleet.anonymous.call(method, path.format(id=desktop.id)).status_code == 401
    assert (
        fleet.with_key("df_aaaaaaaa_" + "x" * 43).call(method, path.format(id=desktop.id)).status_code == 401
    )


def test_stream_without_a_credential_is_a_401(fleet: Fleet, desktop: SessionView) -> None:
    assert stream_answer(fleet.anonymous, desktop.id) == 401


def test_page_of_ours_opens_the_stream_with_its_cookie(
    fleet: Fleet, desktop: SessionView, cookie: str
) -> None:
    assert stream_answer(fleet.anonymous, desktop.id, {**as_page(), "Cookie": cookie}) == 101


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_stream_with_a_cookie_needs_our_exact_origin(
    fleet: Fleet, desktop: SessionView, cookie: str, origin: str | None
) -> None:
    assert stream_answer(fleet.anonymous, desktop.id, {**as_page(origin), "Cookie": cookie}) == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_change_by_cookie_needs_our_exact_origin(
    fleet: Fleet, desktop: SessionView, cookie: str, origin: str
) -> None:
    headers = {**as_page(origin), "Cookie": cookie}
    path = f"/api/v1/sessions/{desktop.id}"
    assert fleet.anonymous.call("DELETE", path, headers=headers).status_code == 403
    assert fleet.api.get(desktop.id).status == "running"


@pytest.mark.parametrize("forged", FORGED)
def test_forged_internal_headers_change_nothing(
    fleet: Fleet, bee: Api, desktop: SessionView, forged: dict[str, str]
) -> None:
    if "Connection" not in forged:
        assert stream_answer(fleet.api, desktop.id, forged) == 101
        assert stream_answer(bee, desktop.id, forged) == 404
        assert stream_answer(fleet.anonymous, desktop.id, forged) == 401
    assert bee.call("GET", f"/stream/{desktop.id}", headers=forged).status_code == 404
    assert fleet.anonymous.call("GET", "/healthz", headers=forged).status_code == 200


def test_authorisation_endpoint_is_not_reachable_from_outside(fleet: Fleet, desktop: SessionView) -> None:
    uri = {"X-Forwarded-Uri": f"/stream/{desktop.id}", "X-Forwarded-Method": "GET"}
    answer = fleet.api.call("GET", "/authz/stream", headers=uri)
    assert answer.status_code == 404
    assert not [name for name in answer.headers if name.lower().startswith("x-df-")]


def test_relay_believes_nobody_on_loopback_either(fleet: Fleet, desktop: SessionView) -> None:
    relay = Api(fleet.host.pid, "http://127.0.0.1:8070", None)
    assert relay.call("GET", f"/stream/{desktop.id}").status_code == 403
    assert relay.call("GET", "/streams").status_code == 403
    assert relay.call("DELETE", f"/streams/{desktop.id}").status_code == 403


def test_no_answer_holds_a_secret(fleet: Fleet, desktop: SessionView) -> None:
    text = (
        fleet.api.call("GET", f"/api/v1/sessions/{desktop.id}").text
        + fleet.api.call("GET", "/api/v1/sessions").text
    )
    password = fleet.docker(
        "inspect", "--format={{range .Config.Env}}{{println .}}{{end}}", fleet.container_of(desktop)
    ).out
    value = next(line for line in password.splitlines() if line.startswith("VNC_PASSWORD=")).split("=", 1)[1]
    assert len(value) == 8
    assert value not in text
    for key in ("DESKFLEET_KEY", "DESKFLEET_ADMIN_KEY"):
        assert fleet.variables[key] not in text


def test_nothing_answers_from_another_network_namespace(fleet: Fleet, desktop: SessionView) -> None:
    """All ports of the host's outside address, from this machine: the local site's edge is loopback only."""
    assert open_ports(fleet.host.address, range(1, 65536)) == []


def test_only_loopback_addresses_are_listened_on(fleet: Fleet, desktop: SessionView) -> None:
    """The kernel's own list, with IPv6: what a scan from outside could miss."""
    listed = fleet.host.run("ss -Hlnt").out.splitlines()
    addresses = {line.split()[3].rpartition(":")[0].split("%")[0].strip("[]") for line in listed}
    assert [address for address in addresses if not address.startswith("127.") and address != "::1"] == []


def test_sandbox_reaches_no_other_sandbox_and_not_our_services(fleet: Fleet, desktop: SessionView) -> None:
    with fleet.api.desktop() as other:
        targets = [(address_of(fleet, desktop), port) for port in (8080, 44772, 9222, 22)]
        targets += [(gateway_of(fleet, other), port) for port in listening_ports(fleet)]
        targets += [(fleet.host.address, port) for port in listening_ports(fleet)]
        itself = ("127.0.0.1", 8080)  # shows that the question is asked where we think
        assert reached_from_container(fleet, other, [itself, *targets]) == [itself]


def test_persistent_desktops_user_reaches_no_port_of_the_machine(fleet: Fleet, desktop: SessionView) -> None:
    """As `desk-studio` in its own namespace: every port that listens on the machine, by every address."""
    ports = listening_ports(fleet)
    assert len(ports) >= 5, ports
    found = fleet.host.run("ip -o addr | awk '{print $4}' | cut -d/ -f1").out.split()
    addresses = [
        address for address in [*found, "127.0.66.1", "169.254.0.1"] if not address.startswith("fe80")
    ]
    question = "\n".join(f"{address} {port}" for address in addresses for port in ports)
    pid = fleet.host.run("pgrep -u desk-studio Xtigervnc | head -1").out.strip()
    assert pid.isdigit(), "the persistent desktop's Xtigervnc is not running"
    enter = f"nsenter --target {pid} --net setpriv --reuid desk-studio --regid desk-studio --init-groups"
    script = f"{enter} python3 -c '{LISTENING}'"
    assert fleet.host.run(script, stdin=question, timeout=1200).out.split("\n") == ["asked", ""]


def test_persistent_desktop_is_streamed_like_any_other(fleet: Fleet, bee: Api) -> None:
    [studio] = [session for session in fleet.api.sessions() if session.kind == "desktop"]
    assert studio.status == "running"
    assert stream_answer(fleet.api, studio.id) == 101
    assert stream_answer(bee, studio.id) == 404
    assert fleet.api.call("DELETE", f"/api/v1/sessions/{studio.id}").status_code == 409


# --- helpers ---


def open_ports(address: str, ports: range) -> list[int]:
    def answers(port: int) -> bool:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(64) as pool:
        return [port for port, is_open in zip(ports, pool.map(answers, ports), strict=True) if is_open]


def listening_ports(fleet: Fleet) -> list[int]:
    lines = fleet.host.run("ss -Hlnt").out.splitlines()
    return sorted({int(line.split()[3].rpartition(":")[2]) for line in lines})


def address_of(fleet: Fleet, session: SessionView) -> str:
    return _network_field(fleet, session, "IPAddress")


def gateway_of(fleet: Fleet, session: SessionView) -> str:
    return _network_field(fleet, session, "Gateway")


def _network_field(fleet: Fleet, session: SessionView, name: str) -> str:
    template = "--format={{range .NetworkSettings.Networks}}{{." + name + "}}{{end}}"
    return fleet.docker("inspect", template, fleet.container_of(session)).out.strip()


def reached_from_container(
    fleet: Fleet, session: SessionView, targets: list[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Those of the targets that answer from inside a sandbox's network."""
    pid = fleet.docker("inspect", "--format={{.State.Pid}}", fleet.container_of(session)).out.strip()
    question = "\n".join(f"{address} {port}" for address, port in targets)
    out = fleet.host.run(
        ["nsenter", "--target", pid, "--net", "python3", "-c", LISTENING], stdin=question, timeout=600
    ).out
    *reached, last = out.splitlines()
    assert last == "asked", out
    return [(line.split()[0], int(line.split()[1])) for line in reached]
