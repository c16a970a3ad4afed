"""A minimal RFB client of the tests: logs in with a password and takes one full picture.

Deliberately apart from `viewer.rfb`, so that images are not confirmed by the code that shows them.
"""

import socket
import struct
import time
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

RFB_VERSION = b"RFB 003.008\n"
VNC_AUTH = 2
# 32 bits per pixel, depth 24, little endian, true colour, 255 per channel, shifts that give B, G, R, unused.
BGRX = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class Refused(Exception):
    """The server did not let us in; the text is its own reason."""


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    bgrx: bytes
    """4 bytes a pixel, rows from the top."""

    def is_blank(self) -> bool:
        return self.bgrx == self.bgrx[:4] * (self.width * self.height)

    def colours(self) -> int:
        return len({self.bgrx[at : at + 3] for at in range(0, len(self.bgrx), 4)})


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; raises ConnectionError where the server ends before."""
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError(f"the server closed after {len(parts)} of {size} bytes")
        parts += part
    return bytes(parts)


def vnc_response(password: str, challenge: bytes) -> bytes:
    """VncAuth: DES of the challenge with the password's first 8 bytes, each with its bits reversed."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()


def dial(host: str, port: int, *, seconds: float = 15) -> tuple[socket.socket, bytes]:
    """A connection on which the server's banner has arrived, and the banner.

    Docker's proxy accepts before anything listens behind it, so it tries again until the banner comes.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=5)
            return connection, receive(connection, len(RFB_VERSION))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def offered_security(connection: socket.socket) -> bytes:
    """Answers the banner and returns the security types the server offers, one byte each."""
    connection.sendall(RFB_VERSION)
    return receive(connection, receive(connection, 1)[0])


def log_in(connection: socket.socket, password: str) -> tuple[int, int]:
    """Completes the handshake with VncAuth; returns width and height; raises Refused."""
    if VNC_AUTH not in offered_security(connection):
        raise Refused("the server offers no VncAuth")
    connection.sendall(bytes([VNC_AUTH]))
    connection.sendall(vnc_response(password, receive(connection, 16)))
    if struct.unpack(">I", receive(connection, 4))[0]:
        (length,) = struct.unpack(">I", receive(connection, 4))
        raise Refused(receive(connection, length).decode())
    connection.sendall(b"\1")
    width, height = struct.unpack(">HH", receive(connection, 4))
    receive(connection, 16)
    (name_length,) = struct.unpack(">I", receive(connection, 4))
    receive(connection, name_length)
    connection.sendall(b"\0\0\0\0" + BGRX + struct.pack(">BxHi", 2, 1, 0))
    return width, height


def receive_update(connection: socket.socket, pixels: bytearray, width: int) -> int:
    """Puts one message of the server into `pixels`; returns how many pixels it brought."""
    kind = receive(connection, 1)[0]
    if kind == 2:  # bell
        return 0
    if kind == 3:  # the server's clipboard
        receive(connection, struct.unpack(">xxxI", receive(connection, 7))[0])
        return 0
    brought = 0
    for _ in range(struct.unpack(">xH", receive(connection, 3))[0]):
        x, y, columns, rows, _encoding = struct.unpack(">HHHHi", receive(connection, 12))
        data = receive(connection, columns * rows * 4)
        for row in range(rows):
            at = ((y + row) * width + x) * 4
            pixels[at : at + columns * 4] = data[row * columns * 4 : (row + 1) * columns * 4]
        brought += columns * rows
    return brought


def take_picture(connection: socket.socket, width: int, height: int) -> Picture:
    """One full, non-incremental picture in raw encoding."""
    connection.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
    pixels = bytearray(width * height * 4)
    missing = width * height
    while missing > 0:
        missing -= receive_update(connection, pixels, width)
    return Picture(width, height, bytes(pixels))


def next_picture(connection: socket.socket, before: Picture) -> Picture:
    """The picture after the next change; waits for one."""
    connection.sendall(struct.pack(">BBHHHH", 3, 1, 0, 0, before.width, before.height))
    pixels = bytearray(before.bgrx)
    while not receive_update(connection, pixels, before.width):
        pass
    return Picture(before.width, before.height, bytes(pixels))


def first_frame(host: str, port: int, password: str, *, seconds: float = 20) -> Picture:
    """The first picture of at least two colours; raises TimeoutError where none comes in time."""
    connection, _banner = dial(host, port, seconds=seconds)
    with connection:
        picture = take_picture(connection, *log_in(connection, password))
        connection.settimeout(seconds)
        while picture.is_blank():
            picture = next_picture(connection, picture)
    return picture
