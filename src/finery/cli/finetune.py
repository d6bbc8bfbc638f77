"""`finery finetune`: a whole fine-tuning run from a recipe, options, or both."""

from __future__ import annotations

import sys

import typer

from finery.cli.flags import flags_help, parse_flags
from finery.recipe.resolve import Resolved, resolve


def finetune_command(context: typer.Context) -> None:
    """Fine-tune: import, data, train, evaluate, package, into one folder."""
    argv = list(context.args)
    if "--help" in argv or "-h" in argv:
        typer.echo(_USAGE)
        typer.echo(flags_help())
        return
    dry_run = "--dry-run" in argv
    options = parse_flags([word for word in argv if word != "--dry-run"])
    resolved = resolve(options.file, options.values, faults=options.faults)
    if dry_run:
        _print_plan(resolved)
    else:
        run_with_progress(resolved)


_USAGE = """\
finery finetune RECIPE.yaml [--any-input VALUE ...] [--dry-run]
finery finetune --model M --train FILE [--test FILE] [--any-input VALUE ...]

Runs the whole of a fine-tuning without any server: import, data, train, evaluate, package.
--dry-run prints the resolved recipe, the token ledger and the plan, and starts nothing.
"""


def run_with_progress(resolved: Resolved) -> None:
    """Run with a live progress line, then print the report."""
    from rich.console import Console

    from finery.cli.progress import Progress
    from finery.evaluation.report import report_console
    from finery.training.run import finetune

    console = Console()
    with Progress(console) as progress:
        run = finetune(resolved, report=progress, command=["finery", *sys.argv[1:]])
    console.print(report_console(run.facts))


def _print_plan(resolved: Resolved) -> None:
    """The resolved recipe with origins, the ledger and the plan."""
    from rich.console import Console

    from finery.recipe.reference import recipe_yaml
    from finery.training.prepare import prepare

    prepared = prepare(resolved.recipe, resolved.origins, resolved.notes)
    console = Console(highlight=False)
    console.print(recipe_yaml(resolved), markup=False, soft_wrap=True)
    for sentence in prepared.notes:
        console.print(f"note: {sentence}", markup=False, soft_wrap=True)
    console.rule("token ledger")
    for ledger in prepared.ledgers:
        for sentence in ledger.sentences():
            console.print(sentence, markup=False, soft_wrap=True)
    console.rule("plan")
    console.print(plan_text(prepared.plan.to_dict()), markup=False)


def plan_text(plan: dict) -> str:
    """A plan in a few lines."""
    gib = 1024**3
    return (
        f"{plan['processes']} x {plan['device']}, micro-batch {plan['micro_batch']}, "
        f"accumulation {plan['accumulation']}: global batch {plan['global_batch']}\n"
        f"{plan['total_steps']:,} steps ({plan['steps_per_epoch']:,} an epoch), about "
        f"{plan['tokens_per_step']:,} tokens a step\n"
        f"{plan['trainable']:,} of {plan['parameters']:,} parameters trained\n"
        f"about {plan['memory_bytes'] / gib:.1f} GiB of memory a process and "
        f"{plan['disk_bytes'] / gib:.1f} GiB of disk (estimates)"
    )
