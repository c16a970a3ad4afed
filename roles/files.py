"""Files, directories and accounts on a host: replaced atomically, never readable too early, checked before
the swap."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Collection, Generator, Iterable
from pathlib import Path
from typing import NamedTuple

import jinja2
from pydantic import SecretStr
from pyinfra import logger
from pyinfra.api.command import FileUploadCommand, PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from roles.facts import Paths, PathState, Text, User

Commands = Generator[PyinfraCommand, None, None]

ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")
"""What adding, changing or removing a user changes."""

_TEMPLATES = jinja2.Environment(  # noqa: S701 (configuration files, not HTML)
    loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent.parent / "templates"),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: object) -> str:
    """The text of `templates/<template>`; a name that is not given is an error."""
    return _TEMPLATES.get_template(template).render(**values)


def sha256(*parts: str | bytes | SecretStr) -> str:
    """One hash over all parts, in hex; stamps are made of it."""
    digest = hashlib.sha256()
    for part in parts:
        plain = part.get_secret_value() if isinstance(part, SecretStr) else part
        data = plain.encode() if isinstance(plain, str) else plain
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def tell(path: str, what: str = "changes") -> None:
    """For `--diff`: an operation names a file that it is going to change, before its first command; a
    preview reads no further than that."""
    if state.config.DIFF:
        logger.info(f"{host.print_prefix}{path} {what}")


@operation()
def place(
    path: str,
    content: str | bytes | SecretStr,
    *,
    mode: str = "644",
    user: str = "root",
    group: str = "root",
    check: str | None = None,
) -> Commands:
    """Bring a file to this content, mode and owner.

    The new content lies beside the old as `<path>.new`, readable by root alone; `check` (a shell command that
    may use "$new") must accept it; then it takes the old one's place in one rename, so that no reader sees
    half a file.
    """
    data = _plain(content)
    wanted = PathState(hashlib.sha256(data).hexdigest(), mode, user, group)
    found = host.get_fact(Paths, paths=[path]).get(path)
    if found == wanted:
        host.noop(f"{path} is as it should be")
        return
    new = f"{path}.new"
    if found is None or found.sha256 != wanted.sha256:
        _tell_difference(path, data, readable=mode.endswith("4") or mode.endswith("5"))
        yield StringCommand("install", "-m", "600", "/dev/null", QuoteString(new))
        yield FileUploadCommand(io.BytesIO(data), new)
        if check:
            yield StringCommand(f"new={new};", check)
        yield StringCommand(
            "chown", f"{user}:{group}", QuoteString(new), "&& chmod", mode, QuoteString(new),
            "&& mv -fT", QuoteString(new), QuoteString(path),
        )  # fmt: skip
    else:
        tell(path, f"goes to {user}:{group} with mode {mode}")
        yield StringCommand(
            "chown", f"{user}:{group}", QuoteString(path), "&& chmod", mode, QuoteString(path)
        )


def _tell_difference(path: str, data: bytes, *, readable: bool) -> None:
    """For `--diff`. What others may not read on the host is not shown here either."""
    tell(path, f"changes{'' if readable else ' (its content is not shown)'}")
    if readable and state.config.DIFF:
        before = host.get_fact(Text, path=path).splitlines()
        for line in difflib.unified_diff(before, data.decode().rstrip().splitlines(), lineterm="", n=1):
            logger.info(f"    {line}")


def _plain(content: str | bytes | SecretStr) -> bytes:
    if isinstance(content, SecretStr):
        return content.get_secret_value().encode() + b"\n"
    return content.encode() if isinstance(content, str) else content


class Directory(NamedTuple):
    path: str
    mode: str = "755"
    user: str = "root"
    group: str = "root"


@operation()
def directories(wanted: Iterable[Directory], whole: Collection[str] = ()) -> Commands:
    """Make directories, with mode and owner; one look for all of them.

    `whole`: paths of those that change their owner with all that is in them.
    """
    wanted = tuple(wanted)
    found = host.get_fact(Paths, paths=[directory.path for directory in wanted])
    different = [one for one in wanted if found.get(one.path) != PathState("", one.mode, one.user, one.group)]
    for path, mode, user, group in different:
        tell(path, f"{'goes to' if path in found else 'is made, of'} {user}:{group} with mode {mode}")
    for path, mode, user, group in wanted:
        if path in whole and path in found and found[path].user != user:
            # Before the directory's own owner changes, by which the next look tells; chown does it last.
            yield StringCommand("chown", "-R", "-h", f"{user}:{group}", QuoteString(path))
        if found.get(path) != PathState("", mode, user, group):
            yield StringCommand("install", "-d", "-m", mode, "-o", user, "-g", group, QuoteString(path))


@operation()
def system_user(
    user: str, *, home: str, groups: tuple[str, ...] = (), login_shell: str = "/usr/sbin/nologin"
) -> Commands:
    """A user of ours, with a group of the same name, in exactly these further groups."""
    found = host.get_fact(User, user=user)
    further = ",".join(groups)
    if found is None:
        tell_of_account(user)
        more = ["--groups", further] if groups else []
        yield StringCommand(
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            home,
            "--shell",
            login_shell,
            *more,
            user,
        )
    elif set(found.groups) != {user, *groups} or (found.home, found.shell) != (home, login_shell):
        tell_of_account(user)
        yield StringCommand(
            "usermod", "--home", home, "--shell", login_shell, "--groups", f"'{further}'", user
        )


def tell_of_account(user: str) -> None:
    for path in ACCOUNTS:
        tell(path, f"changes (the account {user})")


@operation()
def no_user(user: str) -> Commands:
    """Take a user of ours away, with whatever still runs as it."""
    if host.get_fact(User, user=user) is not None:
        tell_of_account(user)
        script = Path(__file__).resolve().parent.parent / "templates" / "users" / "remove.sh"
        yield StringCommand(f"OWNER={user}\n{script.read_text()}")


@operation()
def absent(paths: Iterable[str]) -> Commands:
    """Remove files and directories of ours."""
    found = host.get_fact(Paths, paths=tuple(paths))
    for path, was in found.items():
        tell(path, "goes" if was.sha256 else "goes with all that is in it")
    if found:
        yield StringCommand("rm", "-rf", *(QuoteString(path) for path in found))


@operation()
def barrier() -> Commands:
    """Nothing, on all hosts: pyinfra orders operations between hosts only through ones they share."""
    return
    yield
