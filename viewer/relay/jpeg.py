"""What a JPEG tells without being decoded: its size, and whether it shows more than one colour.

A picture of one colour is, block after block, "as bright as the one before, and nothing else". Baseline JPEG
writes that with two Huffman codes per block, always the same, so its whole scan is known from the tables and
the first block of each component (ITU-T T.81, F.1.2), and comparing is enough. It costs about a millisecond
and no library; a decoder would be the relay's heaviest dependency, for one bit.

The bytes come from a web server that the desktop's user may replace, and the relay looks at them between the
streams of all others. So every number in them has a bound, and nothing is built that is longer than they are.
"""

from __future__ import annotations

from struct import Struct, error
from typing import NamedTuple

_BASELINE = (0xC0, 0xC1)
_OTHER_FRAMES = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_TABLES, _SCAN, _RESTART = 0xC4, 0xDA, 0xDD
_FRAME = Struct(">xHHB")
LARGEST_SIDE = 4096
"""Pixels, as the relay asks for it."""
_MOST_SEGMENTS = 64
_LONGEST_TABLES = 8 * (17 + 256)
"""Bytes of all Huffman tables: there are places for eight."""
_MOST_COMPONENTS, _LARGEST_SAMPLING, _MOST_BLOCKS = 4, 4, 10
_END, _END_WITHIN = b"\xff\xd9", 1024
"""The end of the picture, and so many bytes before the end of them all."""
_FIRST_BITS = 512
"""Enough for the first block of each of three components."""
_END_OF_BLOCK = 0
_NO_STEP = 0


class NotAJpeg(Exception):
    """The bytes are no JPEG, or cut off."""


class Look(NamedTuple):
    """Pixels, and colours: 1, 2 for two or more, 0 when this kind of JPEG does not tell."""

    width: int
    height: int
    colours: int


class _Component(NamedTuple):
    blocks: int
    """In each unit of the scan."""
    step_codes: dict[str, int]
    detail_codes: dict[str, int]


def look_at(jpeg: bytes) -> Look:
    """Raises NotAJpeg."""
    try:
        return _look_at(jpeg)
    except (IndexError, KeyError, ValueError, error) as problem:
        raise NotAJpeg("the bytes are not a whole JPEG") from problem


def _look_at(jpeg: bytes) -> Look:
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError(jpeg[:2])
    frame, tables, tables_left, plain, at = b"", dict[int, dict[str, int]](), _LONGEST_TABLES, True, 2
    for _ in range(_MOST_SEGMENTS):
        marker, size = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at] != 0xFF or size < 2:
            raise ValueError(at)
        body = jpeg[at + 4 : at + 2 + size]
        at += 2 + size
        if marker in _BASELINE or marker in _OTHER_FRAMES:
            frame, plain = body, marker in _BASELINE
        elif marker == _TABLES:
            tables_left -= len(body)
            if tables_left < 0:
                raise ValueError("tables")
            tables |= _huffman_tables(body)
        elif marker == _RESTART:
            plain = plain and body == b"\0\0"
        elif marker == _SCAN:
            break
    else:
        raise ValueError("segments")
    height, width, _components = _FRAME.unpack_from(frame)
    if max(width, height) > LARGEST_SIDE:
        raise NotAJpeg(f"the screenshot is larger than {LARGEST_SIDE} pixels a side")
    if not plain or not width or not height:
        return Look(width, height, 0)
    return Look(width, height, 1 if _is_uniform(frame, body, tables, jpeg, at) else 2)


def _huffman_tables(body: bytes) -> dict[int, dict[str, int]]:
    """Class and number of each table -> its codes, written in 0 and 1 -> symbol."""
    tables, at = {}, 0
    while at < len(body):
        lengths = body[at + 1 : at + 17]
        symbols = iter(body[at + 17 : at + 17 + sum(lengths)])
        codes, code = {}, 0
        for length, count in enumerate(lengths, start=1):
            for _, symbol in zip(range(count), symbols, strict=False):
                codes[f"{code:0{length}b}"] = symbol
                code += 1
            code <<= 1
        tables[body[at]] = codes
        at += 17 + sum(lengths)
    if at > len(body):
        raise ValueError(at)
    return tables


