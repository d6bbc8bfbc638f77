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

from finery.chat.golden import GOLDEN_FILE
from finery.errors import FineryError
from finery.evaluation.report import report_markdown
from finery.files import TEMPORARY, read_json, write_atomic, write_json
from finery.model.manifest import run_manifest
from finery.recipe.inputs import SETTINGS, Recipe
from finery.recipe.reference import recipe_yaml
from finery.recipe.resolve import Resolved, resolve
from finery.training.events import Report, read_metrics
from finery.training.job import NOT_IDENTITY
from finery.training.launch import LOCK, only_run_in, run_training
from finery.training.prepare import Prepared, data_files, ledger_facts, prepare

FINISHED = "manifest.json"  # of a run folder; written last
MARK = "run.json"  # whose run this is; written first
LEFT_BY_A_RUN = (
    *("recipe.yaml", "plan.json", "ledger.json", "metrics.jsonl", "training.json", "job.json"),
    *("checkpoints", "adapter", "weights", "model", "mlflow_model", "mlflow_run.json", "logs"),
    *("certificate.json", "evaluation.json", "samples.jsonl"),
    *("report.md", "report.json", FINISHED),
)
WORK = ("checkpoints", "adapter", "weights", "training.json")  # what a start would not repeat
_HASHED = {
    "model": "the base model",
    "data": "the training data",
    "validation_data": "the validation data",
    "renderer": "the tokenizer or chat template",
}


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
    check_output(prepared)
    with only_run_in(folder) as lock:
        claim(prepared)
        if (folder / FINISHED).is_file():
            facts = read_json(folder / "report.json")
            report({"event": "note", "text": _finished(prepared, facts)})
            return Run(folder, facts)
        write_atomic(folder / "recipe.yaml", recipe_yaml(prepared.resolved))
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


def check_output(prepared: Prepared) -> None:
    """Raise FineryError when the output folder is another run's, or no run's; writes nothing.

    A run that ended before its first checkpoint has nothing to lose: any other may take its
    folder, so that a setting can be corrected and the run started again.
    """
    folder, mark = prepared.job.run, prepared.job.run / MARK
    if not mark.is_file():
        others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        if others := sorted(name for name in others if name != LOCK and not _leftover(name)):
            shown = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
            raise FineryError(f"{folder} holds other files ({shown}). Choose another output_dir.")
    elif not prepared.recipe.overwrite_output and any((folder / name).exists() for name in WORK):
        changed = _changes(read_json(mark)["identity"], prepared.job.identity)
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise FineryError(
                f"{folder} holds a run with other settings ({', '.join(changed[:5])}{more}). "
                "Choose another output_dir, or start over with --overwrite-output."
            )


def claim(prepared: Prepared) -> None:
    """Take the output folder, whose lock the caller holds; raises as `check_output` does.

    What another run left there is removed when nothing was trained yet or `overwrite_output`
    says so, and nothing else is. A crash meanwhile leaves a folder that only another start
    with overwrite_output goes on with.
    """
    check_output(prepared)
    folder, identity = prepared.job.run, prepared.job.identity
    known = read_json(folder / MARK)["identity"] if (folder / MARK).is_file() else None
    if known is not None and (prepared.recipe.overwrite_output or _changes(known, identity)):
        write_json(folder / MARK, {"identity": {}, "fingerprint": ""})
        for path in list(folder.iterdir()):
            if path.name in LEFT_BY_A_RUN or _leftover(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(folder / MARK, {"identity": identity, "fingerprint": prepared.job.fingerprint})


def _leftover(name: str) -> bool:
    """Whether a crash in the middle of a write left this behind."""
    return name.startswith(TEMPORARY)


def _changes(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, in words; hashes are named by what they are of."""
    return [
        f"{_HASHED[key]} changed"
        if key in _HASHED and key in known
        else f"{key} was {known.get(key)!r}, now {now[key]!r}"
        for key in now
        if now[key] != known.get(key)
    ]


def _finished(prepared: Prepared, facts: Mapping[str, Any]) -> str:
    """That nothing was run, and which settings of this start therefore had no effect."""
    now = {k: v for k, v in asdict(prepared.recipe).items() if k in NOT_IDENTITY}
    then = {k: facts["recipe"].get(k, "") for k in now}
    changed = _changes(then, now)
    text = f"{prepared.job.run} is finished already; nothing was run"
    if not changed:
        return text
    return f"{text} ({', '.join(changed)}: to apply that, start over with --overwrite-output)"


def _after_training(prepared: Prepared, report: Report, command: Sequence[str]) -> dict[str, Any]:
    from finery.training.results import evaluate_run, merge_run

    recipe, folder = prepared.recipe, prepared.job.run
    adapter = folder / "adapter"
    if adapter.is_dir() and not (adapter / GOLDEN_FILE).is_file():
        prepared.renderer.save(adapter)  # so that it answers with the template it learned
    if recipe.evaluate and not (folder / "evaluation.json").is_file():
        evaluate_run(prepared, report)
    whole = not recipe.apply_lora or recipe.merge_lora_weights
    if whole and not _merged(folder, recipe):
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
    manifest = run_manifest(
        base=prepared.base,
        data=data_files(recipe),
        renderer_fingerprint=prepared.renderer.fingerprint,
        seed=recipe.seed,
        command=command or sys.argv,
    )
    write_json(folder / FINISHED, {**manifest, "identity": prepared.job.identity})
    report({"event": "finished", "folder": str(folder)})
    return facts


def _merged(folder: Path, recipe: Recipe) -> bool:
    """Whether the model is there, and with it the certificate that a merge leaves last."""
    proved = not recipe.apply_lora or (folder / "certificate.json").is_file()
    return proved and (folder / "model" / "manifest.json").is_file()


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
