"""From an ask to text: stop rules, reasons, usage and seeds, exactly, for every way to end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from small_replica import ALL, END, Scripted, scripted

from finery.errors import FineryError
from finery.inference.answering import (
    End,
    Event,
    Limits,
    Piece,
    Plan,
    answers,
    plan,
    stop_ids,
)
from finery.inference.detokenizing import Words
from finery.inference.engine import EngineLostError, Generation
from finery.inference.engines.stub import stub_renderer
from finery.inference.protocol.asks import Ask
from finery.inference.protocol.refusals import RefusedError

RENDERER = stub_renderer()
WORDS = Words(RENDERER)
LIMITS = Limits(512, ALL, RENDERER.stop_ids, "scripted")
HELLO = ({"role": "user", "content": "Hello"},)


def planned(**settings: Any) -> Plan:
    return plan(Ask(HELLO, **settings), RENDERER, LIMITS)


def told(engine: Scripted, *plans: Plan) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for event in answers(engine.generate, plans, WORDS)]

    return asyncio.run(collect())


def text_of(events: list[Event], index: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, Piece) and e.index == index)


def end_of(events: list[Event], index: int = 0) -> End:
    (end,) = [event for event in events if isinstance(event, End) and event.index == index]
    return end


def test_the_end_of_turn_ends_an_answer_and_counts() -> None:
    events = told(scripted(f"yes{END}no"), planned())
    assert text_of(events) == "yes"
    assert end_of(events).reason == "stop"
    assert end_of(events).completion_tokens == 4
    assert end_of(events).prompt_tokens == len(RENDERER.prompt(HELLO))


def test_an_answer_of_nothing_but_the_end_is_empty() -> None:
    events = told(scripted(END), planned())
    assert (text_of(events), end_of(events).completion_tokens) == ("", 1)


def test_max_tokens_end_an_answer_for_its_length() -> None:
    events = told(scripted("yes and no"), planned(max_new_tokens=3))
    assert text_of(events) == "yes"
    assert (end_of(events).reason, end_of(events).completion_tokens) == ("length", 3)


def test_an_end_of_turn_at_the_last_token_is_a_stop() -> None:
    events = told(scripted(f"yes{END}"), planned(max_new_tokens=4))
    assert end_of(events).reason == "stop"


def test_the_context_ends_an_answer_for_its_length() -> None:
    room = 512 - len(RENDERER.prompt(HELLO))
    events = told(scripted("a" * 1000), planned())
    assert text_of(events) == "a" * room
    assert (end_of(events).reason, end_of(events).completion_tokens) == ("length", room)
    long = planned(max_new_tokens=10_000)
    assert long.generation.max_new_tokens == room, "prompt and answer fit the engine's context"


def test_an_engine_that_ends_by_itself_has_stopped() -> None:
    events = told(scripted("{}"), planned(max_new_tokens=9))
    assert (end_of(events).reason, end_of(events).completion_tokens) == ("stop", 2)


def test_no_tokens_wanted_is_no_work_for_the_engine() -> None:
    engine = scripted("yes")
    events = told(engine, planned(max_new_tokens=0))
    assert (end_of(events).reason, end_of(events).completion_tokens) == ("length", 0)
    assert not engine.wanted


@pytest.mark.parametrize("stops", [("END",), ("D", "END"), ("ENDING", "END"), ("END", "x")])
def test_an_answer_ends_before_the_first_stop_text(stops: tuple[str, ...]) -> None:
    engine = scripted("the END of it")
    events = told(engine, planned(stop=stops))
    assert text_of(events) == "the "
    assert (end_of(events).reason, end_of(events).completion_tokens) == ("stop", 7)
    assert engine.made == 7, "the engine works no further than the stop text"


def test_what_only_began_like_a_stop_text_is_shown() -> None:
    events = told(scripted("the EN of it EN"), planned(stop=("END",)))
    assert text_of(events) == "the EN of it EN"
    early = [e.text for e in events if isinstance(e, Piece)][:4]
    assert "E" not in "".join(early), "it could have been the stop text"


def test_a_stop_text_is_found_when_the_last_character_completes_it() -> None:
    events = told(scripted("now €€"), planned(stop=("€€",)))
    assert (text_of(events), end_of(events).reason) == ("now ", "stop")


def test_pieces_are_whole_characters() -> None:
    events = told(scripted("naïve 👩‍👩‍👧 日本"), planned())
    assert text_of(events) == "naïve 👩‍👩‍👧 日本"
    assert not any("\ufffd" in e.text for e in events if isinstance(e, Piece))


def test_a_first_piece_comes_with_the_first_token_even_without_text() -> None:
    events = told(scripted("€"), planned())
    assert [e.text for e in events if isinstance(e, Piece)] == ["", "€"]


def test_end_of_turn_is_ignored_on_demand() -> None:
    events = told(scripted(f"a{END}b"), planned(ends=False, max_new_tokens=3))
    assert (text_of(events), end_of(events).completion_tokens) == ("ab", 3)
    assert end_of(events).reason == "length"


def test_every_token_has_its_log_probability_and_bytes() -> None:
    events = told(scripted(f"é!{END}"), planned(logprobs=2))
    tokens = [token for e in events if isinstance(e, Piece) for token in e.tokens]
    assert b"".join(token.data or b"" for token in tokens).decode() == text_of(events) == "é!"
    assert [token.logprob for token in tokens] == [-0.5, -0.5, -0.5]
    assert [token.offset for token in tokens] == [0, 0, 1]
    assert all(len(token.likeliest) == 2 for token in tokens)


def test_tokens_behind_a_stop_text_are_not_told() -> None:
    events = told(scripted("abXcd"), planned(logprobs=0, stop=("X",)))
    tokens = [token.text for e in events if isinstance(e, Piece) for token in e.tokens]
    assert tokens == ["a", "b"]
    assert end_of(events).completion_tokens == 3


def test_several_answers_have_seeds_of_their_own_and_come_together() -> None:
    engine = scripted(f"one{END}", f"two{END}", f"three{END}", pause=0.001)
    events = told(engine, planned(count=3, seed=7))
    assert [text_of(events, index) for index in range(3)] == ["one", "two", "three"]
    seeds = [wanted.seed for wanted in engine.wanted]
    assert len(set(seeds)) == 3
    assert seeds[0] == 7, "the first is the answer that would be given alone"
    begun = [event.index for event in events[:3]]
    assert sorted(begun) == [0, 1, 2], "none waits for another to end"
    assert seeds == [planned(count=3, seed=7).numbered(n).seed for n in range(3)]


def test_several_plans_are_numbered_one_after_the_other() -> None:
    engine = scripted(f"a{END}", f"b{END}", f"c{END}")
    events = told(engine, planned(count=2), planned())
    assert [text_of(events, index) for index in range(3)] == ["a", "b", "c"]


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_of_the_engine_reaches_the_caller_and_ends_all(count: int) -> None:
    engine = scripted("abc", error=EngineLostError("gone"), after=1)
    with pytest.raises(EngineLostError, match="gone"):
        told(engine, planned(count=count))
    assert engine.closed == len(engine.wanted) == count


@pytest.mark.parametrize("count", [1, 3])
def test_a_reader_who_leaves_stops_the_engine_within_a_token(count: int) -> None:
    engine = scripted("abcdefgh" * 50, pause=0.001)

    async def leave() -> int:
        async with aclosing(answers(engine.generate, [planned(count=count)], WORDS)) as events:
            async for _ in events:
                break
        made = engine.made
        assert engine.closed == count
        await asyncio.sleep(0.02)
        return made

    assert asyncio.run(leave()) == engine.made <= 2 * count


def test_a_cancelled_reader_stops_the_engine() -> None:
    engine = scripted("abcdefgh" * 50, pause=0.001)

    async def work() -> None:
        async def read() -> None:
            async for _ in answers(engine.generate, [planned()], WORDS):
                pass

        task = asyncio.create_task(read())
        while not engine.made:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert engine.closed == 1

    asyncio.run(work())


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(RefusedError, match="context of 512 tokens") as told_:
        plan(Ask(({"role": "user", "content": "a" * 600},)), RENDERER, LIMITS)
    assert told_.value.refusal.code == "context_length_exceeded"


def test_a_plain_prompt_is_taken_as_it_stands() -> None:
    made = plan(Ask(prompt="ab", max_new_tokens=2), RENDERER, LIMITS)
    assert RENDERER.decode(made.generation.prompt) == "ab"
    assert plan(Ask(prompt=(5, 6)), RENDERER, LIMITS).generation.prompt == (5, 6)


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        (Ask(prompt=""), "prompt"),
        (Ask(prompt=(10_000,)), "prompt"),
        (Ask(HELLO, tools=({"type": "function", "function": {"name": "f"}},)), "tools"),
    ],
)
def test_what_cannot_be_rendered_is_refused_by_name(ask: Ask, param: str) -> None:
    with pytest.raises(RefusedError) as refused:
        plan(ask, RENDERER, LIMITS)
    assert refused.value.refusal.param == param


def test_tools_the_model_may_not_call_are_not_shown() -> None:
    tools = ({"type": "function", "function": {"name": "f"}},)
    assert plan(Ask(HELLO, tools=tools, calls=False), RENDERER, LIMITS).generation.prompt


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"logprobs": 0}, "logprobs"),
        ({"schema": {"type": "object"}}, "response_format"),
        ({"schema": {"type": "object"}, "forced": True}, "tool_choice"),
        ({"frequency_penalty": 1.0}, "frequency_penalty"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(settings: Any, param: str) -> None:
    limits = replace(LIMITS, features=frozenset())
    with pytest.raises(RefusedError, match="scripted") as told_:
        plan(Ask(HELLO, **settings), RENDERER, limits)
    assert told_.value.refusal.param == param
    assert plan(Ask(HELLO, **settings), RENDERER, LIMITS)


def test_a_generation_carries_every_setting() -> None:
    ask = Ask(
        HELLO,
        max_new_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        seed=4,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        logprobs=2,
        schema={"type": "object"},
    )
    prompt = tuple(RENDERER.prompt(HELLO))
    assert plan(ask, RENDERER, LIMITS).generation == Generation(
        prompt, 5, LIMITS.stop_ids, 0.5, 0.9, 3, 4, 0.1, 0.2, 2, {"type": "object"}
    )


def test_a_token_without_its_log_probability_is_a_fault_of_the_engine() -> None:
    class Silent(Scripted):
        async def generate(self, wanted: Generation) -> Any:
            async for token in super().generate(replace(wanted, logprobs=None)):
                yield token

    with pytest.raises(FineryError, match="log-probability"):
        told(Silent(RENDERER, "abc"), planned(logprobs=0))


@pytest.mark.parametrize(
    ("files", "own"),
    [
        ({"generation_config.json": '{"eos_token_id": [7, 9]}'}, {7, 9}),
        ({"generation_config.json": '{"eos_token_id": 7}', "config.json": "{}"}, {7}),
        ({"generation_config.json": "{}", "config.json": '{"eos_token_id": 8}'}, set()),
        ({"config.json": '{"eos_token_id": 8}'}, {8}),
        ({}, set()),
    ],
)
def test_the_models_own_ends_count_too(tmp_path: Any, files: dict[str, str], own: set[int]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert set(stop_ids(tmp_path, RENDERER)) == own | set(RENDERER.stop_ids)
