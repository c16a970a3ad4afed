"""The captures of this relay: one per session at most, made when its first frame is waited for or a picture
of it is wanted, gone some time after the last of these.

A capture is nobody who watches: it is in no list of streams, takes no stream's place, and does not keep a
session from counting as idle. What it holds is in memory alone: the picture, and the desktop's password.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from aiohttp import web

from viewer.grants import DesktopSocket, Grant, GrantRefused, Target
from viewer.model import DesktopBackend
from viewer.relay.answers import MOST_PICTURE_BYTES, Picture, PictureFormat, PictureResult, ProbeResult
from viewer.relay.capture import FIRST_SECONDS, UNREADABLE, Capture, Encoded, NoPicture
from viewer.relay.desktop_access import backend_of, check_tenant
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.kasm_capture import KasmCapture
from viewer.relay.probing import first_frame, probe
from viewer.relay.rfb_capture import RfbCapture
from viewer.relay.settings import Settings
from viewer.rfb.client_parts import BYTES_PER_PIXEL
from viewer.rfb.framebuffer import NoRoom

LET_GO_SECONDS = 20.0
"""After the last wish has lapsed, or the first frame was seen, a capture is given up: somebody who looks
meanwhile finds it warm."""
TOO_MUCH = "that is too much for one answer; ask for fewer or smaller pictures, or for JPEG"
THREADS = 2
"""They decode, scale and encode, mostly outside of Python's lock."""

log = logging.getLogger(__name__)


class WantedOf(NamedTuple):
    """What one picture is wanted of. etag: of the one that the asker has."""

    grant: Grant
    target: Target
    etag: str | None


class _Key(NamedTuple):
    """What a capture was made with; one made with anything else shows another desktop."""

    tenant_id: str
    target: Target
    password: str | None
    backend: DesktopBackend | None
    """None: of a sandbox, which speaks RFB."""


class _Kept(NamedTuple):
    key: _Key
    capture: Capture
    account: _Account
    task: asyncio.Task[None]


