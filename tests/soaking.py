"""Property tests in two lengths: short and seeded in `make test`, long and random in `make soak`."""

from __future__ import annotations

import os

from hypothesis import settings

FACTOR = 200 if os.environ.get("DESKFLEET_SOAK") == "1" else 1


def is_soaking() -> bool:
    return FACTOR > 1


def examples(short: int) -> int:
    """How many examples to try: `short` of them, many times as many in a soak."""
    return short * FACTOR


settings.register_profile("short", derandomize=True, deadline=None, max_examples=examples(100))
settings.register_profile("soak", deadline=None, max_examples=examples(100), print_blob=True)
settings.load_profile("soak" if FACTOR > 1 else "short")
