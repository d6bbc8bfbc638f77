"""Bugs that have shipped in trainers, put back in one by one: the run must refuse to start.

Each mutation is the real mistake at the place where it was made, not a tampered result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from tiny import PLAIN, conversations, tiny_job, tiny_rows, write_tiny
from torch import Tensor

from finery.chat.render import load_renderer
from finery.chat.rows import TokenRows, load_rows, make_rows
from finery.errors import SelfTestError
from finery.model import attention, lora, loss
from finery.model.batch import Batch
from finery.training import loop, trainee
from finery.training.job import TrainJob
from finery.training.selftest import run_self_tests
from finery.training.trainee import Trainee, prepare_trainee

Check = Callable[..., dict[str, Any]]
# As every test that runs the proofs: `prove(job)` raises what a run would.


@pytest.fixture(params=["llama", "phi3"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> TrainJob:
    """A job on a model whose pad token is its end-of-turn token."""
    model = write_tiny(tmp_path / "model", request.param, pad="<|im_end|>")
    return tiny_job(tmp_path / "run", model, lora_r=4)


def prepare(job: TrainJob) -> Trainee:
    return prepare_trainee(job, Accelerator(cpu=True))


def prove(job: TrainJob, rows: TokenRows | None = None, ready: Trainee | None = None) -> None:
    """Run the proofs as a run does before its first step."""
    run_self_tests(ready or prepare(job), rows or load_rows(job.train_rows), job, lambda _: None)


def refuses(job: TrainJob, message: str, **given: Any) -> None:
    """The proofs stop the run, and the message names what is wrong."""
    with pytest.raises(SelfTestError, match=message):
        prove(job, **given)


@pytest.mark.parametrize("layout", ["documents", "padded"])
def test_without_a_mutation_every_proof_holds(job: TrainJob, layout: str) -> None:
    job = replace(job, recipe=replace(job.recipe, layout=layout))
    events: list[dict[str, Any]] = []
    run_self_tests(prepare(job), load_rows(job.train_rows), job, events.append)
    (event,) = events
    assert event["event"] == "self_tests"
    assert len(event["passed"]) == 7


@pytest.mark.parametrize(
    "settings", [{"apply_lora": False}, {"use_dora": True}, {"use_rslora": True}]
)
def test_without_a_mutation_other_kinds_of_training_pass_too(
    job: TrainJob, settings: dict[str, Any]
) -> None:
    prove(replace(job, recipe=replace(job.recipe, **settings)))


@pytest.mark.parametrize("lora_on", [True, False])
def test_the_proofs_leave_weights_gradients_and_random_state_as_they_were(
    job: TrainJob, lora_on: bool
) -> None:
    ready = prepare(replace(job, recipe=replace(job.recipe, apply_lora=lora_on)))
    ready.loss_model.train()
    before = {name: value.clone() for name, value in ready.loss_model.state_dict().items()}
    numbers = torch.get_rng_state()
    prove(job, ready=ready)
    after = ready.loss_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in ready.loss_model.parameters())
    assert torch.equal(numbers, torch.get_rng_state())
    assert ready.loss_model.training


def test_a_run_that_fails_a_proof_trains_nothing(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "share_of_step", averaged_per_micro_batch)
    with pytest.raises(SelfTestError, match="not normalised"):
        loop.train(job, lambda _: None)
    assert not (job.run / "checkpoints").exists()
    assert not (job.run / "adapter").exists()


def averaged_per_micro_batch(loss_sum: Tensor, batch: Batch, loss_tokens: int) -> Tensor:
    return loss_sum / len(batch.targets)


def test_loss_averaged_per_micro_batch(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "share_of_step", averaged_per_micro_batch)
    refuses(job, "not normalised by the step's loss tokens")


def test_loss_averaged_per_micro_batch_and_divided_by_their_number(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mean_of_means(loss_sum: Tensor, batch: Batch, loss_tokens: int) -> Tensor:
        rows = len(batch.lengths or batch.input_ids)
        return loss_sum / len(batch.targets) * rows / 8

    monkeypatch.setattr(loop, "share_of_step", mean_of_means)
    refuses(job, "not normalised by the step's loss tokens")


def test_packed_documents_that_attend_to_each_other(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = attention._per_document

    def causal_over_the_row(query: Tensor, *args: Any) -> Tensor:
        key, value, lengths, *rest = args
        return original(query, key, value, (sum(lengths),), *rest)

    monkeypatch.setattr(attention, "_per_document", causal_over_the_row)
    refuses(job, "Rows of one batch see each other")


def test_packed_documents_whose_positions_are_lost(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trainee.make_batch

    def all_zero(*args: Any, **kwargs: Any) -> Batch:
        batch = original(*args, **kwargs)
        if len(batch.lengths or ()) > 1:
            batch = replace(batch, position_ids=torch.zeros_like(batch.position_ids))
        return batch

    monkeypatch.setattr(trainee, "make_batch", all_zero)
    refuses(job, "positions or masks are wrong")


def test_a_loss_mask_of_zeros(job: TrainJob) -> None:
    rows = load_rows(job.train_rows)
    refuses(job, "mask is empty", rows=replace(rows, trained=np.zeros_like(rows.trained)))


def test_a_loss_mask_of_zeros_in_one_row(job: TrainJob) -> None:
    rows = load_rows(job.train_rows)
    trained = rows.trained.copy()
    trained[rows.offsets[4] : rows.offsets[5]] = False
    refuses(job, r"mask is empty for rows \[5\]", rows=replace(rows, trained=trained))


def test_no_rows_at_all(job: TrainJob) -> None:
    with pytest.raises(SelfTestError, match="there are no rows"):
        run_self_tests(prepare(job), make_rows([]), job, lambda _: None)


def test_padding_masked_by_its_id_when_it_is_the_end_of_turn(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job.pad_id == job.end_of_turn_id
    original = trainee.make_batch

    def without_pad_labels(*args: Any, **kwargs: Any) -> Batch:
        batch = original(*args, **kwargs)
        kept = batch.targets != job.pad_id
        return replace(batch, targets=batch.targets[kept], positions=batch.positions[kept])

    monkeypatch.setattr(trainee, "make_batch", without_pad_labels)
    refuses(job, "padding must be masked by position, not by id")


def test_rows_whose_end_of_turn_was_masked_as_padding(job: TrainJob) -> None:
    rows = load_rows(job.train_rows)
    trained = rows.trained & (rows.ids != job.pad_id)
    refuses(job, "never train the end-of-turn token", rows=replace(rows, trained=trained))


def test_a_begin_token_from_the_template_and_another_from_the_tokenizer(job: TrainJob) -> None:
    begin = 257
    doubled = make_rows(
        (
            np.concatenate([[begin, begin], row_ids(rows, i)]),
            np.concatenate([[False, False], rows.row_trained(i)]),
            i,
        )
        for rows in [load_rows(job.train_rows)]
        for i in range(len(rows))
    )
    refuses(job, "double BOS", rows=doubled)


def row_ids(rows: TokenRows, index: int) -> np.ndarray:
    return rows.row_ids(index)


def test_two_line_breaks_at_the_start_of_every_row_are_no_double_begin_token(
    job: TrainJob,
) -> None:
    rows = load_rows(job.train_rows)
    one = make_rows([(rows.row_ids(i), rows.row_trained(i), i) for i in range(4)])
    prove(job, rows=one)


def test_an_adapter_that_is_not_attached(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainee, "attach_lora", lambda model, settings: model)
    refuses(job, "No adapter is attached")


def test_an_adapter_that_is_frozen(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(model: Any, settings: Any) -> Any:
        tuned = lora.attach_lora(model, settings)
        return tuned.requires_grad_(False)

    monkeypatch.setattr(trainee, "attach_lora", frozen)
    refuses(job, "adapter matrices are frozen")


def test_an_adapter_that_is_half_frozen(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(model: Any, settings: Any) -> Any:
        tuned = lora.attach_lora(model, settings)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name and "down_proj" in name:
                parameter.requires_grad_(False)
        return tuned

    monkeypatch.setattr(trainee, "attach_lora", half)
    refuses(job, "adapter matrices are frozen .*down_proj")


def test_an_adapter_that_is_not_on_the_path_to_the_loss(job: TrainJob) -> None:
    ready = prepare(job)
    layer = next(layer for _, layer in lora.lora_layers(ready.tuned))
    layer._disable_adapters = True  # what a stray `disable_adapter` leaves behind
    refuses(job, "not on the path", ready=ready)


def test_an_adapter_on_a_copy_of_the_model(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    import copy

    monkeypatch.setattr(
        trainee,
        "attach_lora",
        lambda model, settings: lora.attach_lora(copy.deepcopy(model), settings),
    )
    refuses(job, "get no gradient")


def test_base_weights_that_are_trained_beside_the_adapter(job: TrainJob) -> None:
    ready = prepare(job)
    ready.causal.get_input_embeddings().weight.requires_grad_(True)
    refuses(job, "Frozen weights get gradients", ready=ready)


def test_full_fine_tuning_with_every_weight_frozen(job: TrainJob) -> None:
    ready = prepare(replace(job, recipe=replace(job.recipe, apply_lora=False)))
    ready.causal.requires_grad_(False)
    refuses(job, "depends on no trained weight|No adapter", ready=ready)


@pytest.mark.parametrize("scale", [0.5, 2.0, 16.0])
def test_a_merge_with_another_scale(
    job: TrainJob, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = lora.merged_weight

    def other_scale(layer: Any) -> Tensor:
        base = layer.get_base_layer().weight.detach().float()
        return base + scale * (original(layer) - base)

    monkeypatch.setattr(lora, "merged_weight", other_scale)
    refuses(job, "another scale than it is trained with")


def test_a_merge_that_forgets_the_adapter(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        lora, "merged_weight", lambda layer: layer.get_base_layer().weight.detach().float()
    )
    refuses(job, "Merging changes")


@pytest.mark.parametrize("by", [-1, 1])
def test_labels_shifted_by_one(job: TrainJob, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = trainee.make_batch

    def shifted(rows: TokenRows, indices: Sequence[int], **kwargs: Any) -> Batch:
        batch = original(rows, indices, **kwargs)
        flat = batch.input_ids.flatten()
        places = (batch.positions + 1 + by).clamp(0, len(flat) - 1)
        return replace(batch, targets=flat[places])

    monkeypatch.setattr(trainee, "make_batch", shifted)
    refuses(job, "mask is lost between rows and batch")


@pytest.mark.parametrize("by", [-1, 1])
def test_hidden_states_shifted_by_one(
    job: TrainJob, by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right targets, predicted from the wrong place: the loss of another model."""
    original = trainee.make_batch

    def shifted(rows: TokenRows, indices: Sequence[int], **kwargs: Any) -> Batch:
        batch = original(rows, indices, **kwargs)
        last = batch.input_ids.numel() - 1
        return replace(batch, positions=(batch.positions + by).clamp(0, last))

    monkeypatch.setattr(trainee, "make_batch", shifted)
    refuses(job, "predicted from the wrong place")


