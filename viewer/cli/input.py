"""`deskfleet input`: keys, pointer and clipboard of a desktop, one gesture a command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic_core import from_json

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, whole_number
from viewer.cli.output import Output
from viewer.cli.problems import Misused
from viewer.input_actions import Gesture

_BUTTONS = ("left", "middle", "right")


def add_to(nouns: Nouns) -> None:
    verbs = noun(nouns, "input", "keys, pointer and clipboard of a desktop")
    types = leaf(verbs, "type", _type, "type a text")
    types.add_argument("session")
    types.add_argument("text", help="- reads it from standard input, so that it is not on the command line")
    presses = leaf(verbs, "key", _key, "press keys, one chord after the other")
    presses.add_argument("session")
    presses.add_argument("keys", nargs="+", metavar="CHORD", help="such as Return or ctrl+shift+t")
    _add_pointer(verbs)
    clips = leaf(verbs, "clipboard", _clipboard, "put a text onto the desktop's clipboard")
    clips.add_argument("session")
    clips.add_argument("text", help="- reads it from standard input")
    sends = leaf(verbs, "send", _send, "do a list of actions as one gesture")
    sends.add_argument("session")
    sends.add_argument("file", help='JSON as the API takes it, {"actions": […]}; - is standard input')


def _add_pointer(verbs: Nouns) -> None:
    moves = leaf(verbs, "move", _move, "put the pointer somewhere")
    _take_point(moves)
    clicks = leaf(verbs, "click", _click, "click somewhere")
    _take_point(clicks)
    clicks.add_argument("--button", choices=_BUTTONS)
    clicks.add_argument("--count", type=whole_number, help="2 is a double click")
    clicks.add_argument("--keys", metavar="CHORD", help="held meanwhile")
    drags = leaf(verbs, "drag", _drag, "drag from one place to another")
    _take_point(drags)
    drags.add_argument("to_x", type=whole_number)
    drags.add_argument("to_y", type=whole_number)
    drags.add_argument("--button", choices=_BUTTONS)
    drags.add_argument("--keys", metavar="CHORD", help="held meanwhile")
    scrolls = leaf(verbs, "scroll", _scroll, "turn the wheel at a place")
    _take_point(scrolls)
    scrolls.add_argument("--down", type=int, metavar="NOTCHES", help="negative: up")
    scrolls.add_argument("--right", type=int, metavar="NOTCHES", help="negative: left")


def _take_point(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session")
    parser.add_argument("x", type=whole_number)
    parser.add_argument("y", type=whole_number)


def _type(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _do(asked, api, out, type="type", text=_text(asked.text))


def _key(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _do(asked, api, out, type="key", keys=asked.keys)


def _move(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _do(asked, api, out, type="move", x=asked.x, y=asked.y)


def _click(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _do(
        asked, api, out,
        type="click", x=asked.x, y=asked.y, button=asked.button, count=asked.count, keys=asked.keys,
    )  # fmt: skip


def _drag(asked: argparse.Namespace, api: Api, out: Output) -> int:
    ends = {"from": {"x": asked.x, "y": asked.y}, "to": {"x": asked.to_x, "y": asked.to_y}}
    return _do(asked, api, out, type="drag", button=asked.button, keys=asked.keys, **ends)


def _scroll(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _do(asked, api, out, type="scroll", x=asked.x, y=asked.y, dx=asked.right, dy=asked.down)


def _clipboard(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _do(asked, api, out, type="clipboard", text=_text(asked.text))


def _send(asked: argparse.Namespace, api: Api, out: Output) -> int:
    try:
        body = sys.stdin.read() if asked.file == "-" else Path(asked.file).read_text()
        gesture = from_json(body)
    except OSError as error:
        raise Misused(f"cannot read {asked.file}: {error.strerror}") from error
    except ValueError as error:
        raise Misused(f"{asked.file} is no JSON: {error}") from error
    if not isinstance(gesture, dict):
        raise Misused(f'{asked.file} holds no object; write {{"actions": […]}}')
    return _say_done(asked, api, out, given(Gesture, **gesture))


def _do(asked: argparse.Namespace, api: Api, out: Output, **action: object) -> int:
    wanted = {name: value for name, value in action.items() if value is not None}
    return _say_done(asked, api, out, given(Gesture, actions=[wanted]))


def _say_done(asked: argparse.Namespace, api: Api, out: Output, gesture: Gesture) -> int:
    done = api.input(asked.session, gesture)
    size = f"{done.screen.width}x{done.screen.height}"
    out.show(done, f"done, on a screen of {size} pixels")
    return 0


def _text(given_text: str) -> str:
    return sys.stdin.read() if given_text == "-" else given_text
