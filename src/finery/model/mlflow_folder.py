"""An MLflow model folder, read back as one plain Hugging Face folder.

Layouts by flavor: `transformers` keeps `model/` and `components/tokenizer/`
(https://mlflow.org/docs/latest/ml/deep-learning/transformers/); `hftransformersv2` and
`hftransformers`, the flavors of Azure ML's model catalogue, keep `data/model`, `data/config`
and `data/tokenizer`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from finery.errors import Fault, FineryError, InputError
from finery.files import home, new_folder, sha256_json
from finery.model.folder import (
    PAPERS,
    TOKENIZER_FILES,
    assemble,
    check_folder,
    model_files,
    weight_faults,
)
from finery.model.hashing import file_hash

MLMODEL = "MLmodel"
AZURE_FLAVORS = ("hftransformersv2", "hftransformers")


def is_mlflow_folder(folder: Path) -> bool:
    """Whether the folder says that it is an MLflow model."""
    return (folder / MLMODEL).is_file()


def import_mlflow(folder: Path) -> Path:
    """One Hugging Face folder under the finery home with the files of an MLflow model.

    Weights are hard links where the disk allows. The same model gives the same folder; the
    second call only looks it up. Raises InputError when the MLflow model has no usable flavor
    or is not whole.
    """
    files = _collect(folder)
    digest = sha256_json([[name, file_hash(path)] for name, path in sorted(files.items())])
    final = home() / "models" / f"{folder_name(folder.name)}-{digest[:8]}"
    if not final.is_dir():
        with new_folder(final) as temporary:
            assemble(files, temporary)
            check_folder(temporary, str(folder))
    return final


def folder_name(text: str) -> str:
    """`text` as a short lower-case file name."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")[:60] or "model"


def _collect(folder: Path) -> dict[str, Path]:
    """Name in the new folder → file. The tokenizer's own folder outranks copies elsewhere."""
    model, config, tokenizer = _parts(folder, _flavors(folder))
    if faults := list(weight_faults(model, str(model))):
        raise InputError(faults, "MLflow model")
    files = _by_name(model) | _by_name(config)
    own = _by_name(tokenizer)
    if own:
        # A template left beside the weights would shadow the one of the tokenizer's folder.
        files = {name: path for name, path in files.items() if name not in TOKENIZER_FILES}
        files |= {name: path for name, path in own.items() if name in TOKENIZER_FILES}
    papers = {path.name: path for path in folder.iterdir() if path.name in PAPERS}
    return papers | files


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    papers = [path for path in folder.iterdir() if path.name in PAPERS]
    return {path.name: path for path in [*papers, *model_files(folder)]}


def _flavors(folder: Path) -> dict[str, Any]:
    path = folder / MLMODEL
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(content["flavors"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise FineryError(f"{path} is not an MLflow model description: {error}.") from error


def _parts(folder: Path, flavors: dict[str, Any]) -> tuple[Path, Path, Path]:
    """The folders of model, configuration and tokenizer, by flavor."""
    if any(name in flavors for name in AZURE_FLAVORS):
        data = folder / "data"
        return _inside(folder, data / "model"), data / "config", data / "tokenizer"
    flavor = flavors.get("transformers")
    if flavor is None:
        raise _unusable(folder, f"flavors {', '.join(sorted(flavors))}", "")
    if "model_binary" not in flavor:
        remedy = "Log the merged model: an adapter or a reference to the hub is no whole model."
        raise _unusable(folder, "a transformers flavor without weights", remedy)
    model = _inside(folder, folder / str(flavor["model_binary"]))
    return model, model, folder / "components" / "tokenizer"


def _inside(folder: Path, part: Path) -> Path:
    if not part.resolve().is_relative_to(folder.resolve()):
        raise _unusable(folder, f"a model outside of the folder, {part}", "")
    if not part.is_dir():
        raise _unusable(folder, f"no {part.relative_to(folder)} folder", "Get the model again.")
    return part


def _unusable(folder: Path, found: str, remedy: str) -> InputError:
    expected = f"an MLflow model of the flavor transformers, {' or '.join(AZURE_FLAVORS)}"
    return InputError([Fault(f"{folder}/{MLMODEL}", found, expected, remedy)], "MLflow model")
