"""Metrics become curves: thinned out without losing a spike, and only what is new is sent."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from studio_store import metric_rows, put_many, put_run, training_folder, write_metrics

from finery.files import json_lines, write_atomic
from finery.studio import curves
from finery.studio.formats import COLOURS, DASHES, colour
from finery.workspace import tracking_metrics
from finery.workspace.place import Workspace
from finery.workspace.tracking_server import TrackingServer


def told(browser: TestClient, job: str, cursor: str = "") -> dict[str, Any]:
    answer = browser.get(f"/studio/jobs/{job}/metrics", params={"cursor": cursor})
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize("count", [0, 1, 2, 499, 500, 501, 777, 10_000, 100_003])
def test_thinning_keeps_both_ends_the_order_and_every_extreme(count: int) -> None:
    points = [
        (float(i), math.sin(i / 90) + (50.0 if i == count // 3 else 0.0)) for i in range(count)
    ]
    kept = curves.sampled(points)
    assert len(kept) <= 500
    assert set(kept) <= set(points)
    assert kept == sorted(kept)
    if count:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        for extreme in (min, max):
            assert extreme(y for _, y in kept) == extreme(y for _, y in points)
    if count <= 500:
        assert kept == points


def test_thinning_keeps_the_extremes_of_every_stretch() -> None:
    points = [(float(i), float((i * 7919) % 1009)) for i in range(10_000)]
    kept = curves.sampled(points, 100)
    for start in range(1, 9999, 500):  # a window over several stretches has its extremes near
        window = [y for x, y in points if start <= x < start + 500]
        near = [y for x, y in kept if start - 210 <= x < start + 710]
        assert max(near) >= sorted(window)[-5]
        assert min(near) <= sorted(window)[4]


def test_a_pipeline_shows_the_curves_of_its_training(
    browser: TestClient, workspace: Workspace
) -> None:
    steps = put_run(workspace, "run", "Running")
    write_metrics(training_folder(workspace, steps), metric_rows(10_000))
    found = told(browser, "run")
    assert found["whole"] is True
    assert found["ended"] is False
    assert set(found["series"]) == {"loss", "learning_rate", "grad_norm", "tokens_per_s"}
    loss = found["series"]["loss"]
    assert len(loss["x"]) == len(loss["y"]) <= 500
    assert loss["count"] == 10_000
    assert 9.0 in loss["y"]  # the spike of step 777
    assert loss["best"] == min(row["loss"] for row in metric_rows(10_000))
    assert (loss["direction"], found["series"]["tokens_per_s"]["direction"]) == (-1, 1)
    assert found["series"]["learning_rate"]["best"] is None
    assert found["colour"] == colour("run")
    assert told(browser, steps["finetune"])["series"] == found["series"]


def test_only_new_points_are_sent_and_each_once(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run", "Running")
    folder = training_folder(workspace, steps)
    rows = metric_rows(60)
    write_metrics(folder, rows[:20])
    answer = told(browser, "run")
    seen = answer["series"]["loss"]["x"]
    for start in (20, 40):
        assert told(browser, "run", answer["cursor"])["series"] == {}
        write_metrics(folder, rows[start : start + 20])
        answer = told(browser, "run", answer["cursor"])
        assert answer["whole"] is False
        seen += answer["series"]["loss"]["x"]
    assert seen == [row["step"] for row in rows]


def test_a_line_that_is_being_written_waits(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run", "Running")
    folder = training_folder(workspace, steps)
    write_metrics(folder, metric_rows(2))
    line = json_lines(metric_rows(1, 3))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line[:25])
    answer = told(browser, "run")
    assert answer["series"]["loss"]["x"] == [1, 2]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line[25:])
    assert told(browser, "run", answer["cursor"])["series"]["loss"]["x"] == [3]


def test_a_training_that_went_back_is_sent_anew(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run", "Running")
    folder = training_folder(workspace, steps)
    write_metrics(folder, metric_rows(30))
    cursor = told(browser, "run")["cursor"]
    write_atomic(folder / "metrics.jsonl", json_lines(metric_rows(10)))  # as a resumed start does
    write_metrics(folder, metric_rows(3, 11))
    answer = told(browser, "run", cursor)
    assert answer["whole"] is True
    assert answer["series"]["loss"]["x"] == list(range(1, 14))


@pytest.mark.parametrize("cursor", ["x", "1.2.3", "-1.5", "99999999999.7", "mlflow.x", "9" * 90])
def test_a_cursor_of_no_answer_gives_all(
    browser: TestClient, workspace: Workspace, cursor: str
) -> None:
    steps = put_run(workspace, "run")
    write_metrics(training_folder(workspace, steps), metric_rows(5))
    answer = told(browser, "run", cursor)
    assert (answer["whole"], len(answer["series"]["loss"]["x"])) == (True, 5)


def test_what_is_no_figure_is_no_point(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run")
    path = training_folder(workspace, steps) / "metrics.jsonl"
    rows = ['{"step": 1, "loss": NaN, "ok": 1}', '{"step": 2, "loss": Infinity, "ok": true}']
    rows += ['{"step": "x", "loss": 1}', "[1]", "no json", '{"step": 3, "loss": "high", "ok": 2}']
    path.write_text("\n".join(rows) + "\n")
    assert told(browser, "run")["series"] == {
        "ok": {"x": [1, 3], "y": [1, 2], "count": 2, "last": 2, "best": None, "direction": 0}
    }


def test_a_job_without_metrics_has_no_curves(browser: TestClient, workspace: Workspace) -> None:
    put_many(workspace, 1)
    answer = told(browser, "many-00000")
    assert (answer["series"], answer["ended"]) == ({}, True)


def mlflow(workspace: Workspace, run: str, values: list[tuple[str, float, int]]) -> None:
    """Points in MLflow's own table, as its server writes them."""
    workspace.tracking.mkdir(exist_ok=True)
    engine = sa.create_engine(TrackingServer(workspace).database)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE IF NOT EXISTS metrics (key TEXT, value DOUBLE, timestamp BIGINT, "
                "run_uuid TEXT, step BIGINT, is_nan BOOLEAN)"
            )
        )
        for key, value, step in values:
            row = {"k": key, "v": value, "r": run, "s": step, "n": key == "gone"}
            text = "INSERT INTO metrics VALUES (:k, :v, :s, :r, :s, :n)"
            connection.execute(sa.text(text), row)
    engine.dispose()


