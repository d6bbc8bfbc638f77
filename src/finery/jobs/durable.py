"""DBOS in our process: where it keeps its state, and what is begun anew after a crash."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from finery.jobs import rows
from finery.jobs.bind import discard_leftovers
from finery.jobs.job import NOT_STARTED, TERMINAL, Job
from finery.jobs.pipeline import abandon, run_pipeline, run_step
from finery.jobs.runtime import Runtime, use
from finery.jobs.tables import jobs
from finery.workspace.place import Workspace

log = logging.getLogger("finery.jobs")

QUEUE = "jobs"
AT_ONCE = 32  # jobs whose steps are driven at the same time; the others wait in the queue
MOST_WORKFLOWS = 5  # times a job's workflow is begun anew before the job is given up
_ALIVE = frozenset({"PENDING", "ENQUEUED", "DELAYED"})
LOOK = 5.0  # seconds between two looks for jobs that nobody began
_BATCH = 500


@contextlib.contextmanager
def launched(runtime: Runtime) -> Iterator[None]:
    """Run workflows while the block lasts. What they started goes on running after it."""
    use(runtime)
    discard_leftovers(runtime.workspace)
    watch = threading.Thread(target=_watched, args=(runtime,), name="recover jobs")
    try:
        DBOS(config=_config(runtime.workspace))
        DBOS.launch()
        DBOS.register_queue(
            QUEUE,
            worker_concurrency=AT_ONCE,
            polling_interval_sec=0.2,
            on_conflict="always_update",
        )
        watch.start()
        yield
    finally:
        runtime.stop()
        if watch.ident is not None:
            watch.join()
        DBOS.destroy()
        use(None)


def _config(workspace: Workspace) -> DBOSConfig:
    return {
        "name": "finery",
        "system_database_url": workspace.settings.database_url or _sqlite(workspace),
        "serializer": DBOSPortableJSONSerializer(),  # the default would be pickle
        # Workflows go on under a newer finery: their steps are named, and what is true of a job
        # stands in our tables. A place that can no longer be found is healed by _recover.
        "application_version": "1",
        "executor_id": "service",
        "log_level": "WARNING",
        "run_migrations": True,
    }


def _sqlite(workspace: Workspace) -> str:
    """Its own file, in a mode in which readers and writers do not wait for each other."""
    path = workspace.folder / "dbos.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    return f"sqlite:///{path}"


def enqueue(job: Job, workflow: int = 0) -> None:
    """Begin the workflow of a job, once however often it is asked for."""
    identity = workflow_id(job, workflow)
    with SetWorkflowID(identity):
        if job.is_step:
            DBOS.enqueue_workflow(QUEUE, run_step, job.name)
        else:
            DBOS.enqueue_workflow(QUEUE, run_pipeline, job.name, identity)


def workflow_id(job: Job, workflow: int) -> str:
    """The name of a workflow: names and numbers of jobs deleted since are taken again."""
    return f"{job.name}.{job.created_at.isoformat()}.{workflow}"


def begin(job: Job) -> None:
    """Begin the workflow of a job that was just taken on: now, or when somebody looks next."""
    try:
        enqueue(job)
    except Exception:  # whatever it was: the job stands in the store, and has to run
        log.exception("job %s could not be begun; it is tried again", job.name)


def _watched(runtime: Runtime) -> None:
    try:
        _recover(runtime)
    except Exception:
        log.exception("jobs that were cut off could not all be found")
    known: set[str] = set()
    while runtime.pause(LOOK):
        try:
            known = _begin_forgotten(runtime, known)
        except Exception:  # a database that is busy, say: the next look comes soon
            log.exception("jobs that nobody began could not be looked for")


def _begin_forgotten(runtime: Runtime, known: set[str]) -> set[str]:
    """Begin the jobs that were taken on and have no workflow; the names of those that have one.

    `known` are those of the look before, which are not asked for again.
    """
    waits = sa.and_(jobs.c.status == NOT_STARTED, jobs.c.parent == "")
    with runtime.workspace.store.read() as connection:
        found = connection.execute(sa.select(jobs).where(waits)).mappings()
        waiting = {workflow_id(job, n): (job, n) for job, n in map(_numbered, found)}
    new = [name for name in waiting if name not in known]
    for start in range(0, len(new), _BATCH):
        asked = new[start : start + _BATCH]
        there = DBOS.list_workflows(workflow_ids=asked, load_input=False, load_output=False)
        for name in sorted({*asked} - {status.workflow_id for status in there}):
            log.warning("job %s had no workflow; begun", waiting[name][0].name)
            enqueue(*waiting[name])
    return set(waiting)


def _numbered(row: sa.RowMapping) -> tuple[Job, int]:
    """A job and the number of its workflow."""
    return rows.job_of(row), row["workflow"]


def _recover(runtime: Runtime) -> None:
    """See that every job that has not ended has a workflow that lives.

    DBOS goes on by itself with those it knows. Left are jobs whose submission was cut off, and
    those whose workflow ended without them, which only a defect or a lost database can cause.
    """
    after = 0
    while not runtime.is_stopping:
        with runtime.workspace.store.read() as connection:
            found = connection.execute(
                sa.select(jobs)
                .where(jobs.c.status.not_in(TERMINAL), jobs.c.seq > after)
                .order_by(jobs.c.seq)
                .limit(_BATCH)
            )
            pending = [_numbered(row) for row in found.mappings()]
            roots = _roots(connection, {job.root for job, _ in pending if job.parent})
        if not pending:
            return
        _revive(runtime, pending, roots)
        after = pending[-1][0].seq


def _roots(connection: sa.Connection, names: set[str]) -> dict[str, tuple[Job, int]]:
    """The pipelines with these names that have not ended, with the number of their workflow."""
    query = sa.select(jobs).where(jobs.c.name.in_(names), jobs.c.status.not_in(TERMINAL))
    found = connection.execute(query).mappings()
    return {row["name"]: _numbered(row) for row in found}


def _revive(
    runtime: Runtime, pending: list[tuple[Job, int]], roots: dict[str, tuple[Job, int]]
) -> None:
    names = [_name_of(job, workflow, roots) for job, workflow in pending]
    known = {
        status.workflow_id: status.status
        for status in DBOS.list_workflows(workflow_ids=names, load_input=False, load_output=False)
    }
    for (job, workflow), name in zip(pending, names, strict=True):
        # A step without a workflow is its pipeline's to start.
        is_its_pipelines = bool(job.parent) and job.root in roots and name not in known
        if known.get(name) in _ALIVE or is_its_pipelines:
            continue
        if name in known:
            log.warning("the workflow of job %s ended as %s; begun anew", job.name, known[name])
            workflow += 1
        if workflow > MOST_WORKFLOWS:
            abandon(runtime, job.name, "finery could not carry it out; the service's log says why.")
            roots.pop(job.name, None)  # its steps, which follow, have to end without it
            continue
        with runtime.workspace.store.write() as connection:
            changed = sa.update(jobs).where(jobs.c.name == job.name)
            connection.execute(changed.values(workflow=workflow))
        enqueue(job, workflow)


def _name_of(job: Job, workflow: int, roots: dict[str, tuple[Job, int]]) -> str:
    """The workflow of a job; that of a step hangs on its pipeline's until it is begun anew."""
    if job.parent and job.root in roots and not workflow:
        return f"{workflow_id(*roots[job.root])}/{job.step_path}"
    return workflow_id(job, workflow)
