"""The register of captures and its RFB client, with desktops that do just what a test needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from struct import pack, unpack
from typing import Any

import pytest
from aiohttp import web
from PIL import Image
from pydantic import SecretStr

from viewer.grants import DesktopSocket, Grant, PublishedPort, Target
from viewer.model import utcnow
from viewer.relay import capture, captures, rfb_capture
from viewer.relay.answers import (
    MOST_PICTURE_BYTES,
    Picture,
    PictureFormat,
    PictureResult,
    ProbeOutcome,
    ProbeResult,
)
from viewer.relay.capture import Wishes, encode
from viewer.relay.captures import Captures, WantedOf
from viewer.relay.settings import Settings
from viewer.rfb.watching_client import RAW

SIZE = (40, 20)
RED, BLUE = (255, 0, 0), (0, 0, 255)
LONG = 60.0


class Screen:
    """A desktop's server. As TigerVNC it answers at once if there is news, else when there is."""

    def __init__(self, *, colour: tuple[int, int, int] = RED, size: tuple[int, int] = SIZE) -> None:
        self.size = size
        self.colour = colour
        self.connections = 0
        self.open = 0
        self.asked: list[tuple[int, ...]] = []
        """Of each question: incremental, x, y, width, height."""
        self.is_busy = False
        """There is something new for each question."""
        self.answer: Callable[[], bytes] = self.whole
        self._writers: list[asyncio.StreamWriter] = []
        self._news = asyncio.Event()
        self.hangs_up = False
        self.encodings = 0
        """So many it was offered last."""

    def whole(self) -> bytes:
        width, height = self.size
        red, green, blue = self.colour
        return pack(">BxHHHHHi", 0, 1, 0, 0, width, height, 0) + bytes((blue, green, red, 0)) * width * height

    def paint(self, colour: tuple[int, int, int]) -> None:
        self.colour = colour
        self._news.set()

    def resize(self, size: tuple[int, int]) -> None:
        """The next answer says so, and nothing else."""
        self.size = size

        def once() -> bytes:
            self.answer = self.whole
            return pack(">BxHHHHHi", 0, 1, 0, 0, *size, -223)

        self.answer = once
        self._news.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()

    async def until_asked(self, times: int) -> None:
        while len(self.asked) < times:
            await asyncio.sleep(0.001)

    async def until_left(self) -> None:
        while self.open:
            await asyncio.sleep(0.001)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self._writers.append(writer)
        try:
            if not self.hangs_up:
                await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n\x01\x01" + bytes(4) + pack(">HH16xI", *self.size, 4) + b"desk")
        await reader.readexactly(12 + 1 + 1 + 20)
        while True:
            question = await self._question(reader)
            self.asked.append(question)
            if question[0] and not self.is_busy and not self._news.is_set():
                # Nothing new: the next question, or news, is waited for.
                pending = asyncio.ensure_future(self._news.wait())
                more = asyncio.ensure_future(self._question(reader))
                await asyncio.wait([pending, more], return_when=asyncio.FIRST_COMPLETED)
                pending.cancel()
                if more.done():
                    self.asked.append(more.result())
                else:
                    more.cancel()
                    with suppress(asyncio.CancelledError):
                        await more
            self._news.clear()
            writer.write(self.answer())
            await writer.drain()

    async def _question(self, reader: asyncio.StreamReader) -> tuple[int, ...]:
        while (await reader.readexactly(1))[0] == 2:
            self.encodings = unpack(">xH", await reader.readexactly(3))[0]
            await reader.readexactly(4 * self.encodings)
        return unpack(">BHHHH", await reader.readexactly(9))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "listen": "127.0.0.1:1",
            "key_file": tmp_path / "key",
            "publish_address": "127.0.0.1",
            "desktops_dir": tmp_path,
            "desktop_secrets_dir": tmp_path,
            "handshake_seconds": 5,
            "max_captures": 4,
        }
    )


