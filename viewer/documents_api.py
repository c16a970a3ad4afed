"""API v1: documents of tasks. Their content never runs here: see `content_answer`."""

from __future__ import annotations

import re
from urllib.parse import quote

from flask import Blueprint, Response, request

from viewer.access import needs, principal, public_origin
from viewer.answers import json_answer, public
from viewer.creating import key_reused, once_of
from viewer.document_content import UnusableContent, content_of, session_of
from viewer.document_requests import DocumentQuery, PutDocument
from viewer.documents import (
    DocumentFilter,
    DocumentsFull,
    DocumentStore,
    NewDocument,
    Put,
    UnknownSession,
)
from viewer.incoming import MOST_DOCUMENT_BODY_BYTES, json_body, query
from viewer.model import Document, DocumentType, Role, Session
from viewer.once import KeyReused
from viewer.openapi import Answer, Operation, describes
from viewer.problems import FieldError, documents_full, wrong_fields
from viewer.public_documents import DocumentList, DocumentView, PublicDocument, public_document
from viewer.rendering import MOST_RENDERED_BYTES, code_html, markdown_html
from viewer.rows import SessionNotFound
from viewer.services import services

documents_api = Blueprint("documents", __name__, url_prefix="/api/v1")

_NAME = re.compile(r"[^A-Za-z0-9._ -]")


@documents_api.post("/documents")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Put a document down, or another content in its place",
        body=PutDocument,
        headers={
            "Idempotency-Key": "Any text of your own: the same one with the same document finds what it made"
            " first. With a task and a path none is needed."
        },
        answers={
            201: Answer("It is new.", PublicDocument),
            200: Answer("It was there, and now has this content.", PublicDocument),
        },
        problems=(400, 409, 413, 415, 422),
    )
)
def put_document() -> Response:
    wanted = json_body(PutDocument, most=MOST_DOCUMENT_BODY_BYTES)
    try:
        content, media_type = content_of(wanted)
        session_id = session_of(wanted)
    except UnusableContent as error:
        raise wrong_fields([FieldError(field=error.field, message=str(error), mend=error.mend)]) from error
    new = NewDocument(
        **wanted.model_dump(exclude={"content", "encoding", "media_type", "session_id"}),
        session_id=session_id,
        content=content,
        media_type=media_type,
        created_by=principal().id,
    )
    put = _put(new)
    answer = json_answer(_public(put.document), 201 if put.is_new else 200)
    answer.headers["Location"] = f"/api/v1/documents/{put.document.id}"
    if put.is_replay:
        answer.headers["Idempotent-Replayed"] = "true"
    return answer


@documents_api.get("/documents")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="List documents, newest first",
        query=DocumentQuery,
        answers={200: Answer("One page.", DocumentList)},
        problems=(400, 422),
    )
)
def list_documents() -> Response:
    asked = query(DocumentQuery)
    wanted = DocumentFilter(task_id=asked.task_id, session_id=asked.session_id, type=asked.type)
    page = _documents().list(wanted, asked.cursor, asked.limit)
    items = tuple(_public(document) for document in page.items)
    return json_answer(DocumentList(items=items, next_cursor=page.next_cursor))


@documents_api.get("/documents/<document_id>")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="One document, without its content",
        answers={200: Answer("The document.", PublicDocument)},
        problems=(404,),
    )
)
def get_document(document_id: str) -> Response:
    return json_answer(_public(_documents().get(document_id)))


@documents_api.get("/documents/<document_id>/content")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="A document's content, byte for byte",
        answers={
            200: Answer(
                "Text, an image, or a file to keep; nothing of it runs in a browser.",
                media_type="application/octet-stream",
                also=("text/plain", "image/png", "image/jpeg", "image/gif", "image/webp"),
            )
        },
        problems=(404,),
    )
)
def get_document_content(document_id: str) -> Response:
    document, content = _documents().content(document_id)
    return content_answer(document, content)


@documents_api.get("/documents/<document_id>/view")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="A document as a page shows it",
        answers={200: Answer("Its beginning, as harmless HTML or as text, or its session.", DocumentView)},
        problems=(404,),
    )
)
def view_document(document_id: str) -> Response:
    document = _documents().get(document_id)
    if not document.type.is_text:
        return json_answer(_view(document))
    if document.type is DocumentType.SANDBOX:
        session = _session_of(document)
        return json_answer(_view(document, session=session))
    _, data = _documents().content(document_id, MOST_RENDERED_BYTES)
    # The last character may have been cut in two.
    text = data.decode(errors="ignore")
    if document.type is DocumentType.MARKDOWN:
        html = markdown_html(text)
    elif document.type is DocumentType.CODE:
        html = code_html(text, language=document.language, path=document.path)
    else:
        html = None
    is_cut = document.size > len(data)
    return json_answer(_view(document, html=html, text=None if html is not None else text, is_cut=is_cut))


@documents_api.delete("/documents/<document_id>")
@needs(Role.OPERATOR)
@describes(Operation(summary="Delete a document", answers={204: Answer("It is gone.")}, problems=(404,)))
def delete_document(document_id: str) -> Response:
    _documents().delete(document_id)
    return Response(status=204)


def content_answer(document: Document, content: bytes) -> Response:
    """The bytes, under a media type that no browser runs: what is no checked image is text, or is kept as a
    file; and if one were opened as a page all the same, that would have no origin and no scripts."""
    if document.type is DocumentType.IMAGE:
        kind, shown = document.media_type, "inline"
    elif document.type.is_text:
        kind, shown = "text/plain; charset=utf-8", "attachment"
    else:
        kind, shown = "application/octet-stream", "attachment"
    answer = Response(b"" if request.method == "HEAD" else content, content_type=kind)
    answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox; frame-ancestors 'none'"
    answer.headers["Content-Disposition"] = f"{shown}; {_file_name(document)}"
    return answer


def _file_name(document: Document) -> str:
    """Both forms (RFC 6266): what old programs read has only what is plain in every one of them."""
    name = (document.path or document.title).rpartition("/")[2] or document.title
    plain = _NAME.sub("_", name).strip(" .")[:100] or "document"
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _put(new: NewDocument) -> Put:
    try:
        return _documents().put(new, once_of(request.get_data()))
    except UnknownSession as error:
        mend = "give the id of a session of yours, or leave it out"
        raise wrong_fields([FieldError(field="session_id", message="is not known", mend=mend)]) from error
    except DocumentsFull as error:
        raise documents_full(error) from error
    except KeyReused as error:
        raise key_reused() from error


def _view(
    document: Document,
    *,
    html: str | None = None,
    text: str | None = None,
    is_cut: bool = False,
    session: Session | None = None,
) -> DocumentView:
    return DocumentView(
        document=_public(document),
        html=html,
        text=text,
        is_cut=is_cut,
        session=None if session is None else public(session),
    )


def _session_of(document: Document) -> Session | None:
    if document.session_id is None:
        return None
    try:
        return services().store.tenant(principal().tenant).get(document.session_id)
    except SessionNotFound:
        return None


def _documents() -> DocumentStore:
    return services().store.documents(principal().tenant)


def _public(document: Document) -> PublicDocument:
    return public_document(document, origin=public_origin())
