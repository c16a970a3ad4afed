"""Task ids in addresses: whatever an outside system calls its tasks, each has a page of its own."""

from __future__ import annotations

import html
import re
from urllib.parse import quote, unquote

import pytest

from tests.viewer_fixtures import People, ViewerClient, sign_in
from viewer.pages import own_page
from viewer.store import Store
from viewer.task_addresses import segment_of, task_id_in
from viewer.work import NewTask

ODD = (
    "a/b", "a//b", "/", "a/panel", "../../etc", ".", "..", "...", "a\\b", "a?b", "a#b", "a%2Fb", "100%",
    "a b", " a", "~", "~YQ", "größe", "\u202eabc", "🙂/🙂", "a;b", "a+b", "a&b=c", "<b>\"'", "(it's!)*",
    "x" * 200, "/" * 200,
)  # fmt: skip


def row(text: str) -> str:
    return text if len(text) < 20 else f"{text[:3]}-{len(text)}"


def _as_browsers_write_it(path: str) -> str:
    return quote(unquote(path), safe="/!~*'()")


def _attribute(page: str, name: str) -> str:
    found = re.search(f'{name}="([^"]*)"', page)
    assert found is not None
    return html.unescape(found[1])


@pytest.mark.parametrize("task_id", ODD, ids=row)
def test_every_id_has_a_page_a_panel_and_a_place_in_the_api(
    client: ViewerClient, store: Store, people: People, task_id: str
) -> None:
    work = store.work("acme")
    # Those that one could take it for are there too.
    for one in (task_id, "a", "b", "panel", "a/b/panel", task_id + "/panel"):
        work.put_task(NewTask(id=one))
    segment, cookie = segment_of(task_id), sign_in(store, people.alice)
    for path in (f"/tasks/{segment}", f"/tasks/{segment}/panel"):
        page = client.get(path, headers=cookie)
        assert page.status_code == 200, path
        assert _attribute(page.get_data(as_text=True), "data-task") == task_id
    found = client.get(f"/api/v1/tasks/{segment}", headers=people.alice.headers)
    assert found.json["id"] == task_id
    assert client.get(f"/tasks/{segment}", headers=sign_in(store, people.bob)).status_code == 404


@pytest.mark.parametrize("task_id", ODD, ids=row)
def test_sign_in_leads_back_to_it(client: ViewerClient, task_id: str) -> None:
    for path in (f"/tasks/{segment_of(task_id)}", f"/tasks/{segment_of(task_id)}/panel"):
        answer = client.get(path)
        assert answer.status_code == 303
        seen = client.get(answer.headers["Location"])
        assert (
            _attribute(seen.get_data(as_text=True), "data-next")
            == own_page(_as_browsers_write_it(path))
            != "/sandboxes"
        )


@pytest.mark.parametrize("segment", ["~!", "~a", "~_w", "~YQ%0A", "~größe"])
def test_what_wraps_no_id_is_not_there(
    client: ViewerClient, store: Store, people: People, segment: str
) -> None:
    assert client.get(f"/tasks/{segment}", headers=sign_in(store, people.alice)).status_code == 404
    assert client.get(f"/api/v1/tasks/{segment}", headers=people.alice.headers).status_code == 404


@pytest.mark.parametrize(
    "elsewhere", ["/tasks//evil.example", "/tasks/a/b", "/tasks/a\\b", "/tasks/a b", "/tasks/a/panel/x"]
)
def test_nothing_else_is_a_way_back(elsewhere: str) -> None:
    assert own_page(elsewhere) == "/sandboxes"


def test_plain_ids_stay_readable() -> None:
    assert segment_of("JIRA-12.b") == "JIRA-12.b"
    assert task_id_in("JIRA-12.b") == "JIRA-12.b"
