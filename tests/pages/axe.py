"""axe-core in a page: what it finds wrong for people who use a keyboard or a screen reader, or see little."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

from viewer.frontend.hatch_build import FRONTEND
from viewer.model import Frozen

AXE = FRONTEND / "node_modules" / "axe-core" / "axe.min.js"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
_RUN = """async rules => {
    const options = {runOnly: rules, resultTypes: ["violations"], iframes: false};
    const {violations} = await axe.run(document, options);
    return violations.flatMap(({id, help, nodes}) => nodes.map(({target, html, failureSummary}) =>
        ({rule: id, help, target: target.join(" "), html, summary: failureSummary ?? ""})));
}"""

_STILL = """() => document.getAnimations()
    .filter(one => Number.isFinite(one.effect?.getComputedTiming().endTime)).forEach(one => one.finish())"""


class Violation(Frozen):
    rule: str
    help: str
    target: str
    html: str
    summary: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.help}\n    {self.target}: {self.html[:200]}\n    {self.summary}"


def violations(page: Page) -> tuple[Violation, ...]:
    """What axe finds on the page as it is now. Frames are pages of their own, with an axe of their own."""
    if not page.evaluate("typeof axe === 'object'"):
        # Evaluated, not put in as a script: the page's policy allows none but its own.
        page.evaluate(AXE.read_text())
    # What is still fading in has colours that nobody is meant to read. Waited for, it may never end: a page
    # that nobody sees draws no frames.
    page.evaluate(_STILL)
    found: list[dict[str, Any]] = page.evaluate(_RUN, list(RULES))
    return tuple(Violation.model_validate(one) for one in found)


def assert_accessible(page: Page, *, but: tuple[str, ...] = ()) -> None:
    """Raise AssertionError with all that axe finds. but: rules that do not hold here, for a reason that
    stands beside the call."""
    found = [str(one) for one in violations(page) if one.rule not in but]
    assert not found, f"{page.url}:\n" + "\n".join(found)
