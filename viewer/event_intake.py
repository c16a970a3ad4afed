"""Events of outside systems, made true in the table: one transaction for the effect and its receipt.

An event is somebody's word. It can name the task and the agent of a session, and it can ask for a session's
end; it never makes a session `running`, which means that a frame was seen, and it never revives one. Nothing
outside the tenant of its sender is looked at.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.attempts import AttemptStore, Bucket
from viewer.credentials import hash_of
from viewer.database import Database
from viewer.documents import NewDocument, UnknownSession, put_document
from viewer.model import Frozen, Kind, Status, utcnow
from viewer.new_sessions import NewSession, add_session
from viewer.public import Did, EventTaken
from viewer.resources import Quota
from viewer.rows import SessionNotFound, ask_for_the_end, change, known_as, new_id
from viewer.run_news import BroughtDocument, RunNews, SandboxNews, What
from viewer.tables import AgentRow, ReceiptRow, SessionRow, TaskRow

BODY_LIFE = timedelta(days=1)
"""An event without an id of its own is known again by its body for so long."""

NOTED_AT_ONCE = 20
NOTED_AGAIN_AFTER = timedelta(minutes=5)
"""Refusals of one sender that stand in the audit log; after those one at a time, less and less often."""


class MessageReused(Exception):
    """Another event came under the same id."""


class Message(Frozen):
    """How a second delivery of an event is known again. is_digest: `id` is of the body, not its sender's."""

    id: str
    is_digest: bool
    body_sha256: str
    sent_at: datetime | None = None


class Adoption(Frozen):
    """The session that is made of a sandbox which we did not make, where a host's list gives it away."""

    new: NewSession
    quota: Quota


class Taken(Frozen):
    """The answer's JSON; a replay has that of the first delivery."""

    answer: str
    is_replay: bool


