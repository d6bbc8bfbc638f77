"""A base model from a plain Hugging Face folder, ready to train or to answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as hf_logging

from finery.errors import FineryError, first_line
from finery.model import attention

DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}


def mixed_precision(precision: str, device: str) -> str:
    """What `precision` means on this device: "32", "bf16" or "16" (= float16).

    "16" asks for 16-bit arithmetic and takes bf16 wherever the device has it, as the Azure
    component does; float16 (which needs a loss scale) is for GPUs without bf16 only.
    """
    if precision != "16":
        return precision
    if device.startswith("cuda") and not torch.cuda.is_bf16_supported():
        return "16"
    return "bf16"


def load_model(
    folder: Path,
    *,
    precision: str,
    device: str,
    trust_remote_code: bool = False,
    quantization: str = "none",
    ignore_mismatched_sizes: bool = False,
) -> PreTrainedModel:
    """The model in `folder` on `device`, in eval mode, weights in `precision`.

    Raises FineryError when the folder does not hold a whole causal language model (weights
    that are not there would be new ones), or when it asks to run code of its own and
    `trust_remote_code` is false.
    """
    options: dict[str, Any] = {
        "dtype": DTYPES[mixed_precision(precision, device)],
        "trust_remote_code": trust_remote_code,
        "local_files_only": True,
        "use_safetensors": True,
        "ignore_mismatched_sizes": ignore_mismatched_sizes,
    }
    if quantization == "nf4":
        options |= {"quantization_config": _nf4(), "device_map": {"": device}}
    try:
        config = load_config(folder, trust_remote_code=trust_remote_code)
        with no_progress_bars():
            model, info = _load(folder, config, options)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FineryError(f"{folder} does not load as a causal language model: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise FineryError(
            f"The weights in {folder} lack {len(missing)} of the model's tensors (the first is "
            f"{missing[0]}). Get the model again; config.json and weights must be of one model."
        )
    if quantization != "nf4":  # fp8 is made of the loaded weights, once an adapter is there
        model.to(device)  # pyright: ignore[reportArgumentType]
    return model.eval()


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without transformers' bars for reading and writing weights."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def load_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers configuration in `folder`; raises FineryError for a family not known."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FineryError(
            f"{folder / 'config.json'} is no configuration that transformers can use: "
            f"{first_line(error)}."
        ) from error


def _load(folder: Path, config: Any, options: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """With document attention where the family takes attention plug-ins, else with sdpa.

    Beside it what transformers says of the loading: missing keys and their like.
    """
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        return load(
            folder,
            config=config,
            attn_implementation=attention.NAME,
            output_loading_info=True,
            **options,
        )
    except ValueError as error:
        if "attention" not in str(error).lower():
            raise
        return load(
            folder,
            config=config,
            attn_implementation="sdpa",
            output_loading_info=True,
            **options,
        )


def isolates_documents(model: PreTrainedModel) -> bool:
    """Whether packed rows can be used: the family runs our document attention."""
    return model.config._attn_implementation == attention.NAME


def _nf4() -> Any:
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise FineryError(
            "quantization = nf4 needs bitsandbytes, which is not installed. "
            "Install it (pip install 'finery[qlora]') or set quantization = none."
        ) from None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype in which the folder's weights are published."""
    config = load_config(folder)
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
