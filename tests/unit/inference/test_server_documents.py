"""The replica's OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from small_replica import END, app_of, scripted
from starlette.testclient import TestClient

from finery.inference.engines.stub import stub_renderer
from finery.inference.protocol.azure_ml import read_score
from finery.inference.protocol.reading import ROUTES


@pytest.fixture
def document() -> dict[str, Any]:
    client = TestClient(app_of(scripted("a"), stub_renderer()))
    return client.get("/swagger.json").json()


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from objects(inner)


def test_it_names_every_route_that_answers(document: dict[str, Any]) -> None:
    assert set(ROUTES) <= set(document["paths"])
    assert all("post" in document["paths"][path] for path in ROUTES)


def test_its_example_of_a_score_is_one_that_is_taken(document: dict[str, Any]) -> None:
    body = document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    (ask,) = read_score(body["example"]).asks
    assert (ask.temperature, ask.top_p, ask.max_new_tokens) == (0.6, 0.9, 200)


REQUIRED = {
    "messages": [{"role": "user", "content": "Hello"}],
    "prompt": "Hello",
    "input_data": {"input_string": [{"role": "user", "content": "Hello"}]},
}


def edges(schema: dict[str, Any]) -> list[Any]:
    """Values at the edges of what a schema of one setting allows."""
    if schema["type"] == "array":
        return [[], ["x"] * schema["maxItems"]]
    if schema["type"] == "boolean":
        return [True, False]
    return [schema[end] for end in ("minimum", "maximum") if end in schema] or ["text"]


@pytest.mark.parametrize("path", ROUTES)
def test_every_setting_that_it_names_is_taken_up_to_its_bounds(
    document: dict[str, Any], path: str
) -> None:
    client = TestClient(app_of(scripted(f"a{END}"), stub_renderer()))
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    schema = body["schema"]
    found = {name: REQUIRED[name] for name in schema["required"]}
    inside = path == "/score"
    if inside:
        schema = schema["properties"]["input_data"]["properties"]["parameters"]
    settings = {k: v for k, v in schema["properties"].items() if k not in (*REQUIRED, "model")}
    assert len(settings) > 5
    for name, about in settings.items():
        for value in edges(about):
            sent = found | {name: value}
            if inside:
                sent = {"input_data": {**found["input_data"], "parameters": {name: value}}}
            response = client.post(path, json=sent)
            assert response.status_code == 200, (name, value, response.text)


def test_it_is_openapi_3(document: dict[str, Any]) -> None:
    """The rules of https://spec.openapis.org/oas/v3.0.3 that this document could break."""
    assert re.fullmatch(r"3\.0\.\d", document["openapi"])
    assert document["info"].keys() >= {"title", "version"}
    for path, item in document["paths"].items():
        assert path.startswith("/")
        for method, operation in item.items():
            assert method in ("get", "post")
            assert operation["responses"], "at least one"
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d", status)
                assert isinstance(response["description"], str)
            if "requestBody" in operation:
                assert operation["requestBody"]["content"].keys() == {"application/json"}
    known = set(document["components"]["securitySchemes"])
    assert all(set(one) <= known for one in document["security"])
    types = {one["type"] for one in objects(document) if isinstance(one.get("type"), str)}
    assert types <= {"object", "array", "string", "boolean", "number", "integer", "http"}
    assert all("items" in one for one in objects(document) if one.get("type") == "array")
    json.dumps(document)


def test_the_validator_agrees_where_it_is_installed(document: dict[str, Any]) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document)
