"""The process that looks at a fine-tuning before it starts: `python -m … FOLDER`.

It reads `ask.json` in the folder and leaves `answer.json`: the token ledgers, the first rows as
the model sees them, the plan. What is wrong with the input is an answer too. Only this process
loads a tokenizer and a model's shape.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import FineryError, InputError
from finery.files import read_json, write_json
from finery.recipe.resolve import resolve

if TYPE_CHECKING:
    from finery.chat.conversation import Conversation
    from finery.chat.render import Renderer
    from finery.chat.rows import TokenRows
    from finery.training.prepare import Prepared

ASK, ANSWER = "ask.json", "answer.json"
LONGEST = 6000  # characters of a row on the page
Piece = tuple[str, bool]  # a text, and whether it carries loss


def main(folder: Path) -> None:
    """Answer what is asked; whatever finery refuses is the answer."""
    ask = read_json(folder / ASK)
    try:
        answer = looked(ask["recipe"], ask["rows"])
    except InputError as error:
        answer = {"faults": [asdict(fault) for fault in error.faults]}
    except FineryError as error:
        answer = {"error": str(error)}
    write_json(folder / ANSWER, answer)


def looked(recipe: dict[str, Any], rows: int) -> dict[str, Any]:
    """Ledgers, plan, notes and the first `rows` rows; raises InputError with what is wrong."""
    from finery.training.fitting import measured
    from finery.training.prepare import ledger_facts, prepare

    resolved = resolve(None, recipe)
    prepared = prepare(resolved.recipe, resolved.origins, resolved.notes)
    # A long run is worth a probe of this machine; of a short one is said what is remembered.
    prepared = measured(prepared, lambda event: None)
    return {
        "ledgers": ledger_facts(prepared),
        "sentences": [text for ledger in prepared.ledgers for text in ledger.sentences()],
        "plan": prepared.plan.to_dict(),
        "notes": list(prepared.notes),
        "rows": preview(prepared, rows),
    }


def preview(prepared: Prepared, count: int) -> list[dict[str, Any]]:
    """The first training rows as the model sees them, after whatever was cut."""
    from finery.chat.rows import load_rows

    rows = load_rows(prepared.job.train_rows)
    found, conversations = [], iter(prepared.splits.train)
    for index in range(min(count, len(rows))):
        number = int(rows.rows[index])
        conversation = next(one for one in conversations if one.row == number)
        found.append(_row(prepared.renderer, rows, index, conversation))
    return found


def _row(
    renderer: Renderer, rows: TokenRows, index: int, conversation: Conversation
) -> dict[str, Any]:
    ids, trained = rows.row_ids(index).tolist(), rows.row_trained(index).tolist()
    rendered = renderer.render(conversation.messages, conversation.tools)
    if ids == rendered.ids[: len(ids)]:
        end = _end(renderer, rendered.text, len(ids)) if len(ids) < len(rendered.ids) else None
        pieces = _pieces(rendered.text[:end], rendered.spans)
    else:  # its beginning was taken away: only the ids tell what is left
        pieces = _decoded(renderer, ids, trained)
    return {
        "number": conversation.row,
        "tokens": len(ids),
        "trained": sum(trained),
        "is_whole": ids == rendered.ids,
        "pieces": shortened(pieces),
    }


def _end(renderer: Renderer, text: str, tokens: int) -> int:
    """The character at which the first `tokens` tokens of a text end."""
    encoded = renderer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoded["offset_mapping"][tokens - 1][1]  # pyright: ignore[reportArgumentType]


def _pieces(text: str, spans: list[tuple[int, int]]) -> list[Piece]:
    """A text in its parts with and without loss; spans may go on beyond its end."""
    found, cursor = [], 0
    for start, end in spans:
        found += [(text[cursor:start], False), (text[start:end], True)]
        cursor = end
    return [piece for piece in [*found, (text[cursor:], False)] if piece[0]]


def _decoded(renderer: Renderer, ids: list[int], trained: list[bool]) -> list[Piece]:
    """The same of ids alone, as they are when a row was cut."""
    found: list[Piece] = []
    start = 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or trained[at] != trained[start]:
            text = str(renderer.tokenizer.decode(ids[start:at]))
            found.append((text, bool(trained[start])))
            start = at
    return found


def shortened(pieces: list[Piece]) -> list[Piece]:
    """The pieces up to what fits on a page, the last of them saying that there is more."""
    found, left = [], LONGEST
    for text, is_trained in pieces:
        if len(text) > left:
            found.append((f"{text[:left]} …", is_trained))
            break
        found.append((text, is_trained))
        left -= len(text)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
