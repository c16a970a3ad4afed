"""Bench group "stream": one viewer's stream over each route, in turns, in one run.

Routes: ours (real Caddy with forward_auth to a stub authoriser -> relay), Caddy -> websockify, the seed's own
(Caddy -> real OpenSandbox server's proxy -> websockify in a sandbox's network), relay and websockify alone.
CPU is what all processes of a route used, from the scheduler's nanoseconds (utime + stime, finer than ticks).
Round trip, throughput and CPU come from a synthetic pump (`tests/rfb_pump.py`); a last row of CPU from a real
Xtigervnc with a picture that changes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import httpx
from pydantic import BaseModel

from tests.bench_row import BenchRow
from tests.hosts.own_docker import own_dockerd
from tests.real_opensandbox import TINY_IMAGE, RealOpenSandbox, real_opensandbox
from tests.relay_process import (
    PUBLISH_ADDRESS,
    RelayProcess,
    free_port,
    running_relay,
    running_xvnc,
    wait_for_listener,
)
from tests.stream_client import StreamClient
from viewer.grants import GRANT_HEADER, UPSTREAM_HEADER

ROUNDS = 15
ROUND_TRIPS = 400
SMALL = (16, 15)
"""Pixels of a round trip's answer: 976 bytes."""
LARGE = (8192, 3072)
"""Pixels of one throughput run: 101 MB."""
LARGE_FOR_SEED = (2048, 3072)
"""25 MB, because that route compresses noise at some 10 MB/s."""
DESKTOP_SECONDS = 1.0
PROGRAMS = Path(sys.executable).parent

CADDYFILE = """{
	admin off
	persist_config off
	auto_https off
	servers {
		protocols h1 h2
	}
}
http://127.0.0.1:%(edge)d {
	handle /stream/* {
		route {
			request_header -X-Df-*
			forward_auth 127.0.0.1:%(authoriser)d {
				uri /authz/stream
				header_up -Upgrade
				header_up -Connection
				copy_headers X-Df-Upstream X-Df-Grant
			}
			request_header -Cookie
			request_header -Authorization
			reverse_proxy {http.request.header.X-Df-Upstream} {
				header_up -X-Df-Upstream
				header_up -Sec-WebSocket-Extensions
				flush_interval -1
				stream_close_delay 24h
				transport http {
					versions 1.1
				}
			}
		}
	}
	handle /websockify/pump {
		reverse_proxy 127.0.0.1:%(websockify_pump)d
	}
	handle /websockify/xvnc {
		reverse_proxy 127.0.0.1:%(websockify_xvnc)d
	}
	handle /v1/* {
		reverse_proxy 127.0.0.1:%(opensandbox)d
	}
}
"""


@dataclass
class Route:
    """How to open a stream, and which processes carry it (their children count too)."""

    name: str
    port: int
    path: str
    processes: list[int]
    headers: dict[str, str] = field(default_factory=dict)
    offer_compression: bool = True
    """As every browser does."""
    large: tuple[int, int] = LARGE

    def open(self) -> StreamClient:
        return StreamClient(self.port, self.path, self.headers, offer_compression=self.offer_compression)

    def cpu_seconds(self) -> float:
        return sum(cpu_of(pid) for pid in with_children(self.processes))


@dataclass
class Measured:
    """One figure a round. Microseconds; MB/s; CPU milliseconds per MB (10^6 bytes of payload)."""

    round_trip: list[float] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


Results = dict[str, Measured]


@dataclass
class SeedRoute:
    """The seed's own chain, live: websockify in a sandbox behind the OpenSandbox server's proxy."""

    port: int
    """Where the OpenSandbox server listens, on 127.0.0.1."""
    path: str
    processes: list[int]
    """The server's and websockify's."""


