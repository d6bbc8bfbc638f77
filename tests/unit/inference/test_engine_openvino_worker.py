"""What the OpenVINO worker does beside the pipeline, without OpenVINO."""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llguidance import LLTokenizer

from finery.inference.engines import worker_openvino
from finery.inference.engines.worker_openvino import FINISHED, RUNNING, Guided, Piped, Worker

WORDS = ["<eos>", *(chr(code) for code in range(32, 127))]
EOS = 0
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["n", "ok"],
    "additionalProperties": False,
}


def rules() -> LLTokenizer:
    """One token a printable character, and an end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    return LLTokenizer(tokenizer.to_str(), n_vocab=257, eos_token=256)


class Reader:
    """A model whose logits are noise."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.seen: list[int] = []
        self.logits = self.random.normal(size=257)

    def read(self, ids: list[int]) -> None:
        self.seen += ids
        self.logits = self.random.normal(size=257)


def wanted(**settings: Any) -> dict[str, Any]:
    return {
        "prompt": [1, 2],
        "max_new_tokens": 200,
        "stop_ids": [256],
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "logprobs": None,
        "schema": SCHEMA,
        **settings,
    }


def whole(answer: Guided) -> list[list[Any]]:
    made = []
    while answer.status() == RUNNING:
        made += answer.take()
    return made


def text(made: list[list[Any]]) -> str:
    alphabet = rules()
    return alphabet.decode_str([token for token, *_ in made if token != 256])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_whatever_the_model_says_the_answer_follows_its_schema(
    seed: int, temperature: float
) -> None:
    settings = wanted(temperature=temperature, seed=seed)
    made = whole(Guided(settings, rules(), Reader(seed)))
    if made[-1][0] == 256:  # else the limit came first: a number may go on for ever
        value = json.loads(text(made))
        assert set(value) == {"n", "ok"}
        assert isinstance(value["ok"], bool)
    else:
        assert len(made) == 200


def test_it_ends_where_the_limit_is() -> None:
    assert len(whole(Guided(wanted(max_new_tokens=3), rules(), Reader()))) == 3


def test_without_stop_ids_it_ends_with_the_document() -> None:
    schema = {"enum": ["yes"]}
    made = whole(Guided(wanted(schema=schema, stop_ids=[]), rules(), Reader()))
    assert text(made) == '"yes"'


def test_the_same_seed_draws_the_same_answer_and_another_another() -> None:
    def drawn(seed: int) -> list[list[Any]]:
        schema = {"type": "string", "maxLength": 20}
        settings = wanted(schema=schema, temperature=1.0, seed=seed)
        return whole(Guided(settings, rules(), Reader()))

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_top_k_of_one_is_greedy() -> None:
    greedy = whole(Guided(wanted(), rules(), Reader()))
    assert whole(Guided(wanted(temperature=2.0, top_k=1), rules(), Reader())) == greedy
    assert whole(Guided(wanted(temperature=2.0, top_p=1e-9), rules(), Reader())) == greedy


def test_penalties_count_what_the_answer_has() -> None:
    class Fixed(Reader):
        def read(self, ids: list[int]) -> None:
            self.seen += ids  # the same logits for ever

    schema = {"type": "string", "maxLength": 30}
    plain = [token for token, *_ in whole(Guided(wanted(schema=schema), rules(), Fixed()))]
    fair = wanted(schema=schema, frequency_penalty=1.0)
    varied = [token for token, *_ in whole(Guided(fair, rules(), Fixed()))]
    assert len(set(varied)) > len(set(plain))


def test_a_schema_that_cannot_be_followed_is_refused_at_once() -> None:
    for schema in ({"type": "objekt"}, {"$ref": "#/nowhere"}):
        with pytest.raises(ValueError, match="schema cannot be"):
            Guided(wanted(schema=schema), rules(), Reader())


def test_log_probabilities_are_of_the_models_own_distribution() -> None:
    reader = Reader()
    before = reader.logits.copy()
    [[token, logprob, likeliest]] = Guided(wanted(logprobs=3), rules(), reader).take()
    expected = before - before.max()
    expected = expected - np.log(np.exp(expected).sum())
    assert logprob == pytest.approx(expected[token])
    assert [one for one, _ in likeliest] == np.argsort(-before)[:3].tolist()


