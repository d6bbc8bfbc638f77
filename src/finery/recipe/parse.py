"""One value of one input: from what a file, an option or an SDK gives to its real type.

The SDK sends every literal as text ("true", "8", "5e-06"), model tags send integers for string
enums (`precision: 16`), and YAML 1.1 reads `1e-8` as text; all of these are one value here.
What would change meaning is refused: a boolean is no integer, "1.5" no integer, NaN no number.
"""

from __future__ import annotations

import difflib
import math
import re

from finery.errors import Fault
from finery.recipe.settings import Setting

Value = bool | int | float | str

INTEGER_TEXT = r"[+-]?[0-9]{1,19}(\.0*)?"
NUMBER_TEXT = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
BOOLEAN_TEXT = r"true|false|True|False|TRUE|FALSE"
# Tab and newline are the only control characters; half of a surrogate pair is no text.
STRING_TEXT = r"[^\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]*"
INTEGER_LIMIT = 2**63 - 1


def coerce(setting: Setting, value: object, where: str = "") -> Value | Fault:
    """The value in its real type, or the Fault that says what was expected instead."""
    parsed = _parse(setting, value)
    if parsed is None:
        return Fault(where or setting.name, found(value), setting.expects, _remedy(setting, value))
    return parsed


def found(value: object) -> str:
    """A value as a fault shows it: short, quoted when it is text, named when it is no scalar."""
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list | tuple | set):
        return "a mapping" if isinstance(value, dict) else "a list"
    if not isinstance(value, int | float | str):
        return "something that is no plain value"
    if isinstance(value, int) and abs(value) > INTEGER_LIMIT:
        return "an integer of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"


def _parse(setting: Setting, value: object) -> Value | None:
    if setting.kind == "boolean":
        return _boolean(value)
    if setting.kind in ("integer", "number"):
        number = _integer(value) if setting.kind == "integer" else _number(value)
        return number if number is not None and setting.holds(number) else None
    if setting.choices:
        name = str(number) if (number := _whole(value)) is not None else value
        return name if isinstance(name, str) and name in setting.choices else None
    return value if isinstance(value, str) and re.fullmatch(STRING_TEXT, value) else None


def _boolean(value: object) -> bool | None:
    if isinstance(value, str) and re.fullmatch(BOOLEAN_TEXT, value):
        return value.lower() == "true"
    return value if isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    """An int, or a float without a fraction (JSON does not tell 3 from 3.0)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if isinstance(value, int) or value.is_integer() else None


def _integer(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(INTEGER_TEXT, value):
        value = int(value.partition(".")[0])
    whole = _whole(value)
    return whole if whole is not None and -INTEGER_LIMIT <= whole <= INTEGER_LIMIT else None


def _number(value: object) -> float | None:
    if isinstance(value, str) and not re.fullmatch(NUMBER_TEXT, value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int too large for a float
        return None
    return number if math.isfinite(number) else None


def _remedy(setting: Setting, value: object) -> str:
    if value is None:
        return "Give a value or remove the line."
    if setting.choices and isinstance(value, str):
        near = difflib.get_close_matches(value, setting.choices, n=1)
        return f"Did you mean {near[0]!r}?" if near else ""
    if isinstance(value, bool) and setting.kind not in ("integer", "number"):
        return "YAML reads yes, no, on and off as true and false; put text in quotes."
    if isinstance(value, list) and setting.kind == "string":
        return "Write names in one text, separated by commas."
    return ""
