"""The same pipelines with everything in PostgreSQL: our tables and those of DBOS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from test_pipelines import (
    Step,
    test_a_canceled_job_that_waits_for_the_machine_never_runs,
    test_a_failing_step_fails_the_pipeline_with_its_last_words,
    test_a_killed_process_is_tried_again_and_finds_what_it_had,
    test_a_step_is_reused_when_nothing_about_it_changed,
    test_another_job_under_the_same_name_is_refused,
    test_canceling_ends_the_processes_of_a_running_job,
    test_outputs_go_from_step_to_step_and_to_the_job,
    test_the_same_job_submitted_again_is_the_job_that_is_there,
)

from finery.jobs import service
from postgres_server import postgres_server

__all__ = [
    "test_a_canceled_job_that_waits_for_the_machine_never_runs",
    "test_a_failing_step_fails_the_pipeline_with_its_last_words",
    "test_a_killed_process_is_tried_again_and_finds_what_it_had",
    "test_a_step_is_reused_when_nothing_about_it_changed",
    "test_another_job_under_the_same_name_is_refused",
    "test_canceling_ends_the_processes_of_a_running_job",
    "test_outputs_go_from_step_to_step_and_to_the_job",
    "test_the_same_job_submitted_again_is_the_job_that_is_there",
]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of a PostgreSQL server of this module's own."""
    with postgres_server() as url:
        yield url


def test_claims_asked_for_at_once_never_add_up_to_more_than_the_machine(
    server: Any, step: Step
) -> None:
    jobs = [server.submit(*(step(f"s{i}", f"sleep 0.1 # {n}") for i in range(4))) for n in range(4)]
    most = 0
    while not all(service.get(server.workspace, job.name).is_terminal for job in jobs):
        with server.workspace.store.read() as connection:
            held = "SELECT coalesce(sum(cores), 0) FROM leases WHERE granted_at IS NOT NULL"
            most = max(most, connection.execute(sa.text(held)).scalar_one())
    assert 1 <= most <= server.runtime.machine.cores
    assert {server.ended(job.name).status for job in jobs} == {"Completed"}


def test_nothing_of_it_lies_in_a_file(server: Any, step: Step) -> None:
    server.run(step("a", "echo"))
    assert not list(server.workspace.folder.glob("*.sqlite"))
