"""The torch engine answers what transformers' own generate answers, whatever its rows do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_models import (
    FAMILIES,
    answers,
    ids,
    opened,
    plain_model,
    prompts,
    reference,
    tokens,
    write_family,
)

from finery.chat.render import load_renderer
from finery.errors import FineryError
from finery.inference.engine import EngineLostError, Generation, Token
from finery.inference.engines import torch_loop
from finery.inference.engines.torch_engine import TorchEngine

Family = Callable[[str], Path]
LENGTHS = (3, 70, 1, 33, 8, 150, 21, 2, 90, 12)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """`family(name)`: the folder of a tiny model."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = write_family(tmp_path_factory.mktemp("families") / name, name)
        return made[name]

    return make


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are read in pieces that these short ones have several of."""
    monkeypatch.setattr(torch_loop, "PIECE", 48)
    monkeypatch.setattr(torch_loop, "SHARED_PIECE", 20)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_that_join_at_different_moments_answer_as_generate_does(
    family: Family, name: str
) -> None:
    folder = family(name)
    asked = prompts(LENGTHS)

    async def ask() -> tuple[list[list[int]], dict[str, Any]]:
        engine = opened(folder)
        got = [
            ids(engine, Generation(prompt, 10 + 3 * i), after=0.004 * i)
            for i, prompt in enumerate(asked)
        ]
        try:
            return await asyncio.gather(*got), engine.info
        finally:
            await engine.close()

    found, info = asyncio.run(ask())
    model = plain_model(folder)
    wanted = [reference(model, prompt, 10 + 3 * i) for i, prompt in enumerate(asked)]
    assert found == wanted
    assert info["form"] == FAMILIES[name][2], info


def test_a_real_model_answers_as_generate_does(kit: Path) -> None:
    folder = kit / "model" / "stories15m-phi3"
    renderer = load_renderer(folder)
    texts = ("Once upon a time", "The cat", "A little girl named Lily went to the park and")
    asked = [tuple(renderer.tokenizer(text)["input_ids"]) for text in texts]
    found = answers(folder, [Generation(prompt, 40) for prompt in asked])
    model = plain_model(folder)
    assert found == [reference(model, prompt, 40) for prompt in asked]


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_row_answers_alone_what_it_answers_among_others(family: Family, precision: str) -> None:
    asked = [Generation(prompt, 20, logprobs=2) for prompt in prompts(LENGTHS)]
    options = {"precision": precision, "at_once": 8}
    together = whole_answers(family("phi3"), asked, options)
    alone = [whole_answers(family("phi3"), [one], options)[0] for one in asked[:4]]
    for one, other in zip(together, alone, strict=False):
        pairs = zip(one, other, strict=True)
        parting = next((pair for pair in pairs if len({*ids_of(pair)}) > 1), None)
        if parting:  # attention sums in another order in company: a near tie may fall otherwise
            assert {token for token, _ in parting[0].likeliest} == {*ids_of(parting)}
            assert abs(parting[0].likeliest[0][1] - parting[0].likeliest[1][1]) < NEAR[precision]


NEAR = {"bfloat16": 0.01, "int8": 0.1}  # nats; an 8-bit activation's step is 1/127 of the largest


def ids_of(made: Sequence[Token]) -> list[int]:
    return [token.id for token in made]


def whole_answers(
    folder: Path, wanted: Sequence[Generation], options: dict[str, Any]
) -> list[list[Token]]:
    async def ask() -> list[list[Token]]:
        engine = opened(folder, **options)
        try:
            return await asyncio.gather(*[tokens(engine, one) for one in wanted])
        finally:
            await engine.close()

    return asyncio.run(ask())


def test_an_answer_ends_at_its_stop_id_and_has_it_as_its_last_token(family: Family) -> None:
    folder = family("llama")
    (prompt,) = prompts([9])
    whole = reference(plain_model(folder), prompt, 20)
    stop = whole[6]
    (found,) = answers(folder, [Generation(prompt, 20, (stop,))])
    assert found == whole[: whole.index(stop) + 1]


def test_a_shared_prefix_is_read_once_and_changes_nothing(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = family("phi3")
    (system, first, second) = prompts([100, 7, 12])
    model = plain_model(folder)

    async def ask() -> tuple[list[list[int]], list[int]]:
        engine = opened(folder)
        spent = _count_tokens(engine, monkeypatch)
        one = await ids(engine, Generation((*system, *first), 15))
        two, three = await asyncio.gather(
            ids(engine, Generation((*system, *second), 15)),
            ids(engine, Generation((*system, *first, *one, *second), 15)),
        )
        await engine.close()
        return [one, two, three], spent

    (one, two, three), spent = asyncio.run(ask())
    assert one == reference(model, (*system, *first), 15)
    assert two == reference(model, (*system, *second), 15)
    assert three == reference(model, (*system, *first, *one, *second), 15)
    # the system prompt once; the second turn reads what is new, and the last token of the first
    # answer, which was never fed
    assert sum(spent) == (100 + 7 + 14) + (12 + 14) + (1 + 12 + 14)


def test_a_prompt_that_was_read_whole_before_computes_its_last_token_alone(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prompt,) = prompts([60])

    async def ask() -> tuple[list[int], list[int], list[int]]:
        engine = opened(family("llama"))
        first = await ids(engine, Generation(prompt, 5))
        spent = _count_tokens(engine, monkeypatch)
        second = await ids(engine, Generation(prompt, 5))
        await engine.close()
        return first, second, spent

    first, second, spent = asyncio.run(ask())
    assert first == second
    assert sum(spent) == 5


def _count_tokens(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each step took, from now on."""
    runner = engine._thread.runner
    forward, spent = runner.forward, []

    def counted(spans: Any) -> torch.Tensor:
        spent.append(sum(span.count for span in spans))
        return forward(spans)

    monkeypatch.setattr(runner, "forward", counted)
    return spent


