"""Metrics of a step to MLflow: to the step's run and the job's, and never in training's way."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from finery.recipe.inputs import Recipe
from finery.training import tracking
from finery.training.events import mlflow_writer
from finery.training.tracking import Server, Tracker, tracking_server
from mlflow_server import Mlflow, mlflow_server


@pytest.fixture
def mlflow() -> Iterator[Mlflow]:
    with mlflow_server() as server:
        yield server


@pytest.fixture
def in_a_job(mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PAUSE", 0.01)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    monkeypatch.setenv("MLFLOW_RUN_ID", "step")
    monkeypatch.setenv("FINERY_ROOT_RUN_ID", "root")


def job() -> Any:
    return SimpleNamespace(run=None, recipe=Recipe(model="m", seed=3))


def test_metrics_go_to_the_run_of_the_step_and_of_its_job(mlflow: Mlflow, in_a_job: None) -> None:
    write = mlflow_writer(job())
    assert write is not None
    write({"event": "log", "step": 1, "loss": 2.0, "seconds_left": 9.0, "epoch": 0.5})
    write({"event": "eval", "step": 2, "eval_loss": 1.5})
    write({"event": "end", "ok": True})
    for run in ("step", "root"):
        rows = {(row["key"], row["step"]): row["value"] for row in mlflow.of(run)}
        assert rows == {("loss", 1): 2.0, ("epoch", 1): 0.5, ("eval_loss", 2): 1.5}
    params = {row["key"]: row["value"] for row in mlflow.of("step", "params")}
    assert (params["model"], params["seed"]) == ("m", "3")
    assert not mlflow.of("root", "params")
    paths = {path for path, _, _ in mlflow.asked}
    assert paths == {"/mlflow/api/2.0/mlflow/runs/log-batch"}
    assert {token for _, token, _ in mlflow.asked} == {"Bearer secret"}


def test_a_command_that_is_its_own_job_logs_once(mlflow: Mlflow, in_a_job: None) -> None:
    server = Server(mlflow.uri, "", ("step",))
    tracker = Tracker(server)
    tracker.log({"loss": 1.0})
    tracker.close()
    assert len(mlflow.of("step")) == 1
    assert mlflow.asked[0][1] is None


def test_what_a_server_did_not_take_is_sent_again_and_nothing_twice(
    mlflow: Mlflow, in_a_job: None
) -> None:
    tracker = Tracker(Server(mlflow.uri, "", ("step", "root")))
    mlflow.failures = 3
    for step in range(5):
        tracker.log({"loss": float(step)}, step)
    tracker.close()
    for run in ("step", "root"):
        assert [row["step"] for row in mlflow.of(run)] == [0, 1, 2, 3, 4]


def test_a_long_history_goes_in_parts_that_mlflow_takes(mlflow: Mlflow, in_a_job: None) -> None:
    tracker = Tracker(Server(mlflow.uri, "", ("step",)))
    for step in range(2100):
        tracker.log({"loss": 0.0}, step)
    tracker.close()
    assert [row["step"] for row in mlflow.of("step")] == list(range(2100))
    assert max(len(value["metrics"]) for _, _, value in mlflow.asked) <= 1000


def test_a_server_that_is_gone_stops_nothing_and_is_told_once(
    mlflow: Mlflow, in_a_job: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.05)
    mlflow.server.shutdown()
    mlflow.server.server_close()
    told: list[dict[str, Any]] = []
    write = mlflow_writer(job(), told.append)
    assert write is not None
    write({"event": "log", "step": 1, "loss": 2.0})
    write({"event": "end", "ok": True})
    texts = [event["text"] for event in told]
    assert len(texts) == 2
    assert texts[0].startswith("MLflow did not take the parameters")
    assert texts[1].startswith("MLflow did not take 2 metrics")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_URI", "file:///somewhere"),
        ("MLFLOW_RUN_ID", ""),
        ("FINERY_ROOT_RUN_ID", ""),
    ],
)
def test_outside_of_a_job_mlflows_own_client_is_used(
    in_a_job: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert tracking_server() is not None
    monkeypatch.setenv(name, value)
    assert tracking_server() is None
