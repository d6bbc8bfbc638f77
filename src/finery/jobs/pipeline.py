"""The workflows: a pipeline starts its steps as their inputs come, and each step its attempts.

DBOS keeps the place in these functions across a kill of the server: what a decorated step
returned is not asked for again, and a workflow that was cut off is called again from the top.
What is true of a job stands in our own tables, which every step leaves consistent.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, SetWorkflowID
from sqlalchemy.exc import OperationalError

from finery.errors import FineryError
from finery.jobs import rows, step
from finery.jobs.bind import link_tree
from finery.jobs.ignored import job_notes
from finery.jobs.job import (
    CANCEL_REQUESTED,
    CANCELED,
    COMPLETED,
    FAILED,
    NOT_STARTED,
    RUNNING,
    TERMINAL,
    Job,
    child_name,
)
from finery.jobs.report import begin_run, finish_run
from finery.jobs.runtime import Runtime, current
from finery.jobs.spec import StepOutput
from finery.workspace.store import now

log = logging.getLogger("finery.jobs")
_BUSY = (0.5, 1.0, 2.0, 4.0)  # seconds before a busy database is asked again


@DBOS.workflow(name="pipeline", max_recovery_attempts=None)
def run_pipeline(name: str, workflow: str) -> str:
    """Run a job of several steps to its end."""
    plan = begin(name)
    ended: dict[str, str] = {}
    started: set[str] = set()
    while True:
        for path in _startable(plan, started, ended):
            started.add(path)
            with SetWorkflowID(f"{workflow}/{path}"):
                DBOS.start_workflow(run_step, child_name(name, path))
        if started == set(ended):
            return finish(name)
        path, status = first_to_end(name, sorted(started - set(ended)))
        ended[path] = status
        if status != COMPLETED and not plan["continues"]:
            plan["steps"] = {}  # nothing more starts, and what runs is asked to end
            stop_steps(name)


@DBOS.workflow(name="step", max_recovery_attempts=None)
def run_step(name: str) -> str:
    """Run one process to its end, with as many attempts as it may have."""
    status = prepare(name)
    number = 0
    while not status:
        number += 1
        status = attempt(name, number)
    return status


def _startable(plan: dict[str, Any], started: set[str], ended: dict[str, str]) -> list[str]:
    """The steps whose inputs are all there, in the order of the specification."""
    return [
        path
        for path, reads in plan["steps"].items()
        if path not in started and all(ended.get(other) == COMPLETED for other in reads)
    ]


def _durable(function: Callable[..., Any]) -> Callable[..., Any]:
    """A step of a workflow, driven by one thread at a time.

    A defect of ours ends the job it meets, with its trace in the service's log, rather than
    leave it unfinished for ever. A database that is busy is asked again.
    """

    @functools.wraps(function)
    def guarded(name: str, *arguments: Any) -> Any:
        runtime, message = current(), ""
        with runtime.driving(name):
            for pause in (*_BUSY, None):
                try:
                    return function(name, *arguments)
                except OperationalError:
                    if pause is None:
                        raise
                    log.warning("%s of job %s: the database is busy", function.__name__, name)
                    runtime.wait(runtime.generation, pause)
                except Exception as error:
                    log.exception("%s of job %s failed", function.__name__, name)
                    message = f"finery failed: {type(error).__name__}: {error}"
                    break
            # Outside the handler: the error's frames may hold a connection to the store.
            abandon(runtime, name, message)
            raise FineryError(message)

    return DBOS.step(name=function.__name__)(guarded)


def abandon(runtime: Runtime, name: str, message: str) -> None:
    """End a job that finery itself failed at."""
    with runtime.workspace.store.read() as connection:
        job = rows.read(connection, name)
    if job.is_step:
        step.abandon(runtime, job, message)
        return
    error = {"code": "SystemError", "message": message, "step": ""}
    with runtime.workspace.store.write() as connection:
        _end_steps(connection, rows.steps_of(connection, name), message)
        rows.end(connection, name, FAILED, error)
    runtime.changed()


def _end_steps(connection: sa.Connection, steps: list[Job], why: str) -> None:
    """End the steps that never began, and ask the others to end."""
    _not_run(connection, [child for child in steps if child.status == NOT_STARTED], why)
    rows.wish_to_cancel(connection, [child.name for child in steps])


def _not_run(connection: sa.Connection, steps: list[Job], why: str) -> None:
    for child in steps:
        error = {"code": "NotRun", "message": f"Not run: {why}", "step": child.step_path}
        rows.end(connection, child.name, CANCELED, error)


@_durable
def begin(name: str) -> dict[str, Any]:
    """Say that the pipeline runs; what its steps wait for, and whether it survives a failure."""
    runtime = current()
    with runtime.workspace.store.write() as connection:
        rows.advance(connection, name, RUNNING)
        job = rows.read(connection, name)
        if job.started_at is None:
            rows.advance(connection, name, RUNNING, started_at=now())
    spec = job.job_spec
    if job.is_terminal:  # canceled before it began
        return {"steps": {}, "continues": False}
    begin_run(runtime, job)
    runtime.log(name).say(f"pipeline {name} starts: {len(spec.steps)} steps")
    for note in job_notes(spec):
        runtime.log(name).say(f"note: {note}")
    return {
        "steps": {s.path: sorted(s.reads) for s in spec.steps},
        "continues": spec.continue_on_step_failure,
    }


@_durable
def prepare(name: str) -> str:
    """Resolve a step, or find that an earlier one stands for it."""
    return step.prepare(current(), name)


@_durable
def attempt(name: str, number: int) -> str:
    """Submit, watch and collect one process."""
    return step.attempt(current(), name, number)


@_durable
def first_to_end(name: str, paths: list[str]) -> list[str]:
    """Wait until one of the steps at `paths` has ended: its path and its status."""
    runtime = current()
    names = {child_name(name, path): path for path in paths}
    seen = runtime.generation
    while True:
        with runtime.workspace.store.read() as connection:
            statuses = rows.statuses(connection, name)
        for child, path in names.items():
            if statuses[child] in TERMINAL:
                return [path, statuses[child]]
        seen = runtime.wait(seen, 5.0)


@_durable
def stop_steps(name: str) -> bool:
    """After a failure: what has not begun does not begin, what runs is asked to end."""
    runtime = current()
    with runtime.workspace.store.write() as connection:
        steps = rows.steps_of(connection, name)
        _end_steps(connection, steps, _verdict(rows.read(connection, name), steps)[2])
    runtime.changed()
    return True


@_durable
def finish(name: str) -> str:
    """End the pipeline: its outputs, the steps that never ran, its status, the last log lines."""
    runtime = current()
    with runtime.workspace.store.read() as connection:
        job = rows.read(connection, name)
        steps = rows.steps_of(connection, name)
    _link_outputs(runtime, job, {step.step_path: step for step in steps})
    status, error, why = _verdict(job, steps)
    with runtime.workspace.store.write() as connection:
        _not_run(connection, steps, why)  # those that ran have ended
        rows.end(connection, name, status, error)
        job = rows.read(connection, name)
    words = f"\n{job.error['message']}" if job.error else ""
    runtime.log(name).say(f"pipeline {name}: {job.status}{words}")
    runtime.forget_log(name)
    finish_run(runtime, job)
    runtime.changed()
    return job.status


def _verdict(job: Job, steps: list[Job]) -> tuple[str, dict[str, Any] | None, str]:
    """How a pipeline ends, its error, and why steps of it did not run."""
    failed = next((step for step in steps if step.status == FAILED), None)
    if failed is not None and failed.error:
        path = failed.step_path
        message = f"Step {path} failed: {failed.error['message']}"
        return FAILED, {**failed.error, "message": message}, f"step {path} failed."
    if job.status == CANCEL_REQUESTED or any(step.status != COMPLETED for step in steps):
        return CANCELED, None, "the job was canceled."
    return COMPLETED, None, ""


def _link_outputs(runtime: Runtime, job: Job, steps: Mapping[str, Job]) -> None:
    """Put what completed steps wrote where the outputs of the pipeline belong."""
    for name, output in job.job_spec.outputs.items():
        if isinstance(output, StepOutput) and steps[output.step].status == COMPLETED:
            source = steps[output.step].outputs[output.output]["path"]
            link_tree(Path(source), Path(job.outputs[name]["path"]), runtime.workspace)
