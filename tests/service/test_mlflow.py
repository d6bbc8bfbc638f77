"""MLflow as Azure ML's users, plain MLflow clients and a job's processes reach it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import mlflow
import psutil
import pytest
from azure.ai.ml import MLClient
from service_process import Service

from finery.workspace import identity, tracking
from finery.workspace.place import Workspace
from finery.workspace.settings import load_settings
from finery.workspace.store import connect
from finery.workspace.tracking_server import MARK


@pytest.fixture(scope="module")
def azure(service: Service, client: MLClient) -> Iterator[None]:
    """mlflow pointed at the workspace the way Azure's documentation does it."""
    found = client.workspaces.get("finery")
    assert found is not None
    mlflow.set_tracking_uri(found.mlflow_tracking_uri)
    yield
    mlflow.set_tracking_uri("")


@pytest.fixture
def workspace(service: Service) -> Iterator[Workspace]:
    """The running service's workspace, opened beside it as its job engine sees it."""
    running = service.running
    settings = load_settings(service.folder, {"port": running.port, "http_port": running.http_port})
    store = connect(service.store_url)
    yield Workspace(service.folder, settings, store)
    store.engine.dispose()


def logged(code: str, environment: dict[str, str], folder: Path) -> str:
    """What a fresh process prints, as a step's process would run."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_runs_metrics_and_artifacts_pass_through_the_workspace(azure: None, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("kept", encoding="utf-8")
    mlflow.set_experiment("through-azure")
    with mlflow.start_run() as run:
        mlflow.log_param("lora_r", 8)
        mlflow.log_metric("loss", 1.5, step=1)
        mlflow.log_metric("loss", 1.25, step=2)
        mlflow.set_tag("kind", "test")
        mlflow.log_artifact(str(note), "notes")
    found = mlflow.get_run(run.info.run_id)
    assert found.data.params == {"lora_r": "8"}
    assert found.data.metrics == {"loss": 1.25}
    assert found.info.status == "FINISHED"
    got = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="notes/note.txt", dst_path=str(tmp_path / "back")
    )
    assert Path(got).read_text(encoding="utf-8") == "kept"
    names = [entry.path for entry in mlflow.MlflowClient().list_artifacts(run.info.run_id)]
    assert names == ["notes"]


def test_asynchronous_logging_arrives(azure: None) -> None:
    with mlflow.start_run() as run:
        mlflow.log_metric("speed", 7.0, synchronous=False).wait()
    assert mlflow.get_run(run.info.run_id).data.metrics == {"speed": 7.0}


def test_a_jobs_run_carries_the_jobs_name(azure: None, workspace: Workspace) -> None:
    name = "jolly_lizard_9fc1k9w4dw"
    tracking.create_run(workspace, name, "chat", "my pipeline", {"owner": "me"})
    found = mlflow.get_run(name)
    assert found.info.run_name == "my pipeline"
    assert found.info.status == "RUNNING"
    assert found.data.tags["mlflow.rootRunId"] == name
    assert found.data.tags["owner"] == "me"
    tracking.finish_run(workspace, name, "Canceled")
    assert mlflow.get_run(name).info.status == "KILLED"
    experiment = mlflow.get_experiment_by_name("chat")
    assert experiment is not None
    assert found.info.experiment_id == experiment.experiment_id


def test_a_run_can_be_said_twice_and_ended_twice(azure: None, workspace: Workspace) -> None:
    for _ in range(2):
        tracking.create_run(workspace, "twice", "chat", "twice", {})
        tracking.finish_run(workspace, "twice", "Completed")
        assert mlflow.get_run("twice").info.status == "FINISHED"


def test_a_step_logs_to_its_jobs_run_with_its_own_token(
    azure: None, workspace: Workspace, tmp_path: Path
) -> None:
    run = "00000000-1111-2222-3333-444444444444"
    tracking.create_run(workspace, run, "chat", "a step", {})
    code = (
        "import mlflow, pathlib\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_metric('loss', 0.5)\n"
        "    pathlib.Path('a.txt').write_text('a')\n"
        "    mlflow.log_artifact('a.txt')\n"
        "    print('run', run.info.run_id)\n"
    )
    environment = tracking.step_environment(workspace, run, "root", "chat")
    assert f"run {run}\n" in logged(code, environment, tmp_path)
    assert mlflow.get_run(run).data.metrics == {"loss": 0.5}


def test_a_steps_token_opens_nothing_but_tracking(service: Service, workspace: Workspace) -> None:
    token = tracking.step_environment(workspace, "x", "x", "")["MLFLOW_TRACKING_TOKEN"]
    headers = {"Authorization": f"Bearer {token}"}
    group = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
    with httpx.Client(base_url=service.url, verify=service.trust, headers=headers) as doors:
        assert doors.get(f"{group}/workspaces/w").status_code == 401
    assert httpx.get(f"{service.http_url}/mlflow/health", headers=headers).status_code == 200


def mlflow_processes(service: Service) -> set[int]:
    """The processes of the MLflow server that belongs to a service."""
    return {
        process.pid
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(MARK) == str(service.folder / "mlflow")
    }


def answers(service: Service) -> bool:
    """Whether MLflow answers through the service; waits until it is up."""
    settings = load_settings(service.folder, {"http_port": service.running.http_port})
    found = Workspace(service.folder, settings, connect("sqlite://"))
    headers = {"Authorization": f"Bearer {identity.mint(found, identity.TRACKING)}"}
    place = f"{service.http_url}/mlflow/health"
    return httpx.get(place, headers=headers, timeout=100).is_success


def test_mlflow_outlives_a_killed_service_comes_back_when_killed_and_ends_with_down(
    service: Service, tmp_path: Path
) -> None:
    own = Service(tmp_path)
    try:
        assert answers(own.start())
        first = mlflow_processes(own)
        own.kill()
        assert mlflow_processes(own) == first
        assert answers(own.start())
        assert mlflow_processes(own) == first, "adopted, not started again"
        for pid in first:
            psutil.Process(pid).kill()
        psutil.wait_procs([psutil.Process(pid) for pid in first if psutil.pid_exists(pid)], 10)
        end = time.monotonic() + 60
        while not mlflow_processes(own):
            assert time.monotonic() < end, own.log
            time.sleep(0.1)
        assert answers(own)
    finally:
        own.stop()
    assert mlflow_processes(own) == set()


def test_a_service_starts_in_a_shell_that_was_pointed_at_another(
    service: Service, tmp_path: Path
) -> None:
    """What it starts asks nobody else: MLflow's plugin for Azure does as it is loaded."""
    stale = {**service.environment, "ARM_CLOUD_METADATA_URL": "https://localhost:1/metadata"}
    own = Service(tmp_path, stale)
    try:
        assert answers(own.start())
        for pid in mlflow_processes(own):
            assert "MSI_SECRET" not in psutil.Process(pid).environ()
    finally:
        own.stop()


