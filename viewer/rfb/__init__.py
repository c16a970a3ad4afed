"""RFB 3.8 (RFC 6143) without I/O: bytes in, bytes and results out. Sockets live in `viewer.relay`."""
