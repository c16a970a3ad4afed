"""A synthetic RFB server for the bench: no desktop, only bytes, as fast as they are asked for.

It logs anybody in and answers each update request of W x H pixels at once with one Raw rectangle of noise
of that size, which no compression can shrink (as the JPEG and zlib data of real desktops). As a program:
`python -m tests.rfb_pump ADDRESS PORT`; one process per client, so that clients do not slow each other.
"""

from __future__ import annotations

import os
import socket
import sys
from struct import Struct, pack

PIXEL_BYTES = 4
_REQUEST = Struct(">BBHHHH")
_BLOCK = 1 << 18


def update_bytes(width: int, height: int) -> int:
    """Length of the answer to one request."""
    return 16 + PIXEL_BYTES * width * height


def serve(address: str, port: int) -> None:
    with socket.create_server((address, port), backlog=16) as listener:
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                try:
                    _serve_client(client)
                except OSError:
                    pass
                finally:
                    os._exit(0)
            client.close()
            _reap()


def _serve_client(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(b"RFB 003.008\n")
    client.recv(12, socket.MSG_WAITALL)
    client.sendall(b"\x01\x01")
    client.recv(1)
    client.sendall(bytes(4))
    client.recv(1)
    client.sendall(pack(">HH16xI", 64, 64, 4) + b"pump")
    noise = memoryview(os.urandom(_BLOCK))
    while request := client.recv(_REQUEST.size, socket.MSG_WAITALL):
        _type, _incremental, _x, _y, width, height = _REQUEST.unpack(request)
        head = pack(">BxHHHHHi", 0, 1, 0, 0, width, height, 0)
        left = PIXEL_BYTES * width * height
        if left <= _BLOCK:
            client.sendall(head + noise[:left])
            continue
        client.sendall(head)
        while left:
            left -= client.send(noise[: min(left, _BLOCK)])


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
