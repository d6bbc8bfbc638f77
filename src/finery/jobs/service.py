"""What may be done with jobs: submit, read, list, cancel, archive, change, delete."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from finery.jobs import check, durable, rows, runtime
from finery.jobs.bind import output_places, set_aside
from finery.jobs.job import CANCELED, NOT_STARTED, Job, artifacts, child_name
from finery.jobs.spec import JobSpec, Output, StepOutput, job_to_json, step_to_json
from finery.jobs.tables import attempts, jobs
from finery.runners import warm
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import Workspace

# What may differ when a job is submitted again under its name: the rest is the job.
_MUTABLE = ("display_name", "description", "tags", "properties", "services", "wire")


@dataclass(frozen=True)
class LogFile:
    """A log of a job: the name that clients know, and where it lies."""

    name: str
    path: Path


@contextlib.asynccontextmanager
async def part(_app: object, workspace: Workspace) -> AsyncIterator[None]:
    """Jobs as a part of the service: what was going on is gone on with, and outlives the part."""
    with contextlib.ExitStack() as stack:
        launched = durable.launched(runtime.Runtime(workspace))
        await asyncio.to_thread(stack.enter_context, launched)
        try:
            yield
        finally:
            await asyncio.to_thread(stack.close)


def submit(workspace: Workspace, spec: JobSpec) -> Job:
    """Take a job on; when this returns, no crash can lose it.

    The same specification under the same name is the job that is there; another one raises
    ConflictError. A specification that cannot be carried out raises InputError.
    """
    running = runtime.current()
    check.check_spec(spec)
    places = output_places(workspace, spec.name, _outputs(spec))
    names = [spec.name, *(child_name(spec.name, step.path) for step in spec.steps)]
    try:
        with workspace.store.write() as connection:
            rows.insert(connection, _new_rows(spec, places))
            job = rows.read(connection, spec.name)
            if any(workspace.job_outputs(name).exists() for name in names):
                raise ConflictError(
                    f"A job called {spec.name} was deleted and its outputs are still there. "
                    "Submit this one under another name."
                )
    except IntegrityError:
        return _again(workspace, spec)
    durable.begin(job)
    running.changed()
    if (host := warm.current()) is not None and any(step.entry for step in spec.steps):
        host.start()  # it may have ended when nothing came for long
    return job


def _outputs(spec: JobSpec) -> dict[str, Output]:
    """The outputs of a job, each with its type; those of steps lie where the job's own would."""
    found = {}
    for name, output in spec.outputs.items():
        if isinstance(output, StepOutput):
            output = Output(spec.step(output.step).outputs[output.output].type)
        found[name] = output
    return found


def _new_rows(spec: JobSpec, places: Mapping[str, Any]) -> list[dict[str, Any]]:
    shared = {"root": spec.name, "experiment": spec.experiment, "description": spec.description}
    root = {
        "name": spec.name,
        "type": spec.type,
        "parent": "",
        "step_path": "",
        "display_name": spec.display_name or spec.name,
        "tags": dict(spec.tags),
        "properties": dict(spec.properties),
        "spec": job_to_json(spec),
        "outputs": dict(places),
        "compute": spec.compute or (spec.steps[0].compute if spec.type == "command" else ""),
    }
    steps = [
        {
            "name": child_name(spec.name, step.path),
            "type": "command",
            "parent": spec.name,
            "step_path": step.path,
            "display_name": step.display_name or step.name,
            "description": "",
            "tags": {},
            "properties": {},
            "spec": step_to_json(step),
            "outputs": {},
            "compute": step.compute or spec.compute,
        }
        for step in (spec.steps if spec.type != "command" else ())
    ]
    return [shared | row for row in (root, *steps)]


def _again(workspace: Workspace, spec: JobSpec) -> Job:
    job = get(workspace, spec.name)
    new = job_to_json(spec)
    there = {name: job.spec.get(name) for name in new if name not in _MUTABLE}
    if job.parent or there != {name: new[name] for name in there}:
        raise ConflictError(
            f"A job called {spec.name} is there with other content. Submit it under another name."
        )
    if job.status == NOT_STARTED:  # it may be here because beginning it failed
        durable.begin(job)
    return update(
        workspace,
        spec.name,
        tags=spec.tags,
        display_name=spec.display_name or spec.name,
        description=spec.description,
    )


