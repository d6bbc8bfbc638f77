"""From a recipe to a training job: model, conversations, token rows, ledger and plan.

Everything that can be refused is refused here, before anything is trained or written to the
output folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery.chat.conversation import Conversation
from finery.chat.encode import rows_folder
from finery.chat.ledger import Ledger
from finery.chat.render import Renderer
from finery.chat.rows import TokenRows
from finery.chat.split import Splits
from finery.model.folder import ModelFolder
from finery.model.sources import resolve_source
from finery.planning import machine
from finery.planning.plan import Plan, disk_bytes, known_shape, memory_bytes
from finery.recipe.finetune_config import apply_finetune_config
from finery.recipe.inputs import Recipe
from finery.recipe.resolve import Resolved
from finery.training.data import (
    check_vocabulary,
    content_key,
    encode_all,
    overlap_notes,
    read_data,
    renderer_of,
    sequence_limit,
    split_data,
)
from finery.training.devices import Devices, check_device, choose_devices
from finery.training.events import Report
from finery.training.job import TrainJob
from finery.training.loop import eval_interval, step_plan
from finery.training.steps import StepPlan


@dataclass(frozen=True)
class Prepared:
    """A run that may start."""

    recipe: Recipe
    origins: Mapping[str, str]
    base: ModelFolder
    renderer: Renderer
    splits: Splits
    ledgers: tuple[Ledger, ...]
    test_rows: TokenRows
    job: TrainJob
    plan: Plan
    notes: tuple[str, ...]

    @property
    def resolved(self) -> Resolved:
        """The recipe as it will run, a fine-tune configuration worked in."""
        return Resolved(self.recipe, dict(self.origins), self.notes)


def prepare(
    recipe: Recipe,
    origins: Mapping[str, str],
    notes: Sequence[str] = (),
    report: Report = lambda event: None,
) -> Prepared:
    """Everything up to the first step; raises InputError with all that is wrong.

    Writes nothing but what the finery home keeps for the next start: an imported model, token
    rows, hashes of large files.
    """
    # What costs nothing is refused before a model is looked for, which may take a download.
    check_device(recipe)
    report({"event": "stage", "text": "reading conversations"})
    conversations = read_data(recipe)
    report({"event": "stage", "text": f"fetching the base model {recipe.model_source}"})
    base = resolve_source(recipe.model_source)
    configured = apply_finetune_config(recipe, origins, (Path(recipe.model_source), base.path))
    recipe = configured.recipe
    devices = choose_devices(recipe)
    renderer = renderer_of(base.path, configured)
    splits = split_data(recipe, conversations)
    limit = sequence_limit(recipe, base.path, renderer)
    report({"event": "stage", "text": "rendering and tokenising"})
    rows, ledgers = encode_all(recipe, renderer, splits, limit)
    check_vocabulary(base.path, recipe, renderer, rows.values())
    job = _train_job(recipe, base, renderer, splits, limit, devices)
    said = (*notes, *configured.notes, *devices.notes, *renderer.notes, splits.rule)
    said += tuple(overlap_notes(recipe, splits))
    plan = make_plan(job, devices, rows["train"], said)
    return Prepared(
        recipe=recipe,
        origins=configured.origins,
        base=base,
        renderer=renderer,
        splits=splits,
        ledgers=tuple(ledgers),
        test_rows=rows["test"],
        job=job,
        plan=plan,
        notes=said,
    )


def _train_job(
    recipe: Recipe,
    base: ModelFolder,
    renderer: Renderer,
    splits: Splits,
    limit: int,
    devices: Devices,
) -> TrainJob:
    return TrainJob(
        recipe=recipe,
        model_folder=base.path,
        model_source=recipe.model_source,
        model_sha256=base.sha256,
        train_rows=_folder(recipe, renderer, splits.train, "train", limit),
        validation_rows=_folder(recipe, renderer, splits.validation, "validation", limit)
        if splits.validation
        else None,
        train_sha256=content_key(splits.train),
        validation_sha256=content_key(splits.validation) if splits.validation else "",
        renderer=renderer.fingerprint,
        pad_id=renderer.pad_id,
        end_of_turn_id=renderer.end_of_turn_id,
        max_seq_length=limit,
        device=devices.kind,
        processes=devices.processes,
        accumulation=devices.accumulation,
        run=Path(recipe.output_dir),
    )


def _folder(
    recipe: Recipe,
    renderer: Renderer,
    conversations: Sequence[Conversation],
    split: str,
    limit: int,
) -> Path:
    return rows_folder(
        conversations, renderer, split=split, max_seq_length=limit, policy=recipe.long_rows
    )


def make_plan(job: TrainJob, devices: Devices, rows: TokenRows, notes: Sequence[str]) -> Plan:
    """The plan of a job, for --dry-run and plan.json."""
    recipe = job.recipe
    steps = step_plan(job)
    resident = machine.resident_bytes()
    shape = known_shape(job.model_folder, job.model_sha256, recipe)
    most = max(int(sum(rows.lengths[row] for row in group)) for group in steps.groups)
    checkpoints = _checkpoints(job, steps)
    return Plan(
        device=devices.kind,
        processes=devices.processes,
        micro_batch=job.micro_batch,
        accumulation=job.accumulation,
        global_batch=steps.global_batch,
        steps_per_epoch=steps.steps_per_epoch,
        total_steps=steps.total_steps,
        tokens_per_step=int(rows.lengths.sum() / steps.steps_per_epoch),
        parameters=shape.parameters,
        trainable=shape.trainable,
        memory_bytes=memory_bytes(recipe, shape, devices.kind, most * job.micro_batch),
        disk_bytes=disk_bytes(recipe, shape, checkpoints),
        notes=tuple(notes),
        checkpoints=checkpoints,
        resident_bytes=resident,
    )


def _checkpoints(job: TrainJob, steps: StepPlan) -> int:
    """Checkpoints the run will write."""
    every = eval_interval(job, steps) if job.validation_rows else 0
    intervals = [n for n in (every, job.recipe.save_steps) if n] or [steps.steps_per_epoch]
    return 1 + sum(steps.total_steps // n for n in intervals)


def ledger_facts(prepared: Prepared) -> list[dict[str, Any]]:
    """The ledgers as JSON."""
    return [ledger.to_dict() for ledger in prepared.ledgers]
