"""A run put together again from what earlier steps left: what the engine's stages work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finery.chat.conversation import Conversation
from finery.chat.ledger import from_dict
from finery.chat.rows import load_rows
from finery.chat.split import Splits
from finery.components.handover import (
    FACTS,
    HELD_OUT,
    JOB,
    TRAINING,
    configured_by,
    load_base,
    load_data,
)
from finery.components.settings import origins_of, recipe_of
from finery.components.step import Step
from finery.errors import FineryError
from finery.files import read_json, read_json_lines, write_json
from finery.model.manifest import package_versions
from finery.planning.plan import Plan
from finery.recipe.rules import remarks
from finery.training.data import renderer_of
from finery.training.devices import choose_devices
from finery.training.job import TrainJob, load_job
from finery.training.prepare import Prepared, make_plan


def prepare_training(step: Step, run: Path) -> Prepared:
    """The training that a finetune step asks for, in the run folder `run`; raises InputError."""
    base = load_base(step.folder_of("model_selector_output"))
    folder = step.folder_of("preprocess_output")
    data = load_data(folder)
    recipe = recipe_of(
        step,
        **data.settings,
        model=base.source,
        output_dir=str(run),
        device=step.devices.kind,
        num_nodes_finetune=step.instances,
        number_of_gpu_to_use_finetuning=step.processes,
    )
    configured = configured_by(base, recipe, origins_of(recipe))
    recipe = configured.recipe
    devices = choose_devices(recipe)
    renderer = renderer_of(base.folder, configured)
    if renderer.fingerprint != data.renderer:
        raise FineryError(
            "The tokenizer or chat template is not the one the data was prepared with. Run the "
            "preprocessing step again."
        )
    job = TrainJob(
        recipe=recipe,
        model_folder=base.folder,
        model_source=base.source,
        model_sha256=base.sha256,
        train_rows=folder / "train",
        validation_rows=folder / "validation" if data.rows["validation"] else None,
        train_sha256=data.train_sha256,
        validation_sha256=data.validation_sha256,
        renderer=renderer.fingerprint,
        pad_id=renderer.pad_id,
        end_of_turn_id=renderer.end_of_turn_id,
        max_seq_length=data.max_seq_length,
        device=devices.kind,
        processes=devices.processes,
        accumulation=devices.accumulation,
        run=run,
    )
    notes = (*remarks(recipe), *configured.notes, *devices.notes, *data.notes)
    plan = make_plan(job, devices, load_rows(job.train_rows), notes)
    return Prepared(
        recipe=recipe,
        origins=configured.origins,
        base=base.model,
        renderer=renderer,
        splits=_splits(folder, data.rule),
        ledgers=tuple(from_dict(dict(ledger)) for ledger in data.ledgers),
        test_rows=load_rows(folder / "test"),
        job=job,
        plan=plan,
        notes=notes,
    )


def save_prepared(prepared: Prepared) -> None:
    """Write beside the training what `prepared_again` needs."""
    run = prepared.job.run
    prepared.job.save(run / JOB)
    facts = {"origins": dict(prepared.origins), "plan": prepared.plan.to_dict()}
    facts |= {"notes": list(prepared.notes), "packages": package_versions()}
    write_json(run / FACTS, facts)


def prepared_again(step: Step) -> Prepared:
    """The training that an earlier step ran, with the settings that this step adds."""
    base = load_base(step.folder_of("model_selector_output"))
    folder = step.folder_of("preprocess_output")
    run = step.folder_of("model_path") / TRAINING
    job, facts, data = load_job(run / JOB), read_json(run / FACTS), load_data(folder)
    recipe = replace(job.recipe, **_own(step))
    return Prepared(
        recipe=recipe,
        origins=facts["origins"],
        base=base.model,
        renderer=renderer_of(base.folder, configured_by(base, recipe, facts["origins"])),
        splits=_splits(folder, data.rule),
        ledgers=tuple(from_dict(dict(ledger)) for ledger in data.ledgers),
        test_rows=load_rows(folder / "test"),
        job=replace(job, recipe=recipe, run=run, device=choose_devices(recipe).kind),
        plan=Plan(**{**facts["plan"], "notes": tuple(facts["plan"]["notes"])}),
        notes=tuple(facts["notes"]),
    )


def _own(step: Step) -> Mapping[str, Any]:
    """What an evaluation step says itself; the rest is as the model was trained."""
    own = ("per_device_eval_batch_size", "precision", "evaluate", "eval_generations")
    recipe = recipe_of(step)
    names = [name for name in (*own, "max_new_tokens") if name in step.inputs]
    return {"device": step.devices.kind, **{name: getattr(recipe, name) for name in names}}


def _splits(folder: Path, rule: str) -> Splits:
    """The splits as far as later steps need them: the conversations that are to be answered."""
    rows = read_json_lines(folder / HELD_OUT)
    return Splits(train=[], validation=[], test=[_conversation(row) for row in rows], rule=rule)


def _conversation(row: dict[str, Any]) -> Conversation:
    tools = None if row["tools"] is None else tuple(row["tools"])
    return Conversation(**{**row, "messages": tuple(row["messages"]), "tools": tools})
