"""Answers to conversations: a whole list in batches, or one as it is being written.

Greedy by default; a temperature above 0 samples (see `finery.inference.decoding`). The same
prompt, settings and seed give the same answer streamed, alone or in a batch, up to the
rounding differences of the device's own kernels.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from finery.chat.render import Message, Renderer
from finery.errors import FineryError
from finery.inference.decoding import (
    check_settings,
    context_length,
    decode,
    room,
    stop_ids,
)


@dataclass(frozen=True)
class Answer:
    """What a model said to one prompt.

    `new_tokens` counts every token the model made, the stop token included (as vLLM counts
    completion tokens), so it never exceeds `max_new_tokens`; `text` holds none of the stop
    tokens. `seconds` is the wall time of the answer's batch divided by its answers: the
    seconds of all answers add up to the time spent.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: Literal["stop", "length"]
    seconds: float


def generate(
    model: Any,
    renderer: Renderer,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[Answer]:
    """An answer to each conversation, in their order.

    Raises FineryError when a prompt leaves no room for one new token in the model's context;
    nothing is ever cut. A prompt with less room than `max_new_tokens` may answer as far as
    the context goes and ends with "length".
    """
    ids = [renderer.prompt(messages, tools) for messages in prompts]
    return complete(
        model,
        renderer,
        ids,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        seed=seed,
    )


def complete(
    model: Any,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Answer]:
    """`generate` for prompts that are token ids already; raises as it does."""
    check_settings(max_new_tokens, temperature, batch_size)
    _refuse_without_room(model, prompts, max_new_tokens)
    stops = stop_ids(model, renderer)
    answers: dict[int, Answer] = {}
    for limit, rows in _batches(model, prompts, max_new_tokens, batch_size):
        start = time.perf_counter()
        batch = decode(
            model,
            [prompts[row] for row in rows],
            stops=stops,
            pad_id=renderer.pad_id,
            max_new_tokens=limit,
            temperature=temperature,
            seed=seed,
            rows=rows,
        )
        seconds = (time.perf_counter() - start) / len(rows)
        for row, new in zip(rows, batch, strict=True):
            answers[row] = _answer(renderer, len(prompts[row]), new, stops, seconds)
    return [answers[row] for row in range(len(prompts))]


def stream(
    model: Any,
    renderer: Renderer,
    messages: Sequence[Message],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    tools: Sequence[Mapping[str, Any]] | None = None,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Sequence[str] = (),
) -> Generator[str, None, Answer]:
    """The answer in pieces of text as they come, never half a character; raises as `generate`.

    The pieces joined are the text of `generate` for the same single prompt. Closing the
    iterator stops the model at its next token. The answer ends before the first of the texts
    `stop`; the generator returns the whole of it.
    """
    prompt = renderer.prompt(messages, tools)
    check_settings(max_new_tokens, temperature, top_p=top_p, top_k=top_k)
    _refuse_without_room(model, [prompt], max_new_tokens)
    stops = stop_ids(model, renderer)
    settings = {
        "stops": stops,
        "pad_id": renderer.pad_id,
        "max_new_tokens": room(model, prompt, max_new_tokens),
        "temperature": temperature,
        "seed": seed,
        "rows": [0],
        "top_p": top_p,
        "top_k": top_k,
    }
    ids = token_ids(model, prompt, settings)
    return _pieces(renderer, ids, stops, prompt_tokens=len(prompt), texts=stop)


def _pieces(
    renderer: Renderer,
    ids: Generator[int, None, None],
    stops: Sequence[int],
    *,
    prompt_tokens: int = 0,
    texts: Sequence[str] = (),
) -> Generator[str, None, Answer]:
    """Text as it becomes certain: its end may be half a character, or half a stop text."""
    start = time.perf_counter()
    made: list[int] = []
    told = ""
    text = ""
    stopped = False
    with contextlib.closing(ids):
        for token in ids:
            made.append(token)
            if stopped := token in stops:
                break
            text = renderer.decode(made)
            places = [place for stop in texts if (place := text.find(stop)) >= 0]
            if stopped := bool(places):
                text = text[: min(places)]
                break
            sure = text[: len(text) - _held(text, texts)]
            if sure.startswith(told) and not text.endswith("\ufffd") and len(sure) > len(told):
                yield sure[len(told) :]
                told = sure
    if len(text) > len(told):
        yield text[len(told) :]
    reason = "stop" if stopped else "length"
    return Answer(text, prompt_tokens, len(made), reason, time.perf_counter() - start)


def _held(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `stops`."""
    lengths = (n for stop in stops for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n]))
    return max(lengths, default=0)


class _Feed(BaseStreamer):
    """Puts each new id into a queue; transformers calls `put` once with the prompt first."""

    def __init__(self, into: queue.Queue[int | BaseException | None]) -> None:
        self.into = into
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.into.put(int(value.reshape(-1)[0]))
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing to do: the thread that generates says when it is done."""


class _Abandoned(StoppingCriteria):
    """Stops every row once nobody listens any more."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: torch.Tensor, scores: Any, **kwargs: Any
    ) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def token_ids(
    model: Any, prompt: Sequence[int], settings: dict[str, Any]
) -> Generator[int, None, None]:
    """New ids while a thread makes them; an error of the thread is raised here."""
    made: queue.Queue[int | BaseException | None] = queue.Queue()
    abandoned = threading.Event()
    hooks = {
        "streamer": _Feed(made),
        "stopping_criteria": StoppingCriteriaList([_Abandoned(abandoned)]),
    }

    def work() -> None:
        try:
            decode(model, [prompt], **settings, **hooks)
            made.put(None)
        except BaseException as error:
            made.put(error)

    thread = threading.Thread(target=work, name="finery-stream", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned.set()
        thread.join()


def _batches(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """(new tokens allowed, prompt numbers): longest first, one allowance to a batch.

    Neighbours in length waste little padding, the largest batch (the one that may not fit in
    memory) comes first, and no row runs past the context because a neighbour may go on.
    """
    batch: list[int] = []
    allowed = 0
    for row in sorted(range(len(prompts)), key=lambda row: -len(prompts[row])):
        limit = room(model, prompts[row], max_new_tokens)
        if batch and (limit != allowed or len(batch) == batch_size):
            yield allowed, batch
            batch = []
        allowed = limit
        batch.append(row)
    if batch:
        yield allowed, batch


def _answer(
    renderer: Renderer, prompt_tokens: int, new: list[int], stops: Sequence[int], seconds: float
) -> Answer:
    stopped = bool(new) and new[-1] in stops
    return Answer(
        text=renderer.decode(new[:-1] if stopped else new),
        prompt_tokens=prompt_tokens,
        new_tokens=len(new),
        finish_reason="stop" if stopped else "length",
        seconds=seconds,
    )


def _refuse_without_room(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise FineryError naming every prompt (from 1) that is empty or fills the context."""
    wrong = [
        f"prompt {number} has {len(prompt)} tokens"
        for number, prompt in enumerate(prompts, 1)
        if not prompt or room(model, prompt, max_new_tokens) < 1
    ]
    if wrong:
        raise FineryError(
            f"{'; '.join(wrong)}: an answer needs a prompt of at least one token and room for "
            f"one more in the model's context of {context_length(model)} tokens. "
            "Shorten the conversation or use a model with a longer context."
        )
