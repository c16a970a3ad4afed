"""The client that keeps a framebuffer, against rectangles made by hand, and against noise."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from tests.soaking import examples
from viewer.rfb import encodings
from viewer.rfb.client_parts import set_encodings
from viewer.rfb.conversation import Conversation, ProtocolError, RfbError
from viewer.rfb.framebuffer import MOST_PIXELS, Framebuffer
from viewer.rfb.watching_client import PACKED, PLAIN, STRIP_BYTES, Watched, watch

LOGIN = b"RFB 003.008\n\x01\x01" + pack(">I", 0)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
COLOURS = [RED, GREEN, BLUE, WHITE, (1, 2, 3), (200, 100, 50)]


def server_init(width: int, height: int) -> bytes:
    return pack(">HH16xI", width, height, 4) + b"desk"


def update(*rectangles: bytes, count: int | None = None) -> bytes:
    return pack(">BxH", 0, len(rectangles) if count is None else count) + b"".join(rectangles)


def rectangle(encoding: int, data: bytes, *, at: tuple[int, int] = (0, 0), size: tuple[int, int]) -> bytes:
    return pack(">HHHHi", *at, *size, encoding) + data


def raw(picture: Image.Image, *, at: tuple[int, int] = (0, 0)) -> bytes:
    pixels = b"".join(bytes((b, g, r, 0x5A)) for r, g, b in _pixels(picture))
    return rectangle(encodings.RAW, pixels, at=at, size=picture.size)


def _pixels(picture: Image.Image) -> list[tuple[int, int, int]]:
    data = picture.tobytes()
    return [(data[at], data[at + 1], data[at + 2]) for at in range(0, len(data), 3)]


def looking(width: int, height: int) -> tuple[Watched, Conversation[None]]:
    """Logged in, and the whole screen was asked for."""
    server = Watched()
    conversation = Conversation(watch(None, server, PACKED))
    conversation.feed(LOGIN + server_init(width, height))
    assert server.is_ready
    server.ask_for_changes()
    return server, conversation


def feed_all(conversation: Conversation[None], wire: bytes) -> None:
    conversation.feed(wire)
    while conversation.behind:
        conversation.feed(b"")


def shown_after(wire: bytes, width: int, height: int) -> Image.Image:
    server, conversation = looking(width, height)
    feed_all(conversation, wire)
    assert server.updates == 1, "the update is not over where it should be"
    return server.framebuffer.image


def is_same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def painted(width: int, height: int, *, colours: int = 6, seed: int = 1) -> Image.Image:
    dice = random.Random(seed)
    picture = Image.new("RGB", (width, height))
    picture.putdata([dice.choice(COLOURS[:colours]) for _ in range(width * height)])
    return picture


# --- Tight and ZRLE, written the other way round: as a server would


def compact(length: int) -> bytes:
    out = bytearray()
    while length >= 0x80 and len(out) < 2:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(out) + bytes([length])


class Packer:
    """One zlib stream of a server's."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj()

    def pack(self, data: bytes) -> bytes:
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def tight(self, data: bytes) -> bytes:
        if len(data) < 12:
            return data
        packed = self.pack(data)
        return compact(len(packed)) + packed


def tight_copy(picture: Image.Image, packer: Packer) -> bytes:
    return rectangle(encodings.TIGHT, b"\x00" + packer.tight(picture.tobytes()), size=picture.size)


