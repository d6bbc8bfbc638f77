"""From a recipe to a training job: model, conversations, token rows, ledger and plan.

Everything that can be refused is refused here, before anything is trained or written to the
output folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finery.chat.conversation import Conversation, scan_conversations
from finery.chat.encode import encode, rows_folder
from finery.chat.golden import GOLDEN_FILE
from finery.chat.ledger import Ledger
from finery.chat.long_rows import refuse_losses
from finery.chat.mltable import is_mltable, mltable_files
from finery.chat.read import FaultList
from finery.chat.render import Renderer, load_renderer, with_template
from finery.chat.rows import TokenRows
from finery.chat.split import Splits, split_as_component
from finery.chat.tokenizer import load_tokenizer
from finery.errors import Fault, FineryError, InputError
from finery.files import sha256_json
from finery.model.folder import ModelFolder
from finery.model.sources import resolve_source
from finery.planning.plan import Plan, disk_bytes, memory_bytes, model_shape
from finery.recipe.finetune_config import Configured, apply_finetune_config
from finery.recipe.inputs import SPLITS, Recipe
from finery.recipe.resolve import Resolved
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
    renderer = _renderer(base.path, configured)
    splits = split_data(recipe, conversations)
    limit = sequence_limit(recipe, base.path, renderer)
    report({"event": "stage", "text": "rendering and tokenising"})
    rows, ledgers = _encode_all(recipe, renderer, splits, limit)
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
        train_sha256=_content(splits.train),
        validation_sha256=_content(splits.validation) if splits.validation else "",
        renderer=renderer.fingerprint,
        pad_id=renderer.pad_id,
        end_of_turn_id=renderer.end_of_turn_id,
        max_seq_length=limit,
        device=devices.kind,
        processes=devices.processes,
        accumulation=devices.accumulation,
        run=Path(recipe.output_dir),
    )


def _renderer(folder: Path, configured: Configured) -> Renderer:
    """The model's renderer, with the chat template of the fine-tune configuration if it has one."""
    if not configured.template:
        return load_renderer(folder)
    # Golden ids prove the tokenizer; a base model may have neither them nor a template.
    golden = (folder / GOLDEN_FILE).is_file()
    tokenizer = load_renderer(folder).tokenizer if golden else load_tokenizer(folder)
    name = f"finetune_chat_template of {configured.template_origin}"
    return with_template(tokenizer, configured.template, name)


def _content(conversations: Sequence[Conversation]) -> str:
    """A hash of rows and messages, wherever their files lie."""
    return sha256_json([[c.row, c.key] for c in conversations])


def data_files(recipe: Recipe) -> dict[str, Path]:
    """Every data file of the recipe by role: "train", or "train:part-1.jsonl" of an MLTable."""
    files = {}
    for split in SPLITS:
        path = Path(recipe.data_path(split))
        if recipe.data_path(split) and is_mltable(path):
            table, *parts = mltable_files(path)
            files[f"{split}:{table.name}"] = table
            files |= {f"{split}:{p.relative_to(table.parent).as_posix()}": p for p in parts}
        elif recipe.data_path(split):
            files[split] = path
    return files


def read_data(recipe: Recipe) -> dict[str, list[Conversation] | None]:
    """The conversations by split, None where no data is given; all faults in one InputError."""
    faults = FaultList()
    read: dict[str, list[Conversation] | None] = {}
    for split in SPLITS:
        path = recipe.data_path(split)
        read[split] = scan_conversations(Path(path), faults).conversations if path else None
    faults.raise_any()
    return read


def split_data(recipe: Recipe, read: Mapping[str, list[Conversation] | None]) -> Splits:
    """Who trains, validates and tests; test rows are never missing when the run evaluates."""
    splits = split_as_component(
        read["train"] or [],
        read["validation"],
        read["test"],
        seed=recipe.seed,
        percent=recipe.validation_split_percent,
    )
    if splits.test or not recipe.evaluate:
        return splits
    rule = (
        f"{splits.rule}; no test rows: base and tuned are compared on the validation rows, "
        "which also picked the step that was kept"
    )
    return replace(splits, test=splits.validation, rule=rule)


