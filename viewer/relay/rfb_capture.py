"""The capture of a desktop that speaks RFB: a client that keeps a framebuffer.

While pictures are wanted, one question for changes is under way at any time, and at most so often as they are
wanted: a screen on which nothing happens costs nothing. What is not answered has not changed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import NamedTuple

from PIL import Image

from viewer.grants import Target
from viewer.relay.answers import ProbeOutcome
from viewer.relay.capture import (
    FIRST_SECONDS,
    NO_FRAME,
    PICTURE_INTERVAL,
    UNREADABLE,
    Capture,
    Glimpse,
    NoPicture,
)
from viewer.relay.desktops import READ_BYTES, DesktopUnreachable, connect
from viewer.relay.settings import Settings
from viewer.rfb.conversation import Conversation, ProtocolError, RfbError
from viewer.rfb.framebuffer import Framebuffer, NoRoom
from viewer.rfb.watching_client import PACKED, PLAIN, RAW, Watched, watch

CONNECT_AGAIN_SECONDS = 0.04
"""docker-proxy accepts before Xvnc listens and hangs up at once, so an accepted connection proves nothing."""
LONGEST_PAUSE = 5.0
"""Between two attempts to reach a desktop that does not answer; each pause is twice the one before."""
REFUSED_PAUSE = 10.0
"""After it turned us away or sent what is no RFB: that does not mend itself soon."""
UPDATE_SECONDS = 10.0
"""For an update to be whole, once it has begun."""
WHOLE_SECONDS = 0.5
"""The same, for who waits for a picture."""
RESIZED_PAUSE = 0.05
"""Before the whole of a screen is asked for whose size has changed; it may change again at once."""
STALE_GRACE_SECONDS = 0.5
"""For a desktop to answer a thumbnail's first question after a pause; then the old picture must do."""

log = logging.getLogger(__name__)


class _News(NamedTuple):
    """Of a server: what those who wait for something go by."""

    is_ready: bool
    answers: int
    updates: int
    changes: int
    in_update: bool
    has_colours: bool

    @classmethod
    def of(cls, server: Watched) -> _News:
        return cls(
            server.is_ready,
            server.answers,
            server.updates,
            server.framebuffer.changes,
            server.in_update,
            server.colours.are_enough,
        )


