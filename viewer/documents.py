"""Documents of a tenant: what its tasks have brought forth.

A document with a path is that file of its task: put again, the new content takes the old one's place under
the same id. Without a path each one is new, unless an idempotency key says that it is the same.
"""

from __future__ import annotations

import hashlib
import uuid

from pydantic import Field
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.database import Database
from viewer.listing import Page, one_page, page_of
from viewer.model import Document, DocumentNews, DocumentType, Frozen, utcnow
from viewer.once import KeyReused, Once
from viewer.rows import known_as, new_id, note_work, tell_of_document
from viewer.tables import DocumentContentRow, DocumentRow

MOST_DOCUMENTS = 10_000
MOST_BYTES = 1024 * 1024 * 1024
"""What one tenant may keep."""
_KEYED = uuid.UUID("6e0f6c0a-5b7e-4b0e-9a57-0f6f2f1c9a44")
"""Names ids that are made from an idempotency key."""
_WHAT_IT_IS = ("task_id", "session_id", "type", "title", "path", "media_type", "language")


class UnknownDocument(Exception):
    """No such document for whoever asks."""


class UnknownSession(Exception):
    """A document names a session that the tenant does not have."""


class DocumentsFull(Exception):
    """The tenant has as many documents as it may; the text is one sentence."""


class NewDocument(Frozen):
    """session_id: of a session of the tenant, by our id, or its sandbox's."""

    title: str
    type: DocumentType
    content: bytes = Field(repr=False)
    media_type: str
    task_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    path: str | None = None
    language: str | None = None
    created_by: str


class DocumentFilter(Frozen):
    """All given conditions hold."""

    task_id: str | None = None
    session_id: str | None = None
    type: DocumentType | None = None


class Put(Frozen):
    """is_new: it was not there before. is_replay: nothing is different now."""

    document: Document
    is_new: bool
    is_replay: bool = False


class DocumentStore:
    """One tenant's documents; nothing else exists here."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def put(self, new: NewDocument, once: Once | None = None) -> Put:
        """Raises UnknownSession, DocumentsFull, KeyReused."""
        with self._database.writing() as orm:
            return put_document(orm, self._tenant_id, new, once)

    def get(self, document_id: str) -> Document:
        """Raises UnknownDocument for an unknown id and for another tenant's alike."""
        with self._database.reading() as orm:
            return _document_of(self._own_row(orm, document_id))

    def content(self, document_id: str, most: int | None = None) -> tuple[Document, bytes]:
        """The document, and its content or the first `most` bytes of it. Raises UnknownDocument."""
        with self._database.reading() as orm:
            row = self._own_row(orm, document_id)
            column = DocumentContentRow.data
            part = column if most is None else func.substr(column, 1, most).label("part")
            data = orm.scalar(select(part).where(DocumentContentRow.document_id == row.id))
            return _document_of(row), bytes(data or b"")

    def list(self, wanted: DocumentFilter, cursor: str | None, limit: int) -> Page[Document]:
        """One page, newest first. Raises viewer.listing.BadCursor."""
        query = select(DocumentRow).where(DocumentRow.tenant_id == self._tenant_id)
        if wanted.task_id is not None:
            query = query.where(DocumentRow.task_id == wanted.task_id)
        if wanted.session_id is not None:
            query = query.where(DocumentRow.session_id == wanted.session_id)
        if wanted.type is not None:
            query = query.where(DocumentRow.type == wanted.type.value)
        query = one_page(query, DocumentRow.created_at, DocumentRow.id, cursor, limit)
        with self._database.reading() as orm:
            return page_of([_document_of(row) for row in orm.scalars(query)], limit)

    def delete(self, document_id: str) -> None:
        """Raises UnknownDocument."""
        with self._database.writing() as orm:
            row = self._own_row(orm, document_id)
            document = _document_of(row)
            orm.execute(delete(DocumentRow).where(DocumentRow.id == row.id))
            tell_of_document(orm, DocumentNews(change="deleted", document=document))
            _note(orm, "document.delete", document)

    def _own_row(self, orm: OrmSession, document_id: str) -> DocumentRow:
        row = orm.get(DocumentRow, document_id)
        if row is None or row.tenant_id != self._tenant_id:
            raise UnknownDocument
        return row


