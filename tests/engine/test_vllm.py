"""The real vLLM (its CPU build where there is no GPU) on a real small model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from installed_engines import needs_engine

from finery.chat.render import load_renderer
from finery.errors import FineryError
from finery.inference.engine import Generation, Token
from finery.inference.engines.choosing import prove_adapter
from finery.inference.engines.proving import prove
from finery.inference.engines.reference import reference_of
from finery.inference.engines.vllm_engine import VllmEngine, open_vllm_engine
from finery.inference.open import Located

pytestmark = pytest.mark.full  # starting it takes half a minute
PROMPT = (1, 450, 4996, 17354)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One loop for the module, as a replica has one for its life."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def located(kit: Path) -> Located:
    return Located(kit / "model" / "stories15m-phi3")


@pytest.fixture(scope="module")
def engine(
    loop: asyncio.Runner, located: Located, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_HOME", str(tmp_path_factory.mktemp("vllm-home")))
        made = open_vllm_engine(located, needs_engine("vllm"))
    yield made
    loop.run(made.close())


def within(seconds: float, work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    return asyncio.wait_for(work, seconds)


async def made(engine: VllmEngine, most: int = 8, **settings: Any) -> list[Token]:
    wanted = Generation(settings.pop("prompt", PROMPT), most, **settings)
    return [token async for token in engine.generate(wanted)]


def ids(loop: asyncio.Runner, engine: VllmEngine, most: int = 8, **settings: Any) -> list[int]:
    return [token.id for token in loop.run(within(60, made(engine, most, **settings)))]


def test_it_passes_the_proof(loop: asyncio.Runner, engine: VllmEngine, located: Located) -> None:
    reference = reference_of(located, load_renderer(located.renderer))
    proof = loop.run(within(60, prove(engine, reference)))
    assert proof.precision == "bfloat16"
    assert proof.same >= 0.95 * proof.places


def test_length_and_stop_ids_are_kept(loop: asyncio.Runner, engine: VllmEngine) -> None:
    assert [len(ids(loop, engine, most)) for most in (1, 2, 33)] == [1, 2, 33]
    plain = ids(loop, engine)
    assert ids(loop, engine, stop_ids=(31999, plain[3])) == plain[:4]


def test_a_seed_decides_the_answer(loop: asyncio.Runner, engine: VllmEngine) -> None:
    drawn = [ids(loop, engine, temperature=1.0, seed=seed) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(one) for one in drawn}) > 1


def test_log_probabilities_come_by_id(loop: asyncio.Runner, engine: VllmEngine) -> None:
    tokens = loop.run(within(60, made(engine, 3, logprobs=4)))
    for token in tokens:
        assert len(token.likeliest) == 4
        assert dict(token.likeliest)[token.id] == token.logprob


def test_an_answer_follows_its_schema(
    loop: asyncio.Runner, engine: VllmEngine, located: Located
) -> None:
    renderer = load_renderer(located.renderer)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    made_ids = ids(loop, engine, 60, schema=schema, stop_ids=renderer.stop_ids)
    assert isinstance(json.loads(renderer.decode(made_ids))["ok"], bool)


def test_an_adapter_by_request_is_that_adapter(
    loop: asyncio.Runner, engine: VllmEngine, located: Located, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    from finery.model.load import load_model

    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules=["o_proj", "down_proj"], init_lora_weights=False)
    tuned = get_peft_model(load_model(located.model, precision="32", device="cpu"), config)  # pyright: ignore
    tuned.save_pretrained(tmp_path / "adapter")
    plain = ids(loop, engine)
    loop.run(within(60, engine.add_adapter("blue", tmp_path / "adapter")))
    loop.run(within(60, prove_adapter(engine, located, "blue", tmp_path / "adapter")))

    async def both() -> list[list[Token]]:
        return await asyncio.gather(made(engine), made(engine, adapter="blue"))

    first, second = loop.run(within(60, both()))
    assert [token.id for token in first] == plain
    assert [token.id for token in second] != plain
    loop.run(within(60, engine.remove_adapter("blue")))
    with pytest.raises(FineryError, match="no adapter named blue"):
        ids(loop, engine, adapter="blue")


def test_a_reader_that_leaves_makes_room(loop: asyncio.Runner, engine: VllmEngine) -> None:
    async def leave() -> int:
        for _ in range(20):
            async with aclosing(engine.generate(Generation(PROMPT, 1500))) as tokens:
                async for _ in tokens:
                    break
        return len(await made(engine))

    assert loop.run(within(60, leave())) == 8


def test_all_its_processes_end_with_it(loop: asyncio.Runner, engine: VllmEngine) -> None:
    guard = psutil.Process(engine._child.process.pid)
    all_of_them = [guard, *guard.children(recursive=True)]
    assert len(all_of_them) >= 2
    loop.run(engine.close())
    _, alive = psutil.wait_procs(all_of_them, timeout=10)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
