from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.viewer_fixtures import People, ViewerClient, new_session
from viewer import __version__
from viewer.openapi import document
from viewer.public import PublicSession
from viewer.store import Store


@pytest.fixture
def described(client: ViewerClient) -> Any:
    return client.get("/api/v1/openapi.json").json


def test_every_route_of_the_api_is_described(app: Flask, described: Any) -> None:
    routes = {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(("/api/v1/", "/webhooks/", "/openclaw/"))
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == routes


def test_every_reference_leads_somewhere(described: Any) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if "$ref" in value else set()
            return own.union(*(references(inner) for inner in value.values()))
        return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()

    names = {reference.removeprefix("#/components/schemas/") for reference in references(described)}
    assert names
    assert names <= set(described["components"]["schemas"])


def test_description_of_a_session_is_the_session(
    described: Any, client: ViewerClient, store: Store, people: People
) -> None:
    session = new_session(store, people.alice)
    answer = client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers)
    schema = described["components"]["schemas"]["PublicSession"]
    assert list(schema["properties"]) == list(answer.json)
    assert schema["required"] == list(PublicSession.model_fields)


def test_create_says_what_it_takes_and_what_can_go_wrong(described: Any) -> None:
    create = described["paths"]["/api/v1/sessions"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/CreateSession")
    assert {"201", "202", "401", "403", "413", "422", "502", "503"} <= set(create["responses"])


def test_route_of_the_api_that_says_nothing_of_itself_is_an_error() -> None:
    app = Flask("silent")
    app.add_url_rule("/api/v1/silent", view_func=lambda: "", endpoint="silent")
    with pytest.raises(TypeError, match="has no @describes"):
        document(app, "0")


def test_version_is_the_projects() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__
