"""The same rows give the same weights, however they are laid out and shared out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Run, largest_difference, tiny_rows

from finery.model.load import load_model
from finery.model.loss import LossModel
from finery.recipe.inputs import Recipe
from finery.training import trainee
from finery.training.devices import share_work
from finery.training.job import TrainJob

MakeJob = Callable[..., TrainJob]
RunJob = Callable[[TrainJob], Run]
RunGroup = Callable[[TrainJob], tuple[Run, list[str]]]
# float32 sums in another order differ by rounding, which a few AdamW steps carry on; a
# wrong mask or divisor moves weights by tenths.
CLOSE = 5e-4
LOSS = 1e-5


def same(first: Run, second: Run, tolerance: float = CLOSE) -> None:
    """Two runs of equal losses and weights, up to rounding."""
    assert len(first.losses) == len(second.losses) > 0
    torch.testing.assert_close(first.losses, second.losses, rtol=0, atol=LOSS)
    difference = largest_difference(first, second)
    assert difference <= tolerance, f"weights differ by {difference:.1e}"


@pytest.fixture(params=["llama", "phi3", "stories"])
def model(request: pytest.FixtureRequest) -> Path:
    names = {"llama": "tiny_llama", "phi3": "tiny_phi3", "stories": "stories"}
    return request.getfixturevalue(names[request.param])


def test_rows_as_documents_train_as_rows_side_by_side(
    model: Path, make_job: MakeJob, run_job: RunJob
) -> None:
    documents = run_job(make_job(model, layout="documents"))
    padded = run_job(make_job(model, layout="padded"))
    widest = run_job(make_job(model, pad_to_max_length=True))
    same(documents, padded)
    same(padded, widest)


@pytest.mark.parametrize("lora", [True, False])
def test_micro_batch_and_accumulation_do_not_change_the_result(
    model: Path, lora: bool, make_job: MakeJob, run_job: RunJob
) -> None:
    rate = 1e-2 if lora else 1e-3
    shared: dict[str, Any] = {"apply_lora": lora, "learning_rate": rate, "max_steps": 4}
    runs = [
        run_job(
            make_job(
                model,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=8 // rows,
                **shared,
            )
        )
        for rows in (8, 1, 2)
    ]
    same(runs[0], runs[1])
    same(runs[0], runs[2])


def test_a_packed_run_trains_as_the_same_rows_unpacked(
    model: Path, make_job: MakeJob, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finery.training import loop

    packed_job = make_job(model, packing=True, per_device_train_batch_size=1)
    plan = loop.step_plan(packed_job)
    assert max(len(group) for group in plan.groups) > 2
    packed = run_job(packed_job)

    def one_row_each(job: TrainJob) -> Any:
        """The packed plan's steps, every row of them in a forward pass of its own."""

        class Apart(type(plan)):
            def micro_batches(self, step: int) -> list[tuple[int, ...]]:
                return [(row,) for batch in plan.micro_batches(step) for row in batch]

        return Apart(**vars_of(plan))

    monkeypatch.setattr(loop, "step_plan", one_row_each)
    unpacked = run_job(make_job(model, packing=False, per_device_train_batch_size=1))
    same(packed, unpacked)


def vars_of(plan: Any) -> dict[str, Any]:
    """The fields of a plan."""
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing_changes_memory_only(
    model: Path, lora: bool, make_job: MakeJob, run_job: RunJob
) -> None:
    shared: dict[str, Any] = {"apply_lora": lora, "learning_rate": 1e-3, "max_steps": 4}
    plain = run_job(make_job(model, **shared))
    saving = run_job(make_job(model, gradient_checkpointing=True, **shared))
    same(plain, saving)


def test_gradient_checkpointing_really_runs_blocks_again(
    make_job: MakeJob, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    calls: list[int] = []
    original = LlamaAttention.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LlamaAttention, "forward", counted)
    counts = []
    for saving in (False, True):
        calls.clear()
        run_job(make_job(gradient_checkpointing=saving, self_tests=False, max_steps=2))
        counts.append(len(calls))
    assert counts[1] == 2 * counts[0]


