"""What is in a file of conversations, in numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finery.chat.conversation import ConversationFile


@dataclass(frozen=True)
class Range:
    """The smallest, the middle and the largest of some counts."""

    smallest: int
    median: float
    largest: int


@dataclass(frozen=True)
class Overview:
    """The numbers of one file; texts are measured in characters."""

    file: str
    conversations: int
    blank_lines: int
    messages: int
    with_tools: int
    duplicates: int  # rows whose messages an earlier row of the file has
    in_earlier_files: int  # rows whose messages a file given before has
    roles: dict[str, int]  # "system (user assistant)×2" → conversations, most frequent first
    columns: dict[str, int]  # carried columns → rows that have them
    answers: Range  # assistant messages of a conversation
    characters: Range  # text of a conversation
    answer_characters: int  # text of all assistant messages


def overviews(files: Sequence[ConversationFile]) -> list[Overview]:
    """One overview a file; duplicates are looked for inside files and between them."""
    seen: set[str] = set()
    result = []
    for file in files:
        result.append(_overview(file, seen))
        seen.update(conversation.key for conversation in file.conversations)
    return result


def _overview(file: ConversationFile, seen: set[str]) -> Overview:
    rows = file.conversations
    roles = [[message["role"] for message in row.messages] for row in rows]
    answers = [m["content"] for row in rows for m in row.messages if m["role"] == "assistant"]
    return Overview(
        file=file.file,
        conversations=len(rows),
        blank_lines=file.blank_lines,
        messages=sum(len(row.messages) for row in rows),
        with_tools=sum(row.tools is not None for row in rows),
        duplicates=len(rows) - len({row.key for row in rows}),
        in_earlier_files=sum(row.key in seen for row in rows),
        roles=dict(Counter(role_pattern(row) for row in roles).most_common()),
        columns=dict(Counter(column for row in rows for column in row.columns)),
        answers=_range([row.count("assistant") for row in roles]),
        characters=_range([sum(len(m["content"]) for m in row.messages) for row in rows]),
        answer_characters=sum(map(len, answers)),
    )


def role_pattern(roles: Sequence[str]) -> str:
    """The order of roles in short: exchanges of user and assistant are counted."""
    parts: list[tuple[str, int]] = []
    rest = list(roles)
    while rest:
        pair = rest[:2] == ["user", "assistant"]
        part = "user assistant" if pair else rest[0]
        del rest[: 2 if pair else 1]
        if parts and parts[-1][0] == part:
            parts[-1] = (part, parts[-1][1] + 1)
        else:
            parts.append((part, 1))
    return " ".join(f"({p})×{n}" if " " in p or n > 1 else p for p, n in parts)


def _range(counts: list[int]) -> Range:
    return Range(min(counts), statistics.median(counts), max(counts))
