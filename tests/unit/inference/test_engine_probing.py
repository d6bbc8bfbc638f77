"""How fast an engine is said to be, and when an earlier comparison still holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import PROMPTS, Scripted

from finery.errors import FineryError
from finery.inference.engine import Generation, Token
from finery.inference.engines import probing
from finery.inference.engines.environments import Environment
from finery.inference.engines.probing import Speed
from finery.inference.open import Located


class Clock:
    """Time that passes when an engine makes a token, and not otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Timed(Scripted):
    """Every token takes `seconds`."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.left = 0

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        try:
            async for token in super().generate(wanted):
                self.clock.now += self.seconds
                yield token
        finally:
            self.left += 1


class Growing(Timed):
    """Each turn (an answer alone, then one with others) takes the next of `each`."""

    def __init__(self, clock: Clock, each: list[float]) -> None:
        super().__init__(clock, each[0])
        self.each = each

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        self.seconds = self.each[self.left // 2]
        async for token in super().generate(wanted):
            yield token


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(probing, "time", clock)
    return clock


def test_tokens_of_all_streams_count_together(clock: Clock) -> None:
    engine = Timed(clock, 0.01)
    assert asyncio.run(probing.speed(engine, PROMPTS, 3)) == pytest.approx(100)
    assert [wanted.prompt for wanted in engine.asked] == list(PROMPTS[:3])


def test_a_slow_engine_is_left_after_some_seconds(clock: Clock) -> None:
    engine = Timed(clock, 1.0)
    assert asyncio.run(probing.speed(engine, PROMPTS, 1)) == pytest.approx(1.0)
    assert clock.now == 3.0  # the token that ended later than SECONDS was the last
    assert engine.left == 1


def test_an_answer_keeps_within_the_context(clock: Clock) -> None:
    engine = Timed(clock, 0.01)
    engine.context = 12
    asyncio.run(probing.speed(engine, PROMPTS, 1))
    assert engine.asked[0].max_new_tokens == 10


def test_engines_take_turns_and_the_best_turn_counts(clock: Clock) -> None:
    fast, slow = Timed(clock, 0.01), Timed(clock, 0.1)
    found, failed = asyncio.run(probing.compare({"a": fast, "b": slow}, PROMPTS, 2))
    assert failed == {}
    assert found == {"a": Speed(100.0, 100.0, 2), "b": Speed(10.0, 10.0, 2)}
    assert found["a"].score > found["b"].score


def test_a_slow_machine_ends_the_comparison_behind_a_whole_turn(clock: Clock) -> None:
    slow, slower = Timed(clock, 1.0), Timed(clock, 3.0)
    found, _ = asyncio.run(probing.compare({"a": slow, "b": slower}, PROMPTS, 1, 5.0))
    assert found["a"].one > found["b"].one
    assert (slow.left, slower.left) == (2, 2)  # one answer, then one stream of them: one turn


def test_the_warming_turn_is_forgotten_where_others_follow(clock: Clock) -> None:
    found, _ = asyncio.run(probing.compare({"a": Growing(clock, [0.001, 0.01, 0.02])}, PROMPTS, 1))
    assert found["a"].one == pytest.approx(100)


def test_an_engine_without_a_token_has_no_speed(clock: Clock) -> None:
    class Silent(Scripted):
        async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
            return
            yield

    found, failed = asyncio.run(
        probing.compare({"a": Silent(), "b": Timed(clock, 0.01)}, PROMPTS, 2)
    )
    assert found.keys() == {"b"}
    assert "made no token" in failed["a"]


def test_a_damaged_file_is_no_comparison(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    probing.keep(path, {"torch": Speed(1.0, 2.0, 8)})
    assert probing.kept(path) == {"torch": Speed(1.0, 2.0, 8)}
    for damage in ("{", "[]", '{"engines": {"torch": {"one": 1}}}', '{"engines": 3}'):
        path.write_text(damage, encoding="utf-8")
        assert probing.kept(path) == {}
    assert probing.kept(tmp_path / "none.json") == {}


def test_a_comparison_holds_for_one_model_set_of_versions_and_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FINERY_HOME", str(tmp_path))
    monkeypatch.setattr(probing, "source_hash", lambda located: [str(located.model)])

    def place(model: str = "one", version: str = "1", streams: int = 8) -> Path:
        openvino = Environment("openvino", "cpu", (f"openvino=={version}",), "3.11.0")
        environments: Any = {"openvino": openvino, "torch": None}
        return probing.place_of(Located(Path(model)), environments, streams)

    assert place() == place()
    others = [place("two"), place(version="2"), place(streams=4)]
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    others.append(place())
    assert len({*others}) == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert place() not in others


def test_weights_of_more_than_a_gigabyte_are_not_small(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(probing.LARGEST)
    assert probing.is_small(tmp_path)
    (tmp_path / "more.safetensors").write_bytes(b"1")
    assert not probing.is_small(tmp_path)


def test_opened_engines_that_nobody_took_are_closed() -> None:
    closed = []

    class Open(Scripted):
        async def close(self) -> None:
            closed.append(self.precision)

    async def both() -> None:
        contest = probing.Contest(opened={"a": Open("int8"), "b": Open("float32")})
        contest.opened.pop("a")
        await contest.close()

    asyncio.run(both())
    assert closed == ["float32"]


def test_an_engine_that_cannot_be_opened_ranks_behind_all(tmp_path: Path, clock: Clock) -> None:
    def refuse() -> Any:
        raise FineryError("No memory.")

    engines = {"a": lambda: Timed(clock, 0.1), "b": refuse, "c": lambda: Timed(clock, 0.01)}
    path = tmp_path / "speeds" / "one.json"
    found = asyncio.run(probing.contest(engines, path, PROMPTS, 2))
    assert sorted("abcd", key=found.rank) == ["d", "c", "a", "b"]
    assert found.failed == {"b": "No memory"}
    assert not path.exists()