class Handle:
    """A pipeline's handle that holds the given steps."""

    def __init__(self, steps: list[list[int]], status: str = FINISHED) -> None:
        self.steps = steps
        self.end = status
        self.cancelled = False

    def can_read(self) -> bool:
        return bool(self.steps)

    def read(self) -> dict[int, Any]:
        return {0: SimpleNamespace(generated_ids=self.steps.pop(0))}

    def get_status(self) -> Any:
        return SimpleNamespace(name=self.end)

    def cancel(self) -> None:
        self.cancelled = True


def test_a_piped_answer_is_whole_when_all_of_it_was_read() -> None:
    answer = Piped(Handle([[5], [6, 7]]), None, 0)
    assert answer.status() == RUNNING
    assert answer.take() == [[5], [6], [7]]
    assert answer.status() == FINISHED


def test_beside_the_pipeline_the_model_reads_what_was_made() -> None:
    reader = Reader()
    made = Piped(Handle([[5], [6]]), reader, 1).take()  # pyright: ignore[reportArgumentType]
    assert [len(one) for one in made] == [3, 3]
    assert reader.seen == [5, 6]


class Pipeline:
    """Adds handles and steps; `refuses` makes adding fail."""

    def __init__(self) -> None:
        self.added: list[int] = []
        self.handles: list[Handle] = []
        self.refuses = False

    def has_non_finished_requests(self) -> bool:
        return False

    def add_request(self, number: int, prompt: Any, settings: Any) -> Handle:
        if self.refuses:
            raise RuntimeError("Check failed at cpp:12:\nthe temperature is out of range")
        self.added.append(number)
        self.handles.append(Handle([[number]]))
        return self.handles[-1]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Tensor=lambda array: array))
    monkeypatch.setattr(worker_openvino, "_settings", lambda message: message)
    made = object.__new__(Worker)
    made.pipeline, made.answers = Pipeline(), {}

    def step(*messages: dict[str, Any]) -> dict[str, list[Any]]:
        asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for message in messages:
            asked.put(message)
        return made.step(asked)

    step.pipeline = made.pipeline  # pyright: ignore[reportFunctionMemberAccess]
    return step


def test_a_step_takes_in_all_that_is_asked(worker: Any) -> None:
    told = worker({"add": 4, **wanted(schema=None)}, {"add": 5, **wanted(schema=None)})
    assert told == {"tokens": [[4, 4], [5, 5]], "ended": [4, 5], "refused": []}


def test_what_the_pipeline_refuses_is_told_in_its_last_line(worker: Any) -> None:
    worker.pipeline.refuses = True
    told = worker({"add": 4, **wanted(schema=None)})
    assert told["refused"] == [[4, "the temperature is out of range"]]


def test_a_prompt_without_room_in_the_cache_is_told(worker: Any) -> None:
    worker.pipeline.add_request = lambda *_: Handle([], "IGNORED")
    told = worker({"add": 4, **wanted(schema=None)})
    assert told["refused"] == [[4, "the pipeline ended it as IGNORED"]]


def test_a_cancelled_answer_leaves_the_pipeline(worker: Any) -> None:
    worker({"add": 4, **wanted(schema=None)}, {"cancel": 4}, {"add": 5, **wanted(schema=None)})
    assert [handle.cancelled for handle in worker.pipeline.handles] == [True, False]


def test_stop_ids_are_the_requests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(GenerationConfig=lambda **given: given)
    monkeypatch.setitem(sys.modules, "openvino_genai", config)
    given = worker_openvino._settings(wanted(stop_ids=[7, 9], schema=None))
    assert given["stop_token_ids"] == {7, 9}
    assert given["eos_token_id"] == 7
    assert given["ignore_eos"] is False
    assert "do_sample" not in given
    none: Any = worker_openvino._settings(wanted(stop_ids=[], schema=None, temperature=0.5, seed=3))
    assert none["ignore_eos"] is True
    assert "stop_token_ids" not in none
    assert (none["do_sample"], none["temperature"], none["rng_seed"]) == (True, 0.5, 3)
    assert "top_k" not in none  # 0 would be none at all
