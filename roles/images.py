"""Images: the desktops' images present on a sandbox host, pulled or built there from Debian's packages.

Interface (stub, the body follows):

- `HOST_PACKAGES` are the Debian packages a building host needs. Install them with the package helper (so that
  `make down` takes them away again) before calling `images()`, unless `source` is "registry".
- `images()` needs a working `docker` on the host; call it after the docker role and before opensandbox.
- `EXECD_IMAGE` is what opensandbox's `execd_image` must name, whichever way the image came.
- `IMAGE_NAMES` are the names `names=` may hold; an image is `deskfleet/<name>:latest` on the host.
"""

from typing import Literal

from pyinfra.api.deploy import deploy

Source = Literal["auto", "registry", "build"]

HOST_PACKAGES: tuple[str, ...] = ("mmdebstrap", "ca-certificates")
IMAGE_NAMES: tuple[str, ...] = ("desktop", "chrome")
EXECD_IMAGE = "deskfleet/execd:latest"


@deploy("Images")
def images(
    *,
    source: Source = "auto",
    registry: str | None = None,
    names: tuple[str, ...] = IMAGE_NAMES,
    upstream_execd: str | None = None,
    present: bool = True,
) -> None:
    """Bring the host's images to what this checkout describes, or (present=False) remove ours and nothing else.

    source: "registry" pulls `<registry>/<name>:<source hash>`; "build" makes them on the host; "auto" tries the
    registry if one is given and builds what it does not get.
    registry: prefix of image references without a trailing slash, such as `registry.example.com/deskfleet`.
    names: which desktops' images (what they build on comes along by itself).
    upstream_execd: reference of OpenSandbox's own execd image; used where it can be pulled, else our stand-in.
    """
