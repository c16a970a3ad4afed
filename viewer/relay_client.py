"""Client of one relay: wait for a first frame, list the open streams, close one or all of a session."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from viewer import metrics
from viewer.grants import GRANT_HEADER, DevToolsPort, Grant, Target, seal_grant
from viewer.input_actions import Gesture
from viewer.model import Lease, Session, utcnow
from viewer.nodes import ANSWER_LIMIT, LONGEST_ANSWER, Node, certificate_ends, client_of, why
from viewer.relay.answers import (
    MOST_PICTURE_BYTES,
    DevToolsTarget,
    DevToolsTargets,
    InputResult,
    Picture,
    PictureFormat,
    Pictures,
    ProbeResult,
    RelayProblem,
    RelayStatus,
    StreamInfo,
    StreamList,
    WantedPicture,
    WantedPictures,
    cut_reason,
)
from viewer.settings import Settings
from viewer.upgrades import Upgraded, try_stream

AnswerT = TypeVar("AnswerT", bound=BaseModel)

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
CLOCK_SECONDS = 1.0
PROBE_READ_SECONDS = 30.0
"""The relay gives up a probe after 20 s and then answers."""
INPUT_READ_SECONDS = 30.0
"""Beside its own pauses: for its turn, for the desktop's answer, and for it to take all."""
PICTURES_READ_SECONDS = 10.0
"""Packing a large screen as PNG takes a second by itself."""
LONGEST_PICTURES = 2 * MOST_PICTURE_BYTES
"""Base64 makes a third more of them."""
GRANT_LIFETIME = timedelta(seconds=30)


class RelayUnreachable(Exception):
    """The relay gives no usable answer; the text is one sentence that names the host."""


