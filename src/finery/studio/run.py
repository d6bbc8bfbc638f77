"""The page of a run: its state, steps, curves, result and what it was made from."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from finery.jobs import service
from finery.jobs.job import CANCELED, COMPLETED, FAILED, Job
from finery.jobs.lineage import lineage
from finery.jobs.registration import register_model
from finery.jobs.spec import StepOutput
from finery.studio import curves, graph, results
from finery.studio.fine_tune_job import is_fine_tuning
from finery.studio.formats import between, segment
from finery.studio.formats import state as kind_of
from finery.studio.layout import form_of, fragment, go, page, render, workspace_of
from finery.workspace.asset import MODEL_TYPES
from finery.workspace.errors import ConflictError
from finery.workspace.place import Workspace

TRAINING_STEP = "finery:chat_completion_finetune"


def overview(request: Request, name: str) -> Response:
    """What happens in a job, as it happens."""
    workspace = workspace_of(request)
    job = service.get(workspace, name)
    values = _state(workspace, job)
    return _page(request, "run.html", job, "overview", **values, mark=_mark(request, values))


def state(request: Request, name: str, seen: str = "") -> Response:
    """The part of the page that changes; nothing while it is as the browser has `seen` it."""
    workspace = workspace_of(request)
    values = _state(workspace, service.get(workspace, name))
    mark = _mark(request, values)
    if seen == mark:
        return Response(status_code=204)
    return fragment(request, "run_state.html", **values, mark=mark)


def _mark(request: Request, values: Mapping[str, Any]) -> str:
    """A short name of what the changing part shows. What ticks by itself is not in it."""
    still = {**values, "mark": "", "still": True}
    text = render("run_state.html", session=None, **still)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _state(workspace: Workspace, job: Job) -> dict[str, Any]:
    steps = _steps(workspace, job)
    folder = curves.training_folder(workspace, job)
    return {
        "job": job,
        "steps": steps,
        "drawing": _drawing(steps) if len(steps) > 1 else None,
        "progress": curves.progress(folder) if folder and not job.is_terminal else None,
        "words": next_words(job),
        "can_clone": is_fine_tuning(job),
        "loses_training": _loses_training(job, steps),
        "still": False,
    }


def _loses_training(job: Job, steps: Sequence[Job]) -> bool:
    """Whether a new job in its place would train anew what this one has trained in part."""
    return job.status in (FAILED, CANCELED) and any(
        step.step.entry == TRAINING_STEP and step.status != COMPLETED and step.attempts
        for step in steps
    )


def _steps(workspace: Workspace, job: Job) -> list[Job]:
    if job.is_step:
        return []
    return service.find(workspace, parent=job.name, archived="all", limit=1000)[0]


def _drawing(steps: Sequence[Job]) -> graph.Drawing:
    return graph.draw(
        [
            graph.Node(
                key=step.step_path,
                label=step.display_name,
                note=_note(step),
                kind=kind_of(step.status),
                link=f"/studio/jobs/{segment(step.name)}",
                after=step.step.reads,
            )
            for step in steps
        ]
    )


def _note(step: Job) -> str:
    if step.reuse.get("from"):
        return "reused"
    if step.started_at and step.ended_at:
        return f"{step.status} · {between(step.started_at, step.ended_at)}"
    return step.status


def next_words(job: Job) -> list[tuple[str, str]]:
    """The next useful thing as words for a terminal: what it does, and the command."""
    name = job.root or job.name
    if not job.is_terminal:
        return [
            ("Follow it", f"finery job stream {name}"),
            ("Stop it", f"finery job cancel {name}"),
        ]
    show, copy = f"finery job show {name}", f"finery job download {name}"
    if job.status == FAILED:
        return [("See what failed", show), ("Copy its logs", copy)]
    return [("Copy what it made", copy), ("See all of it", show)]


def cancel(request: Request, name: str) -> Response:
    """Ask a job to end."""
    job = service.get(workspace_of(request), name)
    if job.is_terminal:
        raise ConflictError(f"{job.display_name} has ended already.")
    service.cancel(workspace_of(request), name)
    return go(request, f"/studio/jobs/{segment(name)}", f"{job.display_name} was asked to end.")


def again(request: Request, name: str) -> Response:
    """Submit the same job under a new name; steps that completed unchanged are not run again."""
    workspace = workspace_of(request)
    job = service.get(workspace, name)
    if job.parent:
        raise ConflictError("A step runs as a part of its job. Run the job again.")
    new = f"{name[:200]}-{uuid.uuid4().hex[:8]}"
    service.submit(workspace, replace(job.job_spec, name=new))
    said = f"Submitted again as {new}. Steps that completed unchanged are reused."
    return go(request, f"/studio/jobs/{segment(new)}", said)


def register(request: Request, name: str) -> Response:
    """Make an output of a job a registered model."""
    form = form_of(request)
    model = form.get("model", "").strip()
    register_model(workspace_of(request), name, form.get("output", ""), model)
    return go(request, f"/studio/models/{segment(model)}", f"Registered from {name}.")


def result(request: Request, name: str) -> Response:
    """Whether the fine-tuning helped: figures, answers, the merged model's proof, what to do."""
    workspace = workspace_of(request)
    job = service.get(workspace, name)
    found = results.of_job(workspace, job, _steps(workspace, job) or [job])
    is_done = job.status == COMPLETED and not job.parent
    models = [name for name in job.outputs if _is_model(job, name)] if is_done else []
    return _page(request, "run_result.html", job, "result", found=found, model_outputs=models)


