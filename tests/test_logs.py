"""Logs: one JSON object a line, no secret in any, whoever wrote it and however."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.canaries import assert_nowhere, new_canaries
from tests.viewer_fixtures import People, ViewerClient
from viewer import logs
from viewer.logs import HIDDEN, JsonLines, redact
from viewer.store import Store

# Logs all that it is given, in the ways in which secrets get into logs by mistake.
CARELESS = """
import json, logging, sys, threading
from viewer import logs
logs.set_up("deskfleet-test")
given = json.load(sys.stdin)
known = ("VNC password", "value of env", "key of an OpenSandbox server")
for kind in known[:1] + known[2:]:
    logs.hide(given[kind])
logs.hide_environment({"SECRET": given["value of env"], "LANG": "de_DE.UTF-8"})
log = logging.getLogger("deskfleet.careless")
looks = {k: v for k, v in given.items() if k != "cookie of a service"}
log.info("as it is: %s, as repr: %r, as JSON: %s", looks, looks, json.dumps(json.dumps(looks)))
for value in looks.values():
    log.info("%s", value, extra={"path": "/x/" + value})
    log.info("https://example.com/a?token=%s and b'%s'", value, value)
crumb = given["cookie of a service"]
log.info("Cookie: theirs=%s; more=%s", crumb, crumb)
log.info("%s", {"HTTP_COOKIE": crumb, "Authorization": "Bearer " + crumb, "X-Df-Anything": crumb})
log.info("%s", [("set-cookie", crumb), (b"Sec-WebSocket-Protocol", crumb.encode())])
log.info("open-sandbox-api-key: %s", crumb)
log.info('{"env": {"A": "%s"}, "vnc_password": "%s"}', crumb, crumb)
log.info("shown: Bearer %s, asked: /a?b=%s", crumb, crumb)
log.info("VNC_PASSWORD=%s at redis://user:%s@cache/0", crumb, crumb)
def fail():
    raise RuntimeError("Authorization: Basic " + crumb, *looks.values())
try:
    fail()
except RuntimeError as error:
    log.exception("failed")
    import warnings
    warnings.warn(f"password={crumb} {looks}")
    log.info("not a number: %d", crumb)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
