"""One attempt against real receivers, and against traps."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from email.utils import format_datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import viewer.deliveries.sending
from tests.self_signed import self_signed
from tests.webhook_receiver import Trap, receiving, status
from viewer.deliveries.addresses import AddressPolicy, UrlRefused
from viewer.deliveries.model import Outcome, headers_of
from viewer.deliveries.sending import Lookup, Sender
from viewer.model import utcnow
from viewer.nodes import outside_trust
from viewer.signatures import new_webhook_secret

HERE = AddressPolicy(allow=[IPv4Network("127.0.0.0/8")], allow_http=True)
PUBLIC = AddressPolicy()
BODY = '{"type":"webhook.test"}'


def send(
    url: str,
    *,
    policy: AddressPolicy = HERE,
    lookup: Lookup | None = None,
    trust: Path | None = None,
    times: int = 1,
    secret: str | None = None,
) -> Outcome:
    """The last outcome of so many attempts."""

    async def do() -> Outcome:
        context = outside_trust() if trust is None else ssl.create_default_context(cafile=trust)
        sender = Sender(policy, lookup=lookup, trust=context)
        outcome = Outcome()
        for _ in range(times):
            headers = headers_of("msg_1", BODY, utcnow(), [secret or new_webhook_secret()])
            outcome = await sender.send(url, BODY, headers)
        await sender.close()
        return outcome

    return asyncio.run(do())


def always(*addresses: str) -> Lookup:
    async def look_up(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return look_up


def test_receiver_gets_what_the_specification_says() -> None:
    secret = new_webhook_secret()
    with receiving() as receiver:
        assert send(receiver.url, secret=secret) == Outcome(status_code=204)
        (received,) = receiver.received
        assert received.verified(secret) == {"type": "webhook.test"}
        assert received.id == "msg_1"
        assert received.headers["Content-Type"] == "application/json"
        assert received.headers["User-Agent"].startswith("Deskfleet-Webhooks/")
        assert received.headers["Host"] == f"127.0.0.1:{receiver.port}"
        assert received.path == "/hook"


def test_answer_that_is_not_2xx_is_a_failure_and_none_is_followed() -> None:
    with receiving() as receiver:
        receiver.answers = [status(500), status(302, Location="http://169.254.169.254/latest/meta-data")]
        assert send(receiver.url) == Outcome(status_code=500, error="the endpoint did not accept it")
        assert send(receiver.url) == Outcome(status_code=302, error="redirects are not followed")
        receiver.answers = [status(307, Location=receiver.url)]
        assert send(receiver.url).error == "redirects are not followed"
        assert len(receiver.received) == 3


@pytest.mark.parametrize(
    ("asked", "understood"),
    [
        ("120", 120),
        ("99999999999999", 86_400),
        (timedelta(hours=2), 7200),
        (timedelta(hours=-2), 0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_wish_for_more_time_is_understood_within_bounds(
    asked: str | timedelta, understood: int | None
) -> None:
    if isinstance(asked, timedelta):
        asked = format_datetime(utcnow() + asked, usegmt=True)
    with receiving() as receiver:
        receiver.always = status(503, Retry_After=asked)
        found = send(receiver.url).retry_after
    if understood is None:
        assert found is None
    else:
        assert found is not None
        assert abs(found.total_seconds() - understood) < 60


def test_nothing_of_an_answer_comes_back_with_the_next_request() -> None:
    with receiving() as receiver:
        receiver.always = status(200, Set_Cookie="id=1; Path=/")
        send(receiver.url, times=2)
        first, second = receiver.received
        for received in (first, second):
            assert "cookie" not in {name.lower() for name in received.headers}


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Trap(lambda _client: None)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    with receiving() as receiver:
        assert send(receiver.url).is_success
    assert proxy.visits == 0
    proxy.close()


# --- what is not well-behaved ------------------------------------------------------------------------


def drip(text: bytes) -> Callable[[socket.socket], None]:
    """Its bytes one by one, for as long as anybody reads."""

    def do(client: socket.socket) -> None:
        client.sendall(text)
        while True:
            client.sendall(b"x")
            time.sleep(0.02)

    return do


def flood(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        client.sendall(b"<script>" * 8192)


def endless_head(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        client.sendall(b"x" * 65536)


def silence(client: socket.socket) -> None:
    client.recv(1)


@pytest.mark.parametrize(
    ("do", "error"),
    [
        (drip(b"HTTP/1.1 200 OK\r\nX-Slow: "), "no answer within 0 s"),
        (silence, "no answer within 0 s"),
        (endless_head, "its answer is not HTTP/1.1"),
        (lambda client: client.sendall(b"SSH-2.0-OpenSSH_9.2 canary\r\n"), "its answer is not HTTP/1.1"),
        (lambda _client: None, "its answer is not HTTP/1.1"),
    ],
    ids=["slow head", "silence", "endless head", "not HTTP", "nothing"],
)
def test_what_is_no_answer_is_a_failure_in_our_words(
    do: Callable[[socket.socket], None], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.deliveries.sending, "TIMEOUT_SECONDS", 0.3)
    trap = Trap(do)
    assert send(trap.url) == Outcome(error=error)
    trap.close()


@pytest.mark.parametrize("do", [flood, drip(b"HTTP/1.1 200 OK\r\n\r\n")], ids=["endless", "slow"])
def test_body_of_an_answer_is_of_no_matter(
    do: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.deliveries.sending, "_READ_ON_SECONDS", 0.1)
    trap = Trap(do)
    assert send(trap.url) == Outcome(status_code=200)
    trap.close()


def test_nobody_there_and_no_such_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert send(f"http://127.0.0.1:{port}/").error == "the connection was refused"

    async def unknown(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror("Name or service not known")

    assert send("https://nowhere.example/", lookup=unknown).error == "the name has no address"


def test_name_server_that_never_answers_costs_no_more_than_the_time_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(viewer.deliveries.sending, "TIMEOUT_SECONDS", 0.1)

    async def never(_host: str, _port: int) -> Sequence[str]:
        await asyncio.sleep(3600)
        return []

    assert send("https://example.com/", policy=PUBLIC, lookup=never).error == "no answer within 0 s"


# --- TLS ---------------------------------------------------------------------------------------------


def test_certificate_must_be_for_the_name_and_of_somebody_we_trust(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "hooks.example")
    with receiving("127.0.0.1", certificate) as receiver:
        here, port = always("127.0.0.1"), receiver.port
        good = send(f"https://hooks.example:{port}/x?a=b", lookup=here, trust=certificate[0])
        assert good == Outcome(status_code=204)
        assert receiver.received[0].headers["Host"] == f"hooks.example:{port}"
        assert receiver.received[0].path == "/x?a=b"
        other = send(f"https://other.example:{port}/", lookup=here, trust=certificate[0])
        assert other.error is not None
        assert other.error.startswith("its certificate is not valid: Hostname mismatch")
        unknown = send(f"https://hooks.example:{port}/", lookup=here)
        assert unknown.error is not None
        assert unknown.error.startswith("its certificate is not valid: self")
        plain = send(f"http://127.0.0.1:{port}/")
        assert plain.error is not None
        assert len(receiver.received) == 1
    with receiving() as without_tls:
        assert send(f"https://127.0.0.1:{without_tls.port}/").error == "it does not speak TLS as it should"


# --- where it may go ---------------------------------------------------------------------------------

NEVER = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.0.9", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1",
    "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "2002:a00:1::", "3fff::1", "5f00::1", "fc00::1",
    "fd12::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NEVER)
def test_address_inside_is_never_connected_to(address: str) -> None:
    refused = send("https://example.com/", policy=PUBLIC, lookup=always(address))
    assert refused.error is not None
    assert refused.error.startswith("not sent: the URL leads to an address")
    assert address.partition("%")[0] not in refused.error
    if "%" not in address:
        assert not PUBLIC.allows(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::8.8.8.8"])
def test_address_of_the_public_internet_is_allowed(address: str) -> None:
    assert PUBLIC.allows(ip_address(address))


@given(st.ip_addresses(v=4))
def test_ipv4_address_is_judged_alike_in_every_form_that_ipv6_has_for_it(
    address: ipaddress.IPv4Address,
) -> None:
    number, verdict = int(address), PUBLIC.allows(address)
    for form in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        assert PUBLIC.allows(ipaddress.IPv6Address(form)) == verdict
    assert verdict <= address.is_global


def test_settings_open_networks_and_nothing_beside_them() -> None:
    policy = AddressPolicy(allow=[IPv4Network("10.20.0.0/16"), IPv6Network("fd00:1::/64")])
    for address, verdict in {
        "10.20.3.4": True, "10.21.0.1": False, "fd00:1::5": True, "fd00:2::5": False,
        "::ffff:10.20.3.4": False, "127.0.0.1": False, "8.8.8.8": True,
    }.items():  # fmt: skip
        assert policy.allows(ip_address(address)) == verdict, address


def test_hosts_of_the_fleet_are_refused_also_at_public_addresses() -> None:
    policy = AddressPolicy(own=[ip_address("8.8.4.4")])
    assert not policy.allows(ip_address("8.8.4.4"))
    assert not policy.allows(ip_address("::ffff:8.8.4.4"))
    with pytest.raises(UrlRefused, match="one of this fleet's own hosts"):
        policy.check_url("https://8.8.4.4/")


def test_this_very_machine_is_refused_at_whatever_address_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer.deliveries.addresses, "_is_public", lambda _address: True)
    assert not PUBLIC.allows(ip_address("127.0.0.1"))


@pytest.mark.parametrize("first", ["10.0.0.1", "127.0.0.1"])
def test_one_bad_address_of_a_name_is_enough(first: str) -> None:
    for addresses in ([first, "8.8.8.8"], ["8.8.8.8", first]):
        refused = send("https://example.com/", policy=PUBLIC, lookup=always(*addresses))
        assert refused.error is not None
        assert refused.error.startswith("not sent")


def test_name_that_changes_its_address_leads_nowhere_else() -> None:
    """DNS rebinding: what was checked is what is connected to, and one look-up is all there is."""
    policy = AddressPolicy(allow=[IPv4Network("127.0.66.0/24")], allow_http=True)
    trap = Trap(lambda _client: None)
    looked_up: list[str] = []
    with receiving("127.0.66.2") as receiver:

        async def turning(host: str, _port: int) -> Sequence[str]:
            looked_up.append(host)
            return ["127.0.66.2"] if len(looked_up) == 1 else ["127.0.0.1"]

        async def do() -> list[Outcome]:
            sender = Sender(policy, lookup=turning, trust=outside_trust())
            ports = receiver.port, trap.port
            found = [await sender.send(f"http://turning.example:{port}/", BODY, {}) for port in ports]
            await sender.close()
            return found

        first, second = asyncio.run(do())
        assert first.is_success
        assert len(receiver.received) == 1
    assert looked_up == ["turning.example"] * 2
    assert second.error is not None
    assert second.error.startswith("not sent")
    assert trap.visits == 0
    trap.close()


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "017700000001", "localhost"])
def test_loopback_in_disguise_is_seen_through(host: str) -> None:
    outcome = send(f"https://{host}/", policy=PUBLIC)
    assert outcome.error is not None
    assert outcome.error.startswith("not sent") or outcome.error == "the name has no address"


def test_next_address_is_tried_when_nobody_is_at_the_first() -> None:
    with receiving("127.0.66.3") as receiver:
        url = f"http://two.example:{receiver.port}/"
        assert send(url, lookup=always("127.0.66.4", "127.0.66.3")).is_success
        assert len(receiver.received) == 1