class Refusals:
    """Events that were not taken, in the audit log: some of them, because a sender that is set up wrong, or a
    stranger, repeats himself."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._attempts = AttemptStore(database)

    def note(self, tenant_id: str | None, sender: str, why: str, status: int) -> None:
        """tenant_id: None where nobody knows whose event it was to be. sender: a principal, or an address."""
        bucket = Bucket(
            name=f"refused-event:{hash_of(sender)[:32]}", allowed=NOTED_AT_ONCE, first_wait=NOTED_AGAIN_AFTER
        )
        if self._attempts.begin([bucket]):
            return
        with self._database.writing() as orm:
            detail = {"why": why, "status": status}
            audit.note(
                orm, tenant_id or audit.NO_TENANT, "event.refused", None, outcome="refused", detail=detail
            )


class EventIntake:
    """One tenant's events."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def take(self, news: RunNews, message: Message, *, by: str, adoption: Adoption | None = None) -> Taken:
        """Do what follows from it, once. adoption: None where no host's list gives the tenant anything.

        Raises SessionNotFound for a sandbox that is none of the tenant's, MessageReused, and TooManySought,
        TooManyCreating, QuotaExceeded or DocumentsFull; nothing is written then, no receipt either, so that
        the same can be sent again.
        """
        with self._database.writing() as orm:
            earlier = self._receipt(orm, message)
            if earlier is not None:
                return Taken(answer=earlier.answer, is_replay=True)
            effect = self._effect(orm, news, by, adoption)
            self._note(orm, news, effect)
            answer = effect.model_dump_json()
            orm.add(
                ReceiptRow(
                    tenant_id=self._tenant_id,
                    message_id=_key_of(message),
                    body_sha256=message.body_sha256,
                    received_at=utcnow(),
                    sent_at=message.sent_at,
                    status=200,
                    answer=answer,
                )
            )
            return Taken(answer=answer, is_replay=False)

    def _note(self, orm: OrmSession, news: RunNews, effect: EventTaken) -> None:
        """Not of each step that a run reports: only where something is different now."""
        if effect.did == ("nothing",):
            return
        about = f"task:{effect.task_id}" if effect.session_id is None else f"session:{effect.session_id}"
        said = "run" if news.sandbox is None else news.sandbox.event.value
        said = said if news.document is None else "document"
        detail = {"said": said, "run": news.run_id, "did": list(effect.did)}
        audit.note(orm, self._tenant_id, "event.accepted", about, detail=detail)

    def _receipt(self, orm: OrmSession, message: Message) -> ReceiptRow | None:
        row = orm.get(ReceiptRow, (self._tenant_id, _key_of(message)))
        if row is None:
            return None
        if message.is_digest and row.received_at + BODY_LIFE <= utcnow():
            orm.delete(row)
            orm.flush()
            return None
        if row.body_sha256 != message.body_sha256:
            raise MessageReused
        return row

    def _effect(self, orm: OrmSession, news: RunNews, by: str, adoption: Adoption | None) -> EventTaken:
        # The sandbox first: an event about one that is not there leaves no task and no agent behind.
        row = None if news.sandbox is None else self._session(orm, news.sandbox, adoption)
        did: list[Did] = []
        agent = None if news.agent is None else self._agent(orm, news.agent, did)
        task = self._task(orm, news, agent, did)
        session_id = None
        if news.sandbox is not None and row is not None:
            self._tell_session(orm, row, news.sandbox, task.id, agent, by, did)
            session_id = row.id
        elif news.sandbox is not None and adoption is not None:
            session_id = self._claim(orm, news.sandbox, adoption, task.id, agent)
            did.append("session-claimed")
        document_id = None if news.document is None else self._put(orm, news.document, task, agent, by, did)
        return EventTaken(
            did=tuple(did) or ("nothing",),
            task_id=task.id,
            agent_id=agent,
            session_id=session_id,
            document_id=document_id,
        )

    def _put(
        self,
        orm: OrmSession,
        brought: BroughtDocument,
        task: TaskRow,
        agent: str | None,
        by: str,
        did: list[Did],
    ) -> str:
        new = NewDocument(**brought.model_dump(), task_id=task.id, agent_id=agent, created_by=by)
        try:
            put = put_document(orm, self._tenant_id, new)
        except UnknownSession as error:
            raise SessionNotFound from error
        if not put.is_replay:
            did.append("document-created" if put.is_new else "document-changed")
        return put.document.id

    # --- the session ---------------------------------------------------------------------------------

    def _session(self, orm: OrmSession, news: SandboxNews, adoption: Adoption | None) -> SessionRow | None:
        """The tenant's session that the event is about; None where one is to be made of it."""
        # A sandbox made through our own OpenSandbox API goes by its session's id.
        row = known_as(orm, self._tenant_id, news.sandbox_id, SessionRow.kind == Kind.SANDBOX)
        if row is None and not (news.event.is_there and adoption is not None):
            raise SessionNotFound
        return row

    def _tell_session(
        self,
        orm: OrmSession,
        row: SessionRow,
        news: SandboxNews,
        task: str,
        agent: str | None,
        by: str,
        did: list[Did],
    ) -> None:
        """Terminal states are final: nothing is changed any more, whatever comes late."""
        if Status(row.status).is_terminal:
            return
        links = (row.task_id or task, row.agent_id or agent)
        if links != (row.task_id, row.agent_id):
            row.task_id, row.agent_id = links
            did.append("session-linked")
        if news.event is What.ERROR and row.error_message is None:
            row.error_message = news.error or "its agent reported an error"
        if not news.event.is_there and row.terminate_requested_at is None:
            ask_for_the_end(orm, row, by)
            did.append("end-requested")
        change(orm, row, {}, by=by)

    def _claim(
        self, orm: OrmSession, news: SandboxNews, adoption: Adoption, task: str, agent: str | None
    ) -> str:
        """A row without a host: that is written when a host which gives its sandboxes to this tenant has
        shown it. Before that the row must not differ from one for an id that nobody has."""
        new = adoption.new.model_copy(
            update={"sandbox_id": news.sandbox_id, "task_id": task, "agent_id": agent}
        )
        return add_session(orm, self._tenant_id, new, adoption.quota).id

    # --- task and agent ------------------------------------------------------------------------------

    def _task(self, orm: OrmSession, news: RunNews, agent: str | None, did: list[Did]) -> TaskRow:
        """The run's task: the one that is linked to it, else the one that the mission names, else a new one.
        What it has already stays, so that the order of events does not matter."""
        query = select(TaskRow).where(
            TaskRow.tenant_id == self._tenant_id, TaskRow.external_run_id == news.run_id
        )
        row = orm.scalar(query)
        if row is None:
            row = orm.get(TaskRow, (self._tenant_id, news.mission)) if news.mission else None
            if row is None:
                now = utcnow()
                row = TaskRow(
                    tenant_id=self._tenant_id, id=news.mission or new_id(), created_at=now, updated_at=now
                )
                orm.add(row)
                did.append("task-created")
            if row.external_run_id is None:
                row.external_run_id = news.run_id
                did.append("run-linked")
        row.title = row.title or news.title
        row.agent_id = row.agent_id or agent
        if orm.is_modified(row):
            row.updated_at = utcnow()
        orm.flush()
        return row

    def _agent(self, orm: OrmSession, name: str, did: list[Did]) -> str:
        """The id of the agent of that id or name; one is made if there is none."""
        if orm.get(AgentRow, (self._tenant_id, name)) is not None:
            return name
        query = select(AgentRow.id).where(AgentRow.tenant_id == self._tenant_id, AgentRow.name == name)
        found = orm.scalar(query.order_by(AgentRow.created_at, AgentRow.id).limit(1))
        if found is not None:
            return found
        now = utcnow()
        orm.add(AgentRow(tenant_id=self._tenant_id, id=name, created_at=now, updated_at=now))
        did.append("agent-created")
        return name


def _key_of(message: Message) -> str:
    """A sender cannot choose an id that looks like a digest of ours."""
    return f"{'body' if message.is_digest else 'id'}:{message.id}"
