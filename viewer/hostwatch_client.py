"""Client of one hostwatch: what Docker says of our containers on its host, and how the host is doing."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from viewer.grants import GRANT_HEADER, Grant, seal_grant
from viewer.hostwatch.answers import (
    LONGEST_HEARTBEAT_SECONDS,
    STREAM_LINE,
    ContainerEvent,
    ContainerList,
    ContainerState,
    Heartbeat,
    HostReport,
    LogTail,
    StreamEnd,
)
from viewer.model import utcnow
from viewer.nodes import Node, client_of, why
from viewer.relay.answers import RelayProblem

AnswerT = TypeVar("AnswerT", bound=BaseModel)

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
SILENCE_SECONDS = 2.5 * LONGEST_HEARTBEAT_SECONDS
"""An event stream that says nothing for so long is dead, whatever the connection looks like."""
GRANT_LIFETIME = timedelta(seconds=30)


class HostwatchUnreachable(Exception):
    """Hostwatch, or the Docker behind it, gives no usable answer; the text is one sentence that names the
    host."""


class HostwatchClient:
    """One hostwatch. Safe to share between threads; connections are kept open between calls."""

    def __init__(self, host: str, *, url: str, key: bytes, node: Node | None = None) -> None:
        self._host = host
        self._url = url
        self._key = key
        self._http = client_of(
            url,
            node,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=4, keepalive_expiry=30),
        )

    def close(self) -> None:
        self._http.close()

    def host(self) -> HostReport:
        """Load, free space and images of the host. Raises HostwatchUnreachable."""
        return self._read(HostReport, self._get("/hostwatch/host"))

    def containers(self) -> ContainerList:
        """State of all our containers there. Raises HostwatchUnreachable."""
        return self._read(ContainerList, self._get("/hostwatch/containers"))

    def container(self, sandbox_id: str) -> ContainerState | None:
        """State of that sandbox's container; None if the host has none. Raises HostwatchUnreachable."""
        answer = self._get(f"/hostwatch/containers/{quote(sandbox_id, safe='')}", fine=(404,))
        return None if answer.status_code == 404 else self._read(ContainerState, answer)

    def log_tail(self, sandbox_id: str, lines: int = 5) -> list[str]:
        """The last lines that the sandbox's entrypoint wrote, oldest first; none if the host has no such
        sandbox. Raises HostwatchUnreachable."""
        path = f"/hostwatch/containers/{quote(sandbox_id, safe='')}/log?lines={lines}"
        answer = self._get(path, fine=(404,))
        return [] if answer.status_code == 404 else list(self._read(LogTail, answer).lines)

    def events(self) -> Generator[ContainerEvent | Heartbeat]:
        """What happens to our containers from now on, and a sign of life every few seconds, the first at
        once. Ends after about an hour: ask again. Raises HostwatchUnreachable."""
        with self._streamed("/hostwatch/events") as answer:
            for text in answer.iter_lines():
                line = self._line(text)
                if not isinstance(line, StreamEnd):
                    yield line
                elif line.why == "renew":
                    return
                else:
                    raise HostwatchUnreachable(f"hostwatch of host {self._host} has no events: {line.detail}")
        raise HostwatchUnreachable(f"hostwatch of host {self._host} has broken off its events")

    def _line(self, text: str) -> ContainerEvent | Heartbeat | StreamEnd:
        try:
            return STREAM_LINE.validate_json(text)
        except ValidationError as error:
            raise self._stranger() from error

    def _headers(self) -> dict[str, str]:
        grant = Grant(purpose="hostwatch", expires_at=utcnow() + GRANT_LIFETIME)
        return {GRANT_HEADER: seal_grant(grant, self._key)}

    def _get(self, path: str, *, fine: tuple[int, ...] = ()) -> httpx.Response:
        try:
            answer = self._http.get(path, headers=self._headers())
        except httpx.TransportError as error:
            raise self._silent(error) from error
        self._refuse_unless(answer, fine)
        return answer

    @contextmanager
    def _streamed(self, path: str) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        try:
            with self._http.stream("GET", path, headers=self._headers(), timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                self._refuse_unless(answer)
                yield answer
        except httpx.TransportError as error:
            raise self._silent(error) from error

    def _refuse_unless(self, answer: httpx.Response, fine: tuple[int, ...] = ()) -> None:
        if answer.status_code in (502, 504):
            # Hostwatch never says that: it is the Caddy of its host that does not reach it.
            raise HostwatchUnreachable(
                f"hostwatch of host {self._host} does not run (HTTP {answer.status_code})"
            )
        if not answer.is_success and answer.status_code not in fine:
            raise HostwatchUnreachable(f"hostwatch of host {self._host} refused: {_detail(answer)}")

    def _read(self, model: type[AnswerT], answer: httpx.Response) -> AnswerT:
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise self._stranger() from error

    def _silent(self, error: httpx.TransportError) -> HostwatchUnreachable:
        return HostwatchUnreachable(
            f"hostwatch of host {self._host} does not answer at {self._url}: {why(error)}"
        )

    def _stranger(self) -> HostwatchUnreachable:
        return HostwatchUnreachable(f"what answers at {self._url} is not the hostwatch of host {self._host}")


def _detail(answer: httpx.Response) -> str:
    try:
        return RelayProblem.model_validate_json(answer.content).detail
    except ValidationError:
        return f"HTTP {answer.status_code}"