class Captures:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[str, _Kept] = {}
        """By session; whoever was wanted last comes last."""
        self._hands = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
        self._memory = _Memory(settings)

    async def pictures(
        self, wanted: Sequence[WantedOf], *, width: int | None, format: PictureFormat
    ) -> list[Picture]:
        """In the order of the question, none of them later than FIRST_SECONDS and what encoding takes."""
        looks = [asyncio.create_task(self._picture(one, width=width, format=format)) for one in wanted]
        try:
            found = await asyncio.gather(*looks)
        finally:
            for look in looks:
                look.cancel()
        left = MOST_PICTURE_BYTES
        for at, picture in enumerate(found):
            size = len(picture.data or b"")
            if size > left:
                found[at] = _none(picture.session_id, TOO_MUCH)
            else:
                left -= size
        return found

    async def first_frame(self, grant: Grant, target: Target, *, seconds: float) -> ProbeResult:
        """What the desktop showed, at the latest after `seconds`. A grant that names the session's tenant has
        its capture look, which stays for who looks next; any other, and one for which there is no place, a
        capture that ends with this."""
        if grant.tenant_id:
            # Walls of others must not hide a desktop that comes up; and whether there is a frame says nothing
            # of what it shows.
            with suppress(NoPicture):
                kept = self._of(grant, target)
                return await first_frame(kept.capture, kept.key.backend, seconds=seconds)
        password = grant.vnc_password.get_secret_value() if grant.vnc_password else None
        return await probe(target, password, self._settings, seconds=seconds)

    async def look_after(self, app: web.Application) -> AsyncIterator[None]:
        """An aiohttp cleanup context: lets go of what nobody wants."""
        looking = asyncio.create_task(self._let_go_for_ever())
        yield
        looking.cancel()
        tasks = [kept.task for kept in self._kept.values()]
        for session_id in list(self._kept):
            self.end(session_id)
        await asyncio.wait([looking, *tasks])
        self._hands.shutdown()

    def end(self, session_id: str) -> None:
        """Give its capture up, if it has one."""
        kept = self._kept.pop(session_id, None)
        if kept is not None:
            kept.task.cancel()
            kept.task.add_done_callback(lambda _task: kept.account.close())

    async def _picture(self, wanted: WantedOf, *, width: int | None, format: PictureFormat) -> Picture:
        session_id = wanted.grant.session_id
        capture: Capture | None = None
        try:
            capture = self._of(wanted.grant, wanted.target).capture
            capture.want()
            async with asyncio.timeout(FIRST_SECONDS):
                # A thumbnail shows about how it is there; who asks for the whole acts on it.
                await capture.look(at_this_moment=width is None or format == "png")
            encoded = await capture.encoded(width, format)
        except NoPicture as reason:
            return _none(session_id, str(reason))
        except TimeoutError:
            trouble = capture.trouble if capture is not None else ""
            return _none(session_id, trouble or "the desktop has not shown anything yet")
        except Exception:
            # Of what reads pictures of strangers: those of all others are answered.
            log.exception("a desktop's picture could not be made")
            return _none(session_id, UNREADABLE)
        return _found(session_id, capture, encoded, etag=wanted.etag)

    def _of(self, grant: Grant, target: Target) -> _Kept:
        """The session's, made now if there is none. Raises NoPicture."""
        key = self._key(grant, target)
        kept = self._kept.get(grant.session_id)
        if kept is not None and (kept.key != key or kept.task.done()):
            self.end(grant.session_id)
            kept = None
        if kept is None:
            self._make_room(key.tenant_id)
            account = self._memory.account(key.tenant_id)
            capture = self._make(key, account)
            kept = _Kept(key, capture, account, asyncio.create_task(capture.run()))
        self._kept.pop(grant.session_id, None)
        self._kept[grant.session_id] = kept
        return kept

    def _key(self, grant: Grant, target: Target) -> _Key:
        """Whose desktop it is, is asked each time: it may have been given to another tenant."""
        password = grant.vnc_password.get_secret_value() if grant.vnc_password else None
        try:
            check_tenant(grant, self._settings)
            backend = backend_of(target, self._settings)
        except (GrantRefused, DesktopUnreachable) as error:
            raise NoPicture(str(error)) from error
        return _Key(grant.tenant_id, target, password, backend)

    def _make(self, key: _Key, account: _Account) -> Capture:
        if isinstance(key.target, DesktopSocket) and key.backend == "kasmvnc":
            return KasmCapture(key.target.name, self._settings, self._hands)
        return RfbCapture(
            key.target,
            key.password,
            self._settings,
            self._hands,
            reserve=account.reserve,
        )

    def _make_room(self, tenant_id: str) -> None:
        """Raises NoPicture."""
        of_tenant = sum(kept.key.tenant_id == tenant_id for kept in self._kept.values())
        if of_tenant >= self._settings.max_captures_per_tenant:
            self._end_unwanted(lambda kept: kept.key.tenant_id == tenant_id)
        elif len(self._kept) >= self._settings.max_captures:
            self._end_unwanted(lambda kept: True)

    def _end_unwanted(self, may_end: Callable[[_Kept], bool]) -> None:
        now = asyncio.get_running_loop().time()
        for session_id, kept in self._kept.items():
            if may_end(kept) and kept.capture.wishes.interval(now) is None:
                return self.end(session_id)
        raise NoPicture("this relay keeps as many pictures at once as it may; close other walls")

    async def _let_go_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LET_GO_SECONDS / 4)
            now = asyncio.get_running_loop().time()
            for session_id, kept in list(self._kept.items()):
                if kept.capture.wishes.last_until + LET_GO_SECONDS < now:
                    self.end(session_id)


class _Memory:
    """What all screens together may take, in bytes. Asked by the threads that decode."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_capture_bytes
        self._most_of_tenant = settings.max_capture_bytes_per_tenant
        self._lock = threading.Lock()
        self._taken: dict[_Account, int] = {}

    def account(self, tenant_id: str) -> _Account:
        return _Account(self, tenant_id)

    def take(self, account: _Account, size: int) -> None:
        with self._lock:
            others = {other: taken for other, taken in self._taken.items() if other is not account}
            of_tenant = sum(taken for other, taken in others.items() if other.tenant_id == account.tenant_id)
            if sum(others.values()) + size > self._most or of_tenant + size > self._most_of_tenant:
                raise NoRoom("this relay keeps as many and as large pictures as it may")
            self._taken[account] = size

    def give_back(self, account: _Account) -> None:
        with self._lock:
            self._taken.pop(account, None)


class _Account:
    """Of one capture."""

    def __init__(self, memory: _Memory, tenant_id: str) -> None:
        self._memory = memory
        self.tenant_id = tenant_id

    def reserve(self, pixels: int) -> None:
        """Instead of what it has. Raises NoRoom."""
        self._memory.take(self, BYTES_PER_PIXEL * pixels)

    def close(self) -> None:
        self._memory.give_back(self)


def _found(session_id: str, capture: Capture, encoded: Encoded, *, etag: str | None) -> Picture:
    is_same = encoded.etag == etag
    width, height = capture.screen_size
    return Picture(
        session_id=session_id,
        result=PictureResult.SAME if is_same else PictureResult.NEW,
        etag=encoded.etag,
        screen_width=width,
        screen_height=height,
        changed_at=capture.changed_at,
        data=None if is_same else b64encode(encoded.data),
    )


def _none(session_id: str, detail: str) -> Picture:
    return Picture(session_id=session_id, result=PictureResult.NONE, detail=detail)
