"""One literal of a job, sent as text, against the type, range and choices a spec declares."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from finery.errors import Fault
from finery.recipe.parse import BOOLEAN_TEXT, INTEGER_TEXT, NUMBER_TEXT, found


def literal_fault(row: Mapping[str, Any], text: object, place: str) -> Fault | None:
    """What is wrong with `text` as a value of the input `row` declares; None when nothing is.

    A choice declared as 2 and one declared as "2" are one, and so are true and True.
    """
    value = str(text)
    choices = [_word(choice) for choice in row.get("enum") or ()]
    if choices:
        if _word(value) in choices:
            return None
        near = difflib.get_close_matches(value, choices, n=1)
        expected = f"one of {', '.join(map(repr, choices))}" if choices[1:] else repr(choices[0])
        return Fault(place, found(value), expected, f"Did you mean {near[0]!r}?" if near else "")
    kind = row.get("type", "string")
    if kind == "boolean":
        right = re.fullmatch(BOOLEAN_TEXT, value)
        return None if right else Fault(place, found(value), "true or false")
    if kind not in ("integer", "number"):
        return None
    number = _number(value, INTEGER_TEXT if kind == "integer" else NUMBER_TEXT)
    if number is not None and _low(row) <= number <= _high(row):
        return None
    return Fault(place, found(value), _wanted(kind, row))


def _word(choice: object) -> str:
    """A choice as text: YAML's true and the SDK's True are one."""
    text = str(choice)
    return text.lower() if re.fullmatch(BOOLEAN_TEXT, text) else text


def _number(text: str, form: str) -> float | None:
    if not re.fullmatch(form, text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _low(row: Mapping[str, Any]) -> float:
    return -math.inf if row.get("min") is None else float(row["min"])


def _high(row: Mapping[str, Any]) -> float:
    return math.inf if row.get("max") is None else float(row["max"])


def _wanted(kind: str, row: Mapping[str, Any]) -> str:
    noun = "an integer" if kind == "integer" else "a finite number"
    bounds = [
        f"{word} {row[key]}"
        for word, key in (("at least", "min"), ("at most", "max"))
        if row.get(key) is not None
    ]
    return f"{noun} of {' and '.join(bounds)}" if bounds else noun
