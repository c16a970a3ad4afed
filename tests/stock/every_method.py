"""Every method of the stock client's that speaks to the lifecycle API, as one tenant and as another.

Run by the stock client's own Python, with nothing of ours: `every_method.py DOMAIN`, the tenants' keys in
KEY and OTHER_KEY. Ends in an AssertionError where something is not as it should be, else with a JSON object
on stdout: the ids of the sandboxes that it leaves running.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig, ConnectionConfigSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.manager import SandboxManager
from opensandbox.models.sandboxes import Host, SandboxFilter, SnapshotFilter, Volume
from opensandbox.sync.manager import SandboxManagerSync
from opensandbox.sync.sandbox import SandboxSync

DOMAIN = sys.argv[1]
NEVER = "11111111-2222-4333-8444-555555555555"
SMALL = {"cpu": "100m", "memory": "64Mi"}
SERVES = ["httpd", "-f", "-p", "8000", "-h", "/www"]
"""A web server in the tiny image; /ping is all that it has."""


def configured(key: str) -> ConnectionConfigSync:
    return ConnectionConfigSync(domain=DOMAIN, api_key=os.environ[key], use_server_proxy=True)


OURS, THEIRS = configured("KEY"), configured("OTHER_KEY")


def made(config: ConnectionConfigSync = OURS, **more: Any) -> SandboxSync:
    asked: dict[str, Any] = {"entrypoint": SERVES, "resource": SMALL, "metadata": {"team": "red"}, **more}
    return SandboxSync.create(asked.pop("image", "shell"), connection_config=config, **asked)


def refusal(call: Callable[[], object]) -> tuple[int, str, str]:
    """Status, code and message of how that is refused; of some statuses the client reads no code itself."""
    try:
        result = call()
    except SandboxApiException as error:
        body = json.loads(error.response_body)
        assert set(body) == {"code", "message"}
        return error.status_code, body["code"], body["message"]
    raise AssertionError(f"{result!r} was not refused")


def state_of(sandbox: Any) -> str:
    return str(sandbox.get_info().status.state)


def headless_from_birth_to_end(managed: SandboxManagerSync) -> None:
    sandbox = made(env={"TOKEN": "a-secret-of-the-test"}, timeout=timedelta(minutes=5))
    assert sandbox.is_healthy()
    info = sandbox.get_info()
    assert (info.id, info.status.state, info.image.image) == (sandbox.id, "Running", "shell")
    assert (info.metadata, info.entrypoint) == ({"team": "red"}, SERVES)
    assert "deskfleet.novnc_url" not in info.extensions, "nothing is to be watched"
    assert "a-secret-of-the-test" not in info.model_dump_json()

    endpoint = sandbox.get_endpoint(8000)
    headers = endpoint.build_request_headers(OURS)
    assert httpx.get(f"http://{endpoint.endpoint}/ping", headers=headers).text == "pong"
    assert httpx.get(f"http://{endpoint.endpoint}/nothing", headers=headers).status_code == 404
    assert httpx.get(f"http://{endpoint.endpoint}/ping").json()["code"] == "MISSING_API_KEY"
    assert refusal(lambda: sandbox.get_signed_endpoint(8000, 4_000_000_000))[0] == 400

    until = sandbox.renew(timedelta(minutes=20)).expires_at
    assert abs(until - datetime.now(UTC) - timedelta(minutes=20)) < timedelta(seconds=30)
    assert managed.get_sandbox_info(sandbox.id).expires_at == until
    assert sandbox.patch_metadata({"team": "blue", "n": "1"}).metadata == {"team": "blue", "n": "1"}
    assert managed.patch_sandbox_metadata(sandbox.id, {"n": None}).metadata == {"team": "blue"}
    assert "running" in sandbox.get_diagnostic_events("runtime").content
    assert refusal(lambda: sandbox.get_diagnostic_logs("container"))[:2] == (
        501,
        "SANDBOX::API_NOT_SUPPORTED",
    )

    sandbox.pause()
    assert state_of(sandbox) == "Paused"
    assert refusal(sandbox.pause)[:2] == (409, "DOCKER::SANDBOX_NOT_RUNNING")
    again = SandboxSync.resume(sandbox.id, connection_config=OURS)
    assert (again.is_healthy(), state_of(again)) == (True, "Running")
    connected = SandboxSync.connect(sandbox.id, connection_config=OURS)
    assert connected.is_healthy()
    sandbox.kill()
    assert refusal(sandbox.get_info)[:2] == (404, "DOCKER::SANDBOX_NOT_FOUND")
    assert refusal(sandbox.kill)[0] == 404


def desktop_is_watched_and_never_proxied() -> str:
    desktop = SandboxSync.create("tiny", resource=SMALL, connection_config=OURS)
    info = desktop.get_info()
    assert info.status.state == "Running"
    assert info.extensions["deskfleet.novnc_url"].endswith(f"/view/{desktop.id}")
    for port in (8080, 5901, 6080):
        assert refusal(partial(desktop.get_endpoint, port))[1] == "DESKFLEET::VNC_NOT_PROXIED"
    way = desktop.get_endpoint(9000).endpoint.removesuffix("9000")
    headers = {"OPEN-SANDBOX-API-KEY": OURS.get_api_key()}
    assert httpx.get(f"http://{way}8080/", headers=headers).json()["code"] == "DESKFLEET::VNC_NOT_PROXIED"
    return str(desktop.id)


def what_is_refused(managed: SandboxManagerSync) -> None:
    host = Volume(name="v", host=Host(path="/etc"), mount_path="/mnt")
    assert refusal(lambda: made(volumes=[host]))[:2] == (400, "VOLUME::HOST_PATH_NOT_ALLOWED")
    for reserved in ("opensandbox.io/id", "deskfleet.tenant"):
        assert refusal(partial(made, metadata={reserved: "x"}))[1] == "SANDBOX::INVALID_METADATA_LABEL"
    assert refusal(lambda: made(resource={"gpu": "1"}))[0] == 400
    assert refusal(lambda: made(timeout=timedelta(days=300)))[0] == 400
    assert refusal(lambda: made(extensions={"poolRef": "p"}))[1] == "SANDBOX::API_NOT_SUPPORTED"
    for call in (
        lambda: managed.list_snapshots(SnapshotFilter()),
        lambda: managed.get_snapshot("s"),
        lambda: managed.delete_snapshot("s"),
        lambda: managed.create_snapshot(NEVER),
        lambda: managed.get_template("t"),
    ):
        assert refusal(call)[:2] == (501, "SANDBOX::API_NOT_SUPPORTED")
    wrong = ConnectionConfigSync(domain=DOMAIN, api_key="df_wrong", use_server_proxy=True)
    assert refusal(lambda: made(wrong))[:2] == (401, "INVALID_API_KEY")


def lists(managed: SandboxManagerSync, ids: list[str]) -> None:
    def listed(**wanted: Any) -> Any:
        return managed.list_sandbox_infos(SandboxFilter(**wanted))

    found = listed(metadata={"batch": "one"}, states=["Running"])
    assert [info.id for info in found.sandbox_infos] == list(reversed(ids))
    first = listed(metadata={"batch": "one"}, page=1, page_size=1)
    assert (first.pagination.total_items, first.pagination.has_next_page) == (len(ids), True)
    assert listed(metadata={"batch": "two"}).sandbox_infos == []
    assert listed(states=["Paused"]).sandbox_infos == []


def other_tenant_meets_nothing(ids: list[str]) -> None:
    with SandboxManagerSync.create(THEIRS) as managed:
        assert managed.list_sandbox_infos(SandboxFilter()).sandbox_infos == []

        def every_answer(sandbox_id: str) -> list[tuple[int, str, str]]:
            hour = timedelta(hours=1)
            calls: tuple[Callable[[], object], ...] = (
                lambda: managed.get_sandbox_info(sandbox_id),
                lambda: managed.kill_sandbox(sandbox_id),
                lambda: managed.pause_sandbox(sandbox_id),
                lambda: managed.resume_sandbox(sandbox_id),
                lambda: managed.renew_sandbox(sandbox_id, hour),
                lambda: managed.patch_sandbox_metadata(sandbox_id, {"stolen": "yes"}),
                lambda: managed.get_diagnostic_events(sandbox_id, "runtime"),
                lambda: managed.get_diagnostic_logs(sandbox_id, "container"),
                lambda: managed.create_snapshot(sandbox_id),
                lambda: SandboxSync.connect(sandbox_id, connection_config=THEIRS),
                lambda: SandboxSync.connect(sandbox_id, connection_config=THEIRS, skip_health_check=True),
                lambda: SandboxSync.resume(sandbox_id, connection_config=THEIRS),
            )
            return [refusal(call) for call in calls]

        never = every_answer(NEVER)
        assert {answer[1] for answer in never} == {"DOCKER::SANDBOX_NOT_FOUND", "SANDBOX::API_NOT_SUPPORTED"}
        for one in ids:
            assert every_answer(one) == never
    headers = {"OPEN-SANDBOX-API-KEY": THEIRS.get_api_key()}
    ways = [f"http://{DOMAIN}/v1/sandboxes/{one}/proxy/8000/ping" for one in (NEVER, *ids)]
    answers = {(got.status_code, got.content) for got in (httpx.get(way, headers=headers) for way in ways)}
    assert len(answers) == 1, answers


async def asynchronous(ids: list[str]) -> None:
    config = ConnectionConfig(domain=DOMAIN, api_key=os.environ["KEY"], use_server_proxy=True)
    sandbox = await Sandbox.create("shell", entrypoint=SERVES, resource=SMALL, connection_config=config)
    assert await sandbox.is_healthy()
    assert (await sandbox.get_info()).status.state == "Running"
    assert (await sandbox.get_endpoint(8000)).endpoint.endswith(f"/v1/sandboxes/{sandbox.id}/proxy/8000")
    await sandbox.renew(timedelta(minutes=20))
    await sandbox.pause()
    again = await Sandbox.resume(sandbox.id, connection_config=config)
    assert await again.is_healthy()
    async with await SandboxManager.create(config) as managed:
        found = await managed.list_sandbox_infos(SandboxFilter(states=["Running"]))
        assert {info.id for info in found.sandbox_infos} >= {sandbox.id, *ids}
        await managed.kill_sandbox(sandbox.id)
    await again.close()


def main() -> None:
    began = time.monotonic()
    with SandboxManagerSync.create(OURS) as managed:
        headless_from_birth_to_end(managed)
        what_is_refused(managed)
        ids = [made(metadata={"batch": "one"}).id for _ in range(2)]
        lists(managed, ids)
    desktop = desktop_is_watched_and_never_proxied()
    asyncio.run(asynchronous(ids))
    other_tenant_meets_nothing([*ids, desktop])
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"headless": ids, "desktop": desktop, "seconds": seconds}))


if __name__ == "__main__":
    main()