def test_nobody_reaches_mlflow_without_a_token(service: Service) -> None:
    assert httpx.get(f"{service.http_url}/mlflow/").status_code == 401
    place = "/mlflow/signed/9999999999/forged/api/2.0/mlflow-artifacts/artifacts"
    assert httpx.get(f"{service.http_url}{place}").status_code == 401


@pytest.mark.parametrize("up", ["..", "%2e%2e", "artifacts/.."])
def test_a_signed_address_opens_artifacts_and_nothing_above_them(
    service: Service, workspace: Workspace, up: str
) -> None:
    query = parse_qs(identity.sign_query(workspace, "/mlflow/signed"))
    folder = f"/mlflow/signed/{query['se'][0]}/{query['sig'][0]}/api/2.0/mlflow-artifacts"
    raw = http.client.HTTPConnection("127.0.0.1", service.running.http_port)  # tidies no path
    with contextlib.closing(raw):
        raw.request("GET", f"{folder}/{up}/mlflow/experiments/get?experiment_id=0")
        answer = raw.getresponse()
        assert (answer.status, b"not a plain one" in answer.read()) == (404, True)


@pytest.mark.parametrize("odd", ["/mlflow//health", "/mlflow/a%00b", "/mlflow/a%3Fb%23c"])
def test_an_odd_address_is_no_failure_of_ours(
    service: Service, workspace: Workspace, odd: str
) -> None:
    headers = {"Authorization": f"Bearer {identity.mint(workspace, identity.TRACKING)}"}
    assert httpx.get(f"{service.http_url}{odd}", headers=headers).status_code < 500


def test_a_page_of_another_port_cannot_use_the_browsers_session(
    service: Service, workspace: Workspace
) -> None:
    """Cookies know hosts, no ports: any server on this machine is the same site."""
    port = service.running.port
    headers = {"Cookie": f"finery-{port}={identity.mint(workspace, identity.BROWSER)}"}
    place = f"{service.http_url}/mlflow/api/2.0/mlflow/experiments/create"
    for origin in ({"Origin": "http://127.0.0.1:1"}, {}):
        answer = httpx.post(place, headers=headers | origin, json={"name": "forged"})
        assert answer.status_code == 403
    own = httpx.post(
        place, headers=headers | {"Origin": service.http_url}, json={"name": f"own-{port}"}
    )
    assert own.status_code == 200, own.text


def test_the_database_of_mlflow_is_in_no_list_of_processes(service: Service) -> None:
    """It may be an address with a password."""
    for pid in mlflow_processes(service):
        assert "sqlite" not in " ".join(psutil.Process(pid).cmdline())


def test_the_pages_of_mlflow_are_served(service: Service, workspace: Workspace) -> None:
    headers = {"Authorization": f"Bearer {identity.mint(workspace, identity.FINERY)}"}
    page = httpx.get(f"{service.http_url}/mlflow/", headers=headers)
    assert "<title>MLflow</title>" in page.text
    found = httpx.post(
        f"{service.http_url}/mlflow/ajax-api/2.0/mlflow/experiments/search",
        headers=headers,
        json={"max_results": 5},
    )
    assert json.loads(found.text)["experiments"]
