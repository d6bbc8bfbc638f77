"""The service itself (`finery up`) under SIGKILL: jobs, fine-tuning, deployments."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import httpx
import pytest
from pipelines import RECOVERY, Report, main, prove_real
from real_service import FOLDER, RealServer

from finery.cli.client import connect
from finery.workspace.errors import UnavailableError
from postgres_server import postgres_server

PATIENCE = 120.0
HELLO = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@pytest.fixture
def server(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealServer]:
    """A service of the test's own, with the model of the kit in its datastore."""
    found = RealServer(tmp_path, kit, {"tracking": False})
    monkeypatch.setenv("FINERY_HOME", str(tmp_path))
    found.start()
    try:
        found.prepare()
        yield found
    finally:
        found.end_all()
        found.workspace.store.engine.dispose()


def deployed(name: str, model: str) -> bool:
    """Ask for an endpoint and a deployment; whether both were acknowledged."""
    properties = {"authMode": "Key", "traffic": {name: 100} if name == "blue" else {}}
    model_of = {"model": f"{FOLDER}/{model}", "instanceType": "Standard_NC6s_v3"}
    capacity = {"name": "Default", "capacity": 1}
    body = {"location": "local", "sku": capacity, "properties": model_of}
    try:
        place = ("onlineEndpoints", "chat")
        if connect().find(*place) is None:
            asked = {"location": "local", "properties": {"authMode": "Key"}}
            connect().ask("PUT", *place, body=asked)
        connect().ask("PUT", *place, "deployments", name, body=body)
        if name == "blue":
            connect().ask("PUT", *place, body={"location": "local", "properties": properties})
    except UnavailableError:
        return False
    return True


def end_of(name: str) -> str:
    """How a deployment ends."""
    until = time.monotonic() + PATIENCE
    while True:
        found = connect().get("onlineEndpoints", "chat", "deployments", name)["properties"]
        if found["provisioningState"] in ("Succeeded", "Failed") or time.monotonic() > until:
            return found["provisioningState"]
        time.sleep(0.1)


def test_a_deployment_under_way_is_brought_to_its_end_by_the_next_service(
    server: RealServer,
) -> None:
    dice = random.Random(4)  # noqa: S311
    heard = deployed("blue", "model")
    for _ in range(2):
        time.sleep(dice.uniform(0.0, 1.0))
        server.kill()
        server.start()
        heard = heard or deployed("blue", "model")
    assert end_of("blue") == "Succeeded"
    address = connect().get("onlineEndpoints", "chat")["properties"]["openaiBaseUrl"]
    key = connect().ask("POST", "onlineEndpoints", "chat", "listKeys").json()["primaryKey"]
    said = httpx.post(
        f"{address}/chat/completions",
        json={"model": "blue", **HELLO},
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
        trust_env=False,
    )
    assert said.is_success, said.text
    assert server.slowest < RECOVERY


@pytest.mark.full
def test_a_deployment_that_cannot_be_served_fails_under_the_next_service(
    server: RealServer,
) -> None:
    (server.workspace.blobs / "azureml-blobstore" / "chaos" / "none").mkdir()
    (server.workspace.blobs / "azureml-blobstore" / "chaos" / "none" / "f").write_text("nothing")
    assert deployed("green", "none")
    server.kill()
    server.start()
    assert end_of("green") == "Failed"


def test_nothing_is_lost_when_the_service_and_its_steps_are_killed(
    kit: Path, tmp_path: Path
) -> None:
    report = prove_real(3, 1, tmp_path, kit=kit, tracking=False, tuning=1)
    assert not report.faults, str(report)
    assert any(state.startswith("chat") for state in report.states), str(report)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_nothing_is_lost_under_two_hundred_kills(kit: Path, tmp_path: Path) -> None:
    report = prove_real(200, 0, tmp_path, kit=kit)
    assert not report.faults, str(report)
    assert report.kills.total() >= 200


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_nothing_is_lost_under_forty_kills_with_everything_in_postgres(
    kit: Path, tmp_path: Path
) -> None:
    with postgres_server() as url:
        report = prove_real(40, 0, tmp_path, kit=kit, database=url)
    assert not report.faults, str(report)
    assert report.kills["mlflow"], str(report)


def test_what_was_lost_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(tmp_path))
    for faults, status in (([], 0), (["p1 has not ended: Running"], 1)):
        report = Report(faults=list(faults))
        monkeypatch.setattr("pipelines.prove_real", lambda *_, made=report, **__: made)
        assert main(["--kills", "1"]) == status
        assert (faults or ["nothing lost"])[0] in capsys.readouterr().out
