"""What goes into a model and how tokens are drawn, without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finery.errors import FineryError
from finery.inference.decoding import (
    GumbelNoise,
    _left_padded,
    _until_stop,
    check_settings,
    room,
    stop_ids,
)
from finery.inference.generate import _batches, complete


def _model(context: int | None = 100, eos: Any = None) -> Any:
    """As much of a model as is asked before anything is generated."""
    text = SimpleNamespace(max_position_embeddings=context)
    return SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: text),
        generation_config=SimpleNamespace(eos_token_id=eos),
    )


def _renderer(stops: tuple[int, ...] = (7,)) -> Any:
    return SimpleNamespace(stop_ids=stops, pad_id=7, decode=str)


def test_padding_is_told_by_position_and_a_pad_id_in_a_prompt_stays_text() -> None:
    ids, mask = _left_padded([[7, 1], [5, 7, 7, 2]], pad_id=7, device="cpu")
    assert ids.tolist() == [[7, 7, 7, 1], [5, 7, 7, 2]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("eos", "expected"), [(None, (7,)), (2, (2, 7)), ([2, 9, 7], (2, 7, 9)), ([], (7,))]
)
def test_answers_end_at_the_renderers_and_the_models_own_stops(
    eos: Any, expected: tuple[int, ...]
) -> None:
    assert stop_ids(_model(eos=eos), _renderer()) == expected


def test_tokens_after_the_first_stop_are_padding() -> None:
    assert _until_stop([4, 5, 7, 7, 3], [7]) == [4, 5, 7]
    assert _until_stop([4, 5], [7]) == [4, 5]


def test_room_is_what_the_context_leaves() -> None:
    assert room(_model(10), [1] * 8, 128) == 2
    assert room(_model(10), [1] * 10, 128) == 0
    assert room(_model(None), [1] * 10_000, 128) == 128


def test_batches_go_longest_first_and_never_mix_allowances() -> None:
    prompts = [[0] * n for n in (3, 97, 5, 98, 4, 97)]
    batches = list(_batches(_model(100), prompts, max_new_tokens=20, batch_size=2))
    assert batches == [(2, [3]), (3, [1, 5]), (20, [2, 4]), (20, [0])]


def test_no_prompts_give_no_answers() -> None:
    assert complete(_model(), _renderer(), []) == []


def test_every_prompt_that_fills_the_context_is_named_and_none_is_cut() -> None:
    with pytest.raises(FineryError, match="prompt 1 has 100 tokens; prompt 3 has 0 tokens") as told:
        complete(_model(100), _renderer(), [[1] * 100, [1] * 99, []])
    assert "context of 100 tokens" in str(told.value)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ((0, 0.0, 1), "max_new_tokens is 0"),
        ((1, -0.1, 1), "temperature is -0.1"),
        ((1, float("nan"), 1), "temperature is nan"),
        ((1, float("inf"), 1), "temperature is inf"),
        ((1, 0.0, 0), "batch_size is 0"),
    ],
)
def test_impossible_settings_are_refused_by_name(
    settings: tuple[int, float, int], name: str
) -> None:
    with pytest.raises(FineryError, match=name):
        check_settings(*settings)


def _draws(temperature: float, logits: list[float], count: int, **among: Any) -> torch.Tensor:
    noise = GumbelNoise(temperature, seed=1, rows=[0], device="cpu", **among)
    scores = torch.tensor([logits])
    ids = torch.zeros((1, 1), dtype=torch.long)
    picks = [int(noise(ids, scores).argmax()) for _ in range(count)]
    return torch.bincount(torch.tensor(picks), minlength=len(logits)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(temperature: float) -> None:
    logits = [2.0, 1.0, 0.0, -1.0]
    expected = torch.softmax(torch.tensor(logits) / temperature, 0)
    # 4,000 draws: a share strays from its probability by less than 4 standard errors.
    bound = 4 * (expected * (1 - expected) / 4000).sqrt()
    assert ((_draws(temperature, logits, 4000) - expected).abs() < bound).all()


@pytest.mark.parametrize(
    ("temperature", "among", "drawn"),
    [
        (1.0, {"top_k": 2}, {0, 1}),
        (1.0, {"top_p": 0.6}, {0}),
        (1.0, {"top_p": 0.7}, {0, 1}),
        (2.0, {"top_p": 0.6}, {0, 1}),  # the share is one at the asked temperature
        (1.0, {"top_k": 3, "top_p": 0.999}, {0, 1, 2}),
        (1.0, {"top_k": 99}, {0, 1, 2, 3}),
    ],
)
def test_draws_are_among_the_likeliest_alone(
    temperature: float, among: dict[str, Any], drawn: set[int]
) -> None:
    shares = _draws(temperature, [2.0, 1.0, 0.0, -1.0], 2000, **among)
    assert {token for token, share in enumerate(shares) if share} == drawn


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"top_p": 0.0}, "top_p is 0"), ({"top_p": 1.5}, "top_p is 1.5"), ({"top_k": -1}, "top_k")],
)
def test_impossible_choices_of_tokens_are_refused(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(FineryError, match=name):
        check_settings(1, 1.0, **settings)


def test_a_row_draws_the_same_whatever_it_is_batched_with() -> None:
    scores = torch.zeros((1, 50))
    alone = GumbelNoise(1.0, seed=5, rows=[3], device="cpu")(scores, scores)
    pair = GumbelNoise(1.0, seed=5, rows=[9, 3], device="cpu")(scores, scores.expand(2, 50))
    assert torch.equal(alone[0], pair[1])
    assert not torch.equal(pair[0], pair[1])


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    _draws(1.0, [0.0, 0.0], 10)
    assert torch.equal(before, torch.get_rng_state())
