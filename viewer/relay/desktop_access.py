"""Whose a persistent desktop is, what it runs, and how its relay signs in to it: one file per desktop,
written by the deploy before the desktop starts, and read anew each time, so that a change needs no restart.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, NamedTuple

from pydantic import SecretStr, StringConstraints, ValidationError, model_validator

from viewer.grants import DesktopSocket, Grant, GrantRefused, Target
from viewer.model import DesktopBackend, Frozen
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.settings import Settings


class Credentials(NamedTuple):
    """One user of a KasmVNC desktop."""

    user: str
    password: SecretStr

    def header(self) -> str:
        """Value of the Authorization header."""
        return "Basic " + b64encode(f"{self.user}:{self.password.get_secret_value()}".encode()).decode()


class DesktopAccess(Frozen):
    """Content of `<desktop_secrets_dir>/<name>.json`."""

    backend: DesktopBackend
    tenant: str | None = None
    """Whose data it shows; None: nobody's, so that nobody watches it."""
    owner: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def kasmvnc_has_an_owner(self) -> DesktopAccess:
        if self.backend == "kasmvnc" and not (self.owner and self.password):
            raise ValueError("backend kasmvnc needs 'owner' and 'password'")
        return self

    @property
    def credentials(self) -> Credentials | None:
        """The owner of a KasmVNC desktop; None for any other."""
        if self.backend != "kasmvnc" or not self.owner or not self.password:
            return None
        return Credentials(self.owner, self.password)


def read_access(desktop: str, settings: Settings) -> DesktopAccess:
    """A desktop without a file is nobody's, and taken for TigerVNC's. Raises DesktopUnreachable with a
    sentence for the operator."""
    file = settings.desktop_secrets_dir / f"{desktop}.json"
    try:
        return DesktopAccess.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return DesktopAccess(backend="tigervnc")
    except OSError as error:
        raise DesktopUnreachable(
            f"{file} cannot be read ({error.strerror}); roll out the desktops again"
        ) from error
    except ValidationError as error:
        # Without the input: it holds the password.
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise DesktopUnreachable(f"{file} is not right ({problem}); roll out the desktops again") from error


def backend_of(target: Target, settings: Settings) -> DesktopBackend | None:
    """What shows the screen; None for a sandbox, whose image says it. Raises DesktopUnreachable."""
    return read_access(target.name, settings).backend if isinstance(target, DesktopSocket) else None


def check_tenant(grant: Grant, settings: Settings) -> None:
    """Raise GrantRefused unless the grant's desktop is its tenant's here and now.

    The control plane may still take it for its former tenant's: it learns of a change last, or not at all if
    the roll-out ends before. A sandbox's port is its session's alone, so there is nothing to compare."""
    if not isinstance(grant.target, DesktopSocket):
        return
    try:
        tenant = read_access(grant.target.name, settings).tenant
    except DesktopUnreachable as error:
        raise GrantRefused(str(error)) from error
    if tenant is None:
        raise GrantRefused("this host knows no tenant of the desktop; roll out the desktops again")
    if tenant != grant.tenant_id:
        raise GrantRefused("the desktop was given to another tenant; roll out the viewer")


def owner_of(desktop: str, settings: Settings) -> Credentials:
    """The owner of a KasmVNC desktop; raises DesktopUnreachable where there is none."""
    owner = read_access(desktop, settings).credentials
    if owner is None:
        raise DesktopUnreachable("this desktop has no page of its own; watch it as a plain stream")
    return owner
