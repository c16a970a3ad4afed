"""One attempt: an HTTPS POST to an address of a tenant's choice, which may be a trap.

The name is looked up once, the address that was found is checked, and the connection goes to that very one,
so a name server that says something else a moment later changes nothing. No proxy, redirect or cookie; of the
answer only its status counts, and nothing of it is kept. All of it has TIMEOUT_SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from viewer import __version__
from viewer.deliveries.addresses import Address, AddressPolicy, UrlRefused, address_of
from viewer.deliveries.model import LONGEST_RETRY_AFTER, Outcome
from viewer.nodes import outside_trust

TIMEOUT_SECONDS = 15.0
_READ_ON_SECONDS = 1.0
_MOST_READ_BYTES = 4096
_MOST_ADDRESSES = 3

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Finds the addresses of a host's name. Raises OSError."""


class Sender:
    """Sends from one event loop, as much at once as it is asked to."""

    def __init__(
        self, policy: AddressPolicy, *, lookup: Lookup | None = None, trust: ssl.SSLContext | None = None
    ) -> None:
        self._policy = policy
        self._lookup = lookup or look_up
        self._transport = httpx.AsyncHTTPTransport(
            verify=trust or outside_trust(),
            trust_env=False,
            http1=True,
            http2=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def send(self, url: str, body: str, headers: Mapping[str, str]) -> Outcome:
        """How it ended; nothing is raised for what the other side, its name server or the network do."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._send(url, body, headers)
        except TimeoutError:
            return Outcome(error=f"no answer within {TIMEOUT_SECONDS:.0f} s")
        except UrlRefused as refusal:
            return Outcome(error=f"not sent: the URL {refusal}")
        except httpx.TransportError as error:
            return Outcome(error=_words(error))

    async def close(self) -> None:
        await self._transport.aclose()

    async def _send(self, text: str, body: str, headers: Mapping[str, str]) -> Outcome:
        url = self._policy.check_url(text)
        problem: httpx.ConnectError | None = None
        for address in await self._addresses(url):
            try:
                return await self._post(url, address, body, headers)
            except httpx.ConnectError as error:
                problem = error
        return Outcome(error="the name has no address" if problem is None else _words(problem))

    async def _addresses(self, url: httpx.URL) -> list[Address]:
        """Raises UrlRefused unless all that the name leads to is allowed."""
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = [address_of(text) for text in await self._lookup(url.host, port)]
        except OSError:
            return []
        addresses = [address for address in found if address is not None]
        if not all(self._policy.allows(address) for address in addresses):
            raise UrlRefused(
                "leads to an address that is not on the public internet, or to one of this fleet's own hosts"
            )
        return addresses[:_MOST_ADDRESSES]

    async def _post(self, url: httpx.URL, address: Address, body: str, headers: Mapping[str, str]) -> Outcome:
        request = httpx.Request(
            "POST",
            url.copy_with(host=str(address)),
            content=body.encode(),
            headers={
                "Host": url.netloc.decode(),
                "Content-Type": "application/json",
                "User-Agent": f"Deskfleet-Webhooks/{__version__}",
                "Accept": "*/*",
                "Connection": "close",
                **headers,
            },
            # The certificate must be one for the name, wherever the connection goes.
            extensions={"sni_hostname": url.host, "timeout": httpx.Timeout(TIMEOUT_SECONDS).as_dict()},
        )
        answer = await self._transport.handle_async_request(request)
        try:
            await _read_a_little(answer)
        finally:
            await answer.aclose()
        return _outcome_of(answer)


async def look_up(host: str, port: int) -> Sequence[str]:
    """The system's look-up, in a thread that nobody has to wait for when it hangs."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Sequence[str]] = loop.create_future()

    def tell(addresses: Sequence[str] | OSError) -> None:
        if found.done():
            return
        if isinstance(addresses, OSError):
            found.set_exception(addresses)
        else:
            found.set_result(addresses)

    def run() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            addresses: Sequence[str] | OSError = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except OSError as error:
            addresses = error
        except UnicodeError:
            addresses = OSError("the name is none")
        with contextlib.suppress(RuntimeError):  # the loop has come to its end
            loop.call_soon_threadsafe(tell, addresses)

    threading.Thread(target=run, name="look-up for a webhook", daemon=True).start()
    return await found


async def _read_a_little(answer: httpx.Response) -> None:
    """So that a plain receiver can finish its answer. What it says, and if it ever ends, does not matter."""
    left = _MOST_READ_BYTES
    stream: AsyncIterable[bytes] = answer.stream  # type: ignore[assignment]
    with contextlib.suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(_READ_ON_SECONDS):
            async for part in stream:
                left -= len(part)
                if left <= 0:
                    return


def _outcome_of(answer: httpx.Response) -> Outcome:
    status = answer.status_code
    if 200 <= status < 300:
        return Outcome(status_code=status)
    error = "redirects are not followed" if 300 <= status < 400 else "the endpoint did not accept it"
    return Outcome(
        status_code=status, error=error, retry_after=_retry_after(answer.headers.get("Retry-After"))
    )


def _retry_after(text: str | None) -> timedelta | None:
    """What the header asks for, seconds or a date, within bounds; None for what is neither."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), LONGEST_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(text[:40])
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(timedelta(), min(until - datetime.now(UTC), LONGEST_RETRY_AFTER))


def _words(error: httpx.TransportError) -> str:
    """Why no answer came, in our words: a library's may hold what the other side sent."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case ssl.SSLCertVerificationError():
                return f"its certificate is not valid: {cause.verify_message}"
            case ssl.SSLError():
                return "it does not speak TLS as it should"
            case ConnectionRefusedError():
                return "the connection was refused"
        cause = cause.__cause__ or cause.__context__
    match error:
        case httpx.ConnectTimeout() | httpx.ReadTimeout() | httpx.WriteTimeout() | httpx.PoolTimeout():
            return f"no answer within {TIMEOUT_SECONDS:.0f} s"
        case httpx.ConnectError():
            return "no connection could be made"
        case httpx.ProtocolError():
            return "its answer is not HTTP/1.1"
    return "the connection was lost before an answer came"