class RelayClient:
    """One relay. Safe to share between threads; connections are kept open between calls."""

    def __init__(self, host: str, *, url: str, key: bytes, node: Node | None = None) -> None:
        self._host = host
        self._url = url
        self._key = key
        self._http = client_of(
            url,
            node,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=30),
        )
        self.certificate_ends: datetime | None = None
        """Of the certificate that its host showed last; None on loopback and before the first answer."""
        self._http.event_hooks = {"response": [self._note_certificate]}

    def close(self) -> None:
        self._http.close()

    def _note_certificate(self, answer: httpx.Response) -> None:
        self.certificate_ends = certificate_ends(answer)

    def probe(
        self,
        session_id: str,
        target: Target,
        vnc_password: SecretStr | None,
        *,
        seconds: float | None = None,
        tenant_id: str = "",
    ) -> ProbeResult:
        """Block until the relay has seen a real frame, at most `seconds` (None: 20). tenant_id: whose session
        it is; then its capture looks, and stays for a while for who asks for a picture next. Without it the
        relay looks by a connection that ends with this. Raises RelayUnreachable."""
        grant = Grant(
            purpose="probe",
            session_id=session_id,
            tenant_id=tenant_id,
            target=target,
            vnc_password=vnc_password,
            expires_at=utcnow() + GRANT_LIFETIME,
        )
        timeout = httpx.Timeout(PROBE_READ_SECONDS, connect=CONNECT_SECONDS)
        asked = None if seconds is None else {"seconds": f"{seconds:.3f}"}
        answer = self._call("GET", f"/probe/{session_id}", grant, timeout=timeout, params=asked)
        return self._read(ProbeResult, answer)

    def status(self, *, seconds: float = READ_SECONDS) -> RelayStatus:
        """Which version it is, and whether it lets people in. Raises RelayUnreachable."""
        grant = Grant(purpose="probe", expires_at=utcnow() + GRANT_LIFETIME)
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        return self._read(RelayStatus, self._call("GET", "/status", grant, timeout=timeout))

    def clock(self) -> datetime | None:
        """What its host's clock says, to the second; None where its answer does not tell. Needs no grant: one
        is good for half a minute by that very clock. Raises RelayUnreachable."""
        try:
            said = self._http.get("/healthz", timeout=CLOCK_SECONDS).headers.get("Date", "")
        except httpx.TransportError as error:
            raise self._silent(error) from error
        try:
            return parsedate_to_datetime(said)
        except ValueError:
            return None

    def try_stream(self, grant: Grant, *, seconds: float) -> Upgraded:
        """Open that stream and leave as soon as the desktop greets. Raises RelayUnreachable."""
        headers = {GRANT_HEADER: seal_grant(grant, self._key)}
        try:
            return try_stream(self._http, f"/stream/{grant.session_id}", headers, seconds=seconds)
        except httpx.TransportError as error:
            raise self._silent(error) from error

    def send_input(self, grant: Grant, gesture: Gesture) -> InputResult:
        """Block until the gesture is done or cut. Raises RelayUnreachable; then it may be done all the same,
        unless the relay could not be connected to."""
        timeout = httpx.Timeout(INPUT_READ_SECONDS + gesture.pauses_ms / 1000, connect=CONNECT_SECONDS)
        body = gesture.model_dump_json(by_alias=True).encode()
        path = f"/input/{grant.session_id}"
        return self._read(InputResult, self._call("POST", path, grant, timeout=timeout, body=body))

    def pictures(
        self, wanted: Sequence[WantedPicture], *, width: int | None, format: PictureFormat
    ) -> tuple[Picture, ...]:
        """What these desktops show, in the same order; at once but for those that nobody asked for lately,
        which may take two seconds. width: scaled down to so many pixels; with None, or as PNG, it is what the
        screen shows at this moment, else a picture of the last second. Raises RelayUnreachable."""
        timeout = httpx.Timeout(PICTURES_READ_SECONDS, connect=CONNECT_SECONDS)
        asked = WantedPictures(items=tuple(wanted), width=width, format=format)
        answer = self._call(
            "POST",
            "/pictures",
            None,
            body=asked.model_dump_json().encode(),
            longest=LONGEST_PICTURES,
            timeout=timeout,
        )
        return self._read(Pictures, answer).items

    def streams(self) -> list[StreamInfo]:
        """Return the streams that are open now. Raises RelayUnreachable."""
        return self.stream_list().streams

    def stream_list(self) -> StreamList:
        """Return the same, and when the ports of which session were used last. Raises RelayUnreachable."""
        return self._read(StreamList, self._call("GET", "/streams", self._manage()))

    def close_stream(self, stream: StreamInfo, code: int, reason: str) -> None:
        """Close this one stream with that code (`CloseCode`) and a sentence for whoever has it; nothing
        happens if it is gone. Raises RelayUnreachable."""
        path = f"/streams/{stream.session_id}/{stream.stream_id}"
        self._call("DELETE", path, self._manage(), params={"code": str(code), "reason": cut_reason(reason)})

    def set_lease(self, lease: Lease, *, given_back: bool = False) -> None:
        """Say who has keyboard and mouse of the session now; the relay ignores what is older than it knows.
        Whoever lost them is closed with 4423, unless he gave them back himself. Raises RelayUnreachable."""
        grant = Grant(
            purpose="lease",
            session_id=lease.session_id,
            lease=lease,
            given_back=given_back,
            expires_at=utcnow() + GRANT_LIFETIME,
        )
        self._call("PUT", f"/leases/{lease.session_id}", grant)

    def devtools_targets(self, session: Session, target: DevToolsPort) -> list[DevToolsTarget]:
        """What DevTools of the browser in that sandbox can be attached to. Raises RelayUnreachable, also
        where that browser does not answer."""
        grant = Grant(
            purpose="devtools",
            session_id=session.id,
            tenant_id=session.tenant_id,
            target=target,
            expires_at=utcnow() + GRANT_LIFETIME,
        )
        return self._read(DevToolsTargets, self._call("GET", f"/devtools/{session.id}", grant)).targets

    def _manage(self) -> Grant:
        return Grant(purpose="manage", expires_at=utcnow() + GRANT_LIFETIME)

    def _call(
        self,
        method: str,
        path: str,
        grant: Grant | None,
        *,
        timeout: httpx.Timeout | None = None,
        params: dict[str, str] | None = None,
        body: bytes | None = None,
        longest: int = LONGEST_ANSWER,
    ) -> httpx.Response:
        headers = {GRANT_HEADER: seal_grant(grant, self._key)} if grant is not None else {}
        try:
            with metrics.host_call(self._host, method, path):
                answer = self._http.request(
                    method,
                    path,
                    headers=headers,
                    params=params,
                    timeout=timeout or self._http.timeout,
                    content=body,
                    extensions={ANSWER_LIMIT: longest},
                )
        except httpx.TransportError as error:
            raise self._silent(error) from error
        if answer.status_code in (502, 504):
            # A relay never says that: it is the Caddy of its host that does not reach it.
            raise RelayUnreachable(f"the relay of host {self._host} does not run (HTTP {answer.status_code})")
        if not answer.is_success:
            raise RelayUnreachable(f"the relay of host {self._host} refused: {_detail(answer)}")
        return answer

    def _silent(self, error: httpx.TransportError) -> RelayUnreachable:
        return RelayUnreachable(
            f"the relay of host {self._host} does not answer at {self._url}: {why(error)}"
        )

    def _read(self, model: type[AnswerT], answer: httpx.Response) -> AnswerT:
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise RelayUnreachable(
                f"what answers at {self._url} is not the relay of host {self._host}"
            ) from error


def _detail(answer: httpx.Response) -> str:
    try:
        return RelayProblem.model_validate_json(answer.content).detail
    except ValidationError:
        return f"HTTP {answer.status_code}"


def relays_of(settings: Settings) -> dict[str, RelayClient]:
    """A client for each host's relay, by host."""
    return {
        host.name: RelayClient(host.name, url=host.relay_url, key=host.relay_key(), node=settings.node(host))
        for host in settings.hosts
        if host.relay_url is not None
    }
