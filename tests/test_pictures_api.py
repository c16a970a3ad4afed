"""Screenshots and thumbnails over the API: who sees what, what travels, and what a silent host costs.

Stand-in, by name: `Camera` answers in the place of a relay; the real one is in tests/pages/test_wall_real.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

import viewer.pictures
from tests.viewer_fixtures import (
    ORIGIN,
    UNKNOWN_ID,
    People,
    ViewerClient,
    kasmvnc_desktop,
    put_relay,
    running_session,
    session_with_password,
)
from viewer.audit_store import AuditFilter
from viewer.cli.main import run
from viewer.grants import DesktopSocket, Grant, PublishedPort, open_grant
from viewer.model import Session, Status, utcnow
from viewer.pictures import Look, PictureDesk, Wish
from viewer.relay.answers import Picture, PictureFormat, PictureResult, WantedPicture
from viewer.relay_client import RelayUnreachable
from viewer.settings import Settings
from viewer.store import Store

SOME_BYTES = b"\xff\xd8 a picture \xff\xd9"
CHANGED = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


class Camera:
    """The relay, as far as pictures go: each desktop shows `shown`, under the etag of the same name."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.hosts[0].relay_key()
        self.asked: list[tuple[list[Grant], int | None, PictureFormat]] = []
        self.shown = "first"
        self.detail = ""
        """Not empty: there is no picture, for this reason."""
        self.before: Callable[[], None] = lambda: None

    def pictures(
        self, wanted: Sequence[WantedPicture], *, width: int | None, format: PictureFormat
    ) -> tuple[Picture, ...]:
        self.before()
        grants = [open_grant(one.grant, self._key, purpose="picture", now=utcnow()) for one in wanted]
        self.asked.append((grants, width, format))
        return tuple(
            self._picture(grant.session_id, one.etag) for grant, one in zip(grants, wanted, strict=True)
        )

    def _picture(self, session_id: str, etag: str | None) -> Picture:
        if self.detail:
            return Picture(session_id=session_id, result=PictureResult.NONE, detail=self.detail)
        values: dict[str, Any] = {
            "session_id": session_id, "etag": self.shown, "screen_width": 1280, "screen_height": 800,
            "changed_at": CHANGED,
        }  # fmt: skip
        if etag == self.shown:
            return Picture(**values, result=PictureResult.SAME)
        return Picture(**values, result=PictureResult.NEW).model_copy(update={"data": SOME_BYTES})

    def close(self) -> None:
        pass


@pytest.fixture
def camera(app: Flask, settings: Settings) -> Camera:
    camera = Camera(settings)
    put_relay(app, camera)
    return camera


@pytest.fixture
def session(store: Store, people: People, settings: Settings) -> Session:
    return session_with_password(store, people.alice, settings, "secret12")


Shot = Callable[..., Any]


@pytest.fixture
def shot(client: ViewerClient, people: People, camera: Camera) -> Shot:
    def shot(session: Session, query: str = "", headers: dict[str, str] | None = None, **more: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return client.get(
            f"/api/v1/sessions/{session.id}/screenshot{query}",
            headers={**(people.wanda.headers if headers is None else headers), **named},
        )

    return shot


# --- one picture


def test_watcher_gets_the_picture_as_its_relay_took_it(shot: Shot, session: Session, camera: Camera) -> None:
    answer = shot(session, "?format=jpeg&width=320")
    assert (answer.status_code, answer.mimetype, answer.get_data()) == (200, "image/jpeg", SOME_BYTES)
    assert answer.headers["ETag"] == '"first"'
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.last_modified == CHANGED
    assert answer.headers["Screen-Size"] == "1280x800"
    ((grants, width, format),) = camera.asked
    assert (width, format) == (320, "jpeg")
    (grant,) = grants
    assert (grant.session_id, grant.tenant_id) == (session.id, "acme")
    assert grant.target == PublishedPort(port=40001)
    assert grant.vnc_password is not None
    assert grant.vnc_password.get_secret_value() == "secret12"
    assert not grant.may_control


def test_without_wishes_it_is_exact_and_whole(shot: Shot, session: Session, camera: Camera) -> None:
    assert shot(session).mimetype == "image/png"
    assert camera.asked[0][1:] == (None, "png")


def test_picture_that_is_known_does_not_travel(shot: Shot, session: Session, camera: Camera) -> None:
    answer = shot(session, If_None_Match='"first"')
    assert (answer.status_code, answer.get_data(), answer.headers["ETag"]) == (304, b"", '"first"')
    # One of several is enough, whichever of them the relay was told.
    assert shot(session, If_None_Match='"a", "first", "z"').status_code == 304
    camera.shown = "second"
    answer = shot(session, If_None_Match='"first"')
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"second"')


def test_kasmvnc_desktop_is_asked_for_by_its_socket(
    shot: Shot, store: Store, people: People, camera: Camera
) -> None:
    desktop = kasmvnc_desktop(store, people.alice)
    assert shot(desktop).status_code == 200
    assert isinstance(camera.asked[0][0][0].target, DesktopSocket)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.PAUSED, "It is paused, and no picture of it is kept; resume it."),
        (Status.TERMINATED, "It has ended, and no picture of it is kept."),
        (Status.ERROR, "It has ended, and no picture of it is kept."),
    ],
)
def test_what_does_not_run_has_no_picture_and_says_why(
    shot: Shot, session: Session, store: Store, camera: Camera, status: Status, reason: str
) -> None:
    store.fleet.transition(session.id, status)
    answer = shot(session)
    assert (answer.status_code, answer.json["detail"]) == (409, reason)
    assert camera.asked == []


