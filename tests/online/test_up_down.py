"""`make up` from nothing, again, `make down`: on a bare machine, and beside somebody else's Docker."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from pydantic import BaseModel

from tests.hosts.bare_host import CLONE
from tests.hosts.listing import differences, list_host
from tests.online.conftest import FOREIGN_FILE
from tests.online.fleet import CANONICAL, Fleet
from tests.online.streams import watching

pytestmark = pytest.mark.host

FIRST_UP_GOAL_SECONDS = 360
NEXT_UP_GOAL_SECONDS = 90
SERVICES = ("opensandbox", "relay", "hostwatch", "viewer", "worker", "caddy")

USE_ENV_FILE = """
set -eu
set -a; . .local/deskfleet.env; set +a
python3 - <<'END'
import json, os, urllib.request
def call(method, path, body=None):
    request = urllib.request.Request(os.environ["DESKFLEET_URL"] + path, method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Authorization": "Bearer " + os.environ["DESKFLEET_KEY"],
                 "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=150) as answer:
        return answer.status, json.loads(answer.read() or "null")
code, session = call("POST", "/api/v1/sessions", {"task_id": "from-the-shell"})
assert code == 201 and session["status"] == "running", (code, session)
assert call("DELETE", "/api/v1/sessions/" + session["id"])[0] == 204
print("it works")
END
"""

USE_PROGRAM = """
set -eu
set -a; . .local/deskfleet.env; set +a
deskfleet=/opt/deskfleet/viewer/bin/deskfleet
field() { python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }
id=$($deskfleet sessions create --label made=by-hand --json | field id)
$deskfleet sessions list --status running --label made=by-hand | grep "$id"
$deskfleet hosts list | grep here
$deskfleet sessions terminate "$id"
$deskfleet sessions show "$id" --json | field status
"""


class Operation(BaseModel):
    """One line of pyinfra's results: the hosts on which it changed something."""

    model_config = {"extra": "allow"}

    name: str
    success: list[str]


class Results(BaseModel):
    model_config = {"extra": "allow"}

    operations: list[Operation]


class Report(BaseModel):
    """What `pyinfra --json` prints."""

    model_config = {"extra": "allow"}

    results: Results


def test_make_up_on_a_bare_machine_prints_a_working_address(plain_fleet: Fleet) -> None:
    said = plain_fleet.first_up.out if plain_fleet.first_up else plain_fleet.make("up").out
    assert CANONICAL in said
    assert "/signin#token=" in said
    assert "ssh -L" in said
    assert plain_fleet.anonymous.call("GET", "/healthz").status_code == 200


def test_make_up_from_nothing_stays_near_its_goal(plain_fleet: Fleet) -> None:
    if not plain_fleet.was_bare or plain_fleet.first_up is None:
        pytest.skip("the host was kept from an earlier run")
    # The figure itself is printed; a busy machine is no failure, being twice as slow is.
    assert plain_fleet.first_up.seconds < 2 * FIRST_UP_GOAL_SECONDS


def test_every_service_runs_under_both_supervisors(fleet: Fleet) -> None:
    stopped = [service for service in SERVICES if not fleet.pids_of(service)]
    assert stopped == [], fleet.logs()


def test_env_file_is_private_and_works_at_once(fleet: Fleet) -> None:
    assert fleet.host.run("stat -c %a .local/deskfleet.env", cwd=CLONE).out.strip() == "600"
    wanted = {"DESKFLEET_URL", "DESKFLEET_ADMIN_KEY", "DESKFLEET_TENANT", "DESKFLEET_KEY"}
    assert wanted <= set(fleet.variables)
    assert "it works" in fleet.host.run(USE_ENV_FILE, cwd=CLONE, timeout=300).out


def test_program_deskfleet_works_on_the_control_host(fleet: Fleet) -> None:
    assert fleet.host.run(USE_PROGRAM, cwd=CLONE, timeout=300).out.split()[-1] == "terminated"


def test_stock_clients_of_opensandbox_are_answered_through_the_edge(fleet: Fleet) -> None:
    key = {"OPEN-SANDBOX-API-KEY": fleet.variables["DESKFLEET_KEY"]}
    answer = fleet.anonymous.call("GET", "/v1/sandboxes", headers=key)
    assert answer.status_code == 200
    assert "pagination" in answer.json()
    assert fleet.anonymous.call("GET", "/v1/sandboxes").json()["code"] == "MISSING_API_KEY"


def test_second_up_changes_nothing_and_drops_no_stream(
    fleet: Fleet, figure: Callable[[str, float], None]
) -> None:
    with fleet.api.desktop() as session, watching(fleet.api, session.id) as stream:
        before = stream.updates
        done = fleet.make("up")
        assert "(no changes)" in done.out, done.out
        figure(f"make up again on the {fleet.host.variant} host", done.seconds)
        stream.assert_alive()
        assert stream.updates > before
        assert stream.is_open
    assert done.seconds < NEXT_UP_GOAL_SECONDS, "the goal when all is installed is 90 s"


def test_pyinfra_itself_counts_zero_changes(fleet: Fleet) -> None:
    # What it logs would come in between two halves of a long report.
    command = ".venv/bin/pyinfra inventory deploy.py -y --json 2>/tmp/pyinfra.log"
    out = fleet.host.run(command, cwd=CLONE, timeout=300).out
    report = Report.model_validate(json.loads(out[out.index("{") : out.rindex("}") + 1]))
    assert [operation.name for operation in report.results.operations if operation.success] == []


def test_person_with_sudo_rolls_out_as_root_does(plain_fleet: Fleet) -> None:
    host, home = plain_fleet.host, "/home/op"
    host.run("useradd --create-home op && echo 'op ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/op")
    try:
        host.run(f"cp -r {CLONE} {home}/deskfleet && rm -rf {home}/deskfleet/.venv && chown -R op: {home}")
        done = host.run(
            ["make", "up"], cwd=f"{home}/deskfleet", user="op", env={"HOME": home}, timeout=300, show=True
        )
        assert "(no changes)" in done.out, done.out
        assert "signin#token=" in done.out
    finally:
        host.run("userdel --remove op; rm /etc/sudoers.d/op", check=False)


def test_somebody_elses_docker_is_left_alone_by_up(systemd_fleet: Fleet) -> None:
    missing = [line for line in differences(systemd_fleet.before, list_host(systemd_fleet.host))
               if line.startswith("- ") and not line.startswith(("- firewall", "- processes"))]  # fmt: skip
    assert [line for line in missing if "somebody" in line] == []
    assert_somebody_elses_things_work(systemd_fleet)


@pytest.mark.last
def test_make_down_leaves_nothing_behind_on_a_bare_machine(plain_fleet: Fleet) -> None:
    assert_down_leaves_the_machine_as_it_was(plain_fleet)


@pytest.mark.last
def test_make_down_leaves_somebody_elses_docker_as_it_was(systemd_fleet: Fleet) -> None:
    assert_down_leaves_the_machine_as_it_was(systemd_fleet)
    assert_somebody_elses_things_work(systemd_fleet)


@pytest.mark.last
def test_make_down_again_has_nothing_to_do(plain_fleet: Fleet) -> None:
    done = plain_fleet.make("down", check=False)
    assert done.code == 0, done.out
    assert differences(plain_fleet.before, list_host(plain_fleet.host)) == []


def assert_down_leaves_the_machine_as_it_was(fleet: Fleet) -> None:
    fleet.make("down")
    assert differences(fleet.before, list_host(fleet.host)) == []
    left = fleet.host.run("ls -A", cwd=CLONE).out.split()
    assert {".venv", ".local"} & set(left) == set()


def assert_somebody_elses_things_work(fleet: Fleet) -> None:
    started = "--format={{.State.Running}} {{.RestartCount}}"
    assert fleet.docker("inspect", started, "somebodys-container").out.split() == ["true", "0"]
    assert fleet.docker("run", "--rm", "somebody/image:1", "/usr/bin/sleep", "0").code == 0
    assert fleet.host.read(FOREIGN_FILE) == "mine\n"
