"""Requests that no SDK sends: bodies that are none, paths that lead out, tokens of others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from fastapi.routing import APIRoute
from refusals import GROUP, PATIENCE, WORKSPACE, code_of, owner, unchanged, workspace_of
from service_process import Service

from finery.azureml import caller
from finery.service.app import DOORS
from finery.workspace import identity

PUBLIC = ("/metadata/endpoints", "/discovery", "/healthz")  # no data, no token
DEEP = b'{"properties": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001
REGISTRY = "/mferp/managementfrontend" + GROUP + "/registries/azureml"


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with owner(service) as client:
        yield client


def routes() -> list[tuple[str, str]]:
    """Every method and path template of the service's doors."""

    def below(entries: Any) -> Iterator[APIRoute]:
        for entry in entries:
            if isinstance(entry, APIRoute):
                yield entry
            else:
                yield from below(entry.original_router.routes)

    return [
        (method, route.path)
        for door in DOORS
        for route in below(door.router.routes)
        for method in sorted(route.methods - {"HEAD", "OPTIONS"})
    ]


def filled(template: str, word: str = "x") -> str:
    """An address of a route: a word for every name in its template."""
    for part in [part.split("}")[0] for part in template.split("{")[1:]]:
        value = {"kind:assets": "models", "plural": "models", "reg": "azureml"}.get(part, word)
        template = template.replace("{" + part + "}", value)
    return template


BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "application/json"),
    "not JSON": (b"{", "application/json"),
    "another kind": (b'{"properties": {}}', "text/plain"),
    "no object": (b"[1, 2]", "application/json"),
    "null": (b"null", "application/json"),
    "too deep": (DEEP, "application/json"),
    "no UTF-8": (b'{"properties": "\xff"}', "application/json"),
    "wrong shape": (b'{"properties": [5], "assetId": 5, "sourceAssetId": {}}', "application/json"),
    "long number": (b'{"properties": ' + b"1" * 10_000 + b"}", "application/json"),
    "no characters": (
        rb'{"properties": {"description": "\ud800", "tags": {"a": "\u0000"}}, "x": "\u0000"}',
        "application/json",
    ),
}
# Routes whose body is data, or that need none.
BODILESS = (
    *("/cancel", "/listNodes", "/restart", "/stop", "/start", "/listSecrets", "/listKeys"),
    *("/token", "/startPendingUpload", "/msi/token"),
)


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_none_is_refused_by_every_door(
    http: httpx.Client, service: Service, body: str
) -> None:
    content, kind = BODIES[body]
    asked = 0
    with unchanged(service):
        for method, template in routes():
            skipped = template.endswith(BODILESS) or template.startswith(("/_blob", "/mlflow"))
            if method in ("GET", "DELETE") or skipped:
                continue
            path = filled(template)
            answer = http.request(method, path, content=content, headers={"Content-Type": kind})
            assert 400 <= answer.status_code < 502, f"{method} {path}: {answer.text[:1000]}"
            assert answer.status_code != 500, f"{method} {path}: {answer.text[:1000]}"
            asked += 1
    assert asked > 20