@pytest.mark.parametrize("lora", [True, False])
def test_the_chunked_head_trains_as_the_models_own(
    model: Path, lora: bool, make_job: MakeJob, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = {"apply_lora": lora, "learning_rate": 1e-3, "max_steps": 4}
    fused = run_job(make_job(model, **shared))
    used: list[bool] = []

    def own_head(tuned: Any, causal: Any, fused: bool) -> LossModel:
        used.append(fused)
        return LossModel(tuned, causal, fused=False)

    monkeypatch.setattr(trainee, "LossModel", own_head)
    own = run_job(make_job(model, **shared))
    assert used == [True]
    same(fused, own)


def test_fewer_devices_than_asked_for_keep_the_global_batch_and_the_result(
    make_job: MakeJob, run_job: RunJob
) -> None:
    recipe = Recipe(
        number_of_gpu_to_use_finetuning=4,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=1,
    )
    here = share_work(recipe, "cpu", 1)
    assert (here.processes, here.accumulation) == (1, 8)
    assert "stays 8, with 8 accumulation steps instead of 2" in here.notes[0]
    job = make_job(per_device_train_batch_size=1, gradient_accumulation_steps=2)
    shared_out = replace(job, accumulation=here.accumulation)
    as_asked = make_job(per_device_train_batch_size=8, gradient_accumulation_steps=1)
    same(run_job(shared_out), run_job(as_asked))


def test_the_last_step_of_an_epoch_may_be_smaller_and_every_row_counts_once(
    make_job: MakeJob, run_job: RunJob, tiny_llama: Path
) -> None:
    rows = tiny_rows(tiny_llama, 11)
    shared: dict[str, Any] = {"rows": rows, "max_steps": -1, "num_train_epochs": 2}
    one = run_job(make_job(per_device_train_batch_size=1, gradient_accumulation_steps=4, **shared))
    four = run_job(make_job(per_device_train_batch_size=4, gradient_accumulation_steps=1, **shared))
    assert len(one.losses) == 6
    same(one, four)


def test_a_run_repeats_bit_for_bit(make_job: MakeJob, run_job: RunJob) -> None:
    first, again = (run_job(make_job(lora_dropout=0.1)) for _ in range(2))
    other = run_job(make_job(lora_dropout=0.1, seed=43))
    assert largest_difference(first, again) == 0.0
    assert first.losses == again.losses
    assert largest_difference(first, other) > 0.0


MODES = [
    pytest.param({}, "DistributedDataParallel:0", id="ddp"),
    pytest.param(
        {"apply_deepspeed": True, "deepspeed_stage": "2"}, "DeepSpeedEngine:2", id="zero2"
    ),
    pytest.param(
        {"apply_deepspeed": True, "deepspeed_stage": "3"}, "DeepSpeedEngine:3", id="zero3"
    ),
]


@pytest.mark.parametrize(("settings", "wrapper"), MODES)
@pytest.mark.parametrize("lora", [True, False])
def test_two_processes_train_as_one(
    settings: dict[str, Any],
    wrapper: str,
    lora: bool,
    make_job: MakeJob,
    run_job: RunJob,
    run_group: RunGroup,
    tiny_llama: Path,
) -> None:
    if settings and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    rows = tiny_rows(tiny_llama, 22)  # the last step of an epoch has 3 rows for 2 processes
    held_out = tiny_rows(tiny_llama, 5, seed=9)
    shared: dict[str, Any] = {
        "rows": rows,
        "validation": held_out,
        "apply_lora": lora,
        "learning_rate": 1e-2 if lora else 1e-3,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 4,
        "max_steps": 8,
    }
    alone = run_job(make_job(**shared))
    together, wrappers = run_group(make_job(processes=2, **shared, **settings))
    assert wrappers == [wrapper]
    same(alone, together)
    evaluated = [[event["eval_loss"] for event in run.of("eval")] for run in (alone, together)]
    torch.testing.assert_close(evaluated[0], evaluated[1], rtol=0, atol=LOSS)


def test_the_attention_of_a_loaded_model_is_ours(tiny_llama: Path) -> None:
    model = load_model(tiny_llama, precision="32", device="cpu")
    assert trainee.isolates_documents(model)
