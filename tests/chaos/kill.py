"""Kills training at random moments and shows that the weights come out the same.

For each mode (one process, two under DDP, two under ZeRO-2) one run is left alone; others are
killed with SIGKILL, all their processes at once, while they start, inside a step, inside a
checkpoint save and after the last step, and started again until they finish. Then sha256 of
the adapter must be that of the run left alone.

    python tests/chaos/kill.py --kills 20 --modes single,ddp,zero2
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

ENGINE = Path(__file__).resolve().parents[1] / "engine"
sys.path.insert(0, str(ENGINE))

from tiny import tiny_job, tiny_rows, write_tiny  # noqa: E402

from finery.files import sha256_file  # noqa: E402
from finery.training.job import TrainJob  # noqa: E402

STEPS = 16
MODES = {"single": (1, ""), "ddp": (2, ""), "zero2": (2, "2"), "zero3": (2, "3")}  # ZeRO stage
DEFAULT_MODES = "single,ddp,zero2"
MOMENTS = ("start", "step", "save", "end")
KILLS_A_RUN = 5
POLL = 0.001  # seconds between two looks at the run folder


@dataclass(frozen=True)
class Kill:
    """One kill: what it aimed at, and how far the run had come."""

    moment: str
    seconds: float  # after the start of the process
    newest: str  # the newest checkpoint at that time


@dataclass(frozen=True)
class Outcome:
    """One run that was killed and finished."""

    mode: str
    kills: tuple[Kill, ...]
    expected: str  # sha256 of the adapter of the run left alone
    found: str

    @property
    def same(self) -> bool:
        """Whether the killed run gave the same weights."""
        return self.expected == self.found


def make_job(folder: Path, mode: str) -> TrainJob:
    """A job with dropout, evaluation, pruning, and a checkpoint after every step."""
    processes, stage = MODES[mode]
    model = folder / "model"
    if not model.is_dir():
        write_tiny(model, "llama")
    return tiny_job(
        folder / f"{mode}-alone",
        model,
        rows=tiny_rows(model, 23),
        validation=tiny_rows(model, 5, seed=7),
        processes=processes,
        lora_dropout=0.1,
        max_steps=STEPS,
        eval_steps=5,
        save_steps=1,
        save_total_limit=2,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        apply_deepspeed=bool(stage),
        deepspeed_stage=stage or "2",
    )


def start(job: TrainJob) -> subprocess.Popen[bytes]:
    """A process, or torchrun with several, that trains `job` from where it stands."""
    job.run.mkdir(parents=True, exist_ok=True)
    job.save(job.run / "job.json")
    worker = [str(ENGINE / "worker.py"), str(job.run / "job.json"), str(job.run / "seen.json")]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    launcher = [*torchrun, str(job.processes)] if job.processes > 1 else []
    with (job.run / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, *worker],
            env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
            stdout=log,
            stderr=log,
        )


def finish(job: TrainJob) -> float:
    """Train `job` to its end undisturbed; returns the seconds until its first checkpoint."""
    began = time.monotonic()
    process = start(job)
    while not newest(job) and process.poll() is None:
        wait(process)
    seconds = time.monotonic() - began
    if process.wait(timeout=600) != 0:
        raise RuntimeError(f"the run failed:\n{(job.run / 'log.txt').read_text()[-3000:]}")
    return seconds


def wait(process: subprocess.Popen[bytes]) -> None:
    """Until `process` ends, or until the next look at its folder."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(POLL)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL `process` and everything it started, none of which can react."""
    tree = psutil.Process(process.pid)
    tree.send_signal(signal.SIGSTOP)  # it starts no new ones while the others are counted
    below = tree.children(recursive=True)
    for each in (*below, tree):
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(below, timeout=30)


