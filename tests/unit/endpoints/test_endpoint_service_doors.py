"""What the control plane takes and shows over HTTP: engines, probes, reports, keys, canaries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from finery.azureml import endpoints, errors
from finery.azureml.scope import ArmPaths
from finery.endpoints import running, service
from finery.endpoints.gateway import control
from finery.endpoints.gateway.addresses import Addresses
from finery.workspace.place import Workspace

WORKSPACE = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
)
CHAT = f"{WORKSPACE}/onlineEndpoints/chat"
BLUE, GREEN = f"{CHAT}/deployments/blue", f"{CHAT}/deployments/green"
ENDPOINT = {"location": "local", "properties": {"authMode": "Key"}}
PATIENCE = 30.0


@pytest.fixture
def door(
    workspace: Workspace, stand_ins: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """Azure's routes on a workspace without a gateway, with an endpoint `chat`."""
    app = FastAPI(lifespan=lambda app: running.part(app, workspace))
    app.state.workspace = workspace
    errors.install(app)
    app.include_router(endpoints.router)
    app.add_middleware(ArmPaths)
    monkeypatch.setattr("finery.endpoints.gateway.keeper.Keeper.look", lambda _: None)
    monkeypatch.setattr("finery.azureml.deployments._model", lambda _, reference: reference)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.put(CHAT, json=ENDPOINT)
        yield client


