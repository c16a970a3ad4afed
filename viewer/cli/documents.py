"""`deskfleet documents`."""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, whole_number
from viewer.cli.files import new_file
from viewer.cli.output import Output, age, harmless, listing, moment, table
from viewer.cli.paging import collect
from viewer.cli.problems import Misused
from viewer.document_requests import DocumentQuery, PutDocument
from viewer.model import DocumentType
from viewer.public_documents import DocumentList, PublicDocument

_ENDINGS = {
    DocumentType.MARKDOWN: (".md", ".markdown"),
    DocumentType.IMAGE: (".png", ".jpg", ".jpeg", ".gif", ".webp"),
    DocumentType.TEXT: (".txt", ".log", ".csv"),
}
"""What a file is, where nobody says; any other is a file."""


def add_to(nouns: Nouns) -> None:
    verbs = noun(nouns, "documents", "what tasks have brought forth")
    shown = leaf(verbs, "list", _list, "list documents, newest first")
    shown.add_argument("--task", metavar="ID", help="only those of this task")
    shown.add_argument("--session", metavar="ID", help="only those of this session")
    shown.add_argument("--type", choices=[kind.value for kind in DocumentType])
    shown.add_argument("--limit", type=whole_number, default=50, help="how many at most, 50 if not given")
    put = leaf(verbs, "put", _put, "put a file down as a document, or in the place of what was there")
    put.add_argument("file", type=Path, help="the file, or - for standard input")
    put.add_argument("--title", help="the file's name if not given")
    put.add_argument(
        "--type", choices=[kind.value for kind in DocumentType], help="by its ending if not given"
    )
    put.add_argument("--task", metavar="ID")
    put.add_argument("--agent", metavar="ID")
    put.add_argument("--session", metavar="ID")
    put.add_argument("--path", help="where it is for its agent: the same one of the same task is replaced")
    put.add_argument("--language", help="of code, such as python")
    leaf(verbs, "show", _show, "show one document, without its content").add_argument("id")
    got = leaf(verbs, "get", _get, "write a document's content, byte for byte")
    got.add_argument("id")
    got.add_argument("--to", type=Path, metavar="FILE", help="a new file, instead of standard output")
    leaf(verbs, "delete", _delete, "delete a document").add_argument("id")


def _list(asked: argparse.Namespace, api: Api, out: Output) -> int:
    def page(cursor: str | None, limit: int) -> DocumentList:
        kind = None if asked.type is None else DocumentType(asked.type)
        return api.documents(
            given(
                DocumentQuery,
                limit=limit,
                cursor=cursor,
                task_id=asked.task,
                session_id=asked.session,
                type=kind,
            )
        )

    found, cursor = collect(page, asked.limit)
    rows = [(one.id, one.type, one.title, one.task_id, str(one.size), age(one.updated_at)) for one in found]
    header = ("DOCUMENT", "TYPE", "TITLE", "TASK", "BYTES", "AGE")
    out.show(DocumentList(items=found, next_cursor=cursor), table(header, rows))
    return 0


def _put(asked: argparse.Namespace, api: Api, out: Output) -> int:
    is_stdin = str(asked.file) == "-"
    try:
        data = sys.stdin.buffer.read() if is_stdin else asked.file.read_bytes()
    except OSError as error:
        raise Misused(f"{asked.file} cannot be read: {error.strerror}") from error
    title = asked.title or (None if is_stdin else asked.file.name)
    if title is None:
        raise Misused("what comes from standard input has no name; give --title")
    ending = asked.file.suffix.lower()
    kind = asked.type or next((one for one, known in _ENDINGS.items() if ending in known), DocumentType.FILE)
    wanted = given(
        PutDocument,
        title=title,
        type=DocumentType(kind),
        content=base64.b64encode(data).decode(),
        encoding="base64",
        task_id=asked.task,
        agent_id=asked.agent,
        session_id=asked.session,
        path=asked.path,
        language=asked.language,
    )
    return _say(api.put_document(wanted), out)


def _show(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say(api.document(asked.id), out)


def _get(asked: argparse.Namespace, api: Api, _out: Output) -> int:
    content = api.document_content(asked.id)
    if asked.to is None:
        # Somebody's terminal would obey what an agent has written; a pipe gets what there is.
        if sys.stdout.isatty():
            content = harmless(content.decode(errors="replace").replace("\r\n", "\n")).encode()
        sys.stdout.buffer.write(content)
        return 0
    with new_file(asked.to, mode=0o666) as target:
        target.write(content)
    return 0


def _delete(asked: argparse.Namespace, api: Api, out: Output) -> int:
    api.delete_document(asked.id)
    out.note(f"{asked.id} is deleted")
    return 0


def _say(document: PublicDocument, out: Output) -> int:
    text = listing(
        (
            ("document", document.id),
            ("title", document.title),
            ("type", document.type),
            ("task", document.task_id),
            ("agent", document.agent_id),
            ("session", document.session_id),
            ("path", document.path),
            ("bytes", str(document.size)),
            ("changed", moment(document.updated_at)),
            ("page", document.page_url),
        )
    )
    out.show(document, text)
    return 0
