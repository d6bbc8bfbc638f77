"""From a recipe's data to token rows: read, split, render, tokenise, account.

Nothing here loads torch, so that a step which only prepares data starts at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finery.chat.conversation import Conversation, scan_conversations
from finery.chat.encode import encode
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
from finery.model.describe import config_number
from finery.recipe.finetune_config import Configured
from finery.recipe.inputs import SPLITS, Recipe


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
    positions = config_number(folder, "max_position_embeddings", recipe.trust_remote_code)
    known = [positions, renderer.tokenizer.model_max_length]
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
    size = config_number(folder, "vocab_size", recipe.trust_remote_code)
    highest = max([renderer.pad_id, *(int(part.ids.max()) for part in rows if len(part.ids))])
    if size is not None and highest >= size:
        raise FineryError(
            f"The tokenizer gives the token id {highest:,}, and the model has {size:,} embeddings "
            "only. Take tokenizer and weights of one and the same model."
        )


def encode_all(
    recipe: Recipe, renderer: Renderer, splits: Splits, limit: int
) -> tuple[dict[str, TokenRows], list[Ledger]]:
    """Token rows by split, and the ledgers of the splits that have rows; raises InputError."""
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


def renderer_of(folder: Path, configured: Configured) -> Renderer:
    """The model's renderer, with the chat template of the fine-tune configuration if it has one."""
    if not configured.template:
        return load_renderer(folder)
    # Golden ids prove the tokenizer; a base model may have neither them nor a template.
    golden = (folder / GOLDEN_FILE).is_file()
    tokenizer = load_renderer(folder).tokenizer if golden else load_tokenizer(folder)
    name = f"finetune_chat_template of {configured.template_origin}"
    return with_template(tokenizer, configured.template, name)


def content_key(conversations: Sequence[Conversation]) -> str:
    """A hash of rows and messages, wherever their files lie."""
    return sha256_json([[c.row, c.key] for c in conversations])
