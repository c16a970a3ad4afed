"""One gesture of the input API: registered like a stream while it lasts, so that who loses the right to it
loses it in the middle. What is pressed then goes up, whatever cut it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from viewer.grants import Grant, GrantRefused, Target
from viewer.input_actions import Gesture
from viewer.model import utcnow
from viewer.relay.acting import MOST_RARE_KEYS, Acting, Seats, WrongClipboard
from viewer.relay.answers import CloseCode, InputOutcome, InputResult
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.settings import Settings
from viewer.relay.stream import Stream, log
from viewer.rfb.hands import WAKE, Clip, Hands, Message, NoPointer, Sleep, outside

TURN_SECONDS = 10.0
"""For gestures that are under way already, and what else acts on the session."""
SPARE_SECONDS = 10.0
"""Beyond its own pauses, for a gesture to be done."""
LOOK_SECONDS = 0.05
"""How soon a change of the lease, or that nobody waits for the answer any more, is noticed in a pause."""

NEW_KEYBOARD_SECONDS = 0.05
"""For a program to take over another keyboard's layout. libX11 asks the server for it, and forgets what
changes until the answer is there: of characters that are put onto the keyboard meanwhile, it types none."""


class _Cut(Exception):
    def __init__(self, outcome: InputOutcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


class GestureStream(Stream):
    kind = "input"
    is_the_keyboard = True

    def __init__(
        self,
        grant: Grant,
        target: Target,
        settings: Settings,
        *,
        gesture: Gesture,
        seats: Seats,
    ) -> None:
        super().__init__(grant, settings)
        self._target = target
        self._gesture = gesture
        self._seats = seats
        self._seat = seats.of(grant.session_id)
        self.others: Callable[[], Sequence[Stream]] = lambda: ()
        """The streams of the same session."""
        self._acting: Acting | None = None
        self._done = 0
        """Actions that were done whole."""
        self._sent = 0

    @property
    def bytes_to_browser(self) -> int:
        return 0

    @property
    def bytes_to_desktop(self) -> int:
        return self._sent

    async def run(self, request: web.Request) -> web.StreamResponse:
        doing = asyncio.create_task(self._do())
        doing.add_done_callback(lambda _: self.end(CloseCode.OK, "it was done"))
        looking = asyncio.create_task(self._notice_leaving(request))
        try:
            ending = await self._until_ended()
        finally:
            looking.cancel()
            doing.cancel()
            await asyncio.wait([doing])
        result = (
            doing.result()
            if not doing.cancelled()
            else self._result(
                InputOutcome.LEASE_LOST if ending.code == CloseCode.LEASE_LOST else InputOutcome.CUT,
                ending.reason,
            )
        )
        return web.Response(text=result.model_dump_json(), content_type="application/json")

    def look(self, now: float) -> None:
        """It notices by itself, and sooner, that nobody waits for it."""

    async def _notice_leaving(self, request: web.Request) -> None:
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(LOOK_SECONDS)
        self.end(CloseCode.OK, "nobody waits for its answer any more")

    async def _do(self) -> InputResult:
        try:
            await self._take_turn()
        except TimeoutError:
            return self._result(InputOutcome.BUSY, "other input of this session is under way")
        held = self.others()
        for stream in held:
            stream.hold()
        try:
            async with asyncio.timeout(self._gesture.pauses_ms / 1000 + SPARE_SECONDS):
                self._check_may_act()
                self._acting = await self._seats.sit_down(self._seat, self.grant, self._target)
                await self._act(self._acting)
        except _Cut as cut:
            return self._result(cut.outcome, str(cut))
        except NoPointer:
            return self._result(
                InputOutcome.NO_POINTER, "where the pointer is, is not known here yet; give x and y"
            )
        except WrongClipboard:
            return self._result(
                InputOutcome.WRONG_CLIPBOARD, "this desktop's clipboard does not take this text; type it"
            )
        except GrantRefused as error:
            return self._result(InputOutcome.CUT, str(error))
        except DesktopUnreachable as error:
            return self._result(InputOutcome.UNREACHABLE, str(error))
        except TimeoutError:
            return self._result(InputOutcome.UNREACHABLE, "the desktop takes no more input; it may hang")
        except Exception:
            log.exception("gesture %s failed", self.stream_id)
            return self._result(InputOutcome.UNREACHABLE, "the relay failed")
        finally:
            for stream in held:
                stream.go_on()
            self._seats.stand_up(self._seat)
            self._seat.turn.release()
        return self._result(InputOutcome.DONE, "")

    async def _take_turn(self) -> None:
        self._seat.waiting += 1
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._seat.turn.acquire()
        finally:
            self._seat.waiting -= 1

    async def _act(self, acting: Acting) -> None:
        hands = Hands(acting.pointer_message, at=self._seat.at)
        self._check_on_screen(acting)
        self._check_keys()
        try:
            if self._gesture.rare_keysyms():
                await self._wake(acting)
            for action in self._gesture.actions:
                steps = hands.moves(action)
                self._check_may_act()
                # Looked at in between and not after the next is taken: what is taken counts as sent.
                while (step := next(steps, None)) is not None:
                    await self._take(step, acting)
                    self._check_may_act()
                self._done += 1
            await acting.settled()
        finally:
            # No waiting here: it must happen however this ends.
            acting.write(hands.let_go())
            self._seat.at = hands.at

    async def _wake(self, acting: Acting) -> None:
        """And give the programs of the desktop the time to look at the keyboard that it wakes."""
        acting.write(WAKE)
        await acting.settled()
        await self._rest(NEW_KEYBOARD_SECONDS)

    async def _take(self, step: Message | Sleep | Clip, acting: Acting) -> None:
        match step:
            case Message(data):
                self._sent += len(data)
                self.last_input_at = utcnow()
                acting.write(data)
                await acting.drained()
            case Sleep(seconds):
                await self._rest(seconds)
            case Clip(text):
                await acting.set_clipboard(text)

    async def _rest(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, LOOK_SECONDS))
            self._check_may_act()

    def _check_may_act(self) -> None:
        """Raises _Cut."""
        if not self.grant.may_control:
            raise _Cut(InputOutcome.CUT, "this grant is to watch, not to act")
        if self._gesture.sets_clipboard and not self.grant.clipboard.to_desktop:
            raise _Cut(
                InputOutcome.CLIPBOARD_REFUSED, "this tenant lets nothing onto the clipboards of its desktops"
            )
        if not self.may_act:
            holder = self.lease.holder if self.lease is not None else None
            name = holder.name if holder is not None else "nobody"
            raise _Cut(InputOutcome.LEASE_LOST, f"{name} has keyboard and mouse now")

    def _check_on_screen(self, acting: Acting) -> None:
        """Before anything is done: of a gesture that misses the screen, nothing is."""
        size = acting.server.width, acting.server.height
        for action in self._gesture.actions:
            point = outside(action, *size)
            if point is not None:
                where = f"{point.x},{point.y} is not on the screen, which has {size[0]}x{size[1]} pixels"
                raise _Cut(InputOutcome.OUTSIDE, where)

    def _check_keys(self) -> None:
        """The same for characters that would be lost without a word."""
        rare = self._seat.rare | self._gesture.rare_keysyms()
        if len(rare) > MOST_RARE_KEYS:
            raise _Cut(
                InputOutcome.KEYBOARD_FULL,
                f"a desktop's keyboard has room for {MOST_RARE_KEYS} different characters beyond ASCII, and"
                f" with these there would be {len(rare)}; put the text onto the clipboard and press ctrl+v",
            )
        self._seat.rare = rare

    def _result(self, outcome: InputOutcome, detail: str) -> InputResult:
        server = self._acting.server if self._acting is not None else None
        return InputResult(
            result=outcome,
            detail=detail,
            done=self._done,
            began=self._sent > 0,
            width=server.width if server is not None else 0,
            height=server.height if server is not None else 0,
        )
