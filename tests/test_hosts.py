"""The machines of the tests' own: they work, are bare, and leave nothing of themselves on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.bare_host import BareHost, BareHosts, Variant, bare_hosts
from tests.hosts.listing import differences, list_host
from tests.hosts.network import inside
from tests.hosts.own_docker import OwnDocker, OwnDockerError, own_dockerd

pytestmark = [pytest.mark.host, pytest.mark.timeout(400)]


def traces(daemon: OwnDocker) -> list[str]:
    """What a dockerd of ours leaves on this machine while it runs."""
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found = [f"rule {line}" for line in rules.splitlines() if f"deskfleet-tests-{daemon.name} " in line]
    found += [f"link {line}" for line in links.splitlines() if f" {daemon.link}@" in line]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/{daemon.cgroup}")]
    found += [f"path {path}" for path in (daemon.netns_path, daemon.run_dir) if path.exists()]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_text().replace("\0", " ")
        except OSError:
            continue
        if str(daemon.run_dir) in command and "containerd" in command:
            found.append(f"process {command}")
    return found


def test_own_dockerd_leaves_no_trace() -> None:
    with own_dockerd("trace") as daemon:
        assert traces(daemon)
        assert daemon.docker("network", "create", "n").returncode == 0
    assert traces(daemon) == []


def test_leftovers_of_a_killed_run_are_cleared_at_the_next_start() -> None:
    with own_dockerd("trace", keep=True) as killed:
        os.kill(int((killed.run_dir / "dockerd.pid").read_text()), signal.SIGKILL)
    assert traces(killed)
    with own_dockerd("trace") as daemon:
        assert daemon.docker("ps").returncode == 0
    assert traces(daemon) == []


def test_a_name_has_one_user_at_a_time() -> None:
    with (
        own_dockerd("trace"),
        pytest.raises(OwnDockerError, match="another test run is using"),
        own_dockerd("trace"),
    ):
        pass


@pytest.fixture(scope="module")
def hosts() -> Iterator[BareHosts]:
    with bare_hosts() as running:
        yield running


@pytest.fixture(scope="module", params=list(Variant))
def host(request: pytest.FixtureRequest, hosts: BareHosts) -> Iterator[BareHost]:
    fresh, _ = hosts.start(request.param, f"bare-try-{request.param}")
    yield fresh
    fresh.destroy()


def test_bare_host_has_what_the_readme_asks_for_and_no_more(host: BareHost) -> None:
    found = host.run(
        "for c in make python3 docker dockerd supervisord curl pip3; do command -v $c; done; true"
    ).out
    assert [Path(line).name for line in found.split()] == ["make", "python3"]
    first = host.run("cat /proc/1/comm").out.strip()
    assert first == ("systemd" if host.variant is Variant.SYSTEMD else "bare-host-init")


def test_bare_host_reaches_the_package_servers(host: BareHost) -> None:
    host.run("apt-get update -qq", timeout=120)
    host.run(
        "python3 -m venv /tmp/venv && /tmp/venv/bin/pip download -q --no-deps -d /tmp/wheels idna",
        timeout=120,
    )


def test_clone_is_the_commit_and_nothing_else(host: BareHost) -> None:
    host.put_clone("/root/clone", uncommitted=False)
    listed = set(host.run("find . -type f -not -path './.git/*' | cut -c3-", cwd="/root/clone").out.split())
    tracked = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {f"tests/{name}" for name in tracked.stdout.split()} <= listed
    assert not any("__pycache__" in name for name in listed)


def test_listing_tells_what_came_and_went(host: BareHost) -> None:
    before = list_host(host)
    host.write("/etc/came", "new")
    host.run("useradd --system somebody")
    found = differences(before, list_host(host))
    assert any(line.startswith("+ files /etc/came") for line in found)
    assert any(line.startswith("+ users somebody") for line in found)
    host.run("rm /etc/came && userdel somebody")
    assert differences(before, list_host(host)) == []


def test_code_of_the_tests_runs_inside_the_hosts_network(host: BareHost) -> None:
    host.daemon.docker(
        "exec", "--detach", host.name, "python3", "-m", "http.server", "--bind", "127.0.0.1", "8099"
    )

    def fetch() -> int:
        done = subprocess.run(
            ["python3", "-c", "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8099').status)"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return int(done.stdout or 0)

    for _ in range(50):
        if inside(host.pid, fetch) == 200:
            break
    assert inside(host.pid, fetch) == 200
    assert fetch() == 0
