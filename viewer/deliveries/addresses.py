"""Where a webhook may be sent. The address is a tenant's, and the worker sits inside the fleet: nothing is
reached that is not on the public internet, unless the operator's settings name its network."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

import httpx

from viewer.settings import Settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL = 2000
_FORM = re.compile(r"https?://[\x21-\x5b\x5d-\x7e]+", re.ASCII)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("198.18.0.0/15"),
    IPv6Network("2001::/23"),
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),
)
"""Beside what Python's `ipaddress` knows: relays, benchmarks, protocols, documentation."""
_NAT64 = IPv6Network("64:ff9b::/96")


class UrlRefused(ValueError):
    """No webhook goes there; the text says why, and of no address that a name leads to."""


class AddressPolicy:
    """allow: networks of the settings, whatever is in them. own: the fleet's hosts; own_names: its names."""

    def __init__(
        self,
        *,
        allow: Iterable[Network] = (),
        allow_http: bool = False,
        own: Iterable[Address] = (),
        own_names: Iterable[str] = (),
    ) -> None:
        self._allow = tuple(allow)
        self._allow_http = allow_http
        self._own = frozenset(own)
        self._own_names = frozenset(own_names)

    @classmethod
    def of(cls, settings: Settings) -> AddressPolicy:
        names = {urlsplit(origin).hostname or "" for origin in settings.origins}
        names |= {service.host_name for service in settings.services}
        names |= {settings.content_domain} if settings.content_domain else set()
        own = [_literal(host.address) for host in settings.hosts if host.address is not None]
        return cls(
            allow=settings.webhooks_allow_networks,
            allow_http=settings.webhooks_allow_http,
            own=[address for address in own if address is not None],
            own_names=names,
        )

    def check_url(self, text: str) -> httpx.URL:
        """The URL, if a webhook may have it. Its name is not looked up: that is done for each attempt."""
        if len(text) > LONGEST_URL:
            raise UrlRefused(f"is longer than {LONGEST_URL} characters")
        if not _FORM.fullmatch(text):
            raise UrlRefused("is no http or https address in ASCII without spaces")
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise UrlRefused("is no address of the web") from error
        if url.scheme != "https" and not self._allow_http:
            raise UrlRefused("must begin with https://")
        if "@" in re.split(r"[/?#]", text, maxsplit=3)[2]:
            raise UrlRefused("has a user or a password before its host; leave them out")
        if url.fragment or "#" in text:
            raise UrlRefused("has a fragment; leave out what begins with #")
        if not url.host or not 1 <= (url.port or 443) <= 65535 or url.port == 0:
            raise UrlRefused("names no host or no port that there is")
        self._check_host(url.host)
        return url

    def allows(self, address: Address) -> bool:
        if _is_within(address, self._allow):
            return True
        meant = _meant(address)
        return _is_public(meant) and meant not in self._own and not _is_this_machine(meant)

    def _check_host(self, host: str) -> None:
        literal = _literal(host)
        if literal is not None and not self.allows(literal):
            raise UrlRefused("is not an address of the public internet, or one of this fleet's own hosts")
        if not self._allow and self._is_own_name(host.rstrip(".").lower()):
            raise UrlRefused("is one of this fleet's own names")

    def _is_own_name(self, host: str) -> bool:
        return any(host == name or host.endswith(f".{name}") for name in self._own_names)


def address_of(text: str) -> Address | None:
    """What a look-up found, without the scope that a link-local one has; None for what is no address."""
    return _literal(text.partition("%")[0])


def _literal(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where a translator on the way would send it there."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    special = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not special and not _is_within(address, _NOT_PUBLIC)


def _is_within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _is_this_machine(address: Address) -> bool:
    """Is it an address of our own interfaces? The kernel would answer it from itself; nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError:
        return False  # there is no way there, so nothing will arrive either
