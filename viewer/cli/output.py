"""What a command prints: one JSON document or a table on stdout, remarks on stderr."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel

from viewer.model import Status, utcnow
from viewer.public import PublicSession

Row = Sequence[str | None]


class Output:
    """as_json: documents instead of what people read."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def show(self, document: BaseModel, text: str) -> None:
        """The whole answer of a command."""
        print(escaped(document.model_dump_json(indent=2)) if self._as_json else harmless(text))

    def line(self, document: BaseModel, text: str | None) -> None:
        """One of many answers, at once; text None: nothing for people."""
        shown = escaped(document.model_dump_json()) if self._as_json else text and harmless(text)
        if shown is not None:
            print(shown, flush=True)

    def note(self, sentence: str) -> None:
        print(harmless(sentence), file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Row]) -> str:
    """Columns as wide as what is in them; an empty table says so."""
    cells = [[plain(cell) for cell in row] for row in rows]
    if not cells:
        return "none"
    lines = [list(header), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def listing(pairs: Iterable[tuple[str, str | None]]) -> str:
    """One line for each value that there is."""
    given = [(plain(name), plain(value)) for name, value in pairs if value]
    width = max(len(name) for name, _ in given)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in given)


def plain(text: str | None) -> str:
    """Names come from agents: no control character of theirs may reach a terminal. `-` for None."""
    return "-" if text is None else "".join(letter if letter.isprintable() else "�" for letter in text)


def harmless(text: str) -> str:
    """The same of whole lines: of a text, or where a `plain` was forgotten."""
    return "".join(letter if letter.isprintable() or _is_space(letter) else "�" for letter in text)


def _is_space(letter: str) -> bool:
    return letter in "\n\t" or unicodedata.category(letter) == "Zs"


def escaped(document: str) -> str:
    """The same JSON: a terminal obeys some letters that JSON has as they are, such as U+009B."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else _escape(letter) for letter in document
    )


def _escape(letter: str) -> str:
    """As JSON has it: in UTF-16."""
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def duration(seconds: float) -> str:
    """`12 s`, `4 min`, `3 h`, `2 d`, as the pages write it."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h" if whole < 86400 else f"{whole // 86400} d"


def age(since: datetime) -> str:
    return duration((utcnow() - since).total_seconds())


def until(then: datetime | None) -> str | None:
    if then is None:
        return None
    left = (then - utcnow()).total_seconds()
    return f"in {duration(left)}" if left > 0 else "now"


def moment(when: datetime | None) -> str | None:
    """The reader's own time."""
    return None if when is None else f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def clock(when: datetime) -> str:
    return f"{when.astimezone():%H:%M:%S}"


def reason_of(session: PublicSession) -> str:
    """Why it is as it is, in words."""
    if session.status is Status.CREATING and session.queue_position is not None:
        return f"waits in line, place {session.queue_position}"
    if session.wanted_status is not None:
        return f"will be {session.wanted_status}"
    return plain(session.error_message or session.status_reason or "")


def session_listing(session: PublicSession) -> str:
    ends, idles = session.expires_at, session.idle_ends_at
    over = session.status.is_terminal
    return listing(
        (
            ("session", session.id),
            ("status", session.status),
            ("reason", reason_of(session)),
            ("needs a person", None if session.help is None else session.help.reason),
            ("image", session.image),
            ("resolution", session.resolution),
            ("host", session.host),
            ("reserves", f"{session.cpu} CPU, {session.memory} memory"),
            ("task", session.task_id),
            ("agent", session.agent_id),
            ("labels", " ".join(f"{name}={value}" for name, value in session.labels.items())),
            ("page", session.page_url),
            ("stream", session.vnc_endpoint),
            ("created", f"{moment(session.created_at)} by {session.created_by}"),
            ("ended", moment(session.terminated_at)),
            ("idle end", None if over or idles is None else f"{moment(idles)} ({until(idles)})"),
            ("ends", None if over or ends is None else f"{moment(ends)} ({until(ends)})"),
        )
    )
