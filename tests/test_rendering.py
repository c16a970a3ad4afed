"""What markdown and code become in a page: elements that do no harm, whatever stood in them."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import settings as examples_of
from hypothesis import strategies as st

from viewer.rendering import code_html, markdown_html

TAGS = {
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol",
    "p", "pre", "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {"class", "href", "rel", "start", "target", "title"}


class Seen(HTMLParser):
    """The elements of some HTML, and what is wrong with them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.wrong: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.wrong += [tag] if tag not in TAGS else []
        self.wrong += [f"{tag} {name}" for name, _ in attributes if name not in ATTRIBUTES]
        self.links += [value or "" for name, value in attributes if name == "href"]

    @property
    def is_harmless(self) -> bool:
        ours = ("http:", "https:", "mailto:")
        return not self.wrong and all(link.lower().startswith(ours) for link in self.links)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script> a",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1))",
        "[a](  JAVASCRIPT:alert(1))",
        "[a](java&#115;cript:alert(1))",
        "[a](data:text/html,<script>alert(1)</script>)",
        "[a](vbscript:x) [b](file:///etc/passwd) [c](//foreign.example) [d](/signout) [e](#x)",
        "<javascript:alert(1)> <https://example.com/'onclick='x>",
        '[a](https://example.com "\\" onmouseover=alert(1) \\"")',
        "![a](javascript:alert(1)) ![b](data:image/svg+xml,x)",
        '```"><script>alert(1)</script>\na\n```',
        "```python onload=alert(1)\nprint()\n```",
        "| a |\n|:-:|\n| <svg onload=alert(1)> |",
    ],
)
def test_nothing_in_markdown_runs_or_leads_elsewhere_by_itself(text: str) -> None:
    seen = Seen(markdown_html(text) or "")
    assert seen.is_harmless, (seen.wrong, seen.links)


PIECES = [
    "<script>", "</script>", "<img src=x onerror=a>", "[", "](", ")", "javascript:", "https://a.example", "`",
    "```", "\n\n", '"', "'", "&#106;", "<", ">", "![", "|", "|---|", "a", " ", "> ", "* ", "<!--", "-->",
    "\\", "\u202e", "<a href='javascript:a'>", "data:text/html,", "onload=a", "style=a", "\x00",
]  # fmt: skip


@examples_of(deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.sampled_from([None, "html", "python", "x"]),
)
def test_no_mixture_of_hostile_pieces_gets_through(text: str, language: str | None) -> None:  # fmt: skip
    assert Seen(markdown_html(text) or "").is_harmless
    assert Seen(code_html(text, language=language, path=None) or "").is_harmless


def test_picture_becomes_a_link_and_a_link_says_nothing_of_its_reader() -> None:
    html = markdown_html("![A chart](https://foreign.example/p.png)") or ""
    assert "<img" not in html
    assert 'href="https://foreign.example/p.png"' in html
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'target="_blank"' in html
    assert ">A chart</a>" in html


def test_tables_keep_their_alignment_without_a_style() -> None:
    html = markdown_html("| a |\n|--:|\n| 1 |\n") or ""
    assert '<td class="align-right">1</td>' in html
    assert "style" not in html


def test_markdown_of_which_nothing_would_be_seen_is_text() -> None:
    assert markdown_html("[x]: https://example.com") is None
    assert markdown_html("") is None


def test_code_is_coloured_by_its_language_or_its_path_and_otherwise_left_as_it_is() -> None:
    assert '<span class="k">def</span>' in (code_html("def a(): 1", language="python", path=None) or "")
    assert '<span class="k">def</span>' in (code_html("def a(): 1", language=None, path="x/a.py") or "")
    assert code_html("def a(): 1", language="no such thing", path="a.py") is None
    assert code_html("def a(): 1", language=None, path="a.no-such-ending") is None
    assert code_html("def a(): 1", language=None, path=None) is None
