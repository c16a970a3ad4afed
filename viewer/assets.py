"""The addresses of the built page files: content-hashed, so that browsers may keep them for ever."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from viewer.model import Frozen

BUILD = Path(__file__).parent / "static" / "build"


class AssetsNotBuilt(Exception):
    """The bundle is missing: a checkout in which the pages were never built."""


class Manifest(Frozen):
    """What `frontend/hatch_build.py` writes beside the files."""

    files: dict[str, str]
    """Source name (`app.css`) -> file name in the build directory (`app-K3V2….css`)."""
    stamp: str
    """Fingerprint of the sources that the files were made from."""


def asset(path: str) -> str:
    """Return the URL path of a page file by its source name; raises AssetsNotBuilt, or KeyError for a wrong name."""
    return f"/static/build/{read_manifest(BUILD).files[path]}"


@cache
def read_manifest(build: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((build / "manifest.json").read_bytes())
    except FileNotFoundError as error:
        raise AssetsNotBuilt(
            "The pages are not built: run `python viewer/frontend/hatch_build.py` in the checkout."
        ) from error
