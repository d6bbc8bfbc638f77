"""Endpoints through the unmodified SDK and the unmodified OpenAI client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import (
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from service_process import Service

PHI = "Phi-3-mini-4k-instruct"  # the hub mirror of the tests has a small model under its name
NAME = "ultrachat-completion-1700000000"
HELLO = [{"role": "user", "content": "Hello"}]
PARAMETERS = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 20}


def endpoint(name: str = NAME) -> ManagedOnlineEndpoint:
    return ManagedOnlineEndpoint(name=name, description="of a test", auth_mode="key")


def deployment(model: Any, endpoint: str = NAME, name: str = "demo") -> ManagedOnlineDeployment:
    """As the walkthrough makes it."""
    return ManagedOnlineDeployment(
        name=name,
        endpoint_name=endpoint,
        model=model,
        instance_type="Standard_NC6s_v3",
        instance_count=1,
        liveness_probe=ProbeSettings(initial_delay=600),
        request_settings=OnlineRequestSettings(request_timeout_ms=90000),
    )


def gateway(service: Service) -> str:
    """Where the endpoints of a service answer plain HTTP."""
    note = json.loads((service.folder / "gateway" / "gateway.json").read_text())
    return f"http://127.0.0.1:{note['http_port']}"


@pytest.fixture(scope="module")
def served(client: MLClient, registry: MLClient, kit: Path) -> Iterator[str]:
    """An endpoint whose deployment `demo`, a model of the registry, has all traffic."""
    model = registry.models.get(PHI, label="latest")
    one = endpoint()
    client.begin_create_or_update(one).wait()
    client.online_deployments.begin_create_or_update(deployment(model.id)).result()
    one.traffic = {"demo": 100}
    client.begin_create_or_update(one).result()
    yield NAME
    client.online_endpoints.begin_delete(name=NAME).wait()


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """The walkthrough's request file."""
    path = tmp_path / "sample_score.json"
    data = {"input_string": [HELLO], "parameters": PARAMETERS}
    path.write_text(json.dumps({"input_data": data, "params": {}}))
    return path


@pytest.fixture
def openai_client(client: MLClient, service: Service, served: str) -> Iterator[Any]:
    import openai

    key = client.online_endpoints.get_keys(served).primary_key
    with openai.OpenAI(base_url=f"{gateway(service)}/endpoints/{served}/v1", api_key=key) as found:
        yield found


def test_a_deployment_is_as_it_was_asked_for(client: MLClient, served: str) -> None:
    found = client.online_deployments.get("demo", served)
    assert found.provisioning_state == "Succeeded"
    assert found.instance_count == 1
    assert found.instance_type == "Standard_NC6s_v3"
    assert found.request_settings.request_timeout_ms == 90000
    assert [one.name for one in client.online_deployments.list(served)] == ["demo"]


def test_an_endpoint_shows_its_traffic_and_where_to_ask(client: MLClient, served: str) -> None:
    found = client.online_endpoints.get(served)
    assert found.traffic == {"demo": 100}
    assert found.scoring_uri.endswith(f"/endpoints/{served}/score")
    assert served in [one.name for one in client.online_endpoints.list()]


@pytest.mark.parametrize("named", ["demo", None])
def test_the_walkthroughs_request_is_answered(
    client: MLClient, served: str, body: Path, named: str | None
) -> None:
    said = client.online_endpoints.invoke(
        endpoint_name=served, deployment_name=named, request_file=str(body)
    )
    (row,) = json.loads(said)
    assert row["output"].strip()


def test_a_request_of_the_wrong_shape_is_refused_with_an_example(
    client: MLClient, served: str, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"inputs": "Hello"}))
    with pytest.raises(HttpResponseError, match="input_string") as told:
        client.online_endpoints.invoke(endpoint_name=served, request_file=str(wrong))
    assert told.value.status_code == 424


def test_the_logs_of_a_deployment_tell_what_it_loaded(client: MLClient, served: str) -> None:
    log = client.online_deployments.get_logs("demo", served, lines=50)
    assert f"loading microsoft/{PHI}" in log
    assert "demo answers on" in log
    log = client.online_deployments.get_logs("demo", served, lines=1)
    assert len(log.splitlines()) == 1


def test_openais_client_gets_an_answer(openai_client: Any) -> None:
    answer = openai_client.chat.completions.create(
        model="demo", messages=HELLO, max_tokens=12, temperature=0
    )
    assert answer.choices[0].message.content.strip()
    assert answer.usage.completion_tokens <= 12
    assert [model.id for model in openai_client.models.list()] == [NAME, "demo"]


def test_openais_client_gets_the_same_answer_in_pieces(openai_client: Any) -> None:
    asked: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = openai_client.chat.completions.create(**asked)
    pieces = openai_client.chat.completions.create(stream=True, **asked)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content


def test_openais_client_reads_our_errors(openai_client: Any) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        openai_client.chat.completions.create(model="gpt-4", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="messages"):
        openai_client.chat.completions.create(model="demo", messages=[])
    with pytest.raises(openai.AuthenticationError):
        openai_client.with_options(api_key="wrong").models.list()


def test_a_new_secondary_key_leaves_the_primary(client: MLClient, served: str) -> None:
    before = client.online_endpoints.get_keys(served)
    client.online_endpoints.begin_regenerate_keys(served, key_type="secondary").wait()
    after = client.online_endpoints.get_keys(served)
    assert after.primary_key == before.primary_key
    assert after.secondary_key != before.secondary_key