def is_due(
    moment: str, job: TrainJob, start_up: float, choose: random.Random
) -> Callable[[], bool]:
    """Whether the moment to kill has come; asked again and again while the process runs."""
    began = time.monotonic()
    checkpoints = job.run / "checkpoints"
    before = newest(job)
    delay = choose.uniform(0, 0.05) if moment == "step" else choose.uniform(0, 0.012)
    goal = before + choose.randint(1, STEPS // KILLS_A_RUN)
    at_start = choose.uniform(0.02, 1.1) * start_up
    reached: float | None = None

    def due() -> bool:
        nonlocal reached
        now = time.monotonic()
        if moment == "start" or before >= STEPS:  # a run that is all but done only starts
            return now - began >= at_start
        if reached is None:
            saving = any(checkpoints.glob(f".tmp-step-{goal:08d}"))
            there = {
                "step": newest(job) >= min(goal, STEPS),
                "save": saving or newest(job) > goal,
                "end": newest(job) >= STEPS,
            }
            reached = now if there[moment] else None
        return reached is not None and now - reached >= delay

    return due


def newest(job: TrainJob) -> int:
    """The step of the newest checkpoint folder; 0 without any."""
    found = (job.run / "checkpoints").glob("step-*")
    return max((int(folder.name.removeprefix("step-")) for folder in found), default=0)


def run_with_kills(job: TrainJob, kills: int, start_up: float, choose: random.Random) -> list[Kill]:
    """Train `job` to its end, killed up to `kills` times on the way."""
    done: list[Kill] = []
    order: list[str] = []
    while len(done) < kills:
        order = order or [*choose.sample(MOMENTS[:3], 3), "end"]
        moment = order.pop(0)
        process = start(job)
        began = time.monotonic()
        due = is_due(moment, job, start_up, choose)
        while process.poll() is None and not due():
            wait(process)
        if process.poll() is not None:
            if process.returncode != 0:
                raise RuntimeError(f"failed:\n{(job.run / 'log.txt').read_text()[-3000:]}")
            return done
        kill_all(process)
        done.append(Kill(moment, time.monotonic() - began, f"step {newest(job)}"))
    finish(job)
    return done


def prove(mode: str, kills: int, seed: int, folder: Path) -> list[Outcome]:
    """Runs of `mode` killed `kills` times in all, each compared with the one left alone."""
    choose = random.Random(f"{seed}-{mode}")  # noqa: S311 - moments to kill at, no secret
    alone = make_job(folder, mode)
    start_up = finish(alone)
    expected = adapter_hash(alone)
    outcomes: list[Outcome] = []
    left = kills
    while left > 0:
        job = replace(alone, run=folder / f"{mode}-{len(outcomes) + 1}")
        delivered = run_with_kills(job, min(left, KILLS_A_RUN), start_up, choose)
        outcomes.append(Outcome(mode, tuple(delivered), expected, adapter_hash(job)))
        left -= max(len(delivered), 1)
    return outcomes


def adapter_hash(job: TrainJob) -> str:
    """sha256 of what a finished run trained."""
    return sha256_file(job.run / "adapter" / "adapter_model.safetensors")


def table(outcomes: list[Outcome]) -> str:
    """The outcomes, one line each, with every kill."""
    lines = [f"{'mode':8}{'run':>4}{'kills':>6}  {'adapter sha256':16}  result"]
    for number, outcome in enumerate(outcomes, 1):
        verdict = "identical" if outcome.same else f"DIFFERS from {outcome.expected[:16]}"
        count = len(outcome.kills)
        lines.append(f"{outcome.mode:8}{number:4}{count:6}  {outcome.found[:16]:16}  {verdict}")
        for kill in outcome.kills:
            lines.append(f"{'':20}{kill.moment:6}{kill.seconds:7.2f} s  {kill.newest}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 when any run gave other weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="kills in each mode")
    parser.add_argument("--modes", default=DEFAULT_MODES, help=f"of {','.join(MODES)}")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="finery-kill-") as folder:
        for mode in given.modes.split(","):
            outcomes += prove(mode, given.kills, given.seed, Path(folder))
    print(table(outcomes))
    kills = sum(len(outcome.kills) for outcome in outcomes)
    different = sum(not outcome.same for outcome in outcomes)
    print(f"{kills} kills, {len(outcomes)} runs, {different} with other weights")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
