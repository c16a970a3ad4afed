"""Files that commands write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from viewer.cli.problems import Misused


def new_file(path: Path, *, mode: int) -> BinaryIO:
    """Open to be written, where none was before. mode: whose business it is; the umask narrows it. Raises
    Misused."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except OSError as error:
        raise Misused(f"{path} cannot be written: {error.strerror}; give a new name") from error
    return os.fdopen(file, "wb")
