"""zlib streams that run through a whole connection, as Tight and ZRLE have them."""

from __future__ import annotations

import zlib
from functools import cached_property

from viewer.rfb.conversation import ProtocolError

LONGEST_REST = 64
"""Bytes that may be left when all wanted ones are there: the end of a flush, which says nothing."""


class Unzipped:
    """One such stream."""

    def __init__(self) -> None:
        self._rest = b""

    @cached_property
    def _stream(self) -> zlib._Decompress:
        """Only where it is used: it takes tens of kilobytes, and most servers send no such thing."""
        return zlib.decompressobj()

    def exactly(self, size: int, packed: bytes) -> bytes:
        """Raises ProtocolError for more or less."""
        data = self.at_most(size, packed)
        if len(data) != size:
            raise ProtocolError(f"the desktop sent {len(data)} packed bytes instead of {size}")
        return data

    def at_most(self, size: int, packed: bytes) -> bytes:
        """Raises ProtocolError for more."""
        try:
            data = self._stream.decompress(self._rest + packed, size) if size else b""
        except zlib.error as error:
            raise ProtocolError("the desktop sent packed bytes that cannot be unpacked") from error
        self._rest = self._stream.unconsumed_tail
        if len(self._rest) > LONGEST_REST or self._stream.eof:
            raise ProtocolError("the desktop sent more packed bytes than its rectangle holds")
        return data
