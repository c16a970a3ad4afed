"""Which server a persistent desktop runs, and where KasmVNC's package comes from.

The choice is the operator's and is never made anew by itself: `kasmvnc` is refused where its package can't be
had; `kasmvnc-or-tigervnc` is decided at the first roll-out, noted on the host with the reason, and stays so
until the site file says otherwise or a roll-out is told `--data deskfleet_kasmvnc=retry`.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pyinfra.api.facts import FactBase
from pyinfra.context import host

from inventory.models import Backend, Desktop, HostConfig, Kasmvnc, Section
from roles.facts import STATE

VERSION = "1.5.0"
_RELEASES = "https://github.com/kasmtech/KasmVNC/releases/download"
# As GitHub tells them of the release's files. Those marked were seen in one other place only.
_HASHES = {
    ("bookworm", "amd64"): "770fd3df51510beecc89666879d82faf411276e68c6e11df612f736b891b5f71",
    ("bookworm", "arm64"): "aa83a1a6c9069d1a02239988b07a3a2a082a433042b4d4ee2b9e9f6b2df9643c",  # once
    ("trixie", "amd64"): "80b241de7dfe53bba2b7e1cc5ac8c5246d72271efa16be2d4f76607f30fab1c4",
    ("trixie", "arm64"): "fbb11589958a2acccd2d67f67944be79ac1e8e3a1d6172c0e6db6dc59e55a919",
    ("noble", "amd64"): "f599fe02e2175b9817b6165f74a5d2bebdc73118dde9181ba3410963bed7ae1e",
    ("noble", "arm64"): "c9199cf4753208bfb69fd016a9780242bebfc43370cc38c97d61e90a3c783e04",
    ("jammy", "amd64"): "485c190b1d9269fc40fc7205f850ecf71292d737cdb5482e778f2e52f128cd8a",  # once
    ("jammy", "arm64"): "9b21779ee16e514bccd2971dcb3983cd8019a94c8614149dbd717d3702c8dbb5",  # once
}

HOME = "/opt/deskfleet/kasmvnc"
"""Where the host keeps the package, and notes which one it installed."""
DECISION = f"{STATE}/kasmvnc.decision"

Fact = TypeVar("Fact")

_SCRIPTS = Path(__file__).resolve().parent.parent / "templates" / "kasmvnc"
_RETRY = "deskfleet_kasmvnc"
_WAYS_OUT = "give settings.kasmvnc.file (or url) with its sha256, or set backend: tigervnc"


class Package(Section):
    """One Debian package of KasmVNC, known by its hash. `file` lies on the operator's machine."""

    sha256: str
    url: str | None = None
    file: Path | None = None

    @property
    def path(self) -> str:
        """Where the host keeps it."""
        return f"{HOME}/{self.sha256[:12]}.deb"


class Chosen(NamedTuple):
    """What a desktop runs, and why, as half a sentence."""

    backend: Literal[Backend.KASMVNC, Backend.TIGERVNC]
    reason: str


class NoPackage(Exception):
    """KasmVNC's package can't be had for this host; says why. `mistake`: of the site file, so that no other
    backend makes up for it."""

    def __init__(self, why: str, *, mistake: bool = False) -> None:
        super().__init__(why)
        self.mistake = mistake


class Holding(Section):
    """What a host has of KasmVNC. Packages by their sha256."""

    codename: str
    architecture: str
    installed: str | None = None
    kept: frozenset[str] = frozenset()
    decision: Chosen | None = None

    def has(self, package: Package) -> bool:
        return package.sha256 == self.installed or package.sha256 in self.kept


class KasmvncHolding(FactBase[Holding]):
    """Everything that the choice depends on, by one command."""

    def command(self) -> str:
        return f"HELD={HOME} DECISION={DECISION}\n{(_SCRIPTS / 'look.sh').read_text()}"

    @staticmethod
    def default() -> Holding:
        return Holding(codename="?", architecture="?")

    def process(self, output: list[str]) -> Holding:
        values = [line.partition(" ")[::2] for line in output]
        one = dict(values)
        codename, _, architecture = one.get("system", "? ?").partition(" ")
        return Holding(
            codename=codename,
            architecture=architecture,
            installed=one.get("installed"),
            kept=frozenset(value for key, value in values if key == "kept"),
            decision=_decision(one.get("decided", "")),
        )


def _decision(text: str) -> Chosen | None:
    backend, _, reason = text.partition(" ")
    if backend == Backend.KASMVNC:
        return Chosen(Backend.KASMVNC, reason)
    return Chosen(Backend.TIGERVNC, reason) if backend == Backend.TIGERVNC else None


class Obstacle(FactBase[str]):
    """Why a package can't be downloaded right now; "" if it can. Takes 10 s at most and keeps nothing."""

    def command(self, url: str, sha256: str) -> str:
        return f"URL={shlex.quote(url)} SHA256={sha256}\n{(_SCRIPTS / 'try.sh').read_text()}"

    @staticmethod
    def default() -> str:
        return "the host could not try it"

    def process(self, output: list[str]) -> str:
        return "" if "obtainable" in output else obstacle("\n".join(output))


