"""Endpoints over HTTP: Azure's routes, the scoring address, OpenAI's routes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from finery.azureml import endpoints, errors, scoring
from finery.azureml.scope import ArmPaths
from finery.endpoints import routing, running
from finery.openai import chat
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
    for door in (scoring, chat, endpoints):
        app.include_router(door.router)
    app.add_middleware(ArmPaths)
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


def bearer(http: TestClient) -> dict[str, str]:
    key = http.post(f"{CHAT}/listKeys").json()["primaryKey"]
    return {"authorization": f"Bearer {key}"}


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
        ("/endpoints/chat/score", "post"),
        ("/endpoints/chat/v1/models", "get"),
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


def test_a_request_reaches_the_deployment_with_traffic(served: TestClient) -> None:
    response = served.post("/endpoints/chat/score", json={"a": 1}, headers=bearer(served))
    assert response.status_code == 200
    assert response.json()["by"] == "blue"
    assert response.json()["body"] == {"a": 1}
    assert response.headers["azureml-model-deployment"] == "blue"


def test_the_header_names_a_deployment(served: TestClient) -> None:
    finished(served, served.put(f"{CHAT}/deployments/green", json=deployment()))
    header = bearer(served) | {"azureml-model-deployment": "green"}
    assert served.post("/endpoints/chat/score", json={}, headers=header).json()["by"] == "green"
    header["azureml-model-deployment"] = "red"
    assert served.post("/endpoints/chat/score", json={}, headers=header).status_code == 404


def test_nobody_is_answered_without_the_key(served: TestClient) -> None:
    for header in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic x"}):
        assert served.post("/endpoints/chat/score", json={}, headers=header).status_code == 401
        assert served.get("/endpoints/chat/v1/models", headers=header).status_code == 401
        assert served.get("/endpoints/chat/health", headers=header).status_code == 401


def test_what_the_model_refuses_is_a_424_with_azures_headers(served: TestClient) -> None:
    response = served.post("/endpoints/chat/score", json={"fail": 400}, headers=bearer(served))
    assert response.status_code == 424
    assert response.headers["ms-azureml-model-error-statuscode"] == "400"
    assert response.headers["ms-azureml-model-error-reason"] == "the model"
    assert "says no" in response.json()["error"]["message"]


def test_a_slow_model_is_a_408(served: TestClient) -> None:
    quick = deployment(requestSettings={"requestTimeout": "PT0.2S"})
    finished(served, served.put(BLUE, json=quick))
    response = served.post("/endpoints/chat/score", json={"sleep": 5}, headers=bearer(served))
    assert response.status_code == 408
    assert "0.2 seconds" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["score", "v1/chat/completions"])
def test_a_busy_model_is_a_429_after_which_clients_try_again(
    served: TestClient, path: str, workspace: Workspace
) -> None:
    (replica,) = routing.table(workspace, "chat").replicas["blue"]
    gateway = served.app.state.endpoints.gateway  # type: ignore[attr-defined]
    gateway.open_requests[replica.id] = 2
    response = served.post(f"/endpoints/chat/{path}", json={}, headers=bearer(served))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["score", "v1/chat/completions"])
def test_a_model_that_is_being_started_is_a_503_after_which_clients_try_again(
    http: TestClient, path: str
) -> None:
    http.put(CHAT, json=ENDPOINT)
    http.put(BLUE, json=deployment("slow"))
    http.put(CHAT, json=with_traffic(blue=100))
    response = http.post(f"/endpoints/chat/{path}", json={}, headers=bearer(http))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "no replica that answers yet" in response.json()["error"]["message"]


def test_an_endpoint_without_traffic_is_a_404_and_health_says_who_answers(
    served: TestClient,
) -> None:
    header = bearer(served)
    assert served.get("/endpoints/chat/health", headers=header).json()["deployment"] == "blue"
    served.put(CHAT, json=ENDPOINT)
    assert served.post("/endpoints/chat/score", json={}, headers=header).status_code == 404


def test_openais_models_are_the_endpoint_and_its_deployments(served: TestClient) -> None:
    header = bearer(served)
    body = served.get("/endpoints/chat/v1/models", headers=header).json()
    assert [model["id"] for model in body["data"]] == ["chat", "blue"]
    assert served.get("/endpoints/chat/v1/models/blue", headers=header).json() == body["data"][1]
    assert served.get("/endpoints/chat/v1/models/red", headers=header).status_code == 404


@pytest.mark.parametrize("model", ["chat", "blue", None])
def test_a_chat_goes_to_the_deployment_that_its_model_means(
    served: TestClient, model: str | None
) -> None:
    body = {"messages": [], **({"model": model} if model else {})}
    url = "/endpoints/chat/v1/chat/completions"
    said = served.post(url, json=body, headers=bearer(served)).json()
    assert said["body"] == {"messages": [], "model": "blue"}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "UserError"),
        (b"[]", 400, "UserError"),
        (b'{"model": "gpt-4"}', 404, "model_not_found"),
        (b'{"model": ["blue"]}', 404, "model_not_found"),
    ],
)
def test_openais_errors_have_openais_shape(
    served: TestClient, content: bytes, status: int, code: str
) -> None:
    url = "/endpoints/chat/v1/chat/completions"
    response = served.post(url, content=content, headers=bearer(served))
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_what_the_model_says_to_openais_client_is_passed_on_as_it_is(served: TestClient) -> None:
    url = "/endpoints/chat/v1/chat/completions"
    response = served.post(url, json={"fail": 400}, headers=bearer(served))
    assert response.status_code == 400
    assert response.json() == {"error": {"message": "the model\nsays no"}}


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
