"""Useful work, counted from the shapes, and the speed of the machine that it is held against."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finery.model.lora import Lora, attach_lora
from finery.planning.ceiling import WorkShape, gemm_ceiling, useful_flops, work_shape

SHAPE = WorkShape(frozen=1000, trained=100, layers=2, attention_width=8, hidden=8, vocabulary=50)


def test_the_work_is_the_sum_of_its_parts() -> None:
    assert useful_flops(SHAPE, 10, [], 0) == 10 * (4 * 1000 + 6 * 100)
    assert useful_flops(SHAPE, 0, [3, 4], 0) == 6 * 2 * 8 * (9 + 16)
    assert useful_flops(SHAPE, 0, [], 5) == 4 * 8 * 50 * 5


def test_documents_of_their_own_are_less_work_than_one_long_one() -> None:
    assert useful_flops(SHAPE, 8, [4, 4], 0) < useful_flops(SHAPE, 8, [8], 0)


def test_the_shape_counts_matrices_frozen_and_trained_and_no_embedding(tiny_llama: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_llama)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        layer = 32 * 32 * 2 + 32 * 16 * 2 + 32 * 48 * 3
        whole = work_shape(model, config)
        assert (whole.frozen, whole.trained, whole.head_trained) == (0, 2 * layer, True)
        tuned = attach_lora(model, Lora(4, 8, 0.0, "q_proj", rslora=False, dora=False))
    shape = work_shape(tuned, config)
    assert (shape.frozen, shape.trained) == (2 * layer, 2 * 4 * (32 + 32))
    assert (shape.layers, shape.attention_width, shape.head_trained) == (2, 32, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ceiling_is_a_speed(dtype: torch.dtype) -> None:
    assert gemm_ceiling("cpu", dtype, size=64, seconds=0.0) > 0