def test_a_command_shows_what_it_logged_to_mlflow(
    browser: TestClient, workspace: Workspace
) -> None:
    put_many(workspace, 2)
    points = [("accuracy", 0.5, 1), ("accuracy", 0.75, 2), ("system/cpu", 9.0, 1), ("gone", 0.0, 1)]
    mlflow(workspace, "many-00000", points)
    answer = told(browser, "many-00000")
    assert list(answer["series"]) == ["accuracy"]
    assert (
        answer["series"]["accuracy"] | {"direction": 1, "best": 0.75}
        == (answer["series"]["accuracy"])
    )
    assert told(browser, "many-00000", answer["cursor"])["series"] == {}
    mlflow(workspace, "many-00000", [("accuracy", 0.7, 3)])
    again = told(browser, "many-00000", answer["cursor"])
    assert (again["whole"], again["series"]["accuracy"]["x"]) == (True, [1, 2, 3])
    assert tracking_metrics.metrics_of(workspace, "many-00001") == {}


def test_progress_says_the_step_and_the_time_left(tmp_path: Path) -> None:
    assert curves.progress(tmp_path) is None
    write_metrics(tmp_path, metric_rows(400), total=1000)
    found = curves.progress(tmp_path)
    assert found is not None
    assert (found.step, found.total) == (400, 1000)
    assert found.seconds_left == pytest.approx(1200)  # two seconds a step


def test_progress_of_one_step_has_no_pace_yet(tmp_path: Path) -> None:
    write_metrics(tmp_path, metric_rows(1), total=10)
    assert curves.progress(tmp_path) == curves.Progress(1, 10, None)


def test_the_metrics_of_a_long_run_are_a_small_answer(
    browser: TestClient, workspace: Workspace
) -> None:
    steps = put_run(workspace, "run")
    write_metrics(training_folder(workspace, steps), metric_rows(10_000))
    answer = browser.get("/studio/jobs/run/metrics", headers={"accept-encoding": "gzip"})
    assert int(answer.headers["content-length"]) < 30_000
    assert json.loads(answer.text)["series"]


def test_a_run_has_one_colour_on_every_page(browser: TestClient, workspace: Workspace) -> None:
    for name in ("run-a", "run-b"):
        steps = put_run(workspace, name)
        write_metrics(training_folder(workspace, steps), metric_rows(3))
    number = told(browser, "run-a")["colour"]
    assert 0 <= number < COLOURS * DASHES
    swatch = f'class="swatch c{number % 16} d{number // 16}"'
    assert swatch in browser.get("/studio/jobs/run-a").text
    assert swatch in browser.get("/studio/compare?run=run-a&run=run-b").text
    assert len({colour(f"run-{n}") for n in range(200)}) > 40


def test_the_steps_of_a_job_are_counted_by_the_plan_among_its_facts(
    workspace: Workspace,
) -> None:
    folder = training_folder(workspace, put_run(workspace, "run", "Running"))
    write_metrics(folder, metric_rows(20))
    assert curves.progress(folder) is None
    (folder / "facts.json").write_text('{"plan": {"total_steps": 50}}')
    found = curves.progress(folder)
    assert found is not None
    assert (found.step, found.total) == (20, 50)
