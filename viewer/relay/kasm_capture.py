"""The capture of a KasmVNC desktop, which speaks no RFB: screenshots by its owner's API.

It makes JPEGs, so no picture of it is sharper than those.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import Executor
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from viewer.relay.capture import PICTURE_INTERVAL, Capture, NoPicture
from viewer.relay.desktop_access import owner_of
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.jpeg import LARGEST_SIDE
from viewer.relay.kasmvnc import BadRequest, OwnerApi
from viewer.relay.settings import Settings

PAINTED_NOTHING = "the desktop has painted nothing yet"
TOO_LARGE = f"the screenshot is larger than {LARGEST_SIDE} pixels a side"


class KasmCapture(Capture):
    def __init__(self, desktop: str, settings: Settings, hands: Executor) -> None:
        super().__init__(hands)
        self._desktop = desktop
        self._settings = settings
        self._jpeg = b""
        self._digest = b""
        self._count = 0
        self._size = (0, 0)
        self._looked_at = 0.0
        self._looking = asyncio.Lock()

    @property
    def screen_size(self) -> tuple[int, int]:
        return self._size

    @property
    def _changes(self) -> int:
        return self._count

    async def run(self) -> None:
        """Nothing to do between two wishes: there is no connection to keep."""
        await asyncio.Event().wait()

    async def look(self, *, at_this_moment: bool) -> None:
        asked_at = asyncio.get_running_loop().time()
        async with self._looking:
            age = asked_at - self._looked_at
            if age <= 0 or (not at_this_moment and age < PICTURE_INTERVAL):
                # Another one has looked since, or just before.
                if self.trouble:
                    raise NoPicture(self.trouble)
                return
            await self._take()

    async def _take(self) -> None:
        try:
            jpeg = await OwnerApi(
                self._desktop, owner_of(self._desktop, self._settings), self._settings
            ).screenshot()
            self.trouble = ""
        except BadRequest as error:
            self.trouble = PAINTED_NOTHING
            raise NoPicture(self.trouble) from error
        except DesktopUnreachable as error:
            self.trouble = str(error)
            raise NoPicture(self.trouble) from error
        finally:
            self._looked_at = asyncio.get_running_loop().time()
        async with self._turn:
            digest = hashlib.blake2b(jpeg).digest()
            if digest == self._digest:
                return
            try:
                self._size = await self._in_hands(lambda: _size_of(jpeg))
            except NoPicture as error:
                self.trouble = str(error)
                raise
            self._jpeg, self._digest = jpeg, digest
            self._count += 1
            self._note_change()

    async def _whole(self) -> None:
        if not self._jpeg:
            raise NoPicture(self.trouble or PAINTED_NOTHING)

    def _picture(self) -> Image.Image:
        return _open(self._jpeg).convert("RGB")


def _size_of(jpeg: bytes) -> tuple[int, int]:
    return _open(jpeg).size


def _open(jpeg: bytes) -> Image.Image:
    """The bytes come from a web server that the desktop's user may replace: JPEG alone, of bounded size."""
    try:
        picture = Image.open(BytesIO(jpeg), formats=["JPEG"])
        if max(picture.size) > LARGEST_SIDE:
            raise NoPicture(TOO_LARGE)
        picture.load()
    except Image.DecompressionBombError as error:
        # Far more pixels still, which Pillow refuses by itself.
        raise NoPicture(TOO_LARGE) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise NoPicture("the desktop's screenshot is not a whole JPEG") from error
    return picture
