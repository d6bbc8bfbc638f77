"""Which form and precision a model gets, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch_models import answers, ids, opened, plain_model, prompts, reference, write_family

from finery.errors import FineryError
from finery.inference.engine import Generation
from finery.inference.engines import torch_forms
from finery.inference.engines.torch_engine import TorchEngine


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("forms") / "llama", "llama")


def opened_and_closed(folder: Path, **options: Any) -> TorchEngine:
    engine = opened(folder, **options)
    asyncio.run(engine.close())
    return engine


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 always measures as the fastest."""
    monkeypatch.setattr(torch_forms, "candidates", lambda device: ["bfloat16", "int8"])
    monkeypatch.setattr(torch_forms, "measure", lambda *about: {"int8": 10.0, "bfloat16": 20.0})


@pytest.mark.usefixtures("quick")
def test_auto_takes_the_precision_that_measures_fastest(llama: Path) -> None:
    engine = opened_and_closed(llama, precision="auto")
    assert engine.precision == "int8"
    assert engine.info["measured_us"] == {"int8": 10.0, "bfloat16": 20.0}
    assert engine.info["form"] == "decoder"


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_numbers_of_threads_that_give_the_same_bits_may_be_chosen_among(llama: Path) -> None:
    assert opened_and_closed(llama, precision="int8").info["threads"] == (1, 3)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_number_of_threads_that_rounds_otherwise_is_not(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = torch_forms._read
    monkeypatch.setattr(
        torch_forms, "_read", lambda *rows: read(*rows) + 1e-7 * (torch.get_num_threads() == 1)
    )
    assert opened_and_closed(llama, precision="int8").info["threads"] == (3,)


@pytest.mark.usefixtures("quick")
def test_auto_goes_on_where_the_fastest_is_too_far_from_the_model(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    differs = torch_forms._differs
    limits = {**torch_forms.CLOSE, "int8": 2.0}  # told apart by its limit
    monkeypatch.setattr(torch_forms, "CLOSE", limits)
    monkeypatch.setattr(
        torch_forms,
        "_differs",
        lambda wanted, got, close: "far off" if close == 2.0 else differs(wanted, got, close),
    )
    engine = opened_and_closed(llama, precision="auto")
    assert (engine.precision, engine.info["form"]) == ("bfloat16", "decoder")
    assert engine.info["decoder"] == "int8: far off"


def test_a_form_that_computes_something_else_is_not_taken(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Any, precision: str, peaks: Any) -> Any:
        decoder = torch_forms.InterfaceDecoder(model, precision, peaks)
        model.model.norm.weight.data.mul_(1.2)
        return decoder

    monkeypatch.setattr(torch_forms, "Decoder", wrong)
    (prompt,) = prompts([20])
    engine = opened_and_closed(llama)
    assert engine.info["form"] == "interface"
    assert "logits differ" in engine.info["decoder"]
    assert answers(llama, [Generation(prompt, 9)]) == [reference(plain_model(llama), prompt, 9)]


def test_the_plain_form_says_why_and_takes_no_adapter(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = write_family(tmp_path_factory.mktemp("forms") / "gemma2", "gemma2")

    async def ask() -> tuple[TorchEngine, list[int]]:
        engine = opened(folder)
        with pytest.raises(FineryError, match="takes no adapters"):
            await engine.add_adapter("one", tmp_path)
        answer = await ids(engine, Generation((1, 2, 3), 4))
        await engine.close()
        return engine, answer

    engine, answer = asyncio.run(ask())
    assert engine.info["form"] == "plain"
    assert engine.info["batching"].startswith("none")
    assert "softcap" in engine.info["interface"]
    assert "adapters" not in engine.features
    assert len(answer) == 4


def test_a_precision_that_is_not_known_is_refused(llama: Path) -> None:
    with pytest.raises(FineryError, match="precision is int3"):
        opened(llama, precision="int3")


@pytest.mark.parametrize(("kind", "context"), [("longrope", 4096), ("llama3", 131072)])
def test_rows_of_a_model_with_long_rope_stay_where_its_angles_are_the_same(
    kind: str, context: int
) -> None:
    config = SimpleNamespace(
        max_position_embeddings=131072,
        rope_parameters={"rope_type": kind, "original_max_position_embeddings": 4096},
    )
    config.get_text_config = lambda: config
    assert torch_forms._positions(SimpleNamespace(config=config)) == context
