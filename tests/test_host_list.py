"""GET /api/v1/hosts: what each principal is told of the hosts, and creating on a host of one's choice."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import update

import viewer.worker
from inventory.authority import ends
from tests.relay_process import free_port
from tests.sites import fleet_secrets
from tests.viewer_fixtures import People, Person, ViewerClient, new_session, running_session, settings_values
from viewer.fleet_store import DeclaredDesktop
from viewer.model import HostStatus, Status, utcnow
from viewer.nodes import Credentials
from viewer.relay_client import RelayClient
from viewer.settings import Settings
from viewer.store import Store
from viewer.tables import HostRow
from viewer.worker import RelayWatch

DESKTOPS = [
    {"name": "studio", "tenant": "acme", "backend": "kasmvnc-or-tigervnc"},
    {"name": "lab", "tenant": "acme", "backend": "kasmvnc"},
    {"name": "vault", "tenant": "bolt", "backend": "kasmvnc"},
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A sandbox host on this machine, and a desktop host elsewhere."""
    values = settings_values(tmp_path)
    (here,) = values["hosts"]
    atelier = {
        "name": "atelier",
        "groups": ["desktops"],
        "address": "10.0.0.5",
        "relay_url": "https://10.0.0.5:8443",
        "relay_key_file": here["relay_key_file"],
        "server_name": "atelier.deskfleet.internal",
    }
    files = {
        f"tls_{name}_file": str(tmp_path / "never-read.pem") for name in ("certificate", "key", "authority")
    }
    desktops = [{**one, "host": "atelier", "resolution": "1280x800"} for one in DESKTOPS]
    return Settings.model_validate(
        {
            **values,
            **files,
            "tenants": [{"name": "acme"}, {"name": "bolt"}],
            "hosts": [{**here, "groups": ["sandboxes"], "max_desktops": 2}, atelier],
            "desktops": desktops,
        }
    )


def hosts_for(client: ViewerClient, person: Person) -> dict[str, Any]:
    answer = client.get("/api/v1/hosts", headers=person.headers)
    assert answer.status_code == 200
    return {host["name"]: host for host in answer.json["items"]}


def declared(store: Store, name: str, tenant: str) -> str:
    wanted = next(one["backend"] for one in DESKTOPS if one["name"] == name)
    return store.fleet.upsert_desktop(
        DeclaredDesktop.model_validate(
            {"name": name, "tenant": tenant, "host": "atelier", "backend": wanted, "resolution": "1280x800"}
        )
    ).id


def test_host_that_nobody_has_looked_at_is_unknown(client: ViewerClient, people: People) -> None:
    hosts = hosts_for(client, people.wanda)
    assert list(hosts) == ["here", "atelier"]
    assert {host["status"] for host in hosts.values()} == {"unknown"}
    assert hosts["here"]["groups"] == ["sandboxes"]
    assert hosts["here"]["last_seen_at"] is None


def test_used_desktops_are_the_live_sandboxes_of_all_tenants(
    client: ViewerClient, store: Store, people: People
) -> None:
    running_session(store, people.alice, sandbox_id="a")
    ended = running_session(store, people.alice, sandbox_id="b")
    store.fleet.transition(ended.id, Status.TERMINATED)
    declared(store, "studio", "acme")
    new_session(store, people.bob)  # not placed yet
    assert hosts_for(client, people.bob)["here"]["used_desktops"] == 1
    running_session(store, people.bob, sandbox_id="c")
    hosts = hosts_for(client, people.wanda)
    assert (hosts["here"]["used_desktops"], hosts["here"]["max_desktops"]) == (2, 2)
    assert hosts["here"]["warnings"] == ["it is full: new desktops go to other hosts"]
    assert (hosts["atelier"]["used_desktops"], hosts["atelier"]["max_desktops"]) == (0, 0)


def test_persistent_desktops_are_those_of_ones_own_tenant_with_what_they_run(
    client: ViewerClient, store: Store, people: People
) -> None:
    studio = declared(store, "studio", "acme")
    store.fleet.transition(studio, Status.RUNNING, backend="tigervnc")
    declared(store, "vault", "bolt")
    shown = hosts_for(client, people.wanda)["atelier"]
    assert [
        (one["name"], one["status"], one["wanted_backend"], one["backend"]) for one in shown["desktops"]
    ] == [
        ("studio", "running", "kasmvnc-or-tigervnc", "tigervnc"),
        ("lab", None, "kasmvnc", None),
    ]
    assert shown["desktops"][0]["session_id"] == studio
    assert shown["warnings"] == ["desktop studio runs TigerVNC, because KasmVNC could not be had"]
    assert [one["name"] for one in hosts_for(client, people.bob)["atelier"]["desktops"]] == ["vault"]


def test_other_backend_than_the_wanted_one_is_never_silent(
    client: ViewerClient, store: Store, people: People
) -> None:
    store.fleet.transition(declared(store, "lab", "acme"), Status.RUNNING, backend="tigervnc")
    assert hosts_for(client, people.wanda)["atelier"]["warnings"] == [
        "desktop lab runs tigervnc, not kasmvnc; run the deploy"
    ]


def test_addresses_are_for_admins_only(client: ViewerClient, store: Store, people: People) -> None:
    why = "the relay of host atelier does not answer at https://10.0.0.5:8443: connection refused"
    store.fleet.record_host_status("atelier", HostStatus.UNREACHABLE, why)
    admin, watcher = (hosts_for(client, one)["atelier"] for one in (people.ada, people.wanda))
    assert (admin["address"], admin["detail"]) == ("10.0.0.5", why)
    assert watcher["address"] is None
    assert watcher["detail"] == "the relay of host atelier does not answer: connection refused"
    raw = client.get("/api/v1/hosts", headers=people.alice.headers).get_data(as_text=True)
    assert "10.0.0.5" not in raw


