"""The RFB core against hand-written bytes; hypothesis cuts them every which way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from struct import pack
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewer.rfb.client_filter import MOST_KEYS_DOWN, ClientFilter
from viewer.rfb.client_messages import LONGEST_MESSAGE, message_length
from viewer.rfb.conversation import (
    STEPS_AT_ONCE,
    Conversation,
    ProtocolError,
    Read,
    Refused,
    RfbError,
    Script,
    Write,
)
from viewer.rfb.encodings import EXTENDED_CLIPBOARD, EXTENDED_MOUSE_BUTTONS, can_be_followed
from viewer.rfb.framebuffer import Framebuffer
from viewer.rfb.handshake import client_handshake, server_handshake
from viewer.rfb.server_filter import ServerFilter
from viewer.rfb.vncauth import vnc_auth_response
from viewer.rfb.watching_client import FIRST_STRIP_BYTES, Watched, watch_for_colours

T = TypeVar("T")
VERSION = b"RFB 003.008\n"
CHALLENGE = bytes(range(16))
OK = pack(">I", 0)
BLACK = b"\0\0\0\0"
RED = b"\0\0\xff\0"
DIRTY_BLACK = b"\0\0\0\x7f"


def cuts(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Every way to cut `data` into consecutive chunks, empty ones included."""
    places = st.lists(st.integers(0, len(data)), max_size=8)

    def cut(at: list[int]) -> list[bytes]:
        edges = [0, *sorted(at), len(data)]
        return [data[a:b] for a, b in pairwise(edges)]

    return places.map(cut)


def play(script: Script[T], chunks: list[bytes]) -> tuple[Conversation[T], bytes]:
    conversation = Conversation(script)
    sent = conversation.opening()
    for chunk in chunks:
        sent += conversation.feed(chunk)
    return conversation, sent


def server_init(width: int, height: int, name: bytes = b"desk") -> bytes:
    return pack(">HH16xI", width, height, len(name)) + name


def update(*rectangles: bytes, count: int | None = None) -> bytes:
    return pack(">BxH", 0, len(rectangles) if count is None else count) + b"".join(rectangles)


def raw(width: int, height: int, pixels: bytes) -> bytes:
    return pack(">HHHHi", 0, 0, width, height, 0) + pixels


LOGIN = VERSION + b"\x01\x01" + OK


# --- handshakes


@pytest.mark.soak
@given(st.data())
def test_client_handshake_with_a_password_is_the_same_for_every_chunking(data: st.DataObject) -> None:
    wire = VERSION + b"\x02\x01\x02" + CHALLENGE + OK + b"rest"
    conversation, sent = play(client_handshake("secret12"), data.draw(cuts(wire)))
    assert conversation.done
    assert conversation.leftover == b"rest"
    assert sent == VERSION + b"\x02" + vnc_auth_response("secret12", CHALLENGE)


def test_client_handshake_without_a_password_takes_none() -> None:
    conversation, sent = play(client_handshake(None), [VERSION + b"\x02\x02\x01" + OK])
    assert conversation.done
    assert sent == VERSION + b"\x01"


def test_vnc_auth_is_des_under_the_first_eight_characters() -> None:
    assert vnc_auth_response("password", bytes(16)) == vnc_auth_response("password and more", bytes(16))
    assert vnc_auth_response("COW", bytes(8)) != vnc_auth_response("cow", bytes(8))
    # A zero key has no bits to reverse: the well-known DES vector of zero key and zero block.
    assert vnc_auth_response("", bytes(8)).hex() == "8ca64de9c1b123a7"


@pytest.mark.parametrize(
    ("password", "wire", "sentence"),
    [
        ("pw", VERSION + b"\x01\x02" + CHALLENGE + pack(">II", 1, 5) + b"wrong", "refused the login: wrong"),
        ("pw", VERSION + b"\x01\x01", "does not ask for this session's password"),
        (None, VERSION + b"\x01\x02", r"offers only security types \[2\]"),
        (None, VERSION + b"\x00" + pack(">I", 4) + b"busy", "refused the connection: busy"),
        (None, b"RFB 003.003\n", "speaks RFB 3.3"),
    ],
)
def test_client_handshake_says_why_it_was_refused(password: str | None, wire: bytes, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        play(client_handshake(password), [wire])


def test_a_server_that_is_not_rfb_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="does not speak RFB"):
        play(client_handshake(None), [b"HTTP/1.1 400 Bad Request\r\n"])


