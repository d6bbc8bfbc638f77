"""Where the outputs of a job come from: steps, base model, data, settings, package versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery.components.handover import BASE, DATA, FACTS, JOB, TRAINING
from finery.files import read_json
from finery.jobs import rows
from finery.jobs.job import Job
from finery.model.manifest import package_versions
from finery.workspace.asset import MODEL_TYPES
from finery.workspace.place import Workspace

# What the built-in steps write down of their work, below their outputs.
_TOLD = {"base": BASE, "data": DATA, "facts": f"{TRAINING}/{FACTS}", "job": f"{TRAINING}/{JOB}"}


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
    told = _told(steps)
    models = _distinct([value for value in files if value["type"] in MODEL_TYPES])
    data = [value for value in files if value["type"] not in MODEL_TYPES]
    return {
        "job": job.root,
        "step": job.step_path,
        "experiment": job.experiment,
        "steps": [_step(step) for step in steps],
        "base_model": _base_model(models, told),
        "models": models,
        "data": _distinct([value | _rows(value, told) for value in data]),
        "settings": {value["input"]: value["value"] for value in read if "value" in value},
        "recipe": _recipe(told),
        "packages": told.get("facts", {}).get("packages") or package_versions(),
    }


def _told(steps: list[Job]) -> dict[str, Mapping[str, Any]]:
    """What the built-in steps wrote down, so far as they have run."""
    folders = [
        Path(output["path"])
        for step in steps
        if step.step.entry
        for output in step.outputs.values()
    ]
    return {
        what: read_json(folder / place)
        for what, place in _TOLD.items()
        for folder in folders
        if (folder / place).is_file()
    }


def _base_model(models: list[dict[str, Any]], told: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model that was tuned: as the job named it, and what the import found."""
    base = told.get("base", {})
    named = next((model for model in models if model["uri"] == base.get("uri")), None)
    known = named or (models[0] if models else {})
    found = {key: base[key] for key in ("source", "kind", "sha256") if base.get(key)}
    if _is_place(found.get("source")):
        del found["source"]
    return {**known, **found} or None


def _rows(value: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a file of conversations: how many of its rows went where, and its hash."""
    data = told.get("data", {})
    split = str(value["input"]).partition("_")[0]
    file = data.get("files", {}).get(split)
    place = str(value.get("path", ""))
    rows = {
        ledger["split"]: ledger["rows_read"]
        for ledger in data.get("ledgers", ())
        if place and str(ledger["file"]).startswith(place)
    }
    return {**({"rows": rows} if rows else {}), **({"sha256": file["sha256"]} if file else {})}


def _recipe(told: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of the training as it was resolved, without places on this machine."""
    recipe = told.get("job", {}).get("recipe", {})
    return {k: v for k, v in recipe.items() if v != "" and not _is_place(v)}


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


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
            **{key: value[key] for key in ("source", "rows", "sha256") if value.get(key)},
        }
        for value in reversed(values)
    }
    return list(reversed(kept.values()))
