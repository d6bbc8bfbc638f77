"""Answers of real small models: batches, streams, stops and seeds."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from finery.chat.conversation import Conversation
from finery.chat.render import load_renderer
from finery.errors import FineryError
from finery.evaluation.answers import answer_rows
from finery.inference.generate import generate, stream
from finery.inference.open import open_model
from finery.model.load import load_model
from finery.model.lora import Lora, attach_lora

PROMPTS = [
    [{"role": "user", "content": text}]
    for text in (
        "Tell me a story.",
        "Once upon a time there was a big dog who lived in a small house near the sea. Go on.",
        "Lily",
        "What did the little bird say to the cat?",
        "Write about a boy named Tim and his red ball, please.",
    )
]


@pytest.fixture(scope="module")
def story(kit: Path) -> tuple[Any, Any]:
    folder = kit / "model" / "stories15m-phi3"
    return load_model(folder, precision="32", device="cpu"), load_renderer(folder)


def test_a_batch_gives_each_prompt_its_own_answer_in_order(story: tuple[Any, Any]) -> None:
    model, renderer = story
    batched = generate(model, renderer, PROMPTS, max_new_tokens=16, batch_size=3)
    for prompt, answer in zip(PROMPTS, batched, strict=True):
        (alone,) = generate(model, renderer, [prompt], max_new_tokens=16)
        assert alone.text == answer.text
        assert answer.prompt_tokens == len(renderer.prompt(prompt))
        assert (answer.new_tokens, answer.finish_reason) == (16, "length")


def test_greedy_answers_take_the_most_likely_token_each_time(story: tuple[Any, Any]) -> None:
    model, renderer = story
    ids = renderer.prompt(PROMPTS[1])
    start = len(ids)
    with torch.inference_mode():
        for _ in range(10):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    (answer,) = generate(model, renderer, PROMPTS[1:2], max_new_tokens=10)
    assert answer.text == renderer.decode(ids[start:])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_streamed_answer_is_the_generated_one(story: tuple[Any, Any], temperature: float) -> None:
    model, renderer = story
    settings: dict[str, Any] = {"max_new_tokens": 24, "temperature": temperature, "seed": 4}
    (answer,) = generate(model, renderer, PROMPTS[:1], **settings)
    pieces = list(stream(model, renderer, PROMPTS[0], **settings))
    assert len(pieces) > 5
    assert "".join(pieces) == answer.text


def test_sampling_repeats_with_its_seed_alone_or_batched(story: tuple[Any, Any]) -> None:
    model, renderer = story
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0}
    before = torch.get_rng_state()
    first = [a.text for a in generate(model, renderer, PROMPTS, seed=1, batch_size=5, **settings)]
    again = [a.text for a in generate(model, renderer, PROMPTS, seed=1, batch_size=2, **settings)]
    other = [a.text for a in generate(model, renderer, PROMPTS, seed=2, **settings)]
    assert first == again
    assert first != other
    assert torch.equal(before, torch.get_rng_state())


def test_an_answer_ends_at_a_stop_token_that_is_counted_but_not_shown(
    story: tuple[Any, Any],
) -> None:
    model, renderer = story
    (free,) = generate(model, renderer, PROMPTS[:1], max_new_tokens=16)
    ids = renderer.tokenizer(free.text, add_special_tokens=False)["input_ids"]
    place = next(i for i, token in enumerate(ids) if i > 3 and token not in ids[:i])
    model.generation_config.eos_token_id = [32000, ids[place]]
    try:
        (stopped,) = generate(model, renderer, PROMPTS[:1], max_new_tokens=16)
        pieces = list(stream(model, renderer, PROMPTS[0], max_new_tokens=16))
    finally:
        model.generation_config.eos_token_id = [32000, 32001, 32007]
    assert (stopped.finish_reason, stopped.new_tokens) == ("stop", place + 1)
    assert stopped.text == renderer.decode(ids[:place]) == "".join(pieces)


def test_settings_shipped_with_a_model_do_not_change_greedy_answers(
    story: tuple[Any, Any],
) -> None:
    model, renderer = story
    (expected,) = generate(model, renderer, PROMPTS[:1], max_new_tokens=12)
    shipped = model.generation_config
    ours = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=9.0,
        min_new_tokens=2,
        max_length=4,
        suppress_tokens=[1],
        eos_token_id=[32000, 32001, 32007],
    )
    model.generation_config = ours
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (found,) = generate(model, renderer, PROMPTS[:1], max_new_tokens=12)
        assert model.generation_config is ours
    finally:
        model.generation_config = shipped
    assert found.text == expected.text


def test_a_model_in_training_mode_answers_without_dropout_and_stays_in_it(
    story: tuple[Any, Any],
) -> None:
    model, renderer = story
    model.train()
    try:
        generate(model, renderer, PROMPTS[:1], max_new_tokens=2)
        assert model.training
    finally:
        model.eval()


def test_a_prompt_may_answer_up_to_the_end_of_the_context_and_no_further(
    story: tuple[Any, Any],
) -> None:
    model, renderer = story
    length = len(renderer.prompt(PROMPTS[1]))
    model.config.max_position_embeddings = length + 3
    try:
        answers = generate(model, renderer, PROMPTS[:2], max_new_tokens=8)
        assert [a.new_tokens for a in answers] == [8, 3]
        model.config.max_position_embeddings = length
        with pytest.raises(FineryError, match=f"prompt 2 has {length} tokens"):
            generate(model, renderer, PROMPTS[:2], max_new_tokens=8)
        with pytest.raises(FineryError, match="Shorten the conversation"):
            stream(model, renderer, PROMPTS[1])
    finally:
        model.config.max_position_embeddings = 2048


def test_leaving_a_stream_early_stops_the_model(story: tuple[Any, Any]) -> None:
    model, renderer = story
    calls: list[int] = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        pieces = stream(model, renderer, PROMPTS[0], max_new_tokens=400)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
    finally:
        hook.remove()
    assert len(calls) < 100


def test_an_error_of_the_model_reaches_the_reader_of_a_stream(story: tuple[Any, Any]) -> None:
    model, renderer = story

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    hook = model.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            list(stream(model, renderer, PROMPTS[0]))
    finally:
        hook.remove()


def test_held_out_rows_are_answered_with_their_last_turn_taken_away(
    story: tuple[Any, Any],
) -> None:
    model, renderer = story
    said = (*PROMPTS[0], {"role": "assistant", "content": "Once upon a time."})
    rows = [
        Conversation(said, "t.jsonl", 1, None, {"expect": ["the"]}),
        Conversation(({"role": "user", "content": "story " * 2100}, said[1]), "t.jsonl", 2),
    ]
    answered, refused = answer_rows(model, renderer, rows, max_new_tokens=6)
    (expected,) = generate(model, renderer, PROMPTS[:1], max_new_tokens=6)
    assert (answered.answer, answered.reference) == (expected.text, "Once upon a time.")
    assert answered.passed is ("the" in expected.text.lower())
    assert (refused.answer, refused.passed) == (None, None)
    assert "fills the context of 2048" in refused.problem


def test_a_vocabulary_of_512_tokens_streams_whole_characters(kit: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = kit / "model" / "stories260k-llama"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    class Plain:
        """A renderer for a model that has no chat template."""

        stop_ids = (2,)
        pad_id = 2

        def prompt(self, messages: Any, tools: Any = None) -> list[int]:
            return [1, *tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]]

        def decode(self, ids: Any) -> str:
            return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    model = load_model(folder, precision="32", device="cpu")
    messages = [{"role": "user", "content": "Once upon a time"}]
    (answer,) = generate(model, Plain(), [messages], max_new_tokens=40)
    pieces = list(stream(model, Plain(), messages, max_new_tokens=40))
    assert "".join(pieces) == answer.text
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_adapter_folder_answers_as_the_adapter_on_its_base(kit: Path, tmp_path: Path) -> None:
    base = kit / "model" / "stories15m-phi3"
    model = load_model(base, precision="32", device="cpu")
    tuned = attach_lora(model, Lora(4, 8, 0.0, "auto", rslora=False, dora=False))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    tuned.save_pretrained(str(tmp_path / "adapter"))
    renderer = load_renderer(base)
    expected = generate(tuned.eval(), renderer, PROMPTS[:2], max_new_tokens=8)
    opened = open_model(str(tmp_path / "adapter"), device="cpu")
    found = generate(opened.model, opened.renderer, PROMPTS[:2], max_new_tokens=8)
    plain = generate(open_model(str(base)).model, renderer, PROMPTS[:2], max_new_tokens=8)
    assert [a.text for a in found] == [a.text for a in expected]
    assert [a.text for a in found] != [a.text for a in plain]


def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(kit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(kit / "model" / "stories260k-llama", tmp_path / "model")
    (folder / "model.safetensors").chmod(0o644)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if "layers.1" in key)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FineryError, match=f"lack 1 of the model's tensors .*{name}"):
        load_model(folder, precision="32", device="cpu")
