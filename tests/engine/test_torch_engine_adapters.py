"""Several adapters of one base in one engine: each row answers as PEFT does with its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch_models import answers, ids, opened, plain_model, prompts, reference, write_family

from finery.errors import FineryError
from finery.inference.engine import Generation
from finery.inference.engines.torch_engine import open_torch_engine
from finery.inference.open import locate

MakeAdapter = Callable[..., Path]
SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: write_family(folder / name, name) for name in ("llama", "phi3", "olmo2")}


@pytest.fixture
def adapter(tmp_path: Path) -> MakeAdapter:
    """`adapter(base, name, seed, **settings)`: a random adapter as PEFT saves it."""

    def make(base: Path, name: str, seed: int, **settings: Any) -> Path:
        chosen: dict[str, Any] = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tuned = get_peft_model(plain_model(base), LoraConfig(**chosen))
            for parameter_name, parameter in tuned.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.data.normal_(std=0.3)
        tuned.save_pretrained(str(tmp_path / name), save_embedding_layers=False)
        return tmp_path / name

    return make


def with_adapter(base: Path, folder: Path) -> Any:
    return PeftModel.from_pretrained(plain_model(base), str(folder)).eval()


@pytest.mark.parametrize("name", ["llama", "phi3", "olmo2"])
def test_rows_of_different_adapters_in_one_batch_answer_as_peft_does(
    bases: dict[str, Path], adapter: MakeAdapter, name: str
) -> None:
    base = bases[name]
    targets = FUSED if name == "phi3" else SPLIT
    folders = {
        "one": adapter(base, "one", 1, target_modules=targets),
        "two": adapter(base, "two", 2, target_modules=targets[:2], r=2, use_rslora=True),
        "three": adapter(
            base,
            "three",
            3,
            target_modules=[targets[-1], "lm_head"],
            r=8,
            alpha_pattern={"down_proj": 3},
        ),
    }
    names = ["one", "", "two", "three", "one", "", "three", "two"]
    asked = prompts([5, 40, 12, 3, 30, 9, 25, 2])
    wanted = [Generation(p, 14, adapter=a) for p, a in zip(asked, names, strict=True)]
    found = answers(base, wanted, {"adapters": folders, "at_once": 8})
    models = {one: with_adapter(base, folder) for one, folder in folders.items()}
    models[""] = plain_model(base)
    expected = [reference(models[a], p, 14) for p, a in zip(asked, names, strict=True)]
    assert found == expected
    assert found[0] != reference(models[""], asked[0], 14)


def test_what_one_adapter_read_is_not_taken_for_anothers_prompt(
    bases: dict[str, Path], adapter: MakeAdapter
) -> None:
    base = bases["llama"]
    folders = {
        "one": adapter(base, "one", 1, target_modules=SPLIT),
        "two": adapter(base, "two", 2, target_modules=SPLIT),
    }
    (prompt,) = prompts([60])

    async def ask() -> list[list[int]]:
        engine = opened(base, adapters=folders)
        made = [await ids(engine, Generation(prompt, 8, adapter=a)) for a in ("one", "", "two")]
        await engine.close()
        return made

    models = [with_adapter(base, folders["one"]), plain_model(base)]
    models.append(with_adapter(base, folders["two"]))
    assert asyncio.run(ask()) == [reference(model, prompt, 8) for model in models]


def test_adapters_come_and_go_while_the_engine_answers(
    bases: dict[str, Path], adapter: MakeAdapter
) -> None:
    base = bases["phi3"]
    first = adapter(base, "first", 1, target_modules=FUSED)
    second = adapter(base, "second", 2, target_modules=FUSED)
    (prompt,) = prompts([20])

    async def ask() -> tuple[list[list[int]], dict[str, int]]:
        engine = opened(base)
        running = asyncio.create_task(ids(engine, Generation(prompt, 200)))
        await engine.add_adapter("tuned", first)
        old = await ids(engine, Generation(prompt, 8, adapter="tuned"))
        sizes = engine.adapters
        await engine.add_adapter("tuned", second)  # a newer one of that name
        new = await ids(engine, Generation(prompt, 8, adapter="tuned"))
        await engine.remove_adapter("tuned")
        with pytest.raises(FineryError, match="no adapter named tuned"):
            await ids(engine, Generation(prompt, 8, adapter="tuned"))
        plain = await running
        await engine.close()
        return [old, new, plain[:8]], sizes

    made, sizes = asyncio.run(ask())
    models = [with_adapter(base, first), with_adapter(base, second), plain_model(base)]
    assert made == [reference(model, prompt, 8) for model in models]
    weights = sum(p.numel() for p in plain_model(base).parameters()) * 4
    assert 0 < sizes["tuned"] < weights


def test_an_unloaded_adapter_leaves_nothing_behind(
    bases: dict[str, Path], adapter: MakeAdapter
) -> None:
    base = bases["llama"]
    folder = adapter(base, "one", 1, target_modules=SPLIT)

    async def ask() -> tuple[int, int]:
        engine = opened(base, adapters={"one": folder})
        await ids(engine, Generation((1, 2, 3), 4, adapter="one"))
        adapters, slots = engine._adapters, engine._thread.runner.slots
        assert adapters is not None
        await engine.remove_adapter("one")
        await ids(engine, Generation((1, 2, 3), 4))
        left = sum(slot.adapter is not None for slot in slots._slots)
        await engine.close()
        return len(adapters._sets), left

    assert asyncio.run(ask()) == (0, 0)


def test_the_adapter_that_a_deployment_names_is_part_of_the_model(
    bases: dict[str, Path], adapter: MakeAdapter
) -> None:
    base = bases["phi3"]
    folder = adapter(base, "dora", 4, target_modules=FUSED, use_dora=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (prompt,) = prompts([20])

    async def ask() -> list[int]:
        engine = open_torch_engine(locate(str(folder)), device="cpu", precision="float32")
        made = await ids(engine, Generation(prompt, 12))
        await engine.close()
        return made

    assert asyncio.run(ask()) == reference(with_adapter(base, folder), prompt, 12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": ["q_proj"], "use_dora": True}, "use_dora"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, "modules_to_save"),
        ({"target_modules": ["q_proj"], "bias": "all"}, "bias"),
    ],
)
def test_an_adapter_that_cannot_go_row_by_row_is_refused(
    bases: dict[str, Path], adapter: MakeAdapter, settings: dict[str, Any], said: str
) -> None:
    folder = adapter(bases["llama"], "strange", 1, **settings)
    with pytest.raises(FineryError, match=said):
        opened(bases["llama"], adapters={"strange": folder})


def test_an_adapter_of_another_base_is_refused(
    bases: dict[str, Path], adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = adapter(bases["phi3"], "phi", 1, target_modules=FUSED)
    with pytest.raises(FineryError, match="no linear layer of this model"):
        opened(bases["llama"], adapters={"phi": folder})
