"""Validation and test rows out of training rows, the same ones on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from finery.chat.conversation import Conversation
from finery.errors import FineryError

Conversations = Sequence[Conversation]


@dataclass(frozen=True)
class Splits:
    """Who trains, who validates, who tests, and the rule that decided it."""

    train: list[Conversation]
    validation: list[Conversation]
    test: list[Conversation]
    rule: str  # a sentence for the report


def split_validation(
    conversations: Conversations, percent: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Training rows and `percent` of the rows for validation, each in their old order.

    Duplicates of one conversation are always on one side. Both sides hold at least one
    row; raises FineryError when the conversations are too few or too alike for that.
    """
    train, validation = _parts(conversations, [percent], seed)
    return train, validation


def split_as_component(
    train: Conversations,
    validation: Conversations | None = None,
    test: Conversations | None = None,
    *,
    seed: int,
    percent: float = 0,
) -> Splits:
    """The three parts of a run, missing ones taken from the training rows.

    The shares are those of Azure's chat completion component: without validation and test
    rows 80/10/10, with test rows only 80/20. A `percent` above 0 is the share for validation
    alone, and no test rows are made. With validation rows nothing is taken.
    """
    if validation is not None:
        return Splits([*train], [*validation], [*(test or ())], "the files as they were given")
    if percent:
        kept, held = split_validation(train, percent, seed)
        return Splits(kept, held, [*(test or ())], f"{percent:g}% of the training rows validate")
    if test is not None:
        kept, held = split_validation(train, 20, seed)
        return Splits(kept, held, [*test], "no validation rows: 80/20 of the training rows")
    kept, held, tested = _parts(train, [10, 10], seed)
    return Splits(kept, held, tested, "no validation or test rows: 80/10/10 of the training rows")


def _parts(
    conversations: Conversations, percents: Sequence[float], seed: int
) -> list[list[Conversation]]:
    """The rest, then one part for each percentage."""
    if not (min(percents) > 0 and sum(percents) < 100):  # NaN is refused too
        raise FineryError(
            f"{percents[0]:g} is no share that leaves rows on both sides. "
            "Give a percentage above 0 and below 100."
        )
    groups: dict[str, list[int]] = {}
    for place, conversation in enumerate(conversations):
        groups.setdefault(conversation.key, []).append(place)
    if len(groups) <= len(percents):
        raise FineryError(
            f"The training rows hold {len(groups)} different conversation"
            f"{'s' if len(groups) > 1 else ''}, too few to be split into {len(percents) + 1} "
            "parts. Give more training rows, or a validation file."
        )
    # Of `random`, only random() gives the same numbers in every version of Python.
    draw = random.Random(seed)  # noqa: S311
    shuffled = sorted(groups.values(), key=lambda _: draw.random())
    part_of = dict.fromkeys(range(len(conversations)), 0)
    for number, percent in enumerate(percents, 1):
        target = max(1, round(len(conversations) * percent / 100))
        for place in _take(shuffled, target, leave=len(percents) - number + 1):
            part_of[place] = number
    parts: list[list[Conversation]] = [[] for _ in range(len(percents) + 1)]
    for place, conversation in enumerate(conversations):
        parts[part_of[place]].append(conversation)
    return parts


def _take(groups: list[list[int]], target: int, leave: int) -> list[int]:
    """Remove groups that make up at most `target` rows, at least one; `leave` groups stay."""
    taken: list[list[int]] = []
    count = 0
    for group in groups:
        if count + len(group) <= target and len(groups) - len(taken) > leave:
            taken.append(group)
            count += len(group)
    if not taken:
        taken = [min(groups, key=len)]
    places = {id(group) for group in taken}
    groups[:] = [group for group in groups if id(group) not in places]
    return [place for group in taken for place in group]
