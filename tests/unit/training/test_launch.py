"""Starting training: in this process or several, one run a folder, errors as the workers say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finery.errors import FineryError, SelfTestError
from finery.files import read_json, write_json
from finery.planning import machine
from finery.recipe.inputs import Recipe
from finery.training import launch, loop
from finery.training.events import read_metrics
from finery.training.job import TrainJob, load_job
from finery.training.launch import USAGE, only_run_in, processes_of, run_training
from finery.training.out_of_memory import ATTEMPT, halved, history

Event = dict[str, Any]


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    recipe = Recipe(model="m", per_device_train_batch_size=8)
    return TrainJob(
        recipe=recipe,
        model_folder=tmp_path / "model",
        model_source="m",
        model_sha256="1",
        train_rows=tmp_path / "rows",
        validation_rows=None,
        train_sha256="2",
        pad_id=0,
        end_of_turn_id=1,
        max_seq_length=64,
        device="cpu",
        processes=1,
        accumulation=2,
        run=tmp_path,
    )


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def with_recipe(job: TrainJob, processes: int = 1, **changes: Any) -> TrainJob:
    import dataclasses

    recipe = dataclasses.replace(job.recipe, **changes)
    return dataclasses.replace(job, recipe=recipe, processes=processes)


@pytest.mark.parametrize(
    ("micro", "smaller", "steps"), [(8, 4, 4), (2, 1, 4), (5, 1, 10), (9, 3, 6)]
)
def test_a_halved_micro_batch_keeps_the_rows_of_a_step(
    job: TrainJob, micro: int, smaller: int, steps: int
) -> None:
    less = halved(with_recipe(job, per_device_train_batch_size=micro))
    assert (less.micro_batch, less.accumulation) == (smaller, steps)
    assert less.fingerprint == with_recipe(job, per_device_train_batch_size=micro).fingerprint
    assert smaller * steps == micro * job.accumulation


def out_of_memory_above(limit: int) -> Callable[..., None]:
    def train(job: TrainJob, report: Callable[[Event], None]) -> None:
        if job.micro_batch > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        report({"event": "log", "step": 1, "loss": 1.0})

    return train


def test_out_of_memory_halves_the_micro_batch_and_says_so(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train", out_of_memory_above(2))
    seen: list[Event] = []
    run_training(job, seen.append)
    assert [event["text"] for event in seen if event["event"] == "note"] == [
        f"out of memory (CUDA out of memory): micro-batch {sizes}, the global batch stays; "
        "going on after step 0"
        for sizes in ("8 -> 4", "4 -> 2")
    ]
    assert [event["to"] for event in seen if event["event"] == "out_of_memory"] == [4, 2]
    assert seen[-1] == {"event": "end", "ok": True}
    assert [row["step"] for row in read_metrics(job.run)] == [1]


def test_out_of_memory_without_a_way_out_says_what_to_lower(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train", out_of_memory_above(0))
    seen: list[Event] = []
    with pytest.raises(FineryError, match=r"ran out of memory.*gradient_checkpointing"):
        run_training(job, seen.append)
    assert len([event for event in seen if event["event"] == "out_of_memory"]) == 3
    assert seen[-1] == {"event": "end", "ok": False}


def test_a_training_that_fails_is_ended_as_failed(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any) -> None:
        raise SelfTestError("a leak")

    monkeypatch.setattr(loop, "train", train)
    seen: list[Event] = []
    with pytest.raises(SelfTestError):
        run_training(job, seen.append)
    assert seen == [{"event": "end", "ok": False}]


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with (
        only_run_in(folder),
        pytest.raises(FineryError, match="Another run is at work"),
        only_run_in(folder),
    ):
        pass
    with only_run_in(folder) as lock:
        assert os.fstat(lock).st_size == 0


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """`workers(code)`: in place of torchrun, `code` runs; returns the commands asked for."""
    real = subprocess.Popen

    def use(code: str) -> list[list[str]]:
        asked: list[list[str]] = []

        def start(command: list[str], **options: Any) -> Any:
            asked.append(command)
            return real([sys.executable, "-c", code], **options)

        monkeypatch.setattr(launch.subprocess, "Popen", start)
        return asked

    return use


def saying(*events: Event, status: int = 0) -> str:
    lines = [f"print('finery-event ' + {json.dumps(json.dumps(event))})" for event in events]
    return "\n".join(["print('chatter')", *lines, f"raise SystemExit({status})"])


def test_workers_are_started_through_torchrun_and_their_events_passed_on(
    job: TrainJob, workers: Callable[[str], list[list[str]]]
) -> None:
    several = with_recipe(job, processes=2)
    asked = workers(saying({"event": "log", "step": 1}))
    seen: list[Event] = []
    with only_run_in(job.run) as lock:
        run_training(several, seen.append, lock)
    assert seen == [{"event": "log", "step": 1}]
    (command,) = asked
    assert command[1:3] == ["-m", "torch.distributed.run"]
    assert command[command.index("--nproc-per-node") + 1] == "2"
    assert load_job(Path(command[-1])) == several


@pytest.mark.parametrize(
    ("status", "kind"), [(3, SelfTestError), (2, FineryError), (1, FineryError)]
)
def test_a_workers_own_words_and_exit_status_are_those_of_its_error(
    job: TrainJob,
    workers: Callable[[str], list[list[str]]],
    status: int,
    kind: type[FineryError],
) -> None:
    event = {"event": "error", "status": status, "message": "Rows leak."}
    workers(saying(event, status=status))
    with pytest.raises(kind, match=r"^Rows leak\.$") as raised:
        run_training(with_recipe(job, processes=2), lambda event: None)
    assert raised.value.exit_status == status


def test_a_worker_that_dies_without_a_word_shows_the_end_of_its_log(
    job: TrainJob, workers: Callable[[str], list[list[str]]]
) -> None:
    workers("import sys; print('bus error', file=sys.stderr); sys.exit(7)")
    with pytest.raises(FineryError, match=r"(?s)ended with status 7.*bus error"):
        run_training(with_recipe(job, processes=2), lambda event: None)


def test_one_process_with_deepspeed_is_this_one_and_knows_its_group(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, workers: Callable[[str], list[list[str]]]
) -> None:
    told: list[dict[str, str]] = []
    monkeypatch.setattr(loop, "train", lambda *_: told.append(dict(os.environ)))
    monkeypatch.setitem(sys.modules, "deepspeed.comm.comm", SimpleNamespace(cdb=None))
    monkeypatch.setenv("RANK", "5")
    asked = workers("")
    run_training(with_recipe(job, apply_deepspeed=True), lambda event: None)
    assert not asked
    assert (told[0]["RANK"], told[0]["WORLD_SIZE"], told[0]["MASTER_ADDR"]) == (
        "0",
        "1",
        "127.0.0.1",
    )
    assert os.environ["RANK"] == "5"
    assert "MASTER_PORT" not in os.environ


def test_a_second_run_with_deepspeed_gets_a_process_of_its_own(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, workers: Callable[[str], list[list[str]]]
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed.comm.comm", SimpleNamespace(cdb=object()))
    asked = workers(saying({"event": "log", "step": 1}))
    run_training(with_recipe(job, apply_deepspeed=True), lambda event: None)
    assert len(asked) == 1


def test_the_end_of_the_log_is_the_training_and_not_the_epilogue_of_torchrun(
    job: TrainJob, workers: Callable[[str], list[list[str]]]
) -> None:
    log = job.run / "logs" / "training.log"
    log.parent.mkdir(parents=True)
    log.write_text("an earlier start\n")
    epilogue = "E1120 torch/distributed/elastic/multiprocessing/api.py:1002] failed"
    workers(f"import sys; sys.stderr.write('bus error\\n{epilogue}\\n' + 'x\\n' * 20); sys.exit(7)")
    with pytest.raises(FineryError, match=r"training\.log:\nbus error$"):
        run_training(with_recipe(job, processes=2), lambda event: None)


def test_workers_are_stopped_when_the_watcher_fails(
    job: TrainJob, workers: Callable[[str], list[list[str]]]
) -> None:
    code = 'import time\nprint(\'finery-event {"event": "log"}\', flush=True)\ntime.sleep(60)'
    workers(code)

    def fail(event: Event) -> None:
        raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError, match="the terminal is gone"):
        run_training(with_recipe(job, processes=2), fail)


SAYS_OUT_OF_MEMORY_ABOVE_2 = """
import json, os, sys
from pathlib import Path
job = json.loads((Path.cwd() / "job.json").read_text())
rows = job["rows_at_once"] or job["recipe"]["per_device_train_batch_size"]
if rows > 2:
    {dies}
