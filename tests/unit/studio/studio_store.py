"""Jobs, logs, metrics and results as the service leaves them, without running anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from finery.files import json_lines
from finery.jobs import rows
from finery.jobs.job import child_name, execution_log, std_log
from finery.jobs.spec import (
    Asset,
    JobSpec,
    Output,
    StepOutput,
    StepSpec,
    Value,
    job_to_json,
    step_to_json,
)
from finery.workspace import assets
from finery.workspace.asset import Asset as AssetVersion
from finery.workspace.place import BLOB_CONTAINER, Workspace
from finery.workspace.store import now

DATA_URI = "azureml://data/chats/versions/1"


def steps_of(settings: Mapping[str, str]) -> tuple[StepSpec, ...]:
    """Import and data side by side, then training, then evaluation."""
    told = {name: Value(text) for name, text in settings.items()}
    return (
        StepSpec(
            "model_import",
            "Model import",
            entry="finery:chat_completion_model_import",
            outputs={"base": Output("uri_folder")},
        ),
        StepSpec(
            "preprocess",
            "Preprocess",
            entry="finery:chat_completion_datapreprocess",
            inputs={"train_file_path": Asset(DATA_URI, "uri_file")},
            outputs={"rows": Output("uri_folder")},
        ),
        StepSpec(
            "finetune",
            "Fine-tune",
            entry="finery:chat_completion_finetune",
            inputs={
                "base": StepOutput("model_import", "base"),
                "rows": StepOutput("preprocess", "rows"),
                **told,
            },
            outputs={"pytorch_model_folder": Output("uri_folder")},
        ),
        StepSpec(
            "evaluation",
            "Evaluation",
            entry="finery:chat_completion_evaluation",
            inputs={"model_path": StepOutput("finetune", "pytorch_model_folder")},
            outputs={"evaluation_result": Output("uri_folder")},
        ),
    )


def put_run(
    workspace: Workspace,
    name: str,
    status: str = "Completed",
    settings: Mapping[str, str] | None = None,
    **values: Any,
) -> dict[str, str]:
    """A fine-tuning pipeline as the store has it; the names of its steps by path."""
    steps = steps_of(settings or {"learning_rate": "0.0002"})
    outputs = {"evaluation": StepOutput("evaluation", "evaluation_result")}
    spec = JobSpec(name, "pipeline", steps, outputs=outputs, wire={"jobType": "Pipeline"})
    ended = now() if status in ("Completed", "Failed", "Canceled") else None
    shared: dict[str, Any] = {"root": name, "experiment": "tests", "description": "", "tags": {}}
    shared |= {"properties": {}, "compute": "", "status": status, "reuse": {}, "error": {}}
    shared |= {"started_at": now() - timedelta(minutes=3), "ended_at": ended}
    shared |= {"inputs": {}}
    place = {"evaluation": output_of(workspace, name, "evaluation", "uri_folder")}
    root = {"name": name, "type": "pipeline", "parent": "", "step_path": "", "outputs": place}
    root |= {"display_name": name, "spec": job_to_json(spec)}
    children = {step.path: child_name(name, step.path) for step in steps}
    made = [shared | root | values]
    for step in steps:
        one = children[step.path]
        row = {"name": one, "type": "command", "parent": name, "step_path": step.path}
        row |= {"display_name": step.display_name, "spec": step_to_json(step)}
        row["outputs"] = {o: output_of(workspace, one, o, "uri_folder") for o in step.outputs}
        row["inputs"] = read_by(workspace, step, children)
        made.append(shared | row)
    with workspace.store.write() as connection:
        rows.insert(connection, made)
    return children


def read_by(workspace: Workspace, step: StepSpec, names: Mapping[str, str]) -> dict[str, Any]:
    """What a step reads, resolved."""
    found: dict[str, Any] = {}
    for name, bound in step.inputs.items():
        if isinstance(bound, Value):
            found[name] = {"value": bound.text}
        elif isinstance(bound, Asset):
            found[name] = {"type": bound.type, "uri": bound.uri, "path": "", "content_hash": "h"}
        else:
            place = output_of(workspace, names[bound.step], bound.output, "uri_folder")
            found[name] = {**place, "content_hash": ""}
    return found


def output_of(workspace: Workspace, job: str, output: str, kind: str) -> dict[str, str]:
    """Where an output of a job lies."""
    uri = f"azureml://datastores/workspaceblobstore/paths/azureml/{job}/{output}"
    return {"type": kind, "uri": uri, "path": str(workspace.job_outputs(job) / output)}


def put_many(workspace: Workspace, count: int) -> None:
    """Plain jobs by the thousand."""
    step = StepSpec("", command="true")
    with workspace.store.write() as connection:
        rows.insert(connection, [many_row(number, step) for number in range(count)])


def many_row(number: int, step: StepSpec) -> dict[str, Any]:
    """The row of one of many jobs."""
    name = f"many-{number:05d}"
    spec = job_to_json(JobSpec(name, "command", (step,)))
    row: dict[str, Any] = {"name": name, "root": name, "type": "command", "parent": ""}
    row |= {"step_path": "", "display_name": f"Number {number}", "description": "", "tags": {}}
    row |= {"properties": {}, "compute": "", "outputs": {}, "spec": spec, "ended_at": now()}
    row |= {"experiment": f"group-{number % 5}", "started_at": now()}
    return row | {"status": "Failed" if number % 10 == 0 else "Completed"}


def training_folder(workspace: Workspace, steps: Mapping[str, str]) -> Path:
    """The run folder of a fine-tuning."""
    folder = workspace.job_outputs(steps["finetune"]) / "pytorch_model_folder" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def metric_rows(count: int, first: int = 1) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; the loss has one spike in it."""
    return [
        {
            "time": 1000.0 + 2 * step,
            "step": step,
            "loss": 9.0 if step == 777 else 3.0 / (1 + step / 50) + 0.05 * (step % 7),
            "learning_rate": 2e-4 * (1 - step / 20_000),
            "grad_norm": 1.0 + (step % 5) / 10,
            "tokens_per_s": 800.0 + step % 30,
        }
        for step in range(first, first + count)
    ]


