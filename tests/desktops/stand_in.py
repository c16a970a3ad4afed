"""A Debian package with the stand-in for Xkasmvnc, under the real one's name: the role installs it alike."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def stand_in_package(folder: Path, *, revision: int = 1) -> Path:
    root = folder / f"stand-in-{revision}"
    program = root / "usr/bin/Xkasmvnc"
    library = root / "usr/lib/fake-kasmvnc/fake_kasmvnc.py"
    control = root / "DEBIAN/control"
    for path in (program, library, control):
        path.parent.mkdir(parents=True)
    shutil.copy(HERE / "xkasmvnc_stand_in.py", program)
    program.chmod(0o755)
    shutil.copy(HERE.parent / "fake_kasmvnc.py", library)
    library.chmod(0o644)
    control.write_text(
        f"Package: kasmvncserver\nVersion: 1.5.0-{revision}~standin\nArchitecture: all\nDepends: python3\n"
        "Maintainer: Deskfleet's tests <tests@example.com>\n"
        "Description: a stand-in for tests; it is not KasmVNC\n"
    )
    package = folder / f"stand-in-{revision}.deb"
    build = ["dpkg-deb", "--build", "--root-owner-group", str(root), str(package)]
    subprocess.run(build, check=True, capture_output=True)
    return package


def sha256_of(package: Path) -> str:
    return hashlib.sha256(package.read_bytes()).hexdigest()
