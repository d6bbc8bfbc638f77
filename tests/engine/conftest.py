"""Tiny models, jobs and runs for the proofs of the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny import Run, copy_stories, result_of, tiny_job, write_tiny

from finery.training.job import TrainJob
from finery.training.loop import train

MakeJob = Callable[..., TrainJob]
RunJob = Callable[[TrainJob], Run]
RunGroup = Callable[[TrainJob], tuple[Run, list[str]]]


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with grouped-query attention."""
    return write_tiny(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="session")
def tiny_phi3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Phi-3: fused projections, tied embeddings."""
    return write_tiny(tmp_path_factory.mktemp("models") / "phi3", "phi3")


@pytest.fixture(scope="session")
def stories(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's smallest real model, with a chat template."""
    return copy_stories(kit, tmp_path_factory.mktemp("models") / "stories260k")


@pytest.fixture
def make_job(tmp_path: Path, tiny_llama: Path) -> MakeJob:
    """`make_job(model=…, rows=…, **recipe)`: a job in a folder of its own."""
    count = 0

    def make(model: Path | None = None, **settings: Any) -> TrainJob:
        nonlocal count
        count += 1
        return tiny_job(tmp_path / f"run-{count}", model or tiny_llama, **settings)

    return make


@pytest.fixture
def run_job() -> RunJob:
    """`run_job(job)`: train in this process."""

    def run(job: TrainJob) -> Run:
        events: list[dict[str, Any]] = []
        train(job, events.append)
        return result_of(job.run, events)

    return run


@pytest.fixture
def run_group() -> RunGroup:
    """`run_group(job)`: train in `job.processes` processes; also the wrapped model's types."""

    def run(job: TrainJob) -> tuple[Run, list[str]]:
        job.save(job.run / "job.json")
        seen = job.run / "seen.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        worker = [str(Path(__file__).with_name("worker.py")), job.run / "job.json", seen]
        command = [sys.executable, *launcher, str(job.processes), *map(str, worker)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        value = json.loads(seen.read_text())
        return result_of(job.run, value["events"]), value["wrappers"]

    return run