@pytest.mark.soak
@given(st.data(), st.booleans())
def test_server_handshake_offers_a_browser_none_for_every_chunking(data: st.DataObject, shared: bool) -> None:
    wire = VERSION + b"\x01" + bytes([shared]) + b"\x03more"
    conversation, sent = play(server_handshake(), data.draw(cuts(wire)))
    assert conversation.result is shared
    assert conversation.leftover == b"\x03more"
    assert sent == VERSION + b"\x01\x01" + OK


def test_server_handshake_serves_older_clients_their_own_exchange() -> None:
    assert play(server_handshake(), [b"RFB 003.003\n\x01"])[1] == VERSION + pack(">I", 1)
    assert play(server_handshake(), [b"RFB 003.007\n\x01\x01"])[1] == VERSION + b"\x01\x01"


@pytest.mark.parametrize("wire", [VERSION + b"\x02", b"GET / HTTP/1.1\r\n"])
def test_server_handshake_refuses_what_it_did_not_offer(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        play(server_handshake(), [wire])


@pytest.mark.soak
@given(st.lists(st.binary(max_size=40), max_size=12))
def test_garbage_ends_in_an_error_of_ours_or_in_waiting(chunks: list[bytes]) -> None:
    scripts: list[Callable[[], Script[object]]] = [
        lambda: client_handshake("pw"),
        lambda: client_handshake(None),
        server_handshake,
        lambda: watch_for_colours(None, Watched(Framebuffer(None))),
        lambda: watch_for_colours(None, Watched()),
    ]
    for make in scripts:
        with suppress(RfbError):
            play(make(), chunks)


def test_a_result_that_is_not_there_yet_is_an_error() -> None:
    def echo_one() -> Script[bytes]:
        yield Write(b"?")
        return (yield Read(1))

    conversation = Conversation(echo_one())
    assert conversation.opening() == b"?"
    with pytest.raises(LookupError):
        _ = conversation.result
    conversation.feed(b"!")
    assert conversation.result == b"!"


# --- probe


def onlooker(*, keeps: bool = False) -> Watched:
    return Watched(Framebuffer() if keeps else Framebuffer(None))


def size(server: Watched) -> tuple[int, int]:
    return server.framebuffer.width, server.framebuffer.height


@pytest.mark.soak
@given(st.data(), st.booleans())
def test_probe_sees_two_colours_for_every_chunking(data: st.DataObject, keeps: bool) -> None:
    wire = LOGIN + server_init(2, 2) + update(raw(2, 2, BLACK * 3 + RED))
    server = onlooker(keeps=keeps)
    _conversation, sent = play(watch_for_colours(None, server), data.draw(cuts(wire)))
    assert (*size(server), server.colours.seen) == (2, 2, 2)
    assert pack(">BBHHHH", 3, 0, 0, 0, 2, 2) in sent


def test_probe_on_a_blank_screen_waits_for_a_change_and_then_looks_at_the_whole_again() -> None:
    server = onlooker()
    blank = update(raw(2, 2, BLACK * 4))
    conversation, sent = play(watch_for_colours(None, server), [LOGIN + server_init(2, 2) + blank])
    assert (server.colours.seen, server.colours.first) == (1, "#000000")
    assert sent[-10:] == pack(">BBHHHH", 3, 1, 0, 0, 2, 2)
    assert conversation.feed(update(raw(1, 1, RED))) == pack(">BBHHHH", 3, 0, 0, 0, 2, 2)
    assert not server.colours.are_enough
    conversation.feed(update(raw(2, 2, RED + BLACK * 3)))
    assert server.colours.are_enough


def test_probe_knows_of_a_screen_before_its_picture_is_whole() -> None:
    server = onlooker(keeps=True)
    conversation, _ = play(watch_for_colours(None, server), [LOGIN + server_init(1024, 128)])
    strip = FIRST_STRIP_BYTES // len(BLACK)
    assert strip % 1024 == 0
    conversation.feed(update(raw(1024, 128, BLACK * (strip - 1))))
    assert not server.colours.are_enough
    conversation.feed(RED)
    assert server.in_update
    assert server.colours.are_enough


def test_probe_goes_by_the_last_whole_update_while_the_next_one_comes() -> None:
    server = onlooker()
    blank = update(raw(2, 2, BLACK * 4))
    conversation, _ = play(watch_for_colours(None, server), [LOGIN + server_init(2, 2) + blank])
    conversation.feed(blank[:-3])
    assert server.in_update
    assert server.colours.seen == 1


def test_probe_does_not_count_the_unused_byte_of_a_pixel() -> None:
    server = onlooker()
    frame = update(raw(2, 1, BLACK + DIRTY_BLACK))
    play(watch_for_colours(None, server), [LOGIN + server_init(2, 1) + frame])
    assert server.colours.seen == 1


def test_probe_counts_over_all_rectangles_of_one_update() -> None:
    server = onlooker()
    frame = update(raw(2, 1, BLACK * 2), raw(2, 1, RED * 2))
    play(watch_for_colours(None, server), [LOGIN + server_init(2, 2) + frame])
    assert server.colours.are_enough


def test_probe_follows_a_resize_and_passes_over_bell_clipboard_and_colour_map() -> None:
    server = onlooker()
    noise = b"\x02" + pack(">B3xI", 3, 3) + b"abc" + pack(">BxHH", 1, 0, 1) + b"\0" * 6
    resize = update(pack(">HHHHi", 0, 0, 4, 3, -223))
    conversation, sent = play(watch_for_colours(None, server), [LOGIN + server_init(2, 2) + noise + resize])
    assert size(server) == (4, 3)
    assert sent.endswith(pack(">BBHHHH", 3, 0, 0, 0, 4, 3))
    last_rect = pack(">HHHHi", 0, 0, 0, 0, -224)
    conversation.feed(update(raw(2, 1, BLACK + RED), last_rect, count=0xFFFF))
    assert server.colours.are_enough


@pytest.mark.parametrize(
    "wire",
    [
        server_init(0, 10),
        server_init(65535, 65535),
        pack(">HH16xI", 2, 2, 1 << 30),
        server_init(2, 2) + b"\x07",
        server_init(2, 2) + update(pack(">HHHHi", 0, 0, 2, 2, 7)),
        server_init(2, 2) + update(pack(">HHHHi", 0, 0, 2, 2, 1)),
    ],
)
def test_probe_refuses_impossible_screens_and_messages(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        play(watch_for_colours(None, onlooker()), [LOGIN + wire])


def test_a_screen_that_is_too_large_for_pictures_is_seen_without_any() -> None:
    server = onlooker()
    play(
        watch_for_colours(None, server), [LOGIN + server_init(16384, 16384) + update(raw(2, 1, BLACK + RED))]
    )
    assert (size(server), server.colours.are_enough) == ((16384, 16384), True)
    assert server.framebuffer.image.size == (0, 0)


# --- client messages

ACTING = b"\x04\x05\x06\xfb\xff"
XVP = b"\xfa\x00\x01\x02"


def set_encodings(*encodings: int) -> bytes:
    return pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings)


def pointer(mask: int, x: int = 16, y: int = 16) -> bytes:
    return pack(">BBHH", 5, mask, x, y)


def key(symbol: int, *, down: bool = True) -> bytes:
    return pack(">BBxxI", 4, down, symbol)


def qemu_key(symbol: int, code: int, *, down: bool = True) -> bytes:
    return pack(">BBHII", 255, 0, down, symbol, code)


MESSAGES = st.one_of(
    st.binary(min_size=19, max_size=19).map(lambda body: b"\0" + body),
    st.lists(st.integers(0, 2**31 - 1), max_size=20).map(lambda encodings: set_encodings(*encodings)),
    st.binary(min_size=9, max_size=9).map(lambda body: b"\x03" + body),
    st.binary(min_size=7, max_size=7).map(lambda body: b"\x04" + body),
    st.binary(min_size=5, max_size=5).map(lambda body: b"\x05" + body),
    st.binary(max_size=30).map(lambda text: pack(">B3xi", 6, len(text)) + text),
    st.binary(min_size=4, max_size=30).map(lambda text: pack(">B3xi", 6, -len(text)) + text),
    st.binary(min_size=9, max_size=9).map(lambda body: b"\x96" + body),
    st.binary(max_size=64).map(lambda body: pack(">B3xIB", 248, 0, len(body)) + body),
    st.just(XVP),
    st.integers(0, 4).map(lambda screens: pack(">BxHHBx", 251, 800, 600, screens) + bytes(16 * screens)),
    st.binary(min_size=10, max_size=10).map(lambda body: b"\xff\x00" + body),
)
OFFER = set_encodings(7, EXTENDED_CLIPBOARD)


@pytest.mark.soak
@given(st.data(), st.lists(MESSAGES, max_size=6))
def test_a_controllers_messages_pass_in_order_for_every_chunking_but_xvp(
    data: st.DataObject, messages: list[bytes]
) -> None:
    controller = ClientFilter(may_act=True, may_ever_act=True)
    assert controller.feed(OFFER) == OFFER
    passed = b"".join(controller.feed(chunk) for chunk in data.draw(cuts(b"".join(messages))))
    wanted = [message for message in messages if message != XVP]
    if any(message[0] == 2 for message in messages):
        # Without this offer, no extended clipboard.
        at = next(i for i, message in enumerate(wanted) if message[0] == 2)
        wanted = wanted[:at] + [m for m in wanted[at:] if not (m[0] == 6 and m[4] >= 0x80)]
    assert passed == b"".join(wanted)


@pytest.mark.soak
@given(st.data(), st.lists(MESSAGES, max_size=6))
def test_a_watchers_messages_pass_only_as_far_as_they_ask_for_pictures(
    data: st.DataObject, messages: list[bytes]
) -> None:
    watcher = ClientFilter(may_act=False, may_ever_act=False)
    passed = b"".join(watcher.feed(chunk) for chunk in data.draw(cuts(b"".join(messages))))
    assert passed == b"".join(message for message in messages if message[0] not in ACTING + XVP[:1])
    assert watcher.held.release() == b""


@pytest.mark.parametrize(
    "start", [b"\x07", b"\xff\x01", pack(">B3xi", 6, LONGEST_MESSAGE), pack(">B3xi", 6, -(2**31)), b"\xfc"]
)
@pytest.mark.parametrize("may_act", [True, False])
def test_a_message_of_unknown_or_excessive_length_ends_the_stream(start: bytes, may_act: bool) -> None:
    with pytest.raises(ProtocolError):
        message_length(start)
    with pytest.raises(ProtocolError):
        ClientFilter(may_act=may_act, may_ever_act=may_act).feed(b"\x03" + bytes(9) + start)


def test_nothing_is_kept_of_a_long_message_that_will_not_pass() -> None:
    """A megabyte of clipboard, of as many watchers as there are."""
    watcher = ClientFilter(may_act=False, may_ever_act=False)
    text = bytes(LONGEST_MESSAGE - 8)
    assert watcher.feed(pack(">B3xi", 6, len(text)) + text[:500_000]) == b""
    assert len(watcher._buffer) == 0
    assert watcher.feed(text[500_000:] + b"\x03" + bytes(9)) == b"\x03" + bytes(9)


def test_the_length_of_a_pointer_message_does_not_depend_on_what_client_and_server_agreed_on() -> None:
    """With extended buttons it would have a seventh byte as soon as the server says so, unseen by the relay:
    a byte more or less, and what the desktop reads is no longer what was looked at here."""
    controller = ClientFilter(may_act=True, may_ever_act=True)
    assert controller.feed(set_encodings(7, EXTENDED_MOUSE_BUTTONS, -309, -239)) == set_encodings(7, -239)
    back = pointer(0x80)
    assert controller.feed(back + XVP + key(97)) == back + key(97)


@pytest.mark.parametrize(("role", "to_desktop"), [(True, False), (False, True)])
def test_whoever_may_not_paste_is_not_offered_the_clipboard_that_has_to_be_asked(
    role: bool, to_desktop: bool
) -> None:
    client = ClientFilter(may_act=role, may_ever_act=role, clipboard_to_desktop=to_desktop)
    assert client.feed(OFFER) == set_encodings(7)
    for length in (4, -4):
        assert client.feed(pack(">B3xi", 6, length) + b"text") == b""
    assert client.feed(key(97)) == (key(97) if role else b"")


def test_extended_clipboard_passes_only_after_it_was_offered() -> None:
    client, extended = ClientFilter(may_act=True, may_ever_act=True), pack(">B3xi", 6, -4) + b"text"
    assert client.feed(extended) == b""
    assert client.feed(OFFER + extended) == OFFER + extended
    assert client.feed(set_encodings(7) + extended) == set_encodings(7)


def test_what_was_pressed_is_let_go_and_only_that() -> None:
    client = ClientFilter(may_act=True, may_ever_act=True)
    client.feed(key(97) + key(98) + key(97, down=False) + key(0xFFE1) + pointer(1, 5, 6))
    client.feed(qemu_key(99, 46) + qemu_key(67, 46, down=False) + qemu_key(100, 32) + pointer(5, 30, 40))
    ups = qemu_key(100, 32, down=False) + key(0xFFE1, down=False) + key(98, down=False) + pointer(0, 30, 40)
    assert client.held.release() == ups
    assert client.held.release() == b""


def test_a_filter_switches_between_two_messages_and_never_inside_one() -> None:
    client = ClientFilter(may_act=True, may_ever_act=True)
    assert client.feed(key(97)[:5]) == b""
    client.may_act = False
    assert client.feed(key(97)[5:] + key(98)[:3]) == b""
    assert client.held.release() == b""
    client.may_act = True
    # The rest of `b`, whose beginning was thrown away, is no message of its own.
    assert client.feed(key(98)[3:] + key(99)) == key(99)


def test_a_client_with_more_keys_down_than_fingers_ends_its_stream() -> None:
    client = ClientFilter(may_act=True, may_ever_act=True)
    client.feed(b"".join(key(symbol) for symbol in range(MOST_KEYS_DOWN)))
    client.feed(key(0))
    with pytest.raises(ProtocolError, match="keys down"):
        client.feed(key(MOST_KEYS_DOWN))


# --- the way back, without a clipboard

CUT_TEXT = st.one_of(
    st.binary(max_size=40).map(lambda text: pack(">B3xi", 3, len(text)) + text),
    st.binary(min_size=4, max_size=40).map(lambda text: pack(">B3xi", 3, -len(text)) + text),
)


def sized(data: bytes) -> bytes:
    return pack(">I", len(data)) + data


def compact(length: int) -> bytes:
    """As Tight writes a length."""
    if length < 0x80:
        return bytes([length])
    if length < 0x4000:
        return bytes([length & 0x7F | 0x80, length >> 7])
    return bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])


