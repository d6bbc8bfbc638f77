"""Proofs on the user's own model and data, in seconds, before the first step.

Each test exists because the bug it finds has shipped in a trainer that people trust, gave a
plausible loss curve, and cost somebody a run. A failure stops the run and says which.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finery.chat.rows import TokenRows, make_rows
from finery.errors import SelfTestError
from finery.model import lora
from finery.model.batch import Batch
from finery.training import loop
from finery.training.events import Report
from finery.training.steps import countable_targets

if TYPE_CHECKING:
    from finery.training.job import TrainJob
    from finery.training.trainee import Trainee

ROWS, TOKENS = 8, 96  # the probe rows: enough to see a leak, short enough to take seconds


def run_self_tests(trainee: Trainee, rows: TokenRows, job: TrainJob, report: Report) -> None:
    """Run every proof; raises SelfTestError with the first that does not hold.

    Leaves weights, gradients and random state as they were.
    """
    started = time.perf_counter()
    passed = []
    with torch.random.fork_rng(), trainee.accelerator.autocast():
        check_rows(rows, job.end_of_turn_id, job.max_seq_length)
        check_batches(trainee, rows)
        passed += ["every row trains a token and its end of turn", "masks are by position"]
        probe = probe_rows(rows)
        was_training = trainee.model.training
        trainee.model.eval()  # dropout would differ between two runs of the same row
        try:
            for test in TESTS:
                test(trainee, probe)
                passed.append((test.__doc__ or test.__name__).splitlines()[0].rstrip("."))
        finally:
            trainee.model.train(was_training)
            trainee.model.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    report({"event": "self_tests", "passed": passed, "seconds": round(seconds, 2)})


def check_rows(rows: TokenRows, end_of_turn_id: int, max_seq_length: int) -> None:
    """Every row trains at least one token and, unless it was cut, its end of turn."""
    counts = countable_targets(rows)
    if len(rows) == 0 or not counts.all():
        empty = rows.rows[counts == 0][:5].tolist() if len(rows) else []
        raise SelfTestError(
            f"The loss mask is empty for rows {empty or '(there are no rows)'}: nothing would be "
            "learned from them. The mask of this model's chat template is wrong."
        )
    ends = rows.trained & (rows.ids == end_of_turn_id)
    has_end = np.add.reduceat(ends, rows.offsets[:-1]) > 0
    missing = rows.rows[~has_end & (rows.lengths < max_seq_length)]
    if len(missing):
        raise SelfTestError(
            f"Rows {missing[:5].tolist()} never train the end-of-turn token, so the tuned model "
            "would not stop. Is the end-of-turn token masked because it is also the pad token?"
        )
    starts = rows.offsets[:-1][rows.lengths > 1]
    twice = (rows.ids[starts] == rows.ids[starts + 1]) & _is_special(rows, starts)
    if len(twice) and twice.all():
        raise SelfTestError(
            f"Every row begins with token {int(rows.ids[starts[0]])} twice: the chat template "
            "writes it and the tokenizer adds it again (double BOS)."
        )


def _is_special(rows: TokenRows, starts: np.ndarray) -> np.ndarray:
    """Rows that all begin with one token begin with a special one."""
    return np.full(len(starts), len(set(rows.ids[starts].tolist())) == 1)


def check_batches(trainee: Trainee, rows: TokenRows) -> None:
    """Batches put the loss on exactly the tokens the rows mark, in both layouts."""
    indices = list(range(min(len(rows), 64)))
    wanted = sorted(
        token for i in indices for token in rows.row_ids(i)[1:][rows.row_trained(i)[1:]].tolist()
    )
    batch = trainee.batch(rows, indices)
    if sorted(batch.targets.tolist()) != wanted:
        raise SelfTestError(
            f"A batch trains {len(batch.targets)} tokens where its rows mark {len(wanted)}: the "
            "mask is lost between rows and batch (padding must be masked by position, not by id)."
        )


def probe_rows(rows: TokenRows) -> TokenRows:
    """A few short rows of the user's data with different numbers of loss tokens."""
    counts = countable_targets(rows)
    order = np.argsort(counts, kind="stable")
    picked = order[np.linspace(0, len(order) - 1, num=min(ROWS, len(order)), dtype=int)]
    short = []
    for index in picked.tolist():
        ids, trained = rows.row_ids(index), rows.row_trained(index)
        # keep the window in which the loss begins, so that every probe row has loss tokens
        first = int(np.flatnonzero(trained[1:])[0])
        begin = max(0, min(first - TOKENS // 2, len(ids) - TOKENS))
        window = slice(begin, begin + TOKENS)
        short.append((ids[window], trained[window], int(rows.rows[index])))
    while len(short) < ROWS:
        short.append(short[len(short) % len(picked)])
    return make_rows(short)


def accumulation_is_invariant(trainee: Trainee, probe: TokenRows) -> None:
    """One batch of 8 and 8 batches of 1 give the same gradients."""
    total = int(countable_targets(probe).sum())
    with _random_adapter(trainee):
        whole = _gradients(trainee, [tuple(range(ROWS))], probe, total)
        parts = _gradients(trainee, [(i,) for i in range(ROWS)], probe, total)
    _close(
        whole,
        parts,
        _tolerance(trainee, 1e-4, 0.05),
        "The gradient of 8 x 1 rows differs from that of 1 x 8: the loss is not normalised by "
        "the step's loss tokens",
    )


def documents_are_isolated(trainee: Trainee, probe: TokenRows) -> None:
    """Rows of one batch do not see each other."""
    first, second = make_row(probe, 0), make_row(probe, 1)
    other = (np.roll(first[0], 7), first[1], first[2])
    with torch.no_grad():
        beside = _losses_of_last(trainee, [first, second])
        beside_other = _losses_of_last(trainee, [other, second])
        alone = _losses_of_last(trainee, [second])
    if not torch.equal(beside, beside_other):
        raise SelfTestError(
            "Rows of one batch see each other: changing the first row changes the loss of the "
            "second. This model family needs layout: padded."
        )
    _close(
        beside,
        alone,
        _tolerance(trainee, 1e-4, 0.05),
        "A row has another loss beside other rows than alone: positions or masks are wrong",
    )


def loss_is_the_models_own(trainee: Trainee, probe: TokenRows) -> None:
    """The chunked loss equals cross entropy over the model's own logits."""
    with torch.no_grad():
        for index in (0, ROWS - 1):
            batch = trainee.batch(probe, [index])
            ours = trainee.loss_model(batch)
            # from the row itself: a batch that predicts from the wrong place must not be believed
            length = len(probe.row_ids(index))
            logits = trainee.causal(batch.input_ids[:, :length], use_cache=False).logits[0, :-1]
            own = torch.from_numpy(probe.row_ids(index)[1:].astype(np.int64)).to(logits.device)
            marked = torch.from_numpy(probe.row_trained(index)[1:].copy()).to(logits.device)
            wanted = F.cross_entropy(logits[marked].float(), own[marked], reduction="sum")
            _close(
                ours.view(1),
                wanted.view(1),
                _tolerance(trainee, 1e-4, 0.02),
                "The loss differs from the cross entropy of the model's own logits: the output "
                "layer is computed in another way, or tokens are predicted from the wrong place",
            )


def adapter_gets_gradients(trainee: Trainee, probe: TokenRows) -> None:
    """Every adapter gets a gradient, and nothing frozen does."""
    if not trainee.job.recipe.apply_lora:
        return
    layers = list(lora.lora_layers(trainee.tuned))
    if not layers:
        raise SelfTestError("No adapter is attached: nothing would be trained.")
    named = list(trainee.tuned.named_parameters())
    adapter = {name for name, _ in named if "lora_" in name}
    frozen = [name for name, parameter in named if name in adapter and not parameter.requires_grad]
    if frozen:
        raise SelfTestError(
            f"{len(frozen)} adapter matrices are frozen (the first is {frozen[0]}): they would "
            "not be trained."
        )
    _gradients(trainee, [(0, 1)], probe, int(countable_targets(probe)[:2].sum()), keep=True)
    got = {name for name, parameter in named if _has_gradient(parameter)}
    silent = sorted(name for name in adapter - got if "lora_B" in name)
    if silent:
        raise SelfTestError(
            f"{len(silent)} adapter matrices get no gradient (the first is {silent[0]}): they are "
            "not on the path from input to loss."
        )
    leaking = sorted(got - adapter)
    if leaking:
        raise SelfTestError(f"Frozen weights get gradients: {leaking[0]} and others.")


def _has_gradient(parameter: torch.nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


def merged_equals_adapter(trainee: Trainee, probe: TokenRows) -> None:
    """A layer with its adapter folded in answers as the layer and the adapter do."""
    if not trainee.job.recipe.apply_lora or trainee.job.recipe.quantization != "none":
        return
    layers = list(lora.lora_layers(trainee.tuned))
    with _random_adapter(trainee), torch.no_grad(), _no_autocast(trainee):
        for name, layer in (layers[0], layers[len(layers) // 2], layers[-1]):
            base: Any = layer.get_base_layer()
            weight = lora.merged_weight(layer)
            if type(base).__name__ == "Conv1D":
                weight = weight.T
            x = torch.randn(16, weight.shape[1], device=weight.device, dtype=base.weight.dtype)
            bias = None if base.bias is None else base.bias.float()
            _close(
                layer(x).float(),  # pyright: ignore[reportCallIssue]
                F.linear(x.float(), weight, bias),
                _tolerance(trainee, 1e-4, 0.02),
                f"Merging changes what {name} answers: the adapter is folded in with another "
                "scale than it is trained with",
            )


# A fault in an earlier one would fail the later ones too, under another name.
TESTS = (
    adapter_gets_gradients,
    documents_are_isolated,
    loss_is_the_models_own,
    accumulation_is_invariant,
    merged_equals_adapter,
)


def make_row(rows: TokenRows, index: int) -> tuple[np.ndarray, np.ndarray, int]:
    """One row as the triple that `make_rows` takes."""
    return rows.row_ids(index), rows.row_trained(index), int(rows.rows[index])


def _losses_of_last(trainee: Trainee, rows: list[Any]) -> Tensor:
    """The loss of the last row's tokens, beside the rows before it."""
    from finery.model.loss import token_losses

    made = make_rows(rows)
    last = int(countable_targets(made)[-1])
    return token_losses(trainee.loss_model, trainee.batch(made, range(len(made))))[-last:].float()


def _gradients(
    trainee: Trainee,
    micro_batches: list[tuple[int, ...]],
    probe: TokenRows,
    loss_tokens: int,
    keep: bool = False,
) -> Tensor:
    """All gradients of one step over `micro_batches`, flattened, through the loop's own code."""

    def batches() -> Iterator[tuple[Batch, float, bool]]:
        for indices in micro_batches:
            yield trainee.batch(probe, indices), 1.0, indices is micro_batches[-1]

    trainee.loss_model.zero_grad(set_to_none=True)
    loop.accumulate(
        trainee.loss_model,
        batches(),
        loss_tokens,
        processes=1,
        backward=_backward,
        micro_batch=lambda last: nullcontext(),
    )
    found = [p.grad.float().flatten() for p in trainee.parameters if p.grad is not None]
    joined = torch.cat(found) if found else torch.zeros(1)
    if not keep:
        trainee.loss_model.zero_grad(set_to_none=True)
    return joined


def _backward(loss: Tensor, last: bool) -> None:
    if not loss.requires_grad:
        raise SelfTestError("The loss depends on no trained weight: nothing would be trained.")
    loss.backward()


class _random_adapter:
    """Adapters begin at zero, where every scale is right; give B random values for a while."""

    def __init__(self, trainee: Trainee) -> None:
        self.matrices = [p for n, p in trainee.trainable() if "lora_B" in n]

    def __enter__(self) -> None:
        self.saved = [matrix.detach().clone() for matrix in self.matrices]
        with torch.no_grad():
            for matrix in self.matrices:
                matrix.normal_(0.0, 0.02)

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for matrix, saved in zip(self.matrices, self.saved, strict=True):
                matrix.copy_(saved)


def _tolerance(trainee: Trainee, full: float, half: float) -> float:
    """The relative difference that rounding explains, in float32 and in 16-bit arithmetic."""
    return full if trainee.accelerator.mixed_precision == "no" else half


def _no_autocast(trainee: Trainee) -> torch.autocast:
    return torch.autocast(trainee.accelerator.device.type, enabled=False)


def _close(got: Tensor, wanted: Tensor, tolerance: float, sentence: str) -> None:
    difference = float((got - wanted).norm() / wanted.norm().clamp_min(1e-12))
    if not difference <= tolerance:  # NaN fails too
        raise SelfTestError(
            f"{sentence} (relative difference {difference:.2e}, tolerance {tolerance:.0e})."
        )
