"""API v1: tasks and agents, which sessions name."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Blueprint, Response

from viewer.access import needs, principal
from viewer.answers import json_answer
from viewer.incoming import PageQuery, PutAgent, PutTask, TaskQuery, json_body, query
from viewer.model import Role
from viewer.openapi import Answer, Operation, describes
from viewer.problems import Problem
from viewer.public import AgentList, PublicAgent, PublicTask, TaskList
from viewer.services import services
from viewer.work import Agent, NewAgent, NewTask, RunTaken, Task, WorkStore

work_api = Blueprint("work", __name__, url_prefix="/api/v1")


@work_api.post("/tasks")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Write down a task, or bring it in line",
        body=PutTask,
        answers={
            201: Answer("It is new.", PublicTask),
            200: Answer("It was there, by its id or its external run.", PublicTask),
        },
        problems=(400, 409, 413, 415, 422),
    )
)
def put_task() -> Response:
    asked = json_body(PutTask)
    try:
        task, is_new = _work().put_task(NewTask.model_validate(asked.model_dump()))
    except RunTaken as error:
        raise Problem(
            409,
            "run-taken",
            "Another task has that run",
            f"The external run {asked.external_run_id!r} belongs to another task of yours; read it by"
            " `GET /api/v1/tasks?external_run_id=…`.",
        ) from error
    return json_answer(_public_tasks([task])[0], 201 if is_new else 200)


@work_api.get("/tasks")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="List tasks, newest first",
        query=TaskQuery,
        answers={200: Answer("One page.", TaskList)},
        problems=(400, 422),
    )
)
def list_tasks() -> Response:
    asked = query(TaskQuery)
    page = _work().tasks(asked.cursor, asked.limit, asked.external_run_id)
    return json_answer(TaskList(items=_public_tasks(page.items), next_cursor=page.next_cursor))


@work_api.get("/tasks/<task_id>")
@needs(Role.WATCHER)
@describes(Operation(summary="One task", answers={200: Answer("The task.", PublicTask)}, problems=(404,)))
def get_task(task_id: str) -> Response:
    return json_answer(_public_tasks([_work().task_at(task_id)])[0])


@work_api.post("/agents")
@needs(Role.OPERATOR)
@describes(
    Operation(
        summary="Write down an agent, or bring it in line",
        body=PutAgent,
        answers={201: Answer("It is new.", PublicAgent), 200: Answer("It was there.", PublicAgent)},
        problems=(400, 413, 415, 422),
    )
)
def put_agent() -> Response:
    asked = json_body(PutAgent)
    agent, is_new = _work().put_agent(NewAgent.model_validate(asked.model_dump()))
    return json_answer(_public_agent(agent), 201 if is_new else 200)


@work_api.get("/agents")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="List agents, newest first",
        query=PageQuery,
        answers={200: Answer("One page.", AgentList)},
        problems=(400, 422),
    )
)
def list_agents() -> Response:
    asked = query(PageQuery)
    page = _work().agents(asked.cursor, asked.limit)
    return json_answer(
        AgentList(items=tuple(_public_agent(agent) for agent in page.items), next_cursor=page.next_cursor)
    )


@work_api.get("/agents/<agent_id>")
@needs(Role.WATCHER)
@describes(Operation(summary="One agent", answers={200: Answer("The agent.", PublicAgent)}, problems=(404,)))
def get_agent(agent_id: str) -> Response:
    return json_answer(_public_agent(_work().agent(agent_id)))


def _work() -> WorkStore:
    return services().store.work(principal().tenant)


def _public_tasks(tasks: Sequence[Task]) -> tuple[PublicTask, ...]:
    standings = _work().standings(tasks)
    return tuple(
        PublicTask(**task.model_dump(exclude={"tenant_id"}), **standings[task.id].model_dump())
        for task in tasks
    )


def _public_agent(agent: Agent) -> PublicAgent:
    return PublicAgent.model_validate(agent.model_dump(exclude={"tenant_id"}))
