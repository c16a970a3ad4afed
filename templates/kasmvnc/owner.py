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
from contextlib import suppress

NAME = ".kasmpasswd"
LONGEST = 1 << 20
"""Bytes; some thousand users. A longer one is no file of KasmVNC's."""


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


def replace(home: int, user: pwd.struct_passwd, text: bytes) -> None:
    new = f"{NAME}.{os.urandom(8).hex()}"
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=home)
    try:
        with open(file, "wb") as stream:
            stream.write(text)
            stream.flush()
            os.fchown(file, user.pw_uid, user.pw_gid)
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(NAME, dir_fd=home, follow_symlinks=False).st_mode):
                # Aside, not away: what root deletes in a folder of his is his choice.
                os.rename(NAME, f"{new}.aside", src_dir_fd=home, dst_dir_fd=home)
        os.rename(new, NAME, src_dir_fd=home, dst_dir_fd=home)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=home)
        raise


def main(verb: str) -> None:
    user, beginning = pwd.getpwnam(os.environ["USER"]), f"{os.environ['OWNER']}:".encode()
    try:
        home = open_home(os.environ["HOME_OF"], user.pw_uid)
    except OSError as error:
        sys.exit(f"{os.environ['HOME_OF']}: {error.strerror}")
    lines = (read(home, user.pw_uid) or b"").splitlines(keepends=True)
    if verb == "look":
        sys.stdout.buffer.writelines(line for line in lines if line.startswith(beginning))
        return
    others = [line for line in lines if not line.startswith(beginning)]
    replace(home, user, b"".join([sys.stdin.buffer.read(), *others]))


main(sys.argv[1])
