"""One desktop's picture, kept for whoever wants it: what captures of every kind have in common.

A capture costs what is wanted of it. `Wishes` says how often somebody wants a picture, and until when;
without a wish nothing is asked for, and after a while the connection is let go.
"""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from typing import NamedTuple, TypeVar

from PIL import Image

from viewer.model import utcnow
from viewer.relay.answers import PictureFormat, ProbeOutcome

Result = TypeVar("Result")

PICTURE_WISH_SECONDS = 10.0
"""So long a picture that was asked for counts as wanted: whoever shows it asks again each second."""
PICTURE_INTERVAL = 1.0
"""Seconds between two looks at a screen for such a wish."""
FIRST_SECONDS = 1.5
"""For a desktop to show something, when a picture of it is wanted for the first time."""
ENCODINGS_KEPT = 4
LONGEST_KEPT = 4 << 20
"""Bytes of one encoding; what is longer is made again for each who asks."""
UNREADABLE = "its picture cannot be read"
SILENT = "the desktop did not answer"
NO_FRAME = "the desktop is connected but has sent no frame"
ONE_COLOUR = "the desktop is connected but its screen has one colour"
SMALL_WIDTH = 640
"""Up to it a picture is for recognising, above it for reading."""
SMALL_QUALITIES = (65, 45, 30)
"""Of JPEG: the first whose result is small enough, or the last."""
SMALL_BYTES_PER_PIXEL = 0.19
"""12 KB for one of 320 x 200."""


class NoPicture(Exception):
    """There is none now; the text is one sentence that holds no secret."""


class Encoded(NamedTuple):
    """etag: of these very bytes, so that the same picture has the same one whoever made it."""

    changes: int
    etag: str
    data: bytes


class Glimpse(NamedTuple):
    """What whoever waits for a first frame has seen. Pixels; 0 while unknown."""

    width: int = 0
    height: int = 0
    colours: int = 0
    """Of the whole screen, as far as it is known; counting stops at two."""
    colour: str | None = None
    """`#rrggbb`: the first of them."""


class Wish(NamedTuple):
    until: float
    """On the loop's clock."""
    interval: float
    """Seconds between two pictures."""


class Wishes:
    """Who wants pictures of one desktop, and how often: by the kind of use, so that two walls are one."""

    def __init__(self) -> None:
        self._wanted_by: dict[str, Wish] = {}

    def wish(self, use: str, *, now: float, seconds: float, interval: float) -> None:
        self._wanted_by[use] = Wish(now + seconds, interval)

    @property
    def last_until(self) -> float:
        """When the last of them lapses, or did."""
        return max((wish.until for wish in self._wanted_by.values()), default=0.0)

    def interval(self, now: float) -> float | None:
        """Of the most eager; None: nobody wants any."""
        return min((wish.interval for wish in self._wanted_by.values() if wish.until > now), default=None)


