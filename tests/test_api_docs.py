"""docs/api.md and docs/api-reference.md say what the API does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from flask import Flask

from tests.api_reference import PAGE, page
from tests.viewer_fixtures import People, ViewerClient, running_session
from viewer import __version__
from viewer.openapi import document
from viewer.store import Store

ROOT = Path(__file__).parent.parent
HOW_TO = ROOT / "docs" / "api.md"


def test_reference_is_that_of_the_code(app: Flask) -> None:
    # Through JSON, as whoever reads it has it.
    described = json.loads(json.dumps(document(app, __version__)))
    assert page(described) == PAGE.read_text(), "run `make reference`"


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}


@pytest.mark.parametrize(
    "source", [*sorted(HOW_TO.parent.glob("*.md")), ROOT / "README.md"], ids=lambda one: one.name
)
def test_every_link_leads_somewhere(source: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]*)\)", source.read_text()):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            target = source.parent / file if file else source
            assert target.is_file(), link
            assert not anchor or anchor in anchors_of(target), link


def examples() -> list[list[str]]:
    """Every call of `api` in the page: method, path, body."""
    lines = [line for line in HOW_TO.read_text().splitlines() if re.match(r"api [A-Z]", line)]
    return [shlex.split(line)[1:] for line in lines]


def test_every_example_is_accepted(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    found = examples()
    assert len(found) > 20
    for method, path, *body in found:
        headers: dict[str, Any] = {
            **people.alice.headers,
            **({"Content-Type": "application/json"} if body else {}),
        }
        # Nobody works on the sessions here, so that each wait would be in vain.
        with patch("viewer.session_api.wait_until", lambda session, _reached, _seconds: session):
            answer = client.open(
                f"/api/v1{path.replace('$id', session.id)}",
                method=method,
                headers=headers,
                data="".join(body),
            )
        assert answer.status_code < 400, (method, path, answer.get_data(as_text=True))
