"""How documents look from outside. None holds a secret."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from viewer.model import Document, DocumentChange, DocumentNews, DocumentType, Frozen
from viewer.public import PublicSession


class PublicDocument(Frozen):
    """What a task has brought forth, without its content. Times are RFC 3339 in UTC."""

    id: str
    task_id: str | None
    agent_id: str | None
    session_id: str | None = Field(description="It may be gone: a document can outlive its session.")
    type: DocumentType
    title: str
    path: str | None = Field(description="Where its agent has it; once in a task.")
    media_type: str
    language: str | None = Field(
        description="Of code, as Pygments calls it; null: its path tells, or nothing."
    )
    size: int = Field(description="Of its content, in bytes.")
    sha256: str = Field(description="Of its content.")
    created_by: str
    created_at: datetime
    updated_at: datetime
    page_url: str = Field(description="Deep link to the document in the viewer.")
    content_url: str = Field(description="Its content, byte for byte.")


class DocumentList(Frozen):
    items: tuple[PublicDocument, ...]
    next_cursor: str | None = Field(
        description="Send it as `cursor` for the next page; null on the last one."
    )


class DocumentView(Frozen):
    """What a page shows of a document. `html`, `text` or `session`, or none of them: the content is to be
    downloaded."""

    document: PublicDocument
    html: str | None = Field(
        description="Of markdown, and of code in a known language: nothing but elements and classes that can"
        " do no harm."
    )
    text: str | None = Field(description="As it is; to be shown as text.")
    is_cut: bool = Field(description="It is longer, and only its beginning is here.")
    session: PublicSession | None = Field(
        description="Of the type `sandbox`; null there: the session is gone."
    )


class PublicDocumentNews(Frozen):
    """What the event stream tells of a document."""

    change: DocumentChange
    document: PublicDocument


def public_document(document: Document, *, origin: str) -> PublicDocument:
    return PublicDocument(
        **document.model_dump(exclude={"tenant_id"}),
        page_url=f"{origin}/documents/{document.id}",
        content_url=f"{origin}/api/v1/documents/{document.id}/content",
    )


def public_news(news: DocumentNews, *, origin: str) -> PublicDocumentNews:
    return PublicDocumentNews(change=news.change, document=public_document(news.document, origin=origin))
