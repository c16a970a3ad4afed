"""nftables' tables in a host's network, asked of the kernel itself: the host's own `nft` is one of the
packages that come and go."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from tests.hosts.bare_host import BareHost
from tests.hosts.network import inside

_ASK_FOR_TABLES = (10 << 8) | 1
_TABLE = 10 << 8
_REQUEST_ALL = 0x301
_DONE = 3
_NAME = 1
_NETFILTER = 12
_HEADER = struct.Struct("=IHHII")
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def tables_of(host: BareHost) -> set[str]:
    """Family and name of each table: `inet deskfleet`."""

    def ask() -> set[str]:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as kernel:
            kernel.settimeout(5)
            kernel.send(_HEADER.pack(_HEADER.size + 4, _ASK_FOR_TABLES, _REQUEST_ALL, 1, 0) + bytes(4))
            found: set[str] = set()
            while True:
                for kind, body in _messages(kernel.recv(65536)):
                    if kind == _DONE:
                        return found
                    if kind == _TABLE:
                        family = _FAMILIES.get(body[0], str(body[0]))
                        found |= {
                            f"{family} {text}" for number, text in _attributes(body[4:]) if number == _NAME
                        }

    return inside(host.pid, ask)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, str]]:
    while data:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length].rstrip(b"\0").decode(errors="replace")
        data = data[(length + 3) & ~3 :]
