"""One step, from its bindings to its end: prepare, then attempt after attempt.

Every function here may be cut off anywhere and called again: what it did stands in the store
or in the attempt's folder, and it goes on from there.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from finery.errors import FineryError
from finery.files import read_json
from finery.jobs import bind, capacity, command, mounts, records, reuse, rows
from finery.jobs.job import (
    CANCEL_REQUESTED,
    CANCELED,
    COMPLETED,
    FAILED,
    FINALIZING,
    PREPARING,
    QUEUED,
    RUNNING,
    STARTING,
    Job,
    artifacts,
    attempt_folder,
    std_log,
)
from finery.jobs.log import last_lines
from finery.jobs.records import LOST, Attempt
from finery.jobs.registration import register_outputs
from finery.jobs.report import begin_run, finish_run, note, size_of, step_environment
from finery.jobs.runtime import Runtime
from finery.runners.base import Devices, Task
from finery.runners.process import Exit
from finery.workspace.store import now

MOST_LOSSES = 3  # attempts whose process is ended from outside, before the step fails
_LOADING = 30.0  # seconds that a step waits for libraries that are being loaded: so would it
_PAUSE = (0.02, 0.25)  # seconds between looks at a process: the first, the longest


def prepare(runtime: Runtime, name: str) -> str:
    """Resolve what the step reads and look for an earlier run; its final status, or "" to run."""
    workspace = runtime.workspace
    job = _advance(runtime, name, PREPARING)
    if job.is_terminal:
        return _settled(runtime, job)
    if job.status == CANCEL_REQUESTED:
        return _cancel(runtime, job)
    with workspace.store.read() as connection:
        if records.was_attempted(connection, name):  # by a workflow that this one replaces
            return ""
    begin_run(runtime, job)
    try:
        inputs = bind.resolved_inputs(workspace, job)
        outputs = bind.output_places(workspace, name, job.step.outputs)
        key = reuse.key_of(job, inputs, command.code_hash(workspace, job.step))
    except FineryError as error:
        return _end(runtime, name, FAILED, ("UserError", str(error)))
    decision = reuse.decide(workspace, job, key, _forced(runtime, job))
    known = {"inputs": inputs, "outputs": outputs, "reuse_key": key}
    if decision.job is not None:
        reuse.take_over(workspace, decision.job, outputs)
        mark = {"fingerprint": bind.fingerprint(outputs)}
        note(runtime, job, f"reused: {decision.why}")
        return _end(runtime, name, COMPLETED, None, reuse=decision.written() | mark, **known)
    note(runtime, job, f"runs: {decision.why}")
    with workspace.store.write() as connection:
        rows.advance(connection, name, QUEUED, reuse=decision.written(), **known)
    return ""


def attempt(runtime: Runtime, name: str, number: int) -> str:
    """Run the step's process once, or go on with it; its final status, or "" to try again."""
    with runtime.workspace.store.write() as connection:
        job = rows.read(connection, name)
        record = None if job.is_terminal else records.open_attempt(connection, name, number)
    if record is None:
        return _settled(runtime, job)
    if record.outcome == LOST:
        return ""
    devices = _wait_for_devices(runtime, job)
    if devices is None:
        return _cancel(runtime, job)
    try:
        _start(runtime, job, record, devices)
    except FineryError as error:
        return _end(runtime, name, FAILED, ("UserError", str(error)), number)
    return _collect(runtime, job, record, _watch(runtime, job, record))


def _wait_for_devices(runtime: Runtime, job: Job) -> Devices | None:
    """What the step may use; None when it was canceled while it waited."""
    need = capacity.need_of(job.step, runtime.machine, size_of(runtime, job).gpus)
    seen = runtime.generation
    while True:
        with runtime.claims, runtime.workspace.store.write() as connection:
            if rows.read(connection, job.name).status == CANCEL_REQUESTED:
                return None
            devices = capacity.claim(connection, job.name, need, runtime.machine)
        if devices is not None:
            return devices
        seen = runtime.wait(seen, 5.0)