def test_host_that_answers_but_lacks_something_says_so(
    client: ViewerClient, store: Store, people: People
) -> None:
    store.fleet.record_host_status("here", HostStatus.OK, "the relay of host here does not answer")
    shown = hosts_for(client, people.wanda)["here"]
    assert (shown["status"], shown["detail"]) == ("ok", "the relay of host here does not answer")
    assert shown["last_seen_at"] is not None


def test_status_that_nobody_renews_is_not_trusted(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    store.fleet.record_host_status("here", HostStatus.OK)
    assert hosts_for(client, people.wanda)["here"]["warnings"] == []
    with store._database.writing() as orm:
        orm.execute(update(HostRow).values(last_seen_at=utcnow() - timedelta(minutes=5)))
    assert hosts_for(client, people.wanda)["here"]["warnings"] == [
        "nobody has looked at this host for 5 min; does deskfleet-worker run?"
    ]


def test_certificate_that_ends_soon_is_a_warning(client: ViewerClient, store: Store, people: People) -> None:
    for days, wanted in ((31, 0), (29, 1)):
        end = utcnow() + timedelta(days=days)
        store.fleet.record_host_status("atelier", HostStatus.OK, certificate_ends=end)
        said = hosts_for(client, people.wanda)["atelier"]["warnings"]
        assert (
            said
            == [f"a certificate between it and the control host ends on {end:%Y-%m-%d}; run the deploy"][
                :wanted
            ]
        )


def test_worker_keeps_the_end_that_comes_first_and_logs_it_once(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.worker, "STILL_OK_SECONDS", 0.0)
    soon = utcnow() + timedelta(days=20)
    with closing(
        RelayClient("here", url=f"http://127.0.0.1:{free_port()}", key=Fernet.generate_key())
    ) as relay:
        watch = RelayWatch("here", relay, store, own_certificate_ends=soon + timedelta(days=40))
        watch.look()
        (seen,) = store.fleet.hosts()
        assert seen.certificate_ends == soon + timedelta(days=40)
        relay.certificate_ends = soon
        for _ in range(2):
            watch.look()
    (seen,) = store.fleet.hosts()
    assert seen.certificate_ends == soon
    said = [line for line in caplog.messages if "certificate" in line]
    assert said == [
        f"host here: a certificate between it and this host ends on {soon:%Y-%m-%d}; run the deploy"
    ]


def test_own_certificate_is_read_out_of_the_file_that_holds_its_key_too(tmp_path: Path) -> None:
    certificates = fleet_secrets().certificates
    assert certificates is not None
    own = certificates.hosts["control1"]
    file = tmp_path / "host.pem"
    file.write_text(f"{own.certificate}{own.key.get_secret_value()}")
    credentials = Credentials(certificate_file=file, key_file=file, authority_file=file)
    assert credentials.certificate_ends() == ends(own)


def test_host_that_left_the_settings_is_not_shown(client: ViewerClient, store: Store, people: People) -> None:
    store.fleet.record_host_status("gone", HostStatus.OK)
    assert "gone" not in hosts_for(client, people.ada)
    store.fleet.forget_hosts(known=["here", "atelier"])
    assert [host.name for host in store.fleet.hosts()] == []


def test_session_may_ask_for_its_host(client: ViewerClient, store: Store, people: People) -> None:
    body = {"wait": False, "host": "here"}
    answer = client.post("/api/v1/sessions", json=body, headers=people.alice.headers)
    assert answer.status_code == 202
    assert store.fleet.get(answer.json["id"]).wanted_host == "here"


@pytest.mark.parametrize("host", ["her", "atelier", "nowhere", "../x"])
def test_only_a_sandbox_host_may_be_asked_for(client: ViewerClient, people: People, host: str) -> None:
    answer = client.post("/api/v1/sessions", json={"wait": False, "host": host}, headers=people.alice.headers)
    assert answer.status_code == 422
    (error,) = answer.json["errors"]
    assert error["field"] == "host"
    assert error["mend"].endswith("known: here")


def test_each_tenant_counts_its_own_sessions_and_the_fleets_admin_when_the_last_ends(
    client: ViewerClient, store: Store, people: People
) -> None:
    running_session(store, people.alice, sandbox_id="a")
    last = running_session(store, people.bob, sandbox_id="b")
    ended = running_session(store, people.alice, sandbox_id="c")
    store.fleet.transition(ended.id, Status.TERMINATED)
    alone = hosts_for(client, people.bob)["here"]
    assert (alone["own_sessions"], alone["used_desktops"]) == (1, 2)
    assert (alone["drained_at"], alone["certificate_ends"]) == (None, None)
    seen = hosts_for(client, people.ada)["here"]
    assert seen["own_sessions"] == 1
    assert datetime.fromisoformat(seen["drained_at"]) == last.expires_at
    assert hosts_for(client, people.ada)["atelier"]["drained_at"] is None


def test_it_is_said_since_when_a_host_is_silent(client: ViewerClient, store: Store, people: People) -> None:
    assert hosts_for(client, people.wanda)["here"]["since"] is None
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE, "timed out")
    since = hosts_for(client, people.wanda)["here"]["since"]
    assert abs(datetime.fromisoformat(since) - utcnow()) < timedelta(seconds=30)
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE, "timed out still")
    assert hosts_for(client, people.wanda)["here"]["since"] == since