def get(workspace: Workspace, name: str) -> Job:
    """The job or step called `name`; raises NotFoundError."""
    with workspace.store.read() as connection:
        return rows.read(connection, name)


def find(
    workspace: Workspace,
    *,
    parent: str | None = None,
    experiment: str | None = None,
    archived: str = "active",
    limit: int = 100,
    after: int | None = None,
) -> tuple[list[Job], int | None]:
    """A page of jobs, newest first, and what to pass as `after` for the next one (None: no more).

    With `parent` the steps of that job, in their order.
    """
    query = sa.select(jobs).where(jobs.c.parent == (parent or ""))
    if experiment is not None:
        query = query.where(jobs.c.experiment == experiment)
    if archived != "all":
        query = query.where(jobs.c.archived == (archived == "archived"))
    newest_first = parent is None
    if after is not None:
        query = query.where(jobs.c.seq < after if newest_first else jobs.c.seq > after)
    query = query.order_by(jobs.c.seq.desc() if newest_first else jobs.c.seq).limit(limit + 1)
    with workspace.store.read() as connection:
        found = [rows.job_of(row) for row in connection.execute(query).mappings()]
    more = len(found) > limit
    return found[:limit], found[limit - 1].seq if more else None


def cancel(workspace: Workspace, name: str) -> Job:
    """Ask a job to end, its processes with it; one that has ended stays as it is."""
    with workspace.store.write() as connection:
        job = rows.read(connection, name)
        names = [name, *([] if job.parent else rows.statuses(connection, name))]
        if not job.parent and rows.end_unstarted(connection, name):  # nobody drives it yet
            for step in names[1:]:
                rows.end(connection, step, CANCELED, None)
        rows.wish_to_cancel(connection, names)
        job = rows.read(connection, name)
    if (running := runtime.running()) is not None:
        running.changed()
    return job


def set_archived(workspace: Workspace, name: str, archived: bool) -> Job:
    """Take a job out of the lists, or put it back."""
    return update(workspace, name, archived=archived)


def update(
    workspace: Workspace,
    name: str,
    *,
    tags: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    display_name: str | None = None,
    description: str | None = None,
    archived: bool | None = None,
    add: bool = False,
) -> Job:
    """Change what people say about a job; None leaves a thing as it is.

    With `add`, tags and properties join those that are there instead of taking their place.
    """
    said = {"display_name": display_name, "description": description, "archived": archived}
    with workspace.store.write() as connection:
        job = rows.read(connection, name)
        values: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
        if tags is not None:
            values["tags"] = {**(job.tags if add else {}), **tags}
        if properties is not None:
            values["properties"] = {**(job.properties if add else {}), **properties}
        if values:
            connection.execute(sa.update(jobs).where(jobs.c.name == name).values(**values))
        return rows.read(connection, name)


def delete(workspace: Workspace, name: str) -> None:
    """Forget a job that has ended: its steps, logs and working files. Its outputs stay."""
    with workspace.store.write() as connection:
        job = rows.read(connection, name)
        if job.parent:
            raise ConflictError(f"{name} is a step of {job.root}. Delete that job.")
        if not job.is_terminal:
            raise ConflictError(f"Job {name} is {job.status}. Cancel it before you delete it.")
        names = [name, *(step.name for step in rows.steps_of(connection, name))]
        connection.execute(sa.delete(attempts).where(attempts.c.job.in_(names)))
        connection.execute(sa.delete(jobs).where(jobs.c.name.in_(names)))
        # Before the name is free: what the next job of that name makes is not this one's.
        places = [workspace.jobs / name, *(artifacts(workspace, one) for one in names)]
        trash = set_aside(workspace, places)
    shutil.rmtree(trash, ignore_errors=True)


def log_files(workspace: Workspace, name: str) -> list[LogFile]:
    """The logs of a job by name."""
    root = artifacts(workspace, get(workspace, name).name)
    found = [
        LogFile(path.relative_to(root).as_posix(), path)
        for folder in ("user_logs", "logs")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    ]
    return found


def log_file(workspace: Workspace, name: str, log: str) -> LogFile:
    """One log of a job; raises NotFoundError."""
    for file in log_files(workspace, name):
        if file.name == log:
            return file
    raise NotFoundError(f"Job {name} has no log called {log}.")
