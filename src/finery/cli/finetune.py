"""`finery finetune`: a whole fine-tuning run from a recipe, options, or both."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer

from finery.cli.flags import help_text, parse_flags
from finery.cli.plan import plan_text
from finery.cli.watching import Watch
from finery.errors import FineryError
from finery.recipe.resolve import Resolved, resolve
from finery.training.lean import lean_process


def finetune_command(context: typer.Context) -> None:
    """Fine-tune: import, data, train, evaluate, package, into one folder."""
    argv = list(context.args)
    if "--help" in argv or "-h" in argv:
        typer.echo(help_text(USAGE))
        return
    words = [word for word in argv if word not in ("--dry-run", "--dry_run")]
    dry_run = len(words) < len(argv)
    options = parse_flags(words)
    resolved = resolve(options.file, options.values, faults=options.faults)
    if dry_run:
        _print_plan(resolved)
    else:
        run_with_progress(resolved, context.obj)


USAGE = """\
finery finetune RECIPE.yaml [--any-input VALUE ...] [--dry-run]
finery finetune --model M --train FILE [--test FILE] [--any-input VALUE ...]

Runs the whole of a fine-tuning without any server: import, data, train, evaluate, package.
--dry-run prints the resolved recipe, the token ledger and the plan, and starts nothing. It
writes nothing but the caches under FINERY_HOME: imported models and token rows.

Every input is an option, with dashes or underscores; an option wins over the recipe file. The
same command started again goes on where it was stopped, and does nothing when it is finished.
"""


class Interrupted(FineryError):
    """A person stopped a run with Ctrl-C; what it has done stays."""

    exit_status = 130


def run_with_progress(resolved: Resolved, watch: Watch | None = None) -> None:
    """Run with a live progress line, then print the report; `watch` makes it a child's work."""
    if watch:
        watch(Path(resolved.recipe.output_dir))
        lean_process()

    from rich.console import Console

    from finery.cli.progress import Progress
    from finery.evaluation.report import report_console
    from finery.training.run import finetune

    console = Console()
    try:
        with Progress(console) as progress:
            run = finetune(resolved, report=progress, command=["finery", *sys.argv[1:]])
    except KeyboardInterrupt:
        without = " without --overwrite-output" if resolved.recipe.overwrite_output else ""
        raise Interrupted(
            f"stopped. The same command{without} goes on from the last checkpoint in "
            f"{resolved.recipe.output_dir}."
        ) from None
    console.print(report_console(run.facts))


def _print_plan(resolved: Resolved) -> None:
    """The resolved recipe with origins, the ledger and the plan."""
    from rich.console import Console

    from finery.recipe.reference import recipe_yaml
    from finery.training.fitting import as_before
    from finery.training.output import check_output
    from finery.training.prepare import prepare

    prepared = as_before(prepare(resolved.recipe, resolved.origins, resolved.notes))
    check_output(prepared)
    console = Console(highlight=False)
    written = recipe_yaml(replace(prepared.resolved, notes=()))
    console.print(written, markup=False, soft_wrap=True)
    for sentence in prepared.notes:
        console.print(f"note: {sentence}", markup=False, soft_wrap=True)
    console.rule("token ledger")
    for ledger in prepared.ledgers:
        for sentence in ledger.sentences():
            console.print(sentence, markup=False, soft_wrap=True)
    console.rule("plan")
    console.print(plan_text(prepared.plan.to_dict()), markup=False)
