"""The whole run, from a recipe to a folder that can be served: import, data, train, evaluate,
package.

Each stage leaves a file that is written last, so a run that was stopped anywhere goes on
where it stood when it is started again with the same recipe.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finery.chat.golden import GOLDEN_FILE
from finery.evaluation.report import report_markdown
from finery.files import MANIFEST, files_below, read_json, read_json_lines, write_atomic, write_json
from finery.model.manifest import run_manifest
from finery.model.package import write_mlflow_model
from finery.recipe.inputs import SETTINGS, SPLITS, Recipe
from finery.recipe.reference import recipe_yaml
from finery.recipe.resolve import Resolved, resolve
from finery.training import results
from finery.training.data import data_files
from finery.training.events import Report, read_metrics
from finery.training.fitting import as_before, fitting, measured
from finery.training.launch import USAGE, only_run_in, run_training
from finery.training.out_of_memory import history, sentence
from finery.training.output import FINISHED, check_output, claim, finished_note
from finery.training.prepare import Prepared, ledger_facts, prepare


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
    prepared = as_before(prepare(resolved.recipe, resolved.origins, resolved.notes, report))
    folder = prepared.job.run
    check_output(prepared)
    if not (folder / "training.json").is_file():
        prepared = fitting(measured(prepared, report), report)
    with only_run_in(folder) as lock:
        claim(prepared)
        if (folder / FINISHED).is_file():
            facts = read_json(folder / "report.json")
            report({"event": "note", "text": finished_note(prepared)})
            return Run(folder, facts)
        write_atomic(folder / "recipe.yaml", recipe_yaml(_to_repeat(prepared.resolved)))
        write_json(folder / "ledger.json", ledger_facts(prepared))
        write_json(folder / "plan.json", prepared.plan.to_dict())
        report({"event": "prepared", "plan": prepared.plan.to_dict()})
        for sentence in (
            *prepared.notes,
            *(s for led in prepared.ledgers for s in led.sentences()),
        ):
            report({"event": "note", "text": sentence})
        manifest = _manifest(prepared, command)
        if not (folder / "training.json").is_file():
            run_training(prepared.job, report, lock)
        facts = _after_training(prepared, report)
        write_json(folder / FINISHED, manifest)
        report({"event": "finished", "folder": str(folder)})
        return Run(folder, facts)


def _checked(recipe: Recipe) -> Resolved:
    """A recipe made in Python, checked as one from a file is."""
    given = {k: v for k, v in asdict(recipe).items() if v != SETTINGS[k].default}
    resolved = resolve(None, given)
    origins = {k: "given" if k in given else "default" for k in resolved.origins}
    return replace(resolved, origins=origins)


def _manifest(prepared: Prepared, command: Sequence[str]) -> dict[str, Any]:
    """What the run is made from, taken before it starts: data may change while it trains."""
    manifest = run_manifest(
        base=prepared.base,
        data=data_files(prepared.recipe),
        renderer_fingerprint=prepared.renderer.fingerprint,
        seed=prepared.recipe.seed,
        command=command or sys.argv,
    )
    return {**manifest, "identity": prepared.job.identity}


def _to_repeat(resolved: Resolved) -> Resolved:
    """The recipe as it is kept: run again it goes on, and does not start over once more."""
    recipe = replace(resolved.recipe, overwrite_output=False)
    return replace(
        resolved, recipe=recipe, origins={**resolved.origins, "overwrite_output": "default"}
    )


def _after_training(prepared: Prepared, report: Report) -> dict[str, Any]:
    """Evaluate, merge, package and report, whatever of it is not there yet."""
    recipe, folder = prepared.recipe, prepared.job.run
    adapter = folder / "adapter"
    if adapter.is_dir() and not (adapter / GOLDEN_FILE).is_file():
        prepared.renderer.save(adapter)  # so that it answers with the template it learned
    if recipe.evaluate and not (folder / "evaluation.json").is_file():
        results.evaluate_run(prepared, report)
    whole = not recipe.apply_lora or recipe.merge_lora_weights
    if whole and not _merged(folder, recipe):
        results.merge_run(prepared, report)
    if whole and recipe.package_mlflow and not (folder / "mlflow_model" / MANIFEST).is_file():
        report({"event": "stage", "text": "writing the MLflow model folder"})
        metadata = {"base_model_name": recipe.model_source}
        write_mlflow_model(folder / "model", folder / "mlflow_model", metadata)
    facts = run_facts(prepared)
    write_json(folder / "report.json", facts)
    write_atomic(folder / "report.md", report_markdown(facts))
    return facts


def _merged(folder: Path, recipe: Recipe) -> bool:
    """Whether the model is there, and with it the certificate that a merge leaves last."""
    proved = not recipe.apply_lora or (folder / "certificate.json").is_file()
    return proved and (folder / "model" / MANIFEST).is_file()


def run_facts(prepared: Prepared, results: Path | None = None) -> dict[str, Any]:
    """What the report of a run says, from the files the run has left.

    `results` is where its evaluation lies, when that is not the run's own folder.
    """
    folder, recipe, plan = prepared.job.run, prepared.recipe, prepared.plan
    training = read_json(folder / "training.json")
    speed = training["tokens"] / training["seconds"] if training["seconds"] else 0.0
    results = results or folder
    places = {"evaluation": results / "evaluation.json", "certificate": folder / "certificate.json"}
    found = {name: read_json(path) for name, path in places.items() if path.is_file()}
    samples = results / "samples.jsonl"
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
            "evaluated": ("base plus adapter" if recipe.apply_lora else "the tuned weights")
            + f", precision {recipe.precision}",
            **planned_and_actual(prepared),
        },
        "data": {split: recipe.data_path(split) for split in SPLITS if recipe.data_path(split)},
        "notes": [*prepared.notes, *(sentence(event) for event in history(folder))],
        "plan": plan.to_dict(),
        "recipe": {k: v for k, v in asdict(recipe).items() if v != ""},
        "origins": dict(prepared.origins) or None,
        "ledger": ledger_facts(prepared),
        "metrics": read_metrics(folder),
        "samples": read_json_lines(samples) if samples.is_file() else [],
        "evaluation_missing": "the recipe says evaluate: false",
        **found,
        "files": {
            name: str(folder / name)
            for name in ("adapter", "model", "mlflow_model", "report.md", "manifest.json")
            if (folder / name).exists() or name in ("report.md", "manifest.json")
        },
        "next": next_commands(prepared),
    }


def planned_and_actual(prepared: Prepared) -> dict[str, str]:
    """What the plan said beside what happened, for those figures that were measured."""
    folder, plan, gib = prepared.job.run, prepared.plan, 1024**3
    said = {}
    training = read_json(folder / "training.json")
    if plan.measured and training["seconds"]:
        part = training["steps"] / plan.total_steps  # less than 1 after an early stop
        planned, speed = plan.step_seconds * part, training["tokens"] / training["seconds"]
        said["time in steps, planned"] = (
            f"{planned:,.0f} s at {plan.tokens_per_s:,.0f} tokens/s; it took "
            f"{training['seconds'] / planned:.2f} times that ({speed:,.0f} tokens/s)"
        )
    usage = folder / USAGE
    if usage.is_file():
        peak = read_json(usage)["peak_bytes"]
        kind = "planned" if plan.measured else "by arithmetic"
        said[f"peak memory, {kind}"] = (
            f"{plan.memory_bytes / gib:.2f} GiB; it was {peak / gib:.2f} GiB "
            f"({peak / plan.memory_bytes:.2f} times that)"
        )
    distinct = {path.stat().st_ino: path for path in files_below(folder)}  # a link takes no room
    disk = sum(path.stat().st_size for path in distinct.values())
    said["disk, planned"] = f"{plan.disk_bytes / gib:.2f} GiB; it is {disk / gib:.2f} GiB"
    return said


def next_commands(prepared: Prepared) -> list[str]:
    """Commands worth typing after a run."""
    folder, source = prepared.job.run, prepared.recipe.model_source
    test = prepared.recipe.data_path("test") or "FILE.jsonl"
    return [
        f"finery chat {shlex.quote(str(folder))} \\\n  --against {shlex.quote(source)}",
        # one option a line: a long path must survive a narrow terminal and be pasted whole
        f"finery evaluate {shlex.quote(str(folder))} \\\n  --against {shlex.quote(source)} \\\n"
        f"  --test {shlex.quote(test)}",
    ]
