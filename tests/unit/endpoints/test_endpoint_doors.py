"""Endpoints over HTTP: Azure's routes. (Their gateway has tests of its own.)"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from finery.azureml import endpoints, errors
from finery.azureml.scope import ArmPaths
from finery.endpoints import running
from finery.workspace.place import Workspace

WORKSPACE = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
)
CHAT = f"{WORKSPACE}/onlineEndpoints/chat"
BLUE = f"{CHAT}/deployments/blue"
ENDPOINT = {"location": "local", "properties": {"authMode": "Key", "description": "d"}}


@pytest.fixture
def http(
    workspace: Workspace, stand_ins: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    app = FastAPI(lifespan=lambda app: running.part(app, workspace))
    app.state.workspace = workspace
    errors.install(app)
    app.include_router(endpoints.router)
    app.add_middleware(ArmPaths)
    monkeypatch.setattr("finery.endpoints.gateway.keeper.Keeper.look", lambda _: None)
    # A model's name says how its stand-in behaves; nothing is looked up.
    monkeypatch.setattr("finery.azureml.deployments._model", lambda _, reference: reference)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def deployment(model: str = "good", **properties: Any) -> dict[str, Any]:
    settings = {"model": model, "endpointComputeType": "Managed", **properties}
    return {"location": "l", "sku": {"name": "Default", "capacity": 1}, "properties": settings}


def finished(http: TestClient, response: Any) -> dict[str, Any]:
    """The operation that a response points to, once it is over."""
    assert response.status_code in (200, 201, 202), response.text
    assert int(response.headers["retry-after-ms"]) < 1000
    url = response.headers["azure-asyncoperation"]
    end = time.monotonic() + 30
    while (body := http.get(url[url.index("/subscriptions") :]).json())["status"] == "InProgress":
        assert time.monotonic() < end
        time.sleep(0.02)
    return body


@pytest.fixture
def served(http: TestClient) -> TestClient:
    """An endpoint `chat` whose deployment `blue` has all traffic."""
    http.put(CHAT, json=ENDPOINT)
    assert finished(http, http.put(BLUE, json=deployment()))["status"] == "Succeeded"
    http.put(CHAT, json=with_traffic(blue=100))
    return http


def with_traffic(**shares: int) -> dict[str, Any]:
    return {**ENDPOINT, "properties": {**ENDPOINT["properties"], "traffic": shares}}


def test_what_two_change_at_once_is_both_kept(http: TestClient) -> None:
    http.put(CHAT, json=ENDPOINT)

    def change(number: int) -> int:
        body = {"properties": {"properties": {}, f"note{number}": "kept"}}
        return http.patch(CHAT, json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(change, range(24))) == {200}
    properties = http.get(CHAT).json()["properties"]
    assert [number for number in range(24) if f"note{number}" not in properties] == []


def test_more_of_a_log_than_fits_an_answer_is_refused(served: TestClient) -> None:
    answer = served.post(f"{BLUE}/getLogs", json={"tail": 10**9})
    assert (answer.status_code, "20000" in answer.json()["error"]["message"]) == (400, True)


def test_an_endpoint_is_there_as_soon_as_it_is_created(http: TestClient) -> None:
    body = http.put(CHAT, json=ENDPOINT | {"tags": {"a": "b"}}).json()
    assert body["properties"]["provisioningState"] == "Succeeded"
    assert body["properties"]["scoringUri"].endswith("/endpoints/chat/score")
    assert body["properties"]["description"] == "d"
    assert (body["tags"], body["name"]) == ({"a": "b"}, "chat")
    assert body["id"] == CHAT
    assert http.get(CHAT).json() == body
    assert http.get(f"{WORKSPACE}/onlineEndpoints").json() == {"value": [body]}


def test_a_patch_changes_what_it_names_and_leaves_the_rest(http: TestClient) -> None:
    http.put(CHAT, json=ENDPOINT | {"tags": {"a": "b"}})
    body = http.patch(CHAT, json={"tags": {"c": "d"}}).json()
    assert body["tags"] == {"c": "d"}
    assert body["properties"]["description"] == "d"


def test_keys_are_shown_to_who_asks_and_stand_nowhere_else(http: TestClient) -> None:
    own = {"primaryKey": "p" * 20, "secondaryKey": "s" * 20}
    body = {**ENDPOINT, "properties": {"authMode": "Key", "keys": own}}
    assert "pppp" not in http.put(CHAT, json=body).text
    assert "pppp" not in http.get(CHAT).text
    assert http.post(f"{CHAT}/listKeys").json() == own
    assert http.post(f"{CHAT}/regenerateKeys", json={"keyType": "Primary"}).status_code == 200
    after = http.post(f"{CHAT}/listKeys").json()
    assert after["primaryKey"] != own["primaryKey"]
    assert after["secondaryKey"] == own["secondaryKey"]


def test_an_endpoint_with_tokens_gives_tokens(http: TestClient) -> None:
    http.put(CHAT, json={"location": "l", "properties": {"authMode": "AMLToken"}})
    token = http.post(f"{CHAT}/token").json()
    assert token["expiryTimeUtc"] > token["refreshAfterTimeUtc"] > time.time()
    assert http.post(f"{CHAT}/listKeys").status_code == 409


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"properties": {"authMode": "Password"}}, "AADToken"),
        ({"properties": {"traffic": {"blue": 100}}}, "no such deployment"),
        ({"properties": {"keys": {"primaryKey": "short"}}}, "16 characters"),
        ({"properties": []}, "properties"),
    ],
)
def test_a_wrong_endpoint_is_a_400(http: TestClient, body: Any, told: str) -> None:
    response = http.put(CHAT, json=body)
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (CHAT, "get"),
        (BLUE, "get"),
        (f"{CHAT}/deployments", "get"),
        (f"{CHAT}/listKeys", "post"),
        (f"{WORKSPACE}/endpointOperations/x", "get"),
    ],
)
def test_what_is_not_there_is_a_404(http: TestClient, path: str, method: str) -> None:
    assert http.request(method, path).status_code == 404


def test_deleting_what_is_not_there_is_a_204(http: TestClient) -> None:
    assert http.delete(CHAT).status_code == 204
    assert http.delete(BLUE).status_code == 204


def test_a_deployment_is_shown_with_what_the_sdk_reads(served: TestClient) -> None:
    body = served.get(BLUE).json()
    assert body["id"] == BLUE
    assert body["sku"] == {"name": "Default", "capacity": 1}
    assert body["properties"]["provisioningState"] == "Succeeded"
    assert body["properties"]["scaleSettings"] == {"scaleType": "Default"}
    assert body["properties"]["model"] == "good"
    assert served.get(f"{CHAT}/deployments").json() == {"value": [body]}
    assert served.get(f"{BLUE}/skus").json()["value"][0]["capacity"]["maximum"] == 50


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"requestSettings": {"requestTimeout": "90"}}, "PT1M30S"),
        ({"requestSettings": {"requestTimeout": "PT2H"}}, "requestTimeout"),
        ({"requestSettings": {"maxConcurrentRequestsPerInstance": 0}}, "maxConcurrent"),
        ({"livenessProbe": {"failureThreshold": 0}}, "failureThreshold"),
        ({"environmentVariables": {"A": []}}, "environmentVariables"),
    ],
)
def test_a_wrong_deployment_is_a_400_and_starts_nothing(
    http: TestClient, properties: dict[str, Any], told: str
) -> None:
    http.put(CHAT, json=ENDPOINT)
    response = http.put(BLUE, json=deployment(**properties))
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]
    assert http.get(BLUE).status_code == 404


def test_every_fault_of_a_deployment_comes_in_one_answer(http: TestClient) -> None:
    http.put(CHAT, json=ENDPOINT)
    wrong = {"requestSettings": {"requestTimeout": "soon"}, "livenessProbe": {"period": "x"}}
    body = deployment(**wrong) | {"sku": {"capacity": 0}}
    told = http.put(BLUE, json=body).json()["error"]["message"]
    for place in ("requestSettings.requestTimeout", "livenessProbe.period", "sku.capacity"):
        assert place in told


@pytest.mark.parametrize(
    "properties",
    [
        {"codeConfiguration": {"codeId": "c", "scoringScript": "score.py"}},
        {"environmentId": "e"},
        {"endpointComputeType": "Kubernetes"},
    ],
)
def test_what_finery_does_not_have_is_a_501_that_names_it(
    http: TestClient, properties: dict[str, Any]
) -> None:
    http.put(CHAT, json=ENDPOINT)
    assert http.put(BLUE, json=deployment(**properties)).status_code == 501


def test_a_failed_deployment_says_why_in_its_operation(http: TestClient) -> None:
    http.put(CHAT, json=ENDPOINT)
    operation = finished(http, http.put(BLUE, json=deployment("refuses")))
    assert operation["status"] == "Failed"
    assert "it is a table" in operation["error"]["message"]
    assert http.get(BLUE).json()["properties"]["provisioningState"] == "Failed"
    log = http.post(f"{BLUE}/getLogs", json={"tail": 1}).json()["content"]
    assert log == "The model could not be served: it is a table."


def test_a_patch_scales_a_deployment(served: TestClient) -> None:
    response = served.patch(BLUE, json={"sku": {"capacity": 2}})
    assert finished(served, response)["status"] == "Succeeded"
    body = served.get(BLUE).json()
    assert body["sku"] == {"name": "Default", "capacity": 2}
    assert body["properties"]["model"] == "good"


def test_a_deployment_with_traffic_stays_and_goes_with_its_endpoint(served: TestClient) -> None:
    assert served.delete(BLUE).status_code == 409
    assert finished(served, served.delete(CHAT))["status"] == "Succeeded"
    assert served.get(CHAT).status_code == 404


def test_a_name_that_was_deleted_can_be_used_again(served: TestClient) -> None:
    finished(served, served.delete(CHAT))
    assert served.put(CHAT, json=ENDPOINT).status_code == 200
    assert finished(served, served.put(BLUE, json=deployment()))["status"] == "Succeeded"
