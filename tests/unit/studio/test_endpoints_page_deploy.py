"""The form that deploys a model: what it offers, what it makes, every fault it names."""

from __future__ import annotations

import re
from typing import Any

import pytest
from endpoint_store import put_endpoint
from fastapi.testclient import TestClient
from studio_store import put_model

from finery.endpoints import service
from finery.studio import endpoints_deploy
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

ORIGIN = {"origin": "http://127.0.0.1"}
TUNED = "azureml://models/tuned/versions/1"


def deploy(browser: TestClient, **fields: str) -> Any:
    page = browser.get("/studio/deploy").text
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found
    return browser.post("/studio/deploy", data={"token": found[1], **fields}, headers=ORIGIN)


def test_the_form_offers_models_of_the_workspace_and_the_registries(
    browser: TestClient, workspace: Workspace
) -> None:
    put_model(workspace, "tuned", "job")
    page = browser.get("/studio/deploy?model=tuned:1").text
    assert f'<option value="{TUNED}" selected>tuned:1' in page
    assert 'label="Registry azureml"' in page and "Phi-3-mini-4k-instruct:" in page
    assert 'name="endpoint" value="tuned"' in page and 'name="deployment" value="blue"' in page


def test_a_base_model_is_chosen_by_its_registry(browser: TestClient) -> None:
    page = browser.get("/studio/deploy?model=Phi-3-mini-4k-instruct&registry=azureml").text
    assert re.search(r"models/Phi-3-mini-4k-instruct/versions/\d+\" selected", page)
    assert 'name="endpoint" value="phi-3-mini-4k-instruct"' in page


def test_a_model_that_is_not_there_is_a_404(browser: TestClient) -> None:
    assert browser.get("/studio/deploy?model=nothing").status_code == 404


def test_the_first_deployment_makes_the_endpoint_and_gets_its_traffic(
    browser: TestClient, workspace: Workspace
) -> None:
    put_model(workspace, "tuned", "job")
    answer = deploy(browser, model=TUNED, endpoint="new-talk", deployment="blue", engine="torch")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/endpoints/new-talk")
    found = service.deployment(workspace, "new-talk", "blue")
    assert (found.engine, found.instance_count, found.at_once) == ("torch", 1, 8)
    assert found.environment == {"FINERY_ENGINE": "torch"}
    assert found.model.endswith("/models/tuned") and found.state == "Creating"
    assert found.wire["properties"]["model"] == TUNED
    endpoint = service.get(workspace, "new-talk")
    assert (endpoint.traffic, endpoint.auth_mode) == ({"blue": 100}, "key")
    page = browser.get("/studio/endpoints/new-talk").text
    assert "blue is started; it has all the traffic." in page and "0 of 1 answer" in page


def test_another_deployment_gets_no_traffic_by_itself(
    browser: TestClient, workspace: Workspace
) -> None:
    put_model(workspace, "tuned", "job")
    put_endpoint(workspace)
    short = {"model": "azureml:tuned:1", "endpoint": "talk"}
    assert deploy(browser, **short).status_code == 303
    assert service.get(workspace, "talk").traffic == {"blue": 100}
    assert service.get(workspace, "talk").wire == {"properties": {"description": "kept"}}
    made = service.deployment(workspace, "talk", "blue-2")
    assert (made.engine, made.wire["properties"]["model"]) == ("auto", TUNED)


def test_a_deployment_that_is_there_is_not_replaced(
    browser: TestClient, workspace: Workspace
) -> None:
    put_model(workspace, "tuned", "job")
    put_endpoint(workspace)
    answer = deploy(browser, model=TUNED, endpoint="talk", deployment="blue", replicas="9")
    assert answer.status_code == 400 and "blue-2" in answer.text
    assert service.deployment(workspace, "talk", "blue").instance_count == 1


def test_every_fault_is_said_at_once_and_nothing_is_made(
    browser: TestClient, workspace: Workspace
) -> None:
    answer = deploy(browser, endpoint="1", deployment="?", engine="stab", model="", replicas="200")
    assert answer.status_code == 400
    for words in ("endpoint name", "deployment name", "engine", "model", "sku.capacity"):
        assert words in answer.text
    numbers = deploy(browser, endpoint="talk", model=TUNED, replicas="many", at_once="")
    assert "replicas" in numbers.text and "at_once" in numbers.text
    assert "model tuned" in numbers.text or "tuned" in numbers.text
    assert service.find(workspace) == []


@pytest.mark.parametrize(
    "model", ["/etc", "file:///etc", "azureml:../../x:1", "https://evil.example/m"]
)
def test_a_model_is_one_of_the_workspace(
    browser: TestClient, workspace: Workspace, model: str
) -> None:
    assert deploy(browser, model=model, endpoint="talk").status_code == 400
    with pytest.raises(NotFoundError):
        service.get(workspace, "talk")


def test_nothing_is_deployed_without_the_pages_token(
    browser: TestClient, workspace: Workspace
) -> None:
    put_model(workspace, "tuned", "job")
    fields = {"model": TUNED, "endpoint": "talk"}
    assert browser.post("/studio/deploy", data=fields, headers=ORIGIN).status_code == 403
    assert service.find(workspace) == []


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [("Phi-3.5_mini", "phi-3-5-mini"), ("7b", "chat-7b"), ("x", "chat-x"), ("a" * 60, "a" * 28)],
)
def test_an_endpoint_is_called_after_its_model(model: str, endpoint: str) -> None:
    assert endpoints_deploy._endpoint_name(model) == endpoint  # pyright: ignore[reportPrivateUsage]