@asynccontextmanager
async def shown_by(screen: Screen) -> AsyncIterator[int]:
    server = await asyncio.start_server(screen.serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    screen.cut()
    await screen.until_left()


@asynccontextmanager
async def looking(settings: Settings) -> AsyncIterator[Captures]:
    register = Captures(settings)
    context = register.look_after(web.Application())
    await anext(context)
    try:
        yield register
    finally:
        with suppress(StopAsyncIteration):
            await anext(context)


async def ask(
    register: Captures,
    target: Target | int,
    *,
    session_id: str = "s1",
    tenant_id: str = "t1",
    password: str | None = None,
    etag: str | None = None,
    width: int | None = 16,
    format: PictureFormat = "jpeg",
) -> Picture:
    target = PublishedPort(port=target) if isinstance(target, int) else target
    grant = Grant(
        purpose="picture",
        session_id=session_id,
        tenant_id=tenant_id,
        target=target,
        vnc_password=SecretStr(password) if password else None,
        expires_at=utcnow() + timedelta(seconds=30),
    )
    return (await register.pictures([WantedOf(grant, target, etag)], width=width, format=format))[0]


def colour_of(picture: Picture) -> Any:
    assert picture.data is not None, picture.detail
    red, green, blue = Image.open(BytesIO(picture.data)).convert("RGB").getpixel((3, 3))  # type: ignore[misc]
    return red > 200, green > 200, blue > 200


IS_RED, IS_BLUE = (True, False, False), (False, False, True)


def run(body: Callable[[Captures, Screen, int], Awaitable[None]], settings: Settings, screen: Screen) -> None:
    async def whole() -> None:
        async with shown_by(screen) as port, looking(settings) as register:
            await body(register, screen, port)

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_many_askers_share_one_connection(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        found = await asyncio.gather(*(ask(register, port) for _ in range(20)))
        assert {picture.result for picture in found} == {PictureResult.NEW}
        assert len({picture.etag for picture in found}) == 1
        assert (found[0].screen_width, found[0].screen_height) == SIZE
        assert screen.connections == 1

    run(body, settings, Screen())


def test_an_idle_screen_is_asked_once_and_answers_from_memory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "PICTURE_INTERVAL", 0.01)
    monkeypatch.setattr(rfb_capture, "PICTURE_INTERVAL", 0.01)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        first = await ask(register, port)
        await screen.until_asked(2)
        for _ in range(50):
            again = await ask(register, port, etag=first.etag)
            assert (again.result, again.data) == (PictureResult.SAME, None)
        assert screen.asked == [(0, 0, 0, *SIZE), (1, 0, 0, *SIZE)]
        screen.paint(BLUE)
        await screen.until_asked(3)
        changed = await ask(register, port, etag=first.etag)
        assert colour_of(changed) == IS_BLUE
        assert changed.changed_at is not None
        assert first.changed_at is not None
        assert changed.changed_at > first.changed_at

    run(body, settings, Screen())


def test_a_busy_screen_is_asked_only_while_somebody_wants_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "PICTURE_INTERVAL", 0.01)
    monkeypatch.setattr(capture, "PICTURE_WISH_SECONDS", 0.3)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        screen.is_busy = True
        await ask(register, port)
        await screen.until_asked(4)
        # Nothing tells that a wish has lapsed.
        await asyncio.sleep(0.35)
        asked = len(screen.asked)
        await asyncio.sleep(0.15)
        assert len(screen.asked) <= asked + 1
        assert (await ask(register, port)).result is PictureResult.NEW
        await screen.until_asked(asked + 2)

    run(body, settings, Screen())


