"""`finery plan`: what a run will take on this machine, measured, before it starts."""

from __future__ import annotations

from typing import Any

import typer

from finery.cli.flags import help_text, parse_flags
from finery.recipe.resolve import resolve
from finery.training.lean import lean_process

USAGE = """\
finery plan RECIPE.yaml [--any-input VALUE ...]
finery plan --model M --train FILE [--any-input VALUE ...]

Says what a run would take on this machine: tokens per second, time, memory and disk, from a probe
of at most 20 seconds with the model's own shape and the run's own rows. The same plan asked for
again, and the run itself, need no second probe. Where the run does not fit into memory, it says
what would. Takes every input of finery finetune and writes nothing but the caches under
FINERY_HOME.
"""
_GIB = 1024**3


def plan_command(context: typer.Context) -> None:
    """Say what a run would take here: tokens per second, time, memory, disk."""
    argv = list(context.args)
    if "--help" in argv or "-h" in argv:
        typer.echo(help_text(USAGE))
        return
    options = parse_flags(argv)
    resolved = resolve(options.file, options.values, faults=options.faults)

    if context.obj:  # a process of its own, not a call from Python
        lean_process()

    from rich.console import Console

    from finery.cli.progress import Progress
    from finery.training.fitting import fitting, measured
    from finery.training.prepare import prepare

    console = Console(highlight=False)
    with Progress(console) as progress:
        prepared = prepare(resolved.recipe, resolved.origins, resolved.notes, progress)
        prepared = measured(prepared, progress, always=True)
        console.print(plan_text(prepared.plan.to_dict()), markup=False)
        fitted = fitting(prepared, progress, always=True)
    if fitted.plan != prepared.plan:
        console.print(plan_text(fitted.plan.to_dict()), markup=False)


def plan_text(plan: dict[str, Any]) -> str:
    """A plan in a few lines."""
    return (
        f"{plan['processes']} x {plan['device']}, micro-batch {plan['micro_batch']}, "
        f"accumulation {plan['accumulation']}: global batch {plan['global_batch']}\n"
        f"{plan['total_steps']:,} steps ({plan['steps_per_epoch']:,} an epoch), about "
        f"{plan['tokens_per_step']:,} tokens a step\n"
        f"{plan['trainable']:,} of {plan['parameters']:,} parameters trained\n"
        f"{expectation(plan)}"
    )


def expectation(plan: dict[str, Any]) -> str:
    """What a plan expects of time, memory and disk, with how sure it is."""
    memory, disk = plan["memory_bytes"] / _GIB, plan["disk_bytes"] / _GIB
    if not plan.get("measured"):
        return (
            f"about {memory:.1f} GiB of memory a process and {disk:.2f} GiB of disk (arithmetic, "
            "not measured; finery plan measures)"
        )
    error = 100 * plan["time_error"]
    return (
        f"{plan['tokens_per_s']:,.0f} tokens/s, {duration(plan['seconds'])} of training "
        f"(within {error:.0f} %)\n"
        f"{memory:.2f} GiB of memory a process (at most; {100 * plan['memory_error']:.0f} % less "
        f"is likely) of {plan['available_bytes'] / _GIB:.1f} GiB there is, {disk:.2f} GiB of disk"
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3:07 min, 2:30 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
