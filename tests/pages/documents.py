"""Documents for the pages' tests, put down as an agent would."""

from __future__ import annotations

import io
from typing import Any, cast

from PIL import Image
from playwright.sync_api import Page

from tests.pages.site import PagesSite
from viewer.documents import NewDocument
from viewer.model import Document, DocumentType

PYTHON = 'def greet(name: str) -> str:\n    """Say hello."""\n    return f"Hello, {name}"  # politely\n'
MARKDOWN = """# Findings

The build **fails** since [change 41](https://example.com/41), see `make.log`.

| step | seconds |
|---|---:|
| fetch | 12 |
| build | 340 |

```python
print("again")
```

> It is the cache.
"""


def picture(size: tuple[int, int] = (320, 200)) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(data, "PNG")
    return data.getvalue()


def put(site: PagesSite, content: str | bytes = "hello", **fields: Any) -> Document:
    values = {
        "title": "Notes",
        "type": DocumentType.TEXT,
        "media_type": "text/plain",
        "created_by": "tests",
        "content": content.encode() if isinstance(content, str) else content,
    }
    return site.store.documents(site.tenant).put(NewDocument.model_validate({**values, **fields})).document


def one_of_each(site: PagesSite, task: str = "t-1") -> dict[DocumentType, Document]:
    """The newest is the markdown."""
    session = site.running(task=task)
    return {
        DocumentType.SANDBOX: put(
            site, "{}", title="The desktop", type="sandbox", session_id=session.id, task_id=task
        ),
        DocumentType.FILE: put(
            site, b"\x00" * 5000, title="Archive", type="file", media_type="application/zip",
            path="out/archive.zip", task_id=task,
        ),
        DocumentType.IMAGE: put(
            site, picture(), title="Chart", type="image", media_type="image/png", task_id=task
        ),
        DocumentType.TEXT: put(site, "one\ntwo\n", title="Log", path="make.log", task_id=task),
        DocumentType.CODE: put(
            site, PYTHON, title="greet.py", type="code", language="python", path="src/greet.py", task_id=task
        ),
        DocumentType.MARKDOWN: put(
            site, MARKDOWN, title="Findings", type="markdown", media_type="text/markdown",
            path="out/findings.md", task_id=task,
        ),
    }  # fmt: skip


def post(page: Page, **fields: Any) -> dict[str, Any]:
    """Through the API itself, by the browser that the page is in; it must be on a page of ours."""
    script = """async fields => {
        const headers = {"Content-Type": "application/json"}, body = JSON.stringify(fields);
        const answer = await fetch("/api/v1/documents", {method: "POST", headers, body});
        return [answer.status, await answer.json()];
    }"""
    status, answer = page.evaluate(script, fields)
    if status != 201:
        raise AssertionError(f"the document was answered with {status}: {answer}")
    return cast(dict[str, Any], answer)
