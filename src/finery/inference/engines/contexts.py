"""What a model's configuration says of its sizes, read without loading any weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

UNBOUNDED = 4096  # context of a model that names none


def context_of(model: Path) -> int:
    """The most tokens (prompt and answer) the model in this folder has positions for."""
    return int(getattr(text_config(model), "max_position_embeddings", None) or UNBOUNDED)


def text_config(model: Path) -> Any:
    """The transformers configuration of the language model in this folder."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model, local_files_only=True).get_text_config()
