"""What the heavy steps and the replicas load: imported once, in a process that they begin from.

Import it nowhere else. It has to start no thread (`finery.runners.warm_host` refuses one).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

# See `finery.components.run`: libraries that others look for and that no step uses.
_ABSENT = ("sklearn", "mlflow", "scipy")
_LOADED = (
    *("torch", "transformers", "transformers.modeling_utils", "transformers.generation.utils"),
    *("transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
    *("transformers.models.phi3.modeling_phi3", "tokenizers", "peft", "accelerate", "deepspeed"),
    *("finery.components.preprocess", "finery.components.finetune", "finery.components.converter"),
    *("finery.components.evaluation", "finery.components.model_import", "finery.model.load"),
    *("finery.model.lora", "finery.training.run", "finery.inference.open", "uvicorn"),
    *("pyarrow.parquet", "pandas"),
)


def begin() -> None:
    """Make a forked process what a new one would be."""
    import numpy as np
    import torch

    np.random.seed()  # as Python does with its own generator by itself
    if threads := os.environ.get("OMP_NUM_THREADS", ""):
        torch.set_num_threads(int(threads))  # it was read when torch was loaded


def _load() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for others, and warn
    hidden = [name for name in _ABSENT if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    for name in _LOADED:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    for name in hidden:  # who needs one after all gets it
        sys.modules.pop(name, None)


_load()
