"""`finery evaluate MODEL --test FILE`: held-out loss and answers, alone or against a base."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from finery.chat.conversation import Conversation
    from finery.chat.ledger import Ledger
    from finery.evaluation.answers import AnsweredRow
    from finery.evaluation.loss import RowLosses


@dataclass(frozen=True)
class Measured:
    """One model on the held-out file."""

    losses: RowLosses
    rows: list[tuple[str, int]]  # file and row number of each loss, in their order
    ledger: Ledger
    answers: list[AnsweredRow]


def evaluate_command(
    model: Annotated[
        str, typer.Argument(help="Run folder, model folder, adapter folder, or model source.")
    ],
    test: Annotated[Path, typer.Option(help="Held-out conversations.", exists=True)],
    against: Annotated[str, typer.Option(help="The model to compare with, usually the base.")] = "",
    generations: Annotated[
        int, typer.Option(min=0, help="Rows answered for BLEU, ROUGE and checks; 0 for none.")
    ] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows measured or answered together.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="New folder for evaluation.json, samples.jsonl, report.md.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure a model on held-out conversations, with 95 % intervals against another."""
    from finery.chat.conversation import read_conversations
    from finery.errors import FineryError
    from finery.evaluation.compare import compare
    from finery.evaluation.report import sample_rows

    if output is not None and output.exists():
        raise FineryError(f"{output} is there already. Choose another place or remove it.")
    conversations = read_conversations(test)
    options = (generations, max_new_tokens, batch_size, device)
    base = _measure(against, conversations, *options) if against else None
    tuned = _measure(model, conversations, *options)
    base_losses, tuned_losses = _same_rows(base, tuned)
    base_answers = base.answers if base else None
    comparison = compare(base_losses, tuned_losses, base_answers, tuned.answers, seed=seed)
    facts = {
        "title": "Evaluation",
        "about": "What was measured",
        "summary": {"model": model, "against": against or "nothing"},
        "data": {"held out": str(test)},
        "ledger": [tuned.ledger.to_dict()],
        "evaluation": comparison.to_dict(),
        "samples": sample_rows(base_answers, tuned.answers),
    }
    if output is not None:
        _write(output, facts)
    _print(facts, as_json)


def _print(facts: Mapping[str, Any], as_json: bool) -> None:
    from rich.console import Console

    from finery.evaluation.report import report_console

    if as_json:
        typer.echo(json.dumps(facts["evaluation"], ensure_ascii=False, indent=2, allow_nan=False))
    else:
        Console().print(report_console(facts))


def _measure(
    source: str,
    conversations: Sequence[Conversation],
    generations: int,
    max_new_tokens: int,
    batch_size: int,
    device: str,
) -> Measured:
    """Load one model, measure it and let it go again, so that two never share the memory."""
    from finery.chat.encode import encode
    from finery.evaluation.answers import answer_rows
    from finery.evaluation.loss import heldout_losses
    from finery.inference.decoding import context_length, core_model
    from finery.inference.open import open_model
    from finery.model.load import isolates_documents
    from finery.model.loss import LossModel, has_plain_head

    opened = open_model(source, device=device)
    limit = context_length(opened.model) or 2**31 - 1
    rows, ledger = encode(
        conversations, opened.renderer, split="test", max_seq_length=limit, policy="drop"
    )
    core = core_model(opened.model)
    losses = heldout_losses(
        LossModel(opened.model, core, has_plain_head(core)),
        rows,
        padded=not isolates_documents(core),
        pad_id=opened.renderer.pad_id,
        batch_rows=batch_size,
        device=core.device.type,
    )
    answers = answer_rows(
        opened.model,
        opened.renderer,
        conversations[:generations],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    dropped = {(loss.file or ledger.file, loss.row) for loss in ledger.dropped_rows}
    places = [(one.file, one.row) for one in conversations]
    return Measured(losses, [p for p in places if p not in dropped], ledger, answers)


def _same_rows(base: Measured | None, tuned: Measured) -> tuple[RowLosses | None, RowLosses]:
    """The losses of the rows both models could read, in one order."""
    if base is None or base.rows == tuned.rows:
        return (base.losses if base else None), tuned.losses
    shared = sorted(set(base.rows) & set(tuned.rows))
    return _selected(base, shared), _selected(tuned, shared)


def _selected(measured: Measured, rows: Sequence[tuple[str, int]]) -> RowLosses:
    from dataclasses import fields, replace

    places = [measured.rows.index(row) for row in rows]
    losses = measured.losses
    return replace(losses, **{f.name: getattr(losses, f.name)[places] for f in fields(losses)})


def _write(output: Path, facts: Mapping[str, Any]) -> None:
    from finery.evaluation.report import report_markdown
    from finery.files import json_lines, new_folder, write_json

    with new_folder(output) as folder:
        write_json(folder / "evaluation.json", facts["evaluation"])
        (folder / "samples.jsonl").write_text(json_lines(facts["samples"]), encoding="utf-8")
        (folder / "report.md").write_text(report_markdown(facts), encoding="utf-8")
