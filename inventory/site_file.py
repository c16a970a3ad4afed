"""Reads a site file into its model; everything wrong with it becomes `file:key: sentence` lines."""

from __future__ import annotations

import difflib
import os
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from inventory.catalogue import CatalogueError, stack_of
from inventory.models import Site

DIRECTORY = Path(__file__).resolve().parent


class SiteRefused(Exception):
    """The site is unknown or its file is wrong; the text says where and what to change."""


def site_path(wanted: str | None = None) -> Path:
    """The file of a site, which is named (`acme`) or is its file (`inventory/acme.yml`); None: of the site in
    DESKFLEET_SITE."""
    wanted = wanted or os.environ.get("DESKFLEET_SITE") or "local"
    path = Path(wanted) if wanted.endswith((".yml", ".yaml")) else DIRECTORY / f"{wanted}.yml"
    if path.is_file():
        return path
    known = sorted(file.stem for file in DIRECTORY.glob("*.yml"))
    near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SiteRefused(
        f"no site {wanted!r} (looked for {_shown(path)}); known sites: {', '.join(known) or 'none'}{hint}"
    )


def load_site(path: Path) -> Site:
    """Return the site, or raise SiteRefused with one line per error."""
    try:
        data = yaml.load(path.read_text(), Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SiteRefused(f"{_shown(path)}:{line}: not valid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise SiteRefused(f"{_shown(path)}: can't be read as text") from None
    if not isinstance(data, dict):
        raise SiteRefused(f"{_shown(path)}: must be a mapping with 'hosts' and 'settings'")
    try:
        site = Site.model_validate(data)
    except ValidationError as error:
        raise SiteRefused("\n".join(_sentences(error, path))) from None
    if not site.hosts:
        raise SiteRefused(f"{_shown(path)}:hosts: names no host; there is nothing to roll out to")
    try:
        stack_of(site)
    except CatalogueError as error:
        raise SiteRefused(f"{_shown(path)}:{error.key}: {error.sentence}") from None
    return site


class _StrictLoader(yaml.SafeLoader):
    """YAML's own rule that a key appears once, which PyYAML does not check."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _shown(path: Path) -> str:
    return os.path.relpath(path)


_RENAMED = {
    "settings.acme_email": "settings.acme.email",
}
"""Keys of former versions, and what replaced them."""


def _sentences(error: ValidationError, path: Path) -> Iterator[str]:
    problems = error.errors(include_url=False)
    for problem in problems:
        if not _is_of_a_branch_not_meant(problem, problems):
            key, sentence = _sentence(problem)
            if not key.isprintable():
                key = ascii(key)
            yield f"{_shown(path)}:{key or 'site'}: {sentence}"


def _is_of_a_branch_not_meant(problem: ErrorDetails, problems: list[ErrorDetails]) -> bool:
    """Where a value may be of two shapes, each says what it lacks; only the one that was begun is of use."""
    if problem["type"] in ("model_type", "dict_type"):
        meant = isinstance(problem["input"], str)
    elif problem["type"] in ("string_type", "literal_error"):
        meant = isinstance(problem["input"], dict)
    else:
        return False
    where = _keys(problem)
    others = (other for other in problems if other is not problem)
    return meant and any(_keys(other)[: len(where)] == where for other in others)


_BRANCH = re.compile(r"Ssh|OwnCertificate|OwnService|str|constrained-str|(literal|function-[a-z]+)\[.*")


def _keys(problem: ErrorDetails) -> list[str]:
    """The place in the file. Pydantic also names the branch of a union, which the reader never wrote, and
    says of a key that it is one."""
    parts = [str(part) for part in problem["loc"] if part != "[key]"]
    written = [parts.pop()] if problem["type"] in ("extra_forbidden", "missing") else []
    return [part for part in parts if not _BRANCH.fullmatch(part)] + written


def _sentence(problem: ErrorDetails) -> tuple[str, str]:
    """The key, and what is wrong with it."""
    where, kind, context = _keys(problem), problem["type"], problem.get("ctx", {})
    key = ".".join(where)
    if kind == "wrong":
        return ".".join([*where, context["key"]]), context["sentence"]
    if kind == "extra_forbidden":
        if key in _RENAMED:
            return key, f"is now {_RENAMED[key]}; write it there"
        return key, "unknown key" + nearest(where[-1], _keys_at(where[:-1]))
    if kind == "missing":
        return key, "is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return key, message
    if kind in ("enum", "literal_error") and isinstance(problem["input"], str):
        known = re.findall(r"'([^']*)'", context["expected"])
        return key, f"unknown value {problem['input']!r}" + nearest(problem["input"], known)
    return key, f"{message[:1].lower()}{message[1:]} (it is {problem['input']!r})"


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that nobody knows."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f", did you mean {near[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _keys_at(where: list[str]) -> list[str]:
    """The keys that the model at this place of a site file has."""
    here: list[Any] = [Site]
    for part in where:
        here = [below for one in here for below in _below(one, part)]
    return [key for model in here if _is_model(model) for key in model.model_fields]


def _below(annotation: Any, part: str) -> list[Any]:
    """What may stand below a key, or a list's number, of something with this annotation."""
    if _is_model(annotation):
        field = annotation.model_fields.get(part)
        return _alternatives(field.annotation) if field else []
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return _alternatives(arguments[1])
    if typing.get_origin(annotation) is tuple:
        return _alternatives(arguments[0])
    return []


def _alternatives(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if isinstance(annotation, UnionType) or origin is typing.Union:
        return [one for branch in typing.get_args(annotation) for one in _alternatives(branch)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
