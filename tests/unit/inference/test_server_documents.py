"""The replica's OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from small_replica import app_of, scripted
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
