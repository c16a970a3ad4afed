"""A whole fleet behind the edge: the Caddyfile that the deploy renders, viewer and worker as processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from roles.caddyfile import caddyfile
from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import RelayProcess, free_port, wait_for_listener
from tests.sites import host_config
from tests.worker.fleet import Fleet, Others
from viewer.credentials import hash_of, new_key

KEY = new_key()
"""An operator's, of the tenant `main`."""
OTHER_KEY = new_key()
"""An operator's, of the tenant `other`."""
EMBEDDER = "https://dashboard.example"
"""Whose pages may show the desktops of `main`."""


class ViewerProcess:
    """A test may kill it and start it again: it keeps its address, its keys and its database."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._stack = ExitStack()

    def start(self) -> None:
        self._process = _run(
            self._stack, self._folder, sys.executable, "-c", "from viewer.serve import main; main()"
        )
        _wait_until_healthy(f"{self._url}/healthz", self._folder)

    def kill(self) -> None:
        """As a machine does that runs out of memory: nothing is said to anybody."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._stack.close()


@dataclass(frozen=True)
class Edge:
    """`url`: of the viewer's last name; `port`: where it answers for all of its names."""

    fleet: Fleet
    url: str
    port: int
    caddy: subprocess.Popen[bytes]
    viewer: ViewerProcess

    def check(self, *arguments: str, key: str = KEY.text) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "viewer.selfcheck", "--url", self.url, *arguments],
            input=key, capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip


@contextmanager
def running_edge(
    folder: Path,
    server: RealOpenSandbox,
    relay: RelayProcess,
    *,
    tls: str = "none",
    others: Others | None = None,
    embedders: Sequence[str] = (EMBEDDER,),
    **changed: Any,
) -> Iterator[Edge]:
    """others: further sandbox hosts, whose relays the edge reaches without the mutual TLS between hosts.

    embedders: origins whose pages may show the desktops of `main`.
    changed: settings of the viewer.
    """
    port, viewer = free_port(), free_port()
    config = host_config(
        edge_port=port,
        tls=tls,
        ports={"opensandbox": server.port, "relay": int(relay.address.rpartition(":")[2]), "viewer": viewer},
    )
    local = config.site.settings
    tenants = [
        {
            "name": name,
            "keys": [{"id": key.id, "role": "operator", "sha256": hash_of(key.text)}],
            "embed_origins": listed,
        }
        for name, key, listed in (("main", KEY, list(embedders)), ("other", OTHER_KEY, []))
    ]
    with (
        Fleet(
            folder,
            server,
            relay,
            origins=list(local.origins),
            listen=f"127.0.0.1:{viewer}",
            tenants=tenants,
            others=others,
            **changed,
        ) as fleet,
        ExitStack() as stack,
    ):
        fleet.start()
        text = caddyfile(config, ipv6=False)
        text = text.replace("/run/deskfleet/caddy", str(folder)).replace("/var/lib/deskfleet", str(folder))
        for name, (_, its_relay) in (others or {}).items():
            text = _with_way_to(text, name, its_relay)
        (folder / "Caddyfile").write_text(text)
        program = shutil.which("caddy", path=str(Path(sys.executable).parent)) or "caddy"
        caddy = _run(
            stack, folder, program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")
        )
        control = ViewerProcess(folder, f"http://127.0.0.1:{viewer}")
        stack.callback(control.stop)
        control.start()
        wait_for_listener("127.0.0.1", port)
        yield Edge(fleet, local.origins[-1], port, caddy, control)


def _with_way_to(text: str, name: str, relay: RelayProcess) -> str:
    """The Caddyfile with the ways that lead to the relay of `here` once more, to that host's relay."""

    def both(way: re.Match[str]) -> str:
        further = re.sub(r"\bhere\b|@to_here\b", lambda word: word[0].replace("here", name), way[0])
        further = re.sub(r"(reverse_proxy )\S+", rf"\g<1>{relay.address}", further)
        return way[0] + further

    ways = r"(?ms)^(\t+)@to_here .*?^\1handle @to_here \{.*?^\1\}\n"
    text, found = re.subn(ways, both, text)
    if not found:
        raise AssertionError("the Caddyfile has no way to a relay")
    return text


def _run(stack: ExitStack, folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / "edge.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "HOME": str(folder), "DESKFLEET_SETTINGS": str(folder / "viewer.toml")},
            stdout=log, stderr=log,
        )  # fmt: skip
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def _wait_until_healthy(url: str, folder: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError((folder / "edge.log").read_text()[-3000:])