def test_a_reader_that_leaves_frees_its_place_at_the_next_step(family: Family) -> None:
    async def ask() -> tuple[int, list[int]]:
        engine = opened(family("llama"), at_once=1)
        (prompt,) = prompts([5])
        async with contextlib.aclosing(engine.generate(Generation(prompt, 500))) as stream:
            async for _ in stream:
                break
        # the only place is free again: this would wait for 500 tokens otherwise
        answer = await ids(engine, Generation(prompt, 3))
        made = max(len(slot.ids) for slot in engine._thread.runner.slots._slots)
        await engine.close()
        return made, answer

    made, answer = asyncio.run(ask())
    assert len(answer) == 3
    assert made < 400


def test_more_rows_than_places_wait_in_line_and_all_are_answered(family: Family) -> None:
    folder = family("llama")
    asked = prompts([4] * 9)
    found = answers(folder, [Generation(prompt, 12) for prompt in asked], {"at_once": 2})
    model = plain_model(folder)
    assert found == [reference(model, prompt, 12) for prompt in asked]


def test_a_long_prompt_does_not_hold_up_an_answer_that_runs(family: Family) -> None:
    async def ask() -> int:
        engine = opened(family("llama"))
        short, long = prompts([4, 400])
        stream = engine.generate(Generation(short, 100))
        await anext(stream)
        reading = asyncio.create_task(ids(engine, Generation(long, 1)))
        between = 0
        while not reading.done():
            await anext(stream)
            between += 1
        await stream.aclose()
        await engine.close()
        return between

    assert asyncio.run(ask()) >= 400 // 20  # one token for every piece of 20


SETTINGS = [
    {"temperature": 0.8},
    {"temperature": 1.3, "top_k": 12},
    {"temperature": 1.0, "top_p": 0.7},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 30},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_seeded_draw_is_that_of_generate_whoever_is_in_the_batch(
    family: Family, settings: dict[str, Any]
) -> None:
    folder = family("phi3")
    asked = prompts([6, 40, 17, 3])
    wanted = [Generation(p, 15, seed=40 + i, **settings) for i, p in enumerate(asked)]
    together = answers(folder, wanted)
    alone = answers(folder, wanted[2:3])
    model = plain_model(folder)
    for i, prompt in enumerate(asked):
        assert together[i] == reference(model, prompt, 15, seed=40 + i, **settings)
    assert together[2] == alone[0]


def test_two_seeds_give_two_answers(family: Family) -> None:
    (prompt,) = prompts([6])
    wanted = [Generation(prompt, 15, temperature=1.0, seed=seed) for seed in (1, 2)]
    first, second = answers(family("llama"), wanted)
    assert first != second


