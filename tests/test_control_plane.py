"""The control plane against anything, in any order: API calls, hosts on bad days, time, and crashes.

Real are the API, the store with its database, and the worker with all its steps. The sandbox hosts are
modelled (`model_host`), and the worker's threads move one step at a time (`steered_worker`). Rules hold after
every step; at the end everything is healed, the worker runs, and table, hosts and what the model expects must
agree.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model_host import ENDED, Container, Fate, ModelHost
from tests.soaking import is_soaking
from tests.steered_worker import TABLE, Clock, SteeredWorker
from tests.viewer_fixtures import Person, ViewerClient, settings_values
from viewer import reconcile
from viewer.accounts import DeclaredKey
from viewer.app import create_app
from viewer.credentials import hash_of, key_id_of, new_key
from viewer.lifecycle import SETTLE_SECONDS
from viewer.model import POOL_TENANT, Role, Scope, Status
from viewer.relay.answers import StreamInfo
from viewer.sandbox_hosts import FLEET_KEY, REQUEST_KEY, SESSION_KEY, TENANT_KEY, SandboxState
from viewer.services import Services, Slots
from viewer.settings import Settings
from viewer.store import Store
from viewer.transitions import LEGAL

SESSIONS = "/api/v1/sessions"
HOSTS = ("one", "two")
IMAGES = ("shell", "desktop")
OUR_FLEET = "f-test"
KEYS = ("key-1", "key-2")
ACME = Person("acme", new_key().text)
BOLT = Person("bolt", new_key().text)
ADMIN = Person("acme", new_key().text)
ROLES = {ACME: Role.OPERATOR, BOLT: Role.OPERATOR, ADMIN: Role.ADMIN}
RELAY_KEY = Fernet.generate_key()
ACME_MAY_HAVE = 4
MOST_LOOKS = 40
PATIENCE = timedelta(seconds=100)
"""A session that is not up after this may be given up; the deadline is 120 s from its place on a host."""

Row = dict[str, Any]

people = st.sampled_from([ACME, BOLT])
hosts = st.sampled_from(HOSTS)


def settings_in(folder: Path) -> Settings:
    values = settings_values(folder)
    (folder / "relay.key").write_bytes(RELAY_KEY)
    here = values["hosts"][0]
    # Of one the number is the limit, of two the memory.
    room = {"one": (4, 2, 16384), "two": (8, 1, 4096)}
    values["hosts"] = [
        {
            **here,
            "name": name,
            "groups": ["sandboxes"],
            "opensandbox_url": f"http://{name}.box",
            "relay_url": f"http://{name}.relay",
            "max_desktops": desktops,
            "max_creates": creates,
            "memory_mib": memory,
        }
        for name, (desktops, creates, memory) in room.items()
    ]
    return Settings.model_validate(
        {
            **values,
            "create_deadline_seconds": 120,
            "queue_seconds": 300,
            "tenants": [{"name": "acme", "quota": {"desktops": ACME_MAY_HAVE}}, {"name": "bolt"}],
            "pools": [
                {"image": "shell", "size": 1, "hosts": ["one"], "max_age_seconds": 600},
                {"image": "desktop", "size": 1, "hosts": ["two"]},
            ],
        }
    )


@dataclass
class Story:
    """What the model knows of one session."""

    id: str
    tenant: str
    labels: dict[str, str]
    end_asked: bool = False
    wanted: Status | None = None
    """What it should be at the end; None: as the host was made to be."""


class ControlPlane(RuleBasedStateMachine):
    """The machine. `empty_database`: bytes of one at the newest step."""

    empty_database: bytes

    sessions: Bundle[Story] = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="control-plane-"))
        self.settings = settings_in(self.folder)
        database = self.folder / "deskfleet.db"
        database.write_bytes(self.empty_database)
        self.store = Store(database)
        self.table = sqlite3.connect(database)
        self.table.row_factory = sqlite3.Row
        self.clock = Clock()
        self.stories: dict[str, Story] = {}
        self.excuses: defaultdict[str, set[str]] = defaultdict(set)
        """Session id -> why it may end without being asked to; of warm ones too."""
        self.hindrances: defaultdict[str, set[str]] = defaultdict(set)
        """Session id -> why it may not come up. Once it has, they count no more."""
        self.strangers: list[tuple[ModelHost, Container]] = []
        self.made_by_key: dict[tuple[str, str], tuple[str, str]] = {}
        self.claimed: set[str] = set()
        self.ended: dict[str, Row] = {}
        numbers = itertools.count(1)
        self.hosts = {
            name: ModelHost(
                name,
                numbers,
                relay_key=RELAY_KEY,
                utcnow=self.clock.utcnow,
                on_trouble=self._excuse,
                on_refusal=self._hinder,
            )
            for name in HOSTS
        }
        self.worker = SteeredWorker(
            self.settings, self.store, self.hosts, self.clock, on_step=self.after_each_move
        )
        self.threads = self.worker.threads
        self.store.accounts.sync_declared(["acme", "bolt"], [_declared(*one) for one in ROLES.items()])
        self.client = self._client()

    def _client(self) -> ViewerClient:
        # No place to wait in: every request is answered at once.
        nowhere = Slots(0, per_tenant=0, per_principal=0)
        app = _app()
        app.extensions["deskfleet"] = Services(self.settings, self.store, waits=nowhere)
        return ViewerClient(app, app.response_class, use_cookies=False)

    def teardown(self) -> None:
        try:
            self._heal()
            self._check_the_end()
        finally:
            self.table.close()
            self.worker.close()
            self.store.close()
            shutil.rmtree(self.folder)

    @initialize(looks=st.sampled_from([0, 2]))
    def the_pool_may_be_there_already(self, looks: int) -> None:
        for _ in range(looks):
            self.threads.let_time_pass(timedelta(seconds=3))
            self.worker.look_around()

    # --- what tenants do -----------------------------------------------------------------------------

    @rule(
        target=sessions,
        who=people,
        image=st.sampled_from(IMAGES),
        key=st.none() | st.sampled_from(KEYS),
        body=st.fixed_dictionaries(
            {},
            optional={
                "queue": st.booleans(),
                "host": hosts,
                "labels": st.just({"team": "red"}),
                "ttl_seconds": st.sampled_from([60, 3600]),
                "idle_seconds": st.just(60),
                "env": st.just({"A": "b"}),
            },
        ),
    )
    def create(self, who: Person, image: str, key: str | None, body: dict[str, Any]) -> Any:
        return multiple(*self._create(who, image, key, body))

    @rule(target=sessions, who=people, image=st.sampled_from(IMAGES), number=st.integers(2, 5))
    def create_several(self, who: Person, image: str, number: int) -> Any:
        return multiple(*(made for _ in range(number) for made in self._create(who, image, None, {})))

    def _create(self, who: Person, image: str, key: str | None, body: dict[str, Any]) -> list[Story]:
        """The new session; none where there is none."""
        before = len(self._rows())
        asked = {"image": image, "wait": False, **body}
        headers = {**who.headers, **({"Idempotency-Key": key} if key else {})}
        answer = self.client.post(SESSIONS, json=asked, headers=headers)
        made_before = self.made_by_key.get((who.tenant, key)) if key else None
        if made_before is not None:
            assert len(self._rows()) == before, "a repeated create made a row"
            if made_before[0] != json.dumps(asked):
                assert answer.status_code == 422, answer.json
            else:
                assert answer.json["id"] == made_before[1]
                assert answer.headers["Idempotent-Replayed"] == "true"
            return []
        if answer.status_code == 429:
            live = [row for row in self._rows() if row["terminated_at"] is None]
            assert sum(row["tenant_id"] == "acme" for row in live) >= ACME_MAY_HAVE
            assert who is ACME
            return []
        assert answer.status_code in (201, 202), answer.json
        story = self._begin(who, answer.json, asked)
        if key:
            self.made_by_key[who.tenant, key] = json.dumps(asked), story.id
        return [story]

    def _begin(self, who: Person, made: dict[str, Any], asked: dict[str, Any]) -> Story:
        assert made["id"] not in self.stories, "a desktop was given out twice"
        assert (made["tenant_id"], made["labels"]) == (who.tenant, asked.get("labels", {}))
        story = Story(made["id"], who.tenant, made["labels"], wanted=Status.RUNNING)
        if made["is_warm"]:
            assert "env" not in asked, "a desktop of the pool has not this environment"
            assert asked.get("host") in (None, made["host"])
            assert made["image"] == asked["image"]
            self._check_nothing_is_left_of_the_pool(who, made["id"])
        if not asked.get("queue", True):
            self._hinder(story.id, "it did not want to wait")
        if "idle_seconds" in asked:
            self._excuse(story.id, "nobody may use it for long")
        self.stories[story.id] = story
        return story

    def _check_nothing_is_left_of_the_pool(self, who: Person, session_id: str) -> None:
        steps = self.client.get(f"{SESSIONS}/{session_id}/history", headers=who.headers).json["items"]
        assert [(step["status"], step["by"]) for step in steps] == [
            ("running", f"key:{key_id_of(who.key)}")
        ], steps

    @rule(story=sessions)
    def terminate(self, story: Story) -> None:
        answer = self._as_its_own(story, "delete", "")
        assert answer.status_code in (202, 204)
        story.end_asked = True

    @rule(who=people, only_red=st.booleans())
    def terminate_many(self, who: Person, only_red: bool) -> None:
        body: dict[str, Any] = {"labels": {"team": "red"}} if only_red else {"all": True}
        answer = self.client.post(f"{SESSIONS}/terminate", json=body, headers=who.headers)
        assert answer.status_code == 202
        live = {row["id"] for row in self._rows() if row["terminated_at"] is None}
        mine = [
            story
            for story in self.stories.values()
            if story.tenant == who.tenant and story.id in live and not story.end_asked
            if not only_red or story.labels == {"team": "red"}
        ]
        assert set(answer.json["ids"]) == {story.id for story in mine}
        for story in mine:
            story.end_asked = True

    @rule(
        story=sessions, what=st.sampled_from(["pause", "resume", "renew", "label", "watch"]), data=st.data()
    )
    def use(self, story: Story, what: str, data: st.DataObject) -> None:
        match what:
            case "pause":
                self._pause_or_resume(story, Status.PAUSED)
            case "resume":
                self._pause_or_resume(story, Status.RUNNING)
            case "renew":
                self._renew(story, data.draw(st.sampled_from([60, 7200])))
            case "label":
                self._label(story, data.draw(st.sampled_from([{}, {"team": "red"}, {"team": "blue"}])))
            case "watch":
                self._watch(story)

    def _pause_or_resume(self, story: Story, wanted: Status) -> None:
        verb = "pause" if wanted is Status.PAUSED else "resume"
        answer = self._as_its_own(story, "post", f"/{verb}")
        row = self._row(story.id)
        is_there = row["status"] in ("running", "paused") and row["terminate_requested_at"] is None
        assert answer.status_code in ((200, 202) if is_there else (409,)), answer.json
        if is_there and story.wanted is not None:
            story.wanted = wanted

    def _renew(self, story: Story, seconds: int) -> None:
        answer = self._as_its_own(story, "post", "/renew", {"ttl_seconds": seconds})
        assert answer.status_code in (200, 409), answer.json
        if answer.status_code == 200:
            until = datetime.fromisoformat(answer.json["expires_at"])
            assert until == self.clock.now + timedelta(seconds=seconds)

    def _label(self, story: Story, labels: dict[str, str]) -> None:
        answer = self._as_its_own(story, "put", "/labels", {"labels": labels})
        assert answer.status_code in (200, 409), answer.json
        if answer.status_code == 200:
            story.labels = labels

    def _watch(self, story: Story) -> None:
        row = self._row(story.id)
        if row["status"] != "running" or row["display"] != "rfb":
            return
        who = _person(story.tenant)
        stream = StreamInfo(
            stream_id=f"st-{len(self.stories)}-{story.id}", session_id=story.id, tenant_id=story.tenant,
            principal=f"key:{key_id_of(who.key)}", may_control=True, opened_at=self.clock.now,
            bytes_to_browser=0, bytes_to_desktop=0,
        )  # fmt: skip
        self.hosts[row["host"]].streams.append(stream)

    @rule(
        story=sessions,
        what=st.sampled_from(
            [
                ("get", ""), ("get", "/history"), ("delete", ""), ("post", "/pause"), ("post", "/resume"),
                ("post", "/renew"), ("put", "/labels"), ("post", "/entries"),
            ]
        ),
    )  # fmt: skip
    def ask_for_anothers(self, story: Story, what: tuple[str, str]) -> None:
        other = BOLT if story.tenant == "acme" else ACME
        before = self._row(story.id)
        method, path = what
        body: dict[str, Any] | None = {"labels": {}} if path == "/labels" else None
        answer = self.client.open(
            f"{SESSIONS}/{story.id}{path}", method=method.upper(), json=body, headers=other.headers
        )
        assert answer.status_code == 404
        assert self._row(story.id) == before

    @rule(who=people)
    def read_the_list(self, who: Person) -> None:
        answer = self.client.get(f"{SESSIONS}?limit=200", headers=who.headers)
        assert Counter(item["id"] for item in answer.json["items"]) == Counter(
            story.id for story in self.stories.values() if story.tenant == who.tenant
        )

    @rule(host=hosts, draining=st.booleans())
    def drain(self, host: str, draining: bool) -> None:
        answer = self.client.put(
            f"/api/v1/hosts/{host}/draining", json={"draining": draining}, headers=ADMIN.headers
        )
        assert answer.status_code == 200

    # --- what the worker does --------------------------------------------------------------------------

    @rule(at=st.sampled_from([TABLE, *HOSTS]))
    def begin_to_look(self, at: str) -> None:
        """The worker's own time has come, or hostwatch told of an event."""
        self.worker.begin_to_look(at)

    @precondition(lambda self: self.threads.names())
    @rule(data=st.data(), steps=st.integers(1, 6))
    def move_one_thread(self, data: st.DataObject, steps: int) -> None:
        name = data.draw(st.sampled_from(self.threads.names()))
        for _ in range(steps):
            if name in self.threads.names():
                self.threads.move(name)

    @precondition(lambda self: self.threads.names())
    @rule(data=st.data())
    def run_one_thread_to_its_end(self, data: st.DataObject) -> None:
        self.threads.run(data.draw(st.sampled_from(self.threads.names())))

    @rule(first=st.sampled_from([TABLE, *HOSTS]))
    def look_around(self, first: str) -> None:
        self.worker.begin_to_look(first)
        self.worker.look_around()

    @rule(first=st.sampled_from([TABLE, *HOSTS]), moves=st.integers(1, 60))
    def stop_in_the_middle(self, first: str, moves: int) -> None:
        self.worker.begin_to_look(first)
        self.worker.look_around(most_moves=moves)

    @rule()
    def crash(self) -> None:
        self.worker.crash()

    @rule(first=st.sampled_from([TABLE, *HOSTS]), moves=st.integers(1, 60))
    def crash_in_the_middle(self, first: str, moves: int) -> None:
        self.stop_in_the_middle(first, moves)
        self.worker.crash()

    @rule(seconds=st.sampled_from([0.5, 3, 3, 10, 40, 70, 700, 3000]))
    def let_time_pass(self, seconds: float) -> None:
        self.threads.let_time_pass(timedelta(seconds=seconds))

    # --- what hosts do ---------------------------------------------------------------------------------

    @rule(host=hosts, what=st.sampled_from(["silence", "no relay", "fine again", "old list", *Fate]))
    def a_host_has_a_bad_day(self, host: str, what: str) -> None:
        there = self.hosts[host]
        match what:
            case "silence":
                there.is_silent = True
            case "no relay":
                there.is_relay_silent = True
            case "fine again":
                there.is_silent = there.is_relay_silent = False
            case "old list":
                there.shows_old_list = True
            case Fate():
                there.fate = what

    @precondition(lambda self: self._containers())
    @rule(
        data=st.data(),
        what=st.sampled_from(
            ["hide", "hide", "hide", "fail", "end", "vanish", "pause", "resume", "double", "forge"]
        ),
    )
    def something_happens_to_a_container(self, data: st.DataObject, what: str) -> None:
        found = self._containers()
        host, one = found[data.draw(st.integers(0, len(found) - 1))]
        match what:
            case "hide":
                host.hidden[one.id] = data.draw(st.integers(1, 2))
            case "fail" | "end" if one.state not in ENDED:
                host.dies(one.id, SandboxState.FAILED if what == "fail" else SandboxState.TERMINATED)
            case "vanish":
                host.vanishes(one.id)
            case "pause" | "resume" if one.state not in ENDED:
                one.state = SandboxState.PAUSED if what == "pause" else SandboxState.RUNNING
                self._now_as_the_host_has_it(one)
            case "double":
                host.plant(one.metadata)
                self._excuse(one.metadata[SESSION_KEY], "somebody made another one like it")
            case "forge":
                forged = host.plant({**one.metadata, TENANT_KEY: "intruder"})
                self.strangers.append((host, forged))

    def _now_as_the_host_has_it(self, one: Container) -> None:
        story = self.stories.get(one.metadata[SESSION_KEY])
        if story is not None:
            story.wanted = None
            # While it comes up, nobody sees a frame of it.
            if self._row(story.id)["status"] == "creating":
                self._hinder(story.id, "it was paused while it came up")

    @rule(host=hosts, fleet=st.sampled_from([None, "another-fleet", OUR_FLEET]))
    def somebody_else_makes_a_sandbox(self, host: str, fleet: str | None) -> None:
        stamp = {REQUEST_KEY: "none", TENANT_KEY: "acme", SESSION_KEY: "none"}
        made = self.hosts[host].plant({FLEET_KEY: fleet, **stamp} if fleet else {})
        if fleet != OUR_FLEET:
            self.strangers.append((self.hosts[host], made))

    # --- what always holds -----------------------------------------------------------------------------

    @invariant()
    def what_always_holds(self) -> None:
        self.after_each_move()
        self.no_thread_has_failed()
        self.nobody_has_more_than_he_may()
        self.tenants_keep_what_is_theirs()
        self.strangers_are_left_alone()
        self.nothing_wrong_is_asked_of_hosts()

    def after_each_move(self) -> None:
        """What a later move could hide again."""
        rows = self._rows()
        self.excuses_are_noted(rows)
        self.what_has_ended_stays_as_it_is(rows)
        self.no_request_has_two_sandboxes_on_one_host()

    def what_has_ended_stays_as_it_is(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row["terminated_at"] is not None:
                if row["id"] not in self.ended:
                    self._check_that_it_has_ended(row)
                assert self.ended.setdefault(row["id"], row) == row
            assert (row["terminated_at"] is not None) == (row["status"] in ("terminated", "error"))

    def _check_that_it_has_ended(self, row: Row) -> None:
        """It is not said before it is so; what fails may leave something to be deleted later."""
        if row["status"] == "terminated" and row["host"] is not None and not self.excuses[row["id"]]:
            assert row["sandbox_id"] not in self.hosts[row["host"]].containers, row

    def no_thread_has_failed(self) -> None:
        assert not self.worker.failures.seen, self.worker.failures.seen[0]

    def nobody_has_more_than_he_may(self) -> None:
        live = [row for row in self._rows() if row["terminated_at"] is None]
        assert sum(row["tenant_id"] == "acme" for row in live) <= ACME_MAY_HAVE
        for host in self.settings.hosts:
            there = [row for row in live if row["host"] == host.name]
            assert len(there) <= host.max_desktops
            assert sum(row["memory_mib"] for row in there) <= (host.memory_mib or 0)
            assert sum(row["sandbox_id"] is None for row in there) <= host.max_creates, there

    def tenants_keep_what_is_theirs(self) -> None:
        for row in self._rows():
            story = self.stories.get(row["id"])
            if story is None:
                assert row["tenant_id"] == POOL_TENANT, "a session that nobody asked for"
                assert json.loads(row["labels"]) == {}
                assert row["order_sealed"] is row["task_id"] is row["idle_seconds"] is None
            else:
                assert row["tenant_id"] == story.tenant
                assert json.loads(row["labels"]) == story.labels

    def no_request_has_two_sandboxes_on_one_host(self) -> None:
        """Whatever is lost or killed: who makes one looks first, and a look that says the truth is enough."""
        for host in self.hosts.values():
            if not host.has_hidden_from_look_ups:
                made = Counter(
                    one.metadata[REQUEST_KEY] for one in host.containers.values() if not one.is_planted
                )
                assert not made or max(made.values()) == 1, made

    def strangers_are_left_alone(self) -> None:
        for host, one in self.strangers:
            assert one not in host.deleted, one

    def nothing_wrong_is_asked_of_hosts(self) -> None:
        assert [wrong for host in self.hosts.values() for wrong in host.wrongs] == []

    def excuses_are_noted(self, rows: Iterable[Row]) -> None:
        """Not a rule, but what the model has to see for itself, whenever anything has moved."""
        away = any(host.is_silent or host.is_relay_silent for host in self.hosts.values())
        away |= any(row["status"] == "unreachable" for row in self._select("hosts"))
        for row in rows:
            story = self.stories.get(row["id"])
            if story is None or row["terminated_at"] is not None:
                continue
            if row["status"] != "creating":
                self.hindrances.pop(story.id, None)
            elif away:
                self._hinder(story.id, "a host was away while it was made")
            elif self.clock.now - _time(row["created_at"]) > PATIENCE:
                self._hinder(story.id, "it took too long")
            if _time(row["expires_at"]) <= self.clock.now:
                self._excuse(story.id, "it has expired")

    # --- the end -----------------------------------------------------------------------------------------

    def _heal(self) -> None:
        for host in self.hosts.values():
            host.heal()
            self.drain_again(host.name)
        self._settle(3)
        # What our fleet's id is on, and nobody asked for, has to be known for a minute.
        self.threads.let_time_pass(reconcile.ORPHAN_GRACE)
        self._settle(2)

    def _settle(self, looks: int) -> None:
        """Look around every few seconds, until that many looks in a row have found the same."""
        seen: list[object] = []
        while len(seen) < looks or any(one != seen[-1] for one in seen[-looks:]):
            assert len(seen) < MOST_LOOKS, "the worker never comes to rest"
            self.threads.let_time_pass(timedelta(seconds=3))
            self.worker.look_around()
            self.what_always_holds()
            there = [(name, list(host.containers)) for name, host in self.hosts.items()]
            seen.append((self._rows(), there))

    def drain_again(self, host: str) -> None:
        self.store.fleet.drain(host, is_draining=False)

    def _check_the_end(self) -> None:
        rows = {row["id"]: row for row in self._rows()}
        assert rows.keys() >= self.stories.keys(), "a session was lost"
        for story in self.stories.values():
            self._check_end_of(story, rows[story.id])
        self._check_containers(rows.values())
        self._check_events(rows)

    def _check_end_of(self, story: Story, row: Row) -> None:
        excuses = self.excuses[story.id] | self.hindrances[story.id]
        why = f"{row['status_reason']}, {row['error_message']}, excuses: {excuses}"
        said = f"{story} is {row['status']} on {row['host']}: {why}"
        if story.end_asked:
            assert row["terminated_at"] is not None, said
            assert row["status"] == "terminated" or excuses, said
            return
        assert row["terminated_at"] is None or excuses, said
        if row["terminated_at"] is None:
            assert row["terminate_requested_at"] is None or excuses, said
            assert _time(row["expires_at"]) > self.clock.now, said
            if row["status"] == "creating":
                assert row["host"] is None, f"{said} and does not come up"
                self._check_there_is_no_room(row)
            elif story.wanted is not None and not excuses:
                assert row["status"] == story.wanted, said

    def _check_there_is_no_room(self, row: Row) -> None:
        wanted = [row["wanted_host"]] if row["wanted_host"] else list(HOSTS)
        live = [one for one in self._rows() if one["terminated_at"] is None]
        for name in wanted:
            host = next(host for host in self.settings.hosts if host.name == name)
            there = [one for one in live if one["host"] == name]
            failed = name in json.loads(row["failed_hosts"])
            memory = sum(one["memory_mib"] for one in there) + row["memory_mib"]
            is_full = len(there) >= host.max_desktops or memory > (host.memory_mib or 0)
            assert failed or is_full, f"{row} waits, and there is room on {name}"

    def _check_containers(self, rows: Iterable[Row]) -> None:
        homes = {(row["host"], row["sandbox_id"]): row for row in rows if row["terminated_at"] is None}
        strangers = [one for _, one in self.strangers]
        for host in self.hosts.values():
            for one in host.containers.values():
                if one not in strangers:
                    assert (host.name, one.id) in homes, f"nobody's: {one}"
                    row = homes[host.name, one.id]
                    assert row["status"] == one.state.lower(), (row, one)
        for (name, sandbox_id), row in homes.items():
            if sandbox_id is not None:
                assert sandbox_id in self.hosts[name].containers, f"without a container: {row}"

    def _check_events(self, rows: dict[str, Row]) -> None:
        """The last event of each session is the session as it is; its history takes legal steps alone."""
        last: dict[str, Row] = {}
        for event in self._select("events", order="id"):
            told = json.loads(event["payload"])
            session = told.get("session", told)  # beside it: who has it in hand, or how many watch it
            assert event["tenant_id"] == session["tenant_id"]
            last[event["session_id"]] = session
        for row in rows.values():
            assert last[row["id"]]["status"] == row["status"]
            assert last[row["id"]]["tenant_id"] == row["tenant_id"]
        steps: dict[str, Status] = {}
        for step in self._select("session_history", order="id"):
            status, before = Status(step["status"]), steps.get(step["session_id"])
            assert before is None or status is before or status in LEGAL[before], (before, status)
            steps[step["session_id"]] = status

    # --- beside ------------------------------------------------------------------------------------------

    def _as_its_own(self, story: Story, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = _person(story.tenant).headers
        return self.client.open(
            f"{SESSIONS}/{story.id}{path}", method=method.upper(), json=body, headers=headers
        )

    def _hinder(self, session_id: str, why: str) -> None:
        self.hindrances[session_id].add(why)

    def _excuse(self, session_id: str, why: str) -> None:
        self.excuses[session_id].add(why)

    def _containers(self) -> list[tuple[ModelHost, Container]]:
        """Those that our worker made."""
        return [
            (host, one)
            for host in self.hosts.values()
            for one in host.containers.values()
            if not one.is_planted
        ]

    def _rows(self) -> list[Row]:
        return self._select("sandbox_sessions")

    def _row(self, session_id: str) -> Row:
        return next(row for row in self._rows() if row["id"] == session_id)

    def _select(self, table: str, *, order: str = "rowid") -> list[Row]:
        return [dict(row) for row in self.table.execute(f"SELECT * FROM {table} ORDER BY {order}")]


@functools.cache
def _app() -> Flask:
    """One for all machines, because it takes a while to make; each brings its own settings and database."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_in(Path(folder))
        return create_app(settings, Store(settings.database))


def _declared(person: Person, role: Role) -> DeclaredKey:
    key_id = key_id_of(person.key) or ""
    scopes = tuple(Scope) if role is Role.ADMIN else None
    return DeclaredKey(
        id=key_id, tenant=person.tenant, role=role, sha256=hash_of(person.key), label="", scopes=scopes
    )


def _person(tenant: str) -> Person:
    return ACME if tenant == "acme" else BOLT


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Thousands of warnings of things that were made to happen."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def plane(migrated_database: bytes) -> Iterator[ControlPlane]:
    """The same for tests of one order; heals and checks at the end, too."""
    ControlPlane.empty_database = migrated_database
    made = ControlPlane()
    yield made
    made.teardown()


def test_list_that_took_long_does_not_prove_that_nothing_was_made(plane: ControlPlane) -> None:
    """Nothing in it, and the time is over: but the sandbox may have come after it was written."""
    plane._create(BOLT, "shell", None, {"host": "one"})
    host = plane.hosts["one"]
    host.fate = Fate.LATE
    plane.worker.look_around()
    plane.worker.look_around(until=lambda: host.look_ups > 0)
    plane.threads.let_time_pass(timedelta(seconds=SETTLE_SECONDS + 1))
    plane.worker.look_around()
    plane.what_always_holds()


def test_host_that_finds_a_port_taken_is_asked_again(plane: ControlPlane) -> None:
    [story] = plane._create(BOLT, "shell", None, {"host": "one"})
    plane.hosts["one"].fate = Fate.PORT_TAKEN
    plane.worker.look_around()
    assert plane._row(story.id)["status"] == Status.RUNNING


def test_session_that_ends_while_it_is_renewed_stays_as_it_ended(plane: ControlPlane) -> None:
    [story] = plane._create(BOLT, "desktop", None, {"host": "one", "ttl_seconds": 60})
    plane.worker.look_around()
    plane.worker.look_around()
    plane._watch(story)
    plane.threads.let_time_pass(timedelta(seconds=40))
    plane.worker.begin_to_look("one")
    while plane.hosts["one"].renewals == 0:
        plane.threads.move("one")
    plane.terminate(story)
    plane.worker.begin_to_look(TABLE)
    plane.threads.run(TABLE)
    plane.threads.run(f"session end {story.id}")
    plane.threads.run("one")
    plane.what_always_holds()


@pytest.mark.real
@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("quiet")
def test_control_plane_stays_right_whatever_happens_in_whatever_order(migrated_database: bytes) -> None:
    ControlPlane.empty_database = migrated_database
    run_state_machine_as_test(
        ControlPlane,
        settings=settings(
            max_examples=10_000 if is_soaking() else 30,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
