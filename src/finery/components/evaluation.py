"""Step chat_completion_evaluation: the tuned model against its base on held-out conversations."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from finery.components.log import report, say
from finery.components.prepared import prepared_again
from finery.components.step import Step
from finery.evaluation.report import report_markdown
from finery.files import json_lines, new_folder, write_atomic, write_json
from finery.training.results import measure
from finery.training.run import run_facts
from finery.training.tracking import Tracker, tracking_server
from finery.training.trainee import trained_weights_folder


def run(step: Step) -> None:
    """Measure both, write the report, and log the figures to the step and to its job."""
    prepared = prepared_again(step)
    model = step.folder_of("model_path")
    evaluation: dict[str, Any] = {}
    with new_folder(step.output("evaluation_result"), replace=True) as folder:
        if prepared.recipe.evaluate:
            trained = trained_weights_folder(prepared.job.run)
            comparison, samples = measure(prepared, trained, report)
            evaluation = comparison.to_dict()
            write_json(folder / "evaluation.json", evaluation)
            write_atomic(folder / "samples.jsonl", json_lines(samples))
        facts = {
            **run_facts(prepared, folder),
            "files": {"model": str(model), "report.md": str(step.output("evaluation_result"))},
            "next": [f"finery chat {shlex.quote(str(model))}"],
        }
        write_json(folder / "report.json", facts)
        write_atomic(folder / "report.md", report_markdown(facts))
    figures = figures_of(evaluation)
    _track(figures)
    for name, value in figures.items():
        say(f"{name} {value:.4f}")


def figures_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an evaluation under the names they have as metrics; absent ones left out."""
    loss = evaluation.get("assistant_loss") or {}
    checks = evaluation.get("checks") or {}
    found = {
        "heldout_loss": loss.get("tuned"),
        "base_heldout_loss": loss.get("base"),
        "perplexity": loss.get("tuned_perplexity"),
        "base_perplexity": loss.get("base_perplexity"),
        "checks_passed": (checks.get("tuned") or {}).get("estimate"),
        "base_checks_passed": (checks.get("base") or {}).get("estimate"),
        **(evaluation.get("tuned_metrics") or {}),
        **{f"base_{k}": v for k, v in (evaluation.get("base_metrics") or {}).items()},
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _track(figures: Mapping[str, float]) -> None:
    if server := tracking_server():
        tracker = Tracker(server, report)
        tracker.log(figures)
        tracker.close()
