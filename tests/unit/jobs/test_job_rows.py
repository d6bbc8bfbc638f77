"""Lists of jobs, and what people say about them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from finery.jobs import rows, service
from finery.jobs.tables import jobs
from finery.workspace.errors import ConflictError, NotFoundError, UnavailableError
from finery.workspace.place import Workspace


def add(workspace: Workspace, *names: str, **values: Any) -> None:
    """Rows of jobs that have ended."""
    plain = {
        "type": "pipeline",
        "parent": "",
        "step_path": "",
        "experiment": "Default",
        "display_name": "",
        "description": "",
        "tags": {},
        "properties": {},
        "status": "Completed",
        "spec": {"steps": [], "wire": {}},
        "outputs": {},
        "compute": "",
    }
    with workspace.store.write() as connection:
        made = [plain | {"name": name, "root": name} | values for name in names]
        rows.insert(connection, made)


def names(page: list[Any]) -> list[str]:
    return [job.name for job in page]


def test_pages_are_newest_first_and_meet_without_gap_or_overlap(workspace: Workspace) -> None:
    add(workspace, *(f"j{i}" for i in range(5)))
    first, after = service.find(workspace, limit=2)
    second, later = service.find(workspace, limit=2, after=after)
    add(workspace, "new")
    third, end = service.find(workspace, limit=2, after=later)
    assert names(first) + names(second) + names(third) == ["j4", "j3", "j2", "j1", "j0"]
    assert end is None


def test_lists_are_of_an_experiment_and_leave_out_what_is_archived(workspace: Workspace) -> None:
    add(workspace, "a", "b", experiment="one")
    add(workspace, "c")
    service.set_archived(workspace, "a", True)
    assert names(service.find(workspace, experiment="one")[0]) == ["b"]
    assert names(service.find(workspace)[0]) == ["c", "b"]
    assert names(service.find(workspace, archived="archived")[0]) == ["a"]
    assert names(service.find(workspace, archived="all")[0]) == ["c", "b", "a"]
    service.set_archived(workspace, "a", False)
    assert names(service.find(workspace, experiment="one")[0]) == ["b", "a"]


def test_steps_are_listed_under_their_job_alone(workspace: Workspace) -> None:
    add(workspace, "root")
    add(workspace, "s1", "s2", parent="root", root="root")
    assert names(service.find(workspace)[0]) == ["root"]
    assert names(service.find(workspace, parent="root")[0]) == ["s1", "s2"]
    first, after = service.find(workspace, parent="root", limit=1)
    assert names(first) + names(service.find(workspace, parent="root", after=after)[0]) == [
        "s1",
        "s2",
    ]


def test_the_first_page_of_ten_thousand_jobs_is_quick(workspace: Workspace) -> None:
    spec = {"steps": [], "wire": {"inputs": {f"input_{i}": "x" * 40 for i in range(70)}}}
    for start in range(0, 10_000, 2_000):
        add(workspace, *(f"j{i}" for i in range(start, start + 2_000)), spec=spec)
    service.find(workspace)
    best = min(_seconds(lambda: service.find(workspace)) for _ in range(5))
    assert best < 0.1
    query = sa.select(jobs.c.name).where(jobs.c.parent == "", jobs.c.archived == sa.false())
    text = str(query.order_by(jobs.c.seq.desc()).compile(compile_kwargs={"literal_binds": True}))
    with workspace.store.read() as connection:
        plan = str(connection.execute(sa.text(f"EXPLAIN QUERY PLAN {text}")).all())
    assert "ix_jobs_page" in plan
    assert "TEMP B-TREE" not in plan


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def test_what_people_say_about_a_job_can_change(workspace: Workspace) -> None:
    add(workspace, "a", tags={"old": "1"}, description="kept")
    job = service.update(workspace, "a", tags={"new": "2"}, display_name="Name")
    assert (job.tags, job.display_name, job.description) == ({"new": "2"}, "Name", "kept")


def test_a_job_that_is_not_there_is_said_to_be_missing(workspace: Workspace) -> None:
    for act in (service.get, service.cancel, service.delete, service.log_files, service.update):
        with pytest.raises(NotFoundError, match="nobody"):
            act(workspace, "nobody")


def test_a_job_that_runs_or_is_a_step_is_not_deleted(workspace: Workspace) -> None:
    add(workspace, "a", status="Running")
    add(workspace, "s", parent="a", root="a")
    for name in ("a", "s"):
        with pytest.raises(ConflictError):
            service.delete(workspace, name)


def test_an_end_is_never_overwritten(workspace: Workspace) -> None:
    add(workspace, "a", status="Running")
    with workspace.store.write() as connection:
        assert rows.end(connection, "a", "Completed", None)
        assert not rows.end(connection, "a", "Failed", {"code": "x"})
        assert not rows.advance(connection, "a", "Running")
        rows.wish_to_cancel(connection, ["a"])
    assert service.get(workspace, "a").status == "Completed"


def test_a_wish_to_cancel_stays_until_the_end(workspace: Workspace) -> None:
    add(workspace, "a", status="Queued")
    service.cancel(workspace, "a")
    with workspace.store.write() as connection:
        rows.advance(connection, "a", "Running", attempts=1)
    job = service.get(workspace, "a")
    assert (job.status, job.attempts) == ("CancelRequested", 1)


def test_jobs_cannot_be_submitted_while_jobs_are_down(workspace: Workspace) -> None:
    from finery.jobs.spec import JobSpec, StepSpec

    spec = JobSpec("a", "command", (StepSpec("", command="echo"),))
    with pytest.raises(UnavailableError):
        service.submit(workspace, spec)
    assert service.find(workspace)[0] == []