print("finery-event " + json.dumps({{"event": "log", "step": rows}}))
"""


@pytest.mark.parametrize(
    ("dies", "why"),
    [
        (
            'print(\'finery-event {"event": "error", "status": 1, "out_of_memory": "no room"}\');'
            " sys.exit(1)",
            "no room",
        ),
        ('Path("kills").write_text(str(rows)); os.kill(os.getpid(), 9)', "the kernel killed"),
    ],
)
def test_processes_that_ran_out_of_memory_are_started_again_with_less(
    job: TrainJob,
    workers: Callable[[str], list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    dies: str,
    why: str,
) -> None:
    kills = job.run / "kills"
    monkeypatch.setattr(
        machine, "oom_kills", lambda: 9 - int(kills.read_text()) if kills.is_file() else 0
    )
    monkeypatch.chdir(job.run)
    asked = workers(SAYS_OUT_OF_MEMORY_ABOVE_2.format(dies=dies))
    seen: list[Event] = []
    run_training(with_recipe(job, processes=2), seen.append)
    halvings = [event for event in seen if event["event"] == "out_of_memory"]
    assert [event["to"] for event in halvings] == [4, 2]
    assert all(why in event["why"] for event in halvings)
    assert seen[-1] == {"event": "log", "step": 2}
    assert len(asked) == 3
    last = load_job(job.run / "job.json")
    assert (last.micro_batch, last.accumulation) == (2, 8)


def test_training_processes_wait_without_spinning_unless_told_otherwise(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command, environment = processes_of(job, "probe", Path("spec.json"))
    assert command[1:] == ["-m", "finery.training.launch", "probe", "spec.json"]
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert processes_of(job, "train", Path("x"))[1]["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_later_start_keeps_the_micro_batch_that_memory_asked_for(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train", out_of_memory_above(4))
    run_training(job, lambda event: None)
    sizes: list[int] = []
    monkeypatch.setattr(loop, "train", lambda job, report: sizes.append(job.micro_batch))
    run_training(job, lambda event: None)
    assert sizes == [4]
    assert [event["to"] for event in history(job.run)] == [4]


@pytest.mark.parametrize(("grown", "rebooted", "killed"), [(1, 0, 1), (0, 0, 0), (1, 1, 0)])
def test_a_kill_is_for_memory_where_the_kernel_counted_one_since(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, grown: int, rebooted: int, killed: int
) -> None:
    write_json(job.run / ATTEMPT, {"oom_kills": 3, "boot": "one"})
    monkeypatch.setattr(machine, "oom_kills", lambda: 3 + grown)
    monkeypatch.setattr(machine, "boot_id", lambda: "two" if rebooted else "one")
    sizes: list[int] = []
    monkeypatch.setattr(loop, "train", lambda job, report: sizes.append(job.micro_batch))
    run_training(job, lambda event: None)
    assert sizes == [4 if killed else 8]
    assert not (job.run / ATTEMPT).exists()


def test_the_most_memory_that_training_held_is_kept_over_its_starts(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train", lambda *_: None)
    for held, most in ((700, 700), (300, 700)):
        monkeypatch.setattr(machine, "used_bytes", lambda device, held=held: held)
        run_training(job, lambda event: None)
        assert read_json(job.run / USAGE) == {"peak_bytes": most}
