"""The password of a desktop's screen: known to the control plane, and to its host's relay while it is used.

Whoever reads a grant on its way, other hosts, what the API answers and all that is written down have none.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tests.adversary.ground import VNC_PASSWORD, Ground
from tests.adversary.raw_http import Answer, ask, request, upgrade_headers
from tests.canaries import assert_nowhere
from tests.pages.content_site import DOMAIN
from tests.relay_process import RelayProcess, running_xvnc
from tests.test_relay_content import relay_at
from viewer.grants import GRANT_HEADER, GrantRefused, open_grant
from viewer.model import utcnow
from viewer.relay.answers import StreamList

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

CANARY = {"VNC password": VNC_PASSWORD}


def at_relay(relay: RelayProcess, grant: dict[str, str], path: str = "/stream/s1") -> Answer:
    """Straight at the relay, as somebody on its host may ask it."""
    headers = [("Host", relay.address), *upgrade_headers(), *grant.items()]
    return ask(int(relay.address.rpartition(":")[2]), request("GET", path, headers))


def from_edge(ground: Ground, path: str) -> str:
    headers = {
        "Host": f"{DOMAIN}:{ground.site.port}",
        "Authorization": f"Bearer {ground.callers.keys['admin']}",
    }
    answer = httpx.get(
        f"http://127.0.0.1:{ground.site.port}{path}", headers=headers, timeout=15, trust_env=False
    )
    assert answer.status_code == 200, path
    return f"{answer.headers}{answer.text}"


def test_grant_for_one_host_is_nothing_to_another_one(ground: Ground, tmp_path: Path) -> None:
    with relay_at(tmp_path) as other:
        for purpose, path in (("stream", "/stream/s1"), ("probe", "/probe/s1"), ("manage", "/streams")):
            grant = ground.relay.grant(purpose, target=1, password=VNC_PASSWORD)
            assert at_relay(other, grant, path).status == 403
            with pytest.raises(GrantRefused):
                open_grant(grant[GRANT_HEADER], other.key, purpose=purpose, now=utcnow())
            assert at_relay(ground.relay, grant, path).status != 403


def test_grant_that_was_changed_or_is_for_something_else_is_refused(ground: Ground) -> None:
    grant = ground.relay.grant("stream", target=1, password=VNC_PASSWORD)
    text = grant[GRANT_HEADER]
    for changed in (text[:-4] + "AAA=", text[:20] + ("A" if text[20] != "A" else "B") + text[21:], "", "x"):
        assert at_relay(ground.relay, {GRANT_HEADER: changed}).status == 403
    assert at_relay(ground.relay, grant, "/stream/s2").status == 403
    assert at_relay(ground.relay, grant, "/streams").status == 403
    over = ground.relay.grant("stream", target=1, seconds=-1)
    assert at_relay(ground.relay, over).status == 403
    assert at_relay(ground.relay, {}).status == 403


def test_password_is_in_no_answer_no_log_no_file_and_no_command_line(ground: Ground, tmp_path: Path) -> None:
    session = ground.screens.own
    headers = [
        ("Host", f"{DOMAIN}:{ground.site.port}"),
        ("Authorization", f"Bearer {ground.callers.keys['admin']}"),
        *upgrade_headers(),
    ]
    opened = ask(ground.site.port, request("GET", f"/stream/{session}", headers))
    # The browser is asked for none, although the desktop behind it asks for one.
    assert (opened.status, opened.greeting) == (101, b"RFB 003.008\n")
    heard = tmp_path / "answers"
    heard.mkdir()
    for at, path in enumerate(
        (
            f"/api/v1/sessions/{session}", "/api/v1/sessions", f"/api/v1/sessions/{session}/history",
            "/api/v1/audit", "/api/v1/hosts", "/healthz", f"/sandboxes/{session}",
        )
    ):  # fmt: skip
        (heard / str(at)).write_text(from_edge(ground, path))
    (heard / "opened").write_text(repr(opened))
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            (heard / f"cmdline-{process.parent.name}").write_bytes(process.read_bytes())
        except OSError:
            continue
    relay_files = ground.relay.log.parent
    assert_nowhere([heard, ground.site.folder, relay_files], CANARY)
    environment = Path(f"/proc/{ground.relay.process.pid}/environ").read_bytes()
    assert VNC_PASSWORD.encode() not in environment
    # What is searched is where it would be.
    assert any(session.encode() in path.read_bytes() for path in ground.site.folder.glob("deskfleet.db*"))
    assert session in ground.relay.log.read_text()


def test_relay_that_was_killed_has_left_no_password_and_begins_without_one(tmp_path: Path) -> None:
    with running_xvnc(tmp_path, password=VNC_PASSWORD) as screen:
        folder = tmp_path / "relay"
        folder.mkdir()
        with relay_at(folder) as relay:
            grant = relay.grant("stream", target=screen.port, password=VNC_PASSWORD)
            assert at_relay(relay, grant).greeting == b"RFB 003.008\n"
            relay.process.kill()
            relay.process.wait()
        assert_nowhere([folder], CANARY)
        with relay_at(folder) as again:
            answer = httpx.get(f"{again.url}/streams", headers=again.grant("manage"), trust_env=False)
            assert StreamList.model_validate_json(answer.content).streams == []
            assert at_relay(again, {}).status == 403
            # Not even for the desktop that it had: the password comes with each grant.
            without = again.grant("stream", target=screen.port)
            assert at_relay(again, without).greeting == b"closed 4502"
            assert os.path.getsize(again.log)
