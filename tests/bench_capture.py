"""Bench group "capture": what it costs the relay to keep pictures of desktops, and how soon one is there.

Real Xtigervncs of 1280x800, a real relay, and one asker that wants a thumbnail of each desktop every second,
as a wall does. CPU is all that the relay used: receiving, comparing, scaling, encoding, and answering.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from uuid import uuid4

from PIL import Image, ImageDraw

from tests.bench_row import BenchRow
from tests.bench_stream import SMALL
from tests.painted_desktop import PaintedDesktop
from tests.process_figures import cpu_seconds
from tests.relay_process import RelayProcess, free_port, running_relay, wait_for_listener
from tests.stream_client import StreamClient
from tests.wanted_pictures import one, wanted
from viewer.relay.answers import Picture, PictureFormat
from viewer.relay_client import RelayClient

DESKTOPS = 4
SECONDS = 12
ASKED = 40
THUMBNAIL = 320
PAGE_SECONDS = 2
WALL = 12
STREAM_SECONDS = 8
LINES_PER_SECOND = 4

Paint = Callable[[int, PaintedDesktop], None]
"""Called LINES_PER_SECOND times a second with a count."""


@contextmanager
def desktops_behind_a_relay(count: int) -> Iterator[tuple[RelayProcess, list[PaintedDesktop]]]:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        relay = stack.enter_context(running_relay(scratch, publish_address="127.0.0.1"))
        yield relay, [stack.enter_context(PaintedDesktop()) for _ in range(count)]


class Asker:
    """Who shows these desktops: it knows what it has."""

    def __init__(self, relay: RelayProcess, desktops: Sequence[PaintedDesktop]) -> None:
        self._relay = relay
        self._ports = [desktop.port for desktop in desktops]
        self._etags: dict[int, str | None] = {}
        self.client: RelayClient = relay.client()

    def ask(self, *, width: int | None = THUMBNAIL, format: PictureFormat = "jpeg") -> tuple[Picture, ...]:
        wishes = [
            wanted(self._relay, port, session_id=f"s{port}", etag=self._etags.get(port))
            for port in self._ports
        ]
        pictures = self.client.pictures(wishes, width=width, format=format)
        self._etags = {port: picture.etag for port, picture in zip(self._ports, pictures, strict=True)}
        return pictures


def idle(_count: int, _desktop: PaintedDesktop) -> None:
    """Nothing happens."""


def terminal(count: int, desktop: PaintedDesktop) -> None:
    """A line more in a window of 900x500, which scrolls."""
    window = Image.new("RGB", (900, 500), "#0d1117")
    draw = ImageDraw.Draw(window)
    for row in range(24):
        text = f"{count + row:06d}  compiled viewer/relay/part_{(count + row) * 7919 % 1000}.py in 0.{row} s"
        draw.text((10, 8 + row * 20), text, fill="#8be9a8", font_size=15)
    desktop.paint(window)


_PAGES = [
    Image.merge(
        "RGB",
        [Image.effect_noise((320, 200), 60).resize((1280, 800), Image.Resampling.BICUBIC) for _ in "RGB"],
    )
    for _ in range(3)
]


def photos(count: int, desktop: PaintedDesktop) -> None:
    """Another page of photos every PAGE_SECONDS."""
    if count % (PAGE_SECONDS * LINES_PER_SECOND) == 0:
        desktop.paint(_PAGES[count // (PAGE_SECONDS * LINES_PER_SECOND) % len(_PAGES)])


def cpu_share(relay: RelayProcess, desktops: Sequence[PaintedDesktop], paint: Paint) -> float:
    """Percent of a core for each desktop, while all of them are asked for once a second."""
    asker = Asker(relay, desktops)
    for desktop in desktops:
        desktop.repaint()
    asker.ask()
    began, used = time.monotonic(), cpu_seconds(relay.process.pid)
    for count in range(SECONDS * LINES_PER_SECOND):
        for desktop in desktops:
            paint(count, desktop)
        if count % LINES_PER_SECOND == 0:
            asker.ask()
        time.sleep(max(0.0, began + (count + 1) / LINES_PER_SECOND - time.monotonic()))
    spent = cpu_seconds(relay.process.pid) - used
    asker.client.close()
    return 100 * spent / (time.monotonic() - began) / len(desktops)


def ask_as_the_first(relay: RelayProcess, desktop: PaintedDesktop) -> None:
    """Of another session each time, so with a connection of its own."""
    picture = one(relay, desktop.port, session_id=uuid4().hex, tenant_id=uuid4().hex, width=THUMBNAIL)
    if picture.data is None:
        raise LookupError(picture.detail)


def milliseconds(ask: Callable[[], object], *, before: Callable[[int], None]) -> float:
    times = []
    for count in range(ASKED):
        before(count)
        began = time.perf_counter()
        ask()
        times.append(time.perf_counter() - began)
    return 1000 * median(times)


def rows() -> list[BenchRow]:
    found = []
    with desktops_behind_a_relay(DESKTOPS) as (relay, desktops):
        for name, paint, most in (("idle", idle, 1), ("terminal", terminal, 1), ("photo pages", photos, 5)):
            share = cpu_share(relay, desktops, paint)
            found.append(_row(f"capture: CPU per desktop, {name}, 1 picture/s", share, "% of a core", most))
        desktop = desktops[0]
        desktop.repaint()
        asker = Asker(relay, [desktop])
        for name, width, format, paint in (
            ("screenshot as PNG, terminal", None, "png", terminal),
            ("screenshot as JPEG, terminal", None, "jpeg", terminal),
            (
                "screenshot as JPEG, photo",
                None,
                "jpeg",
                lambda count, screen: screen.paint(_PAGES[count % 3]),
            ),
        ):
            took = milliseconds(
                lambda width=width, format=format: asker.ask(width=width, format=format),  # type: ignore[misc]
                before=lambda count, paint=paint: paint(count, desktop),  # type: ignore[misc]
            )
            found.append(_row(f"capture: {name}, p50", took, "ms", 100))
        asker.ask(format="png", width=None)
        took = milliseconds(lambda: asker.ask(format="png", width=None), before=lambda _count: None)
        found.append(_row("capture: unchanged screenshot, p50", took, "ms", 10))
        took = milliseconds(lambda: ask_as_the_first(relay, desktop), before=lambda _count: None)
        found.append(
            _row("capture: first thumbnail of a desktop that nobody looked at, p50", took, "ms", 500)
        )
        for name, change in (
            ("a desktop", desktop.repaint),
            ("a terminal", lambda: terminal(1, desktop)),
            ("a photo page", lambda: desktop.paint(_PAGES[0])),
        ):
            change()
            fresh = Asker(relay, [desktop])
            fresh.ask(width=None)
            size = len(fresh.ask()[0].data or b"") / 1024
            found.append(_row(f"capture: thumbnail of {name}, {THUMBNAIL} px", size, "KB", 12))
            fresh.client.close()
        asker.client.close()
    return [*found, *_stream_rows()]


def _stream_rows() -> list[BenchRow]:
    alone, beside = stream_beside(0), stream_beside(WALL)
    return [
        BenchRow(
            name=f"capture: a stream's round trip beside {WALL} captures of photos, {name}",
            value=round(there, 2),
            unit="ms",
            against=f"the same stream alone: {here:.2f} ms",
            ratio=round(there / here, 2),
            goal=f"≤ {most} ms",
            met=there <= most,
        )
        for name, here, there, most in (("p50", alone[0], beside[0], 5), ("p99", alone[1], beside[1], 50))
    ]


def stream_beside(captures: int) -> tuple[float, float]:
    """Milliseconds of a stream's round trip, the median and the 99th percentile of the relay, while so many
    pages of photos are captured and asked for every second."""
    with desktops_behind_a_relay(captures) as (relay, desktops), ExitStack() as stack:
        pump_port = free_port()
        pump = subprocess.Popen([sys.executable, "-m", "tests.rfb_pump", "127.0.0.1", str(pump_port)])
        stack.callback(pump.wait)
        stack.callback(pump.terminate)
        wait_for_listener("127.0.0.1", pump_port)
        port = int(relay.address.rpartition(":")[2])
        client = StreamClient(port, "/stream/s1", relay.grant(target=pump_port), offer_compression=False)
        stack.callback(client.close)
        asker = Asker(relay, desktops)
        stop = threading.Event()
        wall = threading.Thread(target=_watch_a_wall, args=[asker, desktops, stop])
        wall.start()
        try:
            times = sorted(_round_trips(client))
        finally:
            stop.set()
            wall.join()
            asker.client.close()
    return times[len(times) // 2], times[len(times) * 99 // 100]


def _watch_a_wall(asker: Asker, desktops: Sequence[PaintedDesktop], stop: threading.Event) -> None:
    for count in itertools.count():
        for number, desktop in enumerate(desktops):
            if (count + number) % PAGE_SECONDS == 0:
                desktop.paint(_PAGES[count % len(_PAGES)])
        if desktops:
            asker.ask()
        if stop.wait(1):
            return


def _round_trips(client: StreamClient) -> Iterator[float]:
    until = time.monotonic() + STREAM_SECONDS
    while time.monotonic() < until:
        began = time.perf_counter()
        client.request(*SMALL)
        client.skip_answer_of_pump(*SMALL)
        yield 1000 * (time.perf_counter() - began)
        # As often as a mouse moves.
        time.sleep(0.01)


def _row(name: str, value: float, unit: str, most: float) -> BenchRow:
    return BenchRow(
        name=name,
        value=round(value, 2),
        unit=unit,
        against="",
        ratio=None,
        goal=f"≤ {most:g} {unit}",
        met=value <= most,
    )
