"""Grants: what the viewer allows a relay to do for one stream, sealed to that relay.

A grant travels in the internal header `X-Df-Grant`. It is encrypted and signed (Fernet: AES-128-CBC with
HMAC-SHA256) under the key that the control plane shares with this one relay, because loopback is no trust
boundary: whoever else reaches the relay's port can neither read nor make one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from cryptography.fernet import Fernet, InvalidToken
from pydantic import Field, SecretStr, ValidationError, field_serializer

from viewer import logs
from viewer.model import ClipboardPolicy, Frozen, Lease

GRANT_HEADER = "X-Df-Grant"
UPSTREAM_HEADER = "X-Df-Upstream"
FRAMERS_HEADER = "X-Df-Framers"
"""Origins whose pages may show the answer in a frame; for the edge, which tells the browser."""


class PublishedPort(Frozen):
    """A sandbox's VNC as plain TCP: the relay takes the address from its settings, the port from here."""

    kind: Literal["published"] = "published"
    port: int = Field(ge=1, le=65535)


class DesktopSocket(Frozen):
    """A persistent desktop's VNC on a unix socket below the relay's desktops directory."""

    kind: Literal["desktop"] = "desktop"
    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")


class SandboxPort(Frozen):
    """A port inside a sandbox, as its host's OpenSandbox server reaches it. sandbox_id: the host's own."""

    kind: Literal["port"] = "port"
    sandbox_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")
    port: int = Field(ge=1, le=65535)


class DevToolsPort(Frozen):
    """Where Chromium's DevTools answer in a sandbox, as its host's OpenSandbox server reaches it."""

    kind: Literal["devtools"] = "devtools"
    sandbox_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")
    port: int = Field(ge=1, le=65535)


Target = Annotated[PublishedPort | DesktopSocket, Field(discriminator="kind")]
"""Where a desktop's screen is."""

AnyTarget = Annotated[PublishedPort | DesktopSocket | SandboxPort | DevToolsPort, Field(discriminator="kind")]


class Grant(Frozen):
    """One permission. `stream`: open a stream to `target`; `content`: read the web client of `target` (a
    DesktopSocket, or a DevToolsPort) or open its WebSocket; `devtools`: list the targets of a DevToolsPort;
    `port`: send one request, or open one WebSocket, to `target` (a SandboxPort); `probe`: wait for the first
    real frame, by the session's capture if its tenant is named; `manage`: list and close streams (no
    target); `lease`: say who has keyboard and mouse of a session (no target); `input`: press keys and move
    the pointer on `target`; `picture`: read what `target` shows; `hostwatch`: read what the host's
    hostwatch, which shares the relay's key, says of our containers (no target)."""

    purpose: Literal[
        "stream", "content", "devtools", "port", "probe", "manage", "lease", "input", "picture", "hostwatch"
    ]
    session_id: str = ""
    tenant_id: str = ""
    principal: str = ""
    """`Principal.holder` of whoever opens the stream."""
    may_control: bool = False
    """Whether keys, pointer, clipboard and the like pass while `principal` has the lease; without it they
    never do."""
    lease: Lease | None = None
    """Of the session, as the table had it when this was sealed; the relay goes by the newest it heard of."""
    given_back: bool = False
    """Of a `lease`: the former holder wanted it so, and keeps his stream."""
    under_lease: bool = False
    """This way acts on the desktop beside its keyboard (execd, DevTools): it is cut as soon as another person
    has the lease."""
    clipboard: ClipboardPolicy = ClipboardPolicy()
    ticket_id: str = ""
    """The ticket or share link that it came by, if any: revoking that ends it."""
    target: AnyTarget | None = None
    vnc_password: SecretStr | None = None
    expires_at: datetime

    @field_serializer("vnc_password", when_used="json")
    def _reveal_inside_the_seal(self, value: SecretStr | None) -> str | None:
        return value.get_secret_value() if value else None


class GrantRefused(Exception):
    """The grant is missing, forged, for another relay, or past its time."""


def seal_grant(grant: Grant, key: bytes) -> str:
    """Return the header value; `key` is 32 bytes in URL-safe base64, as `Fernet.generate_key` makes them."""
    return Fernet(key).encrypt(grant.model_dump_json().encode()).decode()


def open_grant(token: str, key: bytes, *, purpose: str, now: datetime) -> Grant:
    """Return the grant, or raise GrantRefused with a sentence that names no secret."""
    try:
        grant = Grant.model_validate_json(Fernet(key).decrypt(token.encode()))
    except (InvalidToken, ValidationError, ValueError) as error:
        raise GrantRefused("the grant is not one that this relay's control plane made") from error
    if grant.vnc_password is not None:
        logs.hide(grant.vnc_password.get_secret_value())
    if grant.purpose != purpose:
        raise GrantRefused(f"the grant is for {grant.purpose}, not for {purpose}")
    if grant.expires_at <= now:
        raise GrantRefused("the grant has expired; open the stream again")
    return grant
