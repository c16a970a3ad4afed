"""Where the built pages' files are: source name -> hashed name, from the manifest that the build writes."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from urllib.parse import quote

from flask import Blueprint, Response, request, send_from_directory
from markupsafe import Markup
from pydantic import BaseModel
from werkzeug.security import safe_join

from viewer.access import anyone
from viewer.problems import not_found

BUILD = Path(__file__).parent / "static" / "build"
CODINGS = {"br": "br", "gzip": "gz"}
"""What the build has compressed, the smallest first: the word of HTTP, and the ending of the file."""

assets = Blueprint("assets", __name__)


LOGO = "favicon.svg"
_SAFE = " !$&'()*+,-./:;=?@"
"""What an address in an attribute may hold as it is; with fewer escapes it packs smaller."""
_SCRIPT = Markup('<script type="module" src="{}"></script>')
_SOONEST = Markup('<script type="module" async src="{}"></script>')
_EARLY = Markup('<link rel="modulepreload" href="{}">')


class Manifest(BaseModel):
    """`files`: name in the sources -> file name with its content's hash. `parts`: of each page's script, the
    modules that it may run -> the files that each needs, its own first."""

    files: dict[str, str] = {}
    parts: dict[str, dict[str, list[str]]] = {}

    def address(self, name: str) -> str:
        return _at(self.files.get(name, name))

    def logo(self) -> str:
        """An address that holds the whole logo: each page shows it, and a file would be a request more."""
        path = BUILD / self.files.get(LOGO, LOGO)
        if not path.is_file():
            return self.address(LOGO)
        return f"data:image/svg+xml,{quote(path.read_text().strip(), safe=_SAFE)}"

    def script(self, page: str, *modules: str, streams: bool = False) -> Markup:
        """The tags of a page's script. What it imports, and those modules that it is about to import with
        what they need, are asked for all at once, where each would name the next one.

        streams: the page names a stream. What its parts share opens that, and waits for nothing else.
        """
        parts = self.parts.get(page, {})
        own, *shared = parts.get(f"pages/{page}", [page])
        further = [one for module in modules for one in parts.get(module, [])]
        tags = {one: _SOONEST if streams and one in shared else _EARLY for one in [*shared, *further]}
        tags |= {own: _SCRIPT}
        return Markup("\n  ").join(tag.format(_at(one)) for one, tag in tags.items())


def _at(file: str) -> str:
    return f"/static/build/{file}"


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
    response = _smallest(read_manifest().files.get("embed.js", "-"))
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
    response = _smallest(name, max_age=31_536_000)
    response.cache_control.public = True
    response.cache_control.immutable = True
    return response


def _smallest(name: str, *, max_age: int | None = None) -> Response:
    """The file as the build compressed it, where the browser takes that: smaller than an edge makes it in
    passing, and nobody's work. 404 where there is no such file."""
    coding = next(
        (
            one
            for one in CODINGS
            if request.accept_encodings.quality(one) > 0 and _is_there(f"{name}.{CODINGS[one]}")
        ),
        None,
    )
    if coding is None:
        response = send_from_directory(BUILD, name, max_age=max_age)
    else:
        response = send_from_directory(
            BUILD, f"{name}.{CODINGS[coding]}", mimetype=_kind(name), max_age=max_age
        )
        response.headers["Content-Encoding"] = coding
    response.vary.add("Accept-Encoding")
    return response


def _is_there(name: str) -> bool:
    path = safe_join(str(BUILD), name)
    return path is not None and Path(path).is_file()


def _kind(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _for_any_page(response: Response) -> Response:
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response