def _start(runtime: Runtime, job: Job, record: Attempt, devices: Devices) -> None:
    """Start the process of this attempt, unless it was started before."""
    workspace = runtime.workspace
    folder = attempt_folder(workspace, job, record.number)
    if runtime.runner.status(folder) == "never":
        _advance(runtime, job.name, STARTING)
        bind.make_room(job.outputs)
        command.write_step(folder, job, devices, size_of(runtime, job).name)
        place = command.working_folder(workspace, job.step, folder)
        if job.step.command:
            command.keep_outputs(place, artifacts(workspace, job.name))
        if not job.parent:  # a pipeline's log says it of all steps
            command.begin_log(std_log(workspace, job.name), job.step)
        task = Task(
            folder=folder,
            token=record.token,
            argv=command.argv_of(job, folder),
            working_folder=place,
            log=std_log(workspace, job.name),
            devices=devices,
            environment={**step_environment(runtime, job), **job.step.environment_variables},
            grace=runtime.grace,
            loads=_LOADING if job.step.entry and not job.step.environment_variables else None,
        )
        runtime.runner.submit(runtime.runner.plan(task))
    with workspace.store.write() as connection:
        started = job.started_at or now()
        rows.advance(connection, job.name, RUNNING, started_at=started, attempts=record.number)
    note(runtime, job, f"starts (attempt {record.number}) on {devices}")
    runtime.changed()


def _watch(runtime: Runtime, job: Job, record: Attempt) -> Exit | None:
    """How the process ended; None when it was lost."""
    folder = attempt_folder(runtime.workspace, job, record.number)
    seen, pause = runtime.generation, _PAUSE[0]
    _cancel_if_asked(runtime, job, record)
    while runtime.runner.status(folder) == "running":
        _follow(runtime, job)
        now_seen = runtime.wait(seen, pause)
        if now_seen != seen:
            _cancel_if_asked(runtime, job, record)
        if _is_late(runtime, job):
            runtime.runner.cancel(folder, runtime.grace)
        seen, pause = now_seen, min(pause * 1.3, _PAUSE[1])
    ended = runtime.runner.status(folder) == "ended"
    runtime.runner.clear(record.token)
    return runtime.runner.exit(folder) if ended else None


def _cancel_if_asked(runtime: Runtime, job: Job, record: Attempt) -> None:
    if _is_asked_to_end(runtime, job):
        folder = attempt_folder(runtime.workspace, job, record.number)
        runtime.runner.cancel(folder, runtime.grace)


def _is_asked_to_end(runtime: Runtime, job: Job) -> bool:
    with runtime.workspace.store.read() as connection:
        return rows.read(connection, job.name).status == CANCEL_REQUESTED


def _cancel(runtime: Runtime, job: Job) -> str:
    """End whatever process the step still has, then the step."""
    number = _stop_processes(runtime, job)
    _follow(runtime, job, last=True)
    return _end(runtime, job.name, CANCELED, None, number)


def _is_late(runtime: Runtime, job: Job) -> bool:
    """Whether a step has run for longer than it may."""
    if not job.step.timeout_seconds:
        return False
    with runtime.workspace.store.read() as connection:
        started = rows.read(connection, job.name).started_at
    limit = timedelta(seconds=job.step.timeout_seconds)
    return started is not None and now() - started > limit


def _stop_processes(runtime: Runtime, job: Job) -> int:
    """End the processes of attempts whose end nobody has said yet; the last one's number, or 0."""
    with runtime.workspace.store.read() as connection:
        going = records.open_attempts(connection, job.name)
    for record in going:
        runtime.runner.cancel(attempt_folder(runtime.workspace, job, record.number), runtime.grace)
        runtime.runner.clear(record.token)
    return going[-1].number if going else 0


def _collect(runtime: Runtime, job: Job, record: Attempt, end: Exit | None) -> str:
    """Make what became of the process the state of the step."""
    folder = attempt_folder(runtime.workspace, job, record.number)
    changed, added = mounts.changed_inputs(folder)
    if added:
        say = f"Note: the command put files among its inputs, which stay there: {added}.\n"
        command.end_log(std_log(runtime.workspace, job.name), say)
    _follow(runtime, job, last=True)
    if changed:
        failure = ("UserError", mounts.as_failure(changed))
        return _end(runtime, job.name, FAILED, failure, record.number)
    if end is not None and end.returncode == 0 and not end.stopped:
        _advance(runtime, job.name, FINALIZING)
        mark = {**job.reuse, "fingerprint": bind.fingerprint(job.outputs)}
        return _end(runtime, job.name, COMPLETED, None, record.number, reuse=mark)
    if _is_asked_to_end(runtime, job):
        return _cancel(runtime, job)
    if _is_late(runtime, job):
        limit = f"its limit of {job.step.timeout_seconds} seconds"
        message = f"The step ran longer than {limit} and was ended. Raise limits.timeout."
        return _end(runtime, job.name, FAILED, ("UserError", message), record.number)
    if end is None or end.killed:
        return _lost(runtime, job, record, end)
    error = _said(folder / "error.json") or _last_words(runtime, job, end)
    return _end(runtime, job.name, FAILED, error, record.number)


