"""Write the table of actions into docs/audit.md: `python -m tests.audit_actions`."""

from __future__ import annotations

import re
from pathlib import Path

from viewer.audit import ACTIONS

PAGE = Path(__file__).parent.parent / "docs" / "audit.md"
_HEAD = "| action | means |\n|---|---|\n"


def written(page: str) -> str:
    """The page with the table of the code."""
    table = "".join(f"| `{action}` | {meaning} |\n" for action, meaning in ACTIONS.items())
    return re.sub(re.escape(_HEAD) + r"(\| .*\n)*", lambda _: _HEAD + table, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
