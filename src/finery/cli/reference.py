"""The reference page of the command line, made from the commands themselves.

    python -m finery.cli.reference          rewrites docs/reference/cli.md

Nothing is rendered for a terminal, so neither its width nor its colours matter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo

from finery.cli.finetune import USAGE
from finery.cli.main import EXIT_STATUSES, app
from finery.files import write_atomic
from finery.recipe.inputs import SETTINGS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"

_INTRODUCTION = """\
# Command line reference

<!-- Made by `python -m finery.cli.reference`. Do not edit. -->

Every command explains itself with `--help`. Messages about what is wrong go to standard error,
one message for all faults of a pass; a user's mistake never shows a traceback.

Environment: `FINERY_HOME` is where imported models and token rows are kept (default
`~/.finery`); `FINERY_HUB_MIRROR`, a folder laid out `organisation/name/`, is looked in before the
hub; `MLFLOW_TRACKING_URI` names an MLflow server or store that training logs to.

For programs: `--json`, where a command has it, prints one JSON value on standard output and nothing
else there; what is said to people goes to standard error. Without a terminal there are no colours
(`NO_COLOR` keeps them away in one, too), and no name in a table is broken.

For the shell: `finery --install-completion` completes commands and options from the next shell
on, `finery --show-completion` prints what it would install.
"""


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command, as its function declares it."""

    name: str
    type: Any
    default: Any  # inspect.Parameter.empty when it must be given
    info: Any  # typer's ArgumentInfo or OptionInfo

    @property
    def is_argument(self) -> bool:
        """Whether it stands alone, without a name in front."""
        return isinstance(self.info, ArgumentInfo)

    @property
    def required(self) -> bool:
        """Whether the command does not run without it."""
        return self.default is inspect.Parameter.empty


def cli_markdown() -> str:
    """The reference page: exit statuses, then one section a command."""
    parts = [_INTRODUCTION, "## Exit status", "", "| status | meaning |", "|---|---|"]
    parts += [f"| {status} | {meaning} |" for status, meaning in sorted(EXIT_STATUSES.items())]
    for words, function in commands(app, "finery"):
        parts += ["", f"## {words}", "", *_section(words, function)]
    return "\n".join(parts) + "\n"


def commands(typer_app: typer.Typer, words: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every command of an app with the words that call it, in the order of the help."""
    for command in typer_app.registered_commands:
        if command.callback is not None:
            name = command.name or command.callback.__name__.replace("_", "-")
            yield f"{words} {name}", command.callback
    for group in typer_app.registered_groups:
        if group.typer_instance is not None:
            yield from commands(group.typer_instance, f"{words} {group.name}")


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The arguments and options of a command's function, in declared order."""
    hints = get_type_hints(function, include_extras=True)
    return [
        Parameter(name, get_args(hints[name])[0], one.default, get_args(hints[name])[1])
        for name, one in inspect.signature(function).parameters.items()
        if len(get_args(hints[name])) > 1
    ]


def _section(words: str, function: Callable[..., Any]) -> Iterator[str]:
    about = _text(inspect.getdoc(function))
    if words == "finery finetune":  # its options are the inputs of a recipe
        usage, _, rest = USAGE.partition("\n\n")
        yield from ["```console", usage, "```", "", about, "", rest.strip(), "", _SEE_RECIPE]
        return
    found = parameters(function)
    named = [one for one in found if not one.is_argument]
    places = [_shown(o) if o.required else f"[{_shown(o)}]" for o in found if o.is_argument]
    yield from ["```console", " ".join([words, *["[OPTIONS]"][: len(named)], *places]), "```"]
    yield from ["", about, "", "| parameter | value | default | meaning |", "|---|---|---|---|"]
    yield from (_row(one) for one in found)


_SEE_RECIPE = (
    "Options are the inputs of a recipe, see [recipe.md](recipe.md). Short names: "
    + ", ".join(f"`{row.flag}` for `{name}`" for name, row in SETTINGS.items() if row.short)
    + "."
)


def _row(one: Parameter) -> str:
    default = "required" if one.required else f"`{one.default}`"
    if one.default is None or one.default is False or one.default == "":
        default = ""
    return f"| `{_shown(one)}` | {_value(one)} | {default} | {_text(one.info.help)} |"


def _shown(one: Parameter) -> str:
    if one.is_argument:
        return one.info.metavar or one.name.upper()
    # Inside Annotated, typer keeps the first name of an option where its default would be.
    first = [one.info.default] if isinstance(one.info.default, str) else []
    names = [*first, *(one.info.param_decls or ())]
    return ", ".join(names or ["--" + one.name.replace("_", "-")])


def _value(one: Parameter) -> str:
    """What a value is: its kind, and its bounds where it has some."""
    inner = [kind for kind in get_args(one.type) if kind is not type(None)] or [one.type]
    kind = _KINDS.get(inner[0], "text")
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("at least", one.info.min), ("at most", one.info.max))
        if bound is not None
    ]
    return ", ".join([kind, " and ".join(bounds)] if bounds else [kind])


_KINDS = {bool: "", int: "integer", float: "number", Path: "path"}


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "\\<")


def main() -> None:
    """Rewrite the reference page."""
    write_atomic(PAGE, cli_markdown())
    print(PAGE)


if __name__ == "__main__":
    main()
