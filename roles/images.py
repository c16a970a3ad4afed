"""Images: the desktops' images present on a sandbox host, pulled or built there from Debian's packages.

- `HOST_PACKAGES` are the Debian packages a host needs to build images.
- Call `images()` after docker works on the host and before opensandbox.
- `EXECD_IMAGE` is what opensandbox's `execd_image` names, whichever way the image came.

An image is known by the hash of what it is made from, kept in its label: a run compares labels, and does
nothing where they agree. How an image is made lies in `templates/images/make-images`, which runs on the host.
"""

import hashlib
import io
import tarfile
from collections.abc import Generator
from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import FileUploadCommand, QuoteString, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.exceptions import OperationError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host
from typing_extensions import override

from inventory.models import Section
from roles.files import tell

Source = Literal["auto", "registry", "build"]

HOST_PACKAGES: tuple[str, ...] = ("mmdebstrap", "ca-certificates")
IMAGE_NAMES: tuple[str, ...] = ("desktop", "chrome")
EXECD_IMAGE = "deskfleet/execd:latest"
# The release that belongs to the pinned opensandbox-server, as its own example configuration says.
UPSTREAM_EXECD = "opensandbox/execd:v1.1.0"

SOURCES = Path("templates/images")
STORE = "/var/lib/deskfleet/images"
LOGIN = f"{STORE}/login"
"""While something is pulled from a registry that asks who is there: its password, and Docker's own notes."""
OURS = (
    "deskfleet/base",
    "deskfleet/desktop",
    "deskfleet/chrome",
    "deskfleet/execd",
    "deskfleet/execd-standin",
)
# What each image is built on, a layer before what lies on it.
LAYER_BELOW = {"base": None, "desktop": "base", "chrome": "desktop", "execd-standin": "base"}


class ImageSources(FactBase[dict[str, str]]):
    """Source hash of each of our images on the host, by repository name; no docker or no images give none."""

    @override
    def command(self) -> StringCommand:
        label = '{{range .RepoTags}}{{.}} {{end}}{{index .Config.Labels "org.deskfleet.source"}}'
        # inspect fails for the missing ones and still tells of the others.
        return StringCommand(
            "docker image inspect --format", QuoteString(label), *OURS, "2>/dev/null || true"
        )

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        found = {}
        for line in output:
            *tags, source = line.split(" ")
            found.update({tag.removesuffix(":latest"): source for tag in tags if tag.endswith(":latest")})
        return {name: source for name, source in found.items() if name in OURS}


class Told(StringCommand):
    """A command whose output is shown as it comes, however quiet the run: it tells of minutes of work."""

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> object:
        connector_arguments.update(self.connector_arguments)
        return host.run_shell_command(
            self, print_output=True, print_input=state.print_input, **connector_arguments
        )


class Login(Section):
    """Who pulls from a registry."""

    user: str
    password: SecretStr


def server_of(reference: str) -> str:
    """The registry of an image, or of a prefix of images, by Docker's rule; "": Docker's own."""
    first = reference.partition("/")[0]
    is_server = "/" in reference and (first == "localhost" or "." in first or ":" in first)
    return first if is_server else ""


def login_files(login: Login) -> Generator[FileUploadCommand | StringCommand, None, None]:
    """Puts the password where a script hands it to `docker login` by stdin, and removes it afterwards."""
    yield StringCommand("rm", "-rf", LOGIN, "&&", "install", "-d", "-m", "700", LOGIN)
    yield StringCommand("install", "-m", "600", "/dev/null", f"{LOGIN}/password")
    yield FileUploadCommand(io.BytesIO(login.password.get_secret_value().encode()), f"{LOGIN}/password")


def source_files(directory: Path) -> dict[str, tuple[bool, bytes]]:
    """Every file below a directory: path relative to it -> (is executable, content), in a fixed order."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): (bool(path.stat().st_mode & 0o100), path.read_bytes())
        for path in files
    }


def source_hash(name: str, *, sources: Path = SOURCES) -> str:
    """Hex SHA-256 of all that an image is made from: its files, the shared ones, and the layer below."""
    below = LAYER_BELOW[name]
    digest = hashlib.sha256(source_hash(below, sources=sources).encode() if below else b"")
    for directory in (sources / name, sources / "shared"):
        for path, (executable, content) in source_files(directory).items():
            digest.update(f"{path}\0{executable:d}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def upstream_hash(reference: str) -> str:
    """What stands for a source hash on an image that is somebody else's: the hash of its reference."""
    return hashlib.sha256(f"upstream {reference}".encode()).hexdigest()


