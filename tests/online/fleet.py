"""A whole Deskfleet, brought up by `make up` on a bare host, as the online tests see it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel

from tests.hosts.bare_host import CLONE, BareHost, Done
from tests.hosts.listing import Listing
from tests.hosts.network import inside

UP_SECONDS = 900  # a hang, not the goal; the goals are printed and checked beside the figures
CREATE_SECONDS = 150
CANONICAL = "http://deskfleet.localhost:8088"
ADMIN = "/opt/deskfleet/viewer/bin/deskfleet-admin"


class SessionView(BaseModel):
    """A session as the API gives it; fields the tests don't use are kept as they are."""

    model_config = {"extra": "allow"}

    id: str
    status: str
    status_reason: str | None
    sandbox_id: str | None
    host: str | None
    image: str
    page_url: str
    novnc_url: str
    vnc_endpoint: str | None
    error_message: str | None
    kind: str


class SessionPage(BaseModel):
    items: list[SessionView]
    next_cursor: str | None


@dataclass(frozen=True)
class Door:
    """Where an edge is whose name no resolver knows, and the authority (PEM) that its certificate is from."""

    address: str
    authority: Path

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)


@dataclass(frozen=True)
class Api:
    """HTTP calls with one key, made inside the network of process `pid`."""

    pid: int
    url: str
    key: str | None
    door: Door | None = None

    def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = CREATE_SECONDS,
    ) -> httpx.Response:
        credentials = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        sent = {**credentials, **(headers or {})}

        def request() -> httpx.Response:
            with httpx.Client(
                verify=self.door.trust if self.door else False, timeout=timeout, trust_env=False
            ) as client:
                url, more, extensions = httpx.URL(self.url + path), {}, {}
                if self.door:
                    more, extensions = {"Host": url.netloc.decode()}, {"sni_hostname": url.host}
                    url = url.copy_with(host=self.door.address)
                return client.request(
                    method, url, json=json, content=content, headers={**more, **sent}, extensions=extensions
                )

        return inside(self.pid, request, timeout=timeout + 10)

    def create(self, **body: object) -> SessionView:
        """A desktop that has shown a real frame. Fails with the server's own words otherwise."""
        answer = self.call("POST", "/api/v1/sessions", json=body)
        assert answer.status_code == 201, answer.text
        session = SessionView.model_validate_json(answer.text)
        assert session.status == "running", session
        return session

    def get(self, session_id: str) -> SessionView:
        answer = self.call("GET", f"/api/v1/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        return SessionView.model_validate_json(answer.text)

    def sessions(self, **filters: str) -> list[SessionView]:
        query = "&".join(f"{key}={value}" for key, value in filters.items())
        answer = self.call("GET", f"/api/v1/sessions?{query}")
        assert answer.status_code == 200, answer.text
        return SessionPage.model_validate_json(answer.text).items

    def end(self, session_id: str) -> httpx.Response:
        return self.call("DELETE", f"/api/v1/sessions/{session_id}")

    @contextmanager
    def desktop(self, **body: object) -> Iterator[SessionView]:
        """A desktop for one test, ended afterwards whatever happened."""
        session = self.create(**body)
        try:
            yield session
        finally:
            self.end(session.id)


@dataclass
class Installed:
    """A bare host with programs of ours on it."""

    host: BareHost

    def docker(self, *arguments: str, check: bool = True) -> Done:
        """The docker of the host itself, which runs the sandboxes."""
        return self.host.run(["docker", *arguments], check=check)

    def container_of(self, session: SessionView) -> str:
        """Name of the container behind a session; it must exist."""
        assert session.sandbox_id
        return (
            self.docker("inspect", "--format={{.Name}}", f"sandbox-{session.sandbox_id}")
            .out.strip()
            .lstrip("/")
        )

    def sandbox_containers(self) -> list[str]:
        return self.docker(
            "ps", "--all", "--filter=label=opensandbox.io/id", "--format={{.Names}}"
        ).out.split()

    def logs(self) -> str:
        """The last lines of all our services, for a failure's report."""
        line = (
            "if [ -d /run/systemd/system ]; then journalctl --no-pager -n 80 -u 'deskfleet-*';"
            " else tail -n 30 /var/log/deskfleet/*; fi 2>&1"
        )
        return self.host.run(line, check=False).out[-8000:]

    # --- services, the same under both supervisors ---

    def pids_of(self, service: str) -> list[int]:
        """Main process of `deskfleet-<service>` and its children, on the host."""
        if self.host.variant == "systemd":
            group = f"system.slice/deskfleet-{service}.service/cgroup.procs"
            line = f"cat /sys/fs/cgroup/systemd/{group} 2>/dev/null || cat /sys/fs/cgroup/{group}"
        else:
            line = f"main=$({self.supervisorctl} pid deskfleet-{service}); echo $main; pgrep -P $main"
        words = self.host.run(line, check=False).out.split()
        return [int(word) for word in words if word.isdigit() and int(word) > 1]

    @property
    def supervisorctl(self) -> str:
        found = self.host.run("ls /etc/deskfleet/supervisord.conf 2>/dev/null", check=False).out.strip()
        return f"supervisorctl -c {found}" if found else "supervisorctl"

    def kill(self, service: str) -> list[int]:
        """kill -9 everything of a service; returns the process ids that were killed."""
        pids = self.pids_of(service)
        assert pids, f"deskfleet-{service} was not running\n{self.logs()}"
        self.host.run("kill -9 " + " ".join(map(str, pids)), check=False)
        return pids

    def stop(self, service: str) -> None:
        self._control("stop", service)

    def start(self, service: str) -> None:
        self._control("start", service)

    def _control(self, verb: str, service: str) -> None:
        tool = "systemctl" if self.host.variant == "systemd" else self.supervisorctl
        self.host.run(f"{tool} {verb} deskfleet-{service}")


@dataclass
class Fleet(Installed):
    """`before`: what lay on the host before any `make up`. `first_up`: None if not typed in this run."""

    before: Listing
    was_bare: bool = True
    first_up: Done | None = None

    def make(self, target: str, *, check: bool = True, show: bool = True) -> Done:
        return self.host.run(["make", target], cwd=CLONE, check=check, show=show, timeout=UP_SECONDS)

    @property
    def variables(self) -> dict[str, str]:
        """`.local/deskfleet.env` as the shell reads it."""
        line = f"set -a; . {CLONE}/.local/deskfleet.env; env -0 | grep -z ^DESKFLEET_"
        return dict(entry.split("=", 1) for entry in self.host.run(line).out.split("\0") if "=" in entry)

    @property
    def api(self) -> Api:
        """With the first tenant's operator key."""
        variables = self.variables
        return Api(self.host.pid, variables["DESKFLEET_URL"], variables["DESKFLEET_KEY"])

    @property
    def admin(self) -> Api:
        variables = self.variables
        return Api(self.host.pid, variables["DESKFLEET_URL"], variables["DESKFLEET_ADMIN_KEY"])

    @property
    def anonymous(self) -> Api:
        return Api(self.host.pid, self.variables["DESKFLEET_URL"], None)

    def with_key(self, key: str) -> Api:
        return Api(self.host.pid, self.variables["DESKFLEET_URL"], key)

    def sign_in_link(self) -> str:
        out = self.host.run([ADMIN, "signin-link", "--tenant", self.variables["DESKFLEET_TENANT"]]).out
        return next(word for word in out.split() if word.startswith("http"))


def eventually(
    question: Callable[[], Any], *, within: float, what: str | Callable[[], str], every: float = 0.25
) -> Any:
    """The first true answer of `question`; an AssertionError or connection error inside counts as not yet."""
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = question()
            if last:
                return last
        except (AssertionError, httpx.HTTPError, OSError) as error:
            last = error
        time.sleep(every)
    raise AssertionError(f"not within {within:.0f} s: {what() if callable(what) else what} (last: {last})")
