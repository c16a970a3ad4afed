"""Bench group "pages": how soon a person sees the desktop, and what that weighs, against the seed's way.

The seed's way is an `<iframe>` with noVNC's whole app, which the sandbox serves: Caddy -> OpenSandbox's proxy
-> websockify beside the desktop. The page around that frame has nothing else in it here; the seed's has a
whole dashboard. A second row has the same app without the proxy, straight from websockify: its least.

Both sides show the same Xtigervnc in the same run, in turns. Painted is when the canvas of the desktop holds
the known picture and nothing lies over it, seen by requestAnimationFrame inside the page, counted from the
start of the navigation. Cold: an empty browser, nothing in its cache; warm: the same page once more, as a
person comes to it from another page of the same site.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from PIL import Image, ImageStat
from playwright.sync_api import Browser, Error, Page, StorageState

from tests.bench_row import BenchRow
from tests.bench_stream import PROGRAMS, a_sandbox, row, start
from tests.browser import PHONE, WIDE, chromium, new_context, sign_in
from tests.built import built_pages
from tests.hosts.own_docker import OwnDocker, own_dockerd
from tests.novnc_app import NoNovncApp, novnc_app
from tests.page_weight import KB, Weight
from tests.painted_desktop import PaintedDesktop
from tests.real_opensandbox import RealOpenSandbox, real_opensandbox
from tests.relay_process import free_port, running_relay
from tests.worker.edge import KEY, Edge, running_edge
from viewer.model import Status

ROUNDS = 7
PATIENCE_SECONDS = 30
TOLERANCE = 24
"""Of 255 per channel: noVNC asks for JPEG."""
FLAT = 12
GRID = (9, 6)
MOST_FILES = 6
APP_PORT = 6080
SEED = "seed: iframe of noVNC's app, Caddy -> OpenSandbox proxy"
DIRECT = "iframe of noVNC's app, straight from websockify"

LOOK = """(() => {
    const POINTS = %(points)s, WIDTH = %(width)d, TOLERANCE = %(tolerance)d;
    const now = () => performance.timeOrigin + performance.now();
    const fits = (canvas) => {
        const context = canvas.getContext("2d");
        return POINTS.every(([x, y, ...wanted]) => {
            const found = context.getImageData(x, y, 1, 1).data;
            return wanted.every((value, at) => Math.abs(value - found[at]) <= TOLERANCE);
        });
    };
    const isBare = (canvas) => {
        const box = canvas.getBoundingClientRect();
        return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === canvas;
    };
    const look = () => {
        if (!window.rowsAt && document.querySelector("#session-list a.row")) window.rowsAt = now();
        const canvas = [...document.querySelectorAll("canvas")].find((one) => one.width === WIDTH);
        if (canvas && fits(canvas) && isBare(canvas)) window.paintedAt = now();
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
})()"""


@dataclass(frozen=True)
class Way:
    """One way to a picture of the desktop, and the cookies with which a browser opens it."""

    name: str
    address: str
    from_page: str
    """Another page of the same site, from which a person comes when the page is warm."""
    state: StorageState | None = None


@dataclass
class Seen:
    """Milliseconds from the start of the navigation, one a round."""

    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    listed: list[float] = field(default_factory=list)
    """Until a row of the list is there to be clicked, cold."""


@dataclass(frozen=True)
class Carried:
    """Over the wire, with nothing in the cache."""

    kilobytes: float
    files: int


CADDYFILE = """{
	admin off
	persist_config off
	auto_https off
}
http://127.0.0.1:%(port)d {
	handle /v1/* {
		reverse_proxy 127.0.0.1:%(opensandbox)d {
			flush_interval -1
		}
	}
	handle {
		root * %(pages)s
		file_server
	}
}
"""
HOME = """<!doctype html>
<title>Dashboard</title>
<p>Desktops</p>
"""
DASHBOARD = """<!doctype html>
<title>Dashboard</title>
<iframe src="%s" title="Sandbox" style="width: 1280px; height: 800px; border: 0"
 sandbox="allow-same-origin allow-scripts allow-forms allow-popups"></iframe>
"""


def rows() -> list[BenchRow]:
    """Measure ours and the seed's; the seed's is named as not measured where noVNC's app cannot be had."""
    built_pages()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-pages-")))
        daemon = stack.enter_context(own_dockerd("bench-pages"))
        server = stack.enter_context(real_opensandbox(daemon, folder))
        relay = stack.enter_context(
            running_relay(folder, publish_address=daemon.address, opensandbox_url=server.url)
        )
        desktop = stack.enter_context(PaintedDesktop(enter=daemon.enter()))
        (folder / "edge").mkdir()
        edge = stack.enter_context(running_edge(folder / "edge", server, relay))
        browser = stack.enter_context(chromium())
        ours = _our_ways(browser, edge, desktop)
        theirs, why_not = _their_ways(stack, folder, daemon, server, desktop)
        script = _look(desktop)
        seen = _in_turns(browser, [*theirs, *ours], script)
        carried = {way.name: _carried(browser, way, script) for way in [*ours, *theirs]}
        carried["list"] = _carried_by_list(
            browser, Way("list", f"{edge.url}/sandboxes", ours[0].from_page, ours[0].state)
        )
    return _rows(seen, carried, why_not)


# --- the ways


def _our_ways(browser: Browser, edge: Edge, desktop: PaintedDesktop) -> list[Way]:
    made = edge.fleet.wait_for(edge.fleet.create("tiny"), Status.RUNNING)
    edge.fleet.store.fleet.update(made.id, vnc_port=desktop.port, vnc_password_sealed=None)
    with _browsing(browser) as page:
        sign_in(page, edge.url, KEY.text)
        state = page.context.storage_state()
    before = f"{edge.url}/settings/appearance"
    return [Way(name, f"{edge.url}/{name}/{made.id}", before, state) for name in ("sandboxes", "view")]


def _their_ways(
    stack: ExitStack, folder: Path, daemon: OwnDocker, server: RealOpenSandbox, desktop: PaintedDesktop
) -> tuple[list[Way], str]:
    """Through the proxy, and straight; none, and why, where noVNC's app cannot be had."""
    try:
        websockify = [str(PROGRAMS / "websockify"), "--web", str(novnc_app())]
    except NoNovncApp as error:
        return [], str(error)
    sandbox, inside = a_sandbox(server)
    target = f"{daemon.address}:{desktop.port}"
    start(stack, *inside, *websockify, f"0.0.0.0:{APP_PORT}", target)
    direct = free_port()
    start(stack, *websockify, f"127.0.0.1:{direct}", target, listens_on=direct)
    proxy = f"v1/sandboxes/{sandbox}/proxy/{APP_PORT}"
    pages = folder / "dashboard"
    pages.mkdir()
    app = "vnc.html?autoconnect=1&resize=scale"
    (pages / "seed.html").write_text(DASHBOARD % f"/{proxy}/{app}&path={proxy}/websockify")
    (pages / "direct.html").write_text(DASHBOARD % f"http://127.0.0.1:{direct}/{app}")
    port = free_port()
    (folder / "Caddyfile").write_text(CADDYFILE % {"port": port, "opensandbox": server.port, "pages": pages})
    caddy = [str(PROGRAMS / "caddy"), "run", "--adapter", "caddyfile", "--config"]
    start(stack, *caddy, str(folder / "Caddyfile"), listens_on=port)
    (pages / "home.html").write_text(HOME)
    site = f"http://127.0.0.1:{port}"
    return [Way(name, f"{site}/{name}.html", f"{site}/home.html") for name in ("direct", "seed")], ""


# --- measuring


def _in_turns(browser: Browser, ways: Sequence[Way], script: str) -> dict[str, Seen]:
    """Every way once a round, so that other load on the machine meets all alike; round 0 warms up."""
    seen = {way.name: Seen() for way in ways}
    for round_number in range(ROUNDS + 1):
        for way in ways:
            _look_twice(browser, way, script, seen[way.name] if round_number else Seen())
    return seen


def _look_twice(browser: Browser, way: Way, script: str, seen: Seen) -> None:
    with _browsing(browser, way.state, script) as page:
        seen.cold.append(_painted_after(page, way))
        listed = page.evaluate("window.rowsAt ? window.rowsAt - performance.timeOrigin : null")
        if listed is not None:
            seen.listed.append(listed)
        page.goto(way.from_page)
        page.wait_for_load_state("load")
        seen.warm.append(_painted_after(page, way))


def _painted_after(page: Page, way: Way) -> float:
    """Open it; return the milliseconds until the picture was there."""
    page.goto(way.address, wait_until="commit")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for painted in _marks(page):
            return painted - float(page.evaluate("performance.timeOrigin"))
        page.wait_for_timeout(50)
    raise AssertionError(f"{way.address} shows no picture of the desktop within {PATIENCE_SECONDS} s")


def _marks(page: Page) -> Iterator[float]:
    """When a picture of the desktop was there, in any frame; milliseconds since the epoch."""
    for frame in page.frames:
        # A frame may be on its way to another page.
        with suppress(Error):
            painted = frame.evaluate("window.paintedAt ?? null")
            if painted is not None:
                yield painted


def _until(weight: Weight, moment: float) -> Carried:
    """What comes after the picture, for the first click, is not what it waited for."""
    files = weight.files_asked_until(moment / 1000)
    return Carried(sum(weight.bytes[one] for one in files) / KB, len(files))


def _carried(browser: Browser, way: Way, script: str) -> Carried:
    with _browsing(browser, way.state, script) as page:
        weight = Weight(page)
        _painted_after(page, way)
        return _until(weight, max(_marks(page)))


def _carried_by_list(browser: Browser, way: Way) -> Carried:
    """The list alone: on a phone, where it shows no desktop beside itself."""
    with _browsing(browser, way.state, size=PHONE) as page:
        weight = Weight(page)
        page.goto(way.address)
        page.locator("#session-list a.row").first.wait_for()
        page.wait_for_load_state("load")
        return _until(weight, time.time() * 1000)


@contextmanager
def _browsing(
    browser: Browser, state: StorageState | None = None, script: str = "", *, size: tuple[int, int] = WIDE
) -> Iterator[Page]:
    """A browser of its own with nothing in its cache, though signed in as this says."""
    context = new_context(browser, size=size, state=state)
    try:
        if script:
            context.add_init_script(script)
        yield context.new_page()
    finally:
        context.close()


def _look(desktop: PaintedDesktop) -> str:
    values = {
        "points": json.dumps(points_of(desktop.first_picture)),
        "width": desktop.size[0],
        "tolerance": TOLERANCE,
    }
    return LOOK % values


def points_of(picture: Image.Image) -> list[tuple[int, ...]]:
    """Points spread over the picture with their colours: x, y, red, green, blue. Each amid more of the same,
    as JPEG blurs edges."""
    columns, lines = GRID
    points = []
    for column in range(columns):
        for line in range(lines):
            x = picture.width * (2 * column + 1) // (2 * columns)
            y = picture.height * (2 * line + 1) // (2 * lines)
            around = ImageStat.Stat(picture.crop((x - 8, y - 8, x + 9, y + 9)))
            if all(high - low <= FLAT for low, high in around.extrema):
                points.append((x, y, *(round(value) for value in around.mean)))
    return points


# --- rows


def _rows(seen: dict[str, Seen], carried: dict[str, Carried], why_not: str) -> list[BenchRow]:
    rows = []
    for name, title in (("sandboxes", "/sandboxes/<id>"), ("view", "/view/<id>")):
        rows += _first_frame_rows(title, seen[name], seen, why_not)
    rows += [
        _limit("list page, until its rows are there, cold", median(seen["sandboxes"].listed), "ms", 1000),
        _limit("viewer, until its first frame, cold", median(seen["view"].cold), "ms", 1000),
        *_weight_rows("list page", carried["list"], 30, carried.get("seed")),
        *_weight_rows("viewer (/view)", carried["view"], 85, carried.get("seed")),
        *_weight_rows("list and viewer (/sandboxes/<id>)", carried["sandboxes"], None, carried.get("seed")),
    ]
    return rows


def _first_frame_rows(title: str, ours: Seen, seen: dict[str, Seen], why_not: str) -> list[BenchRow]:
    rows = []
    for state, mine in (("cold", ours.cold), ("warm", ours.warm)):
        name = f"first frame of {title}, {state}"
        if why_not:
            rows.append(
                BenchRow(
                    name=name, value=median(mine), unit="ms", against=SEED, ratio=None,
                    goal=f"<= 0.50 (not measured: {why_not})", met=None,
                )
            )  # fmt: skip
            continue
        for way, against, goal in (("seed", SEED, 0.5), ("direct", DIRECT, None)):
            theirs = seen[way].cold if state == "cold" else seen[way].warm
            rows.append(row(name, "ms", mine, against, theirs, at_most=goal))
    return rows


def _weight_rows(
    title: str, ours: Carried, most_kilobytes: int | None, theirs: Carried | None
) -> list[BenchRow]:
    return [
        _limit(f"{title}, bytes", ours.kilobytes, "KB", most_kilobytes, theirs.kilobytes if theirs else None),
        _limit(f"{title}, files", ours.files, "", MOST_FILES, theirs.files if theirs else None),
    ]


def _limit(name: str, value: float, unit: str, most: float | None, theirs: float | None = None) -> BenchRow:
    """A goal in absolute terms, beside what the seed's takes."""
    return BenchRow(
        name=name, value=value, unit=unit,
        against="" if theirs is None else f"{SEED} {theirs:.3g} {unit}".rstrip(),
        ratio=None if theirs is None else value / theirs,
        goal="" if most is None else f"<= {most:g} {unit}".rstrip(),
        met=None if most is None else value <= most,
    )  # fmt: skip


if __name__ == "__main__":
    for measured in rows():
        print(measured.model_dump_json())
