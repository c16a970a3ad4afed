"""Sans-I/O driver: a dialogue written as a generator, fed with bytes in any chunks.

A script yields `Read(n)` and is sent exactly n bytes, or yields `Write(data)` and is sent b"".
What it returns is the conversation's result. Because only whole reads reach the script, how the bytes
were cut on the wire cannot matter.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Generic, NamedTuple, TypeVar

Result = TypeVar("Result")

STEPS_AT_ONCE = 1000
"""Reads that one `feed` serves. The other side chooses how short they are, and meanwhile all others wait."""


class Read(NamedTuple):
    size: int


class Write(NamedTuple):
    data: bytes


Script = Generator[Read | Write, bytes, Result]


class RfbError(Exception):
    """The other side cannot be talked to; the text is one sentence that holds no secret."""


class ProtocolError(RfbError):
    """Bytes that RFB does not allow here, or above our limits."""


class Refused(RfbError):
    """The server answered and turned us away, or offers only what we must not accept."""


class Conversation(Generic[Result]):
    """Runs one script. After `done`, `leftover` holds the bytes that came behind its last read."""

    def __init__(self, script: Script[Result]) -> None:
        self._script = script
        self._buffer = bytearray()
        self._wanted = 0
        self._result: list[Result] = []
        self._opening = self._run(b"", starting=True)

    @property
    def done(self) -> bool:
        return bool(self._result)

    @property
    def result(self) -> Result:
        """What the script returned; raises LookupError while it still runs."""
        if not self._result:
            raise LookupError("the conversation is not over")
        return self._result[0]

    @property
    def behind(self) -> bool:
        """Whether `feed` would go on with what is there already; call it with b"" after a pause."""
        return not self.done and len(self._buffer) >= self._wanted

    @property
    def leftover(self) -> bytes:
        return bytes(self._buffer)

    def opening(self) -> bytes:
        """Bytes to send before anything was received."""
        return self._opening

    def feed(self, data: bytes) -> bytes:
        """Take received bytes, return bytes to send; raises RfbError."""
        self._buffer += data
        replies = bytearray()
        for _ in range(STEPS_AT_ONCE):
            if not self.behind:
                break
            replies += self._run(self._take(self._wanted))
        return bytes(replies)

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def _run(self, received: bytes, *, starting: bool = False) -> bytes:
        """Advance the script to its next read or its end; return what it wrote on the way."""
        written = bytearray()
        try:
            step = next(self._script) if starting else self._script.send(received)
            while isinstance(step, Write):
                written += step.data
                step = self._script.send(b"")
            self._wanted = step.size
        except StopIteration as end:
            self._result.append(end.value)
        return bytes(written)