def _is_model(job: Job, output: str) -> bool:
    """Whether an output is a model: an MLflow model, or a folder that is called one."""
    return job.outputs[output].get("type") in MODEL_TYPES or "model" in output


def details(request: Request, name: str) -> Response:
    """What a job was made from and what it left."""
    workspace = workspace_of(request)
    job = service.get(workspace, name)
    steps = _steps(workspace, job)
    values = {
        "inputs": _inputs(job, steps),
        "outputs": _outputs(job),
        "settings": _settings(workspace, job),
        "drawing": results.lineage_drawing(workspace, job),
        "body": json.dumps(job.wire, indent=2, ensure_ascii=False, default=str) if job.wire else "",
    }
    return _page(request, "run_details.html", job, "details", **values)


def _settings(workspace: Workspace, job: Job) -> dict[str, Any]:
    told = lineage(workspace, job.name)
    return {**told["settings"], **told["recipe"]}


def _inputs(job: Job, steps: Sequence[Job]) -> list[dict[str, str]]:
    """Files and models that come from elsewhere, with a link to what the workspace knows of."""
    own = {output.get("uri") for step in steps for output in step.outputs.values()}
    found: dict[str, dict[str, str]] = {}
    for step in steps or [job]:
        for name, value in step.inputs.items():
            uri = str(value.get("uri") or "")
            if not uri or uri in found or uri in own:
                continue
            found[uri] = {"name": name, "step": step.step_path, "type": str(value.get("type"))}
            found[uri] |= {"uri": uri, "link": results.link_of(uri)}
    return list(found.values())


def _outputs(job: Job) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": output.get("type", ""),
            "uri": output.get("uri", ""),
            "is_there": Path(output["path"]).exists() if output.get("path") else False,
            "step": _maker(job, name),
        }
        for name, output in job.outputs.items()
    ]


def _maker(job: Job, output: str) -> str:
    made = {} if job.parent else job.job_spec.outputs
    bound = made.get(output)
    return bound.step if isinstance(bound, StepOutput) else ""


def _page(request: Request, template: str, job: Job, tab: str, /, **values: Any) -> Response:
    link = f"/studio/jobs/{segment(job.name)}"
    around = {"title": job.display_name, "active": "jobs", "tab": tab, "job": job, "link": link}
    return page(request, template, **{**around, **values})