def body(model: str = "good", tags: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    properties = {"model": model, "endpointComputeType": "Managed", **more}
    return {"location": "l", "sku": {"capacity": 1}, "tags": tags or {}, "properties": properties}


def deploy(door: TestClient, place: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The deployment once its operation is over."""
    response = door.put(place, json=wanted)
    assert response.status_code in (200, 201), response.text
    url = response.headers["azure-asyncoperation"]
    end = time.monotonic() + PATIENCE
    while door.get(url[url.index("/subscr") :]).json()["status"] == "InProgress":
        assert time.monotonic() < end
        time.sleep(0.02)
    return door.get(place).json()


@pytest.mark.parametrize(
    "wanted",
    [
        body(environmentVariables={"FINERY_ENGINE": "torch"}),
        body(properties={"finery.engine": "torch"}),
        body(tags={"finery.engine": "Torch"}),
        body(environmentVariables={"FINERY_ENGINE": "torch"}, properties={"finery.engine": "vllm"}),
    ],
    ids=["variable", "property", "tag", "the variable wins"],
)
def test_an_engine_is_asked_for_in_the_words_that_a_client_has(
    door: TestClient, workspace: Workspace, wanted: dict[str, Any]
) -> None:
    answer = deploy(door, BLUE, wanted)
    assert service.deployment(workspace, "chat", "blue").engine == "torch"
    about = answer["properties"]["properties"]
    assert (answer["properties"]["engine"], about["finery.reported.engine"]) == ("torch", "torch")
    assert about["finery.reported.context"] == "64"


def test_what_replicas_report_is_not_kept_when_a_client_sends_it_back(
    door: TestClient, workspace: Workspace
) -> None:
    shown = deploy(door, BLUE, body(properties={"mine": "kept"}))
    assert "finery.reported.engine" in shown["properties"]["properties"]
    assert deploy(door, BLUE, shown)["properties"] == shown["properties"]
    found = service.deployment(workspace, "chat", "blue")
    assert (found.wire["properties"]["properties"], found.engine) == ({"mine": "kept"}, "auto")
    assert found.revision == 1, "what it was shown asks for no other replicas"


def test_a_failed_deployment_shows_why(door: TestClient) -> None:
    about = deploy(door, BLUE, body("refuses"))["properties"]
    assert about["provisioningState"] == "Failed"
    assert "it is a table" in about["properties"]["finery.reported.error"]
    about = deploy(door, BLUE, body())["properties"]
    assert "finery.reported.error" not in about["properties"]


def test_another_engine_needs_other_replicas(door: TestClient, workspace: Workspace) -> None:
    deploy(door, BLUE, body())
    deploy(door, BLUE, body(environmentVariables={"FINERY_ENGINE": "torch"}))
    assert service.deployment(workspace, "chat", "blue").revision == 2


def test_probes_are_kept_as_azure_writes_them(door: TestClient, workspace: Workspace) -> None:
    probe = {
        "initialDelay": "PT10M",
        "period": "PT5S",
        "timeout": "PT3S",
        "successThreshold": 2,
        "failureThreshold": 7,
    }
    shown = deploy(door, BLUE, body(livenessProbe=probe, readinessProbe={"period": "PT1S"}))
    assert shown["properties"]["livenessProbe"] == probe
    found = service.deployment(workspace, "chat", "blue")
    assert found.liveness_probe == {
        "initial_delay": 600.0,
        "period": 5.0,
        "timeout": 3.0,
        "success_threshold": 2,
        "failure_threshold": 7,
    }
    assert (found.readiness_probe["period"], found.readiness_probe["failure_threshold"]) == (1, 30)


def test_every_fault_of_engine_and_probes_comes_in_one_answer(door: TestClient) -> None:
    wrong = body(
        environmentVariables={"FINERY_ENGINE": "torsh"},
        livenessProbe={"successThreshold": 0, "period": "PT0S", "timeout": "soon"},
        readinessProbe={"failureThreshold": True},
    )
    response = door.put(BLUE, json=wrong)
    told = response.json()["error"]["message"]
    assert response.status_code == 400
    for word in (
        *("Did you mean torch?", "livenessProbe.successThreshold", "livenessProbe.period"),
        *("livenessProbe.timeout", "readinessProbe.failureThreshold"),
    ):
        assert word in told
    assert door.get(BLUE).status_code == 404


def test_an_endpoint_gives_out_the_gateways_addresses(
    door: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "addresses", lambda _: Addresses("localhost", 9443, 9442))
    about = door.get(CHAT).json()["properties"]
    assert about["scoringUri"] == "https://localhost:9443/endpoints/chat/score"
    assert about["swaggerUri"] == "https://localhost:9443/endpoints/chat/swagger.json"
    assert about["openaiBaseUrl"] == "http://127.0.0.1:9442/endpoints/chat/v1"


def test_the_gateway_is_told_before_a_change_is_answered(
    door: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def calls(method: str, path: str, **more: Any) -> int:
        del told[:]
        assert door.request(method, path, **more).status_code < 300
        return len(told)

    deploy(door, BLUE, body())
    monkeypatch.setattr(running.Supervisor, "look", lambda _: True)
    monkeypatch.setattr(control, "reload", lambda _: told.append("reload"))
    all_traffic = {**ENDPOINT, "properties": {"authMode": "Key", "traffic": {"blue": 100}}}
    assert calls("PUT", CHAT, json=all_traffic) == 1
    assert calls("POST", f"{CHAT}/regenerateKeys", json={"keyType": "Primary"}) == 1
    assert calls("PATCH", BLUE, json={"sku": {"capacity": 2}}) == 1
    assert calls("DELETE", CHAT) == 1


def test_a_deleted_deployment_can_be_made_again_once_it_is_gone(door: TestClient) -> None:
    deploy(door, BLUE, body())
    assert door.delete(BLUE).status_code == 202
    again = door.put(BLUE, json=body())
    if again.status_code == 409:
        assert "being deleted" in again.json()["error"]["message"]
    end = time.monotonic() + PATIENCE
    while door.get(BLUE).status_code != 404 and again.status_code == 409:
        assert time.monotonic() < end
        time.sleep(0.02)
    if again.status_code == 409:
        assert door.delete(BLUE).status_code == 204
    assert deploy(door, BLUE, body())["properties"]["provisioningState"] == "Succeeded"


def test_deleting_twice_is_one_deletion(door: TestClient) -> None:
    deploy(door, BLUE, body())
    first, second = door.delete(CHAT), door.delete(CHAT)
    assert first.status_code == 202
    assert second.status_code in (202, 204)
    for answer in (first, second):
        if url := answer.headers.get("azure-asyncoperation"):
            end = time.monotonic() + PATIENCE
            while door.get(url[url.index("/subscr") :]).json()["status"] != "Succeeded":
                assert time.monotonic() < end
                time.sleep(0.02)
    assert door.delete(CHAT).status_code == 204


@pytest.fixture
def both(door: TestClient) -> TestClient:
    """`blue` has all the traffic, `green` none."""
    for place in (BLUE, GREEN):
        deploy(door, place, body())
    traffic = {**ENDPOINT, "properties": {"authMode": "Key", "traffic": {"blue": 100}}}
    assert door.put(CHAT, json=traffic).status_code == 200
    return door


def test_a_canary_begins_is_shown_and_is_aborted(both: TestClient) -> None:
    wanted = {"deployment": "green", "steps": [10, 100], "minRequests": 5, "stepMinutes": 1}
    made = both.post(f"{CHAT}/canary", json=wanted)
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["state"], told["share"], told["stable"]) == ("Running", 10, "blue")
    assert told["guards"] == ["error_rate", "latency_p95"]
    assert both.get(CHAT).json()["properties"]["traffic"] == {"blue": 90, "green": 10}
    assert both.get(f"{CHAT}/canary").json() == {"value": [told]}
    assert both.post(f"{CHAT}/canary", json=wanted).status_code == 409
    ended = both.post(f"{CHAT}/canary/abort").json()
    assert (ended["state"], ended["endedAt"] is not None) == ("Aborted", True)
    assert both.get(CHAT).json()["properties"]["traffic"] == {"blue": 100, "green": 0}
    assert both.post(f"{CHAT}/canary/abort").status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"deployment": "red"},
        {"deployment": "green", "steps": 5},
        {"deployment": "green", "steps": [0.5, 100]},
        {"deployment": "green", "steps": []},
        {"deployment": "green", "guards": ["cost"]},
        {"deployment": "green", "guards": [["error_rate"]]},
        {"deployment": "green", "minRequests": "many"},
        {"deployment": "green", "stepMinutes": "1"},
        {"deployment": "blue"},
    ],
)
def test_a_wrong_canary_is_a_400_and_moves_no_traffic(
    both: TestClient, wrong: dict[str, Any]
) -> None:
    assert both.post(f"{CHAT}/canary", json=wrong).status_code == 400
    assert both.get(CHAT).json()["properties"]["traffic"] == {"blue": 100}


def test_a_canary_of_no_endpoint_is_a_404(door: TestClient) -> None:
    nobody = f"{WORKSPACE}/onlineEndpoints/nobody/canary"
    assert door.get(nobody).status_code == 404
    assert door.post(nobody, json={"deployment": "green"}).status_code == 404


def test_a_canary_goes_with_its_endpoint(both: TestClient) -> None:
    both.post(f"{CHAT}/canary", json={"deployment": "green", "steps": [5]})
    url = both.delete(CHAT).headers["azure-asyncoperation"]
    end = time.monotonic() + PATIENCE
    while both.get(url[url.index("/subscr") :]).json()["status"] != "Succeeded":
        assert time.monotonic() < end
        time.sleep(0.02)
    both.put(CHAT, json=ENDPOINT)
    assert both.get(f"{CHAT}/canary").json() == {"value": []}
