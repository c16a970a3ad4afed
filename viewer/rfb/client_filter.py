"""What of a client's messages may reach the desktop: by role, by lease, and by the clipboard's policy.

The client chooses how its messages are cut and glued, so nothing is decided before a message is whole, and
what passes passes whole. What has been pressed and not let go is remembered: whoever loses the keyboard must
not leave a key down.
"""

from __future__ import annotations

from struct import Struct, pack

from viewer.rfb import encodings
from viewer.rfb.client_messages import HEADER_BYTES, ClientMessage, message_length
from viewer.rfb.conversation import ProtocolError

MOST_KEYS_DOWN = 256
"""More than anybody has fingers; each is remembered."""

_INPUT = frozenset(
    {
        ClientMessage.KEY_EVENT,
        ClientMessage.POINTER_EVENT,
        ClientMessage.CUT_TEXT,
        ClientMessage.SET_DESKTOP_SIZE,
        ClientMessage.QEMU,
    }
)
"""What does something on the desktop. The rest asks for pictures and must pass, or the picture stalls."""

_ASKS_FOR_PICTURES = frozenset({ClientMessage.UPDATE_REQUEST, ClientMessage.CONTINUOUS_UPDATES})
_NEVER_OFFERED = frozenset({encodings.EXTENDED_MOUSE_BUTTONS, encodings.XVP, encodings.GII})
"""With the first, pointer messages may be longer by a byte, and only the server's answer says whether they
are. The messages of the others, shutdown and reboot among them, do not pass."""

_POINTER = Struct(">xBHH")


class Held:
    """Keys and buttons that are down because of one client."""

    def __init__(self) -> None:
        self._keys: dict[bytes, bytes] = {}
        """What a key is known by -> the message that lets go of it."""
        self._buttons = 0
        self.at: tuple[int, int] | None = None
        """Where the pointer was put last."""

    def note(self, message: bytes) -> None:
        """`message` goes to the desktop. Raises ProtocolError where too many keys are down."""
        kind = message[0]
        if kind == ClientMessage.POINTER_EVENT:
            self._buttons, x, y = _POINTER.unpack(message)
            self.at = (x, y)
        elif kind == ClientMessage.KEY_EVENT:
            self._note_key(b"k" + message[4:], bool(message[1]), b"\x04\0\0\0" + message[4:])
        elif kind == ClientMessage.QEMU:
            # By the key's place on the keyboard: its symbol may be another one by the time it is let go.
            name = message[8:] if any(message[8:]) else b"s" + message[4:8]
            self._note_key(name, message[2:4] != b"\0\0", b"\xff\0\0\0" + message[4:])

    def release(self) -> bytes:
        """Messages that let go of everything, the last key first; after them nothing is held."""
        ups = list(reversed(self._keys.values()))
        if self._buttons and self.at is not None:
            ups.append(pack(">BBHH", ClientMessage.POINTER_EVENT, 0, *self.at))
        self._keys.clear()
        self._buttons = 0
        return b"".join(ups)

    def _note_key(self, name: bytes, is_down: bool, up: bytes) -> None:
        if not is_down:
            self._keys.pop(name, None)
            return
        if len(self._keys) >= MOST_KEYS_DOWN and name not in self._keys:
            raise ProtocolError(f"a client holds more than {MOST_KEYS_DOWN} keys down")
        self._keys[name] = up


class ClientFilter:
    """Of one client. `may_act` follows the lease and may change between any two calls."""

    def __init__(
        self,
        *,
        may_act: bool,
        may_ever_act: bool,
        clipboard_to_desktop: bool = True,
        clipboard_from_desktop: bool = True,
    ) -> None:
        """may_ever_act: by its role, whoever has the lease now. Without clipboard_from_desktop a ServerFilter
        follows the way back, and the desktop is offered only what that one can follow."""
        self.may_act = may_act
        self.held = Held()
        self.has_acted = False
        """Whether the last `feed` let anything pass that does something on the desktop."""
        self._clipboard = may_ever_act and clipboard_to_desktop
        self._is_followed = not clipboard_from_desktop
        self._has_asked = False
        self.pixel_format: bytes | None = None
        """What the client chose, if it did."""
        self._takes_extended_clipboard = False
        self._buffer = bytearray()
        self._to_skip = 0

    def feed(self, data: bytes) -> bytes:
        """Return what of `data` may pass, in whole messages; raises ProtocolError."""
        self.has_acted = False
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        passed, end = self._sift(source)
        if source is self._buffer:
            del self._buffer[:end]
        else:
            self._buffer += source[end:]
        return passed

    def _sift(self, source: bytes | bytearray) -> tuple[bytes, int]:
        """What passes of `source`, and where the first message begins that is not whole."""
        passed: list[bytes] = []
        at, end = 0, len(source)
        while at < end:
            if self._to_skip:
                step = min(self._to_skip, end - at)
                self._to_skip -= step
                at += step
                continue
            length = message_length(source[at : at + HEADER_BYTES])
            if length is None:
                break
            if end - at < length:
                if not self._may_pass(source[at : at + HEADER_BYTES]):
                    # Nothing of it is wanted, so none of it is kept.
                    self._to_skip = length
                    continue
                break
            passed.append(self._through(bytes(source[at : at + length])))
            at += length
        return b"".join(passed), at

    def _may_pass(self, message: bytes | bytearray) -> bool:
        kind = message[0]
        if kind not in _INPUT:
            return kind != ClientMessage.XVP
        if not self.may_act:
            return False
        if kind == ClientMessage.CUT_TEXT:
            # Negative lengths are the extended clipboard's, which only who has it on offer may use.
            return self._clipboard and (message[4] < 0x80 or self._takes_extended_clipboard)
        return True

    def _through(self, message: bytes) -> bytes:
        if not self._may_pass(message):
            return b""
        if message[0] == ClientMessage.SET_ENCODINGS:
            return self._offered(message)
        if self._is_followed:
            self._note_pixel_format(message)
        if message[0] in _INPUT:
            self.has_acted = True
            self.held.note(message)
        return message

    def _note_pixel_format(self, message: bytes) -> None:
        """Nobody could say from which picture on the desktop goes by another one."""
        if message[0] in _ASKS_FOR_PICTURES:
            self._has_asked = True
        elif message[0] == ClientMessage.SET_PIXEL_FORMAT:
            if self._has_asked:
                raise ProtocolError("this stream's pixel format is fixed once a picture was asked for")
            self.pixel_format = message[4:]

    def _offered(self, message: bytes) -> bytes:
        """SetEncodings with what the relay lets the server know of. Without a clipboard towards the desktop
        there is no asking for what is in it either, so the server must send plain text unasked."""
        numbers = Struct(f">{(len(message) - 4) // 4}i").unpack_from(message, 4)
        offered = [number for number in numbers if self._may_offer(number)]
        self._takes_extended_clipboard = encodings.EXTENDED_CLIPBOARD in offered
        return pack(f">BxH{len(offered)}i", ClientMessage.SET_ENCODINGS, len(offered), *offered)

    def _may_offer(self, encoding: int) -> bool:
        if self._is_followed and not encodings.can_be_followed(encoding):
            return False
        if encoding == encodings.EXTENDED_CLIPBOARD:
            return self._clipboard
        return encoding not in _NEVER_OFFERED
