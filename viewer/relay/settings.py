"""The relay's settings: one TOML file and one key file, read here and nowhere else."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal

from cryptography.fernet import Fernet
from pydantic import Field, StringConstraints, ValidationError

from viewer import logs
from viewer.model import Frozen

SETTINGS_VARIABLE = "DESKFLEET_RELAY_SETTINGS"
DEFAULT_PATH = Path("/etc/deskfleet/relay.toml")


class SettingsError(Exception):
    """One sentence that names the key and how to mend it."""


class Settings(Frozen):
    """Times are seconds, sizes bytes."""

    listen: Annotated[str, StringConstraints(pattern=r"^(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-f:]+\]):\d{1,5}$")]
    """ADDRESS:PORT, never a name: what a name resolves to is not ours to trust."""
    key_file: Path
    """Holds the key shared with the control plane, as `Fernet.generate_key` makes them."""
    publish_address: IPv4Address
    """Where this host publishes its sandboxes' ports; a grant names only the port."""
    desktops_dir: Path
    """Below it a directory per persistent desktop, its user's, with the sockets it listens on."""
    desktop_secrets_dir: Path = Path("/etc/deskfleet/secrets/relay/desktops")
    """Holds `<name>.json` of each desktop: whose it is and what it runs (`desktop_access`)."""
    max_stream_seconds: float = Field(default=43200, gt=0)
    handshake_seconds: float = Field(default=10, gt=0)
    """For each of the two handshakes of a stream."""
    probe_seconds: float = Field(default=20, gt=0)
    supervision_seconds: float = Field(default=120, gt=0)
    """Without a sign of life of the control plane for so long, all streams end and none begins."""
    max_streams: int = Field(default=400, ge=1)
    max_tenant_share: float = Field(default=0.5, gt=0, le=1)
    """What part of `max_streams` one tenant may take, so that it cannot shut out the others."""
    max_streams_per_session: int = Field(default=16, ge=1)
    max_message_bytes: int = Field(default=1 << 20, ge=1024)
    """A WebSocket message from a browser must be smaller than this."""
    slow_browser_seconds: float = Field(default=30, gt=0)
    """A stream ends whose browser takes nothing for so long while something waits for it."""
    ping_seconds: float = Field(default=15, gt=0)
    """Between two pings to the browser of an RFB stream."""
    silent_browser_seconds: float = Field(default=45, gt=0)
    """Such a stream ends when its browser has sent nothing for so long, not even a pong."""

    content_seconds: float = Field(default=60, gt=0)
    """For one file of a desktop's web client, a slow browser included."""
    max_content_bytes: int = Field(default=64 << 20, ge=1024)
    max_content_requests: int = Field(default=16, ge=1)
    """Files of one desktop under way at once; more wait. Browsers ask for a page's two dozen together."""

    opensandbox_url: (
        Annotated[str, StringConstraints(pattern=r"^http://\d{1,3}(\.\d{1,3}){3}:\d{1,5}$")] | None
    ) = None
    """This host's OpenSandbox server, whose keyless proxy leads to sandboxes' ports; None: no sandboxes."""
    port_idle_seconds: float = Field(default=200, gt=0)
    """A request to a port may be silent for so long, in either direction. The server itself allows 180 s."""
    max_port_requests: int = Field(default=96, ge=1)
    """Requests to ports under way at once; one tenant may take `max_tenant_share` of them. The server has 100
    connections for all of its sandboxes together, and lets whoever comes next wait for minutes."""
    max_port_requests_per_session: int = Field(default=32, ge=1)

    max_captures: int = Field(default=200, ge=1)
    """Desktops whose pictures are kept at once; one tenant may take `max_tenant_share` of them."""
    max_capture_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Of all these pictures together; 4 bytes a pixel. One tenant may take `max_tenant_share` of it."""

    capture_encodings: Literal["raw", "packed"] = "raw"
    """How desktops send their pictures: as they are, which is cheapest beside them, or packed without loss,
    which is a tenth of the bytes for several times the work."""

    @property
    def max_captures_per_tenant(self) -> int:
        return max(1, int(self.max_captures * self.max_tenant_share))

    @property
    def max_capture_bytes_per_tenant(self) -> int:
        return int(self.max_capture_bytes * self.max_tenant_share)

    @property
    def max_streams_per_tenant(self) -> int:
        return max(1, int(self.max_streams * self.max_tenant_share))

    @property
    def max_port_requests_per_tenant(self) -> int:
        return max(1, int(self.max_port_requests * self.max_tenant_share))

    @property
    def look_seconds(self) -> float:
        """Between two looks at every stream; short enough for all of these times."""
        return min(5.0, min(self.slow_browser_seconds, self.ping_seconds, self.silent_browser_seconds) / 3)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def read_settings(path: Path) -> Settings:
    """Return the settings of `path`, or raise SettingsError."""
    try:
        return Settings.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise SettingsError(f"cannot read {path} ({error.strerror}); create it or fix its mode") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}; correct that line") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_problem(error)}") from error


def read_key(settings: Settings) -> bytes:
    """Return the grant key, or raise SettingsError; the sentence never holds what the file holds."""
    try:
        key = settings.key_file.read_bytes().strip()
        logs.hide(key.decode(errors="replace"))
        Fernet(key)
    except OSError as error:
        raise SettingsError(
            f"key_file: cannot read {settings.key_file} ({error.strerror}); create it or fix its mode"
        ) from error
    except ValueError as error:
        raise SettingsError(
            f"key_file: {settings.key_file} must hold 32 bytes in URL-safe base64; write a new key into it"
        ) from error
    return key


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key} is not a key of the relay; remove it, known are {', '.join(Settings.model_fields)}"
    if problem["type"] == "missing":
        return f"{key} is missing; add it"
    hint = "; write ADDRESS:PORT" if key == "listen" else ""
    return f"{key} = {problem['input']!r} is refused: {problem['msg']}{hint}"
