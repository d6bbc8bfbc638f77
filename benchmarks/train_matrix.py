"""Training speed on a CPU over other shapes than the main benchmark's: finery beside TRL.

    python benchmarks/train_matrix.py [--small FOLDER] [--only short,long] [--json FILE]

Each case is `train_cpu.py` with other settings: short and long rows, larger batches, all weights
trained, a smaller model of another family (--small, any model source). The rows of a case are the
same for both engines, and so are their loss tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import train_cpu
from measure import machine, versions
from rich import box
from rich.console import Console
from rich.table import Table

# name: options of train_cpu. Steps are few where they are long: a case takes about a minute.
CASES = {
    "64 tokens": "--max-length 64 --steps 30 --variants rows-weights,packed-weights",
    "64 tokens, 16 a step": "--max-length 64 --rows 170 --batch 16 --steps 8"
    " --variants rows-weights",
    "1,024 tokens, 4 a step": "--batch 4 --steps 4 --variants rows-weights",
    "4,096 tokens": "--max-length 4096 --rows 96 --steps 3 --variants packed-weights",
    "all weights": "--full --steps 6 --variants rows-autocast",
    "small model": "--small --variants rows-weights,packed-weights",
    "small model, 16 a step": "--small --batch 16 --rows 200 --steps 6 --variants rows-weights",
    "small model, all weights": "--small --full --variants rows-autocast",
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    words = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**words)  # pyright: ignore[reportArgumentType]
    parser.add_argument("--small", help="source of the small model; its cases are left out without")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each engine")
    parser.add_argument("--only", default="", help="cases whose names hold one of these words")
    parser.add_argument("--json", type=Path, help="write every number here")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> dict[str, list[str]]:
    """The cases to run, as the words of train_cpu's command line."""
    found: dict[str, list[str]] = {}
    only = [word for word in options.only.split(",") if word]
    for name, words in CASES.items():
        small = "--small" in words
        if (small and not options.small) or (only and not any(word in name for word in only)):
            continue
        rest = [word for word in words.split() if word != "--small"]
        model = ["--model", options.small] if small else []
        found[name] = [*rest, *model, "--rounds", str(options.rounds), "--ceiling-seconds", "1"]
    return found


def run(words: list[str], console: Console) -> dict[str, Any]:
    """One case: the summary of train_cpu, and its raw results."""
    options = train_cpu.parse(words)
    results, ceilings = train_cpu.measure(options, console)
    return {
        "options": words,
        "summary": train_cpu.summary(results),
        "ceilings": ceilings,
        "results": results,
    }


def show(cases: dict[str, dict[str, Any]], console: Console) -> None:
    """One line a case: the best of each engine."""
    table = Table(title="Best of each engine, medians", box=box.SIMPLE_HEAD)
    table.add_column("case", no_wrap=True)
    for column in ("finery tok/s", "% of ceiling", "TRL tok/s", "times", "memory", "losses apart"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, case in cases.items():
        total, results = case["summary"], case["results"]
        ours, theirs = (results[total["best"][engine]] for engine in ("finery", "trl"))
        shares = [100 * row["share"] for row in ours]
        memory = [max(row["peak_memory_gb"] for row in rows) for rows in (ours, theirs)]
        table.add_row(
            name,
            f"{total['tokens_per_s']['finery']:,.0f}",
            train_cpu.spread(shares, 1),
            f"{total['tokens_per_s']['trl']:,.0f}",
            f"{total['ratio']:.2f}",
            f"{memory[0] / memory[1]:.2f}",
            f"{100 * total['largest_loss_difference']:.2f} %",
        )
    table.caption = "memory: ours as a share of TRL's, highest resident memory of each."
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases, print, write; returns 1 where the engines' losses do not agree."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    cases: dict[str, dict[str, Any]] = {}
    for name, words in chosen(options).items():
        console.print(f"[bold]{name}[/bold]")
        cases[name] = run(words, console)
    show(cases, console)
    if options.json:
        record = {"machine": machine(), "versions": versions(), "cases": cases}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    worst = max((c["summary"]["largest_loss_difference"] for c in cases.values()), default=0.0)
    return 0 if worst <= train_cpu.AGREE else 1


if __name__ == "__main__":
    sys.exit(main())
