from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finery.chat.data_row import BlankLine, Row
from finery.chat.read import read_rows, scan_rows
from finery.errors import Fault, InputError

ROWS = [{"messages": [{"role": "user", "content": "Grüße, 世界"}], "id": "1"}, {"messages": []}]
CELL = '"[{""role"": ""user"", ""content"": ""Grüße,\n世界""}]"'.replace("\n", "\\n")


def _write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_json_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS)
    jsonl = _write(tmp_path / "a.jsonl", lines)
    bare = _write(tmp_path / "a.json", json.dumps(ROWS))
    wrapped = _write(tmp_path / "b.json", json.dumps({"rows": ROWS}))
    for path in (jsonl, bare, wrapped):
        assert [row.data for row in read_rows(path)] == ROWS
        assert [row.number for row in read_rows(path)] == [1, 2]
        assert {row.file for row in read_rows(path)} == {str(path)}


@pytest.mark.parametrize(("suffix", "tab"), [(".csv", ","), (".tsv", "\t")])
def test_tables_hold_messages_as_json_text_and_name_the_line(
    tmp_path: Path, suffix: str, tab: str
) -> None:
    text = f'id{tab}messages{tab}tools\n"a\nb"{tab}{CELL}{tab}\n\nc{tab}{CELL}{tab}[]\n'
    first, blank, second = scan_rows(_write(tmp_path / f"a{suffix}", text))
    assert isinstance(first, Row) and isinstance(second, Row)
    messages = [{"role": "user", "content": "Grüße,\n世界"}]
    assert first.data == {"id": "a\nb", "messages": messages, "tools": None}
    assert (first.number, blank, second.number) == (2, BlankLine(4), 5)
    assert second.data["tools"] == []


def test_a_parquet_file_gives_plain_lists_and_row_numbers(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": str(n)}] for n in range(1200)]
    pq.write_table(pa.table({"messages": messages}), tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet"))
    assert [row.data["messages"] for row in rows] == messages
    assert rows[-1].number == 1200


def test_line_numbers_count_blank_lines_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", '\ufeff{"a": 1}\n\n \t\r\n{"a": 2}')
    assert [row.number for row in read_rows(path)] == [1, 4]
    assert [item.number for item in scan_rows(path) if isinstance(item, BlankLine)] == [2, 3]


def test_good_rows_come_before_the_error_that_tells_every_fault(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", '{"a": 1}\n[\n{"a": NaN}\n{"a": 2}\n')
    seen = []
    with pytest.raises(InputError) as caught:
        seen.extend(row.number for row in read_rows(path))
    assert seen == [1, 4]
    assert [fault.where for fault in caught.value.faults] == [f"{path}:2", f"{path}:3:a"]


def test_reading_never_changes_or_leaves_a_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", "[]")
    assert all(isinstance(item, Fault) for item in scan_rows(path))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    assert path.read_text() == "[]"


def test_a_line_just_below_the_limit_is_read_and_one_above_is_skipped_whole(
    tmp_path: Path,
) -> None:
    limit = 8 * 2**20
    fits = '{"a": "%s"}\n' % ("x" * (limit - 9))
    assert len(fits) == limit + 1
    path = _write(tmp_path / "a.jsonl", fits + fits[:7] + "xx" + fits[7:] + '{"a": "b"}')
    first, second, third = scan_rows(path)
    assert isinstance(first, Row) and isinstance(third, Row)
    assert isinstance(second, Fault) and second.where == f"{path}:2"
    assert third.number == 3


def test_every_row_of_the_kit_is_read(kit: Path) -> None:
    paths = sorted((kit / "chat").rglob("*.jsonl"))
    assert len(paths) == 8
    for path in paths:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert [row.data for row in read_rows(path)] == lines
