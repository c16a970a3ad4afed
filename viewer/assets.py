"""Where the built pages' files are: source name -> hashed name, from the manifest that the build writes."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory
from pydantic import BaseModel

from viewer.access import anyone
from viewer.problems import not_found

BUILD = Path(__file__).parent / "static" / "build"

assets = Blueprint("assets", __name__)


class Manifest(BaseModel):
    """`files`: name in the sources -> file name with its content's hash."""

    files: dict[str, str] = {}


def read_manifest() -> Manifest:
    """Empty when the pages were not built (a bare checkout): they then show without style and scripts."""
    path = BUILD / "manifest.json"
    return Manifest.model_validate_json(path.read_text()) if path.is_file() else Manifest()


@assets.get("/embed/sandbox-viewer.js")
@anyone
def embedded_viewer() -> Response:
    """The element for pages of other origins, at an address that stays: each use asks for a newer one.

    A script is nobody's secret, so any page may load it. What it shows is asked for with a ticket, which
    counts on the pages alone that the ticket's tenant lists.
    """
    response = send_from_directory(BUILD, read_manifest().files.get("embed.js", "-"))
    response.cache_control.no_cache = True
    return _for_any_page(response)


@assets.get("/embed/<path:name>")
@anyone
def embedded_part(name: str) -> Response:
    """What that script loads when it needs it."""
    return _for_any_page(built_file(name))


@assets.get("/static/build/<path:name>")
@anyone
def built_file(name: str) -> Response:
    if "-" not in name:
        # Without a hash in its name a file could change under a cache that keeps it for a year.
        raise not_found()
    response = send_from_directory(BUILD, name, max_age=31_536_000)
    response.cache_control.public = True
    response.cache_control.immutable = True
    return response


def _for_any_page(response: Response) -> Response:
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response
