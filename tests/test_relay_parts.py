"""Parts of the relay that need no desktop: what a JPEG tells, where frames end, how a pipe passes bytes."""

from __future__ import annotations

import asyncio
import io
import random
import socket
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from PIL import Image

from tests.relay_process import held_by
from viewer.grants import Grant, PublishedPort
from viewer.model import utcnow
from viewer.relay.downstream import BUFFER_BYTES, BufferPool
from viewer.relay.framing import binary_header, close_frame, pong
from viewer.relay.jpeg import Look, NotAJpeg, look_at
from viewer.relay.leases import LeaseNews
from viewer.relay.rfb_stream import RfbStream
from viewer.relay.settings import Settings
from viewer.relay.splicing import FRAMES_AT_ONCE, FrameEdges, Pipe
from viewer.relay.upstream import Upstream

COLOURS = [(0, 0, 0), (255, 255, 255), (1, 200, 77), (128, 128, 128)]
SIZES = [(1, 1), (8, 8), (17, 33), (640, 480), (1283, 801)]


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [15, 75, 100])
def test_a_picture_of_one_colour_is_known_whatever_the_encoder_chose(subsampling: int, quality: int) -> None:
    for size in SIZES:
        for colour in COLOURS:
            for optimize in (False, True):
                image = Image.new("RGB", size, colour)
                options = {"quality": quality, "subsampling": subsampling, "optimize": optimize}
                assert look_at(jpeg(image, **options)) == Look(*size, 1)
        assert look_at(jpeg(Image.new("L", size, 77), quality=quality)) == Look(*size, 1)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_picture_with_anything_on_it_has_two_colours(subsampling: int) -> None:
    dice = random.Random(7)
    for size in SIZES[2:]:
        for _ in range(10):
            image = Image.new("RGB", size, dice.choice(COLOURS[:2]))
            x, y = dice.randrange(size[0] - 8), dice.randrange(size[1] - 8)
            image.paste((255, 0, 90), (x, y, x + 8, y + 8))
            assert look_at(jpeg(image, quality=75, subsampling=subsampling)) == Look(*size, 2)


def test_kinds_of_jpeg_that_do_not_tell_are_not_guessed_at() -> None:
    image = Image.new("RGB", (64, 48))
    assert look_at(jpeg(image, progressive=True)) == Look(64, 48, 0)
    assert look_at(jpeg(image, restart_marker_blocks=2)) == Look(64, 48, 0)


def test_what_is_no_jpeg_or_a_broken_one_is_an_error_and_nothing_else() -> None:
    whole = jpeg(Image.new("RGB", (64, 48), (9, 9, 9)))
    dice = random.Random(11)
    for bad in (b"", b"GIF89a", b"\xff\xd8", whole[:-2], whole[:200], b"0123456789abcdef"):
        with pytest.raises(NotAJpeg):
            look_at(bad)
    for _ in range(2000):
        broken = bytearray(whole)
        broken[dice.randrange(len(broken))] = dice.randrange(256)
        try:
            look_at(bytes(broken[: dice.randrange(len(broken))]))
            look_at(bytes(broken))
        except NotAJpeg:
            continue


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def bomb(
    width: int, height: int, *, sampling: int = 0x11, before: bytes = b"", scan: bytes = b"\x01\x01\0"
) -> bytes:
    """A whole JPEG of a few bytes, or of what is put before its frame, that says it is so large."""
    code_of_one_bit = bytes([1]) + bytes(15) + b"\0"
    return b"".join(
        [
            b"\xff\xd8",
            before,
            segment(0xC0, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, sampling, 0])),
            segment(0xC4, b"\0" + code_of_one_bit) + segment(0xC4, b"\x10" + code_of_one_bit),
            segment(0xDA, scan + b"\0\x3f\0"),
            b"\0\xff\xd9",
        ]
    )