log.info("the end")
fail()
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_of_any_kind_is_written_however_careless_the_caller(form: str, tmp_path: Path) -> None:
    canaries = new_canaries()
    done = subprocess.run(
        [sys.executable, "-c", CARELESS],
        env={"DESKFLEET_LOG": form, "PYTHONPATH": str(Path(logs.__file__).parent.parent)},
        input=json.dumps(canaries), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the end" in done.stderr
    assert done.stderr.count("RuntimeError") >= 3  # caught, in a thread, and at the end
    written = tmp_path / "log"
    written.write_text(done.stdout + done.stderr)
    assert_nowhere([written], canaries)
    if form == "json":
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert {"time", "level", "program", "logger", "message"} <= set(lines[0])
        assert any("was lost: TypeError" in line["message"] for line in lines)


def test_canaries_are_found_where_they_are(tmp_path: Path) -> None:
    canaries = new_canaries()
    for kind, value in canaries.items():
        (tmp_path / "log").write_text(json.dumps({"message": json.dumps([value])}))
        with pytest.raises(AssertionError, match=kind) as failure:
            assert_nowhere([tmp_path], canaries)
        assert value not in str(failure.value)


@pytest.mark.parametrize(
    "text",
    [
        "session 0b9cf3a4-1111-4222-8333-444455556666: created sandbox 5f0e1c on box1 in 0.71 s",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "host box1: unreachable: no connection to http://127.0.0.1:8080: [Errno 111] Connection refused",
        "stream 0a1b2c open session=s1 tenant=t1 principal=key:abcdefgh",
        "Send a key, or a cookie, or sign in again; the secret is empty",
        "its VNC password was sealed under another key; create a new desktop",
        "GET /api/v1/sessions 404",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_key_can_still_be_told_from_another() -> None:
    assert redact("key df_abcdefgh_" + "x" * 43) == f"key df_abcdefgh_{HIDDEN}"


@pytest.mark.parametrize(
    "told",
    [
        "password='crumb ",
        "{'token': \"crumb\nand crumb\"}",
        "Cookie: [crumb",
        "TOKEN=b'crumb'",
        "ticket: crumb,",
    ],
)
def test_value_after_its_name_is_hidden_also_when_cut_off_or_broken(told: str) -> None:
    assert "crumb" not in redact(told)
    assert HIDDEN in redact(told)


def test_sealed_value_that_was_cut_off_is_hidden_too() -> None:
    assert redact("grant gAAAAABnQ1x2…") == f"grant {HIDDEN}…"


def test_short_value_of_an_environment_does_not_tear_holes_into_words() -> None:
    logs.hide_environment({"DEBUG": "1", "MODE": "fast", "LANG": "running"})
    assert redact("1 session is running fast") == "1 session is running fast"


def test_tenant_cannot_blot_out_who_did_what() -> None:
    logs.hide_environment({"A": "0b9cf3a4-of-mallory", "B": "mallory-inc"})
    record = logging.LogRecord("a.b", logging.INFO, __file__, 1, "for %s", ("mallory-inc",), None)
    record.session_id, record.tenant = "0b9cf3a4-of-mallory", "mallory-inc"
    said = json.loads(JsonLines("deskfleet-test").format(record))
    assert (said["session_id"], said["tenant"]) == ("0b9cf3a4-of-mallory", "mallory-inc")
    assert said["message"] == f"for {HIDDEN}"


@pytest.mark.parametrize("part", ["a-", "password", "cookie", "x-df-", "://a:", "?a", "Aa", "'\\", "env={"])
def test_no_path_takes_long_to_search(part: str) -> None:
    began = time.monotonic()
    redact(part * (4096 // len(part)))
    assert time.monotonic() - began < 0.5  # 1 to 30 ms; what grows with the square takes seconds


def test_error_of_the_database_does_not_show_the_row(store: Store) -> None:
    engine = store._database.engine
    with engine.connect() as connection, pytest.raises(DBAPIError) as failure:
        connection.execute(text("SELECT * FROM nowhere WHERE a = :a"), {"a": "of the row"})
    assert "of the row" not in str(failure.value)


def test_line_from_outside_is_one_line_and_says_what_it_is_about() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, __file__, 1, "bad\n{%s}", ("x\u2028y",), None)
    record.status = 404
    with logs.about(session_id="s1"), logs.about(tenant="acme"):
        line = JsonLines("deskfleet-test").format(record)
    assert len(line.split("\n")) == 1
    said = json.loads(line)
    assert (said["session_id"], said["tenant"], said["status"]) == ("s1", "acme", 404)
    assert (said["level"], said["logger"], said["message"]) == ("WARNING", "a.b", "bad\n{x\u2028y}")
    assert said["time"].endswith("Z")


def test_wrong_form_is_one_sentence_and_exit_code_two() -> None:
    code = "from viewer import logs; logs.set_up('deskfleet-test')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"DESKFLEET_LOG": "yaml", "PYTHONPATH": str(Path(logs.__file__).parent.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "deskfleet-test: DESKFLEET_LOG: 'yaml' is not known; give json or text\n"


# --- the viewer's line per request ------------------------------------------------------------------


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="deskfleet.viewer")
    return caplog


EDGE_ID = "3f1f0a52-9d3b-4c55-8d0a-1e3f5a7b9c0d"


def test_request_keeps_the_id_of_the_edge_and_its_session_is_named_with_it(
    client: ViewerClient, people: People, lines: pytest.LogCaptureFixture, store: Store
) -> None:
    headers = {**people.alice.headers, "X-Request-Id": EDGE_ID}
    body = {"wait": False, "task_id": "not-for-logs"}
    answer = client.post("/api/v1/sessions?x=not-for-logs", json=body, headers=headers)
    assert answer.headers["X-Request-Id"] == EDGE_ID
    # The query string was not known; without it the session is made.
    assert answer.status_code == 202
    made, asked = (json.loads(JsonLines("v").format(record)) for record in lines.records)
    session = store.tenant("acme").get(answer.json["id"])
    assert made["message"].startswith(f"session {session.id} request {EDGE_ID}")
    assert session.request_id in made["message"]
    assert made["request_id"] == asked["request_id"] == EDGE_ID
    assert asked["message"] == "POST /api/v1/sessions 202"
    assert (asked["tenant"], asked["method"], asked["path"]) == ("acme", "POST", "/api/v1/sessions")
    assert asked["ms"] >= 0
    assert "not-for-logs" not in lines.text


@pytest.mark.parametrize("given", ["", "mine", EDGE_ID.upper(), EDGE_ID + "\u00e9"])
def test_any_other_id_is_replaced(given: str, client: ViewerClient) -> None:
    ids = {client.get("/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"] for _ in "12"}
    assert len(ids) == 2
    assert given not in ids


def test_what_only_reads_and_succeeds_has_no_line(
    client: ViewerClient, people: People, lines: pytest.LogCaptureFixture
) -> None:
    assert client.get("/api/v1/sessions", headers=people.alice.headers).status_code == 200
    assert not lines.records
    assert client.get("/api/v1/sessions").status_code == 401
    assert client.get("/api/v1/sessions/unknown", headers=people.alice.headers).status_code == 404
    assert [record.getMessage() for record in lines.records] == [
        "GET /api/v1/sessions 401",
        "GET /api/v1/sessions/unknown 404",
    ]


def test_values_of_env_given_at_create_are_hidden_also_when_refused(
    client: ViewerClient, people: People
) -> None:
    canary = new_canaries()["value of env"]
    client.post("/api/v1/sessions", json={"env": {"A": canary}, "wait": False}, headers=people.alice.headers)
    assert (
        redact(f"the sandbox said {canary!r}")
        == f"the sandbox said {repr(canary)[0]}{HIDDEN}{repr(canary)[0]}"
    )