def put_document(orm: OrmSession, tenant_id: str, new: NewDocument, once: Once | None = None) -> Put:
    """Inside a write transaction, also that of an event that brings it. Raises as `DocumentStore.put`."""
    new = _bound(orm, tenant_id, new)
    sha256 = hashlib.sha256(new.content).hexdigest()
    keyed = None if once is None else str(uuid.uuid5(_KEYED, f"{tenant_id} {once.stored_key}"))
    row = None if keyed is None else orm.get(DocumentRow, keyed)
    if row is not None:
        if not _is_the_same(row, new, sha256):
            raise KeyReused
        return Put(document=_document_of(row), is_new=False, is_replay=True)
    row = _row_at(orm, tenant_id, new)
    if row is None:
        _check_room(orm, tenant_id, more=len(new.content), one_more=True)
        return Put(document=_add(orm, tenant_id, new, sha256, keyed or new_id()), is_new=True)
    if _is_the_same(row, new, sha256):
        return Put(document=_document_of(row), is_new=False, is_replay=True)
    _check_room(orm, tenant_id, more=len(new.content) - row.size, one_more=False)
    return Put(document=_replace(orm, row, new, sha256), is_new=False)


def _bound(orm: OrmSession, tenant_id: str, new: NewDocument) -> NewDocument:
    """With its session's id, task and agent, where it names one. Only its own tenant's are looked at."""
    if new.session_id is None:
        return new
    row = known_as(orm, tenant_id, new.session_id)
    if row is None:
        raise UnknownSession
    return new.model_copy(
        update={
            "session_id": row.id,
            "task_id": new.task_id or row.task_id,
            "agent_id": new.agent_id or row.agent_id,
        }
    )


def _row_at(orm: OrmSession, tenant_id: str, new: NewDocument) -> DocumentRow | None:
    if new.task_id is None or new.path is None:
        return None
    at = (
        DocumentRow.tenant_id == tenant_id,
        DocumentRow.task_id == new.task_id,
        DocumentRow.path == new.path,
    )
    return orm.scalar(select(DocumentRow).where(*at).order_by(DocumentRow.created_at).limit(1))


def _is_the_same(row: DocumentRow, new: NewDocument, sha256: str) -> bool:
    return row.sha256 == sha256 and all(getattr(row, name) == getattr(new, name) for name in _WHAT_IT_IS)


def _check_room(orm: OrmSession, tenant_id: str, *, more: int, one_more: bool) -> None:
    """Inside the write transaction, so that of two requests at once only one gets the last room."""
    mine = select(func.count(), func.coalesce(func.sum(DocumentRow.size), 0))
    documents, size = orm.execute(mine.where(DocumentRow.tenant_id == tenant_id)).one()
    if one_more and documents >= MOST_DOCUMENTS:
        raise DocumentsFull(f"Your tenant keeps {documents} documents, as many as it may; delete some.")
    if more > 0 and size + more > MOST_BYTES:
        raise DocumentsFull(
            f"Your tenant's documents have {size} bytes of the {MOST_BYTES} that they may; delete some."
        )


def _add(orm: OrmSession, tenant_id: str, new: NewDocument, sha256: str, document_id: str) -> Document:
    now = utcnow()
    row = DocumentRow(
        id=document_id,
        tenant_id=tenant_id,
        agent_id=new.agent_id,
        created_by=new.created_by,
        created_at=now,
        updated_at=now,
        size=len(new.content),
        sha256=sha256,
        **{name: getattr(new, name) for name in _WHAT_IT_IS},
    )
    orm.add(row)
    # The tables are tied by keys, not by relationships: the row must be there first.
    orm.flush()
    orm.add(DocumentContentRow(document_id=row.id, data=new.content))
    return _told(orm, row, is_new=True)


def _replace(orm: OrmSession, row: DocumentRow, new: NewDocument, sha256: str) -> Document:
    for name in _WHAT_IT_IS:
        setattr(row, name, getattr(new, name))
    row.agent_id = new.agent_id or row.agent_id
    row.size, row.sha256, row.updated_at = len(new.content), sha256, utcnow()
    content = orm.get_one(DocumentContentRow, row.id)
    content.data = new.content
    orm.flush()
    return _told(orm, row, is_new=False)


def _told(orm: OrmSession, row: DocumentRow, *, is_new: bool) -> Document:
    document = _document_of(row)
    note_work(orm, document.tenant_id, document.task_id, document.agent_id)
    tell_of_document(orm, DocumentNews(change="created" if is_new else "changed", document=document))
    _note(orm, "document.create" if is_new else "document.change", document)
    return document


def _note(orm: OrmSession, action: audit.Action, document: Document) -> None:
    told = {
        "type": document.type.value,
        "task_id": document.task_id,
        "session_id": document.session_id,
        "size": document.size,
        "sha256": document.sha256,
    }
    detail = {name: value for name, value in told.items() if value is not None}
    audit.note(orm, document.tenant_id, action, f"document:{document.id}", detail=detail)


def _document_of(row: DocumentRow) -> Document:
    return Document.model_validate(row, from_attributes=True)
