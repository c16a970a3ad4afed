"""What is built from the sources before tests can use it: by one process at a time, whichever comes first."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roles.wheel import wheel
from tests.hosts.own_docker import CACHE
from viewer.frontend.hatch_build import build_pages


def built_pages() -> None:
    with _alone():
        build_pages(say=lambda _line: None)


def built_wheel() -> Path:
    """Its build builds the pages, too."""
    with _alone():
        return wheel()


@contextmanager
def _alone() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
