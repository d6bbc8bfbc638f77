"""MLTables: which files they name, how they are read, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from finery.chat.conversation import read_conversations
from finery.chat.data_row import BlankLine
from finery.chat.mltable import READERS, is_mltable, mltable_files, scan_mltable
from finery.errors import Fault, InputError

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
LINE = json.dumps({"messages": CHAT}) + "\n"
JSONL = {"paths": [{"file": "a.jsonl"}], "transformations": [{"read_json_lines": None}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of conversations, and one below."""
    (tmp_path / "more").mkdir()
    for name in ("a.jsonl", "b.jsonl", "more/c.jsonl"):
        (tmp_path / name).write_text(LINE)
    return tmp_path


def table(folder: Path, value: Any) -> Path:
    text = value if isinstance(value, str) else yaml.safe_dump(value)
    (folder / "MLTable").write_text(text)
    return folder


def faults(folder: Path) -> list[Fault]:
    return [item for item in scan_mltable(folder) if isinstance(item, Fault)]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([{"file": "b.jsonl"}, {"file": "./a.jsonl"}], ["b.jsonl", "a.jsonl"]),
        ([{"pattern": "./*.jsonl"}], ["a.jsonl", "b.jsonl"]),
        ([{"pattern": "**/*.jsonl"}], ["a.jsonl", "b.jsonl", "more/c.jsonl"]),
        ([{"pattern": "[ab].jsonl"}, {"folder": "more"}], ["a.jsonl", "b.jsonl", "more/c.jsonl"]),
        ([{"folder": "./"}], ["a.jsonl", "b.jsonl", "more/c.jsonl"]),
    ],
)
def test_paths_are_read_in_order_each_file_with_its_own_rows(
    folder: Path, paths: list[dict[str, str]], names: list[str]
) -> None:
    (folder / ".hidden").write_text("not data")
    table(folder, {**JSONL, "paths": paths})
    for named in (folder, folder / "MLTable"):
        assert is_mltable(named)
        rows = read_conversations(named)
        assert [Path(row.file).relative_to(folder).as_posix() for row in rows] == names
        assert {row.row for row in rows} == {1}
        assert list(rows[0].messages) == CHAT
        assert mltable_files(named)[0].name == "MLTable"
        assert len(mltable_files(named)) == len(names) + 1


def test_what_mltable_itself_writes_for_json_lines_is_read(folder: Path) -> None:
    options = {
        "encoding": "utf8",
        "include_path_column": False,
        "invalid_lines": "error",
        "partition_size": 20971520,
        "path_column": "Path",
    }
    value = {"type": "mltable", **JSONL, "transformations": [{"read_json_lines": options}]}
    assert len(read_conversations(table(folder, value))) == 1


def test_faults_name_the_real_file_and_row_and_blank_lines_are_none(folder: Path) -> None:
    (folder / "b.jsonl").write_text("\n" + LINE + "{broken\n")
    table(folder, {**JSONL, "paths": [{"pattern": "*.jsonl"}]})
    items = [*scan_mltable(folder)]
    assert BlankLine(1) in items
    (fault,) = faults(folder)
    assert fault.where == f"{folder / 'b.jsonl'}:3"
    with pytest.raises(InputError, match=r"b\.jsonl:3"):
        read_conversations(folder)


def test_the_reader_decides_how_a_file_is_read_not_its_suffix(folder: Path) -> None:
    (folder / "a.jsonl").rename(folder / "part-00000")
    table(folder, {**JSONL, "paths": [{"file": "part-00000"}]})
    assert len(read_conversations(folder)) == 1


def test_delimited_files_take_their_delimiter(folder: Path) -> None:
    cell = json.dumps(CHAT).replace('"', '""')
    (folder / "x.txt").write_text(f'id;messages\n1;"{cell}"\n')
    options = {"delimiter": ";", "encoding": "utf8", "header": "all_files_same_headers"}
    table(
        folder,
        {"paths": [{"file": "x.txt"}], "transformations": [{"read_delimited": options}]},
    )
    (row,) = read_conversations(folder)
    assert (row.row, dict(row.columns)) == (2, {"id": "1"})


@pytest.mark.parametrize(("header", "refused"), [("same", True), ("different", False)])
def test_files_with_other_headers_are_refused_unless_the_table_allows_them(
    folder: Path, header: str, refused: bool
) -> None:
    cell = json.dumps(CHAT).replace('"', '""')
    (folder / "x.csv").write_text(f'messages,id\n"{cell}",1\n')
    (folder / "y.csv").write_text(f'id,messages\n1,"{cell}"\n')
    options = {"header": f"all_files_{header}_headers"}
    steps = [{"read_delimited": options}]
    table(folder, {"paths": [{"pattern": "*.csv"}], "transformations": steps})
    found = faults(folder)
    assert bool(found) is refused
    if found:
        assert found[0].where.endswith("y.csv")
        assert "all_files_different_headers" in found[0].remedy


def test_parquet_files_are_read(folder: Path) -> None:
    pq.write_table(pa.table({"messages": [CHAT]}), folder / "x.parquet")
    table(folder, {"paths": [{"file": "x.parquet"}], "transformations": ["read_parquet"]})
    assert len(read_conversations(folder)) == 1