def rectangle(encoding: int, body: bytes, width: int = 5, height: int = 3) -> bytes:
    return pack(">HHHHi", 0, 0, width, height, encoding) + body


ZIPPED = st.one_of(st.binary(max_size=300), st.integers(16384, 40000).map(lambda size: b"\3" * size))
"""As Tight has it, behind its length."""
RECTANGLES = st.one_of(
    st.binary(min_size=60, max_size=60).map(lambda pixels: rectangle(0, pixels)),
    st.just(rectangle(0, b"", 0, 9)),
    st.just(rectangle(1, b"\3\3\3\3")),
    st.binary(max_size=50).map(lambda data: rectangle(16, sized(data))),
    st.binary(max_size=50).map(lambda data: rectangle(6, sized(data))),
    st.just(rectangle(7, b"\x80\3\3\3")),
    ZIPPED.map(lambda data: rectangle(7, b"\x90" + compact(len(data)) + data)),
    ZIPPED.map(lambda data: rectangle(7, b"\x0f" + compact(len(data)) + data)),
    ZIPPED.map(lambda data: rectangle(7, b"\x60\x02" + compact(len(data)) + data)),
    st.just(rectangle(7, b"\x00\3\3\3\3\3\3", 2, 1)),
    # Two colours, a bit for each pixel; 200 colours, a byte for each.
    st.just(rectangle(7, b"\x40\x01\x01" + b"\3" * 6 + b"\3\3\3")),
    ZIPPED.map(lambda data: rectangle(7, b"\x40\x01\xc7" + b"\3" * 600 + compact(len(data)) + data)),
    st.just(rectangle(-239, b"\3" * (60 + 3))),
    st.just(rectangle(-223, b"")),
    st.just(rectangle(-308, b"\2\0\0\0" + b"\3" * 32)),
    st.just(rectangle(-307, sized(b"\3name"))),
    st.just(rectangle(-261, b"\3")),
    st.just(rectangle(-258, b"")),
)
LAST = rectangle(-224, b"", 0, 0)
SERVER_MESSAGES = st.one_of(
    st.lists(RECTANGLES, max_size=4).map(lambda all_of: update(*all_of)),
    st.lists(RECTANGLES, max_size=4).map(lambda all_of: update(*all_of, LAST, count=0xFFFF)),
    st.just(pack(">BxHH", 1, 0, 2) + b"\3" * 12),
    st.just(b"\x02"),
    st.just(b"\x96"),
    st.binary(max_size=64).map(lambda body: pack(">B3xIB", 248, 0, len(body)) + body),
    CUT_TEXT,
)
TRUE_COLOUR = pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
INIT = pack(">HH16sI", 5, 3, TRUE_COLOUR, 4) + b"desk"


