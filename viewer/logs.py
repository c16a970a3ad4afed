"""Logs of all our programs: one JSON object a line on stderr, and no secret in any of them.

A line has `time` (UTC), `level`, `program`, `logger`, `message`, and what is known of FIELDS; a traceback is
in `exception`. `DESKFLEET_LOG=text` writes lines for people instead.

Secrets are taken out where a line is written, so that nobody who logs has to remember it: by their looks (our
keys, tokens, sealed values), by the name before them (headers, passwords, environments), and by their value
where that is known (`hide`). Only the standard library is imported here, so that every module may log.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import quote

VARIABLE = "DESKFLEET_LOG"
FIELDS = ("request_id", "session_id", "tenant", "host", "method", "path", "status", "ms")
"""What a line may say of itself beside its message: by `extra=`, or by `about` for all lines below it."""

HIDDEN = "[hidden]"
SHORTEST_HIDDEN = 6
"""Characters. A shorter value cannot be told from an ordinary word, so it is hidden by its name alone."""
_MOST_OWN, _MOST_GIVEN = 20_000, 5_000
_LOUD = ("alembic", "docker", "httpcore", "httpx", "urllib3")
_HARMLESS = frozenset({"RESOLUTION", "LANG", "LANGUAGE", "LC_ALL", "TZ"})
"""Variables of a sandbox's environment that are no secrets and would be missed in logs."""

_about: ContextVar[Mapping[str, str]] = ContextVar("what the log lines are about", default={})  # noqa: B039


# --- what lines are about ---------------------------------------------------------------------------


def bind(**fields: str) -> None:
    """Let all further lines of this thread or task have these fields, and no others."""
    _about.set(fields)


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Let the lines written inside have these fields too."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def request_id() -> str | None:
    """The request that this thread or task works on, if it said so."""
    return _about.get().get("request_id")


# --- secrets ----------------------------------------------------------------------------------------

_HEADERS = (
    r"authorization|cookie|open[-_]sandbox[-_]api[-_]key|x[-_]api[-_]key|x[-_]df[-_][\w-]{1,40}"
    r"|sec[-_]websocket[-_]protocol"
)
_NAMES = r"password|passwd|passphrase|secret|token|ticket|api[-_]?key|private[-_]?key"
# No pattern may begin with what repeats: a client chooses the paths that are searched.
_QUOTED = r"b?(?P<q>\\*[\"'])(?s:.*?)(?P=q)"
_PATTERNS = [
    # Anything by its name: `env={…}`, `"environment": {…}`, as JSON, as Python, as JSON inside JSON.
    (re.compile(r"(?i)(\benv(?:ironment)?\\*[\"']?\s*[:=]\s*)\{[^{}]*\}"), rf"\1{{{HIDDEN}}}"),
    (re.compile(rf"(?i)((?:{_HEADERS})\\*[\"']?\s*[:=,]\s*){_QUOTED}"), rf"\1{HIDDEN}"),
    (re.compile(rf"(?im)((?:{_HEADERS})\s*[:=]\s*)(?!\[hidden)\S.*$"), rf"\1{HIDDEN}"),
    (re.compile(rf"(?i)((?:{_NAMES})\\*[\"']?\s*[:=]\s*){_QUOTED}"), rf"\1{HIDDEN}"),
    (re.compile(rf"(?i)((?:{_NAMES})\s*[:=]\s*)(?!\[hidden)[^\s,;&)}}\]]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\b((?:Bearer|bearer|Basic)\s+)[A-Za-z0-9._~+/=-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+@"), f"{HIDDEN}@"),
    (re.compile(r"\?[\w.~%-]+=[^\s\"'<>]*"), "?…"),
    # Anything by its looks: our keys (their id is no secret), what Fernet sealed, and 32 random bytes.
    (re.compile(r"df_([a-z0-9]{8})_[A-Za-z0-9_-]+"), rf"df_\1_{HIDDEN}"),
    (re.compile(r"dft_[A-Za-z0-9_.-]+"), f"dft_{HIDDEN}"),
    (re.compile(r"whsec_[A-Za-z0-9+/%=]{6,}"), f"whsec_{HIDDEN}"),
    (re.compile(r"gAAAA[A-Za-z0-9_-]+={0,2}"), HIDDEN),
    # Mixed case, because a digest is as long.
    (
        re.compile(r"(?<![A-Za-z0-9_-])(?=[a-z0-9_-]*[A-Z])(?=[A-Z0-9_-]*[a-z])[A-Za-z0-9_-]{43,}=?"),
        HIDDEN,
    ),
]


