"""How the command line is written: nouns with verbs, and types of values that several of them take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from viewer.cli.api import Api
from viewer.cli.output import Output
from viewer.cli.problems import Misused
from viewer.problems import from_validation

Nouns: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

Command = Callable[[argparse.Namespace, Api, Output], int]
"""Does what was asked; gives the exit code."""

_Model = TypeVar("_Model", bound=BaseModel)

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def noun(nouns: Nouns, name: str, meaning: str) -> Nouns:
    parser = nouns.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.")
    return parser.add_subparsers(dest="verb", required=True, metavar="VERB")


def leaf(parent: Nouns, name: str, run: Command, meaning: str) -> argparse.ArgumentParser:
    """A command with what every command takes."""
    parser = parent.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--url", help="the fleet's address, instead of DESKFLEET_URL")
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="PEM file of the authority to trust, instead of DESKFLEET_CA_FILE and the system's",
    )
    parser.set_defaults(run=run)
    return parser


def given(model: type[_Model], **values: object) -> _Model:
    """The request with those values that were given; raise Misused for one that no fleet takes."""
    try:
        return model.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise Misused(from_validation(error, model).document.detail) from error


def seconds(text: str) -> int:
    """`90`, `90s`, `15m`, `2h` or `1d`, in seconds."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; give one such as 90s, 15m, 2h or 1d")
    return int(match[1]) * _SECONDS[match[2]]


def whole_number(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def pairs(values: list[tuple[str, str]] | None) -> dict[str, str] | None:
    return dict(values) if values else None