@pytest.mark.soak
@given(st.data(), st.lists(SERVER_MESSAGES, max_size=8))
def test_all_but_the_clipboard_comes_back_for_every_chunking(
    data: st.DataObject, messages: list[bytes]
) -> None:
    sift = ServerFilter()
    passed = b"".join(sift.feed(chunk) for chunk in data.draw(cuts(INIT + b"".join(messages))))
    assert passed == INIT + b"".join(message for message in messages if message[0] != 3)
    assert not sift.behind


@pytest.mark.soak
@given(st.lists(st.binary(max_size=60), max_size=12))
def test_a_desktop_that_sends_garbage_ends_in_an_error_of_ours_or_in_waiting(chunks: list[bytes]) -> None:
    sift = ServerFilter()
    with suppress(ProtocolError):
        sift.feed(INIT)
        for chunk in chunks:
            sift.feed(chunk)


@pytest.mark.parametrize(
    "wire",
    [
        b"\xfa\0\1\0",
        update(rectangle(5, b"")),
        update(rectangle(7, b"\xa0")),
        update(rectangle(7, b"\x40\x03")),
    ],
)
def test_what_was_not_offered_to_the_desktop_ends_the_stream(wire: bytes) -> None:
    sift = ServerFilter()
    sift.feed(INIT)
    with pytest.raises(ProtocolError):
        sift.feed(wire)


