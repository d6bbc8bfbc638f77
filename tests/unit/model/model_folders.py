"""Writes model folders that are whole, cheaply: real files, weights of a few bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_model(folder: Path, *, shards: int = 0, seed: int = 0) -> Path:
    """A folder that `check_folder` accepts; with `shards`, split and with an index."""
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    write(folder / "config.json", config | {"max_position_embeddings": 128})
    write(folder / "tokenizer.json", {"version": "1.0", "model": {}})
    write(folder / "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    values = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
    if not shards:
        save_file({"a": values}, folder / "model.safetensors")
        return folder
    index = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({f"a{number}": values}, folder / name)
        index[f"a{number}"] = name
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    return folder


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
