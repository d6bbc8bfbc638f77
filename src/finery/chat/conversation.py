"""Conversations of a data file, ready for a chat template, or every reason why not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from finery.chat.data_row import BlankLine, Row, shorten
from finery.chat.mltable import is_mltable, scan_mltable
from finery.chat.read import FaultList, scan_rows
from finery.chat.roles import normal_messages, normal_tools
from finery.errors import Fault
from finery.files import sha256_json


@dataclass(frozen=True)
class Conversation:
    """One row of chat data; `messages` are plain dicts with `role` and `content` always set."""

    messages: tuple[dict[str, Any], ...]
    file: str
    row: int  # from 1; the line number for line formats
    tools: tuple[dict[str, Any], ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)  # all others, as they were read

    @cached_property
    def key(self) -> str:
        """A hash of messages and tools: conversations with one key are duplicates."""
        return sha256_json([self.messages, self.tools] if self.tools else self.messages)


@dataclass(frozen=True)
class ConversationFile:
    """What one pass over a file gave; its faults went to the pass's fault list."""

    file: str
    conversations: list[Conversation]
    blank_lines: int


def read_conversations(path: Path) -> list[Conversation]:
    """All conversations of a file; raises InputError with every fault of the file.

    Of more than 50 faults the first 50 are kept and the number of the others is said.
    """
    faults = FaultList()
    read = scan_conversations(path, faults)
    faults.raise_any()
    return read.conversations


def scan_conversations(path: Path, faults: FaultList) -> ConversationFile:
    """The conversations of a file, or of an MLTable, without a fault; faults go to `faults`."""
    conversations: list[Conversation] = []
    blank_lines, without, count = 0, [], 0
    for item in scan_mltable(path) if is_mltable(path) else scan_rows(path):
        if isinstance(item, BlankLine):
            blank_lines += 1
        elif isinstance(item, Fault):
            faults.add([item])
        elif "messages" not in item.data:
            count += 1
            without.append((item.place("messages"), tuple(item.data)))
        else:
            count += 1
            conversation, wrong = _conversation(item)
            faults.add(wrong)
            if not wrong:
                conversations.append(conversation)
    if without and len(without) == count:  # one mistake about the file, not one for each row
        without = [(str(path), without[0][1])]
    faults.add(_missing_messages(where, columns) for where, columns in without)
    return ConversationFile(str(path), conversations, blank_lines)


def _conversation(row: Row) -> tuple[Conversation, list[Fault]]:
    messages, faults = normal_messages(row.data["messages"], row.place("messages"))
    tools, wrong = normal_tools(row.data.get("tools"), row.place("tools"))
    columns = {k: v for k, v in row.data.items() if k not in ("messages", "tools")}
    return Conversation(messages, row.file, row.number, tools, columns), faults + wrong


def _missing_messages(where: str, columns: tuple[str, ...]) -> Fault:
    found = f"the columns {shorten(', '.join(columns), '')}" if columns else "no columns"
    near = difflib.get_close_matches("messages", columns, 1)
    near = near or [c for c in ("conversations", "conversation", "chat") if c in columns]
    remedy = f"Did you mean {shorten(near[0], '')}?" if near else ""
    return Fault(where, found, "a column messages with the list of messages", remedy)