def rows() -> list[BenchRow]:
    """Measure all routes; the seed's is named as not measured where no dockerd of our own can run."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-stream-")))
        seed, why_no_seed = _seed_if_possible(stack, directory)
        parts = Parts(stack, directory, seed)
        pump = in_turns(parts.pump_routes(), pump_run)
        desktop = in_turns(parts.desktop_routes(), _desktop_run)
    return _rows(pump, desktop, why_no_seed)


class Parts:
    """Everything that runs beside the bench; ended with `stack`."""

    def __init__(self, stack: ExitStack, directory: Path, seed: SeedRoute | None) -> None:
        self._seed = seed
        pump_port = free_port(PUBLISH_ADDRESS)
        start(stack, sys.executable, "-m", "tests.rfb_pump", PUBLISH_ADDRESS, str(pump_port))
        xvnc = stack.enter_context(running_xvnc(directory, geometry="1280x800"))
        start(stack, sys.executable, "-m", "tests.x_painter", xvnc.display, "200", "60")
        self._relay = stack.enter_context(running_relay(directory))
        self._targets = {"pump": pump_port, "xvnc": xvnc.port}
        self._websockify = {name: run_websockify(stack, port) for name, port in self._targets.items()}
        ports = {
            "edge": free_port(),
            "authoriser": stack.enter_context(stub_authoriser(self._relay, self._targets)),
            "websockify_pump": self._websockify["pump"][0],
            "websockify_xvnc": self._websockify["xvnc"][0],
            "opensandbox": seed.port if seed else 9,
        }
        (directory / "Caddyfile").write_text(CADDYFILE % ports)
        caddy = [str(PROGRAMS / "caddy"), "run", "--adapter", "caddyfile", "--config"]
        self._edge = ports["edge"]
        self._caddy = start(stack, *caddy, str(directory / "Caddyfile"), listens_on=self._edge)

    def pump_routes(self) -> list[Route]:
        routes = self._routes("pump")
        if self._seed:
            processes = [self._caddy, *self._seed.processes]
            for name, offer in {"seed": True, "seed, plain": False}.items():
                routes.append(Route(name, self._edge, self._seed.path, processes, {}, offer, LARGE_FOR_SEED))
        return routes

    def desktop_routes(self) -> list[Route]:
        return self._routes("xvnc")

    def _routes(self, target: str) -> list[Route]:
        relay = self._relay.process.pid
        relay_port = int(self._relay.address.rpartition(":")[2])
        grant = self._relay.grant(session_id=target, target=self._targets[target], seconds=3600)
        websockify_port, websockify = self._websockify[target]
        return [
            Route("ours", self._edge, f"/stream/{target}", [self._caddy, relay]),
            Route("caddy+websockify", self._edge, f"/websockify/{target}", [self._caddy, websockify]),
            Route("websockify", websockify_port, "/", [websockify]),
            Route("relay", relay_port, f"/stream/{target}", [relay], grant),
        ]


def start(stack: ExitStack, *command: str, listens_on: int = 0) -> int:
    """Start a program until the end of the bench; return its process id once it listens."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    if listens_on:
        wait_for_listener("127.0.0.1", listens_on)
    return process.pid


def run_websockify(stack: ExitStack, target_port: int) -> tuple[int, int]:
    port = free_port()
    program, target = str(PROGRAMS / "websockify"), f"{PUBLISH_ADDRESS}:{target_port}"
    return port, start(stack, program, f"127.0.0.1:{port}", target, listens_on=port)


@contextmanager
def stub_authoriser(relay: RelayProcess, targets: dict[str, int]) -> Iterator[int]:
    """Stands in for the viewer's /authz/stream: says yes to every target by name. Yields its port."""

    class Yes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.headers["X-Forwarded-Uri"].rpartition("/")[2]
            self.send_response(200)
            self.send_header(UPSTREAM_HEADER, relay.address)
            self.send_header(GRANT_HEADER, relay.grant(session_id=name, target=targets[name])[GRANT_HEADER])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Yes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


# --- the seed's own route


class _Created(BaseModel):
    id: str


def _seed_if_possible(stack: ExitStack, directory: Path) -> tuple[SeedRoute | None, str]:
    """A real server with one sandbox on a dockerd of our own, or None and the reason."""
    try:
        daemon = stack.enter_context(own_dockerd("bench-stream"))
        server = stack.enter_context(real_opensandbox(daemon, directory))
        return _seed(stack, server), ""
    except (OSError, RuntimeError, subprocess.CalledProcessError, httpx.HTTPError) as error:
        return None, str(error).splitlines()[0]


def _seed(stack: ExitStack, server: RealOpenSandbox) -> SeedRoute:
    """websockify and pump run as they would in the seed's sandbox: in its network namespace, on its address.
    Their files are ours, so that no image has to be built for them."""
    sandbox, inside = a_sandbox(server)
    start(stack, *inside, sys.executable, "-m", "tests.rfb_pump", "127.0.0.1", "5901")
    websockify = start(stack, *inside, str(PROGRAMS / "websockify"), "0.0.0.0:6080", "127.0.0.1:5901")
    path = f"/v1/sandboxes/{sandbox}/proxy/6080/websockify"
    return SeedRoute(server.port, path, [server.pid, websockify])


def a_sandbox(server: RealOpenSandbox) -> tuple[str, list[str]]:
    """Make one that only sleeps; return its id, and the command that leads into its network namespace."""
    answer = httpx.post(
        f"{server.url}/v1/sandboxes",
        headers={"OPEN-SANDBOX-API-KEY": server.key},
        json={
            "image": {"uri": TINY_IMAGE}, "entrypoint": ["sleep", "100000"], "timeout": 3600,
            "resourceLimits": {"cpu": "2", "memory": "1Gi"},
        },
        timeout=60,
        trust_env=False,
    ).raise_for_status()  # fmt: skip
    sandbox = _Created.model_validate_json(answer.text).id
    container = server.container_of(sandbox)
    inspected = server.daemon.docker("inspect", "--format", "{{.State.Pid}}", container)
    return sandbox, ["nsenter", f"--net=/proc/{inspected.stdout.strip()}/ns/net", "--"]


# --- measuring


def in_turns(routes: list[Route], run: Callable[[Route, Measured], None]) -> Results:
    """Every route once a round, so that other load on the machine meets all alike; round 0 warms up."""
    results: Results = {route.name: Measured() for route in routes}
    for round_number in range(ROUNDS + 1):
        for route in routes:
            run(route, results[route.name] if round_number else Measured())
    return results


