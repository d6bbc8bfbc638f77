"""The output folder of a run: whose it is, what may be replaced, and when it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finery.errors import FineryError
from finery.files import TEMPORARY, read_json, sha256_json, write_json
from finery.training.job import NOT_IDENTITY
from finery.training.launch import LOCK
from finery.training.prepare import Prepared

FINISHED = "manifest.json"  # written last
MARK = "run.json"  # whose run this is; written first
LEFT_BY_A_RUN = (
    *("recipe.yaml", "plan.json", "ledger.json", "metrics.jsonl", "training.json", "job.json"),
    *("checkpoints", "adapter", "weights", "model", "mlflow_model", "mlflow_run.json", "logs"),
    *("certificate.json", "evaluation.json", "samples.jsonl"),
    *("attempt.json", "micro_batch.json", "usage.json"),
    *("report.md", "report.json", FINISHED),
)
WORK = ("checkpoints", "adapter", "weights", "training.json")  # what a start would not repeat
_HASHED = {
    "model": "the base model",
    "data": "the training data",
    "validation_data": "the validation data",
    "renderer": "the tokenizer or chat template",
}
# Settings of a start that leave no trace in a finished run.
_ABOUT_THE_START = frozenset(
    {"output_dir", "overwrite_output", "resume_from_checkpoint", "self_tests", "num_processes"}
)


def check_output(prepared: Prepared) -> None:
    """Raise FineryError when the output folder is another run's, or no run's; writes nothing.

    A run that ended before its first checkpoint has nothing to lose: any other may take its
    folder, so that a setting can be corrected and the run started again.
    """
    folder, mark = prepared.job.run, prepared.job.run / MARK
    if not mark.is_file():
        others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        if others := sorted(name for name in others if name != LOCK and not _leftover(name)):
            shown = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
            raise FineryError(f"{folder} holds other files ({shown}). Choose another output_dir.")
    elif not prepared.recipe.overwrite_output and any((folder / name).exists() for name in WORK):
        changed = _changes(read_json(mark)["identity"], prepared.job.identity)
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise FineryError(
                f"{folder} holds a run with other settings ({', '.join(changed[:5])}{more}). "
                "Choose another output_dir, or start over with --overwrite-output."
            )


def claim(prepared: Prepared) -> None:
    """Take the output folder, whose lock the caller holds; raises as `check_output` does.

    What another run left there is removed when nothing was trained yet or `overwrite_output`
    says so, and nothing else but half-written files of a start that was killed. A crash
    meanwhile leaves a folder that only another start with overwrite_output goes on with.
    """
    check_output(prepared)
    folder, identity = prepared.job.run, prepared.job.identity
    known = read_json(folder / MARK)["identity"] if (folder / MARK).is_file() else None
    doomed: tuple[str, ...] = ()
    if known is not None and (prepared.recipe.overwrite_output or _changes(known, identity)):
        write_json(folder / MARK, {"identity": {}, "fingerprint": ""})
        doomed = LEFT_BY_A_RUN
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if path.name in doomed or _leftover(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    held_out = _held_out(prepared)
    if not (folder / FINISHED).is_file():
        _drop_stale_evaluation(folder, held_out)
        mark = {"identity": identity, "fingerprint": prepared.job.fingerprint}
        write_json(folder / MARK, {**mark, "held_out": held_out})


def _held_out(prepared: Prepared) -> dict[str, Any]:
    """What an evaluation is made with, besides the model."""
    recipe = prepared.recipe
    return {
        "test_data": sha256_json([[c.row, c.key] for c in prepared.splits.test]),
        "eval_generations": recipe.eval_generations,
        "max_new_tokens": recipe.max_new_tokens,
    }


def _drop_stale_evaluation(folder: Path, held_out: Mapping[str, Any]) -> None:
    """An evaluation that an earlier start made with something else is made again."""
    mark = folder / MARK
    if mark.is_file() and read_json(mark).get("held_out") != held_out:
        for name in ("evaluation.json", "samples.jsonl"):
            (folder / name).unlink(missing_ok=True)


def _leftover(name: str) -> bool:
    """Whether a crash in the middle of a write left this behind."""
    return name.startswith(TEMPORARY)


def _changes(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, in words; hashes are named by what they are of."""
    return [
        f"{_HASHED[key]} changed"
        if key in _HASHED and key in known
        else f"{key} was {known.get(key)!r}, now {now[key]!r}"
        for key in now
        if now[key] != known.get(key)
    ]


def finished_note(prepared: Prepared) -> str:
    """That nothing was run, and which settings of this start therefore had no effect."""
    folder = prepared.job.run
    then, now = read_json(folder / "report.json")["recipe"], asdict(prepared.recipe)
    watched = {k: v for k, v in now.items() if k in NOT_IDENTITY - _ABOUT_THE_START}
    changed = _changes({k: then.get(k, "") for k in watched}, watched)
    known = read_json(folder / MARK).get("held_out", {})
    if known.get("test_data") != _held_out(prepared)["test_data"]:
        changed.append("the test data changed")
    text = f"{folder} is finished already; nothing was run"
    if not changed:
        return text
    return f"{text} ({', '.join(changed)}: to apply that, start over with --overwrite-output)"
