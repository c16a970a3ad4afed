"""Somebody who has never seen Deskfleet finds out which of twenty agents needs him, takes control and helps,
by nothing but docs/walk-through.md: followed sentence by sentence in Chromium on the real stack."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.browser import PHONE, WIDE, Complaints, new_context, scrolls_sideways
from tests.built import built_pages
from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import RelayProcess
from tests.worker.fleet_of_twenty import Twenty, twenty_at_work
from tests.worker.walk import DOC, SENTENCES_OF, Step, Walker, bold_names, steps, walk

SIGNS_IN, TAKES_CONTROL, GIVES_BACK = 1, 3, 4
CODE = "481516"
FIRST_KEY = 10
"""The keycode of 1 on an X server's keyboard; 2 to 9 follow."""


@pytest.fixture(scope="module")
def twenty(
    tmp_path_factory: pytest.TempPathFactory, server: RealOpenSandbox, relay: RelayProcess
) -> Iterator[Twenty]:
    built_pages()
    with twenty_at_work(tmp_path_factory.mktemp("twenty"), server, relay) as running:
        yield running


@pytest.fixture(params=[("wide", WIDE), ("phone", PHONE)], ids=["wide", "phone"])
def walker(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Walker]:
    window, size = request.param
    context = new_context(browser, size=size)
    yield Walker(context.new_page(), window)
    context.close()


@pytest.mark.real
@pytest.mark.browser
@pytest.mark.timeout(240)
def test_whoever_follows_the_page_helps_the_one_agent_that_needs_it(twenty: Twenty, walker: Walker) -> None:
    twenty.call_for_help()
    heard = len(twenty.keys.look())
    complaints = Complaints(walker.page)
    began = time.monotonic()

    def behind(section: int) -> None:
        if section == SIGNS_IN:
            first = walker.page.locator("#session-list li").first
            expect(first).to_have_attribute("data-session", twenty.calling.id, timeout=15_000)
        elif section == TAKES_CONTROL:
            assert time.monotonic() - began < 60
            assert walker.clicks.index("Take control") - walker.clicks.index("Sign in") <= 3
            assert twenty.holder() == "Mara"
            assert typed_since(twenty, heard) == CODE
        elif section == GIVES_BACK:
            assert twenty.session().help is None
            assert twenty.holder() is None
        assert not scrolls_sideways(walker.page)

    walk(walker, twenty.url, after=behind)
    assert len([one for one in twenty.shares() if one.label == "Bo, of the bank"]) >= 1
    assert complaints.heard == []


def typed_since(twenty: Twenty, heard: int) -> str:
    """What the user of the desktop that calls has typed."""
    click, keys = 2, 2 * len(CODE)
    events = twenty.keys.wait_for(heard + click + keys)
    pressed = [code for kind, code in events[heard:] if kind == "key down"]
    return "".join(str(code - FIRST_KEY + 1) for code in pressed)


def test_every_name_in_bold_is_a_step() -> None:
    for_both = {step.what for window in SENTENCES_OF for step in steps(window)}
    assert len(bold_names()) > 30
    assert [name for name in bold_names() if name not in for_both] == []


def test_the_steps_are_those_that_the_text_says() -> None:
    found = steps("wide")
    assert Step(1, "press", "Sign in") in found
    assert Step(2, "see", "Needs a person") in found
    assert Step(3, "type", CODE) in found
    assert Step(3, "press", "Keyboard") not in found
    assert Step(3, "press", "Keyboard") in steps("phone")


def test_the_pages_pictures_are_small_and_all_there() -> None:
    shown = {step.what for window in SENTENCES_OF for step in steps(window) if step.verb == "picture"}
    there = {f"walk/{one.name}" for one in (DOC.parent / "walk").iterdir()}
    assert shown == there
    assert len(there) <= 8
    for name in there:
        path: Path = DOC.parent / name
        assert path.stat().st_size <= 150 * 1024
        with Image.open(path) as picture:
            assert picture.format == "PNG"