def test_a_deployment_with_traffic_cannot_be_deleted(client: MLClient, served: str) -> None:
    with pytest.raises(ResourceExistsError, match="100 % of the traffic"):
        client.online_deployments.begin_delete("demo", served).wait()


def test_traffic_to_nobody_is_refused(client: MLClient, served: str) -> None:
    wrong = endpoint(served)
    wrong.traffic = {"demo": 50, "other": 50}
    with pytest.raises(HttpResponseError, match="no such deployment"):
        client.begin_create_or_update(wrong).result()
    assert client.online_endpoints.get(served).traffic == {"demo": 100}


def test_a_deployment_whose_model_cannot_be_had_fails_with_the_reason(
    client: MLClient, registry: MLClient, served: str
) -> None:
    absent = registry.models.get("Llama-2-7b-chat", label="latest")
    poller = client.online_deployments.begin_create_or_update(
        deployment(absent.id, served, name="broken")
    )
    with pytest.raises(HttpResponseError, match=r"\(ResourceNotReady\)") as told:
        poller.result()
    assert "The model could not be served" in str(told.value)
    found = client.online_deployments.get("broken", served)
    assert found.provisioning_state == "Failed"
    client.online_deployments.begin_delete("broken", served).wait()
    with pytest.raises(ResourceNotFoundError):
        client.online_deployments.get("broken", served)


def test_a_deployment_needs_a_model_and_an_endpoint_that_exist(
    client: MLClient, served: str
) -> None:
    missing = "azureml://registries/azureml/models/nothing/versions/1"
    with pytest.raises(ResourceNotFoundError, match="nothing"):
        client.online_deployments.begin_create_or_update(deployment(missing, served, "other"))
    with pytest.raises(ResourceNotFoundError, match="no endpoint nobody"):
        client.online_deployments.begin_create_or_update(deployment(missing, "nobody"))


@pytest.mark.parametrize("mode", ["aml_token", "aad_token"])
def test_tokens_open_the_endpoints_that_take_them(
    client: MLClient, service: Service, mode: str
) -> None:
    name = mode.replace("_", "-")
    client.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode=mode)).result()
    assert client.online_endpoints.get(name).auth_mode.lower() == mode
    token = client.online_endpoints.get_keys(name).access_token
    url = f"{gateway(service)}/endpoints/{name}/v1/models"

    def status(given: str) -> int:
        header = {"authorization": f"Bearer {given}"}
        return httpx.get(url, headers=header, trust_env=False).status_code

    assert (status(token), status(token[:-2]), status("x")) == (200, 401, 401)
    client.online_endpoints.begin_delete(name).wait()


def mlflow_model(kit: Path, folder: Path) -> Path:
    """A model in the layout of Azure's catalogue."""
    source = kit / "model" / "stories260k-llama"
    for part in ("model", "tokenizer"):
        (folder / "data" / part).mkdir(parents=True)
    for file in source.iterdir():
        part = "tokenizer" if file.name.startswith("tokenizer") else "model"
        shutil.copyfile(file, folder / "data" / part / file.name)
    settings = folder / "data" / "tokenizer" / "tokenizer_config.json"
    template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
        "{% else %}\n{% endif %}{% endfor %}"
    )
    config = json.loads(settings.read_text()) | {"chat_template": template}
    settings.write_text(json.dumps(config))
    (folder / "MLmodel").write_text("flavors:\n  hftransformersv2:\n    task_type: chat\n")
    return folder


def test_a_registered_mlflow_model_is_served_and_the_old_one_answers_beside_it(
    client: MLClient, served: str, kit: Path, tmp_path: Path, body: Path
) -> None:
    path = mlflow_model(kit, tmp_path / "tuned")
    model = client.models.create_or_update(
        Model(path=str(path), type="mlflow_model", name="tuned", version="1")
    )
    client.online_deployments.begin_create_or_update(
        deployment(model.id, served, name="green")
    ).result()
    for name in ("green", "demo"):
        said = client.online_endpoints.invoke(
            endpoint_name=served, deployment_name=name, request_file=str(body)
        )
        assert "output" in json.loads(said)[0]
    client.online_deployments.begin_delete("green", served).wait()
    assert [one.name for one in client.online_deployments.list(served)] == ["demo"]


def replica_processes(home: Path) -> set[int]:
    """The model servers of the service with this home."""
    found = set()
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment, command = process.info["environ"] or {}, process.info["cmdline"] or []
        if environment.get("FINERY_HOME") == str(home) and "finery.inference.server" in command:
            found.add(process.pid)
    return found


def test_a_killed_service_leaves_its_model_answering_and_the_next_one_finds_it(
    started: Service, kit: Path, monkeypatch: pytest.MonkeyPatch, body: Path
) -> None:
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    client = MLClient(DefaultAzureCredential(), "s", "g", "w")
    client.begin_create_or_update(endpoint()).wait()
    model = f"azureml://registries/azureml/models/{PHI}/versions/15"
    client.online_deployments.begin_create_or_update(deployment(model)).result()
    before, keys = replica_processes(started.home), client.online_endpoints.get_keys(NAME)
    assert len(before) == 1
    started.kill()
    assert replica_processes(started.home) == before
    started.start()
    said = client.online_endpoints.invoke(
        endpoint_name=NAME, deployment_name="demo", request_file=str(body)
    )
    assert json.loads(said)[0]["output"]
    assert client.online_endpoints.get_keys(NAME).primary_key == keys.primary_key
    assert replica_processes(started.home) == before
    client.online_endpoints.begin_delete(name=NAME).wait()
    assert replica_processes(started.home) == set()
