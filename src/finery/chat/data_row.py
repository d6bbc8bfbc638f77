"""One row of a data file, and what no row may hold whatever format it came from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finery.errors import Fault

MAX_TEXT_BYTES = 8 * 2**20  # of one row; more is a broken file, not a conversation
MAX_DEPTH = 64  # far above any chat format, far below where Python's own JSON writer fails
JSON_COLUMNS = ("messages", "tools")  # these end in a chat template, so they hold JSON only


@dataclass(frozen=True)
class Row:
    """One object of a data file."""

    file: str
    number: int  # the line it starts on (JSONL, CSV, TSV), else its place in the file from 1
    data: dict[str, Any]

    def place(self, field: str = "") -> str:
        """Where a fault of this row is: `file:row:field`."""
        return f"{self.file}:{self.number}:{field}" if field else f"{self.file}:{self.number}"


@dataclass(frozen=True)
class BlankLine:
    """A line without a row; it is no fault, and it is counted."""

    number: int


class BadJson(ValueError):
    """Text that is not the JSON we take; `line` counts from 1 inside the text."""

    def __init__(self, found: str, line: int = 1, field: str = "") -> None:
        super().__init__(found)
        self.found, self.line, self.field = found, line, field


def parse_json(text: str) -> Any:
    """The value of a JSON text, duplicate keys refused; raises BadJson and nothing else.

    NaN and infinities are let through here, so that `find_flaw` can name their field.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except BadJson:
        raise
    except json.JSONDecodeError as error:
        found = f"broken JSON ({error.msg}, column {error.colno})"
        raise BadJson(found, error.lineno) from None
    except RecursionError:
        raise BadJson("JSON nested too deep to read") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadJson(f"a number that cannot be read ({error})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadJson(f"the key {shorten(twice)} twice in one object", field=shorten(twice, ""))
    return result


def find_flaw(row: Row) -> Fault | None:
    """The first thing in a row that could not be tokenized or written down again, if any."""
    total = 0
    for path, value, depth in _walk(row.data):
        found = _flaw_of(value, column=path.split(".")[0].split("[")[0])
        if depth > MAX_DEPTH:
            found = f"more than {MAX_DEPTH} levels of nesting"
        if found:
            return Fault(row.place(path), found, "text, finite numbers, true, false or null")
        total += len(value) if isinstance(value, str) else 0
    if total > MAX_TEXT_BYTES:
        return too_large(row.place())
    return None


def too_large(place: str) -> Fault:
    """The fault of a row that is longer than any conversation."""
    limit = f"at most {MAX_TEXT_BYTES // 2**20} MiB a row"
    return Fault(place, "a row of more text than that", limit, "Is a line break missing?")


def _walk(data: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Every key and every value below `data` with its path, in file order, without recursion."""
    stack: list[tuple[str, Any, int]] = [("", data, 0)]
    while stack:
        path, value, depth = stack.pop()
        if isinstance(value, dict):
            prefix = f"{path}." if path else ""
            names = [(shorten(str(key), ""), key, item) for key, item in value.items()]
            yield from ((f"{prefix}{name}", key, depth + 1) for name, key, _ in names)
            below = [(f"{prefix}{name}", item, depth + 1) for name, _, item in names]
        elif isinstance(value, list | tuple):
            yield path, value, depth
            below = [(f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        else:
            yield path, value, depth
            continue
        if depth <= MAX_DEPTH:
            stack.extend(reversed(below))


def _flaw_of(value: Any, column: str) -> str | None:
    if isinstance(value, str):
        if "\0" in value:
            return "a NUL character in the text"
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"half of a surrogate pair (\\u{ord(value[error.start]):04x}) in the text"
    elif isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity"
    elif column in JSON_COLUMNS and not isinstance(value, int | float | list | None):
        return f"a {type(value).__name__}, which JSON cannot hold,"
    return None


def kind(value: Any) -> str:
    """A value as a sentence names it: `the number 3`, `an empty list`, `null`."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {shorten(str(value), '')}"
    if isinstance(value, str):
        return f"the string {shorten(value)}"
    if isinstance(value, list | dict):
        name = "list" if isinstance(value, list) else "object"
        return f"an empty {name}" if not value else f"a{'n' if name == 'object' else ''} {name}"
    return f"a {type(value).__name__}"


def shorten(text: str, quote: str = '"') -> str:
    """The beginning of a text on one printable line, so that a fault stays a sentence."""
    start = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:40])
    return f"{quote}{start}{'…' if len(text) > 40 else ''}{quote}"