def archive(*, upstream_execd: str, sources: Path = SOURCES) -> bytes:
    """The uncompressed tar a host builds from; the same files give the same bytes."""
    hashes = {name: source_hash(name, sources=sources) for name in LAYER_BELOW}
    hashes["execd-upstream"] = upstream_hash(upstream_execd)
    listing = "".join(f"{name} {value}\n" for name, value in hashes.items()).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, (executable, content) in {**source_files(sources), "hashes": (False, listing)}.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755 if executable else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def stale(
    present: dict[str, str], *, names: tuple[str, ...], source: Source, upstream_execd: str
) -> tuple[str, ...]:
    """Which of the wanted images (and `execd`) are missing on a host or made from something else."""
    execd = {source_hash("execd-standin")} if source != "registry" else set()
    if source != "build":
        execd.add(upstream_hash(upstream_execd))
    missing = [name for name in names if present.get(f"deskfleet/{name}") != source_hash(name)]
    return (*missing, *(() if present.get("deskfleet/execd") in execd else ("execd",)))


@operation()
def images_present(
    *,
    names: tuple[str, ...],
    source: Source,
    registry: str,
    upstream_execd: str,
    login: Login | None = None,
) -> Generator[FileUploadCommand | StringCommand, None, None]:
    """Brings every stale image up to date; asks the host one question and does nothing when all agree."""
    wanted = stale(host.get_fact(ImageSources), names=names, source=source, upstream_execd=upstream_execd)
    if not wanted:
        host.noop("the images are up to date")
        return
    packed, unpacked = f"{STORE}/sources.tar", f"{STORE}/sources"
    tell(STORE, "changes with all that is in it")
    yield StringCommand("mkdir", "-p", STORE)
    yield FileUploadCommand(io.BytesIO(archive(upstream_execd=upstream_execd)), packed)
    yield StringCommand("rm", "-rf", unpacked, "&&", "mkdir", unpacked)
    yield StringCommand("tar", "--extract", "--no-same-owner", f"--file={packed}", f"--directory={unpacked}")
    words = []
    if login is not None:
        yield from login_files(login)
        words = [
            QuoteString(f"LOGIN={LOGIN}"),
            QuoteString(f"REGISTRY_USER={login.user}"),
            QuoteString(f"SERVER={server_of(f'{registry}/')}"),
        ]
    yield Told(
        "env",
        QuoteString(f"REGISTRY={registry}"),
        QuoteString(f"EXECD={upstream_execd}"),
        *words,
        f"{unpacked}/make-images",
        source,
        *wanted,
    )


@operation()
def images_absent() -> Generator[StringCommand, None, None]:
    """Removes our images by name; one that somebody else's container uses loses its name only."""
    here = host.get_fact(ImageSources)
    if not here:
        host.noop("there are no images of ours")
        return
    tell(STORE, "goes with all that is in it")
    yield StringCommand("docker", "image", "rm", "--force", *(f"{name}:latest" for name in sorted(here)))
    yield StringCommand("docker image prune --force --filter label=org.deskfleet.owned=true")
    yield StringCommand("rm", "-rf", STORE)


@deploy("Images")
def images(
    *,
    source: Source = "auto",
    registry: str | None = None,
    names: tuple[str, ...] = IMAGE_NAMES,
    upstream_execd: str = UPSTREAM_EXECD,
    login: Login | None = None,
    present: bool = True,
) -> None:
    """Bring the host's images to what this checkout describes, or (present=False) remove ours only.

    source: "registry" pulls `<registry>/<name>:<first 16 digits of the source hash>`; "build" makes them on
    the host; "auto" tries the registry if one is given and builds what it does not get.
    registry: prefix of image references without a trailing slash, such as `registry.example.com/deskfleet`.
    names: which desktops' images (what they build on comes along by itself).
    login: whom that registry lets pull; None: anybody.
    upstream_execd: OpenSandbox's own execd image; used where it can be pulled, else our stand-in.
    """
    if not present:
        images_absent(name="Remove Deskfleet's images")
        return
    unknown = sorted(set(names) - set(IMAGE_NAMES))
    if unknown:
        raise OperationError(f"images: no image is called '{unknown[0]}'; there are {', '.join(IMAGE_NAMES)}")
    if source == "registry" and not registry:
        raise OperationError("images: source is 'registry', but no registry is given; set images.registry")
    images_present(
        name="Bring the desktops' images up to date",
        names=names,
        source=source,
        registry=registry or "",
        upstream_execd=upstream_execd,
        login=login if source != "build" else None,
    )
