"""The styles' one source of colours and sizes: named there, used everywhere, readable in light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from viewer.frontend.hatch_build import FRONTEND

SOURCES = FRONTEND / "src"
TOKENS = SOURCES / "styles" / "tokens.css"
STYLES = sorted(SOURCES.rglob("*.css"))
SCRIPTS = sorted(SOURCES.rglob("*.js"))
RAW_COLOUR = re.compile(r"#[0-9a-f]{3,8}\b|\b(?:rgba?|hsla?|oklch|lab)\(", re.IGNORECASE)
ON_GROUNDS = ("text", "text-quiet", "accent", "danger", "good", "busy", "warn", "bad", "quiet")
GROUNDS = ("ground", "surface", "raised", "sunken")
PAIRS = [
    *((front, back) for front in ON_GROUNDS for back in GROUNDS),
    *((tone, f"{tone}-soft") for tone in ("good", "busy", "warn", "bad", "quiet")),
    ("text", "accent-soft"),
    ("accent", "accent-soft"),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("surface", "danger"),
    ("surface", "warn"),
    ("screen-text", "screen"),
    ("screen-quiet", "screen"),
]
LEAST_CONTRAST = 4.5
"""WCAG 2.2, 1.4.3, for text of any size."""


def without_comments(path: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.name)
def test_colours_are_tokens(path: Path) -> None:
    if path != TOKENS:
        assert RAW_COLOUR.findall(without_comments(path)) == []


def test_every_name_that_is_used_is_given() -> None:
    styles = {path: without_comments(path) for path in STYLES}
    given = {name for text in styles.values() for name in re.findall(r"(--[\w-]+)\s*:", text)}
    given |= {
        name for path in SCRIPTS for name in re.findall(r"setProperty\(\"(--[\w-]+)\"", path.read_text())
    }
    for path, text in styles.items():
        assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= given, path.name


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_what_they_are_on(theme: str) -> None:
    colours = _colours(theme)
    weak = {
        f"{front} on {back}: {ratio:.2f}"
        for front, back in PAIRS
        if (ratio := _contrast(colours[front], colours[back])) < LEAST_CONTRAST
    }
    assert weak == set()


def _colours(theme: str) -> dict[str, str]:
    found = {}
    for name, value in re.findall(r"--([\w-]+):\s*([^;]+);", without_comments(TOKENS)):
        both = re.fullmatch(r"light-dark\((#\w{6}), (#\w{6})\)", value)
        alone = re.fullmatch(r"#\w{6}", value)
        if both:
            found[name] = both[1] if theme == "light" else both[2]
        elif alone:
            found[name] = value
    return found


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """Of sRGB, as WCAG has it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