def write_metrics(folder: Path, lines: Iterable[Mapping[str, Any]], total: int = 0) -> None:
    """Append to metrics.jsonl; with `total` also the plan."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json_lines(lines))
    if total:
        (folder / "plan.json").write_text(json.dumps({"total_steps": total}))


def write_log(workspace: Workspace, job: str, text: str, *, pipeline: bool = False) -> Path:
    """Append to the log of a step, or of a pipeline."""
    path = (execution_log if pipeline else std_log)(workspace, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
    return path


EVALUATION = {
    "has_base": True,
    "assistant_loss": {
        "rows": 40,
        "tokens": 931,
        "base": 4.3767,
        "tuned": 0.2166,
        "base_perplexity": 79.6,
        "tuned_perplexity": 1.24,
        "difference": {"estimate": -4.16, "low": -4.355, "high": -3.972, "confidence": 0.95},
    },
    "all_loss": None,
    "base_metrics": {"rougeL": 0.147, "bleu_4": 0.01},
    "tuned_metrics": {"rougeL": 0.379, "bleu_4": 0.29},
    "metric_rows": 40,
    "checks": {
        "rows": 40,
        "base": {"estimate": 0.0, "low": 0.0, "high": 0.09, "confidence": 0.95},
        "tuned": {"estimate": 0.725, "low": 0.57, "high": 0.84, "confidence": 0.95},
        "difference": {"estimate": 0.725, "low": 0.548, "high": 0.839, "confidence": 0.95},
    },
    "missing": [],
}
CERTIFICATE = {
    "rows": 8,
    "tokens": 514,
    "max_logit_difference": 0.3276,
    "max_logit": 43.3,
    "greedy_agreement": 1.0,
    "stored_dtype": "bfloat16",
}


def sample(question: str, base: str, tuned: str) -> dict[str, Any]:
    """A line of samples.jsonl."""
    return {
        "file": "test.jsonl",
        "row": 1,
        "messages": [{"role": "user", "content": question}],
        "reference": "That will be 14 crowns.",
        "base": base,
        "tuned": tuned,
        "expect": ["14 crowns"],
        "base_passed": False,
        "tuned_passed": True,
        "problem": "",
    }


def write_result(
    workspace: Workspace, steps: Mapping[str, str], samples: Iterable[Mapping[str, Any]]
) -> None:
    """The files that the evaluation and the merge leave."""
    folder = workspace.job_outputs(steps["evaluation"]) / "evaluation_result"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    (folder / "samples.jsonl").write_text(json_lines(samples))
    (training_folder(workspace, steps) / "certificate.json").write_text(json.dumps(CERTIFICATE))


def put_data(workspace: Workspace, name: str, file: str, text: str) -> None:
    """A data asset of one file."""
    path = workspace.blobs / BLOB_CONTAINER / "uploads" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    uri = f"azureml://datastores/workspaceblobstore/paths/uploads/{name}/{file}"
    assets.put(workspace, AssetVersion("data", "", name, "1", "uri_file", uri))


def put_model(workspace: Workspace, name: str, job: str, /, **properties: str) -> None:
    """A registered model with one file."""
    folder = workspace.blobs / BLOB_CONTAINER / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    uri = f"azureml://datastores/workspaceblobstore/paths/models/{name}"
    given = {"properties": properties, "spec": {"jobName": job}}
    assets.put(workspace, AssetVersion("model", "", name, "1", "custom_model", uri, **given))
