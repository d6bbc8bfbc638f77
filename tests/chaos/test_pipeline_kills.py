"""Pipelines survive kills of the server, of their steps, and of both."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from job_faults import faults_of, leftovers
from jobs_process import JobsServer
from jobs_server import open_workspace
from pipelines import MOST_POINTS, _ended, prove, sweep

from finery.jobs import service
from finery.jobs.job import attempt_folder
from finery.runners import process
from postgres_server import postgres_server

# A third of what a pipeline makes durable lies within these; the full form tries every point.
SOME_POINTS = [(26, "after"), (38, "before")]


def test_nothing_is_lost_and_nothing_done_twice_under_random_kills(tmp_path: Path) -> None:
    report = prove(4, seed=7, folder=tmp_path)
    assert not report.faults, str(report)
    assert report.slowest < 10.0, str(report)


def test_nothing_is_lost_under_kills_with_everything_in_postgres(tmp_path: Path) -> None:
    with postgres_server() as url:
        report = prove(2, seed=7, folder=tmp_path, database=url)
    assert not report.faults, str(report)


def test_a_death_around_any_commit_is_survived(tmp_path: Path) -> None:
    faults, deaths = sweep(tmp_path, SOME_POINTS)
    assert deaths == len(SOME_POINTS)
    assert not faults


def test_what_ended_while_the_server_was_down_is_collected_soon(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "service")
    server = JobsServer(tmp_path / "service")
    server.start()
    assert server.ask("submit alone good")
    step = {s.step_path: s for s in service.find(workspace, parent="alone")[0]}["a"]
    folder = attempt_folder(workspace, step, 1)
    until = time.monotonic() + 60
    while not (folder / process.STARTED).exists():
        assert time.monotonic() < until
        time.sleep(0.005)
    server.kill()
    while process.state(folder) != "ended":
        assert time.monotonic() < until
        time.sleep(0.01)
    began = time.monotonic()
    server.start()
    while not service.get(workspace, step.name).is_terminal:
        time.sleep(0.02)
    assert time.monotonic() - began < 10.0
    while not _ended(workspace, "alone"):
        assert time.monotonic() < until
        time.sleep(0.02)
    server.kill()
    assert service.get(workspace, step.name).attempts == 1
    assert faults_of(workspace, "alone", "good") + leftovers(workspace) == []
    workspace.store.engine.dispose()


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_a_hundred_kills(tmp_path: Path) -> None:
    report = prove(100, seed=0, folder=tmp_path)
    assert not report.faults, str(report)


@pytest.mark.full
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_death_around_every_commit_is_survived(tmp_path: Path, moment: str) -> None:
    faults, deaths = sweep(tmp_path, [(at, moment) for at in range(1, MOST_POINTS)])
    assert deaths > 100
    assert not faults
