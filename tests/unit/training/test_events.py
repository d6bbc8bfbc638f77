"""metrics.jsonl and MLflow: every step once, whatever happens to the process or the server."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finery.errors import FineryError
from finery.recipe.inputs import Recipe
from finery.training import events
from finery.training.events import everyone, finite, metrics_writer, mlflow_writer, read_metrics


def log(step: int) -> dict[str, Any]:
    return {"event": "log", "step": step, "loss": 1.0 / step, "seconds_left": 3.0}


def steps(run: Path) -> list[int]:
    return [row["step"] for row in read_metrics(run)]


def test_log_and_evaluation_become_lines_and_nothing_else_does(tmp_path: Path) -> None:
    write = metrics_writer(tmp_path)
    write({"event": "start", "step": 0, "total_steps": 2})
    write(log(1))
    write({"event": "note", "text": "x"})
    write({"event": "eval", "step": 1, "eval_loss": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == read_metrics(tmp_path)
    assert [{k: v for k, v in row.items() if k != "time"} for row in rows] == [
        {"step": 1, "loss": 1.0},
        {"step": 1, "eval_loss": 0.5},
    ]


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    write = metrics_writer(tmp_path)
    for step in (1, 2, 3):
        write(log(step))
    write({"event": "start", "step": 2, "total_steps": 4})
    for step in (3, 4):
        write(log(step))
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_a_run_that_starts_over_begins_with_an_empty_file(tmp_path: Path) -> None:
    write = metrics_writer(tmp_path)
    write(log(1))
    write({"event": "start", "step": 0, "total_steps": 4})
    assert steps(tmp_path) == []


def test_a_line_that_a_crash_cut_short_costs_that_line_alone(tmp_path: Path) -> None:
    metrics_writer(tmp_path)(log(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert steps(tmp_path) == [1]
    write = metrics_writer(tmp_path)
    write({"event": "start", "step": 1, "total_steps": 4})
    write(log(2))
    assert steps(tmp_path) == [1, 2]


def test_everyone_hears_every_event_in_turn() -> None:
    heard: list[str] = []
    everyone([lambda e: heard.append("a"), None, lambda e: heard.append("b")])({"event": "x"})
    assert heard == ["a", "b"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused_with_what_to_do(value: float) -> None:
    assert finite(1.5, "loss", 3) == 1.5
    with pytest.raises(FineryError, match=r"The loss of step 1,200 .* lower learning_rate"):
        finite(value, "loss", 1200)


@pytest.fixture
def job(tmp_path: Path) -> Any:
    return SimpleNamespace(run=tmp_path, recipe=Recipe(model="m"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """MLflow's calls, recorded; runs named in `gone` are not there, `down` fails each metric."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    seen: dict[str, Any] = {"started": [], "logged": [], "ended": [], "gone": set(), "down": False}

    def start_run(run_id: str | None = None, **_: Any) -> SimpleNamespace:
        if run_id in seen["gone"]:
            raise MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST)
        seen["started"].append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "new"))

    def log_metrics(numbers: dict[str, float], step: int) -> None:
        if seen["down"]:
            raise MlflowException("connection refused\nlong story")
        seen["logged"].append((step, numbers))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(mlflow, "start_run", start_run)
    monkeypatch.setattr(mlflow, "log_params", lambda params: seen.update(params=params))
    monkeypatch.setattr(mlflow, "log_metrics", log_metrics)
    monkeypatch.setattr(mlflow, "end_run", lambda status: seen["ended"].append(status))
    return seen


def test_without_a_tracking_uri_mlflow_is_left_alone(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert mlflow_writer(job) is None


def test_a_run_logs_parameters_metrics_and_its_end(job: Any, server: dict[str, Any]) -> None:
    write = mlflow_writer(job)
    assert write is not None
    write(log(1))
    write({"event": "end", "ok": True})
    assert server["logged"] == [(1, {"loss": 1.0})]
    assert server["ended"] == ["FINISHED"]
    assert server["params"]["model"] == "m"
    assert "train_file_path" not in server["params"]  # not given


def test_a_resumed_run_goes_on_in_its_mlflow_run(job: Any, server: dict[str, Any]) -> None:
    mlflow_writer(job)
    mlflow_writer(job)
    assert server["started"] == [None, "new"]
    server["gone"] = {"new"}
    mlflow_writer(job)
    assert server["started"] == [None, "new", None]


def test_a_run_made_for_it_is_used(
    job: Any, server: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "parent")
    mlflow_writer(job)
    assert server["started"] == ["parent"]
    assert json.loads((job.run / "mlflow_run.json").read_text()) == {"run_id": "parent"}


def test_a_server_that_cannot_be_used_is_refused_at_the_start(
    job: Any, server: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_start_mlflow_run", lambda job: (_ for _ in ()).throw(OSError(5)))
    with pytest.raises(FineryError, match="MLFLOW_TRACKING_URI"):
        mlflow_writer(job)


def test_a_server_that_fails_later_does_not_stop_training_and_is_told_once(
    job: Any, server: dict[str, Any]
) -> None:
    told: list[dict[str, Any]] = []
    write = mlflow_writer(job, told.append)
    assert write is not None
    server["down"] = True
    write(log(1))
    write(log(2))
    server["down"] = False
    write(log(3))
    assert [step for step, _ in server["logged"]] == [3]
    assert told == [
        {
            "event": "note",
            "text": "MLflow did not take a metric (connection refused); training goes on",
        }
    ]
