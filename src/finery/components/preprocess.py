"""Step chat_completion_datapreprocess: from conversations to token rows, without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from finery.chat.conversation import Conversation
from finery.chat.encode import rows_folder
from finery.components.handover import HELD_OUT, Data, configured_by, load_base
from finery.components.log import say
from finery.components.settings import origins_of, recipe_of
from finery.components.step import Step
from finery.errors import Fault, InputError
from finery.files import (
    MANIFEST,
    files_below,
    json_lines,
    new_folder,
    write_atomic,
)
from finery.model.folder import link_or_copy
from finery.model.hashing import file_hash
from finery.recipe.inputs import SPLITS
from finery.training.data import (
    check_vocabulary,
    content_key,
    data_files,
    encode_all,
    overlap_notes,
    read_data,
    renderer_of,
    sequence_limit,
    split_data,
)

_DECIDE = (  # the rows, once model and conversations are given
    "task_name",
    *(f"{split}_{kind}_path" for split in SPLITS for kind in ("file", "mltable")),
    *("batch_size", "pad_to_max_length", "max_seq_length", "seed", "validation_split_percent"),
    *("long_rows", "evaluate", "trust_remote_code"),
)


def run(step: Step) -> None:
    """Read, split, render, tokenise and account for every token."""
    base = load_base(step.folder_of("model_selector_output"))
    recipe = recipe_of(step, model=base.source)
    if not recipe.data_path("train"):
        remedy = "Give train_file_path or train_mltable_path."
        raise InputError([Fault("train_file_path", "no data", "training data", remedy)], "job")
    configured = configured_by(base, recipe, origins_of(recipe))
    recipe = configured.recipe
    say("reading conversations")
    splits = split_data(recipe, read_data(recipe))
    renderer = renderer_of(base.folder, configured)
    limit = sequence_limit(recipe, base.folder, renderer)
    say("rendering and tokenising")
    rows, ledgers = encode_all(recipe, renderer, splits, limit)
    check_vocabulary(base.folder, recipe, renderer, rows.values())
    notes = (*renderer.notes, splits.rule, *overlap_notes(recipe, splits))
    for sentence in (*notes, *(s for ledger in ledgers for s in ledger.sentences())):
        say(sentence)
    data = Data(
        settings={name: getattr(recipe, name) for name in _DECIDE},
        rule=splits.rule,
        rows={split: len(getattr(splits, split)) for split in SPLITS},
        files=_hashed(data_files(recipe)),
        max_seq_length=limit,
        renderer=renderer.fingerprint,
        train_sha256=content_key(splits.train),
        validation_sha256=content_key(splits.validation) if splits.validation else "",
        ledgers=tuple(ledger.to_dict() for ledger in ledgers),
        notes=notes,
    )
    with new_folder(step.output("output_dir"), replace=True) as folder:
        for split in SPLITS:
            cached = rows_folder(
                getattr(splits, split),
                renderer,
                split=split,
                max_seq_length=limit,
                policy=recipe.long_rows,
            )
            _link_rows(cached, folder / split)
        write_atomic(folder / HELD_OUT, json_lines(map(_row, splits.test)))
        data.save(folder)


def _link_rows(cached: Path, target: Path) -> None:
    """The rows from the cache; they are never changed in place, so links are enough."""
    target.mkdir()
    for path in files_below(cached):
        if path.name != MANIFEST:
            link_or_copy(path, target / path.name)


def _hashed(files: dict[str, Path]) -> dict[str, Any]:
    return {
        role: {"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)}
        for role, path in sorted(files.items())
    }


def _row(conversation: Conversation) -> dict[str, Any]:
    """A held-out conversation; of its other columns an evaluation reads `expect` alone."""
    columns = {k: v for k, v in conversation.columns.items() if k == "expect"}
    return {**vars(replace(conversation, columns=columns))}