def pump_run(route: Route, measured: Measured) -> None:
    client = route.open()
    try:
        measured.round_trip.append(median(_round_trip(client) for _ in range(ROUND_TRIPS)))
        cpu, started = route.cpu_seconds(), time.perf_counter()
        client.request(*route.large)
        megabytes = client.skip_answer_of_pump(*route.large) / 1e6
        measured.throughput.append(megabytes / (time.perf_counter() - started))
        measured.cpu.append((route.cpu_seconds() - cpu) * 1000 / megabytes)
    finally:
        client.close()


def _round_trip(client: StreamClient) -> float:
    started = time.perf_counter()
    client.request(*SMALL)
    client.skip_answer_of_pump(*SMALL)
    return (time.perf_counter() - started) * 1e6


def _desktop_run(route: Route, measured: Measured) -> None:
    """Follow the changing picture of a real Xtigervnc in Raw, as fast as it gives updates."""
    client = route.open()
    try:
        client.ask_for_raw()
        client.request(1280, 800)
        client.skip_update()
        cpu, started, received = route.cpu_seconds(), time.perf_counter(), 0
        while time.perf_counter() - started < DESKTOP_SECONDS:
            client.request(1280, 800, incremental=True)
            received += client.skip_update()
        measured.throughput.append(received / 1e6 / (time.perf_counter() - started))
        measured.cpu.append((route.cpu_seconds() - cpu) * 1e9 / received)
    finally:
        client.close()


def with_children(processes: list[int]) -> list[int]:
    children: list[int] = []
    for process in processes:
        for task in Path(f"/proc/{process}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    return processes + children


def cpu_of(process: int) -> float:
    """Seconds on a processor of all its threads; a thread that ends meanwhile is counted no more."""
    seconds = 0.0
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(FileNotFoundError):
            seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


# --- rows


def _rows(pump: Results, desktop: Results, why_no_seed: str) -> list[BenchRow]:
    ours, beside = pump["ours"], pump["caddy+websockify"]
    against = "Caddy -> websockify"
    rows = [
        row("stream round trip", "us", ours.round_trip, against, beside.round_trip, at_most=1.0),
        row("stream throughput", "MB/s", ours.throughput, against, beside.throughput, at_least=1.0),
        row("stream CPU, flat out", "ms/MB", ours.cpu, against, beside.cpu, at_most=1.0),
        row(
            "stream CPU, real Xtigervnc", "ms/MB", desktop["ours"].cpu, against,
            desktop["caddy+websockify"].cpu, at_most=1.0,
        ),
        *_seed_rows(ours, pump.get("seed"), pump.get("seed, plain"), why_no_seed),
    ]  # fmt: skip
    bare, websockify = pump["relay"], pump["websockify"]
    against = "websockify direct"
    return [
        *rows,
        row("relay alone, round trip", "us", bare.round_trip, against, websockify.round_trip),
        row("relay alone, throughput", "MB/s", bare.throughput, against, websockify.throughput),
        row("relay alone, CPU flat out", "ms/MB", bare.cpu, against, websockify.cpu, at_most=1.0),
        row(
            "relay alone, CPU real Xtigervnc", "ms/MB", desktop["relay"].cpu, against,
            desktop["websockify"].cpu, at_most=1.0,
        ),
    ]  # fmt: skip


def _seed_rows(ours: Measured, seed: Measured | None, plain: Measured | None, why_not: str) -> list[BenchRow]:
    against = "seed: Caddy -> OpenSandbox proxy -> websockify"
    if seed is None or plain is None:
        value = median(ours.cpu)
        goal = f"<= 0.40 (not measured: {why_not})"
        return [
            BenchRow(
                name="stream CPU, flat out",
                value=value,
                unit="ms/MB",
                against=against,
                ratio=None,
                goal=goal,
                met=None,
            )
        ]
    return [
        row("stream round trip", "us", ours.round_trip, against, seed.round_trip),
        row("stream throughput", "MB/s", ours.throughput, against, seed.throughput),
        row("stream CPU, flat out", "ms/MB", ours.cpu, against, seed.cpu, at_most=0.4),
        row("stream CPU, flat out", "ms/MB", ours.cpu, f"{against}, compression not offered", plain.cpu),
    ]


def row(
    name: str,
    unit: str,
    ours: list[float],
    against: str,
    theirs: list[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> BenchRow:
    """The ratio is the median of the rounds' ratios: both sides of each met the same load."""
    ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
    goal, met = "", None
    if at_most is not None:
        goal, met = f"<= {at_most:.2f}", ratio <= at_most
    if at_least is not None:
        goal, met = f">= {at_least:.2f}", ratio >= at_least
    return BenchRow(
        name=name,
        value=median(ours),
        unit=unit,
        against=f"{against} {median(theirs):.3g} {unit}",
        ratio=ratio,
        goal=goal,
        met=met,
    )


if __name__ == "__main__":
    for measured in rows():
        print(measured.model_dump_json())
