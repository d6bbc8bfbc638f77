"""Start the training processes of a job: a single one here, several through torchrun.

`torchrun` (torch.distributed.run) sets ranks and addresses and ends all processes when one
fails. Each worker is `python -m finery.training.launch train JOB.json`; the first one sends its
events as JSON lines on standard output, everything else goes to logs/.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finery.errors import FineryError, SelfTestError, first_line
from finery.files import read_json, write_json
from finery.planning import machine
from finery.training.devices import QUIET_THREADS
from finery.training.events import Event, Report, everyone, metrics_writer, mlflow_writer
from finery.training.job import TrainJob, load_job
from finery.training.lean import lean_process
from finery.training.out_of_memory import (
    KILLED,
    attempt,
    going_on,
    is_out_of_memory,
    with_less,
)
from finery.training.proofs import proved_before, remembering

LOCK = ".lock"  # in a run folder
USAGE = "usage.json"  # in a run folder: the most memory that a training process held
_MARK = "finery-event "


def run_training(job: TrainJob, report: Report, lock: int | None = None) -> None:
    """Train to the end, in as many processes as the job has.

    Raises the error of the training itself, or FineryError with the end of the log when a
    process died without saying why. `lock` is the run folder's, from `only_run_in`.
    """
    job = proved_before(going_on(job, report), report)
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
    """In this process; out of memory halves the micro-batch and goes on."""
    reports = everyone(
        [metrics_writer(job.run), mlflow_writer(job, report), remembering(job), report]
    )
    while True:
        why = ""
        try:
            with attempt(job.run):
                train_and_measure(job, reports)
        except BaseException as error:
            if not isinstance(error, Exception) or not is_out_of_memory(error):
                reports({"event": "end", "ok": False})
                raise
            why = first_line(error) or type(error).__name__
        else:
            reports({"event": "end", "ok": True})
            return
        # here the exception is gone, and with it what its frames held
        job = _with_less(job, why, reports)


def _with_less(job: TrainJob, why: str, reports: Report) -> TrainJob:
    import gc

    import torch

    gc.collect()
    if job.device != "cpu":
        torch.cuda.empty_cache()
    try:
        return with_less(job, why, reports)
    except FineryError:
        reports({"event": "end", "ok": False})
        raise


def train_and_measure(job: TrainJob, reports: Report) -> None:
    """Train, and leave the peak memory of this process in the run, for the report."""
    from finery.training import loop

    machine.start_counting(job.device)
    try:
        loop.train(job, reports)
    finally:
        if is_first():
            path = job.run / USAGE
            known = read_json(path)["peak_bytes"] if path.is_file() else 0
            write_json(path, {"peak_bytes": max(known, machine.used_bytes(job.device))})


def is_first() -> bool:
    """Whether this is the process of the group that reports."""
    return int(os.environ.get("RANK", "0")) == 0


def processes_of(job: TrainJob, what: str, path: Path) -> tuple[list[str], dict[str, str]]:
    """The command and environment that `train` or `probe` in all processes of a job."""
    python, run = [sys.executable], ["-m", "finery.training.launch", what, str(path)]
    if job.processes > 1 or job.recipe.apply_deepspeed:
        python += ["-m", "torch.distributed.run", "--standalone"]
        python += ["--nproc-per-node", str(job.processes)]
    threads = max(1, (os.cpu_count() or 1) // job.processes)
    defaults = {"OMP_NUM_THREADS": str(threads)} if job.processes > 1 else {}
    return [*python, *run], {**QUIET_THREADS, **defaults, **os.environ}


def _train_in_processes(job: TrainJob, report: Report, inherit: tuple[int, ...]) -> None:
    """Through torchrun; out of memory halves the micro-batch and starts the processes again."""
    while True:
        path = job.run / "job.json"
        job.save(path)
        log = job.run / "logs" / "training.log"
        log.parent.mkdir(exist_ok=True)
        command, environment = processes_of(job, "train", path)
        kills = machine.oom_kills()
        with attempt(job.run), log.open("ab") as errors:
            begin = errors.tell()
            worker = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                pass_fds=inherit,
            )
            error = _follow(worker, report)
        if error and "out_of_memory" in error:
            job = with_less(job, error["out_of_memory"], report)
        elif worker.returncode and not error and machine.oom_kills() > kills:
            job = with_less(job, KILLED, report)
        else:
            break
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
    job = load_job(path)
    reports: Report = lambda event: None  # noqa: E731
    try:
        if is_first():
            reports = everyone(
                [metrics_writer(job.run), mlflow_writer(job, _send), remembering(job), _send]
            )
        train_and_measure(job, reports)
    except (FineryError, RuntimeError, MemoryError) as error:
        if isinstance(error, FineryError):
            _send({"event": "error", "status": error.exit_status, "message": str(error)})
        elif is_out_of_memory(error):
            _send({"event": "error", "status": 1, "out_of_memory": first_line(error)})
        else:
            raise
        reports({"event": "end", "ok": False})
        return error.exit_status if isinstance(error, FineryError) else 1
    reports({"event": "end", "ok": True})
    return 0


def _main(what: str, path: Path) -> int:
    lean_process()
    if what == "train":
        return _worker(path)
    from finery.training.probe import probe

    return probe(path)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2])))