class Capture(ABC):
    """Of one session. `run` keeps its picture until the task is cancelled."""

    def __init__(self, hands: Executor | None) -> None:
        """hands: threads that decode and encode; None: asyncio's own."""
        self._hands = hands
        self.wishes = Wishes()
        self.trouble = ""
        """Why there is no picture; one sentence."""
        self.changed_at: datetime | None = None
        """When the screen last changed, or was first looked at."""
        self._turn = asyncio.Lock()
        """Held by whoever reads or writes the pixels, in whatever thread."""
        self._encodings: dict[tuple[int, PictureFormat], Encoded] = {}
        self._news = asyncio.Event()
        self._awaiting_frame = 0
        """So many wait for a first frame."""

    @property
    @abstractmethod
    def screen_size(self) -> tuple[int, int]:
        """Pixels; 0 while unknown."""

    @abstractmethod
    async def run(self) -> None:
        """Raises nothing but CancelledError."""

    @abstractmethod
    async def look(self, *, at_this_moment: bool) -> None:
        """Return once there is a picture: of this moment, or one not much older than a second. Raises
        NoPicture; the caller sets the time limit."""

    @property
    @abstractmethod
    def glimpse(self) -> Glimpse:
        """For who waits for a first frame."""

    @abstractmethod
    def _look_afresh(self) -> None:
        """Somebody begins to wait for a first frame: what was seen before does not count."""

    @abstractmethod
    async def _until_frame(self) -> tuple[ProbeOutcome, str]:
        """Return once it is certain that there is one, or that there will be none."""

    @property
    @abstractmethod
    def _changes(self) -> int:
        """Goes up whenever the picture looks other than before."""

    @abstractmethod
    def _picture(self) -> Image.Image:
        """The whole screen in RGB. Called by another thread. Raises NoPicture."""

    def want(self) -> None:
        """Somebody asks for a picture, and will again soon."""
        now = asyncio.get_running_loop().time()
        self.wishes.wish("picture", now=now, seconds=PICTURE_WISH_SECONDS, interval=PICTURE_INTERVAL)
        self._tell()

    async def first_frame(self, *, seconds: float) -> tuple[ProbeOutcome, str]:
        """What became of it, and one sentence of it; at the latest after `seconds`."""
        with self._awaited(seconds):
            try:
                async with asyncio.timeout(seconds):
                    return await self._until_frame()
            except TimeoutError:
                return self._verdict_so_far()

    def _verdict_so_far(self) -> tuple[ProbeOutcome, str]:
        seen = self.glimpse
        if not seen.width:
            return ProbeOutcome.UNREACHABLE, self.trouble or SILENT
        return ProbeOutcome.BLANK, ONE_COLOUR if seen.colours else NO_FRAME

    @contextmanager
    def _awaited(self, seconds: float) -> Iterator[None]:
        """A frame that is waited for is wanted as soon as it is there, whatever else is; afterwards nothing
        more is asked for."""
        clock = asyncio.get_running_loop().time
        if not self._awaiting_frame:
            self._look_afresh()
        self._awaiting_frame += 1
        self.wishes.wish("first frame", now=clock(), seconds=seconds, interval=0.0)
        self._tell()
        try:
            yield
        finally:
            self._awaiting_frame -= 1
            if not self._awaiting_frame:
                self.wishes.wish("first frame", now=clock(), seconds=0.0, interval=0.0)

    async def encoded(self, width: int | None, format: PictureFormat) -> Encoded:
        """The picture that is there, scaled down to `width` pixels if it is wider. Raises NoPicture."""
        async with self._turn:
            await self._whole()
            key = (min(width or self.screen_size[0], self.screen_size[0]), format)
            kept = self._encodings.pop(key, None)
            if kept is None or kept.changes != self._changes:
                changes = self._changes
                data = await self._in_hands(lambda: encode(self._picture(), key[0], format))
                kept = Encoded(changes, hashlib.blake2b(data, digest_size=12).hexdigest(), data)
            self._keep(key, kept)
            return kept

    @abstractmethod
    async def _whole(self) -> None:
        """With the turn: return when the picture is no mixture of two. Raises NoPicture."""

    def _keep(self, key: tuple[int, PictureFormat], encoded: Encoded) -> None:
        if len(encoded.data) > LONGEST_KEPT:
            return
        self._encodings[key] = encoded
        while len(self._encodings) > ENCODINGS_KEPT:
            del self._encodings[next(iter(self._encodings))]

    async def _in_hands(self, work: Callable[[], Result]) -> Result:
        """Off the event loop: streams of others go on meanwhile. Not cancelled half-way."""
        future = asyncio.get_running_loop().run_in_executor(self._hands, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The thread still has the pixels; nobody else may, before it is done.
            await asyncio.wait([future])
            raise

    def _note_change(self) -> None:
        self.changed_at = utcnow()

    def _tell(self) -> None:
        """Wake all who wait in `_until`."""
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._news.wait()


def encode(picture: Image.Image, width: int, format: PictureFormat) -> bytes:
    """Scaled down to `width` pixels, in proportion."""
    if width < picture.width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if format == "png":
        # Level 1: a tenth larger than the usual level, in a third of its time.
        return _saved(picture, "PNG", compress_level=1)
    if picture.width > SMALL_WIDTH:
        # Letters keep their colours: these are read.
        return _saved(picture, "JPEG", quality=85, subsampling=0)
    return _small_jpeg(picture)


def _small_jpeg(picture: Image.Image) -> bytes:
    """A wall has a hundred of them each second, so photos make do with less."""
    most = SMALL_BYTES_PER_PIXEL * picture.width * picture.height
    data = b""
    for quality in SMALL_QUALITIES:
        data = _saved(picture, "JPEG", quality=quality)
        if len(data) <= most:
            break
    return data


def _saved(picture: Image.Image, format: str, **options: int) -> bytes:
    out = BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()