def test_the_whole_screen_is_of_this_moment(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        assert colour_of(await ask(register, port, width=None)) == IS_RED
        # Not told: whoever does not ask anew sees the old one.
        screen.colour = BLUE
        assert colour_of(await ask(register, port)) == IS_RED
        assert colour_of(await ask(register, port, width=None)) == IS_BLUE
        screen.colour = RED
        assert colour_of(await ask(register, port, format="png")) == IS_RED
        assert screen.asked[-1] == (0, 0, 0, 1, 1)

    run(body, settings, Screen())


def test_a_new_size_is_seen_whole(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "PICTURE_INTERVAL", 0.01)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        await ask(register, port)
        screen.resize((30, 60))
        screen.colour = BLUE
        picture = await ask(register, port, width=None)
        assert (picture.screen_width, picture.screen_height) == (30, 60)
        assert colour_of(picture) == IS_BLUE

    run(body, settings, Screen())


def test_a_capture_survives_a_restart_of_its_desktop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rfb_capture, "FIRST_SECONDS", 0.0)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        await ask(register, port)
        screen.hangs_up = True
        screen.cut()
        await screen.until_left()
        while (gone := await ask(register, port)).result is not PictureResult.NONE:
            await asyncio.sleep(0.001)
        assert gone.detail == "the desktop hung up"
        screen.hangs_up, screen.colour = False, BLUE
        while (back := await ask(register, port)).result is PictureResult.NONE:
            await asyncio.sleep(0.01)
        assert colour_of(back) == IS_BLUE

    run(body, settings, Screen())


def test_a_desktop_that_is_starting_is_waited_for(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        screen.hangs_up = True
        asking = asyncio.ensure_future(ask(register, port))
        while screen.connections < 3:
            await asyncio.sleep(0.001)
        screen.hangs_up = False
        assert colour_of(await asking) == IS_RED

    run(body, settings, Screen())


def test_a_session_that_ended_is_let_go_at_once(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        await ask(register, port)
        assert screen.open == 1
        register.end("s1")
        await screen.until_left()
        register.end("s1")

    run(body, settings, Screen())


def test_what_nobody_wants_is_let_go(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "PICTURE_WISH_SECONDS", 0.05)
    monkeypatch.setattr(captures, "LET_GO_SECONDS", 0.05)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        await ask(register, port)
        await screen.until_left()
        assert colour_of(await ask(register, port)) == IS_RED
        assert screen.connections == 2

    run(body, settings, Screen())


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"\x99", "unknown message of type 153"),
        (pack(">BxHHHHHi", 0, 1, 0, 0, 9999, 1, 0), "off its own screen"),
    ],
)
def test_rubbish_is_told_and_not_asked_for_again_soon(
    settings: Settings, answer: bytes, sentence: str
) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        screen.answer = lambda: answer
        for _ in range(5):
            picture = await ask(register, port)
            assert picture.result is PictureResult.NONE
            assert sentence in picture.detail
        assert screen.connections == 1

    run(body, settings, Screen())


