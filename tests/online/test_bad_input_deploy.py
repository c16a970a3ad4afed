"""Bad input, at deploy and at run time: one clear sentence each, and nothing half-done."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from tests.hosts.bare_host import CLONE, BareHost
from tests.hosts.listing import differences, list_host
from tests.online.fleet import UP_SECONDS, Fleet, SessionView, eventually

pytestmark = pytest.mark.host

SITE_FILE = f"{CLONE}/inventory/local.yml"
FAILED_BY_ITSELF_SECONDS = 150
LISTENER = "import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"


class ProblemDocument(BaseModel):
    """RFC 9457, as every error of the API is told."""

    model_config = {"extra": "allow"}

    title: str
    status: int
    detail: str


# --- at deploy, on a machine that has nothing yet ---


def assert_refused(host: BareHost, *wanted: str) -> None:
    """`make up` fails with one line that holds all the `wanted` pieces, and nothing was changed."""
    before = list_host(host)
    done = host.run(["make", "up"], cwd=CLONE, check=False, timeout=UP_SECONDS)
    assert done.code != 0, done.out
    assert "Traceback" not in done.out, done.out
    lines = [line for line in done.out.splitlines() if all(piece in line for piece in wanted)]
    assert lines, f"no line says {wanted}:\n{done.out[-3000:]}"
    assert differences(before, list_host(host)) == []


@contextlib.contextmanager
def site_file(host: BareHost, pattern: str, replacement: str) -> Iterator[None]:
    """The site file with one value changed."""
    original = host.read(SITE_FILE)
    changed, count = re.subn(pattern, replacement, original, count=1)
    assert count == 1, f"the site file has nothing like {pattern!r}"
    host.write(SITE_FILE, changed)
    try:
        yield
    finally:
        host.write(SITE_FILE, original)


@contextlib.contextmanager
def port_taken(host: BareHost, port: int) -> Iterator[None]:
    host.daemon.docker("exec", "--detach", host.name, "python3", "-c", LISTENER.format(port=port))
    eventually(lambda: f":{port} " in host.run("ss -Hlnt").out, within=10, what="the port is taken")
    try:
        yield
    finally:
        host.run("pkill -f socket.create_server", check=False)


@pytest.mark.parametrize("port", [8088, 8080])
def test_port_taken_stops_the_deploy_with_one_sentence(unprepared_host: BareHost, port: int) -> None:
    with port_taken(unprepared_host, port):
        assert_refused(unprepared_host, str(port), "python3")


def test_too_little_disk_stops_the_deploy_with_one_sentence(unprepared_host: BareHost) -> None:
    """A nearly full file system where Docker would keep its images."""
    unprepared_host.run("mount -t tmpfs -o size=300m tmpfs /var/lib/docker")
    try:
        assert_refused(unprepared_host, "/var/lib", "free")
    finally:
        unprepared_host.run("umount /var/lib/docker")


@pytest.mark.parametrize(
    ("pattern", "replacement", "named"),
    [
        (r"edge_port: \d+", "edge_port: eighty", "edge_port"),
        (r"edge_port: \d+", "edge_port: 99999", "edge_port"),
        (r"edge_port:", "edge_prot:", "edge_prot"),
        (r"domain: \S+", "domain: desks.example.com", "tls"),  # plain http on a name that is not local
        (r"groups: \[edge", "groups: [egde", "egde"),
        (r"resolution: \S+x\d+", "resolution: huge", "resolution"),
        (r"hosts:", "hosts: {here: [", "local.yml"),  # not YAML at all
    ],
)
def test_bad_site_file_stops_the_deploy_with_one_sentence(
    unprepared_host: BareHost, pattern: str, replacement: str, named: str
) -> None:
    with site_file(unprepared_host, pattern, replacement):
        assert_refused(unprepared_host, "local.yml", named)


@pytest.mark.parametrize(
    "arguments",
    ["inventory/no-such-site.yml deploy.py", "inventory deploy.py --limit nobody"],
)
def test_deploy_to_nothing_is_an_error(unprepared_host: BareHost, arguments: str) -> None:
    done = unprepared_host.run(f".venv/bin/pyinfra {arguments} -y", cwd=CLONE, check=False, timeout=120)
    assert done.code != 0, done.out
    assert "Traceback" not in done.out


def test_unknown_site_is_an_error(unprepared_host: BareHost) -> None:
    done = unprepared_host.run(
        ".venv/bin/pyinfra inventory deploy.py -y", cwd=CLONE, check=False, env={"DESKFLEET_SITE": "nowhere"}
    )
    assert done.code != 0, done.out
    assert "nowhere" in done.out


# --- at run time, through the edge ---


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        (b'{"image": "no-such-image"}', 422, "image"),
        (b'{"resolution": "1x1"}', 422, "resolution"),
        (b'{"resolution": "9999x9999"}', 422, "resolution"),
        (b'{"ttl_seconds": 1}', 422, "ttl_seconds"),
        (b'{"ttl_seconds": 99999999}', 422, "ttl_seconds"),
        (b'{"imgae": "desktop"}', 422, "imgae"),
        (b'{"image": ', 400, "JSON"),
        (b'{"task_id": "' + b"x" * 200_000 + b'"}', 413, ""),
    ],
)
def test_bad_request_is_told_in_a_problem_document(
    plain_fleet: Fleet, body: bytes, code: int, named: str
) -> None:
    before = {session.id for session in plain_fleet.api.sessions()}
    answer = plain_fleet.api.call(
        "POST", "/api/v1/sessions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = ProblemDocument.model_validate_json(answer.text)
    assert problem.status == code
    assert named in answer.text
    assert {session.id for session in plain_fleet.api.sessions()} == before


def create_that_fails(fleet: Fleet) -> SessionView:
    """A create while something is broken: it ends as `error`, with one sentence that says why."""
    answer = fleet.api.call("POST", "/api/v1/sessions", json={"wait": False})
    assert answer.status_code in (201, 202), answer.text
    session = SessionView.model_validate_json(answer.text)
    eventually(
        lambda: fleet.api.get(session.id).status == "error",
        within=FAILED_BY_ITSELF_SECONDS,
        what=lambda: f"the create fails by itself: {fleet.api.get(session.id)}",
    )
    failed = fleet.api.get(session.id)
    assert failed.error_message
    assert "\n" not in failed.error_message
    assert "Traceback" not in failed.error_message
    return failed


def assert_nothing_half_done(fleet: Fleet, failed: SessionView) -> None:
    """Once all is well: no container of the failed create comes to light, and creating works again."""
    with fleet.api.desktop() as session:
        listed = {f"sandbox-{s.sandbox_id}" for s in fleet.api.sessions(status="running")}
        eventually(
            lambda: set(fleet.sandbox_containers()) <= listed,
            within=60,
            what=lambda: f"no container without a row: {fleet.sandbox_containers()} {listed}",
        )
        assert session.status == "running"
    assert fleet.api.get(failed.id).status == "error"


def test_create_without_opensandbox_fails_with_one_sentence(plain_fleet: Fleet) -> None:
    plain_fleet.stop("opensandbox")
    try:
        failed = create_that_fails(plain_fleet)
        assert failed.error_message
        assert "here" in failed.error_message
    finally:
        plain_fleet.start("opensandbox")
    plain_fleet.host.run("until (exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null; do sleep 0.5; done")
    assert_nothing_half_done(plain_fleet, failed)


def test_create_without_docker_fails_with_one_sentence(plain_fleet: Fleet) -> None:
    plain_fleet.stop("dockerd")
    try:
        failed = create_that_fails(plain_fleet)
    finally:
        plain_fleet.start("dockerd")
    plain_fleet.host.run("until docker info >/dev/null 2>&1; do sleep 0.5; done")
    assert_nothing_half_done(plain_fleet, failed)


def test_create_from_a_missing_image_fails_with_one_sentence(plain_fleet: Fleet) -> None:
    plain_fleet.docker("tag", "deskfleet/desktop:latest", "kept-aside:1")
    plain_fleet.docker("rmi", "deskfleet/desktop:latest")
    try:
        failed = create_that_fails(plain_fleet)
        assert failed.error_message
        assert "deskfleet/desktop" in failed.error_message
    finally:
        plain_fleet.docker("tag", "kept-aside:1", "deskfleet/desktop:latest")
        plain_fleet.docker("rmi", "kept-aside:1")
    assert_nothing_half_done(plain_fleet, failed)
