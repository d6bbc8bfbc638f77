"""The merged model as an MLflow model folder that MLflow itself loads and serves.

The layout and the task `llm/v1/chat` are MLflow's
(https://mlflow.org/docs/latest/ml/deep-learning/transformers/); the metadata keys are the ones
Azure ML writes for its fine-tuned models. The folder is what `mlflow.transformers.save_model`
makes of the same files, which a test compares; it is written here because MLflow, transformers
and torch take many seconds to load, and only to copy a folder. Never give it a model with
adapters attached: every adapted weight would be a new one on loading.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finery.errors import FineryError
from finery.files import new_folder, read_json
from finery.model.describe import chat_template
from finery.model.folder import ADAPTER_CONFIG, PAPERS, TOKENIZER_FILES, assemble, check_folder

TASK = "llm/v1/chat"
SIGNATURE = Path(__file__).parent / "chat_signature.yaml"
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
    files = {path.name: path for path in model_folder.iterdir() if path.is_file()}
    tokenizer = {name: path for name, path in files.items() if name in TOKENIZER_FILES}
    # AutoTokenizer reads the model type here when the tokenizer's class does not say enough.
    tokenizer["config.json"] = files["config.json"]
    shown = str(metadata.get("base_model_name", "")) or model_folder.resolve().name
    with new_folder(target, replace=True) as temporary:
        for name, part in (("model", files), ("components/tokenizer", tokenizer)):
            (temporary / name).mkdir(parents=True)
            assemble(part, temporary / name)
        assemble({name: path for name, path in files.items() if name in PAPERS}, temporary)
        _write_environment(temporary)
        example = dict(example or EXAMPLE)
        (temporary / "input_example.json").write_text(json.dumps(example), encoding="utf-8")
        serving = json.dumps(example, indent=2)
        (temporary / "serving_input_example.json").write_text(serving, encoding="utf-8")
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        described = _description(model_folder, _metadata(metadata), shown, size)
        _write_yaml(temporary / "MLmodel", described)


def _check_chat(folder: Path) -> None:
    if (folder / ADAPTER_CONFIG).is_file():
        raise FineryError(f"{folder} holds an adapter. Merge it into its base model first.")
    if not (folder / "tokenizer.json").is_file():
        raise FineryError(f"{folder} holds no tokenizer.json. Save its tokenizer as a fast one.")
    if not chat_template(folder):
        raise FineryError(
            f"The tokenizer of {folder} has no chat template, so nothing can chat with it. Add "
            "chat_template.jinja to the folder."
        )


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "finetuning_task": "chat-completion",
        "base_model_task": "chat-completion",
        "is_finetuned_model": True,
        "task": TASK,
        "finery_version": importlib.metadata.version("finery"),
        **given,
    }


def _description(
    folder: Path, metadata: Mapping[str, Any], source: str, size: int
) -> dict[str, Any]:
    """What MLmodel says (https://mlflow.org/docs/latest/ml/model/)."""
    config = read_json(folder / "config.json")
    signature = yaml.safe_load(SIGNATURE.read_text(encoding="utf-8"))
    return {
        "flavors": {
            "python_function": {
                "config": GENERATION,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.transformers",
                "python_version": platform.python_version(),
            },
            "transformers": {
                "code": None,
                "components": ["tokenizer"],
                "inference_task": TASK,
                "instance_type": "TextGenerationPipeline",
                "model_binary": "model",
                "pipeline_model_type": next(iter(config.get("architectures") or [""])),
                "source_model_name": source,
                "task": "text-generation",
                # in transformers 4 and 5 the class that takes tokenizer.json as it stands
                "tokenizer_type": "PreTrainedTokenizerFast",
                "torch_dtype": None,
                "transformers_version": importlib.metadata.version("transformers"),
            },
        },
        "is_signature_from_type_hint": False,
        "metadata": dict(metadata),
        "mlflow_version": importlib.metadata.version("mlflow"),
        "model_id": None,
        "model_size_bytes": size,
        "model_uuid": uuid.uuid4().hex,
        "prompts": None,
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
        "signature": {**signature, "params": None},
        "type_hint_from_example": False,
        "utc_time_created": str(datetime.datetime.now(datetime.UTC).replace(tzinfo=None)),
    }


def _write_environment(target: Path) -> None:
    """requirements.txt, and what conda and virtualenv make of it."""
    pins, python = requirements(), platform.python_version()
    (target / "requirements.txt").write_text("\n".join(pins), encoding="utf-8")
    tools = {name: _installed(name) for name in ("pip", "setuptools", "wheel")}
    pip = f"pip<={tools['pip']}" if tools["pip"] else "pip"
    conda = [f"python={python}", pip, {"pip": pins}]
    _write_yaml(
        target / "conda.yaml",
        {"channels": ["conda-forge"], "dependencies": conda, "name": "mlflow-env"},
    )
    build = [f"{name}=={version}" if version else name for name, version in tools.items()]
    environment = {"python": python, "build_dependencies": build}
    _write_yaml(
        target / "python_env.yaml", {**environment, "dependencies": ["-r requirements.txt"]}
    )


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def requirements() -> list[str]:
    """What serving the folder needs, pinned to what runs here.

    Without local version labels: `2.13.0+cpu` is on no public index.
    """
    pins = ((name, importlib.metadata.version(name)) for name in SERVED_WITH)
    return [f"{name}=={version.partition('+')[0]}" for name, version in pins]
