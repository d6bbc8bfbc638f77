"""Training speed on one NVIDIA GPU: finery beside transformers + PEFT, at Phi-3-mini's size.

    python benchmarks/train_gpu.py [--rounds 3] [--lengths 4096,2048] [--json FILE]

First the numbers (gpu_check.py): a failure ends the benchmark. Then the engines take turns, each
measurement in a process of its own that begins with the bf16 matrix product rate of the GPU.
Weights and documents are random: nothing is downloaded or written. The formula of the FLOPs is
in finery.planning.ceiling. No measurement of a later round starts when --minutes would be over
before its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import machine, run_cell, spread, versions
from rich import box
from rich.console import Console
from rich.table import Table

CELL = Path(__file__).with_name("gpu_cell.py")
CELLS = ("finery", "finery-fp8", "peft-isolated", "peft-plain")
ABOUT = {
    "finery": "packed, documents apart, loss at loss tokens",
    "finery-fp8": "the same, the frozen base in 8-bit floating point",
    "peft-isolated": "packed, documents apart (position ids, sdpa), full logits",
    "peft-plain": "packed, documents see each other, full logits",
}
Results = dict[str, list[dict[str, Any]]]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    words = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**words)  # pyright: ignore[reportArgumentType]
    parser.add_argument("--lengths", default="4096,2048", help="tokens of a packed row")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each engine")
    parser.add_argument("--steps", type=int, default=10, help="measured steps a round")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--cells", default=",".join(CELLS), help="which engines take turns")
    parser.add_argument("--shape", default="phi3-mini", choices=("phi3-mini", "small"))
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a rehearsal"
    )
    parser.add_argument("--gemm", type=int, default=8192, help="size of the ceiling's product")
    parser.add_argument("--minutes", type=float, default=7.0, help="no measurement starts later")
    parser.add_argument("--json", type=Path, help="write every number here")
    options = parser.parse_args(arguments)
    options.lengths = [int(length) for length in options.lengths.split(",")]
    options.cells = options.cells.split(",")
    if unknown := [cell for cell in options.cells if cell not in CELLS]:
        parser.error(f"--cells: {', '.join(unknown)} is none of {', '.join(CELLS)}")
    return options


def gpu_name() -> str:
    """The GPU that torch sees first, "" when there is none."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return answer.stdout.strip()


def show_check(result: dict[str, Any], console: Console) -> None:
    """The numeric checks in words."""
    table = Table(title="Against transformers on the CPU in float32", box=box.SIMPLE_HEAD)
    table.add_column("what", no_wrap=True)
    table.add_column("loss, relative error", justify="right")
    table.add_column("gradient, relative error", justify="right")
    for name, errors in result["relative_errors"].items():
        table.add_row(name, f"{errors['loss']:.1e}", f"{errors['gradient']:.1e}")
    console.print(table)
    isolated = result["isolation"]
    console.print(
        f"{result['documents']} documents in one row; with the first one changed the others' "
        f"losses are bit-equal: {isolated['later_documents_bit_equal']}; varlen attention calls "
        f"{isolated['varlen_calls']} of {isolated['varlen_expected']}."
    )
    console.print("numbers: " + ("passed" if result["passed"] else "FAILED"))


def measure(options: argparse.Namespace, work: Path, console: Console) -> Results:
    """The engines in turn, until the rounds or the minutes are over."""
    results: Results = {cell: [] for cell in options.cells}
    began = time.monotonic()
    longest = 0.0
    for number in range(1, options.rounds + 1):
        for cell in options.cells:
            started = time.monotonic()
            if number > 1 and started - began + longest > 60 * options.minutes:
                console.print(f"stopped in round {number}: {options.minutes:g} minutes are over")
                return results
            result = run_cell(CELL, work, cell)
            results[cell].append(result)
            longest = max(longest, time.monotonic() - started)
            speeds = [f"{row['tokens_per_s']:,.0f} at {row['length']}" for row in result["lengths"]]
            console.print(f"round {number}: {cell:<14} {', '.join(speeds)} tokens/s")
    return results


def rows_of(results: Results, cell: str, index: int) -> list[dict[str, Any]]:
    """A cell's measurements at one of the lengths."""
    return [result["lengths"][index] for result in results[cell]]


def show(options: argparse.Namespace, results: Results, console: Console) -> dict[str, Any]:
    """A table for each length; returns the medians."""
    medians: dict[str, Any] = {}
    for index, length in enumerate(options.lengths):
        table = Table(title=f"{options.shape}, rows of {length} tokens", box=box.SIMPLE_HEAD)
        table.add_column("engine", no_wrap=True)
        for column in ("tokens/s", "% of ceiling", "TFLOP/s of it", "GB", "first loss"):
            table.add_column(column, justify="right", no_wrap=True)
        medians[str(length)] = {}
        for cell in options.cells:
            rows = rows_of(results, cell, index)
            speeds = [row["tokens_per_s"] for row in rows]
            medians[str(length)][cell] = statistics.median(speeds)
            table.add_row(
                cell,
                spread(speeds),
                spread([100 * row["share"] for row in rows], 1),
                f"{statistics.median(row['ceiling'] for row in rows) / 1e12:,.1f}",
                f"{max(row['peak_memory_gb'] for row in rows):.1f}",
                f"{rows[0]['losses'][0]:.4f}",
            )
        console.print(table)
        first = [rows_of(results, cell, index)[0]["losses"][0] for cell in options.cells]
        console.print(f"  first losses agree to {100 * (max(first) / min(first) - 1):.2f} %")
    for cell in options.cells:
        console.print(f"  {cell:<14} {ABOUT[cell]}")
    return medians


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, print, write; returns 1 when the numbers are wrong."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    name = gpu_name() if options.device == "cuda" else "CPU (a rehearsal)"
    if not name:
        console.print("This benchmark needs an NVIDIA GPU, and torch sees none here.")
        return 0
    console.print(f"{name}, torch {versions()['torch']}")
    fields = ("lengths", "steps", "warmup", "shape", "device", "gemm")
    settings = {field: getattr(options, field) for field in fields}
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as folder:
        work = Path(folder)
        (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        checked = run_cell(CELL, work, "check")
        show_check(checked, console)
        results = measure(options, work, console) if checked["passed"] else {}
    medians = show(options, results, console) if results else {}
    if options.json:
        record = {
            "settings": {**settings, "rounds": options.rounds},
            "device": name,
            "machine": machine(),
            "versions": versions(),
            "check": checked,
            "medians": medians,
            "results": results,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if checked["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
