from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finery.chat.conversation import Conversation, read_conversations, scan_conversations
from finery.chat.overview import overviews, role_pattern
from finery.chat.read import FaultList
from finery.errors import InputError

USER = {"role": "user", "content": "What is 2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
CALL = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 2}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "a", "name": "add"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def _write(folder: Path, *rows: Any) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _one(folder: Path, *messages: Any, **columns: Any) -> Conversation:
    (conversation,) = read_conversations(_write(folder, {"messages": messages, **columns}))
    return conversation


def test_other_columns_are_carried_as_they_are(tmp_path: Path) -> None:
    got = _one(tmp_path, USER, ANSWER, prompt="x", scores=[1, 2.5, None])
    assert got.messages == (USER, ANSWER)
    assert got.columns == {"prompt": "x", "scores": [1, 2.5, None]}
    assert (got.file, got.row, got.tools) == (str(tmp_path / "a.jsonl"), 1, None)


def test_tool_calls_keep_their_parts_and_an_absent_text_becomes_empty(tmp_path: Path) -> None:
    got = _one(tmp_path, USER, CALLING, RESULT, ANSWER, tools=[TOOL])
    assert got.messages == (USER, {**CALLING, "content": ""}, RESULT, ANSWER)
    assert got.tools == (TOOL,)


def test_an_empty_list_of_calls_is_no_call(tmp_path: Path) -> None:
    got = _one(tmp_path, {**USER, "tool_calls": []}, {**ANSWER, "tool_calls": []})
    assert got.messages == (USER, ANSWER)


def test_conversations_with_other_tools_are_no_duplicates(tmp_path: Path) -> None:
    plain, other = (_one(tmp_path, USER, ANSWER, tools=tools) for tools in ([], [TOOL]))
    assert plain.messages == other.messages
    assert plain.key != other.key


def test_an_empty_list_of_tools_is_no_tools(tmp_path: Path) -> None:
    assert _one(tmp_path, USER, ANSWER, tools=[]).tools is None


def test_text_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}]
    assert _one(tmp_path, {"role": "user", "content": parts}, ANSWER).messages[0] == USER


def test_parquet_nulls_in_message_structs_are_absent_keys(tmp_path: Path) -> None:
    pq.write_table(pa.table({"messages": [[USER, CALLING, RESULT]]}), tmp_path / "a.parquet")
    (got,) = read_conversations(tmp_path / "a.parquet")
    assert got.messages == (USER, {**CALLING, "content": ""}, RESULT)


def test_a_system_message_may_be_empty_and_two_answers_may_follow(tmp_path: Path) -> None:
    system = {"role": "system", "content": ""}
    assert len(_one(tmp_path, system, USER, ANSWER, ANSWER).messages) == 4


def test_every_fault_of_a_row_is_told_with_its_field(tmp_path: Path) -> None:
    bad = [{"role": "usr", "content": 1}, {"role": "assistant", "content": " ", "weight": 0}]
    path = _write(tmp_path, {"messages": bad, "tools": 3})
    with pytest.raises(InputError) as caught:
        read_conversations(path)
    assert [fault.where.removeprefix(f"{path}:1:") for fault in caught.value.faults] == [
        "messages[0].role",
        "messages[0].content",
        "messages[1].weight",
        "messages[1].content",
        "tools",
    ]


def test_of_many_faults_fifty_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    path = _write(tmp_path, *[{"messages": [USER]}] * 60, {"messages": [USER, ANSWER]})
    with pytest.raises(InputError, match="the first 50 of 60 faults \\(10 more") as caught:
        read_conversations(path)
    assert len(caught.value.faults) == 50


def test_a_column_missing_everywhere_is_one_fault_and_missing_here_and_there_many(
    tmp_path: Path,
) -> None:
    faults = FaultList()
    scan_conversations(_write(tmp_path, {"text": "a"}, {"text": "b"}), faults)
    assert faults.total == 1
    scan_conversations(_write(tmp_path, {"text": "a"}, {"messages": [USER, ANSWER]}, {}), faults)
    assert faults.total == 3


def test_conversations_with_the_same_messages_have_one_key(tmp_path: Path) -> None:
    spread = {"content": "4", "role": "assistant"}
    first, second, third = read_conversations(
        _write(
            tmp_path,
            {"messages": [USER, ANSWER], "id": 1},
            {"id": 2, "messages": [USER, spread]},
            {"messages": [USER, {**ANSWER, "content": "5"}]},
        )
    )
    assert first.key == second.key != third.key


def test_the_kit_reads_and_is_as_it_was_described(kit: Path) -> None:
    faults = FaultList()
    paths = sorted((kit / "chat" / "ultrachat-1k").glob("*_sft.jsonl"))
    test, train = overviews([scan_conversations(path, faults) for path in paths])
    assert not faults.kept
    assert (test.conversations, train.conversations) == (100, 750)
    assert set(train.columns) == {"prompt", "prompt_id"}
    assert train.answers.smallest == 2 and train.answers.largest == 5


def test_an_overview_counts_roles_duplicates_and_rows_shared_between_files(
    tmp_path: Path,
) -> None:
    system = {"role": "system", "content": "Be brief."}
    row = {"messages": [USER, ANSWER]}
    path = _write(tmp_path, row, row, {"messages": [system, USER, ANSWER, USER, ANSWER], "id": 1})
    first, second = overviews([scan_conversations(path, FaultList()) for _ in range(2)])
    assert first.roles == {"(user assistant)×1": 2, "system (user assistant)×2": 1}
    assert (first.conversations, first.messages, first.duplicates) == (3, 9, 1)
    assert (first.in_earlier_files, second.in_earlier_files) == (0, 3)
    assert (first.answers.smallest, first.answers.largest, first.columns) == (1, 2, {"id": 1})
    assert (first.characters.smallest, first.characters.largest) == (13, 35)
    assert first.answer_characters == 4


def test_a_role_pattern_counts_repeats() -> None:
    roles = ["system", "user", "user", "user", "assistant", "tool", "tool", "assistant"]
    assert role_pattern(roles) == "system (user)×2 (user assistant)×1 (tool)×2 assistant"
