"""The one way to a host's programs: plain HTTP on this machine's loopback, else TLS with both sides proved.

Another host is reached at its private address, where its Caddy lets in only who shows a certificate of the
fleet's own authority. The name in that host's certificate exists in no DNS: TLS asks for it (SNI), and the
Host header must say the same, or Caddy answers 421.

What answers may be a host that someone has broken into, so no answer is read beyond LONGEST_ANSWER (or what
this one request allows), and none that is packed: a few kilobytes of gzip unpack to gigabytes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import certifi
import httpx
from cryptography import x509

from viewer.model import Frozen

LONGEST_ANSWER = 2 << 20
"""Bytes. A page of 200 sandboxes has some 200 KB; a sandbox's log may have more, and then has none for us."""

ANSWER_LIMIT = "deskfleet_answer_limit"
"""Extension of a request whose answer may have so many bytes instead."""

CERTIFICATE_WARNING = timedelta(days=30)
"""What has less than this left is made anew by the next deploy; so somebody should run it."""


DEAD_AFTER_SECONDS = 20
"""A peer whose kernel says nothing for so long is gone, however long its program may take to answer."""

_KEEP_ALIVE = (
    # A host that lost its power says no good-bye: without these, who waits for its answer waits to the end.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_SECONDS * 1000),
)


class AnswerRefused(httpx.TransportError):
    """The answer is not read to its end; the text is one sentence."""


class NodeFilesUnusable(Exception):
    """Our certificate, its key or the authority cannot be used; the text is one sentence without a secret."""


class Credentials(Frozen):
    """Our side of the proof, and whom we believe: PEM files. No authority of the machine's counts."""

    certificate_file: Path
    key_file: Path
    authority_file: Path

    def context(self) -> ssl.SSLContext:
        """Raises NodeFilesUnusable."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cafile=self.authority_file)
        except (OSError, ssl.SSLError) as error:
            raise NodeFilesUnusable(f"{self.authority_file}: is no certificate: {_words(error)}") from error
        try:
            context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise NodeFilesUnusable(
                f"{self.certificate_file} and {self.key_file}:"
                f" are no certificate with its key: {_words(error)}"
            ) from error
        return context

    def certificate_ends(self) -> datetime:
        """When our certificate is valid no longer, in UTC. Raises NodeFilesUnusable."""
        try:
            return x509.load_pem_x509_certificate(self.certificate_file.read_bytes()).not_valid_after_utc
        except (OSError, ValueError) as error:
            raise NodeFilesUnusable(f"{self.certificate_file}: is no certificate") from error


class Node(Frozen):
    """Another host: the name in its certificate, and how we prove who we are."""

    server_name: str
    credentials: Credentials


class _NodeTransport(httpx.HTTPTransport):
    """Asks for, and checks, the node's own name, whatever address the URL holds."""

    def __init__(self, node: Node, limits: httpx.Limits) -> None:
        super().__init__(
            verify=node.credentials.context(), limits=limits, trust_env=False, socket_options=_KEEP_ALIVE
        )
        self._server_name = node.server_name

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": self._server_name}
        request.headers["Host"] = self._server_name
        return super().handle_request(request)


class _BoundedTransport(httpx.BaseTransport):
    """Hands on what `inner` gets, up to LONGEST_ANSWER or the request's ANSWER_LIMIT."""

    def __init__(self, inner: httpx.HTTPTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._inner.handle_request(request)
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            answer.close()
            raise AnswerRefused("its answer is packed, which was not asked for")
        if not isinstance(answer.stream, httpx.SyncByteStream):
            answer.close()
            raise AnswerRefused("its answer cannot be read")
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            stream=_BoundedStream(answer.stream, request.extensions.get(ANSWER_LIMIT, LONGEST_ANSWER)),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        self._inner.close()


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, longest: int) -> None:
        self._inner = inner
        self._longest = longest

    def __iter__(self) -> Iterator[bytes]:
        left = self._longest
        for part in self._inner:
            left -= len(part)
            if left < 0:
                raise AnswerRefused(f"its answer is longer than {self._longest} bytes")
            yield part

    def close(self) -> None:
        self._inner.close()


def client_of(
    url: str,
    node: Node | None,
    *,
    timeout: httpx.Timeout,
    limits: httpx.Limits,
    headers: dict[str, str] | None = None,
) -> httpx.Client:
    """A client for the programs at `url`; `node` None: they are on this machine's loopback, or are somebody
    else's.

    Proxies named by the environment are never used: they would see keys and grants.
    """
    transport = (
        httpx.HTTPTransport(
            verify=outside_trust(), limits=limits, trust_env=False, socket_options=_KEEP_ALIVE
        )
        if node is None
        else _NodeTransport(node, limits)
    )
    return httpx.Client(
        base_url=url,
        transport=_BoundedTransport(transport),
        timeout=timeout,
        headers={**(headers or {}), "Accept-Encoding": "identity"},
        trust_env=False,
    )


@cache
def outside_trust() -> ssl.SSLContext:
    """For what is no part of the fleet: the authorities that this machine believes, and the public ones where
    it has none installed. Read once, which takes longer than most requests: an authority that the operator
    adds is believed from the next start on."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where())
    return context


def outside_client(*, timeout_seconds: float) -> httpx.Client:
    """A client for what is no part of the fleet, such as an OpenID provider; it follows no redirect."""
    transport = httpx.HTTPTransport(verify=outside_trust(), trust_env=False)
    return httpx.Client(
        transport=_BoundedTransport(transport),
        timeout=timeout_seconds,
        headers={"Accept-Encoding": "identity"},
        trust_env=False,
    )


def certificate_ends(answer: httpx.Response) -> datetime | None:
    """When the certificate ends that the host showed, in UTC; None on loopback. Asked before the answer is
    read, while its connection is there."""
    stream = answer.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    # An object of the `_ssl` module, which has no type of its own.
    shown = tls.getpeercert() if tls is not None else None
    if not shown:
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)


def is_refused_by_tls(error: httpx.TransportError) -> bool:
    """Did one side not accept the other's certificate? Then no program behind it has seen the request."""
    return _tls_error(error) is not None


def why(error: httpx.TransportError) -> str:
    """What went wrong, in words."""
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"its certificate is not the one of this fleet: {tls.verify_message}"
    if tls is not None:
        return f"no TLS connection comes about: {_words(tls)}"
    return str(error) or type(error).__name__


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    cause: BaseException | None = error
    while cause is not None:
        # The end of a connection is an SSLError too, and says nothing about certificates.
        if isinstance(cause, ssl.SSLError) and not isinstance(
            cause, ssl.SSLEOFError | ssl.SSLZeroReturnError
        ):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _words(error: OSError) -> str:
    """`certificate required` for `[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert … (_ssl.c:2580)`."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or type(error).__name__
