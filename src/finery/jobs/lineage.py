"""Where the outputs of a job come from: steps, base model, data, settings, package versions."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from finery.jobs import rows
from finery.jobs.job import Job
from finery.workspace.asset import MODEL_TYPES
from finery.workspace.place import Workspace

# What decides the numbers of a training, besides finery itself.
PACKAGES = ("finery", "torch", "transformers", "peft", "tokenizers", "accelerate", "deepspeed")


def lineage(workspace: Workspace, job_name: str) -> dict[str, Any]:
    """All of it as JSON. Of a step: that of the job it belongs to, so far as the step reads it."""
    with workspace.store.read() as connection:
        job = rows.read(connection, job_name)
        steps = rows.steps_of(connection, job.root)
    if job.is_step:
        steps = [job, *_upstream(job, steps)]
    read = [
        {"step": step.step_path, "input": name} | dict(value)
        for step in steps
        for name, value in step.inputs.items()
    ]
    files = [value for value in read if "value" not in value and not _is_made_here(value, steps)]
    models = _distinct([value for value in files if value["type"] in MODEL_TYPES])
    return {
        "job": job.root,
        "step": job.step_path,
        "experiment": job.experiment,
        "steps": [_step(step) for step in steps],
        "base_model": models[0] if models else None,
        "models": models,
        "data": _distinct([value for value in files if value["type"] not in MODEL_TYPES]),
        "settings": {value["input"]: value["value"] for value in read if "value" in value},
        "packages": _versions(),
    }


def _step(step: Job) -> dict[str, Any]:
    return {
        "step": step.step_path,
        "job": step.name,
        "component": step.step.component or step.step.entry,
        "status": step.status,
        "reused_from": step.reuse.get("from", ""),
    }


def _upstream(job: Job, steps: list[Job]) -> list[Job]:
    """The steps whose outputs `job` reads, directly or not."""
    by_path = {step.step_path: step for step in steps}
    found: dict[str, Job] = {}
    waiting = [job]
    while waiting:
        for path in sorted(waiting.pop().step.reads - found.keys()):
            found[path] = by_path[path]
            waiting.append(by_path[path])
    return list(found.values())


def _is_made_here(value: dict[str, Any], steps: list[Job]) -> bool:
    return any(value.get("uri") == out["uri"] for step in steps for out in step.outputs.values())


def _distinct(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each uri once, without the place on this machine."""
    kept = {
        value["uri"]: {
            "input": value["input"],
            "uri": value["uri"],
            "type": value["type"],
            "content_hash": value["content_hash"],
            **({"source": value["source"]} if value.get("source") else {}),
        }
        for value in reversed(values)
    }
    return list(reversed(kept.values()))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
