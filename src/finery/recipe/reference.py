"""The recipe's reference page, JSON schema and written form, all made from the table.

python -m finery.recipe.reference          rewrites docs/reference/recipe.md
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from finery.files import write_atomic
from finery.recipe.inputs import GROUPS, SETTINGS
from finery.recipe.parse import (
    BOOLEAN_TEXT,
    INTEGER_LIMIT,
    INTEGER_TEXT,
    NUMBER_TEXT,
    STRING_TEXT,
)
from finery.recipe.resolve import Resolved
from finery.recipe.settings import Setting

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "recipe.md"
_FLOAT_LIMIT = 1.7976931348623157e308  # the largest finite float

_INTRODUCTION = """\
# Recipe reference

<!-- Made by `python -m finery.recipe.reference`. Do not edit. -->

A recipe is a YAML file of `input: value` lines. Every input is also an option of
`finery finetune` (`learning_rate: 1e-4` is `--learning-rate 1e-4`), and an option wins over the
file. Relative paths in a file are relative to that file. An unknown input, a value out of range,
a combination that cannot work and a path that is not there are all refused, together, before
anything starts.

Inputs without a mark are those of Azure ML's `chat_completion_pipeline`, with its names and
defaults; inputs marked + are finery's own.
"""


def grouped() -> Iterator[tuple[str, str, list[Setting]]]:
    """The table by group: its name, its title, and its settings in order."""
    for group, title in GROUPS.items():
        yield group, title, [row for row in SETTINGS.values() if row.group == group]


def default_text(row: Setting) -> str:
    """A default as a recipe file would say it; "" when there is none."""
    return str(row.default).lower() if isinstance(row.default, bool) else str(row.default)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a recipe; it accepts what `coerce` accepts.

    A number given as text is checked for its form only: schemas have no range for text.
    Combinations and paths are checked by `resolve` alone.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "finery recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _property(row) for name, row in SETTINGS.items()},
    }


def _property(row: Setting) -> dict[str, Any]:
    return {"description": row.help, "default": row.default, "anyOf": _accepted(row)}


def _accepted(row: Setting) -> list[dict[str, Any]]:
    if row.kind == "boolean":
        return [{"type": "boolean"}, _text(BOOLEAN_TEXT)]
    if row.kind in ("integer", "number"):
        limit = INTEGER_LIMIT if row.kind == "integer" else _FLOAT_LIMIT
        bounds = {
            "minimum": -limit if row.minimum is None else row.minimum,
            "maximum": limit if row.maximum is None else row.maximum,
            "exclusiveMinimum": row.above,
            "exclusiveMaximum": row.below,
        }
        ranged = {key: bound for key, bound in bounds.items() if bound is not None}
        special = [] if row.also is None else [{"const": row.also}]
        text = INTEGER_TEXT if row.kind == "integer" else NUMBER_TEXT
        return [{"type": row.kind, **ranged}, *special, _text(text)]
    if row.choices:
        numbers = [int(choice) for choice in row.choices if choice.isdecimal()]
        return [{"enum": [*row.choices, *numbers]}]
    return [_text(STRING_TEXT)]


def _text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^({pattern})$"}


def recipe_markdown() -> str:
    """The reference page: one table a group."""
    parts = [_INTRODUCTION]
    for group, title, rows in grouped():
        parts += [f"\n## {group}\n\n{title}.\n\n| input | value | default | meaning |"]
        parts += ["|---|---|---|---|", *(_markdown_row(row) for row in rows)]
    return "\n".join(parts) + "\n"


def _markdown_row(row: Setting) -> str:
    value = ", ".join(f"`{name}`" for name in row.choices) or row.expects
    short = f" (option: `{row.flag}`)" if row.short and row.short != row.name else ""
    default = f"`{default_text(row)}`" if row.default != "" else ""
    own = "" if row.component else " +"
    meaning = row.help.replace("|", "\\|")
    return f"| `{row.name}`{own} | {value} | {default} | {meaning}{short} |"


def recipe_yaml(resolved: Resolved) -> str:
    """A resolved recipe as a recipe file: every input by group, with where its value came from.

    Resolving the text again gives an equal Recipe, wherever the file lies: paths are absolute.
    """
    lines = ["# A resolved finery recipe: every input, its value, and where the value came from."]
    lines += [f"# Note: {_comment(note)}" for note in resolved.notes]
    for group, title, rows in grouped():
        lines += ["", f"# {group}: {title}"]
        for row in rows:
            value = _yaml_line(row.name, getattr(resolved.recipe, row.name))
            lines.append(f"{value}  # {_comment(resolved.origins[row.name])}")
    return "\n".join(lines) + "\n"


def _yaml_line(name: str, value: object) -> str:
    # Only the double-quoted style keeps line breaks and unprintable characters on one line.
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    pair = yaml.safe_dump({name: value}, width=10**9, allow_unicode=True, default_style=style)
    return pair.rstrip("\n")


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def main() -> None:
    """Rewrite the reference page."""
    write_atomic(PAGE, recipe_markdown())
    print(PAGE)


if __name__ == "__main__":
    main()