def test_a_screenshot_of_a_hundred_bytes_costs_nothing_whatever_it_says_of_itself() -> None:
    """What serves them belongs to the desktop's user, and the relay carries other people's streams."""
    tracemalloc.start()
    started = time.process_time()
    for width, height in ((65535, 65535), (4097, 1), (1, 65535)):
        with pytest.raises(NotAJpeg, match="larger than 4096"):
            look_at(bomb(width, height))
    assert look_at(bomb(4096, 4096)) == Look(4096, 4096, 2)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(bomb(64, 64, sampling=0, scan=b"\x02\x01\0\x01\0"), id="sampled zero times"),
        pytest.param(bomb(64, 64, sampling=0xFF, scan=b"\x02\x01\0\x01\0"), id="too many blocks"),
        pytest.param(bomb(64, 64, scan=b"\xff" + b"\x01\0" * 255), id="too many components"),
        pytest.param(bomb(64, 64, before=segment(0xFE, b"") * 4_000_000), id="4,000,000 comments"),
        pytest.param(
            bomb(64, 64, before=segment(0xC4, (b"\0" + b"\xff" * 16 + bytes(4080)) * 15) * 200),
            id="3,000 tables",
        ),
        pytest.param(bomb(64, 64)[:-2] + b"\xff\0" * 8_000_000, id="no end"),
    ],
)
def test_a_picture_beyond_what_the_standard_allows_is_none_and_soon_known(bad: bytes) -> None:
    started = time.process_time()
    with pytest.raises(NotAJpeg):
        look_at(bad)
    assert time.process_time() - started < 0.05


def test_a_long_scan_is_not_taken_apart() -> None:
    """16 MB, all of it escaped: more bytes than any picture of one colour has."""
    long = bomb(4096, 4096)[:-2] + b"\xff\0" * 8_000_000 + b"\xff\xd9"
    started = time.process_time()
    assert look_at(long) == Look(4096, 4096, 2)
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize("bits", range(1, 40))
def test_every_length_of_a_uniform_scan_is_met_to_the_bit(bits: int) -> None:
    """Rows of 8x8 blocks, so that every remainder of bits and of whole cycles comes by."""
    for mode in ("L", "RGB"):
        whole = jpeg(Image.new(mode, (8 * bits, 8), 200 if mode == "L" else (200, 10, 99)), optimize=True)
        assert look_at(whole).colours == 1
        more = whole[:-2] + b"\0" + whole[-2:]
        assert look_at(more).colours == 2


def test_a_huge_blank_screen_is_looked_at_in_milliseconds() -> None:
    picture = jpeg(Image.new("RGB", (3840, 2160), (30, 60, 90)))
    started = time.process_time()
    assert look_at(picture).colours == 1
    assert time.process_time() - started < 0.05


def frames(dice: random.Random) -> list[bytes]:
    """Frames as servers send them, and as clients do, of every form of length."""
    made = []
    for _ in range(dice.randint(1, 12)):
        size = dice.choice([0, 1, 125, 126, 127, 65535, 65536, dice.randrange(3000)])
        header = bytearray(binary_header(size))
        if dice.random() < 0.3:
            header[1] |= 0x80
            header += dice.randbytes(4)
        made.append(bytes(header) + dice.randbytes(size))
    return [*made, pong(b"x")]


def test_the_edges_of_frames_are_found_in_any_portions() -> None:
    """Seeded: cut anywhere, what is missing leads to the next edge and never beyond it."""
    dice = random.Random(20261123)
    for _ in range(150):
        sent = frames(dice)
        ends, total = set(), 0
        for frame in sent:
            total += len(frame)
            ends.add(total)
        stream, edges, at = b"".join(sent), FrameEdges(), 0
        while at < total:
            step = min(dice.choice([1, 2, 3, 7, 1000, 70_000]), total - at)
            edges.feed(memoryview(stream)[at : at + step])
            at += step
            assert (edges.missing == 0) == (at in ends)
            assert at + edges.missing <= min((end for end in ends if end >= at), default=total)
        assert not edges.closed
        edges.feed(memoryview(close_frame(4403, "revoked")))
        assert edges.closed
        assert edges.missing == 0


def test_a_pipe_finishes_the_frame_under_way_and_takes_no_byte_of_the_next() -> None:
    whole = binary_header(1000) + bytes(1000)

    async def body() -> None:
        (source, desktop), (sink, browser) = socket.socketpair(), socket.socketpair()
        for one in (source, desktop, sink, browser):
            one.setblocking(False)
        pipe = Pipe(
            source,
            sink,
            BufferPool(),
            edges=FrameEdges(),
            on_source_gone=lambda _: None,
            on_sink_gone=lambda _: None,
        )
        desktop.send(whole[:10])
        pipe.start(b"")
        await asyncio.sleep(0.02)
        pipe.stop()
        desktop.send(whole[10:] + b"the next frame")
        async with asyncio.timeout(2):
            assert await pipe.finish_frame()
        assert browser.recv(4096) == whole
        assert source.recv(100) == b"the next frame"
        pipe.close()
        for one in (source, desktop, sink, browser):
            one.close()

    asyncio.run(body())


