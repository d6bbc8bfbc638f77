"""What a recipe points at on disk: whether it is there and is what the input asks for.

Covered: existence, file or folder, readability, `MLmodel` and `MLTable`, JSON settings files,
an output folder that would swallow its own inputs. Not covered: the conversations and the
weights, which their own readers check.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container
from pathlib import Path

from finery.errors import Fault, os_reason
from finery.recipe.inputs import SETTINGS, Recipe
from finery.recipe.parse import found

# A user's DeepSpeed JSON may repeat these; another number than the recipe's stops DeepSpeed late.
_SHARED_WITH_DEEPSPEED = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
}
_OPTIMIZER_PARAMS = {
    "lr": ("learning_rate",),
    "betas": ("adam_beta1", "adam_beta2"),
    "eps": ("adam_epsilon",),
    "weight_decay": ("weight_decay",),
}


def disk_faults(recipe: Recipe, faulty: Container[str] = ()) -> list[Fault]:
    """Every path that cannot be used; `where` is the name of the input. Only reads."""
    faults: list[Fault] = []
    for name, row in SETTINGS.items():
        value = getattr(recipe, name)
        local = name == "model" and Path(value).is_absolute()
        if name not in faulty and value and (row.is_path or local):
            faults += path_faults(name, row.kind, Path(value))
    wrong = {fault.where for fault in faults}
    for name in ("deepspeed", "finetune_config_path", "evaluation_config"):
        if name not in wrong and name not in faulty and getattr(recipe, name):
            faults += _json_faults(name, Path(getattr(recipe, name)).read_bytes(), recipe)
    if recipe.evaluation_config_params and "evaluation_config_params" not in faulty:
        text = recipe.evaluation_config_params.encode()
        faults += _json_faults("evaluation_config_params", text, recipe)
    return faults + _output_faults(recipe, faulty)


def path_faults(name: str, kind: str, path: Path) -> list[Fault]:
    """Why `path` cannot be what the input `name` takes; empty when it can."""
    try:
        return _unusable(name, kind, path, found(str(path)))
    except OSError as error:  # a name too long, a parent folder that may not be entered
        return [Fault(name, f"{found(str(path))} ({os_reason(error)})", _wanted(kind))]


def _unusable(name: str, kind: str, path: Path, shown: str) -> list[Fault]:
    if kind == "folder":
        if path.exists() and not path.is_dir():
            return [Fault(name, f"the file {shown}", "a folder, or a name not in use")]
        return []
    if not path.exists():
        return [Fault(name, f"{shown}, which is not there", _wanted(kind))]
    if not os.access(path, os.R_OK):
        return [Fault(name, f"{shown}, which may not be read", _wanted(kind))]
    if kind == "uri_file" and not path.is_file():
        return [Fault(name, f"the folder {shown}", _wanted(kind))]
    if kind == "mltable" and not (path / "MLTable").is_file() and path.name != "MLTable":
        return [Fault(name, f"{shown}, without a file named MLTable", _wanted(kind))]
    mlmodel = (path / "MLmodel").is_file()
    if kind == "mlflow_model" and not mlmodel:
        remedy = "A Hugging Face folder goes into pytorch_model_path."
        return [Fault(name, f"{shown}, without a file named MLmodel", _wanted(kind), remedy)]
    if kind == "custom_model" and (mlmodel or not path.is_dir()):
        what = "which holds an MLmodel file" if mlmodel else "which is a file"
        remedy = "An MLflow folder goes into mlflow_model_path." if mlmodel else ""
        return [Fault(name, f"{shown}, {what}", _wanted(kind), remedy)]
    return []


def _wanted(kind: str) -> str:
    return {
        "uri_file": "a file on this machine",
        "mltable": "an MLTable folder on this machine",
        "mlflow_model": "an MLflow model folder on this machine",
        "custom_model": "a Hugging Face model folder on this machine",
        "folder": "a folder",
    }.get(kind, "a model on this machine, since it reads as a path")


def _json_faults(name: str, content: bytes, recipe: Recipe) -> list[Fault]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        return [Fault(name, f"text that is not JSON ({error})", "a JSON object")]
    if not isinstance(value, dict):
        return [Fault(name, "JSON that is no object", "a JSON object")]
    return _deepspeed_faults(value, recipe) if name == "deepspeed" else []


def _deepspeed_faults(config: dict[str, object], recipe: Recipe) -> list[Fault]:
    zero = config.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    faults = []
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        what = f"zero_optimization.stage {found(stage)}"
        faults.append(Fault("deepspeed", what, "a stage of 0, 1, 2 or 3"))
    gather = "stage3_gather_16bit_weights_on_model_save"
    if stage == 3 and isinstance(zero, dict) and zero.get(gather) is not True:
        remedy = f'Add "{gather}": true; without it the weights cannot be saved.'
        what = f"stage 3 with zero_optimization.{gather} {found(zero.get(gather))}"
        faults.append(Fault("deepspeed", what, "true", remedy))
    for key, name in _SHARED_WITH_DEEPSPEED.items():
        ours, theirs = getattr(recipe, name), config.get(key, "auto")
        if theirs not in ("auto", ours):
            what, expected = f"{key} {found(theirs)}", f'"auto" or {ours}, the recipe\'s {name}'
            faults.append(Fault("deepspeed", what, expected))
    return faults + _optimizer_faults(config.get("optimizer"), recipe)


def _optimizer_faults(section: object, recipe: Recipe) -> list[Fault]:
    """Values of an optimizer section that are not the recipe's, whose optimizer is used."""
    params = section.get("params") if isinstance(section, dict) else None
    faults = []
    for key, names in _OPTIMIZER_PARAMS.items():
        theirs = params.get(key, "auto") if isinstance(params, dict) else "auto"
        ours: object = [getattr(recipe, name) for name in names]
        ours = ours if len(names) > 1 else getattr(recipe, names[0])
        if theirs not in ("auto", ours):
            shown = str(theirs) if isinstance(theirs, list) else found(theirs)
            expected = f'"auto" or {ours}, the recipe\'s {" and ".join(names)}'
            faults.append(Fault("deepspeed", f"optimizer.params.{key} {shown}", expected))
    return faults


def _output_faults(recipe: Recipe, faulty: Container[str]) -> list[Fault]:
    """Inputs that `overwrite_output` would delete before they are read."""
    if not recipe.overwrite_output or "output_dir" in faulty:
        return []
    output = Path(recipe.output_dir).resolve()
    paths = {
        name: getattr(recipe, name)
        for name, row in SETTINGS.items()
        if (row.is_path or name == "model") and name != "output_dir" and name not in faulty
    }
    return [
        Fault(
            "overwrite_output",
            f"{name} {found(path)} inside output_dir {found(recipe.output_dir)}",
            "inputs outside the folder that is replaced",
            "Choose another output_dir.",
        )
        for name, path in paths.items()
        if Path(path).is_absolute() and Path(path).resolve().is_relative_to(output)
    ]
