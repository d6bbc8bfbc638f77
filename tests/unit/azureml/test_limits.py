"""Bodies that would hurt the service are refused before anything reads them."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from finery.azureml.limits import MAX_BYTES, MAX_DEPTH, BodyLimits, depth


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    @app.put("/{path:path}")
    async def echo(path: str, request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    app.add_middleware(BodyLimits)
    return TestClient(app)


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def test_a_hundred_megabytes_are_refused_with_413(client: TestClient) -> None:
    answer = client.put("/jobs/j", content=b"x" * 100_000_000)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "RequestBodyTooLarge"


def test_a_long_body_without_a_length_is_refused_too(client: TestClient) -> None:
    pieces = (b"x" * 2**20 for _ in range(MAX_BYTES // 2**20 + 1))
    assert client.put("/jobs/j", content=pieces).status_code == 413


def test_blobs_may_be_as_long_as_they_are(client: TestClient) -> None:
    answer = client.put("/_blob/c/b", content=b"x" * (MAX_BYTES + 1))
    assert answer.json() == {"bytes": MAX_BYTES + 1}


def test_deep_json_is_refused_with_400(client: TestClient) -> None:
    answer = client.put("/jobs/j", content=nested(100_000))
    assert answer.status_code == 400
    assert str(MAX_DEPTH) in answer.json()["error"]["message"]


def test_an_ordinary_body_arrives_whole(client: TestClient) -> None:
    body = json.dumps({"text": "[" * 500 + '"{' * 90, "list": [{}] * 200}).encode()
    assert client.put("/jobs/j", content=body).json() == {"bytes": len(body)}


@pytest.mark.parametrize("levels", [1, MAX_DEPTH, MAX_DEPTH + 1, 3000])
def test_depth_counts_what_json_nests(levels: int) -> None:
    assert depth(nested(levels)) == (levels if levels > MAX_DEPTH else 0)


def test_brackets_inside_texts_do_not_count() -> None:
    assert depth(json.dumps({"a": '[{"\\' * 5000, "b": ["]"] * 100}).encode()) == 2