def test_a_chunked_head_with_a_wrong_loss(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loss._HeadLoss.forward

    def missing_last_chunk(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        return original(ctx, hidden, weight, bias, targets) * 0.97

    monkeypatch.setattr(loss._HeadLoss, "forward", staticmethod(missing_last_chunk))
    refuses(job, "differs from the cross entropy of the model's own logits")


def test_a_chunked_head_with_a_wrong_gradient(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loss._HeadLoss.backward

    def flipped(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, *rest = original(ctx, *grads)
        return (None if hidden is None else hidden.roll(1, 0), *rest)

    monkeypatch.setattr(loss._HeadLoss, "backward", staticmethod(flipped))
    refuses(job, "gradient")


def test_a_soft_cap_on_the_logits_that_the_chunked_head_forgets(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaForCausalLM
    from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM

    for family in (LlamaForCausalLM, Phi3ForCausalLM):
        original = family.forward

        def capped(self: Any, *args: Any, _own: Any = original, **kwargs: Any) -> Any:
            out = _own(self, *args, **kwargs)
            out.logits = 5.0 * torch.tanh(out.logits / 5.0)
            return out

        monkeypatch.setattr(family, "forward", capped)
    refuses(job, "differs from the cross entropy of the model's own logits")


@pytest.fixture
def rows_of_stories(stories: Path) -> Iterator[TokenRows]:
    yield tiny_rows(stories, 16)


def test_a_real_model_whose_pad_is_its_end_of_turn_passes_every_proof(
    stories: Path, tmp_path: Path, rows_of_stories: TokenRows
) -> None:
    real = tiny_job(tmp_path / "run", stories, rows=rows_of_stories)
    assert real.pad_id == real.end_of_turn_id
    assert load_renderer(stories).template == PLAIN
    assert next(conversations(1))
    prove(real)


def test_cross_entropy_is_what_the_proof_compares_with() -> None:
    """The reference itself, by hand: -log softmax at the target."""
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    by_hand = float(logits.exp().sum().log() - 2.0)
    assert float(F.cross_entropy(logits, torch.tensor([1]))) == pytest.approx(by_hand)