def _is_uniform(
    frame: bytes, scan: bytes, tables: dict[int, dict[str, int]], jpeg: bytes, start: int
) -> bool:
    """Whether the scan that begins at `start` is that of a picture of one colour."""
    height, width, count = _FRAME.unpack_from(frame)
    sampling = {frame[6 + 3 * i]: (frame[7 + 3 * i] >> 4, frame[7 + 3 * i] & 0xF) for i in range(count)}
    wanted = [(scan[1 + 2 * i], scan[2 + 2 * i]) for i in range(scan[0])]
    if len(wanted) == 1:
        # A scan of one component goes block by block, however its component is sampled.
        sampling = {wanted[0][0]: (1, 1)}
    components = [
        _Component(sampling[name][0] * sampling[name][1], tables[use >> 4], tables[0x10 | use & 0xF])
        for name, use in wanted
    ]
    _check_bounds(list(sampling.values()), components)
    across = 8 * max(h for h, _ in sampling.values())
    down = 8 * max(v for _, v in sampling.values())
    units = -(-width // across) * -(-height // down)
    end = jpeg.rindex(_END, max(start, len(jpeg) - _END_WITHIN))
    beginning = jpeg[start : min(end, start + _FIRST_BITS // 4)].replace(b"\xff\0", b"\xff")
    cycle = _uniform_cycle(components, units, beginning[: _FIRST_BITS // 8])
    return cycle is not None and _is_repeated(*cycle, units, jpeg, start, end)


def _check_bounds(sampling: list[tuple[int, int]], components: list[_Component]) -> None:
    """Those of the standard; raises ValueError."""
    sides = [side for sides in sampling for side in sides]
    if not 1 <= len(components) <= _MOST_COMPONENTS or not 1 <= min(sides) <= max(sides) <= _LARGEST_SAMPLING:
        raise ValueError(sampling)
    if sum(blocks for blocks, _, _ in components) > _MOST_BLOCKS:
        raise ValueError(components)


def _uniform_cycle(components: list[_Component], units: int, beginning: bytes) -> tuple[str, str] | None:
    """The bits of the first unit and of each further one, if all have the colour of the first block; None:
    no such picture begins so."""
    start = f"{int.from_bytes(beginning, 'big'):0{8 * len(beginning)}b}"
    first, further, at = "", "", 0
    for blocks, step_codes, detail_codes in components:
        end_of_block = _code_of(_END_OF_BLOCK, detail_codes)
        no_step = _code_of(_NO_STEP, step_codes)
        step = _first_step(start[at:], step_codes)
        if end_of_block is None or step is None:
            return None
        if no_step is None:
            if blocks * units > 1:
                return None
            no_step = ""
        unit = step + end_of_block + (no_step + end_of_block) * (blocks - 1)
        first, further, at = first + unit, further + (no_step + end_of_block) * blocks, at + len(unit)
    return first, further


def _is_repeated(first: str, further: str, units: int, jpeg: bytes, start: int, end: int) -> bool:
    """Whether `jpeg` holds from `start` to `end` just these bits, `further` for all units but the first.

    After the first byte's edge eight further units are a whole number of bytes, the same again and again."""
    edge, eight = -(-len(first) // 8) * 8, 8 * len(further)
    times, rest = divmod(max(0, len(first) + len(further) * (units - 1) - edge), eight)
    sample = first + further * min(units - 1, 8 + 8 + 1)
    if units - 1 <= 8:
        expected = _stuffed(sample)
        return end - start == len(expected) and jpeg.startswith(expected, start)
    head, again, tail = (
        _stuffed(part) for part in (sample[:edge], sample[edge : edge + eight], sample[edge : edge + rest])
    )
    if end - start != len(head) + times * len(again) + len(tail):
        return False
    return jpeg.startswith(head + again * times + tail, start)


def _stuffed(bits: str) -> bytes:
    """The bytes of these bits, filled up with ones; a byte of ones is followed by a zero."""
    bits += "1" * (-len(bits) % 8)
    return (int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b"").replace(b"\xff", b"\xff\0")


def _first_step(bits: str, codes: dict[str, int]) -> str | None:
    """The code and the value of a component's first brightness."""
    for length in range(1, 17):
        size = codes.get(bits[:length])
        if size is not None:
            return bits[: length + size]
    return None


def _code_of(symbol: int, codes: dict[str, int]) -> str | None:
    return next((code for code, meaning in codes.items() if meaning == symbol), None)
