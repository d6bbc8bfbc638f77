"""What one step leaves to the next, besides models and token rows: three small JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finery.files import read_json, write_json
from finery.model.folder import ModelFolder
from finery.recipe.finetune_config import PACKAGED, Configured, apply_finetune_config
from finery.recipe.inputs import Recipe

BASE = "base_model.json"  # beside the imported model
DATA = "data.json"  # beside the token rows
TRAINING = "training"  # the run folder inside the tuned model's
FACTS = "facts.json"  # in the run folder
JOB = "job.json"  # beside it
HELD_OUT = "held_out.jsonl"  # the conversations that evaluation asks, beside the token rows


@dataclass(frozen=True)
class Base:
    """The imported base model."""

    folder: Path
    source: str  # as `resolve_source` took it; an adapter names it as its base
    uri: str  # as the job named it
    kind: str
    sha256: str
    config_given: bool = False  # the finetune_config.json beside it was an input of the job

    @property
    def model(self) -> ModelFolder:
        """The imported folder, under the name it came with."""
        return ModelFolder(self.folder, self.source, self.kind, self.sha256)

    def save(self, folder: Path) -> None:
        """Write all but the folder, which is wherever the file lies."""
        value = {key: item for key, item in asdict(self).items() if key != "folder"}
        write_json(folder / BASE, value)


def load_base(folder: Path) -> Base:
    """The base model that lies in `folder`."""
    return Base(folder=folder, **read_json(folder / BASE))


def configured_by(base: Base, recipe: Recipe, origins: Mapping[str, str]) -> Configured:
    """The recipe with the fine-tune configuration worked in that was imported with the model."""
    if base.config_given:
        given = str(base.folder / PACKAGED)
        recipe = Recipe(**{**asdict(recipe), "finetune_config_path": given})
    return apply_finetune_config(recipe, origins, (base.folder,))


@dataclass(frozen=True)
class Data:
    """What was made of the conversations; token rows lie beside it, one folder a split."""

    settings: Mapping[str, Any]  # of the recipe: what decided the rows
    rule: str  # how the splits were made
    rows: Mapping[str, int]  # conversations by split
    files: Mapping[str, Any]  # by role: name, bytes, hash
    max_seq_length: int
    renderer: str  # fingerprint of tokenizer and template
    train_sha256: str
    validation_sha256: str
    ledgers: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Write it beside the rows."""
        write_json(folder / DATA, asdict(self))


def load_data(folder: Path) -> Data:
    """The data that lies in `folder`."""
    value = read_json(folder / DATA)
    return Data(**{**value, "ledgers": tuple(value["ledgers"]), "notes": tuple(value["notes"])})
