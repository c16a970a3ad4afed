"""Keysyms: the numbers by which RFB names keys (RFC 6143, 7.5.4), from names and from characters.

The names and numbers are those of X11 (X.Org's `keysymdef.h` and `XF86keysym.h`), so what a user knows from
`xdotool` or `xev` is right here too. Characters need no table: X11 gives each one a keysym by rule.
"""

from __future__ import annotations

import difflib

UNICODE_KEYSYMS = 0x01000000
"""Of a character beyond Latin-1: this and its code point."""
RETURN, TAB = 0xFF0D, 0xFF09


class UnknownKey(ValueError):
    """No key of that name; the text says which ones are near."""


_LATIN_1 = {
    0x20: "space exclam quotedbl numbersign dollar percent ampersand apostrophe parenleft parenright asterisk"
    " plus comma minus period slash 0 1 2 3 4 5 6 7 8 9 colon semicolon less equal greater question at",
    0x5B: "bracketleft backslash bracketright asciicircum underscore grave",
    0x7B: "braceleft bar braceright asciitilde",
    0xA0: "nobreakspace exclamdown cent sterling currency yen brokenbar section diaeresis copyright"
    " ordfeminine guillemotleft notsign hyphen registered macron degree plusminus twosuperior threesuperior"
    " acute mu paragraph periodcentered cedilla onesuperior masculine guillemotright onequarter onehalf"
    " threequarters questiondown Agrave Aacute Acircumflex Atilde Adiaeresis Aring AE Ccedilla Egrave Eacute"
    " Ecircumflex Ediaeresis Igrave Iacute Icircumflex Idiaeresis ETH Ntilde Ograve Oacute Ocircumflex Otilde"
    " Odiaeresis multiply Oslash Ugrave Uacute Ucircumflex Udiaeresis Yacute THORN ssharp agrave aacute"
    " acircumflex atilde adiaeresis aring ae ccedilla egrave eacute ecircumflex ediaeresis igrave iacute"
    " icircumflex idiaeresis eth ntilde ograve oacute ocircumflex otilde odiaeresis division oslash ugrave"
    " uacute ucircumflex udiaeresis yacute thorn ydiaeresis",
}
_RUNS = {
    0xFF50: "Home Left Up Right Down Page_Up Page_Down End Begin",
    0xFF60: "Select Print Execute Insert",
    0xFF65: "Undo Redo Menu Find Cancel Help Break",
    0xFF95: "KP_Home KP_Left KP_Up KP_Right KP_Down KP_Page_Up KP_Page_Down KP_End KP_Begin KP_Insert"
    " KP_Delete",
    0xFFAA: "KP_Multiply KP_Add KP_Separator KP_Subtract KP_Decimal KP_Divide",
    0xFFB0: "KP_0 KP_1 KP_2 KP_3 KP_4 KP_5 KP_6 KP_7 KP_8 KP_9",
    0xFFBE: " ".join(f"F{number}" for number in range(1, 36)),
    0xFFE1: "Shift_L Shift_R Control_L Control_R Caps_Lock Shift_Lock Meta_L Meta_R Alt_L Alt_R Super_L"
    " Super_R Hyper_L Hyper_R",
    0x1008FF11: "XF86AudioLowerVolume XF86AudioMute XF86AudioRaiseVolume XF86AudioPlay XF86AudioStop"
    " XF86AudioPrev XF86AudioNext XF86HomePage XF86Mail",
    0x1008FF26: "XF86Back XF86Forward XF86Stop XF86Refresh",
}
_SINGLE = {
    "BackSpace": 0xFF08, "Tab": TAB, "Linefeed": 0xFF0A, "Clear": 0xFF0B, "Return": RETURN, "Pause": 0xFF13,
    "Scroll_Lock": 0xFF14, "Sys_Req": 0xFF15, "Escape": 0xFF1B, "Multi_key": 0xFF20, "Prior": 0xFF55,
    "Next": 0xFF56, "Mode_switch": 0xFF7E, "Num_Lock": 0xFF7F, "KP_Space": 0xFF80, "KP_Tab": 0xFF89,
    "KP_Enter": 0xFF8D, "KP_Equal": 0xFFBD, "Delete": 0xFFFF, "ISO_Level3_Shift": 0xFE03,
    "ISO_Left_Tab": 0xFE20, "EuroSign": 0x20AC, "XF86Search": 0x1008FF1B,
}  # fmt: skip
_OTHER_WORDS = {
    "ctrl": "Control_L", "control": "Control_L", "shift": "Shift_L", "alt": "Alt_L", "option": "Alt_L",
    "altgr": "ISO_Level3_Shift", "super": "Super_L", "meta": "Super_L", "win": "Super_L", "cmd": "Super_L",
    "command": "Super_L", "enter": "Return", "esc": "Escape", "del": "Delete", "ins": "Insert",
    "pageup": "Page_Up", "pgup": "Page_Up", "pagedown": "Page_Down", "pgdn": "Page_Down", "spacebar": "space",
    "arrowup": "Up", "arrowdown": "Down", "arrowleft": "Left", "arrowright": "Right", "capslock": "Caps_Lock",
    "numlock": "Num_Lock", "scrolllock": "Scroll_Lock", "printscreen": "Print", "euro": "EuroSign",
}  # fmt: skip
"""What the keys are called beside X11; in small letters."""

