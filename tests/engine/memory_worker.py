"""A training that runs out of memory in its third step: python memory_worker.py JOB.json HOW.

HOW is `limited` (an allocation beyond RLIMIT_AS), `killed` (SIGKILL, counted as the kernel counts
its kills for memory) or `stopped` (SIGKILL that nobody counted: a person's).
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from finery.planning import machine


def main(path: Path, how: str) -> None:
    """Train under a watcher; only a micro-batch of more than one row is too much."""
    counter = path.with_name("kills")
    machine.oom_kills = lambda: len(counter.read_text()) if counter.is_file() else 0
    if how != "limited":
        import typer

        from finery.cli.watching import watch

        try:
            watch(path.parent)
        except typer.Exit as ended:
            sys.exit(ended.exit_code)

    import torch

    from finery.training import loop
    from finery.training.job import load_job
    from finery.training.launch import run_training

    job, steps = load_job(path), [0]
    plain = loop.accumulate

    def accumulate(model: Any, batches: Any, *rest: Any, **more: Any) -> Any:
        batches = list(batches)
        steps[0] += 1
        if steps[0] == 3 and len(batches[0][0].lengths) > 1:
            if how == "limited":
                _allocate_too_much(torch)
            if how == "killed":
                counter.write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(model, batches, *rest, **more)

    loop.accumulate = accumulate
    run_training(job, lambda event: print(event, flush=True))


def _allocate_too_much(torch: Any) -> None:
    """Ask for 4 GiB where the process may have 256 MiB more than it has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20), hard))
    try:
        torch.zeros(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
