"""The client of a sandbox host: how it fails.

`FaultyHost` is a stand-in for an OpenSandbox server: it gives the answers, in the documented shapes, that a
real one gives only when something is broken. What a healthy one does is tested in tests/worker.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from viewer import sandbox_hosts
from viewer.nodes import LONGEST_ANSWER
from viewer.relay_client import RelayClient, RelayUnreachable
from viewer.sandbox_hosts import (
    KEY_HEADER,
    AnswerLost,
    HostRefused,
    HostUnreachable,
    SandboxHost,
    SandboxOrder,
    SandboxState,
    Stamp,
)

ORDER = SandboxOrder(
    image_uri="deskfleet/desktop:latest",
    entrypoint=["/bin/true"],
    cpu="2",
    memory="2Gi",
    timeout_seconds=900,
    resolution="1280x800",
    vnc_password=SecretStr("secret99"),
    stamp=Stamp(fleet="f-1", request_id="r-1", tenant_id="main", session_id="s-1"),
)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    body: object
    key: str | None
    request_id: str | None
    accepts: str | None = None
    """Encodings of the answer."""


@dataclass(frozen=True)
class Answer:
    """`delay` in seconds; `hang_up`: read the request, then close the connection without a word."""

    status: int = 200
    body: object = None
    text: str | None = None
    delay: float = 0.0
    hang_up: bool = False
    packed: bytes | None = None
    """Sent as gzip."""


@dataclass
class FaultyHost:
    """Answers the next requests with `answers`, in order, the last one again and again."""

    answers: list[Answer] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> FaultyHost:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        here = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _respond(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.loads(data) if data else None
                key, accepts = self.headers.get(KEY_HEADER), self.headers.get("Accept-Encoding")
                request_id = self.headers.get("X-Request-ID")
                here.asked.append(Asked(self.command, self.path, body, key, request_id, accepts))
                answer = here.next_answer()
                time.sleep(answer.delay)
                if answer.hang_up:
                    self.close_connection = True
                    return
                text = answer.text if answer.text is not None else json.dumps(answer.body)
                content = text.encode() if answer.packed is None else answer.packed
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(content)))
                if answer.packed is not None:
                    self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                with suppress(ConnectionError):
                    self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _respond

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def faulty() -> Iterator[FaultyHost]:
    with FaultyHost() as running:
        yield running


@pytest.fixture
def host(faulty: FaultyHost) -> Iterator[SandboxHost]:
    client = SandboxHost("here", url=faulty.url, key="the-key", fleet_id="f-1")
    yield client
    client.close()


def listed(number: int, *, state: str = "Running") -> dict[str, object]:
    return {
        "id": f"sb-{number}",
        "status": {"state": state, "reason": "R", "message": "m"},
        "metadata": ORDER.stamp.as_metadata(),
        "createdAt": f"2026-11-23T12:00:{number % 60:02d}Z",
        "entrypoint": ["/bin/true"],
        "somethingNew": {"of": "a later version"},
    }


def page(*sandboxes: dict[str, object], more: bool = False) -> Answer:
    pagination = {"page": 1, "pageSize": 200, "totalItems": 9, "totalPages": 2, "hasNextPage": more}
    return Answer(body={"items": list(sandboxes), "pagination": pagination})


def test_create_sends_what_the_contract_says_and_the_key_in_its_header(
    faulty: FaultyHost, host: SandboxHost
) -> None:
    faulty.answers = [Answer(202, listed(1))]
    assert host.create(ORDER).id == "sb-1"
    [asked] = faulty.asked
    assert (asked.method, asked.path, asked.key) == ("POST", "/v1/sandboxes", "the-key")
    assert asked.request_id == "r-1"
    assert asked.body == {
        "image": {"uri": "deskfleet/desktop:latest"},
        "entrypoint": ["/bin/true"],
        "resourceLimits": {"cpu": "2", "memory": "2Gi"},
        "timeout": 900,
        "env": {"RESOLUTION": "1280x800", "VNC_PASSWORD": "secret99"},
        "metadata": {
            "deskfleet.fleet": "f-1",
            "deskfleet.request": "r-1",
            "deskfleet.tenant": "main",
            "deskfleet.session": "s-1",
        },
    }


def test_list_follows_every_page_and_counts_nothing_twice(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [page(listed(3), listed(2), more=True), page(listed(2), listed(1))]
    assert sorted(one.id for one in host.ours()) == ["sb-1", "sb-2", "sb-3"]
    assert [asked.path for asked in faulty.asked] == [
        "/v1/sandboxes?page=1&pageSize=200&metadata=deskfleet.fleet%3Df-1",
        "/v1/sandboxes?page=2&pageSize=200&metadata=deskfleet.fleet%3Df-1",
    ]


def test_sandboxes_of_one_request_come_oldest_first(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [page(listed(3), listed(1))]
    assert [one.id for one in host.find_by_request("r-1")] == ["sb-1", "sb-3"]
    assert "deskfleet.request%3Dr-1" in faulty.asked[0].path


def test_state_that_a_later_version_invents_is_unknown(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [page(listed(1, state="Levitating"))]
    assert host.everything()[0].state is SandboxState.UNKNOWN


def test_host_that_nobody_listens_on_is_unreachable_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client = SandboxHost("here", url=f"http://127.0.0.1:{port}", key="k", fleet_id="f-1")
    started = time.monotonic()
    with pytest.raises(HostUnreachable, match="sandbox host here is unreachable: no connection to") as caught:
        client.create(ORDER)
    assert not isinstance(caught.value, AnswerLost), "nothing was sent, so nothing can have been created"
    assert time.monotonic() - started < 1
    client.close()


def test_create_that_is_cut_off_is_a_lost_answer_and_is_not_sent_again(
    faulty: FaultyHost, host: SandboxHost
) -> None:
    faulty.answers = [Answer(hang_up=True)]
    with pytest.raises(AnswerLost):
        host.create(ORDER)
    assert len(faulty.asked) == 1


def test_create_that_takes_too_long_is_a_lost_answer(
    faulty: FaultyHost, host: SandboxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_hosts, "CREATE_READ_SECONDS", 0.1)
    faulty.answers = [Answer(202, listed(1), delay=0.4)]
    with pytest.raises(AnswerLost, match="no answer from"):
        host.create(ORDER)


def test_question_that_is_cut_off_is_asked_once_more(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [Answer(hang_up=True), page(listed(1))]
    assert len(host.everything()) == 1


@pytest.mark.parametrize("text", ["Internal Server Error", "", "<html>bad gateway</html>"])
def test_server_error_without_a_reason_may_have_been_carried_out(
    faulty: FaultyHost, host: SandboxHost, text: str
) -> None:
    faulty.answers = [Answer(500, text=text)]
    with pytest.raises(AnswerLost, match="answers 500 without a reason; is its Docker up"):
        host.create(ORDER)


def test_docker_that_is_down_is_said_so(faulty: FaultyHost, host: SandboxHost) -> None:
    message = (
        "Failed to query sandbox containers: ('Connection aborted.', FileNotFoundError(2, 'No such file'))"
    )
    faulty.answers = [Answer(500, {"code": "DOCKER::SANDBOX_QUERY_FAILED", "message": message})]
    with pytest.raises(HostUnreachable, match="cannot reach Docker; is the daemon running"):
        host.everything()


def test_wrong_key_makes_the_host_unreachable_and_is_said_so(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [Answer(401, {"code": "INVALID_API_KEY", "message": "no"})]
    with pytest.raises(HostUnreachable, match=r"refuses our key \(INVALID_API_KEY\)"):
        host.everything()


def test_refusal_in_opensandboxs_own_shape_is_one_sentence(faulty: FaultyHost, host: SandboxHost) -> None:
    message = (
        "Failed to pull image a/b:1: 500 Server Error for http+docker://localhost/v1.41/images/create?tag=1: "
        'Internal Server Error ("no such host")'
    )
    faulty.answers = [Answer(500, {"code": "DOCKER::SANDBOX_IMAGE_PULL_FAILED", "message": message})]
    with pytest.raises(HostRefused) as caught:
        host.create(ORDER)
    assert str(caught.value) == (
        'sandbox host here lacks the image and cannot pull it: Failed to pull image a/b:1: ("no such host")'
    )


def test_refusal_in_fastapis_shape_names_the_field(faulty: FaultyHost, host: SandboxHost) -> None:
    detail = [
        {"type": "greater_than_equal", "loc": ["body", "timeout"], "msg": "should be >= 60", "input": 5}
    ]
    faulty.answers = [Answer(422, {"detail": detail})]
    with pytest.raises(
        HostRefused, match=r"does not accept the request: body\.timeout: should be >= 60"
    ) as caught:
        host.create(ORDER)
    assert caught.value.status == 422


def test_deleting_what_is_gone_is_a_success(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [Answer(404, {"code": "DOCKER::SANDBOX_NOT_FOUND", "message": "gone"})]
    host.delete("sb-1")
    assert host.get("sb-1") is None


def test_another_server_on_the_port_is_recognised(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [Answer(200, text="<html>hello</html>")]
    with pytest.raises(HostUnreachable, match="does not answer like OpenSandbox"):
        host.everything()


@pytest.mark.parametrize("endpoint", ["127.0.0.1:41000/proxy/5901", "somewhere", "10.0.0.1:http"])
def test_port_that_is_not_published_is_refused(faulty: FaultyHost, host: SandboxHost, endpoint: str) -> None:
    faulty.answers = [Answer(200, {"endpoint": endpoint})]
    with pytest.raises(HostRefused, match="does not publish port 5901 as plain TCP"):
        host.published_port("sb-1", 5901)


def test_log_that_cannot_be_had_is_empty(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [Answer(500, text="boom")]
    assert host.log_tail("sb-1") == []


def test_log_tail_is_the_last_lines_without_their_times(faulty: FaultyHost, host: SandboxHost) -> None:
    content = "2026-11-23T17:54:12.220879301Z one\n2026-11-23T17:54:12.3Z two\n\n"
    faulty.answers = [Answer(200, {"content": content})]
    assert host.log_tail("sb-1", lines=1) == ["two"]


def test_no_message_holds_the_key_or_the_password(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [Answer(500, text="boom")]
    with pytest.raises(AnswerLost) as caught:
        host.create(ORDER)
    assert "the-key" not in str(caught.value)
    assert "secret99" not in repr(ORDER)


# --- a host that somebody has broken into


def test_list_that_never_ends_is_given_up(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [page(listed(1), more=True)]
    with pytest.raises(HostUnreachable, match=r"unreachable: http://127.* lists more than 10000 sandboxes$"):
        host.everything()
    assert len(faulty.asked) == 50


def test_page_with_more_than_was_asked_for_is_none(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [page(*(listed(number) for number in range(201)))]
    with pytest.raises(HostUnreachable, match="does not answer like OpenSandbox"):
        host.everything()


def test_answer_without_end_is_not_read(faulty: FaultyHost, host: SandboxHost) -> None:
    """By the client of the relay on the same host neither."""
    faulty.answers = [Answer(text=" " * (64 << 20))]
    relay = RelayClient("here", url=faulty.url, key=Fernet.generate_key())
    with pytest.raises(AnswerLost, match=f"its answer is longer than {LONGEST_ANSWER} bytes"):
        host.everything()
    with pytest.raises(RelayUnreachable, match=f"its answer is longer than {LONGEST_ANSWER} bytes"):
        relay.streams()
    assert [one.method for one in faulty.asked] == ["GET", "GET"]
    relay.close()


def test_packed_answer_is_neither_asked_for_nor_unpacked(faulty: FaultyHost, host: SandboxHost) -> None:
    faulty.answers = [Answer(packed=gzip.compress(json.dumps(page(listed(1)).body).encode()))]
    relay = RelayClient("here", url=faulty.url, key=Fernet.generate_key())
    with pytest.raises(AnswerLost, match="its answer is packed"):
        host.everything()
    with pytest.raises(RelayUnreachable, match="its answer is packed"):
        relay.streams()
    assert [one.accepts for one in faulty.asked] == ["identity", "identity"]
    # And the way to the host is as good as before.
    faulty.answers = [page(listed(1))]
    assert len(host.everything()) == 1
    relay.close()


def test_of_a_sandboxs_metadata_only_what_may_be_ours_is_kept(faulty: FaultyHost, host: SandboxHost) -> None:
    more = {f"key{number}": "x" for number in range(1000)} | {"deskfleet.tenant": "x" * 64}
    faulty.answers = [page({**listed(1), "metadata": ORDER.stamp.as_metadata() | more})]
    (sandbox,) = host.everything()
    assert set(sandbox.metadata) == {"deskfleet.fleet", "deskfleet.request", "deskfleet.session"}
