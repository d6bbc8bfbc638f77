"""Command-line options of `finery finetune`, made from the table of inputs.

    finery finetune [RECIPE.yaml] --learning-rate 1e-4 --apply-lora --no-evaluate

Every input is an option, with dashes or underscores; some have a short name as well. A boolean
stands alone (true), takes true or false, or starts with `--no-`. What a value may be is not
judged here: `finery.recipe.resolve` does, together with the recipe file.
"""

from __future__ import annotations

import shutil
import textwrap
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finery.errors import Fault
from finery.recipe.inputs import SETTINGS, nearest_input
from finery.recipe.reference import default_text, grouped
from finery.recipe.settings import Setting

_SHORT_NAMES = {row.short: name for name, row in SETTINGS.items() if row.short}


@dataclass(frozen=True)
class Options:
    """What a command line says: a recipe file, values by input name, and what is wrong."""

    files: list[Path] = field(default_factory=list)  # at most one
    values: dict[str, object] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def file(self) -> Path | None:
        """The recipe file, None when there is none."""
        return self.files[0] if self.files else None


def parse_flags(argv: Sequence[str]) -> Options:
    """The options in `argv`; never raises, hand `faults` to `resolve` with the rest."""
    options = Options()
    rest = deque(argv)
    while rest:
        word = rest.popleft()
        if word == "--":
            for name in rest:
                _add_file(options, name)
            return options
        if word.startswith("-") and word != "-":
            _add_option(options, word, rest)
        else:
            _add_file(options, word)
    return options


def _add_file(options: Options, word: str) -> None:
    if word and not options.files:
        options.files.append(Path(word))
    else:
        what = f"{word!r} as well as the recipe {str(options.file)!r}" if word else "an empty word"
        remedy = "Options start with --, as in --learning-rate 1e-4."
        options.faults.append(Fault("command line", what, "one recipe file", remedy))


def _add_option(options: Options, word: str, rest: deque[str]) -> None:
    flag, has_value, text = word.partition("=")
    negated, row = _find(flag)
    if row is None:
        near = nearest_input(flag.removeprefix("--no-"))
        remedy = f"Did you mean {SETTINGS[near].flag}?" if near else "--help lists them."
        options.faults.append(Fault(flag, "an unknown option", "an option", remedy))
        # The word after an unknown option is most likely its value, not a recipe.
        if not has_value and rest and not rest[0].startswith("-") and not _is_recipe(rest[0]):
            rest.popleft()
        return
    value: object = text
    if negated:
        value = False
        if has_value:
            remedy = f"Write --{flag.removeprefix('--no-')}={text}."
            options.faults.append(Fault(flag, f"the value {text!r}", "no value", remedy))
    elif not has_value:
        value = _following(row, rest)
    if value is None:
        options.faults.append(Fault(flag, "no value", row.expects))
    elif row.name in options.values:
        options.faults.append(Fault(flag, f"{row.name} again", "each option once"))
    else:
        options.values[row.name] = value


def _find(flag: str) -> tuple[bool, Setting | None]:
    """The setting an option names, and whether it is the `--no-` form of a boolean."""
    if not flag.startswith("--"):
        return False, None
    name = flag.removeprefix("--").replace("-", "_")
    name = _SHORT_NAMES.get(name, name)
    positive = SETTINGS.get(name.removeprefix("no_"))
    if name.startswith("no_") and positive is not None and positive.kind == "boolean":
        return True, positive
    return False, SETTINGS.get(name)


def _following(row: Setting, rest: deque[str]) -> object:
    """The value in the next word; a boolean may do without, None when one is missing."""
    if row.kind == "boolean":
        bare = not rest or rest[0].startswith("-") or _is_recipe(rest[0])
        return True if bare else rest.popleft()
    return None if not rest or rest[0].startswith("--") else rest.popleft()


def _is_recipe(word: str) -> bool:
    return Path(word).suffix.lower() in (".yaml", ".yml")


def help_text(usage: str) -> str:
    """`usage` and every option, as wide as the terminal but never wider than 100 columns."""
    width = min(100, shutil.get_terminal_size().columns)
    lines = []
    for line in usage.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        fitted = textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
        lines += fitted or [""]
    return "\n".join([*lines, flags_help(width)])


def flags_help(width: int = 100) -> str:
    """Every option by group, with its value, default and meaning, in lines of at most `width`."""
    lines = []
    for group, title, rows in grouped():
        lines += textwrap.wrap(f"{group}: {title}", width)
        for row in rows:
            long = "--" + row.name.replace("_", "-")
            names = long if row.flag == long else f"{row.flag}, {long}"
            lines += textwrap.wrap(
                f"{names} {_value_text(row)}".rstrip(),
                width,
                initial_indent="  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
            lines += textwrap.wrap(
                _meaning(row), width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        lines.append("")
    return "\n".join(lines)


def _value_text(row: Setting) -> str:
    if row.kind == "boolean":
        return "" if row.default is False else f"/ --no-{row.name.replace('_', '-')}"
    if row.choices:
        return "{" + ",".join(row.choices) + "}"
    return {"integer": "INT", "number": "NUMBER", "string": "TEXT"}.get(row.kind, "PATH")


def _meaning(row: Setting) -> str:
    default = f"default {default_text(row)}" if row.default != "" else ""
    special = "" if row.also is None else f"{row.also} or "
    bounds = f"{special}{row.range}" if row.range else ""
    extra = "; ".join(part for part in (default, bounds) if part)
    return f"{row.help} [{extra}]" if extra else row.help
