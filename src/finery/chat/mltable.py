"""Conversations named by an MLTable: a folder whose file `MLTable` says which files, read how.

The file is YAML: `paths` (entries `file`, `pattern` or `folder`) and `transformations`, of which
one must be a reader (https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable).
Covered: read_json_lines, read_delimited and read_parquet over local files inside the folder, by
the same readers as plain files. Not covered, and refused by name: everything that would choose
or change rows or columns, other encodings than UTF-8, and addresses of other machines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from finery.chat.data_row import Row, kind, shorten
from finery.chat.formats import Item, read_delimited, read_jsonl, read_parquet
from finery.chat.read import scan_rows
from finery.errors import Fault, did_you_mean, os_reason

NAME = "MLTable"
_MAX_BYTES = 1_000_000
_TOP = ("$schema", "type", "paths", "transformations", "traits", "metadata")
_PATH_KEYS = ("file", "pattern", "folder")
CHANGES = (
    "take",
    "take_random_sample",
    "skip",
    "filter",
    "keep_columns",
    "drop_columns",
    "convert_column_types",
    "extract_columns_from_partition_format",
)
_UTF8 = ("utf8", "utf-8", "utf8bom", "ascii")  # all of them are read as UTF-8


@dataclass(frozen=True)
class Option:
    """One option of a reader: which values read the rows as they stand."""

    holds: Callable[[Any], bool]
    expected: str
    remedy: str = ""


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_ANY = Option(lambda _: True, "")
_FLAG = Option(_is_flag, "true or false")
_ENCODING = Option(
    lambda v: isinstance(v, str) and v.lower() in _UTF8, "utf8", "Save the files as UTF-8."
)
_COMMON = {
    "include_path_column": Option(lambda v: v is False, "false: no column is added"),
    "path_column": _ANY,  # a name that matters only with include_path_column
    "partition_size": _ANY,  # how Azure cuts the work up; no row depends on it
}
_INVALID_LINES = Option(lambda v: v == "error", "error: no line is dropped")
_HEADER = Option(
    lambda v: v in ("all_files_same_headers", "all_files_different_headers", "from_first_file"),
    "all_files_same_headers, all_files_different_headers or from_first_file",
    "The columns need their names: one of them is messages.",
)
_DELIMITER = Option(lambda v: isinstance(v, str) and len(v) == 1, "one character")

READERS: dict[str, dict[str, Option]] = {
    "read_json_lines": {**_COMMON, "encoding": _ENCODING, "invalid_lines": _INVALID_LINES},
    "read_parquet": _COMMON,
    "read_delimited": {
        **_COMMON,
        "encoding": _ENCODING,
        "delimiter": _DELIMITER,
        "header": _HEADER,
        "infer_column_types": _ANY,  # messages and tools are JSON text whatever it says
        "empty_as_string": _FLAG,
        "support_multi_line": _FLAG,  # cells may always hold line breaks
    },
}


@dataclass(frozen=True)
class MLTable:
    """An MLTable that was understood; `files` are inside its folder, in the order of `paths`."""

    files: tuple[Path, ...]
    reader: str
    options: dict[str, Any]


def is_mltable(path: Path) -> bool:
    """Whether `path` is an MLTable folder, or the MLTable file in one."""
    return path.name == NAME or os.path.isfile(path / NAME)  # noqa: PTH113 - false for any name


def scan_mltable(path: Path) -> Iterator[Item]:
    """Rows, blank lines and faults of all files of an MLTable, each with its real place."""
    table, faults = read_definition(path)
    yield from faults
    if table is None:
        return
    same = table.options.get("header", "all_files_same_headers") == "all_files_same_headers"
    first: Row | None = None
    for file in table.files:
        fresh = True
        for item in scan_rows(file, _reader(table)):
            if fresh and isinstance(item, Row):
                fresh, first = False, first or item
                if table.reader == "read_delimited" and same and list(item.data) != [*first.data]:
                    yield _other_header(item, first)
            yield item


def mltable_files(path: Path) -> list[Path]:
    """The MLTable file and every file it names; a faulty one names only itself."""
    table, _ = read_definition(path)
    return [_definition(path), *(table.files if table else ())]


def read_definition(path: Path) -> tuple[MLTable | None, list[Fault]]:
    """What an MLTable says, or every reason why it cannot be used."""
    definition = _definition(path)
    value = _load(definition)
    if isinstance(value, Fault):
        return None, [value]
    faults = [*_unknown_keys(value, str(definition))]
    if value.get("type", "mltable") != "mltable":
        faults.append(Fault(f"{definition}:type", _shown(value["type"]), "mltable"))
    files, path_faults = _files(value.get("paths"), definition)
    reader, options, reader_faults = _chosen_reader(value.get("transformations"), definition)
    faults += path_faults + reader_faults
    if options.get("header") == "from_first_file" and len(files) > 1:
        place = f"{definition}:read_delimited.header"
        found = f"from_first_file with {len(files)} files"
        faults.append(Fault(place, found, "a header in every file", "Say all_files_same_headers."))
    return (None, faults) if faults else (MLTable(tuple(files), reader, options), [])


def _definition(path: Path) -> Path:
    return path if path.name == NAME and not path.is_dir() else path / NAME


def _reader(table: MLTable) -> Callable[[Path], Iterator[Item]]:
    if table.reader == "read_delimited":
        return partial(read_delimited, delimiter=table.options.get("delimiter", ","))
    return read_jsonl if table.reader == "read_json_lines" else read_parquet


def _other_header(row: Row, first: Row) -> Fault:
    found = f"the columns {shorten(', '.join(row.data), '')}"
    expected = f"those of {first.file} ({shorten(', '.join(first.data), '')}), in that order"
    remedy = "If files may differ, say header: all_files_different_headers."
    return Fault(row.file, found, expected, remedy)


class _Loader(yaml.SafeLoader):
    """Plain YAML, in which a key given twice is an error and not a silent choice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((str(key) for key in keys if keys.count(key) > 1), None):
            raise yaml.YAMLError(f"the key {twice} twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _load(definition: Path) -> dict[str, Any] | Fault:
    where, expected = str(definition), "YAML with paths and transformations"
    try:
        content = definition.read_bytes()
        if len(content) > _MAX_BYTES:
            return Fault(where, f"{len(content):,} bytes", "a short description of a table")
        value = yaml.load(content.decode("utf-8-sig"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        return Fault(where, os_reason(error), "a file named MLTable that can be read")
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        return Fault(where, f"no YAML ({' '.join(str(error).split())})", expected)
    return value if isinstance(value, dict) else Fault(where, kind(value), expected)


def _unknown_keys(value: dict[str, Any], where: str) -> Iterator[Fault]:
    for key in value:
        if key not in _TOP:
            yield Fault(
                f"{where}:{key}", "an unknown key", _one_of(_TOP[1:]), did_you_mean(str(key), _TOP)
            )


def _files(entries: Any, definition: Path) -> tuple[list[Path], list[Fault]]:
    if not isinstance(entries, list) or not entries:
        return [], [
            Fault(f"{definition}:paths", _shown(entries), "a list of file, pattern, folder")
        ]
    files: dict[Path, str] = {}
    faults = []
    for number, entry in enumerate(entries):
        where = f"{definition}:paths[{number}]"
        if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in _PATH_KEYS:
            faults.append(Fault(where, _shown(entry), f"one of {_one_of(_PATH_KEYS)} and its path"))
            continue
        ((key, text),) = entry.items()
        found = _matches(key, text, definition, f"{where}.{key}")
        if isinstance(found, Fault):
            faults.append(found)
            continue
        for path in found:
            if path in files:
                named = f"{path.name}, named at {files[path]} already"
                faults.append(Fault(f"{where}.{key}", named, "each file once"))
            else:
                files[path] = f"paths[{number}]"
    return list(files), faults


def _matches(key: str, text: Any, definition: Path, where: str) -> list[Path] | Fault:
    """The files of one entry of `paths`, sorted by name."""
    folder = definition.parent
    expected = "a path relative to the folder of the MLTable, and inside it"
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        return Fault(where, _shown(text), expected)
    if "://" in text:
        remedy = "Copy the data beside the MLTable file: nothing is fetched."
        return Fault(where, f"the address {shorten(text)}", expected, remedy)
    if Path(text).is_absolute() or ".." in Path(text).parts:
        return Fault(where, shorten(text), expected)
    try:
        found = _below(folder, key, text)
    except (OSError, ValueError) as error:
        return Fault(where, f"{shorten(text)} ({error})", expected)
    if not found:
        noun = {"file": "no such file", "folder": "no files in that folder"}.get(key, "no match")
        return Fault(where, f"{shorten(text)}: {noun}", "at least one file")
    outside = [path for path in found if not path.resolve().is_relative_to(folder.resolve())]
    if outside:
        return Fault(where, f"{outside[0].name}, a link to another place", expected)
    return found


def _below(folder: Path, key: str, text: str) -> list[Path]:
    if key == "file":
        return [folder / text] if (folder / text).is_file() else []
    # A folder stands for everything below it but the table itself and hidden files.
    found = (folder / text).rglob("*") if key == "folder" else folder.glob(text)
    return sorted(
        path
        for path in found
        if path.is_file()
        and (key == "pattern" or (path.name != NAME and not path.name.startswith(".")))
    )


def _chosen_reader(steps: Any, definition: Path) -> tuple[str, dict[str, Any], list[Fault]]:
    """The one reader among the transformations, its options, and every other step as a fault."""
    where = f"{definition}:transformations"
    expected = f"one of {_one_of(READERS)}"
    if not isinstance(steps, list) or not steps:
        return "", {}, [Fault(where, _shown(steps), f"a list with {expected}")]
    chosen: list[tuple[str, dict[str, Any]]] = []
    faults: list[Fault] = []
    for number, step in enumerate(steps):
        place = f"{where}[{number}]"
        name, options = (step, {}) if isinstance(step, str) else _single(step)
        options = {} if options is None else options
        if name in READERS and isinstance(options, dict):
            faults += _option_faults(name, options, f"{place}.{name}")
            chosen.append((name, options))
        else:
            faults.append(_refused_step(step, name, place, expected))
    if len(chosen) > 1:
        faults.append(Fault(where, f"{len(chosen)} readers", "one reader"))
    if not chosen and not faults:
        faults.append(Fault(where, "no reader", expected))
    name, options = chosen[0] if chosen else ("", {})
    return name, options, faults


def _single(step: Any) -> tuple[Any, Any]:
    one = isinstance(step, dict) and len(step) == 1
    return next(iter(step.items())) if one else (None, None)


def _refused_step(step: Any, name: Any, place: str, expected: str) -> Fault:
    if name in CHANGES:
        wanted = f"{expected} alone: rows and columns are taken as they are"
        return Fault(place, f"the transformation {name}", wanted, "Write the rows to a file first.")
    if not isinstance(name, str) or name in READERS:
        return Fault(place, _shown(step), expected)
    found = f"the transformation {shorten(name, '')}"
    return Fault(place, found, expected, did_you_mean(name, READERS))


def _option_faults(reader: str, options: dict[str, Any], place: str) -> Iterator[Fault]:
    for name, value in options.items():
        option = READERS[reader].get(name)
        if option is None:
            near = did_you_mean(str(name), READERS[reader])
            yield Fault(f"{place}.{name}", "an unknown option", _one_of(READERS[reader]), near)
        elif not option.holds(value):
            yield Fault(f"{place}.{name}", _shown(value), option.expected, option.remedy)


def _shown(value: Any) -> str:
    return shorten(value) if isinstance(value, str) else kind(value)


def _one_of(names: Any) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"