def obstacle(said: str) -> str:
    """The reason in what apt's downloader printed, as half a sentence."""
    if "silent" in said.splitlines():
        return "no answer within 10 s"
    if "Hash Sum mismatch" in said:
        return "the file there has another sha256"
    for line in said.splitlines():
        if line.startswith("E: Failed to fetch "):
            why = line.removeprefix("E: Failed to fetch ").partition(" ")[2]
            return " ".join(why.partition(" [IP:")[0].split())
    return said.strip().rpartition("\n")[2] or "no reason was given"


def package_for(source: Kasmvnc, holding: Holding) -> Package:
    """The package that a host with this system is to have; raises NoPackage for a system without one."""
    if source.sha256 is not None:
        file = Path(source.file).expanduser() if source.file else None
        return Package(sha256=source.sha256, url=source.url, file=file)
    pair = (holding.codename, holding.architecture)
    if pair not in _HASHES:
        known = ", ".join(" ".join(names) for names in _HASHES)
        raise NoPackage(f"KasmVNC {VERSION} has no known package for {' '.join(pair)}, only for {known}")
    asset = f"kasmvncserver_{pair[0]}_{VERSION}_{pair[1]}.deb"
    return Package(sha256=_HASHES[pair], url=f"{_RELEASES}/v{VERSION}/{asset}")


def backends_of(config: HostConfig) -> dict[str, Chosen]:
    """What each desktop of this host runs and why. Called while pyinfra prepares, after preflight.

    Asks the host only where a desktop may run KasmVNC, and the download's server only where the host has
    neither the package nor a decision."""
    return {name: _chosen(desktop, config) for name, desktop in config.desktops.items()}


def _chosen(desktop: Desktop, config: HostConfig) -> Chosen:
    if desktop.backend == Backend.TIGERVNC:
        return Chosen(Backend.TIGERVNC, "as the site file says")
    if desktop.backend == Backend.KASMVNC:
        return Chosen(Backend.KASMVNC, "as the site file says")
    return decision_of(config)


def decision_of(config: HostConfig) -> Chosen:
    """What `kasmvnc-or-tigervnc` means on this host: as it was decided once, else by what can be had now.

    Raises NoPackage where the site file names a package of its own that is not there."""
    noted = _holding().decision
    if noted is not None and not (noted.backend == Backend.TIGERVNC and _is_retried()):
        return noted
    try:
        get_package(config)
    except NoPackage as error:
        if error.mistake:
            raise
        return Chosen(Backend.TIGERVNC, str(error))
    return Chosen(Backend.KASMVNC, "its package can be had")


def get_package(config: HostConfig) -> Package:
    """The package for this host, which has it or can get it now; raises NoPackage."""
    package = package_for(config.site.settings.kasmvnc, _holding())
    if _holding().has(package):
        return package
    if package.file is not None:
        _check_own_file(package.file, package.sha256)
    elif package.url is not None:
        why = _once(f"deskfleet_obstacle_{package.sha256}", Obstacle, url=package.url, sha256=package.sha256)
        if why:
            raise NoPackage(f"KasmVNC's package can't be had from {package.url}: {why}")
    return package


def _check_own_file(file: Path, sha256: str) -> None:
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise NoPackage(f"settings.kasmvnc.file: {file}: {error.strerror}", mistake=True) from error
    if found != sha256:
        raise NoPackage(f"settings.kasmvnc.file: {file} has the sha256 {found}, not {sha256}", mistake=True)


def problems_of_desktops(config: HostConfig) -> Iterator[str]:
    """For preflight: one sentence for everything that keeps this host from the backends it is to have."""
    asked = host.data.get(_RETRY)
    if asked not in (None, "retry"):
        yield f"--data {_RETRY}={asked} means nothing; the one word it knows is `retry`"
    wanting = [name for name, desktop in config.desktops.items() if desktop.backend != Backend.TIGERVNC]
    running: list[str] = []
    try:
        running = [name for name, chosen in backends_of(config).items() if chosen.backend == Backend.KASMVNC]
        if running:
            get_package(config)
    except NoPackage as error:
        named = running or wanting
        yield f"{'desktops' if len(named) > 1 else 'desktop'} {', '.join(named)}: {error}; {_WAYS_OUT}"


def _is_retried() -> bool:
    return bool(host.data.get(_RETRY) == "retry")


def _holding() -> Holding:
    return _once("deskfleet_kasmvnc_holding", KasmvncHolding)


def _once(key: str, fact: type[FactBase[Fact]], **arguments: str) -> Fact:
    """The fact as it was when first asked for in this roll-out: one choice, whoever asks."""
    if host.data.get(key) is None:
        setattr(host.data, key, host.get_fact(fact, **arguments))
    found: Fact = host.data.get(key)
    return found