KEYSYMS: dict[str, int] = {
    name: first + step
    for runs in (_LATIN_1, _RUNS)
    for first, names in runs.items()
    for step, name in enumerate(names.split())
} | _SINGLE
"""By X11's names. Letters and digits stand for themselves (`keysym_of_character`)."""

_IN_SMALL_LETTERS: dict[str, int] = {}
for _name, _keysym in KEYSYMS.items():
    # Of `Adiaeresis` and `adiaeresis`, neither: which one was meant would be a guess.
    _IN_SMALL_LETTERS[_name.lower()] = -1 if _name.lower() in _IN_SMALL_LETTERS else _keysym
_IN_SMALL_LETTERS |= {word: KEYSYMS[name] for word, name in _OTHER_WORDS.items()}
_IN_SMALL_LETTERS = {name: keysym for name, keysym in _IN_SMALL_LETTERS.items() if keysym >= 0}

SHIFTS = frozenset({KEYSYMS["Shift_L"], KEYSYMS["Shift_R"]})
MODIFIERS = SHIFTS | {
    KEYSYMS[name]
    for name in (
        "Control_L", "Control_R", "Meta_L", "Meta_R", "Alt_L", "Alt_R", "Super_L", "Super_R", "Hyper_L",
        "Hyper_R", "ISO_Level3_Shift", "Mode_switch",
    )
}  # fmt: skip


def keysym_of_character(character: str) -> int:
    """Of one character that `is_typable`; a new line is Return."""
    code = ord(character)
    if character in "\r\n":
        return RETURN
    if character == "\t":
        return TAB
    if character == "€":
        # Keyboards that have it know it by its older name alone.
        return KEYSYMS["EuroSign"]
    return code if code < 0x100 else UNICODE_KEYSYMS + code


def is_typable(character: str) -> bool:
    """Not what has no key: control characters, halves of surrogates, code points that are no characters."""
    code = ord(character)
    if character in "\t\r\n":
        return True
    if code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000:
        return False
    return not (0xFDD0 <= code < 0xFDF0 or code & 0xFFFE == 0xFFFE)


def is_beyond_ascii(keysym: int) -> bool:
    """Whether it is a character's, and not one that every keyboard has."""
    return 0x7F < keysym < 0xFE00 or UNICODE_KEYSYMS <= keysym < 0x10000000


def keysym_of_name(name: str) -> int:
    """Of a single character, of one of X11's names, or of what else a key is called. Raises UnknownKey."""
    if len(name) == 1 and is_typable(name):
        return keysym_of_character(name)
    found = KEYSYMS.get(name, _IN_SMALL_LETTERS.get(name.lower()))
    if found is None:
        raise UnknownKey(f"there is no key {name[:40]!r}{_near(name)}")
    return found


def chord(text: str) -> tuple[int, ...]:
    """`ctrl+shift+t` as the keysyms that go down in this order. Raises UnknownKey.

    A letter is what Shift makes of it where Shift is part of the chord, and a capital brings its Shift along:
    TigerVNC makes one agree with the other itself, and to type a capital without Shift it presses Caps Lock,
    which then stays on.
    """
    names = _parted(text)
    keysyms = [keysym_of_name(name) for name in names]
    has_shift = bool(SHIFTS.intersection(keysyms))
    found: list[int] = []
    for name, keysym in zip(names, keysyms, strict=True):
        if len(name) > 1:
            found.append(keysym)
        elif has_shift:
            found.append(keysym_of_character(name.upper() if len(name.upper()) == 1 else name))
        else:
            found += [*([KEYSYMS["Shift_L"]] if needs_shift(name) else []), keysym]
    return tuple(found)


def needs_shift(character: str) -> bool:
    """Whether it is a capital. Of what else needs Shift depends on the keyboard, and TigerVNC presses it."""
    return character != character.lower()


def _parted(text: str) -> list[str]:
    """`+` parts keys; at the end, or alone, it is the key itself."""
    if text.endswith("+"):
        before = text[:-1]
        if before and not before.endswith("+"):
            raise UnknownKey(f"{text[:40]!r} ends in a + that parts nothing; the key itself is `plus`")
        return [*_parted(before[:-1]), "+"] if before[:-1] else ["+"]
    names = text.split("+")
    if not all(names):
        raise UnknownKey(f"{text[:40]!r} has a + too many; the key itself is `plus`")
    return names


def _near(name: str) -> str:
    known = {known.lower(): known for known in (*_OTHER_WORDS, *KEYSYMS)}
    near = difflib.get_close_matches(name[:40].lower(), list(known), n=3, cutoff=0.6)
    return (
        f"; near are {', '.join(known[one] for one in near)}"
        if near
        else "; take X11's names, such as Return"
    )
