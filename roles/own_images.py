"""Own images: what the site file adds to the catalogue is on a sandbox host before anybody asks for it.

They are pulled, never built. One that can't be pulled now is no failure: the host pulls it itself when the
first sandbox of it is made. What is there under that name is taken as it is, so nobody looks after a tag that
moves. Only what we pulled is taken away again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from pydantic import Field, SecretStr
from pyinfra.api.command import StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.catalogue import Image, images_of
from inventory.models import HostConfig, Section
from roles.files import Commands, sha256, tell
from roles.images import LOGIN, STORE, Login, Told, login_files, server_of

NOTES = f"{STORE}/own"
"""Lines `pulled STAMP IMAGE` and `tried STAMP IMAGE`: what we did, and with which credentials."""

_SCRIPTS = Path(__file__).resolve().parent.parent / "templates" / "own_images"


class Wanted(Section):
    """An image by its reference. stamp: tells one try to pull it from another, by its credentials; says
    nothing of them."""

    uri: str
    stamp: str
    login: Login | None = None


class Held(Section):
    """here: references that the host has. pulled: those that we brought. tried: reference -> stamp of the
    last try that failed."""

    here: frozenset[str] = frozenset()
    pulled: frozenset[str] = frozenset()
    tried: dict[str, str] = Field(default_factory=dict)


class HeldImages(FactBase[Held]):
    """By one command, which asks the engine for these images alone."""

    def command(self, images: Iterable[str]) -> str:
        return f"NOTES={NOTES} IMAGES={quote(' '.join(images))}\n{_read('look.sh')}"

    @staticmethod
    def default() -> Held:
        return Held()

    def process(self, output: list[str]) -> Held:
        lines = [line.split(" ") for line in output if line.count(" ") == 2]
        return Held(
            here=frozenset(image for how, _, image in lines if how == "here"),
            pulled=frozenset(image for how, _, image in lines if how == "pulled"),
            tried={image: stamp for how, stamp, image in lines if how == "tried"},
        )


@deploy("Own images")
def own_images(*, config: HostConfig) -> None:
    wanted = {image.uri: image for image in images_of(config.site) if image.is_own}
    own_images_present(
        name="Pull the site's own images", wanted=tuple(_wanted(image, config) for image in wanted.values())
    )


@deploy("Own images away")
def no_own_images() -> None:
    own_images_present(name="Remove what was pulled", wanted=())


@operation()
def own_images_present(wanted: tuple[Wanted, ...]) -> Commands:
    """Pulls what is missing, but not again what could not be had with these credentials; removes what we
    pulled and nobody wants any more."""
    names = [image.uri for image in wanted]
    held = host.get_fact(HeldImages, images=names)
    missing = [
        image for image in wanted if image.uri not in held.here and held.tried.get(image.uri) != image.stamp
    ]
    former = sorted((held.pulled | held.tried.keys()) - set(names))
    if missing or former:
        tell(NOTES)
    if missing:
        yield StringCommand("mkdir", "-p", STORE)
    for image in missing:
        yield from _pulled(image)
    if former:
        yield StringCommand(f"NOTES={NOTES} IMAGES={quote(' '.join(former))}\n{_read('forget.sh')}")


def _pulled(image: Wanted) -> Commands:
    user = server = ""
    if image.login is not None:
        user, server = image.login.user, server_of(image.uri)
        yield from login_files(image.login)
    values = {
        "IMAGE": image.uri, "STAMP": image.stamp, "NOTES": NOTES, "LOGIN": LOGIN, "REGISTRY_USER": user,
        "SERVER": server,
    }  # fmt: skip
    yield Told(" ".join(f"{key}={quote(value)}" for key, value in values.items()) + f"\n{_read('pull.sh')}")


def _wanted(image: Image, config: HostConfig) -> Wanted:
    secrets = config.secrets
    if image.registry is None:
        return Wanted(uri=image.uri, stamp=_stamp(image.uri))
    login = Login(user=image.registry.user, password=secrets.given[image.registry.password])
    # The viewer's key makes it useless for guessing the password.
    stamp = _stamp(image.uri, login.user, login.password, secrets.viewer_key)
    return Wanted(uri=image.uri, stamp=stamp, login=login)


def _stamp(*parts: str | SecretStr) -> str:
    return sha256(*parts)[:16]


def login_of(config: HostConfig) -> Login | None:
    """Whom the registry of the catalogue's own images lets pull."""
    who = config.site.settings.images.credentials
    return None if who is None else Login(user=who.user, password=config.secrets.given[who.password])


def _read(name: str) -> str:
    return (_SCRIPTS / name).read_text()
