"""The merged model as an MLflow model folder that MLflow itself loads and serves.

The layout and the task `llm/v1/chat` are MLflow's
(https://mlflow.org/docs/latest/ml/deep-learning/transformers/); the metadata keys are the ones
Azure ML writes for its fine-tuned models. Never give it a model with adapters attached:
MLflow would save the wrapped names, and on loading every adapted weight would be new.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finery.errors import FineryError
from finery.files import new_folder
from finery.model.folder import (
    ADAPTER_CONFIG,
    PAPERS,
    TOKENIZER_FILES,
    assemble,
    check_folder,
    link_or_copy,
)

TASK = "llm/v1/chat"
SERVED_WITH = ("mlflow", "transformers", "torch", "accelerate", "tokenizers", "safetensors")
EXAMPLE = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
GENERATION = {
    # The chat template has written every special token already.
    "add_special_tokens": False,
    # The pipeline would sample by default, and the same request be answered differently.
    "do_sample": False,
    "max_new_tokens": 256,
}


def write_mlflow_model(
    model_folder: Path,
    target: Path,
    metadata: Mapping[str, Any],
    example: Mapping[str, Any] | None = None,
) -> None:
    """Make `target` an MLflow model of the merged model in `model_folder`, replacing `target`.

    The weights are hard links where the disk allows, so they take no room twice; the tokenizer
    is the very file of `model_folder`. `metadata` should say base_model_name; `example` is a
    chat request to show (`{"messages": […]}`). It answers greedily; to sample, load it with
    `mlflow.pyfunc.load_model(target, model_config={"do_sample": True})`. After a crash `target`
    is what it was before.
    Raises InputError when `model_folder` is not a whole model, FineryError when it cannot chat.
    """
    check_folder(model_folder)
    _check_chat(model_folder)
    with new_folder(target, replace=True) as temporary, tempfile.TemporaryDirectory() as light:
        # MLflow copies all it is given, so it is given everything but the weights.
        stage = Path(light) / model_folder.resolve().name
        stage.mkdir()
        files = {path.name: path for path in model_folder.iterdir() if path.is_file()}
        weights = [name for name in files if name.endswith(".safetensors")]
        assemble({name: files[name] for name in files if name not in weights}, stage)
        _save(stage, temporary, _metadata(metadata), dict(example or EXAMPLE))
        for name in weights:
            link_or_copy(files[name], temporary / "model" / name)
        _restore_tokenizer(files, temporary)
        _restore_papers(files, temporary)
        _finish_description(temporary, stage, str(metadata.get("base_model_name", "")))


def _check_chat(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    if (folder / ADAPTER_CONFIG).is_file():
        raise FineryError(f"{folder} holds an adapter. Merge it into its base model first.")
    if PreTrainedTokenizerFast.from_pretrained(folder).chat_template is None:
        raise FineryError(
            f"The tokenizer of {folder} has no chat template, so nothing can chat with it. Add "
            "chat_template.jinja to the folder."
        )


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "finetuning_task": "chat-completion",
        "base_model_task": "chat-completion",
        "is_finetuned_model": True,
        "finery_version": importlib.metadata.version("finery"),
        **given,
    }


def _save(stage: Path, target: Path, metadata: dict[str, Any], example: dict[str, Any]) -> None:
    with _quiet():
        from mlflow.transformers import save_model

        save_model(
            str(stage),
            path=str(target),
            task=TASK,
            metadata=metadata,
            input_example=example,
            model_config=GENERATION,
            pip_requirements=requirements(),
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's advice to look a local path up on the hub, and about its own code."""
    logger = logging.getLogger("mlflow.transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Said while mlflow.pyfunc is imported, of a class inside MLflow.
            warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")
            yield
    finally:
        logger.setLevel(level)


def requirements() -> list[str]:
    """What serving the folder needs, pinned to what runs here.

    Without local version labels: `2.13.0+cpu` is on no public index.
    """
    pins = ((name, importlib.metadata.version(name)) for name in SERVED_WITH)
    return [f"{name}=={version.partition('+')[0]}" for name, version in pins]


def _restore_tokenizer(files: Mapping[str, Path], target: Path) -> None:
    """The tokenizer files as they are: MLflow saves them again, and renames their class."""
    folder = target / "components" / "tokenizer"
    shutil.rmtree(folder)
    folder.mkdir()
    kept = {name: path for name, path in files.items() if name in TOKENIZER_FILES}
    # AutoTokenizer reads the model type here when the tokenizer's class does not say enough.
    kept["config.json"] = files["config.json"]
    assemble(kept, folder)


def _restore_papers(files: Mapping[str, Path], target: Path) -> None:
    """The model's own licence and card, not MLflow's note that it found none."""
    (target / "LICENSE.txt").unlink(missing_ok=True)
    assemble({name: path for name, path in files.items() if name in PAPERS}, target)


def _finish_description(target: Path, stage: Path, base_model: str) -> None:
    """MLmodel without the path of the stage, and with the size that includes the weights."""
    from mlflow.models import Model

    description = Model.load(str(target))
    flavor = description.flavors["transformers"]
    if flavor["source_model_name"] != str(stage):
        raise FineryError("This version of MLflow writes another MLmodel than finery knows.")
    flavor["source_model_name"] = base_model or stage.name
    description.model_size_bytes = sum(
        path.stat().st_size for path in target.rglob("*") if path.is_file()
    )
    description.save(str(target / "MLmodel"))