def overlap_notes(recipe: Recipe, splits: Splits) -> Iterator[str]:
    """Held-out conversations that are training conversations too, in whatever file they lie."""
    known = {conversation.key for conversation in splits.train}
    for split in ("validation", "test"):
        if recipe.data_path(split) in ("", recipe.data_path("train")):
            continue  # split by finery without overlap, or said by a remark
        rows = getattr(splits, split)
        both = sum(conversation.key in known for conversation in rows)
        if both:
            yield (
                f"{both:,} of {len(rows):,} {split} rows are training rows too: their scores say "
                "nothing about unseen rows."
            )


def sequence_limit(recipe: Recipe, folder: Path, renderer: Renderer) -> int:
    """Tokens a row may have: max_seq_length, within what model and tokenizer were made for."""
    from finery.model.load import load_config

    config = load_config(folder, trust_remote_code=recipe.trust_remote_code)
    known = [getattr(config, "max_position_embeddings", None), renderer.tokenizer.model_max_length]
    most = min((int(limit) for limit in known if limit and limit < 10**9), default=0)
    if not most and recipe.max_seq_length < 0:
        found = "-1, and neither model nor tokenizer says its maximum"
        raise InputError([Fault("max_seq_length", found, "a number of tokens")])
    if most and recipe.max_seq_length > most:
        found = f"{recipe.max_seq_length:,} tokens"
        raise InputError([Fault("max_seq_length", found, f"at most the model's own {most:,}")])
    return recipe.max_seq_length if recipe.max_seq_length > 0 else most


def check_vocabulary(
    folder: Path, recipe: Recipe, renderer: Renderer, rows: Iterable[TokenRows]
) -> None:
    """Raise FineryError when the tokenizer gives ids that the model has no embedding for."""
    from finery.model.load import load_config

    config = load_config(folder, trust_remote_code=recipe.trust_remote_code)
    size = getattr(config.get_text_config(), "vocab_size", None)
    highest = max([renderer.pad_id, *(int(part.ids.max()) for part in rows if len(part.ids))])
    if size is not None and highest >= size:
        raise FineryError(
            f"The tokenizer gives the token id {highest:,}, and the model has {size:,} embeddings "
            "only. Take tokenizer and weights of one and the same model."
        )


def _encode_all(
    recipe: Recipe, renderer: Renderer, splits: Splits, limit: int
) -> tuple[dict[str, TokenRows], list[Ledger]]:
    rows, ledgers = {}, []
    for split in SPLITS:
        rows[split], ledger = encode(
            getattr(splits, split),
            renderer,
            split=split,
            max_seq_length=limit,
            policy=recipe.long_rows,
            batch_size=recipe.batch_size,
        )
        ledgers.append(ledger)
    refuse_losses([ledgers[0]], recipe.long_rows)
    if not len(rows["train"]):
        found = f"{ledgers[0].rows_read:,} rows, none of them left at {limit:,} tokens"
        remedy = "Raise max_seq_length or choose another long_rows."
        raise InputError([Fault(ledgers[0].file, found, "at least one row to train on", remedy)])
    return rows, [ledger for ledger in ledgers if ledger.rows_read]


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
    shape = model_shape(job.model_folder, recipe)
    most = max(int(sum(rows.lengths[row] for row in group)) for group in steps.groups)
    micro_tokens = most * recipe.per_device_train_batch_size
    return Plan(
        device=devices.kind,
        processes=devices.processes,
        micro_batch=recipe.per_device_train_batch_size,
        accumulation=devices.accumulation,
        global_batch=steps.global_batch,
        steps_per_epoch=steps.steps_per_epoch,
        total_steps=steps.total_steps,
        tokens_per_step=int(rows.lengths.sum() / steps.steps_per_epoch),
        parameters=shape.parameters,
        trainable=shape.trainable,
        memory_bytes=memory_bytes(recipe, shape, devices.kind, micro_tokens),
        disk_bytes=disk_bytes(recipe, shape, _checkpoints(job, steps)),
        notes=tuple(notes),
    )


def _checkpoints(job: TrainJob, steps: StepPlan) -> int:
    """Checkpoints the run will write."""
    every = eval_interval(job, steps) if job.validation_rows else 0
    intervals = [n for n in (every, job.recipe.save_steps) if n] or [steps.steps_per_epoch]
    return 1 + sum(steps.total_steps // n for n in intervals)


def ledger_facts(prepared: Prepared) -> list[dict[str, Any]]:
    """The ledgers as JSON."""
    return [ledger.to_dict() for ledger in prepared.ledgers]
