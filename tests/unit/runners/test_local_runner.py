"""Plans of the local runner: values that can be looked at before anything happens."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from finery.runners.base import Devices, Task
from finery.runners.local import LocalRunner


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(
        folder=tmp_path / "1",
        token="plan-token",
        argv=("echo", "two words"),
        working_folder=tmp_path,
        log=tmp_path / "log.txt",
        devices=Devices(2),
        environment={"KEY": "secret-value"},
    )


def test_a_plan_changes_nothing(task: Task) -> None:
    LocalRunner().plan(task)
    assert not task.folder.exists()
    assert LocalRunner().status(task.folder) == "never"


def test_a_plan_reads_as_what_would_happen_without_secrets(task: Task) -> None:
    text = str(LocalRunner().plan(task))
    assert "echo 'two words'" in text
    assert "2 cores" in text
    assert "KEY" in text
    assert "secret-value" not in text


def test_a_task_keeps_to_its_devices(task: Task) -> None:
    plan = LocalRunner().plan(replace(task, devices=Devices(3, (1, 4))))
    assert plan.environment["OMP_NUM_THREADS"] == "3"
    assert plan.environment["CUDA_VISIBLE_DEVICES"] == "1,4"
    assert LocalRunner().plan(task).environment["CUDA_VISIBLE_DEVICES"] == ""


def test_the_tasks_own_variables_come_last(task: Task) -> None:
    own = replace(task, environment={"OMP_NUM_THREADS": "7"})
    assert LocalRunner().plan(own).environment["OMP_NUM_THREADS"] == "7"


def test_submitting_runs_it_and_logs_are_where_the_plan_says(task: Task) -> None:
    runner = LocalRunner()
    plan = runner.plan(task)
    assert runner.submit(plan)
    until = time.monotonic() + 20
    while runner.status(task.folder) != "ended":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert runner.exit(task.folder).returncode == 0
    assert runner.logs(plan).read_text() == "two words\n"
    assert runner.clear(task.token) <= 1  # the entry itself may be on its way out
    assert runner.clear(task.token) == 0
