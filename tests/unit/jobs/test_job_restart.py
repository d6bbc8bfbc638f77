"""A server that stops and one that follows it: what ran goes on running, nothing is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from finery.files import read_json
from finery.jobs import durable, service
from finery.jobs.job import attempt_folder
from finery.jobs.spec import StepOutput, StepSpec
from finery.jobs.tables import jobs
from finery.runners import process

Step = Callable[..., StepSpec]
After = Callable[..., Any]
WAIT = "until [ -e {} ]; do sleep 0.02; done; echo went on"


def test_a_step_runs_on_while_no_server_does_and_is_found_again(
    serve: Any, step: Step, after: After, tmp_path: Path
) -> None:
    with serve(tmp_path / "service") as server:
        job = server.submit(
            step("a", WAIT.format(tmp_path / "go")),
            step("b", "echo b", after("a")),
            outputs={"final": StepOutput("b", "out")},
        )
        child = server.steps(job)["a"]
        server.when(child.name, lambda job: job.status == "Running")
        folder = attempt_folder(server.workspace, child, 1)
    assert process.state(folder) == "running"
    pid = read_json(folder / process.STARTED)["pid"]
    with serve(tmp_path / "service") as server:
        (tmp_path / "go").touch()
        assert server.ended(job.name).status == "Completed"
        assert server.steps(job)["a"].attempts == 1
        assert read_json(folder / process.STARTED)["pid"] == pid
        assert server.log(job).count("went on") == 1
        assert server.log(job).count("a: starts (attempt 1)") == 1


def test_a_step_that_died_with_its_server_gets_another_attempt(
    serve: Any, step: Step, tmp_path: Path
) -> None:
    with serve(tmp_path / "service") as server:
        job = server.submit(step("a", WAIT.format(tmp_path / "go")))
        child = server.steps(job)["a"]
        server.when(child.name, lambda job: job.status == "Running")
    folder = attempt_folder(server.workspace, child, 1)
    process.end_all(read_json(folder / process.PROCESS)["token"])
    (tmp_path / "go").touch()
    with serve(tmp_path / "service") as server:
        assert server.ended(job.name).status == "Completed"
        assert server.steps(job)["a"].attempts == 2


def test_a_cancel_that_was_acknowledged_is_carried_out_by_the_next_server(
    serve: Any, step: Step, tmp_path: Path
) -> None:
    with serve(tmp_path / "service") as server:
        job = server.submit(step("a", "sleep 60"))
        child = server.steps(job)["a"]
        server.when(child.name, lambda job: job.status == "Running")
    service.cancel(server.workspace, job.name)
    folder = attempt_folder(server.workspace, child, 1)
    assert process.state(folder) == "running"
    with serve(tmp_path / "service") as server:
        assert server.ended(job.name).status == "Canceled"
    assert process.state(folder) == "ended"


def test_jobs_survive_the_loss_of_the_workflows_own_database(
    serve: Any, step: Step, after: After, tmp_path: Path
) -> None:
    with serve(tmp_path / "service") as server:
        job = server.submit(
            step("a", "echo once"),
            step("b", WAIT.format(tmp_path / "go"), after("a")),
        )
        child = server.steps(job)["b"]
        server.when(child.name, lambda job: job.status == "Running")
    for file in (tmp_path / "service").glob("dbos.sqlite*"):
        file.unlink()
    with serve(tmp_path / "service") as server:
        (tmp_path / "go").touch()
        assert server.ended(job.name).status == "Completed"
        assert {s.attempts for s in server.steps(job).values()} == {1}


def test_a_name_that_a_cut_off_deletion_freed_is_a_new_jobs(
    serve: Any, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    says = "echo {}; exit 3"
    with serve(tmp_path / "service") as server:
        job = server.run(step("", says.format("old"), outputs={}), name="again")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(service.shutil, "rmtree", killed)
            service.delete(server.workspace, job.name)
    with serve(tmp_path / "service") as server:
        assert list(server.workspace.jobs.iterdir()) == []
        job = server.run(step("", says.format("new"), outputs={}), name="again")
        assert (job.status, server.log(job)) == ("Failed", "new\n")


def test_a_job_whose_workflow_keeps_ending_without_it_is_given_up(
    serve: Any, step: Step, tmp_path: Path
) -> None:
    with serve(tmp_path / "service") as server:
        job = server.submit(step("a", "sleep 60"))
        child = server.steps(job)["a"]
        server.when(child.name, lambda job: job.status == "Running")
        token = read_json(attempt_folder(server.workspace, child, 1) / process.PROCESS)["token"]
    for file in (tmp_path / "service").glob("dbos.sqlite*"):
        file.unlink()
    with server.workspace.store.write() as connection:
        often = sa.update(jobs).where(jobs.c.parent == "")
        connection.execute(often.values(workflow=durable.MOST_WORKFLOWS + 1))
    with serve(tmp_path / "service") as server:
        ended = server.ended(job.name)
        assert (ended.status, ended.error["code"]) == ("Failed", "SystemError")
        assert server.ended(child.name).status == "Canceled"
    assert not process.carriers(token)
