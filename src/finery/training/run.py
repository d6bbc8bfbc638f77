"""The whole run, from a recipe to a folder that can be served: import, data, train, evaluate,
package.

Each stage leaves a file that is written last, so a run that was stopped anywhere goes on
where it stood when it is started again with the same recipe.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finery.errors import FineryError
from finery.evaluation.report import report_markdown
from finery.files import read_json, write_atomic, write_json
from finery.model.manifest import run_manifest
from finery.recipe.inputs import SETTINGS, Recipe
from finery.recipe.reference import recipe_yaml
from finery.recipe.resolve import Resolved, resolve
from finery.training.events import Report, read_metrics
from finery.training.launch import only_run_in, run_training
from finery.training.prepare import Prepared, ledger_facts, prepare

FINISHED = "manifest.json"  # of a run folder; written last


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    facts: Mapping[str, Any]  # what the report says (see finery.evaluation.report)


def finetune(
    recipe: Recipe | Resolved,
    *,
    report: Report = lambda event: None,
    command: Sequence[str] = (),
) -> Run:
    """Fine-tune as `recipe` says, into its output_dir; no server is needed.

    Raises InputError before anything is written when recipe or data are at fault,
    SelfTestError before the first step, FineryError when the output folder belongs to
    another run. A crash loses the steps since the last checkpoint; call again to go on.
    """
    resolved = recipe if isinstance(recipe, Resolved) else _checked(recipe)
    prepared = prepare(resolved.recipe, resolved.origins, resolved.notes)
    folder = prepared.job.run
    claim(prepared)
    with only_run_in(folder) as lock:
        if (folder / FINISHED).is_file():
            report({"event": "note", "text": f"{folder} is finished already; nothing was run"})
            return Run(folder, read_json(folder / "report.json"))
        write_atomic(folder / "recipe.yaml", recipe_yaml(resolved))
        write_json(folder / "ledger.json", ledger_facts(prepared))
        write_json(folder / "plan.json", prepared.plan.to_dict())
        report({"event": "prepared", "plan": prepared.plan.to_dict()})
        for sentence in (
            *prepared.notes,
            *(s for led in prepared.ledgers for s in led.sentences()),
        ):
            report({"event": "note", "text": sentence})
        if not (folder / "training.json").is_file():
            run_training(prepared.job, report, lock)
        return Run(folder, _after_training(prepared, report, command))


def _checked(recipe: Recipe) -> Resolved:
    """A recipe made in Python, checked as one from a file is."""
    given = {k: v for k, v in asdict(recipe).items() if v != SETTINGS[k].default}
    resolved = resolve(None, given)
    origins = {k: "given" if k in given else "default" for k in resolved.origins}
    return replace(resolved, origins=origins)


def claim(prepared: Prepared) -> None:
    """Take the output folder for this run; raises FineryError when it is another's.

    `overwrite_output` removes what a run left there, and nothing that is not a run's.
    """
    folder, mark = prepared.job.run, prepared.job.run / "run.json"
    identity = prepared.job.identity
    if folder.is_dir() and any(folder.iterdir()) and not mark.is_file():
        raise FineryError(f"{folder} holds other files. Choose another output_dir.")
    if mark.is_file():
        known = read_json(mark)["identity"]
        changed = [key for key in identity if identity[key] != known.get(key)]
        if prepared.recipe.overwrite_output:
            shutil.rmtree(folder)
        elif changed:
            what = ", ".join(f"{k} was {known.get(k)!r}, now {identity[k]!r}" for k in changed[:5])
            raise FineryError(
                f"{folder} holds a run with other settings ({what}). Choose another output_dir, "
                "or start over with --overwrite-output."
            )
    write_json(mark, {"identity": identity, "fingerprint": prepared.job.fingerprint})


def _after_training(prepared: Prepared, report: Report, command: Sequence[str]) -> dict[str, Any]:
    from finery.training.results import evaluate_run, merge_run

    recipe, folder = prepared.recipe, prepared.job.run
    if recipe.evaluate and not (folder / "evaluation.json").is_file():
        evaluate_run(prepared, report)
    whole = not recipe.apply_lora or recipe.merge_lora_weights
    if whole and not (folder / "model" / "manifest.json").is_file():
        merge_run(prepared, report)
    if (
        whole
        and recipe.package_mlflow
        and not (folder / "mlflow_model" / "manifest.json").is_file()
    ):
        from finery.model.package import write_mlflow_model

        report({"event": "stage", "text": "writing the MLflow model folder"})
        metadata = {"base_model_name": recipe.model_source}
        write_mlflow_model(folder / "model", folder / "mlflow_model", metadata)
    facts = run_facts(prepared)
    write_json(folder / "report.json", facts)
    write_atomic(folder / "report.md", report_markdown(facts))
    data = {split: recipe.data_path(split) for split in ("train", "validation", "test")}
    manifest = run_manifest(
        base=prepared.base,
        data={split: Path(path) for split, path in data.items() if path},
        renderer_fingerprint=prepared.renderer.fingerprint,
        seed=recipe.seed,
        command=command or sys.argv,
    )
    write_json(folder / FINISHED, {**manifest, "identity": prepared.job.identity})
    report({"event": "finished", "folder": str(folder)})
    return facts


def run_facts(prepared: Prepared) -> dict[str, Any]:
    """What the report of a run says, from the files the run has left."""
    folder, recipe, plan = prepared.job.run, prepared.recipe, prepared.plan
    training = read_json(folder / "training.json")
    speed = training["tokens"] / training["seconds"] if training["seconds"] else 0.0
    found = {
        name: read_json(folder / f"{name}.json")
        for name in ("evaluation", "certificate")
        if (folder / f"{name}.json").is_file()
    }
    samples = folder / "samples.jsonl"
    return {
        "title": f"Fine-tuning of {recipe.model_source}",
        "summary": {
            "base model": f"{recipe.model_source} ({plan.parameters / 1e6:,.1f} M parameters)",
            "trained": f"{plan.trainable / 1e6:,.2f} M parameters, {training['steps']:,} steps, "
            f"{training['tokens']:,} tokens",
            "device": f"{plan.processes} x {plan.device}",
            "time in steps": f"{training['seconds']:,.0f} s, {speed:,.0f} tokens/s",
            "kept": f"step {training['best_step']:,}"
            + (" (lowest held-out loss)" if training["best_loss"] is not None else ""),
        },
        "data": {
            s: recipe.data_path(s) for s in ("train", "validation", "test") if recipe.data_path(s)
        },
        "notes": list(prepared.notes),
        "recipe": {k: v for k, v in asdict(recipe).items() if v != ""},
        "origins": dict(prepared.origins) or None,
        "ledger": ledger_facts(prepared),
        "metrics": read_metrics(folder),
        "samples": [] if not samples.is_file() else _json_lines(samples),
        "evaluation_missing": "the recipe says evaluate: false",
        **found,
        "files": {
            name: str(folder / name)
            for name in ("adapter", "model", "mlflow_model", "report.md", "manifest.json")
            if (folder / name).exists() or name in ("report.md", "manifest.json")
        },
        "next": next_commands(prepared),
    }


def next_commands(prepared: Prepared) -> list[str]:
    """Commands worth typing after a run."""
    folder, source = prepared.job.run, prepared.recipe.model_source
    return [
        f"finery chat {folder} --against {source}",
        f"finery evaluate {folder} --against {source} --test FILE.jsonl",
    ]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
