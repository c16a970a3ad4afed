"""The build of the pages: what it needs, what it leaves, and that the same sources give the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from viewer.frontend.hatch_build import FRONTEND, PagesNotBuilt, build_pages

needs_npm = pytest.mark.real


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the frontend without what npm brought."""
    copy = tmp_path / "frontend"
    shutil.copytree(FRONTEND, copy, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    return copy


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@needs_npm
def test_the_same_sources_give_the_same_bytes_and_are_built_once(sources: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first, second = tmp_path / "first" / "build", tmp_path / "second" / "build"
    assert build_pages(frontend=sources, build=first, say=said.append)
    assert "downloading" in said[0]
    assert not build_pages(frontend=sources, build=first, say=said.append)
    said.clear()
    assert build_pages(frontend=sources, build=second, say=said.append)
    assert contents(first) == contents(second)
    assert not any("downloading" in line for line in said)


@needs_npm
def test_a_changed_source_changes_its_name_and_no_other_page(sources: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    build_pages(frontend=sources, build=build, say=lambda _line: None)
    before = json.loads((build / "manifest.json").read_text())["files"]
    styles = sources / "src" / "pages" / "app.css"
    styles.write_text(styles.read_text() + "body { margin: 1px }\n")
    assert build_pages(frontend=sources, build=build, say=lambda _line: None)
    after = json.loads((build / "manifest.json").read_text())["files"]
    assert {name for name in after if after[name] != before[name]} == {"app.css"}
    assert not (build / before["app.css"]).exists()


@needs_npm
def test_the_licences_of_what_is_inside_travel_along(sources: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    build_pages(frontend=sources, build=build, say=lambda _line: None)
    name = json.loads((build / "manifest.json").read_text())["files"]["licences.txt"]
    text = (build / name).read_text()
    for part in (
        "noVNC 1.7.0, unmodified",
        "Lucide 1.65.0",
        "ISC License",
        "Mozilla Public License Version 2.0",
        "Permission is hereby granted",
    ):
        assert part in text


def test_without_a_registry_the_build_stops_with_one_sentence(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(PagesNotBuilt) as stopped:
        build_pages(frontend=sources, build=tmp_path / "build", say=lambda _line: None)
    sentence = str(stopped.value)
    assert sentence.startswith("Pages: npm could not bring noVNC, icons and esbuild: ")
    assert "127.0.0.1:9" in sentence
    assert "\n" not in sentence
    assert not (tmp_path / "build").exists()


def test_the_lock_file_names_versions_and_hashes_but_no_registry() -> None:
    lock = json.loads((FRONTEND / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages["node_modules/@novnc/novnc"]["version"] == "1.7.0"
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
