"""What agents write cannot command the terminal of whoever asks for it with `deskfleet`, nor fake a line."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from datetime import timedelta
from typing import Any

import httpx
import pytest
from flask import Flask

from tests.test_cli import Shell, home, shell
from tests.viewer_fixtures import People, running_session
from viewer.cli.events import as_text, read_events
from viewer.cli.main import run
from viewer.cli.output import Output, escaped, harmless
from viewer.documents import NewDocument
from viewer.model import (
    DocumentType,
    Lease,
    LeaseHolder,
    LeaseKind,
    LeaseState,
    Principal,
    Role,
    Status,
    utcnow,
)
from viewer.public_leases import public_lease
from viewer.store import Store
from viewer.work import NewAgent, NewTask

__all__ = ["home", "shell"]

TERMINAL = "\x1b]0;title\x07\x1b[2J\x9b31mred\rfake\x08\x7f\nsession  running\u202egnp\u2028end"
"""Title, erase, colour, back to the line's begin, another line, and letters that turn the rest around."""


def is_harmless(said: str) -> bool:
    return all(
        unicodedata.category(letter) not in ("Cc", "Cf", "Zl", "Zp") for letter in said.replace("\n", "")
    )


@pytest.fixture
def ids(store: Store, people: People) -> dict[str, str]:
    """A tenant in which all that others may write says that, past the API's own checks."""
    tenant = people.alice.tenant
    who = Principal(id="key:agent", tenant=tenant, role=Role.OPERATOR, via="key")
    store.work(tenant).put_task(NewTask(id="t-1", title=TERMINAL, agent_id="a-1", external_run_id=TERMINAL))
    store.work(tenant).put_agent(NewAgent(id="a-1", name=TERMINAL))
    session = running_session(
        store, people.alice, task_id=TERMINAL, agent_id=TERMINAL, labels={"note": TERMINAL}
    )
    store.help(tenant).ask(session.id, TERMINAL, who)
    store.leases.take(session, who, name=TERMINAL, kind=LeaseKind.AGENT, reason=TERMINAL, seconds=600)
    store.shares.create(session, who, label=TERMINAL, life=timedelta(hours=1), is_single_use=False)
    failed = running_session(store, people.alice, sandbox_id="box-2")
    store.fleet.transition(failed.id, Status.ERROR, reason=TERMINAL, error_message=TERMINAL)
    document = NewDocument(
        title=TERMINAL, type=DocumentType.TEXT, content=TERMINAL.encode(), media_type="text/plain",
        task_id=TERMINAL, agent_id=TERMINAL, session_id=session.id, path=TERMINAL, created_by=TERMINAL,
    )  # fmt: skip
    made = store.documents(tenant).put(document).document
    return {"session": session.id, "failed": failed.id, "document": made.id}


COMMANDS = [
    "sessions list",
    "sessions show {session}",
    "sessions show {failed}",
    "sessions history {failed}",
    "sessions help {session}",
    "sessions label {session} more=1",
    "sessions wait {failed}",
    "lease show {session}",
    "lease take {session}",
    "shares list {session}",
    "tasks list",
    "tasks show t-1",
    "agents list",
    "agents show a-1",
    "documents list",
    "documents show {document}",
    "streams list {session}",
    "audit list",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["", " --json"])
def test_no_command_brings_an_agents_letters_to_the_terminal(
    shell: Shell, people: People, ids: dict[str, str], command: str, form: str
) -> None:
    shell(people.ada, command.format(**ids) + form)
    assert shell.out + shell.err
    assert is_harmless(shell.out), ascii(shell.out)
    assert is_harmless(shell.err), ascii(shell.err)
    # A line of an agent's own is part of the line in which his text stands.
    assert not any(line.startswith("session  running") for line in shell.out.splitlines())
    if form and shell.out:
        assert json.loads(shell.out)


def test_what_was_written_is_in_the_documents_for_programs_as_it_was(
    shell: Shell, people: People, ids: dict[str, str]
) -> None:
    assert shell.document(people.alice, f"sessions show {ids['failed']}")["error_message"] == TERMINAL
    assert json.loads(escaped(json.dumps("\U000e0067\x9b", ensure_ascii=False))) == "\U000e0067\x9b"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_content_of_a_document_is_as_it_is_for_a_pipe_and_harmless_on_a_terminal(
    app: Flask, people: People, ids: dict[str, str], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (io.TextIOWrapper, Terminal):
        with monkeypatch.context() as patched:
            seen = io.BytesIO()
            patched.setattr(sys, "stdout", kind(seen, write_through=True))
            monkeypatch.setenv("DESKFLEET_KEY", people.alice.key)
            assert run(["documents", "get", ids["document"]], httpx.WSGITransport(app)) == 0
            got = seen.getvalue()
        if kind is Terminal:
            assert is_harmless(got.decode())
            assert "red" in got.decode()
        else:
            assert got == TERMINAL.encode()


def test_events_and_refusals_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    holder = LeaseHolder(kind=LeaseKind.AGENT, id="key:x", name=TERMINAL)
    lease = Lease(session_id="s", number=1, holder=holder, since=utcnow(), reason=TERMINAL)
    data: Any = public_lease(LeaseState(lease=lease, at=utcnow()))
    (event,) = read_events(["id: 7", "event: lease", f"data: {data.model_dump_json()}", ""])
    for as_json in (False, True):
        Output(as_json=as_json).line(event, as_text(event))
        Output(as_json=as_json).note(TERMINAL)
    said = capsys.readouterr()
    assert is_harmless(said.out)
    assert is_harmless(said.err)


def test_what_is_text_stays_as_it_is() -> None:
    text = "größe\t漢字\u3000\u00a0🙂\nnext"
    assert harmless(text) == text
