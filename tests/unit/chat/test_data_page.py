"""docs/reference/data.md says what the readers do; its examples are read by them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finery.chat.conversation import read_conversations
from finery.chat.data_row import MAX_DEPTH, MAX_TEXT_BYTES
from finery.chat.long_rows import MAX_TRAINED_LOSS
from finery.chat.mltable import CHANGES, READERS, mltable_files
from finery.chat.read import SHOWN_FAULTS, SUFFIXES
from finery.chat.roles import MESSAGE_KEYS, ROLES
from finery.recipe.inputs import SETTINGS

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "data.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """What the first column of a table's rows names."""
    return re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)


def example(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return block


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Formats", [*SUFFIXES]),
        ("Long rows", [*SETTINGS["long_rows"].choices]),
        ("MLTable", [*READERS]),
    ],
)
def test_a_table_has_a_row_for_every_choice(title: str, names: list[str]) -> None:
    assert sorted(first_cells(section(title))) == sorted(names)


def test_roles_message_keys_and_limits_are_those_of_the_reader() -> None:
    columns = section("Columns")
    assert all(f"`{name}`" in columns for name in (*ROLES, *MESSAGE_KEYS))
    assert f"{MAX_TEXT_BYTES // 2**20} MiB" in section("Formats")
    assert f"{MAX_DEPTH}\nlevels" in section("Formats")
    assert f"more than {SHOWN_FAULTS} the" in section("Faults")
    assert f"{MAX_TRAINED_LOSS:.0%}".replace("%", " %") in section("Long rows")


def test_every_option_and_every_refused_transformation_of_mltables_is_named() -> None:
    text = section("MLTable")
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    for reader, options in READERS.items():
        assert set(re.findall(r"`([a-z_]+)`", rows[reader])) - {reader, "error", "false"} == set(
            options
        )
    assert all(f"`{name}`" in text for name in CHANGES)


def test_every_input_the_page_names_is_one() -> None:
    words = set(re.findall(r"`((?:train|validation|test|max|long)_[a-z_]+)`", PAGE))
    assert words
    assert words <= set(SETTINGS)
    assert all(choice in section("Long rows") for choice in SETTINGS["long_rows"].choices)


def test_the_example_conversation_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(example("json").replace("\n", "") + "\n")
    (conversation,) = read_conversations(path)
    assert [message["role"] for message in conversation.messages] == ["system", "user", "assistant"]


def test_the_example_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "MLTable").write_text(example("yaml"))
    (tmp_path / "more").mkdir()
    for name in ("train.jsonl", "more/a.jsonl"):
        (tmp_path / name).write_text(example("json").replace("\n", "") + "\n")
    assert len(read_conversations(tmp_path)) == 2
    assert len(mltable_files(tmp_path)) == 3
