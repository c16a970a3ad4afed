"""The relay's own connections to desktops, on which it presses keys and moves the pointer for the input API.

Each belongs to one session and is kept for a while after a gesture: the next one comes soon, and a text that
was put onto the clipboard is there only as long as whoever offers it.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from viewer.grants import DesktopSocket, Grant, Target
from viewer.input_actions import LARGEST_COORDINATE, Point
from viewer.relay.desktop_access import check_tenant, read_access
from viewer.relay.desktops import READ_BYTES, DesktopUnreachable, connect
from viewer.relay.framing import Unframed, masked_binary
from viewer.relay.kasmvnc import open_stream
from viewer.relay.settings import Settings
from viewer.relay.stream_users import StreamUsers
from viewer.rfb.acting_client import Counterpart, act, act_blindly, fence, offer_text
from viewer.rfb.conversation import Conversation, RfbError
from viewer.rfb.hands import PointerMessage, kasm_pointer, rfb_pointer

IDLE_SECONDS = 60.0
"""Between two gestures of one agent: it looks at the screen and thinks meanwhile."""
CLIPBOARD_SECONDS = 1800.0
"""The same while the clipboard's text is ours."""
SETTLE_SECONDS = 2.0
"""For a desktop to say that it has done all; one that does not say it is busy, and does it later."""
CLIPBOARD_ANSWER_SECONDS = 1.0
"""For it to say whether it takes more than Latin-1. It does at once, or never."""
MOST_RARE_KEYS = 16
"""A desktop's keyboard is given each character that it lacks on a key of its own, once and for all, and
TigerVNC says nothing when no key is left: with the usual layout there are 19. What it lacks only it knows, so
all that is beyond ASCII counts."""
PLACES_REMEMBERED = 2000
"""Sessions whose pointer's place is known after their connection has gone."""


class WrongClipboard(Exception):
    """The text has characters that this desktop's clipboard does not take; or it takes none from us, as
    KasmVNC, whose clipboard has a message of its own."""


class Acting:
    """One connection. `write` takes all at once and needs no waiting: letting go cannot be cut short."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_kasmvnc: bool,
        early: bytes = b"",
    ) -> None:
        """early: what was read of it before."""
        self._reader = reader
        self._early = early
        self._writer = writer
        self._frames = Unframed() if is_kasmvnc else None
        self.pointer_message: PointerMessage = kasm_pointer if is_kasmvnc else rfb_pointer
        self.server = Counterpart(on_news=self._tell)
        self._news = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._gone = ""
        self.on_end: Callable[[], None] = lambda: None
        """Called once, when it is over."""

    @property
    def is_open(self) -> bool:
        return not self._gone and not self._writer.is_closing()

    @property
    def has_clipboard(self) -> bool:
        return self.server.offered_text is not None

    async def log_in(self, password: str | None) -> None:
        """Raises DesktopUnreachable. The caller sets the time limit."""
        script = act(password, self.server) if self._frames is None else act_blindly(self.server)
        self._listening = asyncio.create_task(self._listen(Conversation(script)))
        await self._until(lambda: bool(self.server.width))

    def write(self, data: bytes) -> None:
        if data and self.is_open:
            self._writer.write(data if self._frames is None else masked_binary(data))

    async def drained(self) -> None:
        """Until the kernel has nearly all. Raises DesktopUnreachable."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise DesktopUnreachable(f"the desktop hung up ({error.strerror})") from error
        self._check_open()

    async def settled(self) -> None:
        """Until the desktop has done all, if it can say so. Raises DesktopUnreachable."""
        if self.server.has_fences:
            wanted = self.server.fences_back + 1
            self.write(fence())
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._until(lambda: self.server.fences_back >= wanted)
        await self.drained()

    async def set_clipboard(self, text: str) -> None:
        """Raises WrongClipboard, DesktopUnreachable."""
        if self._frames is not None:
            raise WrongClipboard
        with suppress(TimeoutError):
            async with asyncio.timeout(CLIPBOARD_ANSWER_SECONDS):
                await self._until(lambda: self.server.takes_unicode)
        try:
            self.write(offer_text(self.server, text))
        except UnicodeEncodeError as error:
            raise WrongClipboard from error
        await self.drained()

    def close(self) -> None:
        """What was written still goes out."""
        if self._listening is not None:
            self._listening.cancel()
        self._end("it was closed")

    def _end(self, why: str) -> None:
        if not self._gone:
            self._gone = why
            self._writer.close()
            self._tell()
            self.on_end()

    async def _listen(self, conversation: Conversation[None]) -> None:
        """Raises nothing: whoever waits for news finds it closed."""
        gone = "the desktop hung up"
        try:
            self.write(conversation.opening())
            received = self._early or await self._reader.read(READ_BYTES)
            while received:
                if not conversation.done:
                    self.write(conversation.feed(self._payload(received)))
                while conversation.behind:
                    await asyncio.sleep(0)
                    self.write(conversation.feed(b""))
                received = await self._reader.read(READ_BYTES)
        except RfbError as error:
            gone = str(error)
        except OSError as error:
            gone = f"the desktop hung up ({error.strerror})"
        finally:
            self._end(gone)

    def _payload(self, received: bytes) -> bytes:
        return received if self._frames is None else self._frames.feed(received)

    def _tell(self) -> None:
        self._news.set()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._check_open()
            self._news.clear()
            await self._news.wait()

    def _check_open(self) -> None:
        if not self.is_open:
            raise DesktopUnreachable(self._gone or "the desktop hung up")


