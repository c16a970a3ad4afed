"""VncAuth: the server's 16-byte challenge, encrypted with DES under the password (RFC 6143, 7.2.2)."""

from __future__ import annotations

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

CHALLENGE_BYTES = 16
LONGEST_PASSWORD = 8
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def vnc_auth_response(password: str, challenge: bytes) -> bytes:
    """Return the 16-byte answer. Only the first 8 bytes of the password count, as in every VNC server."""
    key = password.encode("latin-1", "replace")[:LONGEST_PASSWORD].ljust(LONGEST_PASSWORD, b"\0")
    # VNC feeds the key's bits in reverse order; three equal keys make TripleDES plain DES.
    single_des = TripleDES(key.translate(_REVERSED_BITS) * 3)
    # ECB is what the protocol prescribes: two independent blocks of 8 bytes.
    encryptor = Cipher(single_des, modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(challenge) + encryptor.finalize()