@pytest.mark.parametrize("size", [0, 1, 4])
def test_a_flood_of_tiny_frames_leaves_others_their_turns(size: int) -> None:
    """One reading may hold 131,072 of them; looking at them all at once would hold up every other stream."""
    count = BUFFER_BYTES // (2 + size)
    flood = (binary_header(size) + bytes(size)) * count

    async def body() -> int:
        (source, desktop), (sink, browser) = socket.socketpair(), socket.socketpair()
        for one in (source, desktop, sink, browser):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BUFFER_BYTES)
        pool = BufferPool()
        pipe = Pipe(
            source, sink, pool, edges=FrameEdges(), on_source_gone=lambda _: None, on_sink_gone=lambda _: None
        )
        pipe.start(flood)
        received, turns = bytearray(), 0
        while len(received) < len(flood):
            await asyncio.sleep(0)
            turns += 1
            with suppress(BlockingIOError):
                received += browser.recv(BUFFER_BYTES)
        assert received == flood
        pipe.stop()
        assert await pipe.finish_frame()
        pipe.close()
        for one in (source, desktop, sink, browser):
            one.close()
        return turns

    assert asyncio.run(body()) >= count // FRAMES_AT_ONCE
    assert FRAMES_AT_ONCE <= 2000


def test_a_pipe_that_nobody_asks_for_edges_does_not_look_for_them() -> None:
    """Towards the desktop: a browser's frames are not even frames to it."""

    async def body() -> None:
        (source, browser), (sink, desktop) = socket.socketpair(), socket.socketpair()
        for one in (source, browser, sink, desktop):
            one.setblocking(False)
        pipe = Pipe(source, sink, BufferPool(), on_source_gone=lambda _: None, on_sink_gone=lambda _: None)
        pipe.start(b"\x82\x7f no frame at all")
        await asyncio.sleep(0)
        assert desktop.recv(100) == b"\x82\x7f no frame at all"
        pipe.stop()
        async with asyncio.timeout(2):
            assert await pipe.finish_frame()
        pipe.close()
        for one in (source, browser, sink, desktop):
            one.close()

    asyncio.run(body())


def rfb_stream(**grant: Any) -> RfbStream:
    settings = Settings.model_validate(
        {"listen": "127.0.0.1:1", "key_file": "k", "publish_address": "127.0.0.1", "desktops_dir": "d"}
    )
    about = Grant.model_validate({"purpose": "stream", "expires_at": utcnow(), **grant})
    return RfbStream(about, PublishedPort(port=1), settings, BufferPool())


@contextmanager
def upstream() -> Iterator[tuple[Upstream, socket.socket]]:
    ours, desktop = socket.socketpair()
    for one in (ours, desktop):
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    way = Upstream(ours, on_desktop_gone=lambda _: None)
    with ours, desktop:
        yield way, desktop
        way.close()


def test_a_browsers_messages_are_sifted_in_portions() -> None:
    """A message of a WebSocket may hold 262,144 of RFB's shortest."""
    request, act = b"\x03\0" + bytes(8), b"\xfa\0\x01\x02"
    sent = act * 20_000 + request

    async def body(*, may_control: bool) -> tuple[int, bytes]:
        with upstream() as (way, desktop):
            sifting = asyncio.ensure_future(rfb_stream(may_control=may_control).admit(sent, way))
            turns = 0
            while not sifting.done():
                await asyncio.sleep(0)
                turns += 1
            return turns, desktop.recv(4096)

    for may_control in (True, False):
        turns, passed = asyncio.run(body(may_control=may_control))
        assert passed == request
        assert turns >= len(sent) // 4096


def test_what_a_slow_desktop_has_not_taken_stays_whole_when_the_lease_is_lost() -> None:
    """What lets go of the keys stands behind it, and nothing of his follows."""
    text = struct.pack(">B3xi", 6, 100_000) + bytes(range(250)) * 400
    press, let_go = b"\x04\x01\0\0\0\0\0a", b"\x04\0\0\0\0\0\0a"

    async def body() -> bytes:
        stream = rfb_stream(session_id="s1", principal="alice", may_control=True, lease=held_by("alice", 1))
        with upstream() as (way, desktop):
            stream._upstream = way
            admitting = asyncio.ensure_future(stream.admit(press + text, way))
            while way.bytes_sent < len(press + text):
                await asyncio.sleep(0)
            assert not admitting.done()
            stream.hear(LeaseNews(held_by("bob", 2), taken_from="alice"))
            received = b""
            while not admitting.done():
                await asyncio.sleep(0)
                with suppress(BlockingIOError):
                    received += desktop.recv(1000)
            await stream.admit(press, way)
            with suppress(BlockingIOError):
                while more := desktop.recv(65536):
                    received += more
            return received

    assert asyncio.run(body()) == press + text + let_go
