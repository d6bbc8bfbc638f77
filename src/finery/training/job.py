"""A training job as a value: everything a worker process needs, in one JSON file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finery.files import read_json, sha256_json, write_json
from finery.recipe.inputs import Recipe

# Settings that say where and how a run is watched, not what it computes: a run may be
# resumed with others.
NOT_IDENTITY = frozenset(
    {
        "output_dir",
        "overwrite_output",
        "logging_steps",
        "logging_strategy",
        "save_total_limit",
        "self_tests",
        "evaluate",
        "eval_generations",
        "max_new_tokens",
        "package_mlflow",
        "resume_from_checkpoint",
        "dataloader_num_workers",
        "num_processes",
        "shm_size_finetune",
        "auto",
        "auto_find_batch_size",
        "gradient_checkpointing",  # computes the same values again
    }
)


@dataclass(frozen=True)
class TrainJob:
    """What to train, on which tokens, into which folder."""

    recipe: Recipe
    model_folder: Path
    model_source: str  # as the person named it
    model_sha256: str
    train_rows: Path  # a folder of token rows
    validation_rows: Path | None
    train_sha256: str
    pad_id: int
    end_of_turn_id: int
    max_seq_length: int
    device: str
    processes: int
    accumulation: int
    run: Path  # the output folder
    validation_sha256: str = ""  # "" without validation rows
    renderer: str = ""  # the renderer's fingerprint: tokenizer and chat template
    rows_at_once: int = 0  # a micro-batch smaller than the recipe's, where memory asks for it

    @property
    def micro_batch(self) -> int:
        """Rows of one forward pass; the recipe's but where they did not fit into memory."""
        return self.rows_at_once or self.recipe.per_device_train_batch_size

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the weights that come out; a checkpoint of another identity is refused."""
        recipe = {k: v for k, v in asdict(self.recipe).items() if k not in NOT_IDENTITY}
        paths = {k for k in recipe if k.endswith("_path") or k.startswith(("compute_", "instance"))}
        return {
            **{k: v for k, v in recipe.items() if k not in paths},
            "model": self.model_sha256,
            "data": self.train_sha256,
            "validation_data": self.validation_sha256,
            "renderer": self.renderer,
            "max_seq_length": self.max_seq_length,
            "device": self.device,
            # ZeRO's optimizer is cut by process; plain and DDP runs may go on with another count
            "processes": self.processes if self.recipe.apply_deepspeed else 0,
        }

    @property
    def fingerprint(self) -> str:
        """A hash of the identity."""
        return sha256_json(self.identity)

    def save(self, path: Path) -> None:
        """Write the job for worker processes to read."""
        value = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}
        write_json(path, {**value, "recipe": asdict(self.recipe)})


def load_job(path: Path) -> TrainJob:
    """The job that `TrainJob.save` wrote."""
    value = read_json(path)
    for key in ("model_folder", "train_rows", "validation_rows", "run"):
        value[key] = Path(value[key]) if value[key] else None
    return TrainJob(**{**value, "recipe": Recipe(**value["recipe"])})
