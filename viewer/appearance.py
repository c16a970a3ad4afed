"""How the pages look to one browser: in a cookie that its script writes, so that the first paint is right.

It is no secret and decides nothing: what it says beyond the words known here counts for nothing.
"""

from __future__ import annotations

from typing import Literal, TypeGuard

from viewer.model import Frozen

LOOK_COOKIE = "__Host-deskfleet-look"
"""`theme.density`, as in `dark.compact`. The prefix keeps pages at names below ours from setting it."""

Theme = Literal["system", "light", "dark"]
Density = Literal["comfortable", "compact"]


class Look(Frozen):
    theme: Theme = "system"
    density: Density = "comfortable"

    @property
    def color_scheme(self) -> str:
        """For the browser's own parts, before any style has come."""
        return "light dark" if self.theme == "system" else self.theme


def look_of(cookie: str | None) -> Look:
    theme, _, density = (cookie or "").partition(".")
    return Look(
        theme=theme if _is_theme(theme) else "system",
        density=density if _is_density(density) else "comfortable",
    )


def _is_theme(text: str) -> TypeGuard[Theme]:
    return text in ("system", "light", "dark")


def _is_density(text: str) -> TypeGuard[Density]:
    return text in ("comfortable", "compact")
