"""The owner's line in a desktop's own password file: `look` prints it, `set` takes it from stdin and leaves
every other line alone, as the relay makes and removes users there while people watch. Run by root with the
host's python3.

Never as the desktop's user: to what runs as him outside his desktop's network his programs may attach, and
are outside as well. So root works in a home that is his and may hold anything: by a handle on the folder,
following no link, opening nothing that could block, reading only a file that is his.
"""

import os
import pwd
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress

NAME = ".kasmpasswd"
LONGEST = 1 << 20
"""Bytes; some thousand users. A longer one is no file of KasmVNC's."""
TRIES = 5
SETTLE_SECONDS = 0.1
"""KasmVNC, too, reads the file, changes it and puts it in place, without a lock; for that it needs less."""


def open_home(path: str, user: int) -> int:
    home = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.fstat(home).st_uid != user:
        sys.exit(f"{path} is not its user's")
    return home


def read(home: int, user: int) -> bytes | None:
    """None: not there, or not what KasmVNC wrote."""
    try:
        # Not blocking: a pipe without a writer, or a lease that he holds on the file, would make root wait.
        file = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=home)
    except OSError:
        return None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != user:
        os.close(file)
        return None
    with open(file, "rb") as stream:
        text = stream.read(LONGEST + 1)
    return text if len(text) <= LONGEST else None


def replace(home: int, user: pwd.struct_passwd, text: bytes, *, fits: Callable[[], bool]) -> bool:
    """Put the text in the file's place, if that still fits once everything is ready for it."""
    new = f"{NAME}.{os.urandom(8).hex()}"
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=home)
    try:
        with open(file, "wb") as stream:
            stream.write(text)
            stream.flush()
            os.fchown(file, user.pw_uid, user.pw_gid)
        if not fits():
            os.unlink(new, dir_fd=home)
            return False
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(NAME, dir_fd=home, follow_symlinks=False).st_mode):
                # Aside, not away: what root deletes in a folder of his is his choice.
                os.rename(NAME, f"{new}.aside", src_dir_fd=home, dst_dir_fd=home)
        os.rename(new, NAME, src_dir_fd=home, dst_dir_fd=home)
        return True
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=home)
        raise


def set_line(home: int, user: pwd.struct_passwd, line: bytes, beginning: bytes) -> None:
    """The line first, all others as they are at that moment: who came or went meanwhile stays so, and
    does not undo this. One who never stops changing the file does not keep root here."""
    for left in reversed(range(TRIES)):
        before = read(home, user.pw_uid)
        others = [one for one in lines_of(before) if not one.startswith(beginning)]

        def is_as_before(before: bytes | None = before, left: int = left) -> bool:
            return not left or read(home, user.pw_uid) == before

        if not replace(home, user, b"".join([line, *others]), fits=is_as_before):
            continue
        time.sleep(SETTLE_SECONDS)
        if line in lines_of(read(home, user.pw_uid)):
            return


def lines_of(text: bytes | None) -> list[bytes]:
    return (text or b"").splitlines(keepends=True)


def main(verb: str) -> None:
    user, beginning = pwd.getpwnam(os.environ["USER"]), f"{os.environ['OWNER']}:".encode()
    try:
        home = open_home(os.environ["HOME_OF"], user.pw_uid)
    except OSError as error:
        sys.exit(f"{os.environ['HOME_OF']}: {error.strerror}")
    if verb == "look":
        lines = lines_of(read(home, user.pw_uid))
        sys.stdout.buffer.writelines(line for line in lines if line.startswith(beginning))
        return
    set_line(home, user, sys.stdin.buffer.read(), beginning)


main(sys.argv[1])
