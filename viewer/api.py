"""API v1: the catalogue, the hosts, who you are, and this description. Sessions are in `session_api`."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from viewer import __version__, openapi
from viewer.access import anyone, needs, principal
from viewer.answers import json_answer
from viewer.hosts import host_list
from viewer.incoming import DrainHost, json_body
from viewer.model import Role, Scope, utcnow
from viewer.openapi import Answer, Operation, describes
from viewer.problems import not_found
from viewer.public import Catalogue, HostList, Me, PublicHost, catalogue
from viewer.services import services

api = Blueprint("api", __name__, url_prefix="/api/v1")


@api.get("/images")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="Images and defaults for new desktops", answers={200: Answer("The catalogue.", Catalogue)}
    )
)
def list_images() -> Response:
    return json_answer(catalogue(services().settings))


@api.get("/hosts")
@needs(Role.WATCHER)
@describes(
    Operation(summary="Hosts that carry desktops", answers={200: Answer("All of the fleet's.", HostList)})
)
def list_hosts() -> Response:
    return json_answer(_hosts())


@api.put("/hosts/<name>/draining")
@needs(Role.ADMIN, scope=Scope.FLEET)
@describes(
    Operation(
        summary="Give a host no new sandboxes, or give it some again",
        body=DrainHost,
        answers={200: Answer("The host; its running sandboxes go on.", PublicHost)},
        problems=(400, 404, 413, 415, 422),
    )
)
def drain_host(name: str) -> Response:
    wanted = json_body(DrainHost)
    if name not in [host.name for host in services().settings.sandbox_hosts]:
        raise not_found()
    services().store.fleet.drain(name, is_draining=wanted.draining, tenant_id=principal().tenant)
    return json_answer(next(host for host in _hosts().items if host.name == name))


def _hosts() -> HostList:
    here = services()
    return host_list(
        here.settings,
        who=principal(),
        records=here.store.fleet.hosts(),
        used=here.store.fleet.reserved_by_host(),
        desktops=here.store.tenant(principal().tenant).desktops(),
        own=here.store.tenant(principal().tenant).live_by_host(),
        last_ends=here.store.fleet.last_ends(),
        now=utcnow(),
    )


@api.get("/me")
@needs(Role.WATCHER, scope=None)
@describes(Operation(summary="Who this credential belongs to", answers={200: Answer("You.", Me)}))
def get_me() -> Response:
    who = principal()
    return json_answer(Me.of(who, name=services().store.accounts.name_of(who)))


@api.get("/openapi.json")
@anyone
@describes(Operation(summary="This description", answers={200: Answer("OpenAPI 3.1.")}))
def get_openapi() -> Response:
    return Response(openapi.served(current_app, __version__), content_type="application/json")
