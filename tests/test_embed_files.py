"""The files of the element for pages of other origins: who may load them, and how long they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from werkzeug.datastructures import Headers

import viewer.assets
from tests.viewer_fixtures import ORIGIN, OTHER_ORIGIN, ViewerClient
from viewer.frontend.hatch_build import in_shadow_root

SCRIPT = "/embed/sandbox-viewer.js"
FOREIGN = {"Origin": "https://anywhere.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}


@pytest.fixture(autouse=True)
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sandbox-viewer-AB12.js").write_text("import './stream-CD34.js';")
    (tmp_path / "stream-CD34.js").write_text("// noVNC")
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"embed.js": "sandbox-viewer-AB12.js"}}))
    monkeypatch.setattr(viewer.assets, "BUILD", tmp_path)
    return tmp_path


class Answer(NamedTuple):
    status_code: int
    text: str
    mimetype: str
    headers: Headers


def get(client: ViewerClient, path: str, *, base_url: str = ORIGIN, **headers: str) -> Answer:
    """By a page of another origin. Read to its end, so that its file is closed."""
    sent = {**FOREIGN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    with client.get(path, headers=sent, base_url=base_url) as answer:
        return Answer(answer.status_code, answer.text, answer.mimetype, answer.headers)


def test_any_page_may_load_the_script_and_asks_each_time_for_a_newer_one(
    client: ViewerClient, build: Path
) -> None:
    answer = get(client, SCRIPT)
    assert (answer.status_code, answer.text) == (200, "import './stream-CD34.js';")
    assert answer.mimetype == "text/javascript"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-cache"
    known = answer.headers["ETag"]
    assert get(client, SCRIPT, If_None_Match=known).status_code == 304
    (build / "manifest.json").write_text(json.dumps({"files": {"embed.js": "stream-CD34.js"}}))
    assert get(client, SCRIPT, If_None_Match=known).status_code == 200


def test_what_the_script_loads_is_kept_for_good(client: ViewerClient) -> None:
    answer = get(client, "/embed/stream-CD34.js")
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert "immutable" in answer.headers["Cache-Control"]
    for name in ("manifest.json", "nothing-AB12.js", "../pages.py", "%2e%2e/pages-1.py"):
        assert get(client, f"/embed/{name}").status_code == 404


def test_the_pages_own_files_stay_the_pages_own(client: ViewerClient) -> None:
    answer = get(client, "/static/build/stream-CD34.js")
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_script_is_answered_at_each_name_of_the_viewer(client: ViewerClient) -> None:
    """A redirect to the canonical name would be one more address in the page's policy."""
    assert get(client, SCRIPT, base_url=OTHER_ORIGIN).status_code == 200


def test_pages_that_were_not_built_have_no_script(client: ViewerClient, build: Path) -> None:
    (build / "manifest.json").unlink()
    assert get(client, SCRIPT).status_code == 404


@pytest.mark.parametrize(
    ("ours", "inside"),
    [
        (":root{--gap:1rem}", ":host{--gap:1rem}"),
        (':root[data-theme="dark"]{color-scheme:dark}', ':host([data-theme="dark"]){color-scheme:dark}'),
        (":root,:root[data-a][data-b]{}", ":host,:host([data-a][data-b]){}"),
        ("sandbox-viewer:fullscreen .x{}", "deskfleet-viewer:fullscreen .x{}"),
        ("sandbox-viewer[compact]>p{}", "deskfleet-viewer[compact]>p{}"),
        (".my-sandbox-viewer,.sandbox-viewer-x{}", ".my-sandbox-viewer,.sandbox-viewer-x{}"),
    ],
)
def test_styles_of_a_page_become_those_of_a_shadow_root(ours: str, inside: str) -> None:
    assert in_shadow_root(ours) == inside