def test_pixels_are_counted_in_the_form_that_the_client_chose_even_before_the_desktop_spoke() -> None:
    sift = ServerFilter()
    sift.use_pixel_format(pack(">BBBBHHHBBB3x", 16, 16, 0, 1, 31, 63, 31, 11, 5, 0))
    wire = INIT + update(rectangle(0, bytes(30)), rectangle(7, b"\x80\3\3")) + b"\x02"
    assert sift.feed(wire + pack(">B3xi", 3, 2) + b"no" + b"\x02") == wire + b"\x02"


def test_a_flood_of_short_server_messages_pauses_and_goes_on_from_there() -> None:
    sift, bells = ServerFilter(), b"\x02" * 5000
    got, turns = sift.feed(INIT + bells), 1
    while sift.behind:
        got += sift.feed(b"")
        turns += 1
    assert (got, turns > 5) == (INIT + bells, True)


def test_the_desktop_is_offered_only_what_can_be_followed() -> None:
    client = ClientFilter(may_act=True, may_ever_act=True, clipboard_from_desktop=False)
    offer = [1, 7, -260, 16, 21, 5, 2, 6, 0, 50, -26, -254, -500, -223, -224, -258, -261, -308, -309, -312]
    offer += [-313, -307, EXTENDED_CLIPBOARD, EXTENDED_MOUSE_BUTTONS, 0x574D5664, -239, -314]
    wanted = [number for number in offer if can_be_followed(number)]
    assert client.feed(set_encodings(*offer)) == set_encodings(*wanted)
    assert not {-260, 21, 5, 2, 50, -309, EXTENDED_CLIPBOARD, EXTENDED_MOUSE_BUTTONS} & set(wanted)


