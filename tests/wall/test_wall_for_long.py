"""The wall as it hangs in an office: 112 desktops at once, for minutes or for half an hour, on real parts.

Chromium, Caddy, the viewer, a relay with its captures and twelve Xtigervnc are real. Stand-in: nobody makes
the sessions; the test puts their rows there, and lets some begin, fail and end meanwhile. A folder of its
own, so that it runs beside the other tests of the pages and not among them.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageDraw
from playwright.sync_api import Browser, CDPSession, Page, expect

from tests.browser import Complaints, chromium, new_context, sign_in
from tests.built import built_pages
from tests.pages.content_site import BELOW, ContentSite
from tests.painted_desktop import PaintedDesktop
from tests.process_figures import children_of, cpu_seconds, descendants_of, rss_mib
from tests.relay_process import RelayProcess, running_relay
from tests.soaking import is_soaking
from tests.viewer_fixtures import settings_values
from viewer.model import HostStatus, Role, Session, Status, utcnow
from viewer.rows import QUEUED
from viewer.store import NewSession

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.soak, pytest.mark.timeout(2400)]

SIZE = (640, 400)
WINDOW = (1920, 2700)
"""In which each of the small tiles is on the screen."""
TILE = "sandbox-tile"
SECONDS = float(os.environ.get("DESKFLEET_WALL_SECONDS", 1800 if is_soaking() else 180))
AT_WORK, IDLE = 4, 8
FAILED, LOST, QUEUE, MADE, PAUSED = 20, 20, 15, 15, 30
"""The hundred without a picture, from the one that a person should look at first to the one that rests."""
NEWS = timedelta(minutes=10)
"""For so long a failed desktop stays on the wall."""
STEP_SECONDS = NEWS.total_seconds() / FAILED
"""One fails in each of these, so that there are as many all the time."""


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    # The painted desktops listen there.
    with running_relay(tmp_path_factory.mktemp("relay"), publish_address="127.0.0.1") as process:
        yield process
    assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def site(relay: RelayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContentSite]:
    """Of two hosts, one of which does not answer."""
    built_pages()
    folder = tmp_path_factory.mktemp("site")
    here = settings_values(folder)["hosts"][0] | {"relay_url": relay.url}
    made = ContentSite(folder, BELOW, relay=relay)
    # Nobody listens on the discard port.
    made.more["hosts"] = [here, here | {"name": "there", "relay_url": "http://127.0.0.1:9"}]
    with made as running:
        running.store.fleet.record_host_status("here", HostStatus.OK)
        running.store.fleet.record_host_status("there", HostStatus.UNREACHABLE, "no answer")
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


class Rows:
    """The sessions of the tenant, and what becomes of them while the `with` block runs."""

    def __init__(self, site: ContentSite) -> None:
        self._site, self._fleet = site, site.store.fleet
        self._over, self._thread = threading.Event(), threading.Thread(target=self._run)
        failed = [self._failing() for _ in range(FAILED)]
        self._date_back(failed)
        self.lost = [self._running("there", 9) for _ in range(LOST)]
        for _ in range(QUEUE):
            self._fleet.update(self._created().id, status_reason=QUEUED)
        self.being_made = [self._being_made() for _ in range(MADE)]
        for _ in range(PAUSED):
            self._fleet.transition(self._running("here", 9).id, Status.PAUSED)

    def __enter__(self) -> Rows:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def shown(self, desktop: PaintedDesktop) -> Session:
        return self._running("here", desktop.port)

    def _run(self) -> None:
        while not self._over.wait(STEP_SECONDS):
            self._fail(self.being_made.pop(0))
            self.being_made.append(self._being_made())
            self._fleet.transition(self.lost.pop(0).id, Status.TERMINATED, reason="on request")
            self.lost.append(self._running("there", 9))

    def _created(self) -> Session:
        wanted = NewSession(
            image="desktop", resolution="{}x{}".format(*SIZE), ttl_seconds=7200, created_by="tests",
            task_id="nightly", agent_id="robot",
        )  # fmt: skip
        return self._site.store.tenant("acme").create(wanted).session

    def _running(self, host: str, vnc_port: int) -> Session:
        made = self._created()
        return self._fleet.transition(
            made.id, Status.RUNNING, host=host, sandbox_id=f"box-{made.id[:8]}", vnc_port=vnc_port
        )

    def _being_made(self) -> Session:
        return self._fleet.update(self._created().id, host="here", status_reason="fetching the image")

    def _fail(self, session: Session) -> Session:
        return self._fleet.transition(session.id, Status.ERROR, error_message="The image is not there.")

    def _failing(self) -> Session:
        return self._fail(self._created())

    def _date_back(self, failed: list[Session]) -> None:
        """As if one had failed after the other, the first of them nearly too long ago to be news."""
        with sqlite3.connect(self._site.folder / "deskfleet.db", timeout=30) as database:
            for number, session in enumerate(failed):
                ago = timedelta(seconds=STEP_SECONDS * number * 0.95)
                moment = (utcnow() - ago).replace(tzinfo=None).isoformat(sep=" ")
                database.execute(
                    "UPDATE sandbox_sessions SET terminated_at = ? WHERE id = ?", (moment, session.id)
                )


class Painters:
    """Four desktops at work: each is painted anew about every second, until the end."""

    def __init__(self, desktops: list[PaintedDesktop]) -> None:
        self._desktops = desktops
        self._pictures = [desktop.first_picture for desktop in desktops]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._over.wait(0.7):
            count += 1
            for index, desktop in enumerate(self._desktops):
                picture = self._pictures[index].copy()
                ImageDraw.Draw(picture).text(
                    (40 + 10 * index, 60), f"line {count}", fill="#8be9a8", font_size=40
                )
                desktop.paint(picture)


@dataclass
class Figures:
    """One look at what everything takes."""

    heap: float
    """MiB of the page's scripts, after what is no longer needed is thrown away."""
    nodes: float
    viewer: float
    relay: float
    browser: float
    """Resident MiB; the browser's of all its processes, whose common pages are counted in each."""


