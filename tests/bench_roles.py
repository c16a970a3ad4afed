"""Bench group "roles": what it costs that the relay reads what browsers send, asks who they are, and keeps
them company while nothing happens.

The relay with a lease against websockify and against itself with its eyes shut, in turns, on the same pump;
200 streams on which nothing happens; and a handshake with and without the question to the real viewer.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

import aiohttp

from tests.bench_row import BenchRow
from tests.bench_stream import (
    PROGRAMS,
    Results,
    Route,
    cpu_of,
    in_turns,
    pump_run,
    row,
    run_websockify,
    start,
    with_children,
)
from tests.relay_process import PUBLISH_ADDRESS, RelayProcess, free_port, held_by, running_relay
from tests.stream_client import StreamClient
from tests.test_relay import Viewer, hold, rfb_server
from tests.viewer_process import ViewerProcess
from viewer.model import Status
from viewer.new_sessions import NewSession
from viewer.store import Store

STREAMS = 200
IDLE_SECONDS = 30
"""Two pings."""
HANDSHAKES = 150

CADDYFILE = """{
	admin off
	persist_config off
	auto_https off
}
http://127.0.0.1:%(edge)d {
	handle /stream/* {
		route {
			request_header -X-Df-*
			forward_auth 127.0.0.1:%(viewer)d {
				uri /authz/stream
				header_up -Upgrade
				header_up -Connection
				copy_headers X-Df-Upstream X-Df-Grant
			}
			request_header -Cookie
			request_header -Authorization
			reverse_proxy 127.0.0.1:%(relay)d
		}
	}
	handle_path /unasked/* {
		reverse_proxy 127.0.0.1:%(relay)d
	}
}
"""


def rows() -> list[BenchRow]:
    return [*_busy_rows(_busy()), *_idle_rows(), _handshake_row()]


# --- busy


def _busy() -> Results:
    with ExitStack() as stack:
        seeing, blind = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-roles-"))) for _ in range(2)
        )
        pump = free_port(PUBLISH_ADDRESS)
        start(stack, sys.executable, "-m", "tests.rfb_pump", PUBLISH_ADDRESS, str(pump))
        port, process = run_websockify(stack, pump)
        routes = [
            _route("roles", stack.enter_context(running_relay(seeing)), pump),
            _route("blind", stack.enter_context(running_relay(blind, program="tests.blind_relay")), pump),
            Route("websockify", port, "/", [process]),
        ]
        return in_turns(routes, pump_run)


def _route(name: str, relay: RelayProcess, target: int) -> Route:
    lease = held_by("key:test", 1)
    grant = relay.grant(target=target, seconds=3600, lease=lease)
    return Route(name, _port_of(relay), "/stream/s1", [relay.process.pid], grant)


def _port_of(relay: RelayProcess) -> int:
    return int(relay.address.rpartition(":")[2])


def _busy_rows(results: Results) -> list[BenchRow]:
    ours, blind, other = results["roles"], results["blind"], results["websockify"]
    against, itself = "websockify", "itself, not reading"
    return [
        row("roles, round trip", "us", ours.round_trip, against, other.round_trip, at_most=1.0),
        row("roles, throughput", "MB/s", ours.throughput, against, other.throughput, at_least=1.0),
        row("roles, CPU flat out", "ms/MB", ours.cpu, against, other.cpu, at_most=1.0),
        row("roles, throughput", "MB/s", ours.throughput, itself, blind.throughput, at_least=0.95),
        row("roles, round trip", "us", ours.round_trip, itself, blind.round_trip, at_most=1 / 0.95),
        row("roles, CPU flat out", "ms/MB", ours.cpu, itself, blind.cpu, at_most=1 / 0.95),
    ]


# --- idle


def _idle_rows() -> list[BenchRow]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-idle-")))
        desktop = stack.enter_context(rfb_server(hold))
        relay = stack.enter_context(running_relay(directory, max_streams_per_session=STREAMS))
        port, process = run_websockify(stack, desktop)
        ours = f"{relay.url}/stream/s1", relay.grant(target=desktop, seconds=3600)
        mine = asyncio.run(_idle(*ours, relay.process.pid))
        theirs = asyncio.run(_idle(f"http://127.0.0.1:{port}/", {}, process))
    return [
        BenchRow(
            name=f"{STREAMS} idle streams, {what}",
            value=value,
            unit=unit,
            against=f"websockify {other:.3g} {unit}",
            ratio=value / other if other else None,
            goal=f"<= {goal} {unit}",
            met=value <= goal,
        )
        for what, unit, value, other, goal in (
            ("memory", "MB", mine[0], theirs[0], 40),
            ("CPU", "% of a core", mine[1], theirs[1], 2),
        )
    ]


async def _idle(url: str, headers: dict[str, str], process: int) -> tuple[float, float]:
    """MB (10^6 bytes) that the streams add, and their CPU in per cent of a core."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        before = _memory(process)
        reading = []
        for _ in range(STREAMS):
            socket = await http.ws_connect(url, headers=headers, protocols=["binary"])
            await Viewer(socket).shake_hands()
            # Which answers pings as well.
            reading.append(asyncio.create_task(socket.receive()))
        await asyncio.sleep(1)
        processes = with_children([process])
        cpu, began = sum(cpu_of(one) for one in processes), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS)
        used = (sum(cpu_of(one) for one in processes) - cpu) / (time.perf_counter() - began)
        added = _memory(process) - before
        if any(task.done() for task in reading):
            raise RuntimeError(f"a stream of {url} ended while nothing happened")
        for task in reading:
            task.cancel()
    return added / 1e6, 100 * used


def _memory(process: int) -> int:
    """Bytes of it and its children, what they share counted once."""
    total = 0
    for one in with_children([process]):
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.MULTILINE)
        total += 1024 * int(found[1]) if found else 0
    return total


# --- handshake


def _handshake_row() -> BenchRow:
    with ExitStack() as stack:
        asked, unasked = stack.enter_context(_two_ways())
        results: list[tuple[float, float]] = []
        for round_number in range(HANDSHAKES + 10):
            pair = _shaken(asked), _shaken(unasked)
            if round_number >= 10:
                results.append(pair)
    added = median(one - other for one, other in results)
    return BenchRow(
        name="handshake, added by authorisation",
        value=added,
        unit="ms",
        against=f"without it {median(other for _, other in results):.3g} ms",
        ratio=None,
        goal="<= 5 ms",
        met=added <= 5,
    )


def _shaken(route: Route) -> float:
    """Milliseconds from the connect to ServerInit."""
    began = time.perf_counter()
    client: StreamClient = route.open()
    took = 1000 * (time.perf_counter() - began)
    client.close()
    return took


@contextmanager
def _two_ways() -> Iterator[tuple[Route, Route]]:
    """Through Caddy to one desktop: with the question to the real viewer, and with a grant made before."""
    with ExitStack() as stack:
        directory, beside = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-handshake-"))) for _ in "12"
        )
        viewer = ViewerProcess(directory)
        stack.callback(viewer.stop)
        key = (directory / "relay.key").read_bytes().strip()
        relay = stack.enter_context(running_relay(beside, key=key))
        desktop = stack.enter_context(rfb_server(hold))
        session = _session_of(viewer, desktop)
        ports = {"edge": free_port(), "viewer": viewer.port, "relay": _port_of(relay)}
        (beside / "Caddyfile").write_text(CADDYFILE % ports)
        caddy = [str(PROGRAMS / "caddy"), "run", "--adapter", "caddyfile", "--config"]
        start(stack, *caddy, str(beside / "Caddyfile"), listens_on=ports["edge"])
        bearer = {"Authorization": f"Bearer {viewer.key}"}
        grant = relay.grant(session_id=session, target=desktop, seconds=3600)
        yield (
            Route("asked", ports["edge"], f"/stream/{session}", [], bearer),
            Route("unasked", ports["edge"], f"/unasked/stream/{session}", [], grant),
        )


def _session_of(viewer: ViewerProcess, vnc_port: int) -> str:
    """A running session whose desktop answers on that port."""
    store = Store(viewer.database)
    order = NewSession(image="desktop", resolution="1280x800", ttl_seconds=3600, created_by="bench")
    session = store.tenant("main").create(order).session
    store.fleet.transition(
        session.id,
        Status.RUNNING,
        host="here",
        sandbox_id="box-1",
        vnc_port=vnc_port,
        expires_at=session.created_at + timedelta(hours=1),
    )
    store.close()
    return session.id


if __name__ == "__main__":
    for found in rows():
        print(found.model_dump_json())
