"""The house rules that a machine can check: what may lie where, and what no file may name."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {
    "pyproject.toml", "deploy.py", "inventory", "templates", "roles", "viewer", "tests", "README.md",
    "config.py", "Makefile", ".ci", "CHANGELOG.md", "docs", ".gitignore",
    "requirements-deploy.lock", "requirements-dev.lock",
}  # fmt: skip
LOCKS = ["requirements-deploy.lock", "requirements-dev.lock"]
HOST_LOCKS = ["templates/viewer/requirements.txt", "templates/opensandbox/requirements.txt"]

# Written as patterns, so that this file does not name them either.
REGISTRIES = re.compile(
    r"pypi[.]org|pythonhosted[.]org|npmjs[.](org|com)|(deb|security|archive|snapshot|cdn|ftp)[.a-z]*[.]debian[.]org"
    r"|registry(-1)?[.]docker[.]io|ghcr[.]io|quay[.]io|mcr[.]microsoft[.]com|proxy[.]golang[.]org|crates[.]io"
)
WORKPLACE = re.compile(
    r"(?<![\w.])/work/|[.]library/|\bfarm-(bench|studio)\b|/opt/(pypi|wheels)|\bplan[.]md\b"
)


@cache
def tracked_files() -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked_files():
        if path == Path(__file__) or path.suffix in {".png", ".woff2", ".ico"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    return found


def test_top_level_holds_only_what_was_agreed() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked_files()} <= TOP_LEVEL


def test_no_file_names_a_package_registry_or_mirror() -> None:
    assert lines_matching(REGISTRIES) == []


def test_no_file_speaks_of_the_place_it_was_written_in() -> None:
    assert lines_matching(WORKPLACE) == []


@pytest.mark.parametrize("name", LOCKS + HOST_LOCKS)
def test_every_pinned_requirement_carries_a_hash_and_no_index(name: str) -> None:
    text = (ROOT / name).read_text()
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert requirements
    assert [r for r in requirements if "==" not in r or "--hash=sha256:" not in r] == []
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)


def test_lock_of_the_viewer_agrees_with_the_lock_of_the_tests() -> None:
    """What the tests ran is what the hosts get."""

    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / name).read_text(), flags=re.MULTILINE))

    assert pins("templates/viewer/requirements.txt") <= pins("requirements-dev.lock")
    assert pins("requirements-deploy.lock") <= pins("requirements-dev.lock")
