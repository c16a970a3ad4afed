"""Tasks and agents of a tenant: what sessions are made for, and who makes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as OrmSession

from viewer.database import Database
from viewer.listing import Page, one_page, page_of
from viewer.model import Frozen, Status, utcnow
from viewer.rows import new_id
from viewer.tables import AgentRow, DocumentRow, SessionRow, TaskRow
from viewer.task_addresses import task_id_in


class Task(Frozen):
    """What an agent works on. external_run_id: the name of its run in another system, once in a tenant."""

    id: str
    tenant_id: str
    title: str | None
    agent_id: str | None
    external_run_id: str | None
    created_at: datetime
    updated_at: datetime


class Standing(Frozen):
    """How a task stands. running: of its desktops. active_at: when anything of it was last different."""

    desktops: int = 0
    running: int = 0
    documents: int = 0
    active_at: datetime


class Agent(Frozen):
    id: str
    tenant_id: str
    name: str | None
    created_at: datetime
    updated_at: datetime


class NewTask(Frozen):
    """id None: one is made."""

    id: str | None = None
    title: str | None = None
    agent_id: str | None = None
    external_run_id: str | None = None


class NewAgent(Frozen):
    """id None: one is made."""

    id: str | None = None
    name: str | None = None


class RunTaken(Exception):
    """Another task of the tenant has that external run id."""


class UnknownWork(Exception):
    """No such task or agent for whoever asks."""


class WorkStore:
    """One tenant's tasks and agents."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def put_task(self, new: NewTask) -> tuple[Task, bool]:
        """The task with these values, and whether it is new. An id that is there is brought in line, where
        a value is given; without an id, a known external run is the same task. Raises RunTaken."""
        try:
            with self._database.writing() as orm:
                row = self._task_row(orm, new)
                is_new = row is None
                if row is None:
                    row = TaskRow(tenant_id=self._tenant_id, id=new.id or new_id(), created_at=utcnow())
                    orm.add(row)
                for name in ("title", "agent_id", "external_run_id"):
                    if (value := getattr(new, name)) is not None or is_new:
                        setattr(row, name, value)
                row.updated_at = utcnow()
                orm.flush()
                if new.agent_id is not None and orm.get(AgentRow, (self._tenant_id, new.agent_id)) is None:
                    orm.add(self._new_agent_row(NewAgent(id=new.agent_id)))
                return Task.model_validate(row, from_attributes=True), is_new
        except IntegrityError as error:
            raise RunTaken from error

    def put_agent(self, new: NewAgent) -> tuple[Agent, bool]:
        """The agent with this name, and whether it is new."""
        with self._database.writing() as orm:
            row = orm.get(AgentRow, (self._tenant_id, new.id)) if new.id is not None else None
            is_new = row is None
            if row is None:
                row = self._new_agent_row(new)
                orm.add(row)
            elif new.name is not None:
                row.name = new.name
            row.updated_at = utcnow()
            orm.flush()
            return Agent.model_validate(row, from_attributes=True), is_new

    def task(self, task_id: str) -> Task:
        """Raises UnknownWork."""
        with self._database.reading() as orm:
            row = orm.get(TaskRow, (self._tenant_id, task_id))
            if row is None:
                raise UnknownWork
            return Task.model_validate(row, from_attributes=True)

    def task_at(self, segment: str) -> Task:
        """The one that an address names. Raises UnknownWork."""
        try:
            return self.task(task_id_in(segment))
        except ValueError as error:
            raise UnknownWork from error

    def task_of_run(self, external_run_id: str) -> Task | None:
        with self._database.reading() as orm:
            row = orm.scalar(self._run(external_run_id))
            return None if row is None else Task.model_validate(row, from_attributes=True)

    def agent(self, agent_id: str) -> Agent:
        """Raises UnknownWork."""
        with self._database.reading() as orm:
            row = orm.get(AgentRow, (self._tenant_id, agent_id))
            if row is None:
                raise UnknownWork
            return Agent.model_validate(row, from_attributes=True)

    def tasks(self, cursor: str | None, limit: int, external_run_id: str | None = None) -> Page[Task]:
        """Raises viewer.listing.BadCursor."""
        query = select(TaskRow).where(TaskRow.tenant_id == self._tenant_id)
        if external_run_id is not None:
            query = query.where(TaskRow.external_run_id == external_run_id)
        query = one_page(query, TaskRow.created_at, TaskRow.id, cursor, limit)
        with self._database.reading() as orm:
            found = [Task.model_validate(row, from_attributes=True) for row in orm.scalars(query)]
        return page_of(found, limit)

    def agents(self, cursor: str | None, limit: int) -> Page[Agent]:
        """Raises viewer.listing.BadCursor."""
        mine = select(AgentRow).where(AgentRow.tenant_id == self._tenant_id)
        query = one_page(mine, AgentRow.created_at, AgentRow.id, cursor, limit)
        with self._database.reading() as orm:
            found = [Agent.model_validate(row, from_attributes=True) for row in orm.scalars(query)]
        return page_of(found, limit)

    def standings(self, tasks: Sequence[Task]) -> dict[str, Standing]:
        """Of each of these tasks, by its id."""
        ids = [task.id for task in tasks]
        sessions = (
            select(
                SessionRow.task_id,
                func.count(),
                func.count().filter(SessionRow.status == Status.RUNNING.value),
                func.max(SessionRow.updated_at),
            )
            .where(SessionRow.tenant_id == self._tenant_id, SessionRow.task_id.in_(ids))
            .group_by(SessionRow.task_id)
        )
        documents = (
            select(DocumentRow.task_id, func.count(), func.max(DocumentRow.updated_at))
            .where(DocumentRow.tenant_id == self._tenant_id, DocumentRow.task_id.in_(ids))
            .group_by(DocumentRow.task_id)
        )
        found = {task.id: Standing(active_at=task.updated_at) for task in tasks}
        with self._database.reading() as orm:
            for name, desktops, running, at in orm.execute(sessions):
                task_id = str(name)
                at = max(at, found[task_id].active_at)
                found[task_id] = Standing(desktops=desktops, running=running, active_at=at)
            for name, number, at in orm.execute(documents):
                task_id = str(name)
                at = max(at, found[task_id].active_at)
                found[task_id] = found[task_id].model_copy(update={"documents": number, "active_at": at})
        return found

    def _task_row(self, orm: OrmSession, new: NewTask) -> TaskRow | None:
        if new.id is not None:
            return orm.get(TaskRow, (self._tenant_id, new.id))
        if new.external_run_id is not None:
            return orm.scalar(self._run(new.external_run_id))
        return None

    def _run(self, external_run_id: str) -> Select[TaskRow]:
        return select(TaskRow).where(
            TaskRow.tenant_id == self._tenant_id, TaskRow.external_run_id == external_run_id
        )

    def _new_agent_row(self, new: NewAgent) -> AgentRow:
        now = utcnow()
        return AgentRow(
            tenant_id=self._tenant_id, id=new.id or new_id(), name=new.name, created_at=now, updated_at=now
        )
