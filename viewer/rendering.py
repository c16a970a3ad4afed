"""Documents as HTML that can do no harm: markdown and code.

What comes out has passed nh3 with a short list of elements, classes and kinds of addresses, whatever stood
before it; a page may put it in as it is. It holds no style, no picture and no script, and its links lead to
`http`, `https` and `mailto` alone, in a new tab.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.util import ClassNotFound

MOST_RENDERED_BYTES = 256 * 1024
"""Of one document: more is cut off before it is looked at, so that nobody keeps a thread busy with it."""
_TAG = re.compile(r"<[^>]*>")
_SCHEMES = frozenset({"http", "https", "mailto"})
_TAGS = frozenset({
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol",
    "p", "pre", "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
})  # fmt: skip
_ATTRIBUTES = {
    "a": {"href", "title"},
    "ol": {"start"},
    **{tag: {"class"} for tag in ("span", "div", "pre", "code", "td", "th")},
}


def markdown_html(text: str) -> str | None:
    """None where nothing would be seen of it, such as of what is nested too deep: its text says more."""
    html = _clean(_markdown().render(text))
    return html if _TAG.sub("", html).strip() else None


def code_html(text: str, *, language: str | None, path: str | None) -> str | None:
    """With Pygments' classes; None for a language that it does not know."""
    lexer = _lexer(language, path)
    return None if lexer is None else _clean(_highlighted(text, lexer))


def _clean(html: str) -> str:
    return nh3.clean(
        html,
        tags=set(_TAGS),
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        url_schemes=set(_SCHEMES),
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def _highlighted(text: str, lexer: Lexer) -> str:
    return highlight(text, lexer, HtmlFormatter(nowrap=False, cssclass="code"))


def _lexer(language: str | None, path: str | None) -> Lexer | None:
    try:
        if language is not None:
            return get_lexer_by_name(language, stripnl=False, ensurenl=False)
        if path is not None:
            return get_lexer_for_filename(path, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    return None


def _markdown() -> MarkdownIt:
    # "js-default" is CommonMark with tables and strike-through; HTML in it is text.
    markdown = MarkdownIt("js-default", {"html": False, "linkify": False, "highlight": _fence})
    markdown.validateLink = _may_be_linked  # type: ignore[method-assign]
    markdown.add_render_rule("image", _picture)
    for cell in ("th_open", "td_open"):
        markdown.add_render_rule(cell, _cell)
    return markdown


def _may_be_linked(url: str) -> bool:
    """Not what is relative either: a document has no address that it could be relative to."""
    try:
        return urlsplit(url.strip()).scheme.lower() in _SCHEMES
    except ValueError:
        return False


def _fence(text: str, language: str, _attributes: str) -> str:
    """A fenced block; "" leaves it plain."""
    lexer = _lexer(language or None, None)
    return "" if lexer is None else f"<pre>{highlight(text, lexer, HtmlFormatter(nowrap=True))}</pre>"


def _picture(
    self: RendererHTML,
    tokens: Sequence[Token],
    index: int,
    options: OptionsDict,
    environment: MutableMapping[str, Any],
) -> str:
    """A link to it: a picture from elsewhere would tell its server who reads this, and when."""
    token = tokens[index]
    words = self.renderInlineAsText(token.children, options, environment) if token.children else ""
    source = str(token.attrs.get("src", ""))
    return f'<a href="{escapeHtml(source)}">{escapeHtml(words or source)}</a>'


def _cell(
    self: RendererHTML,
    tokens: Sequence[Token],
    index: int,
    options: OptionsDict,
    environment: MutableMapping[str, Any],
) -> str:
    """Its alignment as a class: no style passes the pages' policy."""
    style = str(tokens[index].attrs.pop("style", ""))
    if style:
        tokens[index].attrs["class"] = f"align-{style.rpartition(':')[2]}"
    return self.renderToken(tokens, index, options, environment)
