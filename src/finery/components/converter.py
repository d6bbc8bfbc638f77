"""Step ft_nlp_model_converter: the tuned model as an MLflow model folder, without torch."""

from __future__ import annotations

from pathlib import Path

from finery.components.handover import BASE, TRAINING, load_base
from finery.components.log import say
from finery.components.step import Step
from finery.files import MANIFEST
from finery.model.package import write_mlflow_model


def run(step: Step) -> None:
    """Package the merged model."""
    tuned = step.folder_of("model_path")
    merged = tuned / TRAINING / "model"  # there when the step before published an adapter
    model = merged if (merged / MANIFEST).is_file() else tuned
    target = step.output("mlflow_model_folder")
    say("writing the MLflow model folder")
    write_mlflow_model(model, target, _lineage(step))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    say(f"MLflow model of {size / 1e6:,.1f} MB, task llm/v1/chat")


def _lineage(step: Step) -> dict[str, str]:
    given = step.inputs.get("model_import_output")
    folder: Path | None = given.path if given else None
    if folder is None or not (folder / BASE).is_file():
        return {}
    base = load_base(folder)
    lineage = {"base_model_name": base.source, "base_model_asset_id": base.uri}
    return {key: value for key, value in lineage.items() if value}
