"""Reads a site file into its model; everything wrong with it becomes `file:key: sentence` lines."""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from inventory.catalogue import CatalogueError, stack_of
from inventory.models import Site

DIRECTORY = Path(__file__).resolve().parent


class SiteRefused(Exception):
    """The site is unknown or its file is wrong; the text says where and what to change."""


def site_path() -> Path:
    """The site file of this run: DESKFLEET_SITE names a site (`acme`) or a file (`inventory/acme.yml`)."""
    wanted = os.environ.get("DESKFLEET_SITE") or "local"
    path = Path(wanted) if wanted.endswith((".yml", ".yaml")) else DIRECTORY / f"{wanted}.yml"
    if path.is_file():
        return path
    known = sorted(file.stem for file in DIRECTORY.glob("*.yml"))
    raise SiteRefused(f"no site {wanted!r} (looked for {path}); known sites: {', '.join(known) or 'none'}")


def load_site(path: Path) -> Site:
    """Return the site, or raise SiteRefused with one line per error."""
    try:
        data = yaml.load(path.read_text(), Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SiteRefused(f"{_shown(path)}:{line}: not valid YAML: {error.problem}") from error
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


def _sentences(error: ValidationError, path: Path) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        # Pydantic names the branch of a union in the path ("Ssh", "literal[…]"); the reader never wrote that.
        where = [part for part in problem["loc"] if _is_a_key(part)]
        key = ".".join(str(part) for part in where)
        yield f"{_shown(path)}:{key or 'site'}: {_sentence(problem, where)}"


def _is_a_key(part: int | str) -> bool:
    return isinstance(part, int) or not (
        part[:1].isupper() or "[" in part or "constrained" in part or part == "str"
    )


def _sentence(problem: Any, where: list[int | str]) -> str:
    kind, message = problem["type"], str(problem["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return "unknown key" + _suggestion(where)
    if kind == "missing":
        return "is missing"
    if kind.endswith("_error") and kind == "value_error":
        return message
    return f"{message[:1].lower()}{message[1:]} (it is {problem['input']!r})"


def _suggestion(where: list[int | str]) -> str:
    known = _keys_at(Site, where[:-1])
    near = difflib.get_close_matches(str(where[-1]), known, n=1, cutoff=0.5)
    if near:
        return f", did you mean {near[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _keys_at(model: type[BaseModel], where: list[int | str]) -> list[str]:
    """The keys that the model at this place of the file has."""
    here: Any = model
    for part in where:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = field.annotation if field else None
        else:
            here = _value_type(here)
    for candidate in _alternatives(here):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return list(candidate.model_fields)
    return []


def _value_type(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    return arguments[-1] if arguments else None


def _alternatives(annotation: Any) -> list[Any]:
    if isinstance(annotation, UnionType) or typing.get_origin(annotation) is typing.Union:
        return list(typing.get_args(annotation))
    return [annotation]
