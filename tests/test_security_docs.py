"""The page about security names tests for what it says; each of them is there, and each threat has one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/security.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def threats() -> list[tuple[str, str]]:
    """Threat and cell of tests of each row."""
    table = PAGE.partition("| threat |")[2]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return [(row[0].strip(), row[-1].strip()) for row in rows]


def test_each_threat_has_a_test_that_exists() -> None:
    rows = threats()
    assert len(rows) > 30
    missing = []
    for threat, cell in rows:
        named = NAMED.findall(cell)
        if not named:
            missing.append(f"{threat}: no test")
        for file, test in named:
            path = ROOT / file
            if not path.is_file() or not re.search(rf"^def {test}\(", path.read_text(), re.MULTILINE):
                missing.append(f"{threat}: {file}::{test}")
    assert missing == []


def test_readme_leads_there() -> None:
    assert "docs/security.md" in (ROOT / "README.md").read_text()