class _Key(NamedTuple):
    """What a connection was made with; one made with anything else is of no use."""

    target: Target
    password: str | None


@dataclass
class Seat:
    """Of one session. turn: held by whoever acts there. at: where its pointer is, as far as is known. rare:
    keysyms beyond ASCII that were typed there."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: Point | None = None
    connection: Acting | None = None
    key: _Key | None = None
    rare: frozenset[int] = frozenset()
    waiting: int = 0
    is_over: bool = False
    closing: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.closing is not None:
            self.closing.cancel()
        if self.connection is not None:
            self.connection.close()
        self.connection = self.closing = None


class Seats:
    """Of all sessions of this relay."""

    def __init__(self, settings: Settings, users: StreamUsers) -> None:
        self._settings = settings
        self._users = users
        self._seats: dict[str, Seat] = {}

    def of(self, session_id: str) -> Seat:
        seat = self._seats.pop(session_id, None) or Seat()
        # The one that was asked for last is forgotten last.
        self._seats[session_id] = seat
        if len(self._seats) > PLACES_REMEMBERED:
            self._forget_some()
        return seat

    def taken(self, session_id: str) -> asyncio.Lock | None:
        """The turn that is being taken there now; None: nobody acts, so whoever wants to may."""
        seat = self._seats.get(session_id)
        return seat.turn if seat is not None and seat.turn.locked() else None

    def note_pointer(self, session_id: str, at: tuple[int, int]) -> None:
        """Somebody else has put it there."""
        if max(at) <= LARGEST_COORDINATE:
            self.of(session_id).at = Point(x=at[0], y=at[1])

    async def sit_down(self, seat: Seat, grant: Grant, target: Target) -> Acting:
        """The session's connection, made now if there is none; the caller has the turn. Raises
        DesktopUnreachable, GrantRefused."""
        key = _Key(target, grant.vnc_password.get_secret_value() if grant.vnc_password else None)
        if seat.closing is not None:
            seat.closing.cancel()
            seat.closing = None
        check_tenant(grant, self._settings)
        if seat.connection is None or not seat.connection.is_open or seat.key != key:
            seat.close()
            try:
                async with asyncio.timeout(self._settings.handshake_seconds):
                    seat.connection = await self._connect(grant, target, key.password)
            except TimeoutError as error:
                raise DesktopUnreachable("the desktop did not answer in time") from error
            if seat.key != key:
                # Another desktop by now: a sandbox that was resumed has other ports.
                seat.key, seat.rare = key, frozenset()
        return seat.connection

    def stand_up(self, seat: Seat) -> None:
        """The gesture is over; its connection is kept for a while."""
        if seat.connection is not None and seat.connection.is_open and not seat.is_over:
            seconds = CLIPBOARD_SECONDS if seat.connection.has_clipboard else IDLE_SECONDS
            seat.closing = asyncio.get_running_loop().call_later(seconds, seat.close)
        else:
            seat.close()

    def leave(self, session_id: str) -> None:
        """The session has ended, or all of its streams were closed. A gesture that is under way lets go
        first."""
        seat = self._seats.pop(session_id, None)
        if seat is None:
            return
        seat.is_over = True
        if not seat.turn.locked():
            seat.close()

    def close(self) -> None:
        for seat in self._seats.values():
            seat.close()

    async def _connect(self, grant: Grant, target: Target, password: str | None) -> Acting:
        if isinstance(target, DesktopSocket) and read_access(target.name, self._settings).credentials:
            acting = await self._connect_to_kasmvnc(target)
        else:
            sock = await connect(target, self._settings)
            acting = Acting(*await _opened(sock), is_kasmvnc=False)
        try:
            # Once more: it may have been given away just now, and then this is the new tenant's already.
            check_tenant(grant, self._settings)
            await acting.log_in(password)
        except BaseException:
            acting.close()
            raise
        return acting

    async def _connect_to_kasmvnc(self, target: DesktopSocket) -> Acting:
        """As a user of its own, who may write, and goes when it is closed."""
        ident = secrets.token_hex(6)
        user = await self._users.make(target.name, ident, may_write=True)
        try:
            sock, early = await open_stream(target.name, user, self._settings)
            acting = Acting(*await _opened(sock), is_kasmvnc=True, early=early)
        except BaseException:
            self._users.remove(target.name, ident)
            raise
        acting.on_end = lambda: self._users.remove(target.name, ident)
        return acting

    def _forget_some(self) -> None:
        idle = [name for name, seat in self._seats.items() if seat.connection is None and not seat.waiting]
        for name in idle[: len(self._seats) // 10]:
            del self._seats[name]


async def _opened(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if sock.family == socket.AF_UNIX:
        return await asyncio.open_unix_connection(sock=sock)
    return await asyncio.open_connection(sock=sock)