def test_screen_that_does_not_answer_is_asked_again(shot: Shot, session: Session, camera: Camera) -> None:
    camera.detail = "the desktop takes no connection"
    answer = shot(session)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json["detail"] == "The desktop takes no connection; ask again in a moment."


def test_silent_relay_is_said(shot: Shot, session: Session, camera: Camera) -> None:
    def fail() -> None:
        raise RelayUnreachable("the relay of host here does not answer")

    camera.before = fail
    answer = shot(session)
    assert (answer.status_code, answer.json["type"]) == (502, "urn:deskfleet:problem:relay-silent")


@pytest.mark.parametrize("wrong", ["format=gif", "width=0", "width=9000", "width=x", "size=1"])
def test_wrong_wish_names_the_field(shot: Shot, session: Session, camera: Camera, wrong: str) -> None:
    answer = shot(session, f"?{wrong}")
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, wrong.partition("=")[0])
    assert camera.asked == []


def test_ticket_of_the_session_opens_its_picture_and_no_other(
    shot: Shot, session: Session, client: ViewerClient, people: People, store: Store
) -> None:
    made = client.post(
        f"/api/v1/sessions/{session.id}/tickets", json={"role": "watch"}, headers=people.wanda.headers
    ).json
    bearer = {"Authorization": f"Bearer {made['ticket']}"}
    assert shot(session, headers=bearer).status_code == 200
    other = running_session(store, people.alice, sandbox_id="box-2")
    assert shot(other, headers=bearer).status_code == 404
    assert client.post("/api/v1/thumbnails", json={"items": []}, headers=bearer).status_code == 401


def test_screenshot_is_in_the_audit_log_once_in_a_while(shot: Shot, session: Session, store: Store) -> None:
    for _ in range(3):
        shot(session)
    (entry,) = store.audit.entries("acme", AuditFilter(action="session.screenshot"))
    assert (entry.target, entry.outcome) == (f"session:{session.id}", "done")


