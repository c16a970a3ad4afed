"""API v1: what desktops show, as pictures: a screenshot of one, thumbnails of many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from flask import Blueprint, Response, request

from viewer.access import also_by, needs, principal
from viewer.answers import json_answer
from viewer.authz import screen_of, vnc_password
from viewer.grants import Grant
from viewer.incoming import ScreenshotQuery, WantedThumbnail, WantedThumbnails, json_body, query
from viewer.model import Display, Principal, Role, Scope, Session, Status, utcnow
from viewer.openapi import Answer, Operation, describes
from viewer.pictures import Look, Wish
from viewer.problems import Problem
from viewer.public_pictures import Thumbnail, Thumbnails, thumbnail
from viewer.relay.answers import Picture, PictureResult
from viewer.relay_client import RelayUnreachable
from viewer.services import services

pictures_api = Blueprint("pictures", __name__, url_prefix="/api/v1")

GRANT_LIFE = timedelta(seconds=30)
NOT_YOURS = "There is no such desktop here."
"""The same of what never was and of another tenant's."""


@pictures_api.get("/sessions/<session_id>/screenshot")
@needs(Role.WATCHER, scope=Scope.STREAMS)
@also_by("ticket")
@describes(
    Operation(
        summary="What the desktop shows now, as a picture",
        query=ScreenshotQuery,
        headers={"If-None-Match": "The `ETag` of the picture that you have."},
        answers={
            200: Answer("The picture.", media_type="image/png", also=("image/jpeg",)),
            304: Answer("It is as you have it."),
        },
        problems=(404, 409, 422, 502, 503),
    )
)
def get_screenshot(session_id: str) -> Response:
    who, here = principal(), services()
    session = here.store.tenant(who.tenant).get(session_id)
    asked = query(ScreenshotQuery)
    known = request.if_none_match.as_set()
    wish = _wish(session, who, etag=min(known, default=None))
    if isinstance(wish, str):
        raise Problem(409, "no-picture", "This desktop shows nothing now", wish)
    here.store.audit.opened(
        session.tenant_id, "session.screenshot", f"session:{session.id}", principal=who.id
    )
    with _slot(who):
        try:
            picture = here.pictures.one(wish, Look(width=asked.width, format=asked.format))
        except RelayUnreachable as error:
            raise _silent(error) from error
    return _image(session, picture, f"image/{asked.format}", known)


@pictures_api.post("/thumbnails")
@needs(Role.WATCHER, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="What many desktops show, small; only pictures that you do not have yet",
        body=WantedThumbnails,
        answers={200: Answer("One for each that was asked for, in that order.", Thumbnails)},
        problems=(400, 413, 415, 422),
    )
)
def get_thumbnails() -> Response:
    """A POST, because a wall asks for more than an address holds; it changes nothing."""
    who, here = principal(), services()
    asked = json_body(WantedThumbnails)
    with _slot(who):
        sessions = here.store.tenant(who.tenant).known({item.session_id for item in asked.items})
        wishes = {
            item.session_id: _wish_for(item, sessions.get(item.session_id), who) for item in asked.items
        }
        askable = [wish for wish in wishes.values() if isinstance(wish, Wish)]
        if askable:
            here.store.audit.opened(who.tenant, "thumbnails.view", f"tenant:{who.tenant}", principal=who.id)
        found = here.pictures.many(askable, Look(width=asked.width, format="jpeg"))
    items = (_thumbnail(item.session_id, wishes[item.session_id], found) for item in asked.items)
    return json_answer(Thumbnails(items=tuple(items)))


def _thumbnail(session_id: str, wish: Wish | str, found: dict[str, Picture]) -> Thumbnail:
    if isinstance(wish, str):
        return Thumbnail(session_id=session_id, result=PictureResult.NONE, detail=wish)
    return thumbnail(found[session_id])


def _wish_for(item: WantedThumbnail, session: Session | None, who: Principal) -> Wish | str:
    if session is None:
        return NOT_YOURS
    try:
        return _wish(session, who, etag=item.etag)
    except Problem as problem:
        return problem.document.detail


def _wish(session: Session, who: Principal, *, etag: str | None) -> Wish | str:
    """What to ask its relay for; or a sentence that says why it has no picture now."""
    target = screen_of(session)
    if target is None or session.host is None:
        return _why_none(session)
    grant = Grant(
        purpose="picture",
        session_id=session.id,
        tenant_id=session.tenant_id,
        principal=who.holder,
        target=target,
        vnc_password=vnc_password(session),
        expires_at=utcnow() + GRANT_LIFE,
    )
    return Wish(host=session.host, grant=grant, etag=etag)


def _why_none(session: Session) -> str:
    if session.display is Display.NONE:
        return "This sandbox has no screen."
    match session.status:
        case Status.CREATING:
            return "It is still being made; ask again when it is running."
        case Status.PAUSED:
            return "It is paused, and no picture of it is kept; resume it."
        case Status.RUNNING:
            return "Nobody knows yet where its screen is; ask again in a moment."
        case _:
            return "It has ended, and no picture of it is kept."


def _image(session: Session, picture: Picture, media_type: str, known: set[str]) -> Response:
    if picture.result is PictureResult.NONE:
        reason = picture.detail or "its screen does not answer"
        raise Problem(
            503,
            "no-picture-yet",
            "No picture yet",
            f"{reason[:1].upper()}{reason[1:].rstrip('.')}; ask again in a moment.",
            headers={"Retry-After": "2"},
        )
    is_known = picture.result is PictureResult.SAME or picture.etag in known
    answer = Response(status=304) if is_known else Response(picture.data or b"", content_type=media_type)
    if picture.etag is not None:
        answer.set_etag(picture.etag)
    # The browser may keep it, and asks each time whether it is still so.
    answer.headers["Cache-Control"] = "private, no-cache"
    if picture.changed_at is not None:
        answer.last_modified = picture.changed_at
    if picture.screen_width:
        answer.headers["Screen-Size"] = f"{picture.screen_width}x{picture.screen_height}"
    suffix = "png" if media_type == "image/png" else "jpg"
    answer.headers["Content-Disposition"] = f'inline; filename="desktop-{session.id[:8]}.{suffix}"'
    return answer


@contextmanager
def _slot(who: Principal) -> Iterator[None]:
    """One of the threads that may wait for pictures. Raises 429 where the tenant has its share."""
    here = services()
    if not here.picture_slots.take(who):
        raise Problem(
            429,
            "too-many-pictures",
            "Too many pictures at once",
            "Your tenant asks for as many pictures at once as it may; ask again in a second.",
            headers={"Retry-After": "1"},
        )
    try:
        yield
    finally:
        here.picture_slots.give_back(who)


def _silent(error: RelayUnreachable) -> Problem:
    return Problem(
        502,
        "relay-silent",
        "The desktop's host does not answer",
        f"What it shows cannot be told now; try again in a while: {error}.",
        headers={"Retry-After": "5"},
    )
