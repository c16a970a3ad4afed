"""Hostwatch's settings: one TOML file and one key file, read here and nowhere else."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from viewer.hostwatch.answers import LONGEST_HEARTBEAT_SECONDS
from viewer.model import Frozen
from viewer.settings import SettingsError, first_sentence

SETTINGS_VARIABLE = "DESKFLEET_HOSTWATCH_SETTINGS"
DEFAULT_PATH = Path("/etc/deskfleet/hostwatch.toml")


class Settings(Frozen):
    """Times are seconds."""

    listen: Annotated[str, StringConstraints(pattern=r"^(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-f:]+\]):\d{1,5}$")]
    """ADDRESS:PORT, never a name: what a name resolves to is not ours to trust."""
    key_file: Path
    """Holds the key that this host's relay shares with the control plane."""
    fleet_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,63}$")
    """Containers that carry another one, or none, do not exist for us."""
    docker_socket: Path = Path("/var/run/docker.sock")
    heartbeat_seconds: float = Field(default=4, gt=0, le=LONGEST_HEARTBEAT_SECONDS)
    max_stream_seconds: float = Field(default=3600, gt=0)
    """Then the reader is asked to open a new stream, with a new grant."""
    max_readers: int = Field(default=16, ge=1)
    """Event streams that are open at once."""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def read_settings(path: Path) -> Settings:
    """Return the settings of `path`, or raise SettingsError with one sentence."""
    try:
        return Settings.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); run the deploy again") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML ({error}); run the deploy again") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_sentence(error, Settings)}") from error