def test_command_writes_it_into_a_new_file(
    app: Flask,
    session: Session,
    people: People,
    camera: Camera,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DESKFLEET_URL", ORIGIN)
    monkeypatch.setenv("DESKFLEET_KEY", people.wanda.key)
    file = tmp_path / "screen.jpg"
    command = ["sessions", "screenshot", session.id, "-o", str(file), "--width", "320"]
    assert run(command, httpx.WSGITransport(app)) == 0
    assert file.read_bytes() == SOME_BYTES
    assert file.stat().st_mode & 0o777 == 0o600
    assert camera.asked[0][1:] == (320, "jpeg")
    # What is there is not written over.
    assert run(command, httpx.WSGITransport(app)) != 0
    assert "give a new name" in capsys.readouterr().err


# --- many


Ask = Callable[..., Any]


@pytest.fixture
def look(client: ViewerClient, people: People, camera: Camera) -> Ask:
    def look(*items: tuple[str, str | None], headers: dict[str, str] | None = None, **more: Any) -> Any:
        body = {"items": [{"session_id": name, "etag": etag} for name, etag in items], **more}
        return client.post("/api/v1/thumbnails", json=body, headers=headers or people.wanda.headers)

    return look


def test_only_changed_pictures_travel(
    look: Ask, session: Session, store: Store, people: People, camera: Camera
) -> None:
    other = running_session(store, people.alice, sandbox_id="box-2")
    answer = look((session.id, None), (other.id, "first"), width=160).json
    new, same = answer["items"]
    assert (new["session_id"], new["result"], new["data"]) == (session.id, "new", "/9ggYSBwaWN0dXJlIP/Z")
    assert (same["session_id"], same["result"], same["data"]) == (other.id, "same", None)
    assert same["changed_at"] == "2026-11-30T12:00:00Z"
    ((grants, width, format),) = camera.asked
    assert (len(grants), width, format) == (2, 160, "jpeg")


def test_foreign_unknown_and_ended_ones_cost_the_relay_nothing(
    look: Ask, session: Session, store: Store, people: People, camera: Camera
) -> None:
    store.fleet.transition(session.id, Status.PAUSED)
    foreign = running_session(store, people.bob, sandbox_id="box-3")
    items = look((foreign.id, None), (UNKNOWN_ID, None), (session.id, None)).json["items"]
    assert [(one["result"], one["detail"]) for one in items] == [
        ("none", "There is no such desktop here."),
        ("none", "There is no such desktop here."),
        ("none", "It is paused, and no picture of it is kept; resume it."),
    ]
    assert camera.asked == []


def test_silent_host_costs_its_own_tiles_and_is_left_alone_for_a_while(
    look: Ask, session: Session, camera: Camera
) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise RelayUnreachable("the relay of host here does not answer")

    camera.before = fail
    for _ in range(3):
        (item,) = look((session.id, "first")).json["items"]
        assert (item["result"], item["detail"]) == ("none", "The relay of host here does not answer.")
    assert len(calls) == 1


def test_a_wall_is_one_entry_in_the_audit_log(look: Ask, session: Session, store: Store) -> None:
    look((session.id, None))
    look((session.id, "first"))
    (entry,) = store.audit.entries("acme", AuditFilter(action="thumbnails.view"))
    assert entry.target == "tenant:acme"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"items": [{"session_id": "x"}] * 101}, "items"),
        ({"items": [{"session_id": "x"}], "width": 4000}, "width"),
        ({"items": [{"session_id": 1}]}, "items[0].session_id"),
        ({}, "items"),
    ],
)
def test_wrong_question_names_the_field(
    client: ViewerClient, people: People, body: dict[str, Any], field: str
) -> None:
    answer = client.post("/api/v1/thumbnails", json=body, headers=people.wanda.headers)
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, field)


def test_tenant_that_has_its_share_under_way_waits_and_others_do_not(
    app: Flask, look: Ask, session: Session, store: Store, people: People, camera: Camera
) -> None:
    slots = app.extensions["deskfleet"].picture_slots
    for person in (people.alice, people.wanda):
        who = store.accounts.principal_of_key(person.key)
        assert who is not None
        while slots.take(who):
            pass
    answer = look((session.id, None))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert look((UNKNOWN_ID, None), headers=people.bob.headers).status_code == 200


# --- several hosts


def grant(name: str) -> Grant:
    return Grant(purpose="picture", session_id=name, target=PublishedPort(port=1), expires_at=utcnow())


class Instant:
    """A relay that has every picture."""

    def pictures(self, wanted: Sequence[WantedPicture], **_: object) -> tuple[Picture, ...]:
        return (Picture(session_id="quick", result=PictureResult.NEW, etag="e"),)


class Hanging:
    """A relay that answers when the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.asked = 0

    def pictures(self, wanted: Sequence[WantedPicture], **_: object) -> tuple[Picture, ...]:
        self.asked += 1
        self.over.wait(30)
        return (Picture(session_id="slow", result=PictureResult.NEW),)


def test_hanging_host_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(viewer.pictures, "DEADLINE_SECONDS", 0.05)
    hanging, key = Hanging(), settings.hosts[0].relay_key()
    relays: Any = {"near": Instant(), "far": hanging}
    desk = PictureDesk(lambda: relays, lambda _: key)
    wishes = [Wish("near", grant("quick")), Wish("far", grant("slow")), Wish("gone", grant("lost"))]
    try:
        for _ in range(3):
            found = desk.many(wishes, Look(width=320, format="jpeg"))
            assert found["quick"].result is PictureResult.NEW
            assert (found["slow"].result, found["slow"].detail) == (
                PictureResult.NONE,
                "host far does not answer in time",
            )
            assert found["lost"].detail == "host gone has no relay"
        assert hanging.asked == 1
    finally:
        hanging.over.set()
        desk.close()
