"""What is wrong with jobs when all is over: lost, done twice, in a wrong state, left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import sqlalchemy as sa

from finery.files import TEMPORARY, files_below, read_json, sha256_file
from finery.jobs import service
from finery.jobs.job import TERMINAL, Job
from finery.jobs.tables import attempts, jobs, leases
from finery.runners import process
from finery.workspace.place import Workspace

EXPECTED = {
    "good": ("Completed",),
    "failing": ("Failed",),
    "canceled": ("Canceled",),
    "chat": ("Completed",),
    "chat-again": ("Completed",),
    "chat-canceled": ("Canceled", "Completed"),  # the wish may come after the end
}
WEIGHTS = "pytorch_model_folder/model.safetensors"
TUNED = (
    WEIGHTS,
    "pytorch_model_folder/training/adapter/adapter_model.safetensors",
    "mlflow_model_folder/MLmodel",
    "mlflow_model_folder/model/model.safetensors",
    "evaluation_result/evaluation.json",
    "evaluation_result/report.json",
    "evaluation_result/samples.jsonl",
)


def faults_of(workspace: Workspace, name: str, kind: str) -> list[str]:
    """What is wrong with a job and its steps."""
    job = service.get(workspace, name)
    faults = []
    if job.status not in TERMINAL:
        faults.append(f"{name} ({kind}) has not ended: {job.status}")
    elif job.status not in EXPECTED[kind]:
        faults.append(f"{name} ({kind}) ended as {job.status}: {job.error}")
    if job.status == "Completed":
        faults += [f"{name} completed {fault}" for fault in _outputs(workspace, name, kind)]
    steps = service.find(workspace, parent=name)[0]
    for step in steps:
        faults += _faults_of_step(workspace, job, step)
    log = [file for file in service.log_files(workspace, name) if "execution" in file.name]
    if log:
        lines = log[0].path.read_text("utf-8").splitlines()
        # An event's first line; what follows it may be the same last words of a step.
        events = (f"pipeline {name}", *(f"{step.step_path}: " for step in steps))
        said = Counter(line.partition("Z ")[2] for line in lines)
        twice = [x for x, count in said.items() if count > 1 and x.startswith(events)]
        faults += [f"{name} says twice: {line}" for line in twice]
    return faults


def _outputs(workspace: Workspace, name: str, kind: str) -> list[str]:
    root = workspace.job_outputs(name)
    if not kind.startswith("chat"):
        final = root / "final" / "f"
        whole = final.exists() and final.read_text() == "a\nb\nc\n"
        return [] if whole else ["without its output"]
    gone = [
        file for file in TUNED if not (root / file).exists() or not (root / file).stat().st_size
    ]
    rest = [
        path
        for path in files_below(root)
        if any(part.startswith(TEMPORARY) for part in path.relative_to(root).parts)
    ]
    return [f"without {file}" for file in gone] + [f"with {path}" for path in rest]


def _faults_of_step(workspace: Workspace, job: Job, step: Job) -> list[str]:
    where = f"{job.name}.{step.step_path}"
    faults = []
    if step.status not in TERMINAL:
        faults.append(f"{where} has not ended: {step.status}")
    if job.status == "Completed" and step.status != "Completed":
        faults.append(f"{where} is {step.status} in a job that completed")
    folder = workspace.jobs / job.name / step.name
    ends = [read_json(path) for path in folder.glob("*/exit.json")]
    completed = sum(end["returncode"] == 0 and not end["stopped"] for end in ends)
    if completed > 1:
        faults.append(f"{where} completed {completed} times")
    if step.status == "Completed" and completed + bool(step.reuse.get("from")) != 1:
        faults.append(f"{where} is said to have completed, and did not")
    return faults


def weights_differ(workspace: Workspace, kinds: Mapping[str, str]) -> list[str]:
    """All fine-tuned models are the same to the bit, however often their making was cut off."""
    found: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        path = workspace.job_outputs(name) / WEIGHTS
        if kind.startswith("chat") and path.exists():
            found.setdefault(sha256_file(path), []).append(name)
    return [f"weights differ: {found}"] if len(found) > 1 else []


def leftovers(workspace: Workspace) -> list[str]:
    """Processes and claims that nobody gave back."""
    with workspace.store.read() as connection:
        claims = connection.execute(sa.select(leases.c.job)).scalars().all()
        tokens = connection.execute(sa.select(attempts.c.token, attempts.c.outcome)).all()
    found = [f"{job} still holds its devices" for job in claims]
    found += [f"an attempt has no outcome: {token}" for token, outcome in tokens if not outcome]
    found += [f"{token} still runs" for token, _ in tokens if process.carriers(token)]
    return found


def over_unsaid(workspace: Workspace) -> set[tuple[str, int]]:
    """Attempts whose process has ended or was lost, which no server has noted yet."""
    query = sa.select(attempts.c.job, attempts.c.number, jobs.c.root).where(
        attempts.c.outcome == "", attempts.c.job == jobs.c.name
    )
    with workspace.store.read() as connection:
        going = connection.execute(query).all()
    return {
        (job, number)
        for job, number, root in going
        if process.state(workspace.jobs / root / job / str(number)) in ("ended", "lost")
    }


def unsaid(workspace: Workspace, among: Iterable[tuple[str, int]]) -> bool:
    """Whether any of these attempts still has no outcome."""
    with workspace.store.read() as connection:
        query = sa.select(attempts.c.job, attempts.c.number).where(attempts.c.outcome == "")
        going = {(row.job, row.number) for row in connection.execute(query)}
    return bool(going & set(among))


def running_attempts(workspace: Workspace) -> list[Path]:
    """The folders of the attempts whose process runs."""
    return [folder for folder in workspace.jobs.glob("*/*/*") if process.is_running(folder)]
