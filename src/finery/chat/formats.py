"""The five file formats as rows: JSON Lines, JSON, CSV, TSV and Parquet.

Each reader yields rows, blank lines and faults in file order and goes on after a fault
where the format lets it. What is the same for all formats is checked by the caller.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finery.chat.data_row import (
    JSON_COLUMNS,
    MAX_TEXT_BYTES,
    BadJson,
    BlankLine,
    Row,
    kind,
    parse_json,
    shorten,
    too_large,
)
from finery.errors import Fault

Item = Row | BlankLine | Fault

_BOM = b"\xef\xbb\xbf"
_WRAPPERS = ("data", "rows")


def read_jsonl(path: Path) -> Iterator[Item]:
    """One JSON object a line; lines are read one at a time and never held longer than one."""
    started = False
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_TEXT_BYTES + 1):
            number += 1
            if len(raw) > MAX_TEXT_BYTES and not raw.endswith(b"\n"):
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_TEXT_BYTES)
                yield too_large(f"{path}:{number}")
                continue
            item = _jsonl_row(path, number, raw.removeprefix(_BOM) if number == 1 else raw)
            if not started and isinstance(item, Fault) and raw.strip() in (b"[", b"{"):
                remedy = "Write one object a line, or name the file .json if it is a list of rows."
                yield Fault(item.where, "JSON spread over lines", "one JSON object a line", remedy)
                return
            started = started or not isinstance(item, BlankLine)
            yield item


def _jsonl_row(path: Path, number: int, raw: bytes) -> Item:
    text = _decode(raw, f"{path}:{number}")
    if isinstance(text, Fault):
        return text
    if not text.strip(" \t\r\n"):
        return BlankLine(number)
    try:
        return _row(path, number, parse_json(text))
    except BadJson as error:
        where = f"{path}:{number}:{error.field}" if error.field else f"{path}:{number}"
        return Fault(where, error.found, "one JSON object on this line")


def _row(path: Path, number: int, value: Any) -> Row | Fault:
    if isinstance(value, dict):
        return Row(str(path), number, value)
    expected = 'an object such as {"messages": […]}'
    return Fault(f"{path}:{number}", kind(value), expected)


def read_json(path: Path) -> Iterator[Item]:
    """A list of objects, or an object whose only key is `data` or `rows` and holds that list."""
    text = yield from _whole_text(path)
    if text is None:
        return
    try:
        value = parse_json(text)
    except BadJson as error:
        where = f"{path}:{error.line}:{error.field}" if error.field else f"{path}:{error.line}"
        jsonl = "Extra data" in error.found and error.line > 1
        remedy = "A file with one object a line is named .jsonl." if jsonl else ""
        yield Fault(where, error.found, "one JSON value in the file", remedy)
        return
    if isinstance(value, dict) and len(value) == 1 and (key := next(iter(value))) in _WRAPPERS:
        value = value[key]
    if not isinstance(value, list):
        found = kind(value)
        if isinstance(value, dict) and value:
            found = f"an object with the keys {shorten(', '.join(value), '')}"
        expected = 'a list of rows, or an object whose only key is "data" or "rows" with that list'
        yield Fault(str(path), found, expected)
        return
    for number, item in enumerate(value, 1):
        yield _row(path, number, item)


def read_csv(path: Path) -> Iterator[Item]:
    """Comma-separated rows under a header; `messages` and `tools` hold JSON text."""
    return _delimited(path, ",", "CSV")


def read_tsv(path: Path) -> Iterator[Item]:
    """Tab-separated rows under a header; `messages` and `tools` hold JSON text."""
    return _delimited(path, "\t", "TSV")


def read_delimited(path: Path, delimiter: str) -> Iterator[Item]:
    """Rows under a header, cells parted by one character; otherwise as `read_csv`."""
    return _delimited(path, delimiter, "delimited")


def _delimited(path: Path, delimiter: str, name: str) -> Iterator[Item]:
    text = yield from _whole_text(path)
    if text is None:
        return
    # The limit belongs to the process: it is only ever raised, and a row has its own limit.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT_BYTES))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = "Rows after this one were not read."
            yield Fault(f"{path}:{line}", f"broken {name} ({error})", f"a {name} row", remedy)
            return
        if len(cells) < 2 and not "".join(cells).strip():
            yield BlankLine(line)
        elif not header:
            header = cells
            wrong = [shorten(n) for n in header if not n.strip() or header.count(n) > 1]
            if wrong:
                found = f"the column names {', '.join(wrong)}"
                yield Fault(f"{path}:{line}", found, "column names, each once")
                return
        elif len(cells) != len(header):
            expected = f"{len(header)}, as in the header"
            yield Fault(f"{path}:{line}", f"{len(cells)} cells", expected)
        else:
            yield _cells(path, line, dict(zip(header, cells, strict=True)))


def _cells(path: Path, line: int, cells: dict[str, str]) -> Row | Fault:
    data: dict[str, Any] = dict(cells)
    for column in JSON_COLUMNS:
        text = cells.get(column)
        if text is None:
            continue
        try:
            data[column] = parse_json(text) if text.strip() else None
        except BadJson as error:
            python = text.lstrip().startswith(("[{'", "{'"))
            remedy = "Python's own form is not JSON: write it with json.dumps." if python else ""
            return Fault(f"{path}:{line}:{column}", error.found, "JSON text in this cell", remedy)
    return Row(str(path), line, data)


def read_parquet(path: Path) -> Iterator[Item]:
    """The rows of a Parquet file, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := sorted({shorten(n) for n in names if names.count(n) > 1}):
                found = f"the column {', '.join(twice)} more than once"
                yield Fault(str(path), found, "column names, each once")
                return
            for batch in file.iter_batches(batch_size=512):
                for data in batch.to_pylist():
                    number += 1
                    yield Row(str(path), number, data)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text not in UTF-8
        why = shorten(str(error).strip().rstrip("."), "")
        yield Fault(
            f"{path}:{number}" if number else str(path),
            f"Parquet data that cannot be read ({why})",
            "a complete Parquet file",
            "Write or download the file again.",
        )


def _whole_text(path: Path) -> Iterator[Fault]:
    """The text of a file as the generator's result; None after a fault for each bad line."""
    raw = path.read_bytes().removeprefix(_BOM)
    text = _decode(raw, str(path))
    if isinstance(text, str):
        return text
    for number, line in enumerate(raw.split(b"\n"), 1):
        fault = _decode(line, f"{path}:{number}")
        if isinstance(fault, Fault):
            yield fault
    return None


def _decode(raw: bytes, where: str) -> str | Fault:
    if (place := raw.find(b"\0")) >= 0:
        return Fault(where, f"a NUL byte (byte {place + 1} of the line)", "UTF-8 text")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = raw[error.start : error.start + 1]
        found = f"the byte 0x{byte[0]:02X} (byte {error.start + 1} of the line), not UTF-8"
        if letter := byte.decode("cp1252", "ignore"):
            found += f"; in Windows-1252 or Latin-1 it is {letter!r}"
        return Fault(where, found, "UTF-8 text", "Save the file as UTF-8.")
