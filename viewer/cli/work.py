"""`deskfleet tasks` and `deskfleet agents`."""

from __future__ import annotations

import argparse

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, whole_number
from viewer.cli.output import Output, age, listing, moment, table
from viewer.cli.paging import collect
from viewer.incoming import PageQuery, PutAgent, PutTask, TaskQuery
from viewer.public import AgentList, PublicAgent, PublicTask, TaskList


def add_to(nouns: Nouns) -> None:
    _add_tasks(noun(nouns, "tasks", "what sessions are made for"))
    _add_agents(noun(nouns, "agents", "who makes sessions"))


def _add_tasks(verbs: Nouns) -> None:
    shown = leaf(verbs, "list", _list_tasks, "list tasks, newest first")
    shown.add_argument("--external-run", metavar="ID", help="only the one with this run of another system")
    shown.add_argument("--limit", type=whole_number, default=50, help="how many at most, 50 if not given")
    made = leaf(verbs, "create", _create_task, "write a task down, or bring it in line")
    made.add_argument("--id", help="a name of your own; without one it gets one")
    made.add_argument("--title")
    made.add_argument("--agent", metavar="ID")
    made.add_argument("--external-run", metavar="ID", help="the name of its run in another system")
    leaf(verbs, "show", _show_task, "show one task").add_argument("id")


def _add_agents(verbs: Nouns) -> None:
    shown = leaf(verbs, "list", _list_agents, "list agents, newest first")
    shown.add_argument("--limit", type=whole_number, default=50, help="how many at most, 50 if not given")
    made = leaf(verbs, "create", _create_agent, "write an agent down, or bring it in line")
    made.add_argument("--id", help="a name of your own; without one it gets one")
    made.add_argument("--name")
    leaf(verbs, "show", _show_agent, "show one agent").add_argument("id")


def _list_tasks(asked: argparse.Namespace, api: Api, out: Output) -> int:
    def page(cursor: str | None, limit: int) -> TaskList:
        wanted = given(TaskQuery, limit=limit, cursor=cursor, external_run_id=asked.external_run)
        return api.tasks(wanted)

    found, cursor = collect(page, asked.limit)
    rows = [
        (task.id, task.title, task.agent_id, task.external_run_id, age(task.created_at)) for task in found
    ]
    out.show(
        TaskList(items=found, next_cursor=cursor),
        table(("TASK", "TITLE", "AGENT", "EXTERNAL RUN", "AGE"), rows),
    )
    return 0


def _create_task(asked: argparse.Namespace, api: Api, out: Output) -> int:
    wanted = given(
        PutTask, id=asked.id, title=asked.title, agent_id=asked.agent, external_run_id=asked.external_run
    )
    return _say_task(api.put_task(wanted), out)


def _show_task(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say_task(api.task(asked.id), out)


def _say_task(task: PublicTask, out: Output) -> int:
    text = listing(
        (
            ("task", task.id),
            ("title", task.title),
            ("agent", task.agent_id),
            ("external run", task.external_run_id),
            ("created", moment(task.created_at)),
        )
    )
    out.show(task, text)
    return 0


def _list_agents(asked: argparse.Namespace, api: Api, out: Output) -> int:
    def page(cursor: str | None, limit: int) -> AgentList:
        return api.agents(given(PageQuery, limit=limit, cursor=cursor))

    found, cursor = collect(page, asked.limit)
    rows = [(agent.id, agent.name, age(agent.created_at)) for agent in found]
    out.show(AgentList(items=found, next_cursor=cursor), table(("AGENT", "NAME", "AGE"), rows))
    return 0


def _create_agent(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say_agent(api.put_agent(given(PutAgent, id=asked.id, name=asked.name)), out)


def _show_agent(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say_agent(api.agent(asked.id), out)


def _say_agent(agent: PublicAgent, out: Output) -> int:
    pairs = (("agent", agent.id), ("name", agent.name), ("created", moment(agent.created_at)))
    out.show(agent, listing(pairs))
    return 0
