"""Share of the ceiling and peak memory: beside the training, never in its way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from finery.chat.rows import make_rows, save_rows
from finery.files import read_json, write_json
from finery.model.lora import Lora, attach_lora
from finery.planning.ceiling import WorkShape, useful_flops, work_shape
from finery.recipe.inputs import Recipe
from finery.training import gauge
from finery.training.events import metrics_of
from finery.training.gauge import Gauge, machine_ceiling, make_gauge
from finery.training.job import TrainJob
from finery.training.loop import step_plan

ROWS = make_rows(([1] * n, [False] + [True] * (n - 1), n) for n in range(2, 10))
SHAPE = WorkShape(1000, 10, layers=2, attention_width=8, hidden=8, vocabulary=50)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainJob:
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "home"))
    save_rows(ROWS, tmp_path)
    return TrainJob(
        recipe=Recipe(per_device_train_batch_size=2, precision="32"),
        model_folder=tmp_path / "model",
        model_source="model",
        model_sha256="m",
        train_rows=tmp_path,
        validation_rows=None,
        train_sha256="d",
        pad_id=0,
        end_of_turn_id=2,
        max_seq_length=64,
        device="cpu",
        processes=1,
        accumulation=1,
        run=tmp_path / "run",
    )


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the next probes of the machine find, FLOP/s."""
    coming: list[float] = []
    monkeypatch.setattr(gauge, "gemm_ceiling", lambda *_, **__: coming.pop(0))
    return coming


class Small(nn.Module):
    """Just enough of a model to be counted."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 16, bias=False), nn.Linear(8, 50, bias=False)
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}
        made = SimpleNamespace(**sizes, vocab_size=50, **config)
        made.get_text_config = lambda: made
        self.config = made

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_the_share_is_the_work_of_the_lines_own_steps_by_time_and_ceiling(job: TrainJob) -> None:
    plan = step_plan(job)
    found = Gauge("cpu", SHAPE, ceiling=1e6).read(plan, ROWS.lengths, range(1, 3), 0.5)
    work = 0.0
    for step in (1, 2):
        lengths = [int(ROWS.lengths[row]) for g in plan.micro_batches(step) for row in g]
        work += useful_flops(SHAPE, sum(lengths), lengths, sum(lengths) - len(lengths))
    assert found["share_of_ceiling"] == pytest.approx(work / 0.5 / 1e6)


def test_peak_memory_counts_what_was_held_and_given_back(job: TrainJob) -> None:
    def peak() -> float:
        return Gauge("cpu", None, None).read(step_plan(job), ROWS.lengths, (), 1)["memory_bytes"]

    before = int(peak())
    held = bytearray(before + 64 * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    del held
    assert peak() >= before + 64 * 1024 * 1024


def test_an_adapter_adds_its_own_weights_and_counts_the_base_once() -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    causal = LlamaForCausalLM(config)
    linear = 4 * 8 * 8 + 3 * 8 * 16
    assert work_shape(causal, config).trained == linear
    tuned = attach_lora(causal, Lora(2, 4, 0.0, "auto", rslora=False, dora=False))
    shape = work_shape(tuned, config)
    adapter = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    assert (shape.frozen, shape.trained, shape.head_trained) == (linear, adapter, False)


def test_a_machine_is_probed_once_and_the_same_for_all_that_follow(
    job: TrainJob, probes: list[float]
) -> None:
    probes += [4e9]
    assert [machine_ceiling("cpu", "32"), machine_ceiling("cpu", "32")] == [4e9, 4e9]
    probes += [9e9]
    assert machine_ceiling("cpu", "bf16") == 9e9, "each precision has a ceiling of its own"


@pytest.mark.parametrize(("again", "kept"), [(2e9, 4e9), (5e9, 5e9)])
def test_after_a_day_it_is_probed_again_and_the_highest_counts(
    job: TrainJob, probes: list[float], tmp_path: Path, again: float, kept: float
) -> None:
    probes += [4e9, again]
    machine_ceiling("cpu", "32")
    path = tmp_path / "home" / "ceilings.json"
    old = {name: {**one, "at": one["at"] - 100_000} for name, one in read_json(path).items()}
    write_json(path, old)
    assert machine_ceiling("cpu", "32") == kept


def test_the_probe_leaves_the_random_numbers_of_the_training_alone(job: TrainJob) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert machine_ceiling("cpu", "32") > 1e6
    assert torch.equal(torch.rand(3), expected)


def test_several_processes_have_the_ceilings_of_all(job: TrainJob, probes: list[float]) -> None:
    probes += [4e9]
    assert make_gauge(replace(job, processes=2), Small(), print).ceiling == 8e9


@pytest.mark.parametrize(
    ("model", "recipe", "reason"),
    [
        (Small(num_local_experts=8), {}, "experts"),
        (Small(), {"quantization": "nf4"}, "another form"),
        (nn.Linear(2, 2), {}, "config"),
    ],
)
def test_work_that_cannot_be_counted_is_said_once_and_the_share_is_absent(
    job: TrainJob, probes: list[float], model: Any, recipe: dict[str, Any], reason: str
) -> None:
    probes += [4e9]
    said: list[Any] = []
    made = make_gauge(replace(job, recipe=replace(job.recipe, **recipe)), model, said.append)
    assert [event["event"] for event in said] == ["note"]
    assert reason in said[0]["text"]
    found = made.read(step_plan(job), ROWS.lengths, range(2), 1.0)
    assert set(found) == {"memory_bytes"}


def test_a_ceiling_that_cannot_be_measured_or_kept_stops_nothing(
    job: TrainJob, probes: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    probes += [4e9]
    said: list[Any] = []
    assert make_gauge(job, Small(), said.append).ceiling is None

    def refuse(*_: Any, **__: Any) -> float:
        raise RuntimeError("no bf16 here")

    monkeypatch.setattr(gauge, "gemm_ceiling", refuse)
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "other"))
    assert make_gauge(job, Small(), said.append).ceiling is None
    assert len(said) == 2
    assert "no bf16 here" in said[1]["text"]


def test_both_figures_go_to_mlflow_under_their_names() -> None:
    event = {"event": "log", "step": 1, "loss": 1.0, "memory_bytes": 5, "share_of_ceiling": 0.4}
    assert metrics_of(event) == {"loss": 1.0, "memory_bytes": 5.0, "share_of_ceiling": 0.4}