def test_the_pixel_format_is_chosen_before_the_first_picture_or_not_at_all() -> None:
    choice = b"\0\0\0\0" + TRUE_COLOUR
    client = ClientFilter(may_act=True, may_ever_act=True, clipboard_from_desktop=False)
    assert client.feed(choice + b"\x03" + bytes(9)) == choice + b"\x03" + bytes(9)
    assert client.pixel_format == TRUE_COLOUR
    with pytest.raises(ProtocolError, match="pixel format"):
        client.feed(choice)


# --- whoever sends the bytes chooses how many steps they make


def test_a_conversation_pauses_after_a_thousand_steps_and_goes_on_from_there() -> None:
    taken: list[bytes] = []

    def take() -> Script[None]:
        while len(taken) < 4500:
            taken.append((yield Read(1)))

    conversation = Conversation(take())
    conversation.feed(bytes(4500))
    assert (len(taken), conversation.behind) == (STEPS_AT_ONCE, True)
    for _ in range(4):
        conversation.feed(b"")
    assert (len(taken), conversation.done, conversation.behind) == (4500, True, False)
    assert STEPS_AT_ONCE <= 2000


def test_rows_of_no_pixels_are_no_steps() -> None:
    """In 12 bytes a desktop names thousands of them."""
    conversation = Conversation(watch_for_colours(None, onlooker()))
    conversation.feed(b"RFB 003.008\n\x01\x01" + bytes(4))
    conversation.feed(pack(">HH16xI", 8, 16384, 0))
    conversation.feed(pack(">BxH", 0, 0xFFFF) + pack(">HHHHi", 0, 0, 0, 16384, 0) * 500)
    assert not conversation.behind
