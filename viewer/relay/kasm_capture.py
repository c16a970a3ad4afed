"""The capture of a KasmVNC desktop, which speaks no RFB: screenshots by its owner's API.

It makes JPEGs, so no picture of it is sharper than those.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import Executor
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from viewer.relay.answers import ProbeOutcome
from viewer.relay.capture import PICTURE_INTERVAL, Capture, Glimpse, NoPicture
from viewer.relay.desktop_access import owner_of
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.jpeg import LARGEST_SIDE, NotAJpeg, look_at
from viewer.relay.kasmvnc import BadRequest, OwnerApi, OwnerRefused
from viewer.relay.settings import Settings

LOOK_SECONDS = 0.5
"""Between two screenshots while a first one is waited for: there is none in a desktop's first seconds."""
PAINTED_NOTHING = "the desktop has painted nothing yet"
TOO_LARGE = f"the screenshot is larger than {LARGEST_SIDE} pixels a side"


class KasmCapture(Capture):
    def __init__(self, desktop: str, settings: Settings, hands: Executor | None) -> None:
        super().__init__(hands)
        self._desktop = desktop
        self._settings = settings
        self._jpeg = b""
        self._digest = b""
        self._count = 0
        self._size = (0, 0)
        self._looked_at = 0.0
        self._looking = asyncio.Lock()
        self._glimpse = Glimpse()

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

    @property
    def glimpse(self) -> Glimpse:
        return self._glimpse

    def _look_afresh(self) -> None:
        self.trouble, self._glimpse = "", Glimpse()

    async def _until_frame(self) -> tuple[ProbeOutcome, str]:
        while True:
            try:
                look = look_at(await self._screenshot())
            except OwnerRefused as error:
                return ProbeOutcome.REFUSED, str(error)
            except (BadRequest, DesktopUnreachable):
                # It is in `trouble`.
                pass
            except NotAJpeg as error:
                self.trouble = str(error)
            else:
                self._glimpse = Glimpse(look.width, look.height, look.colours)
                if look.colours == 0:
                    return ProbeOutcome.FRAME, "the desktop's screenshots do not tell whether they are blank"
                if look.colours > 1:
                    return ProbeOutcome.FRAME, ""
            await asyncio.sleep(LOOK_SECONDS)

    async def _screenshot(self) -> bytes:
        """Raises BadRequest, DesktopUnreachable, and says why in `trouble`."""
        try:
            owner = owner_of(self._desktop, self._settings)
            jpeg = await OwnerApi(self._desktop, owner, self._settings).screenshot()
        except BadRequest:
            self.trouble = PAINTED_NOTHING
            raise
        except DesktopUnreachable as error:
            self.trouble = str(error)
            raise
        self.trouble = ""
        return jpeg

    async def _take(self) -> None:
        try:
            jpeg = await self._screenshot()
        except (BadRequest, DesktopUnreachable) as error:
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