def _lost(runtime: Runtime, job: Job, record: Attempt, end: Exit | None) -> str:
    how = f"signal {-end.returncode}" if end and end.returncode < 0 else "killed from outside"
    if record.number >= MOST_LOSSES:
        message = (
            f"The process was ended from outside {record.number} times ({how}), which is as often "
            "as a step is tried. Look for a lack of memory on the machine."
        )
        return _end(runtime, job.name, FAILED, ("SystemError", message), record.number)
    note(runtime, job, f"attempt {record.number} was lost ({how}); another follows")
    with runtime.workspace.store.write() as connection:
        records.close_attempt(connection, job.name, record.number, LOST)
        rows.advance(connection, job.name, QUEUED)
    return ""


def _last_words(runtime: Runtime, job: Job, end: Exit) -> tuple[str, str]:
    words = end.error or last_lines(std_log(runtime.workspace, job.name))
    head = f"The command ended with exit status {end.returncode}."
    return "UserError", f"{head} Its last lines:\n{words}" if words else head


def _said(path: Any) -> tuple[str, str] | None:
    """The error that a built-in step wrote down."""
    if not path.exists():
        return None
    error = read_json(path)
    return error.get("code", "UserError"), error["message"]


def _follow(runtime: Runtime, job: Job, *, last: bool = False) -> None:
    """Carry new lines of the step's log over to that of its pipeline."""
    if job.parent:
        log = runtime.log(job.root)
        log.copy(job.step_path, std_log(runtime.workspace, job.name), last=last)


def _forced(runtime: Runtime, job: Job) -> bool:
    with runtime.workspace.store.read() as connection:
        return rows.read(connection, job.root).job_spec.force_rerun


def _advance(runtime: Runtime, name: str, status: str) -> Job:
    with runtime.workspace.store.write() as connection:
        rows.advance(connection, name, status)
        return rows.read(connection, name)


def _end(
    runtime: Runtime,
    name: str,
    status: str,
    error: tuple[str, str] | None,
    number: int = 0,
    **values: Any,
) -> str:
    """End the step, its attempt and its claim in one transaction, then say so."""
    if status == COMPLETED:
        try:
            register_outputs(runtime.workspace, name, values.get("outputs"))
        except FineryError as problem:
            status, error = FAILED, ("UserError", str(problem))
    _forget_inputs(runtime, name, number)
    with runtime.workspace.store.write() as connection:
        step = rows.read(connection, name).step_path
        full = {"code": error[0], "message": error[1], "step": step} if error else None
        if number:
            values["attempts"] = number
            records.close_attempt(connection, name, number, status)
        rows.end(connection, name, status, full, **values)
        capacity.release(connection, name)
        job = rows.read(connection, name)
    runtime.changed()
    return _settled(runtime, job)


def _forget_inputs(runtime: Runtime, name: str, number: int) -> None:
    with runtime.workspace.store.read() as connection:
        job = rows.read(connection, name)
    for one in range(1, number + 1):
        mounts.forget_inputs(attempt_folder(runtime.workspace, job, one))


def _settled(runtime: Runtime, job: Job) -> str:
    """What follows the end of a step, done again after a crash: its log line, its MLflow run."""
    why = f": {job.error['message']}" if job.error else ""
    note(runtime, job, f"{job.status}{why}")
    finish_run(runtime, job)
    return job.status


def abandon(runtime: Runtime, job: Job, message: str) -> str:
    """End a step that finery itself failed at, and whatever process it still has."""
    number = _stop_processes(runtime, job)
    return _end(runtime, job.name, FAILED, ("SystemError", message), number)