def test_logprobs_are_those_of_the_models_own_distribution(family: Family) -> None:
    folder = family("qwen2")
    (prompt,) = prompts([11])

    async def ask() -> Any:
        engine = opened(folder)
        wanted = Generation(
            prompt, 8, temperature=2.0, top_k=3, presence_penalty=1.0, logprobs=4, seed=3
        )
        try:
            return await tokens(engine, wanted)
        finally:
            await engine.close()

    made = asyncio.run(ask())
    whole = torch.tensor([[*prompt, *[token.id for token in made]]])
    with torch.inference_mode():
        logits = plain_model(folder)(whole).logits[0, len(prompt) - 1 : -1]
    for token, expected in zip(made, torch.log_softmax(logits.float(), -1), strict=True):
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-4)
        top = expected.topk(4)
        assert [one for one, _ in token.likeliest] == top.indices.tolist()
        assert [p for _, p in token.likeliest] == pytest.approx(top.values.tolist(), abs=1e-4)


def test_penalties_keep_a_token_from_coming_back(family: Family) -> None:
    (prompt,) = prompts([6])
    plain, held = answers(
        family("llama"),
        [Generation(prompt, 40), Generation(prompt, 40, presence_penalty=100.0)],
    )
    assert len(set(plain)) < 40
    assert len(set(held)) == 40


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"enum": ["small", "big"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "size", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_schema_makes_an_answer_that_parses_while_others_are_free(
    family: Family, temperature: float
) -> None:
    folder = family("llama")
    free, asked = prompts([5, 9])
    renderer = load_renderer(folder)
    bound, other = answers(
        folder,
        [
            Generation(asked, 200, (258,), temperature=temperature, seed=5, schema=SCHEMA),
            Generation(free, 30),
        ],
    )
    value = json.loads(renderer.decode(bound))
    assert set(value) == {"name", "size", "age"}
    assert value["size"] in ("small", "big")
    assert 0 <= value["age"] <= 120
    assert bound[-1] == 258
    assert other == reference(plain_model(folder), free, 30)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_new_tokens": 510}, "the context holds 512"),
        ({"prompt": ()}, "no token"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"adapter": "nobody"}, "no adapter named nobody"),
        ({"schema": {"type": "object", "patternProperties": {"(": {}}}}, "schema"),
        ({"prompt": (1, 264)}, "264"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_the_first_token(
    family: Family, changed: dict[str, Any], said: str
) -> None:
    settings = {"prompt": (1, 2, 3), "max_new_tokens": 4, **changed}
    with pytest.raises(FineryError, match=said):
        answers(family("llama"), [Generation(**settings)])


def test_a_step_that_fails_ends_the_engine_and_every_answer_says_why(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> tuple[list[Any], str, Any]:
        engine = opened(family("llama"))
        assert engine.health() == ""

        def broken(spans: Any) -> Any:
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(engine._thread.runner, "forward", broken)
        wanted = [ids(engine, Generation((1, 2, 3), 5)) for _ in range(6)]
        ended = await asyncio.gather(*wanted, return_exceptions=True)
        after = await asyncio.gather(ids(engine, Generation((1, 2), 5)), return_exceptions=True)
        health = engine.health()
        await engine.close()
        return ended, health, after[0]

    ended, health, after = asyncio.run(ask())
    assert all(isinstance(error, EngineLostError) for error in [*ended, after])
    assert "the device is gone" in health
    assert "the device is gone" in str(ended[0])


def test_closing_ends_the_answers_that_run_and_frees_the_model(family: Family) -> None:
    async def ask() -> tuple[Any, str]:
        engine = opened(family("llama"))
        running = asyncio.create_task(ids(engine, Generation((1, 2, 3), 500)))
        await asyncio.sleep(0.02)
        held = weakref.ref(engine._thread.runner)
        await engine.close()
        (ended,) = await asyncio.gather(running, return_exceptions=True)
        gc.collect()
        assert held() is None, "the model is still in memory"
        await engine.close()  # again: nothing is left to do
        (after,) = await asyncio.gather(ids(engine, Generation((1, 2), 5)), return_exceptions=True)
        assert isinstance(after, EngineLostError)
        return ended, engine.health()

    ended, health = asyncio.run(ask())
    assert isinstance(ended, EngineLostError)
    assert "closed" in health
