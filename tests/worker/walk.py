"""Follows docs/walk-through.md in Chromium, sentence by sentence, and knows no more than is written there.

`python -m tests.worker.walk` follows it on a fleet of its own and makes the page's pictures anew, each at the
place of the text where it stands (root; some two minutes).
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser import PHONE, chromium, new_context, wait_for_picture
from tests.built import built_pages
from tests.hosts.own_docker import own_dockerd
from tests.real_opensandbox import real_opensandbox
from tests.relay_process import running_relay
from tests.worker.fleet_of_twenty import LOGIN, PASSWORD, twenty_at_work

DOC = Path(__file__).parents[2] / "docs" / "walk-through.md"
WINDOW = (1280, 800)
SECRETS = {"Login": LOGIN, "Password": PASSWORD}
"""What the page leaves to its reader."""
Window = Literal["wide", "phone"]
Verb = Literal["press", "write", "see", "type", "picture", "close"]
ROLES: tuple[Literal["button", "link", "menuitem", "tab", "radio"], ...] = (
    "button", "link", "menuitem", "tab", "radio",
)  # fmt: skip
_PART = re.compile(
    r"!\[[^\]]*\]\((?P<picture>[^)]+)\)|\*\*(?P<bold>[^*]+)\*\*|`(?P<typed>[^`]+)`"
    r"|(?P<close>[Cc]lose that tab)"
)
_SENTENCE_END = re.compile(r"\n\n|(?<=[.:;!?])\s+|(?<=[.:;!?]\*\*)\s+")
_ACT = re.compile(r"\b(press|try|write)\b", re.I)


SENTENCES_OF: tuple[Window, ...] = ("wide", "phone")


@dataclass(frozen=True)
class Step:
    """One thing that the page has its reader do or see. `what`: the name on the page, the keys, the file.
    `text`: what is written there."""

    section: int
    verb: Verb
    what: str
    text: str = ""


def steps(window: Window) -> list[Step]:
    """The page's, in order. A sentence with "on a phone" is for a phone alone, one with "in a wide window" is
    not; a bold name is pressed or written into where its sentence has said so before, else only seen."""
    found: list[Step] = []
    for number, text in enumerate(re.split(r"^## ", DOC.read_text(), flags=re.M)):
        for sentence in _SENTENCE_END.split(text) if number else ():
            folded = " ".join(sentence.split())
            is_for = (
                "phone"
                if re.search(r"on a phone", folded, re.I)
                else "wide"
                if re.search(r"in a wide window", folded, re.I)
                else window
            )
            if "](walk/" in folded:
                is_for = "phone" if "phone" in folded else "wide"
            if is_for == window:
                found += _steps_of(number, folded)
    return found


def bold_names() -> list[str]:
    """Every one from the first section on."""
    return re.findall(r"\*\*([^*]+)\*\*", DOC.read_text().partition("\n## ")[2])


def _steps_of(section: int, sentence: str) -> Iterator[Step]:
    text = ""
    for part in _PART.finditer(sentence):
        acts = _ACT.findall(sentence[: part.start()])
        act = acts[-1].lower() if acts else "see"
        if picture := part["picture"]:
            yield Step(section, "picture", picture)
        elif part["close"]:
            yield Step(section, "close", "")
        elif part["typed"] and act == "write":
            text = part["typed"]
        elif part["typed"]:
            yield Step(section, "type", part["typed"])
        elif act == "write":
            yield Step(section, "write", part["bold"], text or SECRETS[part["bold"]])
        else:
            yield Step(section, "see" if act == "see" else "press", part["bold"])


@dataclass
class Walker:
    """Somebody who has never seen the pages, with the text beside. `folder`: where pictures go, if at all."""

    page: Page
    window: Window
    folder: Path | None = None
    clicks: list[str] = field(default_factory=list)
    """What was pressed or typed since the sign-in."""

    def follow(self, step: Step) -> None:
        match step.verb:
            case "press":
                self._press(step.what)
            case "write":
                self._shown(self.page.get_by_label(step.what, exact=True)).fill(step.text)
            case "see":
                self._shown(self._named_or_text(step.what))
            case "type":
                self._type(step.what)
            case "picture":
                self._take_picture(step.what)
            case "close":
                self.page.close()
                self.page = self._context_pages()[-1]

    def _context_pages(self) -> list[Page]:
        return self._context.pages

    def __post_init__(self) -> None:
        self._context = self.page.context

    def _press(self, name: str) -> None:
        target = self._shown(self._named_or_text(name))
        known = len(self._context.pages)
        opens = target.evaluate("one => one.closest('a')?.target === '_blank'")
        if opens:
            with self._context.expect_page() as opened:
                target.click()
            self.page = opened.value
        else:
            target.click()
        assert len(self._context.pages) == known + bool(opens)
        self.clicks.append(name)

    def _named_or_text(self, name: str) -> Locator:
        named = self.page.get_by_role(ROLES[0], name=name, exact=True)
        for role in ROLES[1:]:
            named = named.or_(self.page.get_by_role(role, name=name, exact=True))
        return named.or_(self.page.get_by_text(name, exact=True))

    def _shown(self, found: Locator) -> Locator:
        """The first that is to be seen, once there is one."""
        first = found.filter(visible=True).first
        expect(first).to_be_visible(timeout=15_000)
        return first

    def _type(self, keys: str) -> None:
        wait_for_picture(self.page)
        screen = self.page.locator(".viewer-stage canvas").first
        screen.click()
        self.page.keyboard.type(keys, delay=30)

    def _take_picture(self, name: str) -> None:
        if self.folder is None:
            return
        # What is under way ends, the words of a moment go, and pictures come.
        expect(self.page.locator(".spinner").filter(visible=True)).to_have_count(0, timeout=20_000)
        self.page.wait_for_timeout(2500)
        data = self.page.screenshot(animations="disabled")
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        _small(Image.open(io.BytesIO(data))).save(path, "PNG", optimize=True)
        print(f"{path.name}: {path.stat().st_size // 1024} KiB")


def _small(picture: Image.Image) -> Image.Image:
    """256 colours are enough for a page with flat screens on it."""
    return picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)


def walk(walker: Walker, url: str, *, after: Callable[[int], None] = lambda _section: None) -> None:
    """All of it, from the address on. after: told the number of each section that is behind."""
    walker.page.goto(url)
    section = 1
    for step in steps(walker.window):
        if step.section != section:
            after(section)
            section = step.section
        try:
            walker.follow(step)
        except Exception as error:
            error.add_note(f"at {step}")
            raise
    after(section)


def main() -> None:
    built_pages()
    with (
        tempfile.TemporaryDirectory() as name,
        own_dockerd("walk") as daemon,
        real_opensandbox(daemon, Path(name)) as server,
        running_relay(Path(name), publish_address=daemon.address, opensandbox_url=server.url) as relay,
        twenty_at_work(Path(name), server, relay) as twenty,
        chromium() as browser,
    ):
        for window in SENTENCES_OF:
            twenty.call_for_help()
            page = new_context(browser, size=WINDOW if window == "wide" else PHONE).new_page()
            walk(Walker(page, window, DOC.parent), twenty.url)


if __name__ == "__main__":
    main()