def test_half_of_an_update_is_never_shown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(rfb_capture, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(rfb_capture, "UPDATE_SECONDS", 0.3)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        await ask(register, port)
        answers = iter([screen.whole()[:-30]])
        screen.answer = lambda: next(answers, b"")
        screen.paint(BLUE)
        assert (await ask(register, port, width=None)).result is PictureResult.NONE
        # Also not to who would do with an older one: by now it is neither.
        assert (await ask(register, port)).result is PictureResult.NONE
        await screen.until_left()
        assert (await ask(register, port)).detail == "the desktop did not answer in time"

    run(body, settings, Screen())


def test_another_password_or_port_is_another_desktop(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        other = Screen(colour=BLUE)
        async with shown_by(other) as other_port:
            assert colour_of(await ask(register, port)) == IS_RED
            assert colour_of(await ask(register, other_port)) == IS_BLUE
            await screen.until_left()
            refused = await ask(register, other_port, password="secret12")
            assert refused.result is PictureResult.NONE
            assert "not this session's desktop" in refused.detail
            await other.until_left()

    run(body, settings, Screen())


def test_the_same_picture_has_the_same_etag_whoever_made_it(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        first = await ask(register, port, session_id="s1")
        assert (await ask(register, port, session_id="s2", etag=first.etag)).result is PictureResult.SAME
        assert (await ask(register, port, etag=first.etag, format="png")).result is PictureResult.NEW
        assert (await ask(register, port, etag=first.etag, width=20)).result is PictureResult.NEW

    run(body, settings, Screen())


def test_one_tenant_cannot_take_every_capture(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        for name in ("s1", "s2"):
            assert (await ask(register, port, session_id=name)).result is PictureResult.NEW
        third = await ask(register, port, session_id="s3")
        assert third.result is PictureResult.NONE
        assert "as many pictures" in third.detail
        assert (await ask(register, port, session_id="s4", tenant_id="t2")).result is PictureResult.NEW
        assert (await ask(register, port, session_id="s1")).result is PictureResult.NEW

    run(body, settings, Screen())


def test_what_is_wanted_no_more_makes_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "PICTURE_WISH_SECONDS", 0.0)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        for number in range(6):
            await ask(register, port, session_id=f"s{number}")
        assert screen.open <= 3

    run(body, settings, Screen())


def test_screens_that_are_too_large_together_are_refused(settings: Settings) -> None:
    small = settings.model_copy(update={"max_capture_bytes": 1 << 20})

    async def body(register: Captures, screen: Screen, port: int) -> None:
        assert (await ask(register, port, session_id="s1")).result is PictureResult.NEW
        second = await ask(register, port, session_id="s2")
        assert second.result is PictureResult.NONE
        assert "as large pictures" in second.detail
        register.end("s1")
        await asyncio.sleep(0)
        assert (await ask(register, port, session_id="s3")).result is PictureResult.NEW

    run(body, small, Screen(size=(300, 300)))


def test_a_desktop_that_was_given_away_shows_nothing(settings: Settings, tmp_path: Path) -> None:
    async def body(register: Captures, _screen: Screen, _port: int) -> None:
        studio = DesktopSocket(name="studio")
        (tmp_path / "studio.json").write_text(json.dumps({"backend": "tigervnc", "tenant": "t2"}))
        given = await ask(register, studio)
        assert given.result is PictureResult.NONE
        assert "given to another tenant" in given.detail
        nobodys = await ask(register, DesktopSocket(name="other"))
        assert "knows no tenant" in nobodys.detail

    run(body, settings, Screen())


def test_too_much_for_one_answer_is_left_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "MOST_PICTURE_BYTES", 10)
    assert MOST_PICTURE_BYTES > 10

    async def body(register: Captures, screen: Screen, port: int) -> None:
        picture = await ask(register, port)
        assert picture.result is PictureResult.NONE
        assert "too much for one answer" in picture.detail

    run(body, settings, Screen())


def test_a_desktop_that_never_answers_holds_up_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "FIRST_SECONDS", 0.5)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        silent = Screen()
        silent.answer = lambda: b""
        async with shown_by(silent) as silent_port:
            waiting = asyncio.ensure_future(ask(register, silent_port, session_id="s2"))
            assert (await ask(register, port)).result is PictureResult.NEW
            assert not waiting.done()
            nothing = await waiting
            assert nothing.detail == "the desktop has not shown anything yet"

    run(body, settings, Screen())


# --- a session's first frame


async def first_frame(
    register: Captures,
    port: int,
    *,
    session_id: str = "s1",
    tenant_id: str = "t1",
    password: str | None = None,
    seconds: float = 15,
) -> ProbeResult:
    target = PublishedPort(port=port)
    grant = Grant(
        purpose="probe",
        session_id=session_id,
        tenant_id=tenant_id,
        target=target,
        vnc_password=SecretStr(password) if password else None,
        expires_at=utcnow() + timedelta(seconds=30),
    )
    return await register.first_frame(grant, target, seconds=seconds)


class TwoColours(Screen):
    """As a desktop that has painted something."""

    def whole(self) -> bytes:
        return super().whole()[:-4] + b"\xff\xff\xff\0"


def test_whoever_saw_the_first_frame_shows_the_first_thumbnail(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between two looks for pictures; the first frame was none.
    monkeypatch.setattr(capture, "PICTURE_INTERVAL", LONG)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        seen = await first_frame(register, port)
        assert (seen.result, seen.width, seen.height, seen.colours) == (ProbeOutcome.FRAME, *SIZE, 2)
        assert colour_of(await ask(register, port)) == IS_RED
        assert screen.connections == 1
        # The first frame, of which no pixel was kept, and the picture for the thumbnail.
        assert screen.asked[:2] == [(0, 0, 0, *SIZE)] * 2
        assert all(is_incremental for is_incremental, *_ in screen.asked[2:])
        assert screen.encodings == len(RAW)

    run(body, settings, TwoColours())


def test_a_picture_is_there_although_a_blank_screen_is_still_watched_for_a_change(
    settings: Settings,
) -> None:
    """The question for that change is open, and nothing may ever answer it."""

    async def body(register: Captures, screen: Screen, port: int) -> None:
        blank = await first_frame(register, port, seconds=0.3)
        assert blank.result is ProbeOutcome.BLANK
        assert screen.asked == [(0, 0, 0, *SIZE), (1, 0, 0, *SIZE)]
        assert colour_of(await ask(register, port)) == IS_RED
        assert screen.connections == 1

    run(body, settings, Screen())


def test_after_its_first_frame_a_desktop_is_asked_for_nothing(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        screen.is_busy = True
        assert (await first_frame(register, port)).result is ProbeOutcome.FRAME
        await asyncio.sleep(0.1)
        assert screen.asked == [(0, 0, 0, *SIZE)]
        assert screen.open == 1

    run(body, settings, TwoColours())


def test_whoever_saw_the_first_frame_is_let_go_if_nobody_looks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "LET_GO_SECONDS", 0.1)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        assert (await first_frame(register, port)).result is ProbeOutcome.FRAME
        assert screen.open == 1
        await screen.until_left()

    run(body, settings, TwoColours())


def test_a_capture_that_is_ended_twice_hangs_up(settings: Settings) -> None:
    """As by a relay that stops in the moment it lets go of one."""

    async def body(register: Captures, screen: Screen, port: int) -> None:
        await ask(register, port)
        [task] = [one for one in asyncio.all_tasks() if "RfbCapture.run" in repr(one.get_coro())]
        register.end("s1")
        await asyncio.sleep(0)
        task.cancel()
        await screen.until_left()

    run(body, settings, Screen())


def test_a_first_frame_is_waited_for_longer_than_what_nobody_wants_is_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "LET_GO_SECONDS", 0.01)

    async def body(register: Captures, screen: Screen, port: int) -> None:
        waiting = asyncio.ensure_future(first_frame(register, port))
        await screen.until_asked(2)
        await asyncio.sleep(0.1)
        screen.answer = TwoColours().whole
        screen.paint(BLUE)
        assert (await waiting).result is ProbeOutcome.FRAME
        assert screen.connections == 1
        assert [is_incremental for is_incremental, *_ in screen.asked[:2]] == [0, 1]

    run(body, settings, Screen())


def test_whoever_waits_without_a_tenant_leaves_nothing_behind(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        for _ in range(2):
            assert (await first_frame(register, port, tenant_id="")).result is ProbeOutcome.FRAME
            await screen.until_left()
        assert screen.connections == 2

    run(body, settings, TwoColours())


def test_a_relay_full_of_captures_still_sees_a_first_frame(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        for number, tenant in enumerate(("t1", "t1", "t2", "t2")):
            await ask(register, port, session_id=f"s{number}", tenant_id=tenant)
        assert screen.open == 4
        for tenant in ("t1", "t3"):
            seen = await first_frame(register, port, session_id="new", tenant_id=tenant)
            assert (seen.result, seen.width) == (ProbeOutcome.FRAME, SIZE[0])
        refused = await ask(register, port, session_id="new", tenant_id="t3")
        assert "as many pictures" in refused.detail
        assert (await ask(register, port, session_id="s0")).result is PictureResult.NEW

    run(body, settings, TwoColours())


def test_a_first_frame_needs_no_room_for_its_pixels(settings: Settings) -> None:
    small = settings.model_copy(update={"max_capture_bytes": 1 << 20})

    async def body(register: Captures, screen: Screen, port: int) -> None:
        assert (await ask(register, port, session_id="s1")).result is PictureResult.NEW
        seen = await first_frame(register, port, session_id="s2")
        assert (seen.result, seen.width) == (ProbeOutcome.FRAME, 300)
        assert "as large pictures" in (await ask(register, port, session_id="s2")).detail
        assert (await first_frame(register, port, session_id="s2")).result is ProbeOutcome.FRAME

    run(body, small, TwoColours(size=(300, 300)))


def test_captures_that_saw_a_first_frame_make_room_for_walls(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        for number in range(4):
            seen = await first_frame(register, port, session_id=f"s{number}")
            assert seen.result is ProbeOutcome.FRAME
        assert screen.open <= 3
        for name in ("w1", "w2"):
            assert (await ask(register, port, session_id=name)).result is PictureResult.NEW

    run(body, settings, TwoColours())


def test_a_capture_that_is_there_looks_afresh(settings: Settings) -> None:
    """What it has seen before says nothing of a desktop that is asked after now."""

    async def body(register: Captures, screen: Screen, port: int) -> None:
        assert (await first_frame(register, port)).result is ProbeOutcome.FRAME
        await ask(register, port)
        asked = len(screen.asked)
        screen.answer = Screen(colour=BLUE).whole
        blank = await first_frame(register, port, seconds=0.3)
        assert (blank.result, blank.colours, blank.colour) == (ProbeOutcome.BLANK, 1, "#0000ff")
        assert blank.detail == "the desktop is connected but its screen has one colour"
        assert (0, 0, 0, *SIZE) in screen.asked[asked:]
        assert screen.connections == 1

    run(body, settings, TwoColours())


def test_a_refusal_is_told_once_and_not_asked_for_again(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        screen.answer = lambda: b"\x99"
        seen = await first_frame(register, port)
        assert seen.result is ProbeOutcome.REFUSED
        assert "unknown message of type 153" in seen.detail
        await asyncio.sleep(3 * rfb_capture.CONNECT_AGAIN_SECONDS)
        assert screen.connections == 1
        # Whoever asks anew is told anew, and not of what was before.
        screen.answer = screen.whole
        assert (await first_frame(register, port)).result is ProbeOutcome.FRAME
        assert screen.connections == 2

    run(body, settings, TwoColours())


def test_whoever_begins_to_wait_does_not_sit_out_a_pause(settings: Settings) -> None:
    async def body(register: Captures, screen: Screen, port: int) -> None:
        screen.hangs_up = True
        gone = await ask(register, port)
        assert gone.result is PictureResult.NONE
        tries = screen.connections
        waiting = asyncio.ensure_future(first_frame(register, port, seconds=5))
        while screen.connections < tries + 8:
            await asyncio.sleep(0.001)
        screen.hangs_up = False
        seen = await waiting
        assert seen.result is ProbeOutcome.FRAME
        # Doubling each pause would have taken ten seconds.
        assert seen.elapsed_ms < 5000

    run(body, settings, TwoColours())


# --- the parts


def test_the_most_eager_wish_counts_until_it_lapses() -> None:
    wishes = Wishes()
    assert wishes.interval(0.0) is None
    wishes.wish("picture", now=0.0, seconds=10.0, interval=1.0)
    wishes.wish("recording", now=0.0, seconds=5.0, interval=0.2)
    assert (wishes.interval(4.9), wishes.interval(5.1), wishes.interval(10.1)) == (0.2, 1.0, None)
    assert wishes.last_until == 10.0


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [((1280, 800), 320, (320, 200)), ((40, 20), 40, (40, 20)), ((900, 1), 16, (16, 1))],
)
def test_pictures_are_scaled_down_in_proportion(
    size: tuple[int, int], width: int, expected: tuple[int, int]
) -> None:
    for format in ("png", "jpeg"):
        picture = Image.open(BytesIO(encode(Image.new("RGB", size, RED), width, format)))
        assert (picture.size, picture.format) == (expected, format.upper())