class _KnownSecrets:
    """Values that this process knows to be secrets; the oldest are forgotten. Safe to share."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[str, None] = OrderedDict()

    def add(self, value: str) -> None:
        # Also as it looks inside a Python or JSON string, and in an address.
        forms = {value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value, safe="")}
        with self._lock:
            for form in forms:
                self._values[form] = None
                self._values.move_to_end(form)
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def cover(self, text: str) -> str:
        with self._lock:
            found = [value for value in self._values if value in text]
        for value in sorted(found, key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return text


_own = _KnownSecrets(_MOST_OWN)
# Apart, so that no tenant can push out the fleet's own, or choose "secrets" that blot out who did what.
_given = _KnownSecrets(_MOST_GIVEN)


def hide(value: str) -> None:
    """Never write this value into a log of this process; for whoever makes, reads or opens a secret."""
    _hide(value, _own)


def hide_given(value: str) -> None:
    """The same for what is somebody's own secret, such as his password."""
    _hide(value, _given)


def hide_environment(environment: Mapping[str, str]) -> None:
    """The same for the values of a sandbox's environment: any of them may be a secret of its maker."""
    for name, value in environment.items():
        if name not in _HARMLESS:
            _hide(value, _given)


def _hide(value: str, known: _KnownSecrets) -> None:
    for part in {value, *value.splitlines()}:
        if len(part.strip()) >= SHORTEST_HIDDEN:
            known.add(part.strip())


def redact(text: str, *, given: bool = True) -> str:
    """The text without what is, or looks like, a secret. `given` False: also where a tenant calls it one,
    for what we ourselves say of who did what."""
    text = _own.cover(text)
    if given:
        text = _given.cover(text)
    for pattern, put in _PATTERNS:
        text = pattern.sub(put, text)
    return text


# --- lines ------------------------------------------------------------------------------------------


class JsonLines(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time_of(record),
            "level": record.levelname,
            "program": self._program,
            "logger": record.name,
            "message": redact(record.getMessage()),
            **_fields_of(record),
        }
        trace = _trace_of(self, record)
        if trace:
            line["exception"] = trace
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """For people: time, level, message, and then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields_of(record).items())
        # What came from outside must not look like a line of its own.
        message = re.sub(r"[\x00-\x1f\x7f]", "?", redact(record.getMessage()) + fields)
        trace = _trace_of(self, record)
        return f"{_time_of(record)} {record.levelname} {message}" + (f"\n{trace}" if trace else "")


class _Stderr(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """Python's own would print the arguments as they are."""
        kind = getattr(sys.exc_info()[0], "__name__", "an error")
        where = f"{record.name}, {record.filename}:{record.lineno}"
        print(
            json.dumps({"level": "ERROR", "message": f"a line of {where} was lost: {kind}"}), file=sys.stderr
        )


def set_up(program: str) -> None:
    """Write this process's log; called once, first thing. Exits with 2 where DESKFLEET_LOG is wrong."""
    wanted = os.environ.get(VARIABLE) or "json"
    if wanted not in ("json", "text"):
        print(f"{program}: {VARIABLE}: {wanted[:40]!r} is not known; give json or text", file=sys.stderr)
        sys.exit(2)
    handler = _Stderr(sys.stderr)
    handler.setFormatter(JsonLines(program) if wanted == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_the_end
    threading.excepthook = _log_the_end_of_a_thread


def _log_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("deskfleet").critical("the program failed", exc_info=(kind, error, trace))


def _log_the_end_of_a_thread(what: threading.ExceptHookArgs) -> None:
    name = what.thread.name if what.thread else "?"
    error = what.exc_value
    if error is not None and what.exc_type is not SystemExit:
        logging.getLogger("deskfleet").error("thread %s failed", name, exc_info=error)


def _time_of(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields_of(record: logging.LogRecord) -> dict[str, str | int | float]:
    known = _about.get()
    found: dict[str, str | int | float] = {}
    for name in FIELDS:
        value: Any = getattr(record, name, known.get(name))
        if value is not None:
            plain = isinstance(value, int | float)
            found[name] = value if plain else redact(str(value), given=name == "path")
    return found


def _trace_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    # Not `record.exc_text`, where another handler may have left it as it was.
    trace = formatter.formatException(record.exc_info) if record.exc_info else ""
    if record.stack_info:
        trace += formatter.formatStack(record.stack_info)
    return redact(trace)
