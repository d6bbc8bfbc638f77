"""What the unmodified SDK says of deployments and reads back: engine, probes, mirrors, keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import (
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from typer.testing import CliRunner

from finery.cli.main import app

pytestmark = pytest.mark.timeout(900)

PHI = "Phi-3-mini-4k-instruct"  # the hub mirror of the tests has a small model under its name
NAME = "sdk-control"
LIVE = ProbeSettings(
    initial_delay=30, period=7, timeout=3, success_threshold=1, failure_threshold=9
)
READY = ProbeSettings(
    initial_delay=20, period=5, timeout=4, success_threshold=2, failure_threshold=3
)


@pytest.fixture(scope="module")
def model(registry: MLClient) -> str:
    return registry.models.get(PHI, label="latest").id


def deployment(model: str, name: str, **more: Any) -> ManagedOnlineDeployment:
    settings = OnlineRequestSettings(
        request_timeout_ms=60000, max_concurrent_requests_per_instance=4
    )
    return ManagedOnlineDeployment(
        name=name,
        endpoint_name=NAME,
        model=model,
        instance_type="Standard_DS3_v2",
        instance_count=1,
        request_settings=settings,
        **more,
    )


@pytest.fixture(scope="module")
def served(client: MLClient, model: str) -> Iterator[str]:
    """An endpoint whose deployment `blue` asks for an engine and has probes of its own.

    Its engine is the stub: all that a replica is but for the model.
    """
    client.begin_create_or_update(ManagedOnlineEndpoint(name=NAME, auth_mode="key")).result()
    asked = deployment(
        *(model, "blue"),
        environment_variables={"FINERY_ENGINE": "stub"},
        liveness_probe=LIVE,
        readiness_probe=READY,
    )
    client.online_deployments.begin_create_or_update(asked).result()
    endpoint = client.online_endpoints.get(NAME)
    endpoint.traffic = {"blue": 100}
    client.begin_create_or_update(endpoint).result()
    yield NAME
    client.online_endpoints.begin_delete(NAME).wait()


def seconds(probe: ProbeSettings) -> tuple[Any, ...]:
    counts = (probe.success_threshold, probe.failure_threshold)
    return (probe.initial_delay, probe.period, probe.timeout, *counts)


def test_probes_come_back_as_they_were_asked_for(client: MLClient, served: str) -> None:
    found = client.online_deployments.get("blue", served)
    assert seconds(found.liveness_probe) == seconds(LIVE)
    assert seconds(found.readiness_probe) == seconds(READY)


def test_what_the_replicas_report_is_among_the_properties(client: MLClient, served: str) -> None:
    about = client.online_deployments.get("blue", served).properties
    assert about["finery.reported.engine"] == "stub"
    assert about["finery.reported.precision"]
    assert int(about["finery.reported.context"]) > 0


def test_what_was_read_can_be_sent_back_and_changes_nothing(client: MLClient, served: str) -> None:
    before = client.online_deployments.get("blue", served)
    client.online_deployments.begin_create_or_update(before).result()
    after = client.online_deployments.get("blue", served)
    assert after.properties == before.properties
    assert after.environment_variables == {"FINERY_ENGINE": "stub"}


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(
    client: MLClient, served: str, model: str
) -> None:
    wrong = deployment(model, "green", environment_variables={"FINERY_ENGINE": "onnx"})
    with pytest.raises(HttpResponseError, match="auto, torch, openvino, vllm"):
        client.online_deployments.begin_create_or_update(wrong).result()
    with pytest.raises(ResourceNotFoundError):
        client.online_deployments.get("green", served)


def test_a_mirror_is_set_and_its_answers_are_nobodys(
    client: MLClient, served: str, model: str, tmp_path: Path
) -> None:
    green = deployment(model, "green", tags={"finery.engine": "stub"})
    client.online_deployments.begin_create_or_update(green).result()
    endpoint = client.online_endpoints.get(served)
    endpoint.mirror_traffic = {"green": 50}
    client.begin_create_or_update(endpoint).result()
    assert client.online_endpoints.get(served).mirror_traffic == {"green": 50}
    body = tmp_path / "body.json"
    turns = [{"role": "user", "content": "Hi"}]
    body.write_text(
        json.dumps({"input_data": {"input_string": turns, "parameters": {"max_new_tokens": 2}}})
    )
    for _ in range(10):
        assert "output" in json.loads(
            client.online_endpoints.invoke(endpoint_name=served, request_file=str(body))
        )
    endpoint.mirror_traffic = {"green": 51}
    with pytest.raises(HttpResponseError, match="at most 50"):
        client.begin_create_or_update(endpoint).result()
    endpoint.mirror_traffic = {"green": 0}
    client.begin_create_or_update(endpoint).result()
    client.online_deployments.begin_delete("green", served).wait()


def test_both_keys_are_regenerated(client: MLClient, served: str) -> None:
    before = client.online_endpoints.get_keys(served)
    for which in ("primary", "secondary"):
        client.online_endpoints.begin_regenerate_keys(served, key_type=which).wait()
    after = client.online_endpoints.get_keys(served)
    assert (
        len({before.primary_key, before.secondary_key, after.primary_key, after.secondary_key}) == 4
    )


def test_an_endpoint_is_deleted_twice_and_made_again(client: MLClient, service: Any) -> None:
    name = "again"
    client.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    before = client.online_endpoints.get_keys(name)
    client.online_endpoints.begin_delete(name).wait()
    client.online_endpoints.begin_delete(name).wait()
    client.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    assert client.online_endpoints.get_keys(name).primary_key != before.primary_key
    client.online_endpoints.begin_delete(name).wait()


def test_an_endpoint_made_on_the_command_line_is_read_by_the_sdk(client: MLClient) -> None:
    name = "by-command"
    answer = CliRunner().invoke(app, ["endpoint", "create", name])
    assert answer.exit_code == 0, answer.output
    found = client.online_endpoints.get(name)
    assert found.auth_mode == "key"
    assert name in [one.name for one in client.online_endpoints.list()]
    client.online_endpoints.begin_delete(name).wait()
