"""Parts of the relay that need no desktop: what a JPEG tells, where frames end, how a pipe passes bytes."""

from __future__ import annotations

import asyncio
import io
import random
import socket
import time

import pytest
from PIL import Image

from viewer.relay.downstream import BufferPool
from viewer.relay.framing import binary_header, close_frame, pong
from viewer.relay.jpeg import Look, NotAJpeg, look_at
from viewer.relay.splicing import FrameEdges, Pipe

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


def test_a_huge_blank_screen_is_looked_at_in_milliseconds() -> None:
    picture = jpeg(Image.new("RGB", (3840, 2160), (30, 60, 90)))
    started = time.process_time()
    assert look_at(picture).colours == 1
    assert time.process_time() - started < 0.25


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
        pipe = Pipe(source, sink, BufferPool(), on_source_gone=lambda _: None, on_sink_gone=lambda _: None)
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