@dataclass
class Watch:
    """Looks at page and servers again and again."""

    cdp: CDPSession
    viewer_pid: int
    relay_pid: int
    browser_pids: list[int]
    looks: list[Figures] = field(default_factory=list)

    def look(self) -> None:
        self.cdp.send("HeapProfiler.collectGarbage")
        page = self.metrics()
        self.looks.append(
            Figures(
                heap=page["JSHeapUsedSize"] / 2**20,
                nodes=page["Nodes"],
                viewer=rss_mib(self.viewer_pid),
                relay=rss_mib(self.relay_pid),
                browser=sum(rss_mib(pid) for pid in self.browser_pids),
            )
        )

    def metrics(self) -> dict[str, float]:
        return {one["name"]: one["value"] for one in self.cdp.send("Performance.getMetrics")["metrics"]}

    def seconds(self) -> dict[str, float]:
        """Of a core, that each has taken since it began."""
        return {
            "page": self.metrics()["TaskDuration"],
            "browser": sum(cpu_seconds(pid) for pid in self.browser_pids),
            "viewer": cpu_seconds(self.viewer_pid),
            "relay": cpu_seconds(self.relay_pid),
        }

    def ends(self, name: str) -> tuple[float, float]:
        """Its median in the first third and in the last."""
        values = [float(getattr(one, name)) for one in self.looks]
        third = max(1, len(values) // 3)
        return statistics.median(values[:third]), statistics.median(values[-third:])


def test_wall_of_twelve_desktops_and_a_hundred_rows_stays_as_it_is(
    browser: Browser, site: ContentSite, relay: RelayProcess, record_property: Callable[[str, object], None]
) -> None:
    """12 real desktops, 8 of them idle, and 100 rows: failed, on a host that is lost, in line, being made and
    paused ones. Three minutes in `make test`, half an hour in `make soak`; DESKFLEET_WALL_SECONDS says
    another time."""
    with ExitStack() as stack:
        desktops = [
            stack.enter_context(PaintedDesktop(width=SIZE[0], height=SIZE[1])) for _ in range(AT_WORK + IDLE)
        ]
        rows = Rows(site)
        shown = [rows.shown(desktop) for desktop in desktops]
        context = new_context(browser, size=WINDOW)
        stack.callback(context.close)
        page = context.new_page()
        complaints = Complaints(page)
        sign_in(page, site.origin, site.key(Role.WATCHER))
        page.goto(f"{site.origin}/wall?size=s")
        expect(page.locator(TILE)).to_have_count(112, timeout=60_000)
        for session in shown:
            expect(_tile(page, session)).to_be_visible(timeout=60_000)
        for label, count in (("Error", FAILED), ("Host unreachable", LOST), ("Paused", PAUSED)):
            assert count - 2 <= page.locator(f"{TILE} .badge", has_text=label).count() <= count
        stack.enter_context(Painters(desktops[:AT_WORK]))
        stack.enter_context(rows)
        at_work, idle = _tile(page, shown[0]), _tile(page, shown[-1])
        before = at_work.get_attribute("src") or ""
        expect(at_work).not_to_have_attribute("src", before, timeout=60_000)
        at_rest = idle.get_attribute("src")
        watch = _watch(page, site, relay)
        # What is made once, such as threads and buffers, is there by now.
        page.wait_for_timeout(min(SECONDS, 30) * 200)
        began, clock = watch.seconds(), time.monotonic()
        for _ in range(12):
            page.wait_for_timeout(SECONDS * 1000 / 12)
            watch.look()
        taken = {name: value - began[name] for name, value in watch.seconds().items()}
        elapsed = time.monotonic() - clock
        figures: dict[str, Any] = {
            **{f"{name}, % of a core": round(100 * value / elapsed, 1) for name, value in taken.items()},
            **{name: watch.ends(name) for name in ("heap", "nodes", "viewer", "relay", "browser")},
        }
        print(figures)
        for name, figure in figures.items():
            record_property(name, str(figure))
        # Idle desktops cost the page nothing: theirs is the picture of the beginning.
        assert idle.get_attribute("src") == at_rest
        # Some have failed and some have ended meanwhile, and as many have begun.
        assert 108 <= page.locator(TILE).count() <= 116
        for name, slack in (("heap", 3), ("viewer", 8), ("relay", 8)):
            first, last = watch.ends(name)
            assert last <= first * 1.1 + slack, (name, watch.looks)
        first, last = watch.ends("nodes")
        assert last <= first + 300, watch.looks
        assert complaints.heard == []


def _tile(page: Page, session: Session) -> Any:
    return page.locator(f"{TILE}[session='{session.id}'] img")


def _watch(page: Page, site: ContentSite, relay: RelayProcess) -> Watch:
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable")
    (viewer_pid,) = children_of(site.processes[0].pid)
    browser_pids = [pid for pid in descendants_of(os.getpid()) if "chrom" in _name_of(pid)]
    return Watch(cdp, viewer_pid, relay.process.pid, browser_pids)


def _name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()