class RfbCapture(Capture):
    def __init__(
        self,
        target: Target,
        password: str | None,
        settings: Settings,
        hands: Executor | None,
        *,
        reserve: Callable[[int], None] | None,
    ) -> None:
        """reserve: called before so many pixels are kept, also by another thread; raises NoRoom. None: it
        keeps none, has no pictures, and is there for who waits for a first frame."""
        super().__init__(hands)
        self._target = target
        self._password = password
        self._settings = settings
        self._pause = CONNECT_AGAIN_SECONDS
        self._reserve = reserve
        self._server = Watched()
        self._sock: socket.socket | None = None
        self._is_asking = False
        """Whether a question is under way that any change answers."""
        self._made_at = asyncio.get_running_loop().time()
        self._is_refused = False
        """It answered, and there is no use in asking again soon."""
        self._refusal: RfbError | None = None
        """Since a first frame is waited for."""
        self._updated_at = 0.0

    @property
    def screen_size(self) -> tuple[int, int]:
        return self._server.framebuffer.width, self._server.framebuffer.height

    @property
    def _changes(self) -> int:
        return self._server.framebuffer.changes

    @property
    def has_picture(self) -> bool:
        return self._sock is not None and self._server.framebuffer.keeps_pixels and self._server.shows_all

    def _picture(self) -> Image.Image:
        return self._server.framebuffer.image

    async def run(self) -> None:
        while True:
            pause = self._pause
            try:
                await self._watch_once()
            except DesktopUnreachable as error:
                self.trouble, self._is_refused = str(error), False
            except RfbError as error:
                self.trouble, pause, self._is_refused = str(error), REFUSED_PAUSE, True
                # Whoever waits for a first frame needs no room.
                self._refusal = None if isinstance(error, NoRoom) else error
            except Exception:
                # Of what reads pictures of strangers: that of all others go on.
                log.exception("a desktop's picture could not be kept")
                self.trouble, pause, self._is_refused = UNREADABLE, REFUSED_PAUSE, True
                self._refusal = ProtocolError(UNREADABLE)
            finally:
                self._forget_all()
            await self._rest(pause)

    async def _rest(self, pause: float) -> None:
        """Before the next attempt. Whoever waits for a first frame hears at once that it is there."""
        if self._awaiting_frame:
            await asyncio.sleep(CONNECT_AGAIN_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._until(lambda: self._awaiting_frame > 0)
            return
        self._pause = min(2 * pause, LONGEST_PAUSE)
        # By now the port may be another sandbox's; whoever wants this one is told of it.
        await self._until(self._is_wanted)

    @property
    def glimpse(self) -> Glimpse:
        colours = self._server.colours
        return Glimpse(*self.screen_size, colours.seen, colours.first)

    def _look_afresh(self) -> None:
        self.trouble, self._refusal = "", None
        self._server.look_for_colours()
        if self._is_asking:
            # Beside a question that only a change answers.
            self._send(self._server.ask_for_colours())

    async def _until_frame(self) -> tuple[ProbeOutcome, str]:
        await self._until(lambda: self._server.colours.are_enough or self._refusal is not None)
        if self._refusal is not None:
            return ProbeOutcome.REFUSED, str(self._refusal)
        return ProbeOutcome.FRAME, ""

    async def look(self, *, at_this_moment: bool) -> None:
        await self._until(lambda: self.has_picture or self._has_failed)
        self._check()
        if at_this_moment:
            await self._ask_now()
        elif not self._is_current:
            with suppress(TimeoutError):
                async with asyncio.timeout(STALE_GRACE_SECONDS):
                    await self._ask_now()

    async def _whole(self) -> None:
        """The turn is given back meanwhile, or nothing would come in."""
        self._check()
        while self._server.in_update:
            self._turn.release()
            try:
                async with asyncio.timeout(WHOLE_SECONDS):
                    await self._until(lambda: not self._server.in_update)
            except TimeoutError as error:
                raise NoPicture("the desktop is in the middle of sending a picture") from error
            finally:
                await self._turn.acquire()
            self._check()

    @property
    def _has_failed(self) -> bool:
        """While it is new its desktop may be starting, and not to be reached says little."""
        is_new = asyncio.get_running_loop().time() - self._made_at < FIRST_SECONDS
        return bool(self.trouble) and (self._is_refused or not is_new)

    def _is_wanted(self) -> bool:
        return self.wishes.interval(asyncio.get_running_loop().time()) is not None

    @property
    def _is_current(self) -> bool:
        return self._is_asking or asyncio.get_running_loop().time() - self._updated_at < PICTURE_INTERVAL

    async def _ask_now(self) -> None:
        """What is half here already may be older than the question."""
        server = self._server
        wanted = server.updates + 1 + server.in_update
        self._send(server.ask_for_now())
        self._is_asking = True
        await self._until(
            lambda: (server.updates >= wanted and server.shows_all) or self._server is not server
        )
        self._check()

    def _check(self) -> None:
        if not self.has_picture:
            raise NoPicture(self.trouble or NO_FRAME)

    async def _watch_once(self) -> None:
        """Return never. Raises DesktopUnreachable, RfbError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.handshake_seconds):
                sock = await connect(self._target, self._settings)
        except TimeoutError as error:
            raise DesktopUnreachable("the desktop did not answer in time") from error
        server = self._server = Watched(
            Framebuffer(None if self._awaiting_frame else self._reserve),
            on_colours=lambda: loop.call_soon_threadsafe(self._tell),  # type: ignore[arg-type]
        )
        if self._awaiting_frame:
            server.look_for_colours()
        self._sock = sock
        # Closed even if this is cancelled once more while it waits for the two.
        with sock:
            await self._listen_and_ask(sock, server)

    async def _listen_and_ask(self, sock: socket.socket, server: Watched) -> None:
        both = [
            asyncio.ensure_future(self._listen(sock, server)),
            asyncio.ensure_future(self._ask(server)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for ended in both:
                if ended.done():
                    ended.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    def _forget_all(self) -> None:
        self._sock, self._is_asking = None, False
        # Pixels of a desktop that is not there are nobody's.
        self._server = Watched()
        self._encodings.clear()
        self._tell()

    async def _listen(self, sock: socket.socket, server: Watched) -> None:
        loop = asyncio.get_running_loop()
        offered = self._offered if server.framebuffer.keeps_pixels else PLAIN
        conversation = Conversation(watch(self._password, server, offered))
        try:
            await loop.sock_sendall(sock, conversation.opening())
            while True:
                received = b""
                if not conversation.behind:
                    received = await self._receive(sock, server)
                before = _News.of(server)
                reply = await self._feed(conversation, server, received)
                if server.is_ready and not before.is_ready:
                    reply += self._question(server)
                if reply:
                    await loop.sock_sendall(sock, reply)
                self._note(server, before)
        except OSError as error:
            raise DesktopUnreachable(f"the desktop hung up ({error.strerror})") from error

    @property
    def _offered(self) -> tuple[int, ...]:
        return PACKED if self._settings.capture_encodings == "packed" else RAW

    async def _feed(self, conversation: Conversation[None], server: Watched, received: bytes) -> bytes:
        """Off the event loop, but where there is nothing to decode: that costs less than a thread does, and
        does not wait for one."""
        if not server.is_ready:
            return conversation.feed(received)
        if not server.framebuffer.keeps_pixels:
            # Others have their turn, however fast the bytes come.
            await asyncio.sleep(0)
            return conversation.feed(received)
        async with self._turn:
            return await self._in_hands(lambda: conversation.feed(received))

    async def _receive(self, sock: socket.socket, server: Watched) -> bytes:
        seconds = UPDATE_SECONDS if server.in_update else None
        if not server.is_ready:
            seconds = self._settings.handshake_seconds
        try:
            async with asyncio.timeout(seconds):
                received = await asyncio.get_running_loop().sock_recv(sock, READ_BYTES)
        except TimeoutError as error:
            raise DesktopUnreachable("the desktop did not answer in time") from error
        if not received:
            raise DesktopUnreachable("the desktop hung up")
        return received

    def _note(self, server: Watched, before: _News) -> None:
        news = _News.of(server)
        if server.updates and (news.changes != before.changes or self.changed_at is None):
            self._note_change()
        if news.answers != before.answers:
            self._is_asking = False
        if news.updates != before.updates:
            self._updated_at = asyncio.get_running_loop().time()
            self.trouble, self._is_refused, self._pause = "", False, CONNECT_AGAIN_SECONDS
        if news != before:
            self._tell()

    async def _ask(self, server: Watched) -> None:
        """Again and again; the first question goes out with the end of the handshake."""
        loop = asyncio.get_running_loop()
        await self._until(lambda: server.is_ready)
        while True:
            asked_at = loop.time()
            await self._until(lambda: not self._is_asking or self._lacks_pixels(server))
            if server.knows_all:
                await self._until_wanted(server, asked_at)
            else:
                await asyncio.sleep(RESIZED_PAUSE)
            self._send(self._question(server))

    def _question(self, server: Watched) -> bytes:
        self._is_asking = True
        if self._awaiting_frame:
            return server.ask_for_colours()
        server.look_no_more_for_colours()
        begin = b""
        if self._lacks_pixels(server):
            begin = server.keep_pixels(Framebuffer(self._reserve), self._offered)
        return begin + server.ask_for_changes()

    def _lacks_pixels(self, server: Watched) -> bool:
        """Whether a picture is wanted of a desktop of which so far only a first frame was waited for."""
        is_only_awaited = bool(self._awaiting_frame) or self._reserve is None
        return not is_only_awaited and not server.framebuffer.keeps_pixels and self._is_wanted()

    async def _until_wanted(self, server: Watched, asked_at: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            interval = self.wishes.interval(loop.time())
            if interval is not None and (loop.time() >= asked_at + interval or self._lacks_pixels(server)):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if interval is None else asked_at + interval):
                    await self._news.wait()

    def _send(self, request: bytes) -> None:
        """A few bytes: a desktop that does not take them has not read for long."""
        if self._sock is None:
            return
        try:
            sent = self._sock.send(request)
        except BlockingIOError:
            sent = 0
        except OSError:
            # Whoever listens to it hears of it, too.
            return
        if sent < len(request):
            self._sock.shutdown(socket.SHUT_RDWR)
