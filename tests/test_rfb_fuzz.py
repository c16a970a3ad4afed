"""Seeded noise for what reads bytes of strangers: a few thousand inputs here, a million in `make soak`."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from struct import pack

import pytest

from tests.soaking import examples
from tests.test_rfb import INIT, OFFER, TRUE_COLOUR, key, pointer, qemu_key, rectangle, sized, update
from viewer.rfb.client_filter import MOST_KEYS_DOWN, ClientFilter
from viewer.rfb.client_messages import LONGEST_MESSAGE, message_length
from viewer.rfb.conversation import ProtocolError
from viewer.rfb.server_filter import ServerFilter

INPUTS = examples(5000)
CLIENT_MESSAGES = [
    b"\0\0\0\0" + TRUE_COLOUR,
    OFFER,
    b"\x03\x01" + bytes(8),
    key(97),
    key(97, down=False),
    pointer(1),
    pointer(0x80),
    pack(">B3xi", 6, 9) + b"clipboard",
    pack(">B3xi", 6, -9) + b"clipboard",
    b"\x96" + bytes(9),
    pack(">B3xIB", 248, 0, 3) + b"abc",
    b"\xfa\0\1\2",
    pack(">BxHHBx", 251, 800, 600, 1) + bytes(16),
    qemu_key(98, 48),
]
SERVER_MESSAGES = [
    update(rectangle(0, bytes(60)), rectangle(1, bytes(4)), rectangle(16, sized(b"zipped"))),
    update(
        rectangle(7, b"\x80\1\2\3"), rectangle(7, b"\x90\x05bytes"), rectangle(7, b"\x40\x01\x01" + bytes(9))
    ),
    update(rectangle(-239, bytes(63)), rectangle(-308, b"\1\0\0\0" + bytes(16)), rectangle(-224, b"")),
    b"\x02",
    b"\x96",
    pack(">B3xi", 3, 9) + b"clipboard",
    pack(">B3xIB", 248, 0, 3) + b"abc",
]


def spoilt(dice: random.Random, messages: list[bytes]) -> bytes:
    """Some messages, now and then with a wrong byte, a wrong length, or noise between them."""
    wire = bytearray(b"".join(dice.choices(messages, k=dice.randrange(1, 5))))
    chance = dice.random()
    if chance < 0.25:
        wire[dice.randrange(len(wire))] = dice.randrange(256)
    elif chance < 0.3:
        del wire[dice.randrange(len(wire)) :]
    elif chance < 0.35:
        at = dice.randrange(len(wire))
        wire[at:at] = dice.randbytes(dice.randrange(1, 20))
    return bytes(wire)


def portions(dice: random.Random, wire: bytes) -> list[bytes]:
    if dice.random() < 0.5:
        return [wire]
    at = dice.randrange(len(wire) + 1)
    return [wire[:at], wire[at:]]


def kinds(passed: bytes) -> set[int]:
    """Of the messages that it is made of: whole ones and nothing else."""
    found, at = set(), 0
    while at < len(passed):
        length = message_length(passed[at : at + 9])
        assert length is not None
        found.add(passed[at])
        at += length
    assert at == len(passed)
    return found


def without_growth(run: Callable[[int], None]) -> None:
    """Two halves: the second may cost no more memory than the first has left."""
    tracemalloc.start()
    try:
        run(1)
        after_first, _ = tracemalloc.get_traced_memory()
        run(2)
        after_second, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after_second - after_first < 256 << 10


@pytest.mark.soak
@pytest.mark.parametrize("may_act", [True, False])
def test_no_input_of_a_browser_crashes_the_filter_or_gets_past_it(may_act: bool) -> None:
    def run(seed: int) -> None:
        dice = random.Random(seed)
        client: ClientFilter | None = None
        for _ in range(INPUTS // 4):
            client = client or ClientFilter(
                may_act=may_act, may_ever_act=may_act, clipboard_to_desktop=dice.random() < 0.5
            )
            try:
                for part in portions(dice, spoilt(dice, CLIENT_MESSAGES)):
                    passed = kinds(client.feed(part))
                    assert not passed & ({250} if may_act else {4, 5, 6, 250, 251, 255})
                    assert len(client._buffer) <= LONGEST_MESSAGE
            except ProtocolError:
                assert len(client.held.release()) <= 12 * MOST_KEYS_DOWN + 6
                client = None

    without_growth(run)


@pytest.mark.soak
def test_no_input_of_a_desktop_crashes_the_filter_of_the_way_back() -> None:
    def run(seed: int) -> None:
        dice = random.Random(seed)
        sift: ServerFilter | None = None
        for _ in range(INPUTS // 4):
            if sift is None or dice.random() < 0.02:
                sift = ServerFilter()
                sift.feed(INIT)
            try:
                for part in portions(dice, spoilt(dice, SERVER_MESSAGES)):
                    sift.feed(part)
                    while sift.behind:
                        sift.feed(b"")
                    assert len(sift._buffer) < 16
            except ProtocolError:
                sift = None

    without_growth(run)
