"""The proof at a replica's start, on a real small model: the damaged ones do not pass."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finery.chat.render import load_renderer
from finery.inference.engines.proving import Proof, ProofError, prove
from finery.inference.engines.reference import Reference, reference_of
from finery.inference.engines.torch_engine import open_torch_engine
from finery.inference.open import Located


@pytest.fixture(scope="module")
def located(kit: Path) -> Located:
    return Located(kit / "model" / "stories15m-phi3")


@pytest.fixture(scope="module")
def reference(located: Located, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_HOME", str(tmp_path_factory.mktemp("home")))
        renderer = load_renderer(located.renderer)
        made = reference_of(located, renderer)
        # the second time it is read, and is the same
        patch.setattr("finery.inference.engines.reference.compute", None)
        assert reference_of(located, renderer) == made
        yield made


def proved(located: Located, reference: Reference, precision: str) -> Proof:
    async def work() -> Proof:
        engine = open_torch_engine(located, device="cpu", precision=precision)
        try:
            return await prove(engine, reference)
        finally:
            await engine.close()

    return asyncio.run(work())


def copied(located: Located, folder: Path) -> Path:
    shutil.copytree(located.model, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


@pytest.fixture
def damaged(
    located: Located, tmp_path: Path
) -> Callable[[Callable[[dict[str, Any]], None]], Located]:
    """`damaged(change)`: a copy of the model whose tensors were changed."""

    def make(change: Callable[[dict[str, Any]], None]) -> Located:
        folder = copied(located, tmp_path / "model")
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return Located(folder)

    return make


def test_the_reference_covers_long_and_short_prompts(reference: Reference) -> None:
    lengths = [len(prompt) for prompt in reference.prompts]
    assert len(lengths) == 8
    assert max(lengths) > 200
    assert reference.precision == "float32"
    assert {len(answer) for answer in reference.answers} == {16}


def test_float32_is_the_same_to_the_last_token(located: Located, reference: Reference) -> None:
    proof = proved(located, reference, "float32")
    assert (proof.same, proof.widest_gap) == (proof.places, 0.0)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_honest_rounding_passes(located: Located, reference: Reference, precision: str) -> None:
    proof = proved(located, reference, precision)
    assert proof.precision == precision
    assert proof.same >= 0.9 * proof.places


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("part", ["self_attn.o_proj", "mlp.down_proj"])
def test_a_layer_of_zeros_is_refused(
    damaged: Callable[..., Located], reference: Reference, part: str, precision: str
) -> None:
    def zero(tensors: dict[str, Any]) -> None:
        name = f"model.layers.3.{part}.weight"
        tensors[name] = torch.zeros_like(tensors[name])

    with pytest.raises(ProofError, match="does not compute this model"):
        proved(damaged(zero), reference, precision)


def test_two_layers_that_changed_places_are_refused(
    damaged: Callable[..., Located], reference: Reference
) -> None:
    def swap(tensors: dict[str, Any]) -> None:
        for part in ("mlp.down_proj.weight", "mlp.gate_up_proj.weight"):
            first, second = (f"model.layers.{n}.{part}" for n in (1, 2))
            tensors[first], tensors[second] = tensors[second], tensors[first]

    with pytest.raises(ProofError):
        proved(damaged(swap), reference, "int8")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_another_rotary_base_is_refused(
    located: Located, reference: Reference, tmp_path: Path, precision: str
) -> None:
    folder = copied(located, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] *= 10
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProofError):
        proved(Located(folder), reference, precision)