REFUSED: list[tuple[Any, str, str]] = [
    ("- a", ":", "a list"),
    ("paths: [", ":", "no YAML"),
    ("paths: []\npaths: []\n", ":", "the key paths twice"),
    ({**JSONL, "path": []}, ":path", "Did you mean paths?"),
    ({**JSONL, "type": "uri_folder"}, ":type", "mltable"),
    ({"transformations": ["read_json_lines"]}, ":paths", "null"),
    ({**JSONL, "paths": []}, ":paths", "an empty list"),
    ({**JSONL, "paths": ["a.jsonl"]}, ":paths[0]", "one of file, pattern or folder"),
    ({**JSONL, "paths": [{"files": "a.jsonl"}]}, ":paths[0]", "file, pattern or folder"),
    ({**JSONL, "paths": [{"file": "../a.jsonl"}]}, ":paths[0].file", "inside it"),
    ({**JSONL, "paths": [{"file": "/etc/hosts"}]}, ":paths[0].file", "inside it"),
    ({**JSONL, "paths": [{"file": 3}]}, ":paths[0].file", "the number 3"),
    ({**JSONL, "paths": [{"file": "azureml://x/y"}]}, ":paths[0].file", "nothing is fetched"),
    ({**JSONL, "paths": [{"file": "z.jsonl"}]}, ":paths[0].file", "no such file"),
    ({**JSONL, "paths": [{"pattern": "*.csv"}]}, ":paths[0].pattern", "no match"),
    ({**JSONL, "paths": [{"pattern": "../*"}]}, ":paths[0].pattern", "inside it"),
    (
        {**JSONL, "paths": [{"file": "a.jsonl"}, {"pattern": "a*"}]},
        ":paths[1].pattern",
        "each file once",
    ),
    ({"paths": JSONL["paths"]}, ":transformations", "read_json_lines"),
    ({**JSONL, "transformations": [{"take": 5}]}, ":transformations[0]", "transformation take"),
    ({**JSONL, "transformations": ["read_jsonlines"]}, "[0]", "Did you mean read_json_lines?"),
    ({**JSONL, "transformations": [{"read_delta_lake": {}}]}, "[0]", "read_delta_lake"),
    ({**JSONL, "transformations": ["read_parquet", "read_json_lines"]}, "", "2 readers"),
    ({**JSONL, "transformations": [{"read_json_lines": 5}]}, "[0]", "an object"),
    (
        {**JSONL, "transformations": [{"read_json_lines": {"encodin": "utf8"}}]},
        ".encodin",
        "Did you mean encoding?",
    ),
    (
        {**JSONL, "transformations": [{"read_json_lines": {"encoding": "latin1"}}]},
        ".encoding",
        "Save the files as UTF-8",
    ),
    (
        {**JSONL, "transformations": [{"read_json_lines": {"invalid_lines": "drop"}}]},
        ".invalid_lines",
        "no line is dropped",
    ),
    (
        {**JSONL, "transformations": [{"read_json_lines": {"include_path_column": True}}]},
        ".include_path_column",
        "no column is added",
    ),
    (
        {**JSONL, "transformations": [{"read_delimited": {"header": "no_header"}}]},
        ".header",
        "need their names",
    ),
    (
        {**JSONL, "transformations": [{"read_delimited": {"delimiter": "||"}}]},
        ".delimiter",
        "one character",
    ),
    (
        {
            "paths": [{"pattern": "*.jsonl"}],
            "transformations": [{"read_delimited": {"header": "from_first_file"}}],
        },
        ".header",
        "a header in every file",
    ),
]


@pytest.mark.parametrize(("value", "place", "words"), REFUSED)
def test_what_cannot_be_read_as_it_stands_is_refused_by_name(
    folder: Path, value: Any, place: str, words: str
) -> None:
    (fault,) = faults(table(folder, value))
    assert fault.where.startswith(str(folder / "MLTable"))
    assert place.rstrip(":") in fault.where
    assert words in str(fault)


@pytest.mark.parametrize(
    "name",
    [
        *("take", "take_random_sample", "skip", "filter", "keep_columns", "drop_columns"),
        *("convert_column_types", "extract_columns_from_partition_format"),
    ],
)
def test_every_transformation_that_changes_rows_is_refused(folder: Path, name: str) -> None:
    value = {**JSONL, "transformations": [{"read_json_lines": {}}, {name: "x"}]}
    (fault,) = faults(table(folder, value))
    assert name in fault.found
    assert fault.where.endswith("transformations[1]")


def test_all_faults_of_a_table_are_told_together(folder: Path) -> None:
    value = {"type": "x", "paths": [{"file": "z"}], "transformations": [{"filter": "y"}]}
    assert len(faults(table(folder, value))) == 3


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.jsonl"
    outside.write_text(LINE)
    (folder / "link.jsonl").symlink_to(outside)
    (fault,) = faults(table(folder, {**JSONL, "paths": [{"file": "link.jsonl"}]}))
    assert "a link to another place" in fault.found


def test_a_folder_without_the_file_is_no_mltable(folder: Path) -> None:
    assert not is_mltable(folder)
    assert not is_mltable(Path("x" * 5000))
    (fault,) = faults(folder)
    assert "no such file" in fault.found


def test_every_reader_option_says_what_it_expects() -> None:
    for options in READERS.values():
        for option in options.values():
            assert option.expected or option.holds(object())
