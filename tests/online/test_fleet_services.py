"""A service of the operator's own, on a sandbox host behind the fleet's one edge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from inventory.models import OwnService
from roles.wheel import HOME
from tests.hosts.network import inside
from tests.online.fleet import Api, eventually
from tests.online.spread import SpreadFleet
from tests.online.streams import client_of

pytestmark = pytest.mark.host

ECHO = """
from aiohttp import WSMsgType, web

async def health(request):
    return web.Response(text="well")

async def seen(request):
    return web.json_response({name.lower(): value for name, value in request.headers.items()})

async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket

app = web.Application()
app.router.add_get("PATH", health)
app.router.add_get("/seen", seen)
app.router.add_get("/echo", echo)
web.run_app(app, host="127.0.0.1", port=PORT, print=None)
"""


@pytest.fixture(scope="module")
def service(bare_spread: SpreadFleet) -> Iterator[OwnService]:
    """The example's own service, running on its host."""
    [found] = [service for service in bare_spread.site.services or () if isinstance(service, OwnService)]
    host = bare_spread.machines[str(found.host)]
    program = ECHO.replace("PATH", found.health or "/healthz").replace("PORT", str(found.port))
    python = f"{HOME}/current/bin/python"
    host.daemon.docker("exec", "--detach", host.name, python, "-c", program)
    eventually(lambda: f":{found.port} " in host.run("ss -Hlnt").out, within=15, what="the service listens")
    yield found
    host.run(f"pkill -f '^{python} -c'", check=False)


def origin_of(spread: SpreadFleet, service: OwnService) -> str:
    return spread.site.settings.origins[0].replace("://", f"://{service.name}.")


def test_own_service_is_entered_by_a_ticket_and_answers_on_a_websocket(
    spread: SpreadFleet, service: OwnService
) -> None:
    api = spread.api_of(service.tenant or spread.site.tenants[0])
    origin = origin_of(spread, service)

    async def visit() -> None:
        async with client_of(api) as client:
            shut = await client.get(f"{origin}/seen", allow_redirects=False)
            assert shut.status in (303, 401)
            ticket = await new_ticket(client, api, service)
            entered = await client.post(ticket["url"], data=ticket_form(ticket), allow_redirects=False)
            assert (entered.status, entered.headers["Location"]) == (303, service.health)
            assert await (await client.get(f"{origin}{service.health}")).text() == "well"
            seen = await (await client.get(f"{origin}/seen")).json()
            assert not {"cookie", "authorization", "x-df-upstream", "x-df-grant"} & set(seen)
            async with client.ws_connect(f"{origin}/echo", origin=origin) as socket:
                await socket.send_str("through two Caddys")
                assert await socket.receive_str(timeout=10) == "through two Caddys"
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect(f"{origin}/echo", origin="https://elsewhere.example.com")
            again = await client.post(ticket["url"], data=ticket_form(ticket), allow_redirects=False)
            assert again.status == 403

    def ticket_form(ticket: dict[str, str]) -> dict[str, str]:
        return {"ticket": ticket["ticket"], "next": str(service.health)}

    inside(api.pid, lambda: asyncio.run(visit()), timeout=60)


async def new_ticket(client: aiohttp.ClientSession, api: Api, service: OwnService) -> dict[str, str]:
    answer = await client.post(
        f"{api.url}/api/v1/services/{service.name}/entries", headers={"Authorization": f"Bearer {api.key}"}
    )
    assert answer.status == 201, await answer.text()
    made: dict[str, str] = await answer.json()
    return made


def test_own_service_of_another_tenant_does_not_exist(spread: SpreadFleet, service: OwnService) -> None:
    stranger = spread.api_of(next(tenant for tenant in spread.site.tenants if tenant != service.tenant))
    assert stranger.call("POST", f"/api/v1/services/{service.name}/entries").status_code == 404