def tight_palette(picture: Image.Image, packer: Packer) -> bytes:
    width, _height = picture.size
    pixels = _pixels(picture)
    colours = sorted(set(pixels))
    numbers = [colours.index(pixel) for pixel in pixels]
    if len(colours) <= 2:
        rows = [numbers[at : at + width] for at in range(0, len(numbers), width)]
        data = b"".join(
            int("".join(map(str, row)).ljust(-(-width // 8) * 8, "0"), 2).to_bytes(-(-width // 8), "big")
            for row in rows
        )
    else:
        data = bytes(numbers)
    head = b"\x50\x01" + bytes([len(colours) - 1]) + b"".join(map(bytes, colours))
    return rectangle(encodings.TIGHT, head + packer.tight(data), size=picture.size)


def tight_gradient(picture: Image.Image, packer: Packer) -> bytes:
    width, height = picture.size
    known = picture.tobytes()

    def at(x: int, y: int, channel: int) -> int:
        return known[3 * (y * width + x) + channel] if x >= 0 and y >= 0 else 0

    differences = bytearray()
    for y in range(height):
        for x in range(width):
            for c in range(3):
                expected = min(max(at(x - 1, y, c) + at(x, y - 1, c) - at(x - 1, y - 1, c), 0), 255)
                differences.append((at(x, y, c) - expected) & 0xFF)
    return rectangle(encodings.TIGHT, b"\x60\x02" + packer.tight(bytes(differences)), size=picture.size)


def zrle(tiles: bytes, size: tuple[int, int], packer: Packer) -> bytes:
    packed = packer.pack(tiles)
    return rectangle(encodings.ZRLE, pack(">I", len(packed)) + packed, size=size)


def bgr(colour: tuple[int, int, int]) -> bytes:
    return bytes(reversed(colour))


# --- what each encoding shows


def test_raw_pixels_are_shown_and_the_fourth_byte_says_nothing() -> None:
    picture = painted(7, 5)
    assert is_same(shown_after(update(raw(picture)), 7, 5), picture)


def test_who_paints_before_it_is_asked_is_seen_once_and_not_for_ever() -> None:
    server = Watched()
    conversation = Conversation(watch(None, server, PACKED))
    conversation.feed(LOGIN + server_init(2, 2))
    painted = update(rectangle(encodings.RAW, bytes(16), size=(2, 2)))
    conversation.feed(painted)
    assert server.updates == 1
    with pytest.raises(ProtocolError, match="far more than it was asked for"):
        feed_all(conversation, painted * 10_000)


def test_a_raw_picture_is_taken_in_strips() -> None:
    picture = Image.new("RGB", (300, 400), RED)
    picture.paste(BLUE, (0, 390, 300, 400))
    server, conversation = looking(300, 400)
    wire = update(raw(picture))
    conversation.feed(wire[: STRIP_BYTES + 100])
    assert server.in_update
    assert server.framebuffer.image.getpixel((0, 0)) == RED
    conversation.feed(wire[STRIP_BYTES + 100 :])
    assert not server.in_update
    assert is_same(server.framebuffer.image, picture)


def test_copy_rect_moves_what_overlaps() -> None:
    picture = painted(20, 4)
    copy = rectangle(encodings.COPY_RECT, pack(">HH", 0, 0), at=(3, 0), size=(17, 4))
    expected = picture.copy()
    expected.paste(picture.crop((0, 0, 17, 4)), (3, 0))
    assert is_same(shown_after(update(raw(picture), copy), 20, 4), expected)


def test_tight_fills() -> None:
    fill = rectangle(encodings.TIGHT, b"\x80" + bytes(GREEN), at=(1, 1), size=(3, 2))
    expected = Image.new("RGB", (5, 4))
    expected.paste(GREEN, (1, 1, 4, 3))
    assert is_same(shown_after(update(fill), 5, 4), expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (9, 7), (64, 33)])
def test_tight_packs_pixels_palettes_two_colours_and_gradients(size: tuple[int, int]) -> None:
    for encode, colours in (
        (tight_copy, 6),
        (tight_palette, 6),
        (tight_palette, 2),
        (tight_gradient, 6),
    ):
        picture = painted(*size, colours=colours)
        assert is_same(shown_after(update(encode(picture, Packer())), *size), picture), encode


def test_tight_streams_run_on_until_they_are_reset() -> None:
    packer, picture, other = Packer(), painted(16, 16), painted(16, 16, seed=2)
    server, conversation = looking(16, 16)
    conversation.feed(update(tight_copy(other, packer)) + update(tight_copy(picture, packer)))
    assert is_same(server.framebuffer.image, picture)
    again = bytearray(tight_copy(other, Packer()))
    with pytest.raises(ProtocolError, match=r"cannot be unpacked|instead of"):
        conversation.feed(update(bytes(again)))
    server, conversation = looking(16, 16)
    conversation.feed(update(tight_copy(picture, Packer())))
    again[12] |= 1
    conversation.feed(update(bytes(again)))
    assert is_same(server.framebuffer.image, other)


def test_tight_jpeg_is_close() -> None:
    picture = Image.linear_gradient("L").resize((64, 32)).convert("RGB")
    out = BytesIO()
    picture.save(out, "JPEG", quality=95)
    jpeg = rectangle(encodings.TIGHT, b"\x90" + compact(len(out.getvalue())) + out.getvalue(), size=(64, 32))
    shown = shown_after(update(jpeg), 64, 32)
    assert max(high for _, high in ImageChops.difference(shown, picture).getextrema()) < 8  # type: ignore[misc]


def test_zrle_has_seven_kinds_of_tiles() -> None:
    expected = Image.new("RGB", (64 * 6, 64))
    raw_tile, packed = painted(64, 64), painted(64, 64, colours=2, seed=3)
    tiles = bytearray()
    tiles += b"\x00" + b"".join(bgr(pixel) for pixel in _pixels(raw_tile))
    expected.paste(raw_tile, (0, 0))
    tiles += b"\x01" + bgr(RED)
    expected.paste(RED, (64, 0, 128, 64))
    bits = "".join(str(int(pixel == GREEN)) for pixel in _pixels(packed))
    tiles += b"\x02" + bgr(RED) + bgr(GREEN) + int(bits, 2).to_bytes(512, "big")
    expected.paste(packed, (128, 0))
    tiles += b"\x05" + b"".join(map(bgr, COLOURS[:5])) + b"\x43" * 2048
    four = Image.new("RGB", (64, 64))
    four.putdata([COLOURS[4], COLOURS[3]] * 2048)
    expected.paste(four, (192, 0))
    tiles += b"\x80" + bgr(BLUE) + b"\xff" * 8 + bytes([2048 - 8 * 255 - 1])
    tiles += bgr(WHITE) + b"\xff" * 8 + bytes([2048 - 8 * 255 - 1])
    expected.paste(BLUE, (256, 0, 320, 32))
    expected.paste(WHITE, (256, 32, 320, 64))
    tiles += b"\x82" + bgr(RED) + bgr(BLUE) + b"\x01" + b"\x80" + b"\xff" * 16 + bytes([4095 - 16 * 255 - 1])
    expected.paste(RED, (320, 0, 384, 64))
    expected.putpixel((320, 0), BLUE)
    assert is_same(shown_after(update(zrle(bytes(tiles), (384, 64), Packer())), 384, 64), expected)


def test_zrle_tiles_at_the_edges_are_smaller() -> None:
    tiles = b"".join(b"\x01" + bgr(colour) for colour in (RED, GREEN, BLUE, WHITE))
    expected = Image.new("RGB", (65, 66), RED)
    expected.paste(GREEN, (64, 0, 65, 64))
    expected.paste(BLUE, (0, 64, 64, 66))
    expected.paste(WHITE, (64, 64, 65, 66))
    assert is_same(shown_after(update(zrle(tiles, (65, 66), Packer())), 65, 66), expected)


def test_an_update_may_end_by_a_last_rectangle() -> None:
    last = rectangle(encodings.LAST_RECT, b"", size=(0, 0))
    picture = painted(4, 4)
    assert is_same(shown_after(update(raw(picture), last, count=0xFFFF), 4, 4), picture)


def test_the_pointer_a_server_sends_apart_is_not_drawn() -> None:
    cursor = rectangle(encodings.CURSOR, bytes(4 * 9 + 2), at=(1, 1), size=(9, 1))
    picture = painted(4, 4)
    assert is_same(shown_after(update(cursor, raw(picture)), 4, 4), picture)


# --- asking, and what an answer means


def test_a_new_size_is_news_and_the_whole_is_asked_for_again() -> None:
    server, conversation = looking(8, 8)
    conversation.feed(update(raw(Image.new("RGB", (8, 8), RED))))
    assert server.shows_all
    assert server.ask_for_changes()[1] == 1
    conversation.feed(update(rectangle(encodings.DESKTOP_SIZE, b"", size=(4, 12))))
    assert (server.framebuffer.width, server.framebuffer.height) == (4, 12)
    assert (server.answers, server.updates, server.shows_all) == (2, 1, False)
    assert server.ask_for_changes() == pack(">BBHHHH", 3, 0, 0, 0, 4, 12)
    conversation.feed(update(raw(Image.new("RGB", (4, 12), BLUE))))
    assert server.shows_all


def test_a_picture_that_is_kept_from_now_on_is_shown_when_all_of_it_has_come() -> None:
    server = Watched(Framebuffer(None))
    conversation = Conversation(watch(None, server, PLAIN))
    conversation.feed(LOGIN + server_init(8, 8))
    server.ask_for_changes()
    conversation.feed(update(raw(painted(8, 8))))
    server.ask_for_changes()
    assert server.keep_pixels(Framebuffer(), PACKED) == set_encodings(PACKED)
    assert server.ask_for_changes() == pack(">BBHHHH", 3, 0, 0, 0, 8, 8)
    # What the question before is answered with.
    conversation.feed(update(raw(painted(2, 2))))
    assert not server.shows_all
    conversation.feed(update(raw(painted(8, 8, seed=2))))
    assert server.shows_all
    assert is_same(server.framebuffer.image, painted(8, 8, seed=2))


def test_extended_sizes_are_understood() -> None:
    server, conversation = looking(8, 8)
    conversation.feed(
        update(rectangle(encodings.EXTENDED_DESKTOP_SIZE, b"\x02\0\0\0" + bytes(32), size=(16, 9)))
    )
    assert (server.framebuffer.width, server.framebuffer.height) == (16, 9)


def test_what_was_there_before_is_no_change() -> None:
    server, conversation = looking(8, 8)
    conversation.feed(update(raw(painted(8, 8))))
    before = server.framebuffer.changes
    server.ask_for_changes()
    conversation.feed(update(raw(painted(8, 8))))
    assert (server.updates, server.framebuffer.changes) == (2, before)


def test_bells_clipboards_and_colour_maps_are_passed_over() -> None:
    server, conversation = looking(2, 1)
    noise = b"\x02" + pack(">B3xI", 3, 5) + b"hello" + pack(">BxHH", 1, 0, 2) + bytes(12)
    conversation.feed(noise + update(raw(painted(2, 1))))
    assert server.updates == 1


@pytest.mark.soak
@given(st.lists(st.integers(1, 400), max_size=12))
def test_no_cut_makes_a_difference(lengths: list[int]) -> None:
    packer = Packer()
    picture = painted(16, 9)
    wire = update(
        raw(painted(16, 9, seed=5)),
        tight_palette(picture, packer),
        rectangle(encodings.TIGHT, b"\x80" + bytes(RED), at=(2, 2), size=(3, 3)),
        zrle(b"\x01" + bgr(BLUE), (4, 4), Packer()),
        rectangle(encodings.COPY_RECT, pack(">HH", 0, 0), at=(8, 4), size=(5, 5)),
    )
    expected = shown_after(wire, 16, 9)
    server, conversation = looking(16, 9)
    for length in [*lengths, len(wire)]:
        conversation.feed(wire[:length])
        wire = wire[length:]
    assert is_same(server.framebuffer.image, expected)


# --- nothing is believed


@pytest.mark.parametrize(
    ("wire", "sentence"),
    [
        (update(rectangle(0, b"", at=(5, 0), size=(4, 1))), "off its own screen"),
        (update(rectangle(1, pack(">HH", 5, 0), size=(4, 1))), "off its own screen"),
        (update(rectangle(encodings.TIGHT, b"\xa0", size=(4, 1))), "unknown kind 10"),
        (update(rectangle(encodings.TIGHT, b"\x40\x03", size=(4, 1))), "unknown filter 3"),
        (update(rectangle(encodings.TIGHT, b"\x90\x03abc", size=(4, 1))), "JPEG that cannot be opened"),
        (update(rectangle(encodings.TIGHT, b"\x00\x03abc", size=(8, 8))), "cannot be unpacked"),
        (update(rectangle(encodings.TIGHT, b"\x80", size=(0, 4))), "no pixels"),
        (update(rectangle(encodings.ZRLE, pack(">I", 1 << 31), size=(4, 1))), "more packed bytes"),
        (update(rectangle(5, b"", size=(4, 1))), "encoding 5, which was not offered"),
        (update(rectangle(encodings.DESKTOP_SIZE, b"", size=(0, 9))), "claims a screen of 0x9"),
        (update(rectangle(encodings.DESKTOP_SIZE, b"", size=(16384, 16384))), "too large"),
        (pack(">B3xI", 3, 1 << 30), "a text of"),
        (b"\x07", "unknown message of type 7"),
    ],
)
def test_what_rfb_does_not_allow_is_an_error_of_ours(wire: bytes, sentence: str) -> None:
    _server, conversation = looking(8, 8)
    with pytest.raises(ProtocolError, match=sentence):
        conversation.feed(wire)


@pytest.mark.parametrize(
    "tiles",
    [
        b"\x00" + bytes(5),
        b"\x11" + bytes(60),
        b"\x81" + bytes(60),
        b"\x80" + bgr(RED) + b"\xff" * 40 + b"\x00",
        b"\x80" + bgr(RED) + b"\x50",
        b"\x82" + bgr(RED) + bgr(BLUE) + b"\x05",
        b"\x01" + bgr(RED) + b"more",
    ],
)
def test_a_wrong_zrle_tile_is_an_error_of_ours(tiles: bytes) -> None:
    _server, conversation = looking(8, 8)
    with pytest.raises(ProtocolError):
        conversation.feed(update(zrle(tiles, (8, 8), Packer())))


@pytest.mark.parametrize(
    ("claimed", "sentence"), [(900, "another size"), (0xFFFF, "JPEG that cannot be opened")]
)
def test_a_jpeg_of_another_size_is_refused(claimed: int, sentence: str) -> None:
    out = BytesIO()
    Image.new("RGB", (900, 900)).save(out, "JPEG")
    data = out.getvalue().replace(pack(">HH", 900, 900), pack(">HH", claimed, claimed), 1)
    jpeg = b"\x90" + compact(len(data)) + data
    _server, conversation = looking(8, 8)
    with pytest.raises(ProtocolError, match=sentence):
        conversation.feed(update(rectangle(encodings.TIGHT, jpeg, size=(8, 8))))


def test_a_few_packed_bytes_do_not_become_many() -> None:
    bomb = zlib.compress(bytes(100 << 20), 9)
    for rect in (
        rectangle(encodings.TIGHT, b"\x00" + compact(len(bomb)) + bomb, size=(64, 64)),
        rectangle(encodings.ZRLE, pack(">I", len(bomb)) + bomb, size=(300, 300)),
    ):
        _server, conversation = looking(300, 300)
        tracemalloc.start()
        with pytest.raises(ProtocolError, match="more packed bytes"):
            conversation.feed(update(rect))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


def test_more_than_was_asked_for_is_refused() -> None:
    server, conversation = looking(64, 64)
    whole = update(raw(painted(64, 64)))
    with pytest.raises(ProtocolError, match="far more than it was asked for"):
        conversation.feed(whole * 100)
    assert server.updates < 80


def test_sizes_without_end_are_refused() -> None:
    _server, conversation = looking(64, 64)
    sizes = [rectangle(encodings.DESKTOP_SIZE, b"", size=(64 + at % 2, 3000)) for at in range(100)]
    with pytest.raises(ProtocolError, match="again and again"):
        conversation.feed(update(*sizes))


def test_a_screen_that_is_too_large_is_none() -> None:
    with pytest.raises(ProtocolError, match="too large for pictures"):
        Framebuffer().resize(MOST_PIXELS // 4096 + 1, 4096)


MESSAGES = [
    update(raw(painted(8, 8)), rectangle(encodings.COPY_RECT, bytes(4), at=(2, 2), size=(3, 3))),
    update(tight_palette(painted(8, 8), Packer())),
    update(tight_palette(painted(8, 8, colours=2), Packer())),
    update(tight_copy(painted(8, 8), Packer())),
    update(tight_gradient(painted(8, 8), Packer())),
    update(zrle(b"\x05" + bytes(15) + bytes(32), (8, 8), Packer())),
    update(zrle(b"\x80" + (bgr(RED) + b"\x1f") * 2, (8, 8), Packer())),
    update(zrle(b"\x82" + bgr(RED) + bgr(BLUE) + b"\x81\x3f", (8, 8), Packer())),
    update(rectangle(encodings.DESKTOP_SIZE, b"", size=(12, 6))),
    update(rectangle(encodings.CURSOR, bytes(63), size=(4, 3))),
    b"\x02",
]


@pytest.mark.soak
def test_noise_is_an_error_of_ours_or_waited_for() -> None:
    dice = random.Random(7)
    tracemalloc.start()
    for _ in range(examples(800)):
        server, conversation = looking(8, 8)
        wire = bytearray(b"".join(dice.choices(MESSAGES, k=dice.randrange(1, 4))))
        for _ in range(dice.randrange(3)):
            wire[dice.randrange(len(wire))] = dice.randrange(256)
        # Anything else than an error of ours fails.
        with suppress(RfbError):
            while wire:
                length = dice.randrange(1, 200)
                conversation.feed(bytes(wire[:length]))
                del wire[:length]
                server.ask_for_now()
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
