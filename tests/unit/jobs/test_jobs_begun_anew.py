"""A job that was taken on and could not be begun begins by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from finery.jobs import durable
from finery.jobs.spec import StepSpec

Step = Callable[..., StepSpec]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come often."""
    monkeypatch.setattr(durable, "LOOK", 0.05)


@pytest.fixture
def own(serve: Any, tmp_path: Path) -> Iterator[Any]:
    """A server of the test's own."""
    with serve(tmp_path / "service") as server:
        yield server


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the next workflows not be begun, as when the database is away for a moment."""
    real = DBOS.enqueue_workflow

    def fail(times: int) -> None:
        left = [times]

        def enqueue(*arguments: Any, **named: Any) -> Any:
            if left[0] > 0:
                left[0] -= 1
                raise ConnectionError("the database is away")
            return real(*arguments, **named)

        monkeypatch.setattr(DBOS, "enqueue_workflow", staticmethod(enqueue))

    return fail


def test_a_job_whose_workflow_could_not_be_begun_runs_without_a_restart(
    own: Any, step: Step, failing: Callable[[int], None]
) -> None:
    failing(3)
    job = own.submit(step("a", "echo a"))
    assert job.status == "NotStarted"
    assert own.ended(job.name).status == "Completed"
    assert own.steps(job)["a"].attempts == 1


def test_a_command_job_too(own: Any, step: Step, failing: Callable[[int], None]) -> None:
    failing(1)
    job = own.submit(step("", "echo a"))
    assert own.ended(job.name).status == "Completed"


def test_jobs_that_are_under_way_are_begun_once(own: Any, step: Step) -> None:
    jobs = [own.submit(step("a", "sleep 0.3; echo once")) for _ in range(3)]
    for job in jobs:
        assert own.ended(job.name).status == "Completed"
        assert own.log(job).count("once") == 1
        assert own.steps(job)["a"].attempts == 1


def test_looking_goes_on_after_a_look_that_failed(
    own: Any, step: Step, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = DBOS.list_workflows, [2]

    def listed(*arguments: Any, **named: Any) -> Any:
        if broken[0] > 0:
            broken[0] -= 1
            raise ConnectionError("the database is away")
        return real(*arguments, **named)

    monkeypatch.setattr(DBOS, "list_workflows", staticmethod(listed))
    failing(1)
    job = own.submit(step("a", "echo a"))
    assert own.ended(job.name).status == "Completed"
    assert broken == [0]


def test_a_server_ends_soon_although_it_looks(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "LOOK", 3600.0)
    with serve(tmp_path / "service"):
        began = time.monotonic()
    assert time.monotonic() - began < 30
