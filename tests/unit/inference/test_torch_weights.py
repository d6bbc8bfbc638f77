"""Linear layers in every form: what they give, and that a row's result is its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finery.errors import FineryError
from finery.inference.engines.torch_precision import block_weights, candidates, measure, watched
from finery.inference.engines.torch_projection import stack
from finery.inference.engines.torch_weights import (
    PRECISIONS,
    Int8,
    Packed16,
    has_int8,
    has_packed16,
    make_weight,
)

CPU = torch.device("cpu")
# Largest difference from float32 that the form's rounding explains, of the largest result.
ROUNDING = {"float32": 1e-6, "bfloat16": 0.01, "int8": 0.02}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def near(got: torch.Tensor, wanted: torch.Tensor, precision: str) -> bool:
    return bool((got - wanted).abs().max() <= ROUNDING[precision] * wanted.abs().max())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_every_form_gives_the_layers_result(precision: str, with_bias: bool, rows: int) -> None:
    layer = nn.Linear(96, 50, bias=with_bias)
    form = make_weight(layer.weight, layer.bias, precision)
    x = torch.randn(rows, 96)
    with torch.inference_mode():
        wanted = layer(x)
        assert near(form(x), wanted, precision)
        onto = torch.randn(rows, 50)
        added = onto.clone()
        form.add(added, x)
    assert form.size == (50, 96)
    assert near(added, onto + wanted, precision)
    assert form(x).dtype == torch.float32


def test_an_int8_row_is_the_same_bits_whatever_is_beside_it() -> None:
    form = make_weight(torch.randn(64, 96), None, "int8")
    x = torch.randn(9, 96)
    x[4] *= 1000  # a token of large activations takes nothing from the others
    alone = torch.cat([form(row[None]) for row in x])
    assert torch.equal(form(x), alone)


def test_a_token_of_large_activations_does_not_cost_the_others_their_precision() -> None:
    weight, x = torch.randn(64, 96), torch.randn(9, 96)
    x[0] *= 1000
    assert near(make_weight(weight, None, "int8")(x)[1:], F.linear(x, weight)[1:], "int8")


def test_channels_that_are_always_large_take_no_steps_from_the_others() -> None:
    weight, x = torch.randn(64, 96), torch.randn(20, 96)
    x[:, 5] *= 80
    wanted = F.linear(x, weight)
    # what the large channel says is the same for all; the rest is what tells tokens apart
    rest = wanted - x[:, 5:6] * weight[:, 5]

    def error(peaks: torch.Tensor | None) -> float:
        got = make_weight(weight, None, "int8", peaks)(x) - x[:, 5:6] * weight[:, 5]
        return float((got - rest).norm() / rest.norm())

    assert error(x.abs().amax(0)) < error(None) / 2


def test_the_largest_inputs_are_watched_by_layer_and_channel() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 1))
    with watched(model) as peaks:
        first = model[0](torch.tensor([[1.0, -5.0, 0.0], [2.0, 1.0, 0.0]]))
        model(torch.tensor([[[0.0, 0.0, -7.0]]]))
    model(torch.full((1, 3), 100.0))  # no longer watched
    assert peaks["0"].tolist() == [2.0, 5.0, 7.0]
    assert set(peaks) == {"0", "1"}
    assert first.shape == (2, 2)


def test_a_row_of_zeros_gives_zeros_in_int8() -> None:
    assert make_weight(torch.randn(8, 16), None, "int8")(torch.zeros(2, 16)).eq(0).all()


def test_int8_is_refused_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finery.inference.engines.torch_weights._int8_product", None)
    assert not has_int8(CPU)
    with pytest.raises(FineryError, match="x86"):
        make_weight(torch.randn(8, 16), None, "int8")
    assert "int8" not in candidates(CPU)


def test_layers_of_one_input_are_one_product_in_any_order_of_their_rows() -> None:
    first, second = nn.Linear(16, 4), nn.Linear(16, 6, bias=False)
    order = torch.tensor([3, 1, 2, 0, 9, 8, 7, 6, 5, 4])
    both = stack([("a", first), ("b", second)], "float32", order)
    x = torch.randn(5, 16)
    with torch.inference_mode():
        wanted = torch.cat([first(x), second(x)], dim=1)[:, order]
        assert torch.allclose(both(x), wanted, atol=1e-6)
    assert [(part.name, part.low, part.high) for part in both.parts] == [("a", 0, 4), ("b", 4, 10)]
    assert both.parts[1].order is not None
    assert both.parts[1].order.tolist() == [5, 4, 3, 2, 1, 0]


def test_int8_keeps_the_layers_behind_a_product_in_16_bits() -> None:
    layer = nn.Linear(16, 4, bias=False)
    kinds = {
        name: type(stack([(name, layer)], "int8").weight)
        for name in ("layers.0.mlp.up_proj", "layers.0.mlp.down_proj")
    }
    assert kinds["layers.0.mlp.up_proj"] is Int8
    if has_packed16(CPU):
        assert kinds["layers.0.mlp.down_proj"] is Packed16


def test_the_measurement_takes_a_blocks_layers_and_times_every_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("finery.inference.engines.torch_precision.SECONDS", 0.02)
    blocks = [nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 24)]) for _ in range(4)]
    model = nn.ModuleList([*blocks, nn.Linear(8, 100)])
    weights = block_weights(model)
    assert [tuple(weight.shape) for weight in weights] == [(8, 8), (24, 8)]
    times = measure(weights, candidates(CPU), rows=4)
    assert set(times) == set(candidates(CPU))
    assert all(0 < one < 1e6 for one in times.values())
