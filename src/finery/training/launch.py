"""Start the training processes of a job: a single one here, several through torchrun.

`torchrun` (torch.distributed.run) sets ranks and addresses and ends all processes when one
fails. Each worker is `python -m finery.training.launch JOB.json`; the first one sends its
events as JSON lines on standard output, everything else goes to logs/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finery.errors import FineryError, SelfTestError
from finery.training.events import Event, Report, everyone, metrics_writer, mlflow_writer
from finery.training.job import TrainJob, load_job

LOCK = ".lock"  # in a run folder
_MARK = "finery-event "


def run_training(job: TrainJob, report: Report, lock: int | None = None) -> None:
    """Train to the end, in as many processes as the job has.

    Raises the error of the training itself, or FineryError with the end of the log when a
    process died without saying why. `lock` is the run folder's, from `only_run_in`.
    """
    if job.processes == 1 and not job.recipe.apply_deepspeed:
        _train_here(job, report)
    elif job.processes == 1 and _no_deepspeed_yet():
        with group_of_one():
            _train_here(job, report)
    else:
        _train_in_processes(job, report, () if lock is None else (lock,))


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[int]:
    """Hold the run folder; yields the lock's file descriptor, which worker launchers inherit.

    Raises FineryError while another run, or workers that outlived theirs, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FineryError(
                f"Another run is at work in {folder}. Wait for it, stop it, or choose another "
                "output_dir."
            ) from None
        yield handle
    finally:
        os.close(handle)


def _no_deepspeed_yet() -> bool:
    """DeepSpeed keeps the groups of its first run, and they end with it: one run a process."""
    comm: Any = sys.modules.get("deepspeed.comm.comm")
    return comm is None or comm.cdb is None


@contextlib.contextmanager
def group_of_one() -> Iterator[None]:
    """What a launcher tells its only process, for DeepSpeed, which would else look for MPI.

    So one process needs no launcher, whose own import of torch takes seconds.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _train_here(job: TrainJob, report: Report) -> None:
    """In this process; out of memory halves the micro-batch when the recipe allows."""
    import torch

    from finery.training.loop import train

    reports = everyone([metrics_writer(job.run), mlflow_writer(job, report), report])
    while True:
        try:
            train(job, reports)
        except torch.OutOfMemoryError:
            micro = job.recipe.per_device_train_batch_size
            if not job.recipe.auto_find_batch_size or micro == 1:
                raise FineryError(
                    f"The device ran out of memory with per_device_train_batch_size {micro}. "
                    "Lower it (auto_find_batch_size does so by itself), set "
                    "gradient_checkpointing: true, or lower max_seq_length."
                ) from None
            job = halved(job)
            torch.cuda.empty_cache()
            smaller = job.recipe.per_device_train_batch_size
            report({"event": "note", "text": f"out of memory: micro-batch {micro} -> {smaller}"})
        except BaseException:
            reports({"event": "end", "ok": False})
            raise
        else:
            reports({"event": "end", "ok": True})
            return


def halved(job: TrainJob) -> TrainJob:
    """The same job with half the micro-batch and the same rows in every step."""
    micro = job.recipe.per_device_train_batch_size
    smaller = micro // 2 if micro % 2 == 0 else 1
    recipe = dataclasses.replace(job.recipe, per_device_train_batch_size=smaller)
    return dataclasses.replace(
        job, recipe=recipe, accumulation=job.accumulation * (micro // smaller)
    )


def _train_in_processes(job: TrainJob, report: Report, inherit: tuple[int, ...]) -> None:
    path = job.run / "job.json"
    job.save(path)
    log = job.run / "logs" / "training.log"
    log.parent.mkdir(exist_ok=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", str(job.processes), "-m", "finery.training.launch", str(path)]
    threads = max(1, (os.cpu_count() or 1) // job.processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with log.open("ab") as errors:
        begin = errors.tell()
        worker = subprocess.Popen(
            torchrun,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            pass_fds=inherit,
        )
        error = _follow(worker, report)
    if error:
        kind = SelfTestError if error["status"] == SelfTestError.exit_status else FineryError
        raised = kind(error["message"])
        raised.exit_status = error["status"]
        raise raised
    if worker.returncode:
        raise FineryError(
            f"A training process ended with status {worker.returncode} and did not say why. The "
            f"end of {log}:\n{_last_words(log.read_bytes()[begin:].decode(errors='replace'))}"
        )


def _last_words(log: str) -> str:
    """The last lines of the training processes; what torchrun adds about itself comes after."""
    lines = log.splitlines()
    elastic = (n for n, line in enumerate(lines) if "torch/distributed/elastic" in line)
    return "\n".join(lines[: next(elastic, None)][-15:] or lines[-15:])


def _follow(worker: subprocess.Popen[str], report: Report) -> Event | None:
    """Pass the workers' events on until they end; returns their error event, if any."""
    error = None
    try:
        for line in worker.stdout or ():
            if line.startswith(_MARK):
                event = json.loads(line.removeprefix(_MARK))
                if event["event"] == "error":
                    error = error or event
                else:
                    report(event)
        worker.wait()
    finally:
        if worker.poll() is None:
            worker.terminate()
            worker.wait()
        if worker.stdout:
            worker.stdout.close()
    return error


def _send(event: Event) -> None:
    sys.stdout.write(_MARK + json.dumps(event) + "\n")
    sys.stdout.flush()


def _worker(path: Path) -> int:
    """One training process under torchrun."""
    from finery.training.loop import train

    job = load_job(path)
    first = int(os.environ.get("RANK", "0")) == 0
    reports: Report = lambda event: None  # noqa: E731
    try:
        if first:
            reports = everyone([metrics_writer(job.run), mlflow_writer(job, _send), _send])
        train(job, reports)
    except FineryError as error:
        _send({"event": "error", "status": error.exit_status, "message": str(error)})
        reports({"event": "end", "ok": False})
        return error.exit_status
    reports({"event": "end", "ok": True})
    return 0


if __name__ == "__main__":
    sys.exit(_worker(Path(sys.argv[1])))
