"""The SSH transport of the deploy: sends at once, and goes through a jump host where the site names one.

paramiko leaves Nagle's algorithm on, with which each remote command waits ~45 ms for an ACK. pyinfra can jump
by an ssh configuration file, but then checks no pinned key on the way and leaves Nagle on there; so the way
is opened here. Neither notices a host that says nothing any more, for which a run would wait for ever. And
what a user with sudo uploads must not pass through a file that others can read.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import paramiko
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.connectors.ssh import SSHConnector

_TIMEOUT = 10
"""Seconds for a jump host to answer, and for its word that the host behind it is there."""

_ASK_SECONDS = 5
"""How often a host that says nothing is asked whether it is there."""
_ASKS = 6
"""After so many questions without an answer it is lost."""


class Way(NamedTuple):
    """To a host (address, port) through a jump host, as this user. known_hosts: file with the keys of both.
    key: its file, or the agent has it; None: the agent's and the user's own."""

    address: str
    port: int
    jump: str
    jump_port: int
    user: str
    key: str | None
    known_hosts: str


def direct() -> dict[str, Any]:
    """What paramiko's `connect` is told of a host that answers here."""
    return {"transport_factory": without_delay}


def through(way: Way) -> dict[str, Any]:
    """The same for a host behind another. Because there is a `sock`, paramiko opens no connection; the
    transport does, when it is made."""
    return {"sock": way, "transport_factory": jumping}


def without_delay(sock: Any, **kwargs: Any) -> paramiko.Transport:
    """A transport that sends each packet at once, and ends when its host is silent."""
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_NODELAY, 1),
            (socket.TCP_KEEPIDLE, _ASK_SECONDS),
            (socket.TCP_KEEPINTVL, _ASK_SECONDS),
            (socket.TCP_KEEPCNT, _ASKS - 1),
            # Milliseconds; for what was sent and nobody acknowledges, which keep-alives don't count.
            (socket.TCP_USER_TIMEOUT, _ASK_SECONDS * _ASKS * 1000),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return paramiko.Transport(sock, **kwargs)


def jumping(sock: Way, **kwargs: Any) -> paramiko.Transport:
    """A transport over a channel of a connection to the jump host. Both ends check the pinned keys."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    # Nobody is asked for a passphrase here, but the agent may hold the key.
    locked = sock.key is not None and _is_encrypted(sock.key)
    try:
        client.load_host_keys(sock.known_hosts)
        client.connect(
            sock.jump, sock.jump_port, sock.user,
            key_filename=None if locked else sock.key,
            allow_agent=locked or sock.key is None, look_for_keys=sock.key is None,
            timeout=_TIMEOUT, banner_timeout=_TIMEOUT, auth_timeout=_TIMEOUT, transport_factory=without_delay,
        )  # fmt: skip
        between = client.get_transport()
        if between is None:
            raise paramiko.SSHException("the connection ended")
        channel = between.open_channel(
            "direct-tcpip", (sock.address, sock.port), ("127.0.0.1", 0), timeout=_TIMEOUT
        )
    except (paramiko.SSHException, OSError, EOFError) as error:
        client.close()
        refused = isinstance(error, paramiko.AuthenticationException) or "No authentication" in str(error)
        why = f"the key {sock.key} is encrypted; run: ssh-add {sock.key}" if locked and refused else error
        raise paramiko.SSHException(
            f"on the way through {sock.user}@{sock.jump}:{sock.jump_port}: {why}"
        ) from error
    return _Jumping(channel, client, kwargs)


def _is_encrypted(key: str) -> bool:
    for kind in (paramiko.RSAKey, paramiko.ECDSAKey, paramiko.Ed25519Key):
        try:
            kind.from_private_key_file(key)
        except paramiko.PasswordRequiredException:
            return True
        except (paramiko.SSHException, OSError, ValueError):
            continue
    return False


class _Heard:
    """A channel that notes that something came through it."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.heard = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def recv(self, size: int) -> bytes:
        data = self._channel.recv(size)
        self.heard = True
        return data


class _Jumping(paramiko.Transport):
    """Ends the connection to the jump host with its own, and itself when the host behind is silent: the
    kernel knows of the jump host alone."""

    _ask_seconds: float = _ASK_SECONDS

    def __init__(self, channel: paramiko.Channel, client: paramiko.SSHClient, kwargs: dict[str, Any]) -> None:
        self._client = client
        self._heard = _Heard(channel)
        super().__init__(self._heard, **kwargs)  # type: ignore[arg-type]
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Looks are counted, not seconds: pyinfra may have stood still meanwhile, as at its question."""
        silent, in_use = 0, False
        while silent < _ASKS:
            time.sleep(self._ask_seconds)
            if self.is_authenticated():
                silent = 0 if self._heard.heard else silent + 1
                self._heard.heard, in_use = False, True
                # In a thread: behind what can't be sent it waits, too.
                threading.Thread(target=self._ask, daemon=True).start()
            elif in_use or self._client.get_transport() is None:
                return
        self.close()

    def _ask(self) -> None:
        """The answer is a word, whatever it says."""
        with suppress(paramiko.SSHException, OSError, EOFError):
            self.global_request("keepalive@openssh.com")

    def close(self) -> None:
        super().close()
        self._client.close()


def put_privately(
    self: SSHConnector,
    filename_or_io: Any,
    remote_filename: str,
    remote_temp_filename: str | None = None,
    print_output: bool = False,
    print_input: bool = False,
    **arguments: Any,
) -> bool:
    """In place of `SSHConnector.put_file`. With sudo pyinfra puts a file below /tmp first, under a name that
    anybody can work out, as readable as the user's umask makes it; here it lies in a directory of the user's
    own, which is gone afterwards."""
    if not arguments.get("_sudo"):
        return _put_file(
            self,
            filename_or_io,
            remote_filename,
            remote_temp_filename,
            print_output,
            print_input,
            **arguments,
        )
    plain = {
        name: value for name, value in arguments.items() if name not in ("_sudo", "_sudo_user", "_chdir")
    }
    made, output = self.run_shell_command(
        StringCommand("mktemp -d"), print_output=False, print_input=print_input, **plain
    )
    if not made:
        return False
    directory = output.stdout_lines[-1].strip()
    copied = False
    try:
        self._put_file(filename_or_io, f"{directory}/upload")  # type: ignore[no-untyped-call]
        copied, _ = self.run_shell_command(
            StringCommand(f"cp {directory}/upload", QuoteString(remote_filename), f"&& rm -rf {directory}"),
            print_output=print_output,
            print_input=print_input,
            **arguments,
        )
    finally:
        if not copied:
            self.run_shell_command(StringCommand("rm -rf", directory), **plain)
    return copied


_put_file = cast(Callable[..., bool], SSHConnector.put_file)
