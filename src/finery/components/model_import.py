"""Step chat_completion_model_import: the base model as one plain Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from finery.components.handover import Base
from finery.components.log import say
from finery.components.step import Step
from finery.errors import Fault, InputError
from finery.files import new_folder
from finery.model.describe import describe_folder
from finery.model.folder import PAPERS, assemble, model_files
from finery.model.sources import resolve_source
from finery.recipe.disk import path_faults
from finery.recipe.finetune_config import PACKAGED
from finery.recipe.inputs import MODEL_SOURCES, SETTINGS


def run(step: Step) -> None:
    """Find the model that the inputs name, and lay its files out in the step's output."""
    name = next((name for name in MODEL_SOURCES if name in step.inputs), "")
    if not name:
        remedy = "Give mlflow_model_path, pytorch_model_path or huggingface_id."
        raise InputError([Fault("mlflow_model_path", "no model", "a base model", remedy)], "job")
    given = step.inputs[name]
    source = given.value or given.place
    if given.path and (faults := path_faults(name, SETTINGS[name].kind, given.path)):
        raise InputError(faults, "job")
    say(f"base model {given.uri or source}")
    model = resolve_source(source, say)
    files = {path.name: path for path in model_files(model.path)}
    files |= {path.name: path for path in model.path.iterdir() if path.name in PAPERS}
    config = step.inputs.get("finetune_config_path")
    with new_folder(step.output("output_dir"), replace=True) as folder:
        assemble(files, folder)
        packaged = _configuration(config.path if config else None, (Path(source), model.path))
        if packaged:
            shutil.copyfile(packaged, folder / PACKAGED)
        base = Base(folder, source, given.uri, model.kind, model.sha256, bool(config))
        base.save(folder)
    found = describe_folder(step.output("output_dir"))
    say(
        f"{found.architecture}, {found.parameters / 1e6:,.1f} M parameters, {found.dtype}, "
        f"context {found.context:,} tokens, sha256 {model.sha256[:12]}"
    )


def _configuration(given: Path | None, folders: tuple[Path, ...]) -> Path | None:
    """The fine-tune configuration of the job, else the one packaged with the model."""
    return given or next((f / PACKAGED for f in folders if (f / PACKAGED).is_file()), None)
