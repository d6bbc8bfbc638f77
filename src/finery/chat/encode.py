"""Conversations to token rows, every token accounted for, kept for the next start.

The result is cached under the finery home by what decides it: the conversations, the
renderer's fingerprint, the limit and the policy. A second start with the same four
tokenises nothing. A crash while the cache is written leaves no entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finery.chat.conversation import Conversation
from finery.chat.ledger import Ledger, RowLoss, from_dict
from finery.chat.long_rows import Fitted, fit_row
from finery.chat.render import Rendered, Renderer, RenderError
from finery.chat.rows import TokenRows, load_rows, make_rows, save_rows
from finery.errors import Fault, InputError
from finery.files import home, new_folder, read_json, sha256_json, verify_folder, write_json


def encode(
    conversations: Sequence[Conversation],
    renderer: Renderer,
    *,
    split: str,
    max_seq_length: int,
    policy: str,
    batch_size: int = 1000,
) -> tuple[TokenRows, Ledger]:
    """Token rows of `conversations` and their ledger, from the cache when it has them.

    Raises InputError that names every row the chat template cannot express.
    """
    folder = rows_folder(
        conversations, renderer, split=split, max_seq_length=max_seq_length, policy=policy
    )
    if folder.is_dir() and not verify_folder(folder, hashes=False):
        return load_rows(folder), from_dict(read_json(folder / "ledger.json"))
    rows, ledger = _encode(conversations, renderer, split, max_seq_length, policy, batch_size)
    with new_folder(folder, replace=True) as temporary:
        save_rows(rows, temporary)
        write_json(temporary / "ledger.json", ledger.to_dict())
    return rows, ledger


def rows_folder(
    conversations: Sequence[Conversation],
    renderer: Renderer,
    *,
    split: str,
    max_seq_length: int,
    policy: str,
) -> Path:
    """Where `encode` keeps its result for these inputs."""
    key = sha256_json(
        {
            "conversations": [[c.file, c.row, c.messages, c.tools] for c in conversations],
            "renderer": renderer.fingerprint,
            "max_seq_length": max_seq_length,
            "policy": policy,
            "split": split,
            "version": 1,
        }
    )
    return home() / "tokens" / key


def _encode(
    conversations: Sequence[Conversation],
    renderer: Renderer,
    split: str,
    limit: int,
    policy: str,
    batch_size: int,
) -> tuple[TokenRows, Ledger]:
    faults: list[Fault] = []
    kept: list[tuple[list[int], list[bool], int]] = []
    cut_rows: list[RowLoss] = []
    dropped_rows: list[RowLoss] = []
    total = trainable = 0
    several = len({conversation.file for conversation in conversations}) > 1
    for start in range(0, len(conversations), batch_size):
        chunk = conversations[start : start + batch_size]
        for conversation, rendered in _render_all(chunk, renderer, faults):
            fitted = fit_row(renderer, conversation, rendered, limit, policy)
            total += len(rendered.ids)
            trainable += sum(rendered.trained)
            if fitted.ids:
                kept.append((fitted.ids, fitted.trained, conversation.row))
            if fitted.reason:
                target = cut_rows if fitted.ids else dropped_rows
                target.append(_row_loss(conversation, fitted, several))
    if faults:
        raise InputError(faults, "rows the chat template cannot express")
    rows = make_rows(kept)
    trained = int(rows.trained.sum())
    ledger = Ledger(
        split=split,
        file=conversations[0].file if conversations else "",
        rows_read=len(conversations),
        rows_used=len(rows),
        total=total,
        trained=trained,
        context=len(rows.ids) - trained,
        dropped=sum(loss.tokens for loss in dropped_rows),
        cut=sum(loss.tokens for loss in cut_rows),
        trainable=trainable,
        max_seq_length=limit,
        cut_rows=tuple(cut_rows),
        dropped_rows=tuple(dropped_rows),
    )
    return rows, ledger.close()


def _row_loss(conversation: Conversation, fitted: Fitted, several: bool) -> RowLoss:
    file = conversation.file if several else ""
    return RowLoss(conversation.row, fitted.cut, fitted.trained_cut, fitted.reason, file)


def _render_all(
    conversations: Sequence[Conversation], renderer: Renderer, faults: list[Fault]
) -> list[tuple[Conversation, Rendered]]:
    """Render the texts one by one (templates), then tokenise them together (many cores)."""
    done = []
    for conversation in conversations:
        try:
            done.append(
                (conversation, *renderer.text_and_spans(conversation.messages, conversation.tools))
            )
        except RenderError as error:
            where = f"{Path(conversation.file)}:{conversation.row}:messages"
            faults.append(Fault(where, str(error), "a conversation the model's template can say"))
    if not done:
        return []
    encoded = renderer.tokenizer(
        [text for _, text, _ in done], add_special_tokens=False, return_offsets_mapping=True
    )
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    return [
        (conversation, renderer.from_encoding(text, spans, ids[i], offsets[i]))
        for i, (conversation, text, spans) in enumerate(done)
    ]
