"""A secret of every kind goes through the whole chain, and is then looked for wherever it has no business.

Caddy, viewer, worker, relay, hostwatch, opensandbox-server, an OpenID provider and Docker are real; a canned
RFB server stands in for the desktop. What is searched: all logs of ours and Caddy's, all answers but the ones
that hand a secret over, the database as bytes and as SQL, a backup, the metrics, the audit log in both
formats, and the command line of every process.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from mcp import Client, StdioServerParameters, stdio_client
from standardwebhooks import Webhook

from tests.canaries import assert_nowhere
from tests.hostwatch_process import running_hostwatch
from tests.oidc.provider_process import CLIENT_SECRET, ProviderProcess
from tests.postgres import PostgresServer, programs, running_server
from tests.real_opensandbox import CANNED_DESKTOP, TINY_IMAGE, RealOpenSandbox
from tests.relay_process import free_port, running_relay
from tests.worker.edge import EMBEDDER, KEY, OTHER_KEY, Edge, running_edge
from viewer.access import COOKIE
from viewer.database_address import PostgresAddress
from viewer.grants import GRANT_HEADER
from viewer.model import Role, Scope, Session, Status
from viewer.people import NewPerson

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
SERVICE = {"name": "code", "host_name": "code.deskfleet.localhost", "role": "operator"}
NOT_SEARCHED = (".key", ".passfile", ".old")
"""Files that hold a secret because that is what they are for; and where a log is put aside."""


EXPECTED = (
    "edge.log", "worker.log", "relay.log", "hostwatch.log", "mcp.log", "answers", "backup.db", "dump.sql",
    "audit.csv", "all.ndjson", "command-lines",
)  # fmt: skip


def image(name: str, script: str, **more: str) -> dict[str, str | list[str]]:
    limits = {"cpu": "500m", "memory": "64Mi"}
    return {"name": name, "uri": TINY_IMAGE, "entrypoint": ["/bin/sh", "-c", script], **limits, **more}


class Run:
    """One walk through the fleet. `canaries`: what was put in, by kind. `heard`: where answers are kept."""

    def __init__(self, edge: Edge, folder: Path, canaries: dict[str, str]) -> None:
        self.edge, self.folder, self.canaries = edge, folder, canaries
        self.heard = folder / "answers"
        # No resolver but a browser's knows this name.
        self.origin = edge.fleet.settings.canonical_origin
        self.host = httpx.URL(self.origin).netloc.decode()
        self.http = self.client_at("127.0.0.1")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DESKFLEET_")},
            "DESKFLEET_SETTINGS": str(edge.fleet.settings_file),
            "NO_PROXY": "*",
            "HOME": str(folder),
        }

    def client_at(self, address: str) -> httpx.Client:
        """A client that comes from that address of this machine."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.edge.port}",
            headers={"Host": self.host},
            timeout=60,
            transport=httpx.HTTPTransport(local_address=address),
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.http.close()

    def ask(self, method: str, path: str, *, hands_over: bool = False, **more: Any) -> httpx.Response:
        """hands_over: the answer is the one place where the secret belongs."""
        answer = self.http.request(method, path, **more)
        if not hands_over:
            self._keep(f"{answer.status_code} {method}", str(answer.headers), answer.text)
        return answer

    def as_key(self, key: str, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
        return self.ask(method, path, headers=headers, **more)

    def from_page(self, path: str, **more: Any) -> httpx.Response:
        headers = {"Origin": self.origin, **more.pop("headers", {})}
        return self.ask("POST", path, headers=headers, **more)

    def program(
        self, *words: str, key: str | None = None, hands_over: bool = False, seconds: float = 60
    ) -> str:
        """One of ours, to its end or for so long; what it wrote is kept."""
        environment = dict(self.environment)
        if key is not None:
            environment |= {"DESKFLEET_KEY": key, "DESKFLEET_URL": self.edge.url}
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            out, errors = process.communicate(timeout=30)
        self._keep(str(words), "" if hands_over else out, errors)
        return out.strip()

    def _keep(self, *texts: str) -> None:
        with self.heard.open("a") as file:
            file.write("\n".join([*texts, ""]))


@contextmanager
def command_lines(target: Path) -> Iterator[None]:
    """Every command line that any process of the machine has meanwhile, as any user of it could read them."""
    over, seen = threading.Event(), set[bytes]()

    def look() -> None:
        while not over.is_set():
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(file.read_bytes())
                except OSError:
                    continue
            over.wait(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        target.write_bytes(b"\n".join(sorted(seen)))


def secret_file(folder: Path, name: str, value: str) -> str:
    file = folder / name
    file.write_text(f"{value}\n")
    file.chmod(0o600)
    return str(file)


# --- putting them in --------------------------------------------------------------------------------


def signs_in(run: Run) -> None:
    """By key, by link, by password, through the provider; right and wrong."""
    store, canaries = run.edge.fleet.store, run.canaries
    for name in ("sign-in link", "unused sign-in link"):
        said = run.program("viewer.admin", "signin-link", "--tenant", "main", hands_over=True)
        canaries[name] = said.partition("#token=")[2]
    canaries["person's password"] = f"Correct-horse {secrets.token_hex(8)}"
    person = store.people("main").add(NewPerson(login="pat", role=Role.OPERATOR), by="test")
    canaries["link to set a password"] = store.people("main").new_link(person.id)
    ways = {
        "cookie by key": {"key": KEY.text},
        "cookie by link": {"token": canaries["sign-in link"]},
        "cookie by password": {"login": "pat", "password": canaries["person's password"]},
    }
    set_up = {"token": canaries["link to set a password"], "password": canaries["person's password"]}
    assert run.from_page("/set-password", json=set_up, hands_over=True).status_code == 204
    for name, shown in ways.items():
        answer = run.from_page("/signin", json=shown, hands_over=True)
        assert answer.status_code == 204, answer.text
        canaries[name] = cookie_of(answer, COOKIE)
        cookie = {"Cookie": f"{COOKIE}={canaries[name]}"}
        assert run.ask("GET", "/api/v1/me", headers=cookie).status_code == 200
        assert run.ask("GET", "/sandboxes", headers=cookie).status_code == 200
    canaries["cookie of a known browser"] = cookie_of(answer, "__Host-deskfleet-device")
    canaries["mistyped password"] = f"Correct-hrose {secrets.token_hex(8)}"
    wrong = {"login": "pat", "password": canaries["mistyped password"]}
    assert run.from_page("/signin", json=wrong).status_code == 401
    canaries["password typed as a login"] = f"swordfish-{secrets.token_hex(6)}"
    as_login = {"login": canaries["password typed as a login"], "password": "x" * 12}
    assert run.from_page("/signin", json=as_login).status_code == 401
    run.from_page("/signout", headers={"Cookie": f"{COOKIE}={canaries['cookie by link']}"})


def signs_in_at_the_provider(run: Run, there: ProviderProcess) -> None:
    # It was made before anybody knew which port the edge would have.
    there._client |= {"redirect_uris": [f"{run.origin}/oidc/callback"], "post_logout_redirect_uris": []}
    with there:
        back = _arrive(run, there)
    # The same once more is too late; and now the provider is away.
    assert run.ask("GET", back).headers["Location"] == "/oidc/failed"
    run.ask("GET", "/oidc/start")


def _arrive(run: Run, there: ProviderProcess) -> str:
    """Sign in there and come back; the address that the browser came back to."""
    begun = run.ask("GET", "/oidc/start", hands_over=True)
    assert begun.status_code == 303, begun.text
    [line] = begun.headers.get_list("Set-Cookie")
    name, _, rest = line.partition("=")
    run.canaries["cookie on the way to the provider"] = rest.partition(";")[0]
    cookie = {"Cookie": f"{name}={rest.partition(';')[0]}"}
    back = httpx.URL(there.sign_in(begun.headers["Location"], "gwen"))
    run.canaries["OIDC code"] = back.params["code"]
    run.canaries["OIDC state"] = back.params["state"]
    address = back.raw_path.decode()
    came = run.ask("GET", address, headers=cookie, hands_over=True)
    assert came.status_code == 303, came.text
    run.canaries["cookie by the provider"] = cookie_of(came, COOKIE)
    assert run.ask("GET", address, headers=cookie).headers["Location"] == "/oidc/failed"
    return address


def cookie_of(answer: httpx.Response, name: str) -> str:
    for line in answer.headers.get_list("Set-Cookie"):
        if line.startswith(f"{name}=") and "Max-Age=0" not in line:
            return str(line.partition("=")[2].partition(";")[0])
    raise AssertionError(f"no cookie {name}")


def makes_and_watches_a_desktop(run: Run) -> Session:
    canaries, fleet = run.canaries, run.edge.fleet
    canaries["value of env"] = f"e$ \"n'v\n{secrets.token_hex(8)}"
    canaries["idempotency key"] = f"once-{secrets.token_hex(12)}"
    once = {"Idempotency-Key": canaries["idempotency key"]}
    body = {"env": {"API_TOKEN": canaries["value of env"]}}
    for _ in range(2):
        made = run.as_key(KEY.text, "POST", "/api/v1/sessions", json=body, headers=once)
        assert made.status_code == 201, made.text
    # Used for something else: a refusal that might quote it.
    assert run.as_key(KEY.text, "POST", "/api/v1/sessions", json={}, headers=once).status_code == 422
    session = fleet.main.get(made.json()["id"])
    canaries["VNC password"] = fleet.vnc_password_of(session)
    stream = f"/stream/{session.id}"
    cookie = {"Cookie": f"{COOKIE}={canaries['cookie by password']}", "Origin": run.origin}
    for shown in ({"Authorization": f"Bearer {KEY.text}"}, cookie):
        assert asyncio.run(_greeting(run, stream, shown)) == b"RFB 003.008\n"
    with pytest.raises(WSServerHandshakeError, match="404"):
        asyncio.run(_greeting(run, stream, {"Authorization": f"Bearer {OTHER_KEY.text}"}))
    asked = {"X-Forwarded-Uri": stream, "X-Forwarded-Method": "GET", "Authorization": f"Bearer {KEY.text}"}
    with viewer_of(run) as viewer:
        canaries["grant"] = viewer.get("/authz/stream", headers=asked).headers[GRANT_HEADER]
    return session


async def _greeting(
    run: Run, path: str, headers: dict[str, str], offered: tuple[str, ...] = ("binary",)
) -> bytes:
    """The first words of a stream. Of the subprotocols that are offered, none but `binary` is said back."""
    at = f"http://127.0.0.1:{run.edge.port}{path}"
    async with (
        ClientSession() as http,
        http.ws_connect(at, headers={"Host": run.host, **headers}, protocols=offered) as stream,
    ):
        assert stream.protocol == "binary"
        return await stream.receive_bytes(timeout=20)


def uses_tickets(run: Run, session: Session) -> None:
    """As a program does, and as a page of another site: rightly, once more, and from where it may not."""
    path = f"/api/v1/sessions/{session.id}"

    def ticket(kind: str, **wanted: Any) -> str:
        made = run.as_key(KEY.text, "POST", f"{path}/tickets", json=wanted, hands_over=True)
        assert made.status_code == 201, made.text
        run.canaries[kind] = made.json()["ticket"]
        return run.canaries[kind]

    stream, shown = f"/stream/{session.id}", {"Authorization": f"Bearer {ticket('ticket of a program')}"}
    assert asyncio.run(_greeting(run, stream, shown)) == b"RFB 003.008\n"
    with pytest.raises(WSServerHandshakeError, match="401"):
        asyncio.run(_greeting(run, stream, shown))
    assert run.ask("GET", path, headers=shown).status_code == 200
    assert run.ask("GET", "/api/v1/sessions", headers=shown).status_code == 401
    offered = ("binary", f"ticket.{ticket('ticket of a page', ttl_seconds=30)}")
    with pytest.raises(WSServerHandshakeError, match="403"):
        asyncio.run(_greeting(run, stream, {"Origin": "https://evil.example"}, offered))
    assert asyncio.run(_greeting(run, stream, {"Origin": EMBEDDER}, offered)) == b"RFB 003.008\n"
    with pytest.raises(WSServerHandshakeError, match="401"):
        asyncio.run(_greeting(run, stream, {"Origin": EMBEDDER}, offered))
    made = run.program("viewer.cli", "tickets", "create", session.id, "--json", key=KEY.text, hands_over=True)
    run.canaries["ticket of the command line"] = json.loads(made)["ticket"]
    revoked = run.as_key(KEY.text, "DELETE", f"{path}/tickets/{json.loads(made)['id']}")
    assert revoked.status_code == 204, revoked.text


def viewer_of(run: Run) -> httpx.Client:
    """The viewer itself, where Caddy asks it."""
    return httpx.Client(base_url=f"http://{run.edge.fleet.settings.listen}", trust_env=False)


def enters_a_service(run: Run) -> None:
    made = run.as_key(KEY.text, "POST", "/api/v1/services/code/entries", hands_over=True).json()
    run.canaries["ticket"] = made["ticket"]
    at = {"X-Forwarded-Host": httpx.URL(made["url"]).netloc.decode(), "X-Forwarded-Proto": "http"}
    with viewer_of(run) as viewer:
        entered = viewer.post("/.deskfleet/enter", data={"ticket": made["ticket"]}, headers=at)
        assert entered.status_code == 303, entered.text
        run.canaries["cookie of an entry"] = cookie_of(entered, "__Host-deskfleet-entry")
        again = viewer.post("/.deskfleet/enter", data={"ticket": made["ticket"]}, headers=at)
        assert again.status_code == 403


def takes_events(run: Run) -> None:
    """Of an outside system: signed with a secret that was made for it, with its successor, and wrongly."""
    admin = run.edge.fleet.store.accounts.add_key("main", Role.ADMIN).text
    run.canaries["admin's key"] = admin
    made = run.as_key(admin, "POST", "/api/v1/webhook-secrets", json={"label": "openclaw"}, hands_over=True)
    rotate = f"/api/v1/webhook-secrets/{made.json()['id']}/rotate"
    rotated = run.as_key(admin, "POST", rotate, json={}, hands_over=True)
    for kind, answer in (("webhook secret", made), ("its successor", rotated)):
        assert answer.status_code == 201, answer.text
        run.canaries[kind] = secret = answer.json()["secret"]
        body = json.dumps({"runId": kind, "action": "start"})
        now, name = datetime.now(UTC), f"msg_{secrets.token_hex(8)}"
        for signature, status in ((Webhook(secret).sign(name, now, body), 200), (f"v1,{secret}", 401)):
            signed = {"webhook-id": name, "webhook-timestamp": str(int(now.timestamp()))}
            sent = {**signed, "webhook-signature": signature, "Content-Type": "application/json"}
            taken = run.ask("POST", "/webhooks/openclaw", headers=sent, content=body)
            assert taken.status_code == status, taken.text
    run.as_key(admin, "GET", "/api/v1/webhook-secrets")


def sends_events(run: Run) -> None:
    """To an address where nobody is, so that each attempt fails and is told."""
    admin, where = run.canaries["admin's key"], {"url": f"http://127.0.0.1:{free_port()}/hook"}
    made = run.as_key(admin, "POST", "/api/v1/webhooks", json=where, hands_over=True)
    assert made.status_code == 201, made.text
    path = f"/api/v1/webhooks/{made.json()['id']}"
    run.canaries["secret of a webhook"] = made.json()["secret"]
    run.canaries["secret of a webhook, new"] = run.as_key(
        admin, "POST", f"{path}/rotate", hands_over=True
    ).json()["secret"]
    assert run.as_key(admin, "POST", f"{path}/test").status_code == 202
    deadline = time.monotonic() + 60
    while not any(one["attempts"] for one in run.as_key(admin, "GET", f"{path}/deliveries").json()["items"]):
        assert time.monotonic() < deadline, "no attempt was made"
        time.sleep(0.2)
    run.as_key(admin, "GET", "/api/v1/webhooks")


def uses_the_other_programs(run: Run) -> None:
    """The stock API with a registry's password, the CLI, the tools for agents."""
    canaries = run.canaries
    canaries["registry password of a request"] = f"hub {secrets.token_hex(10)}"
    auth = {"username": "ci", "password": canaries["registry password of a request"]}
    body = {
        "image": {"uri": "shell", "auth": auth},
        "env": {"OTHER": canaries["value of env"]},
        "timeout": 600,
        "resourceLimits": {"cpu": "500m", "memory": "64Mi"},
    }
    run.as_key(KEY.text, "POST", "/v1/sandboxes", json=body)
    run.as_key(KEY.text, "POST", "/v1/sandboxes", json={**body, "entrypoint": "wrong"})
    run.program("viewer.cli", "sessions", "list", key=KEY.text)
    run.program("viewer.cli", "audit", "list", key=KEY.text)
    run.program("viewer.cli", "sessions", "list", key=run.canaries["revoked key"])
    asyncio.run(_call_tools(run))


async def _call_tools(run: Run) -> None:
    (run.folder / "agent.key").write_text(KEY.text)
    (run.folder / "agent.key").chmod(0o600)
    started = StdioServerParameters(
        command=sys.executable,
        args=["-m", "viewer.mcp"],
        cwd=str(ROOT),
        env={**run.environment, "DESKFLEET_URL": run.edge.url,
             "DESKFLEET_KEY_FILE": str(run.folder / "agent.key")},
    )  # fmt: skip
    with (run.folder / "mcp.log").open("w") as errors:
        async with Client(stdio_client(started, errlog=errors)) as client:
            for tool, arguments in (
                ("list_sandboxes", {}),
                ("create_desktop", {"idempotency_key": run.canaries["idempotency key"]}),
                ("terminate_sandbox", {"sandbox_id": "nothing"}),
            ):
                said = await client.call_tool(tool, arguments)
                (run.folder / f"mcp-{tool}").write_text(said.model_dump_json())


def shows_each_in_every_wrong_place(run: Run) -> None:
    """Where people put secrets by mistake, and while the program behind fails."""
    _in_the_database(run, "ALTER TABLE tasks RENAME TO tasks_away")
    try:
        for number, value in enumerate(list(run.canaries.values()), start=1):
            # Each from an address of its own, or after some of them nothing would be looked at any more.
            run.http.close()
            run.http = run.client_at(f"127.0.1.{number}")
            _show_wrongly(run, value, login=f"nobody{number}")
    finally:
        _in_the_database(run, "ALTER TABLE tasks_away RENAME TO tasks")
    run.http.close()
    run.http = run.client_at("127.0.0.1")
    log = (run.edge.fleet.folder / "edge.log").read_text()
    assert "Traceback" in log, "nothing has crashed"
    assert "no such table" in log or "does not exist" in log


def _in_the_database(run: Run, statement: str) -> None:
    address = run.edge.fleet.settings.database
    if isinstance(address, PostgresAddress):
        with psycopg.connect(address.url) as server:
            server.execute(statement.encode())
        return
    with closing(sqlite3.connect(run.edge.fleet.folder / "deskfleet.db")) as connection, connection:
        connection.execute(statement)


def _show_wrongly(run: Run, value: str, *, login: str) -> None:
    plain = value.replace("\n", " ")
    headers = {
        "Authorization": f"Bearer {plain}",
        "Cookie": f"{COOKIE}={quote(plain)}; theirs={quote(plain)}",
        "OPEN-SANDBOX-API-KEY": plain,
        GRANT_HEADER: plain,
        "Referer": f"{run.origin}/signin?token={quote(plain)}",
    }
    run.ask("GET", "/api/v1/me", headers=headers, params={"key": value})
    run.ask("GET", "/v1/sandboxes", headers=headers, params={"api_key": value})
    run.ask("GET", "/oidc/callback", headers=headers, params={"code": value, "state": value})
    for shown in ({"key": value[:200]}, {"token": value[:200]}, {"login": login, "password": value[:1000]}):
        run.from_page("/signin", json=shown)
    run.from_page("/set-password", json={"token": value[:200], "password": value[:1000]})
    right = {"Authorization": f"Bearer {KEY.text}"}
    as_json = {**right, "Content-Type": "application/json"}
    run.ask("POST", "/api/v1/sessions", headers=right, json={"env": value})
    run.ask("POST", "/api/v1/sessions", headers=right, json={"env": {"A-": value}})
    run.ask("POST", "/api/v1/sessions", headers=right, json={"password": value})
    run.ask("POST", "/api/v1/sessions", headers=as_json, content=json.dumps({"env": {"A": value}})[:-1])
    run.ask("POST", "/api/v1/sessions", headers=right, json={"env": {"A": value}, "ttl_seconds": "soon"})
    # The table is away: a failure of ours, with a trace, while this is in hand.
    task = {"title": plain[:200]}
    crashed = run.ask("POST", "/api/v1/tasks", headers=right, json=task, params={"t": value})
    assert crashed.status_code == 500


def starts_without_a_database(run: Run) -> None:
    """Where the database is a server that does not answer, and its password is in a file."""
    run.canaries["password of PostgreSQL"] = f"pg-{secrets.token_hex(10)}"
    line = f"127.0.0.1:*:*:deskfleet:{run.canaries['password of PostgreSQL']}"
    passfile = secret_file(run.folder, "postgres.passfile", line)
    settings = run.edge.fleet.settings_file.read_text()
    database = f"postgresql://deskfleet@127.0.0.1:{free_port()}/deskfleet?passfile={passfile}"
    lines = [one if not one.startswith("database =") else f"database = {json.dumps(database)}"
             for one in settings.splitlines()]  # fmt: skip
    file = run.folder / "postgres.toml"
    file.write_text("\n".join(lines))
    run.environment["DESKFLEET_SETTINGS"] = str(file)
    for words in (("viewer.serve",), ("viewer.worker",), ("viewer.admin", "backup", "x")):
        # A worker goes on trying.
        run.program(*words, seconds=5)
    run.environment["DESKFLEET_SETTINGS"] = str(run.edge.fleet.settings_file)


# --- looking for them -------------------------------------------------------------------------------


def gather(run: Run) -> None:
    """What can be had of the fleet, into files."""
    store, folder = run.edge.fleet.store, run.folder
    admin = store.accounts.add_key("main", Role.ADMIN).text
    scraper = store.accounts.add_key("main", Role.WATCHER, scopes=[Scope.FLEET]).text
    run.canaries |= {"auditor's key": admin, "scraper's key": scraper}
    assert "deskfleet_sessions" in run.as_key(scraper, "GET", "/metrics").text
    for form in ("ndjson", "csv"):
        exported = run.as_key(admin, "GET", f"/api/v1/audit/export?format={form}").text
        assert "session.control" in exported
        (folder / f"audit.{form}").write_text(exported)
        run.program("viewer.admin", "audit", "export", "--format", form, "--to", str(folder / f"all.{form}"))
    for path in ("/api/v1/audit", "/api/v1/sessions", "/api/v1/hosts", "/api/v1/openapi.json", "/hosts"):
        run.as_key(admin, "GET", path)
    run.program("viewer.admin", "audit", "verify")
    run.program("viewer.admin", "backup", str(folder / "backup.db"))
    address = run.edge.fleet.settings.database
    if isinstance(address, PostgresAddress):
        dumped = subprocess.run([programs() / "pg_dump", address.url], capture_output=True, check=True)
        (folder / "dump.sql").write_bytes(dumped.stdout)
        return
    # While the viewer runs: afterwards it is part of the other file.
    shutil.copy(folder / "deskfleet.db-wal", folder / "write-ahead-log")
    for name, dump in (("deskfleet.db", "dump.sql"), ("backup.db", "backup.sql")):
        with closing(sqlite3.connect(f"file:{folder / name}?mode=ro", uri=True)) as connection:
            (folder / dump).write_text("\n".join(connection.iterdump()))


def searched(folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if file.suffix not in NOT_SEARCHED and "provider" not in file.parts]


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def engine(request: pytest.FixtureRequest) -> Iterator[PostgresServer | None]:
    if request.param == "SQLite":
        yield None
        return
    with running_server() as started:
        yield started


def test_no_secret_is_where_it_has_no_business(
    tmp_path: Path, server: RealOpenSandbox, engine: PostgresServer | None
) -> None:
    (tmp_path / "provider").mkdir()
    folder, hostwatch = tmp_path, free_port()
    canaries = {
        "operator's key": KEY.text,
        "another's key": OTHER_KEY.text,
        "OIDC secret": CLIENT_SECRET,
    }
    canaries["registry password of an image"] = f"registry-{secrets.token_hex(10)}"
    registry = secret_file(folder, "registry.key", canaries["registry password of an image"])
    with_password = image("private", "sleep 1000", display="none", registry_user="ci",
                          registry_password_file=registry)  # fmt: skip
    images = [image("tiny", CANNED_DESKTOP), image("shell", "sleep 1000", display="none"), with_password]
    there = ProviderProcess(folder / "provider", "http://localhost")
    oidc = there.settings(rules=[{"tenant": "main", "role": "watcher", "everybody": True}])
    database: dict[str, Any] = {}
    if engine is not None:
        database = {"database": engine.new().url, "state_directory": str(folder)}
    with (
        ExitStack() as stack,
        command_lines(folder / "command-lines"),
        running_relay(
            folder, publish_address=server.daemon.address, probe_seconds=3, opensandbox_url=server.url
        ) as relay,
        running_edge(
            folder, server, relay, images=images, oidc=oidc, services=[SERVICE],
            hostwatch_url=f"http://127.0.0.1:{hostwatch}", webhooks_allow_http=True,
            webhooks_allow_networks=["127.0.0.0/8"], **database,
        ) as edge,
        running_hostwatch(
            folder, socket=server.daemon.socket, fleet_id=edge.fleet.fleet_id, key=relay.key, port=hostwatch
        ),
    ):  # fmt: skip
        run = stack.enter_context(Run(edge, folder, canaries))
        for name in ("viewer.key", "relay.key", "opensandbox.key"):
            canaries[name] = (folder / name).read_text().strip()
        revoked = edge.fleet.store.accounts.add_key("main", Role.ADMIN)
        edge.fleet.store.accounts.revoke_key(revoked.id)
        canaries["revoked key"] = revoked.text
        signs_in(run)
        signs_in_at_the_provider(run, there)
        session = makes_and_watches_a_desktop(run)
        uses_tickets(run, session)
        enters_a_service(run)
        takes_events(run)
        sends_events(run)
        run.as_key(KEY.text, "POST", "/api/v1/sessions", json={"image": "private", "env": {"X": "y" * 8}})
        uses_the_other_programs(run)
        # A worker that is killed, and one that takes over what that one had in hand.
        edge.fleet.kill()
        made = edge.fleet.create("tiny")
        edge.fleet.start()
        edge.fleet.wait_for(made, Status.RUNNING)
        starts_without_a_database(run)
        shows_each_in_every_wrong_place(run)
        run.as_key(KEY.text, "DELETE", f"/api/v1/sessions/{session.id}")
        gather(run)
    assert len(canaries) > 25
    assert all(len(value) >= 8 for value in canaries.values())
    files = [*searched(folder), *(searched(engine.folder) if engine is not None else [])]
    names = {file.name for file in files}
    stored = {"deskfleet.db", "write-ahead-log"} if engine is None else {"server.log", "PG_VERSION"}
    assert {*EXPECTED, *stored} <= names
    assert_nowhere(files, canaries)
    # Whatever a provider signs begins like this: {"alg":
    assert_nowhere(files, {"a token of the provider's": "eyJhbGciOi"})
    finds_what_is_there(folder, canaries)


def finds_what_is_there(folder: Path, canaries: dict[str, str]) -> None:
    """The search itself: each of them, where there is one."""
    for kind, value in canaries.items():
        planted = folder / "planted.log"
        planted.write_text(json.dumps({"message": f"it was {value}"}))
        with pytest.raises(AssertionError, match="planted"):
            assert_nowhere(searched(folder), {kind: value})
        planted.unlink()
