"""The next token of a row from its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from finery.inference.decoding import GumbelNoise
from finery.inference.engine import Generation
from finery.inference.engines.torch_rows import Row
from finery.inference.engines.torch_sampling import (
    _keep_likeliest,
    _keep_mass,
    choose,
    penalty_counts,
)

SIZE = 50
CPU = torch.device("cpu")


def row(**wanted: Any) -> Row:
    made = Row(Generation((1, 2), 100, **wanted))
    made.counts = penalty_counts(made, SIZE, CPU)
    return made


def logits(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed))


def test_greedy_takes_the_likeliest_and_writes_it_down() -> None:
    scores = logits(2)
    rows = [row(), row()]
    assert [token.id for token in choose(rows, scores.clone())] == scores.argmax(-1).tolist()
    assert [one.tokens[-1] for one in rows] == scores.argmax(-1).tolist()


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.8}])
def test_draws_are_those_of_the_library_for_the_same_seed(settings: dict[str, Any]) -> None:
    library = GumbelNoise(0.9, 7, [0], CPU, **settings)
    one, other = row(temperature=0.9, seed=7, **settings), row(temperature=2.0, seed=1)
    for seed in range(20):
        scores = logits(2, seed)
        wanted = int(library(torch.empty(1, 0), scores[:1].clone()).argmax())  # pyright: ignore[reportArgumentType]
        assert choose([one, other], scores)[0].id == wanted


@pytest.mark.parametrize("count", [1, 7, 50, 80])
def test_top_k_keeps_what_transformers_keeps(count: int) -> None:
    scores = logits()
    wanted = TopKLogitsWarper(count)(torch.empty(1, 0), scores.clone())  # pyright: ignore[reportArgumentType]
    _keep_likeliest(scores[0], count)
    assert torch.equal(scores, wanted)


@pytest.mark.parametrize("mass", [0.01, 0.5, 0.95])
def test_top_p_keeps_what_transformers_keeps(mass: float) -> None:
    scores = logits()
    wanted = TopPLogitsWarper(mass)(torch.empty(1, 0), scores.clone())  # pyright: ignore[reportArgumentType]
    _keep_mass(scores[0], mass)
    assert torch.equal(scores, wanted)


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0]]).log_softmax(-1)
    one = row(temperature=1.0, seed=3)
    made = [choose([one], scores.clone())[0].id for _ in range(3000)]
    shares = [made.count(token) / 3000 for token in range(3)]
    assert shares == pytest.approx(scores.exp()[0].tolist(), abs=0.03)


def test_penalties_are_openais_presence_once_and_frequency_each_time() -> None:
    one = row(presence_penalty=0.5, frequency_penalty=0.25, logprobs=0)
    one.counts = torch.zeros(SIZE)
    one.counts[3] = 2
    scores = torch.full((1, SIZE), -9.0)
    scores[0, 3], scores[0, 4] = 2.0, 1.01
    assert choose([one], scores.clone())[0].id == 4  # 2 - 0.5 - 2 x 0.25 < 1.01
    assert one.counts[4] == 1


def test_the_prompt_is_not_penalised() -> None:
    one = row(presence_penalty=9.0)
    scores = torch.zeros(1, SIZE)
    scores[0, 2] = 1.0  # in the prompt
    assert choose([one], scores)[0].id == 2


def test_logprobs_are_of_the_raw_logits() -> None:
    scores = logits()
    wanted = torch.log_softmax(scores[0], -1)
    one = row(temperature=5.0, top_k=2, presence_penalty=1.0, logprobs=3)
    (token,) = choose([one], scores.clone())
    assert token.logprob == pytest.approx(float(wanted[token.id]))
    assert [place for place, _ in token.likeliest] == wanted.topk(3).indices.tolist()


def test_none_wanted_are_none_made() -> None:
    (token,) = choose([row()], logits())
    assert token.logprob is None
    assert token.likeliest == ()
