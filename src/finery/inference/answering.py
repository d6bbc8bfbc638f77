"""From an ask to text: prompt ids, room, stop rules, finish reasons and usage, exactly.

One path for whole and streamed answers and for every engine. `plan` is what the reading
process does (a template may take seconds), `answers` what happens on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from finery.errors import FineryError
from finery.files import read_json
from finery.inference.detokenizing import Words
from finery.inference.engine import Generation, Token
from finery.inference.protocol.asks import Ask
from finery.inference.protocol.refusals import refused
from finery.inference.protocol.tool_calls import held

if TYPE_CHECKING:
    from finery.chat.render import Renderer


@dataclass(frozen=True)
class Limits:
    """What the loaded engine can do; every plan keeps to it."""

    context: int
    features: frozenset[str]
    stop_ids: tuple[int, ...]
    engine: str = ""


@dataclass(frozen=True)
class Plan:
    """An ask as ids; the answers to it differ by their seeds."""

    generation: Generation  # of no new tokens when the ask wants none
    stop: tuple[str, ...] = ()
    count: int = 1

    def numbered(self, number: int) -> Generation:
        """The generation of answer `number`, counted from 0, with a seed of its own."""
        if number == 0:
            return self.generation
        digest = hashlib.sha256(f"{self.generation.seed}/{number}".encode()).digest()
        return replace(self.generation, seed=int.from_bytes(digest[:4], "big"))


@dataclass(frozen=True)
class Told:
    """One token as clients see it."""

    text: str
    data: bytes | None  # None: no part of the answer's text
    logprob: float
    likeliest: tuple[tuple[str, bytes | None, float], ...]
    offset: int  # characters of the answer before it


@dataclass(frozen=True)
class Piece:
    """More of one answer; the first of each answer comes with its first token, even empty."""

    index: int
    text: str
    tokens: tuple[Told, ...] = ()


@dataclass(frozen=True)
class End:
    """How one answer ended. `completion_tokens` counts every token made, the stop token too."""

    index: int
    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


Event = Piece | End
Generate = Callable[[Generation], AsyncGenerator[Token, None]]  # Engine.generate


def stop_ids(model: Path, renderer: Renderer) -> tuple[int, ...]:
    """The ids that end an answer: the renderer's, and those of the model folder itself.

    As transformers reads them: generation_config.json where there is one, else config.json.
    """
    files = [model / name for name in ("generation_config.json", "config.json")]
    found = next((read_json(file) for file in files if file.is_file()), {})
    own = found.get("eos_token_id")
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return tuple(sorted({int(token) for token in [*renderer.stop_ids, *own]}))


def plan(ask: Ask, renderer: Renderer, limits: Limits) -> Plan:
    """Render an ask and fit it into the context; raises FineryError for what cannot be."""
    _check_features(ask, limits)
    prompt = _prompt(ask, renderer)
    place = "messages" if ask.messages else "prompt"
    if not prompt:
        raise refused("The prompt has no token. Give at least one.", param=place)
    room = limits.context - len(prompt)
    wanted = room if ask.max_new_tokens is None else min(room, ask.max_new_tokens)
    if room < 1:
        raise refused(
            f"The prompt has {len(prompt)} tokens: an answer needs room for one more in the "
            f"model's context of {limits.context} tokens. Shorten it, or use a model with a "
            "longer context.",
            param=place,
            code="context_length_exceeded",
        )
    generation = Generation(
        prompt=tuple(prompt),
        max_new_tokens=wanted,
        stop_ids=limits.stop_ids if ask.ends else (),
        temperature=ask.temperature,
        top_p=ask.top_p,
        top_k=ask.top_k,
        seed=ask.seed,
        frequency_penalty=ask.frequency_penalty,
        presence_penalty=ask.presence_penalty,
        logprobs=ask.logprobs,
        schema=ask.schema,
    )
    return Plan(generation, ask.stop, ask.count)


def _check_features(ask: Ask, limits: Limits) -> None:
    """Refuse by name what the engine cannot do, rather than answer without it."""
    asked = (
        ("logprobs", "logprobs", ask.logprobs is not None),
        ("schema", "tool_choice" if ask.forced else "response_format", ask.schema is not None),
        ("penalties", "frequency_penalty", ask.frequency_penalty != 0),
        ("penalties", "presence_penalty", ask.presence_penalty != 0),
    )
    for feature, param, given in asked:
        if given and feature not in limits.features:
            text = f"The engine {limits.engine} of this model cannot do {param}. Take it out"
            text += ", or deploy with another engine."
            raise refused(text, param=param, code="unsupported_parameter")


def _prompt(ask: Ask, renderer: Renderer) -> Sequence[int]:
    if not ask.messages and isinstance(ask.prompt, tuple):
        size = len(renderer.tokenizer)
        if wrong := [token for token in ask.prompt if token >= size]:
            text = f"The prompt has the token id {wrong[0]}; the vocabulary ends at {size - 1}."
            raise refused(text, param="prompt")
        return ask.prompt
    if not ask.messages and isinstance(ask.prompt, str):
        return renderer.tokenizer(ask.prompt)["input_ids"]  # pyright: ignore[reportReturnType]
    tools = ask.tools if ask.calls else None
    ids = renderer.prompt(ask.messages, tools)
    if tools and ids == renderer.prompt(ask.messages):
        text = "The model's chat template does not show tools to it. Take tools out, or use a "
        raise refused(text + "model whose template has them.", param="tools")
    return ids


async def answers(
    generate: Generate, plans: Sequence[Plan], words: Words
) -> AsyncGenerator[Event, None]:
    """Every answer to every plan, numbered plan by plan, as they are made at the same time.

    Closing it ends the work of all of them at their next token. An error of one is raised, and
    ends the others.
    """
    wanted = [(plan, number) for plan in plans for number in range(plan.count)]
    streams = [answer(generate, *one, words, index) for index, one in enumerate(wanted)]
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as only:
            async for event in only:
                yield event
        return
    ready: asyncio.Queue[Event | BaseException] = asyncio.Queue()
    tasks = [asyncio.create_task(_feed(stream, ready)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            event = await ready.get()
            if isinstance(event, BaseException):
                raise event
            running -= isinstance(event, End)
            yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(
    stream: AsyncGenerator[Event, None], ready: asyncio.Queue[Event | BaseException]
) -> None:
    try:
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                ready.put_nowait(event)
    except Exception as error:
        ready.put_nowait(error)


async def answer(
    generate: Generate, plan: Plan, number: int, words: Words, index: int = 0
) -> AsyncGenerator[Event, None]:
    """One answer in pieces of whole characters, and how it ended."""
    wanted = plan.numbered(number)
    text = _Text(words, plan.stop, counted=wanted.logprobs is not None)
    made, stopped = 0, False
    if wanted.max_new_tokens:
        async with contextlib.aclosing(generate(wanted)) as tokens:
            async for token in tokens:
                made += 1
                stopped = token.id in wanted.stop_ids
                if stopped:
                    break
                new = text.push(token)
                if new or made == 1:
                    yield Piece(index, new, text.tokens())
                if text.cut:
                    break
    if not text.cut:
        rest = text.flush()
        told = text.tokens(last=True)
        if rest or told:
            yield Piece(index, rest, told)
    # A schema may end an answer before its tokens are used up.
    ended = stopped or text.cut or made < wanted.max_new_tokens
    yield End(index, "stop" if ended else "length", len(wanted.prompt), made)


@dataclass
class _Text:
    """The text of one answer, held back where it may still be cut by a stop text."""

    words: Words
    stops: tuple[str, ...]
    counted: bool  # tokens are told with their log-probabilities
    cut: bool = False
    kept: str = ""
    sent: int = 0  # characters that were given out
    seen: int = 0  # characters that came
    waiting: list[Told] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pieces = self.words.pieces()
        self.first = True

    def push(self, token: Token) -> str:
        """The text that is certain with this token and was not before."""
        if self.counted:
            self.waiting.append(self._told(token))
        self.first = False
        return self._sure(self.pieces.push(token.id))

    def flush(self) -> str:
        """The text that was held back, once no token follows."""
        sure = self._sure(self.pieces.flush())
        if not self.cut:
            sure, self.kept = sure + self.kept, ""
            self.sent = self.seen
        return sure

    def _sure(self, new: str) -> str:
        self.seen += len(new)
        text = self.kept + new
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        self.cut = bool(places)
        end = min(places) if places else len(text) - held(text, self.stops)
        self.kept = "" if self.cut else text[end:]
        self.sent += end
        return text[:end]

    def tokens(self, *, last: bool = False) -> tuple[Told, ...]:
        """The tokens that belong to what was given out; with `last`, all but those cut off."""
        ready = [one for one in self.waiting if one.offset < self.sent or (last and not self.cut)]
        self.waiting = self.waiting[len(ready) :]
        return tuple(ready)

    def _told(self, token: Token) -> Told:
        text, data = self.words.spoken(token.id, first=self.first)
        if token.logprob is None:
            raise FineryError("The engine gave no log-probability for a token.")
        likeliest = tuple(
            (*self.words.spoken(other, first=self.first), logprob)
            for other, logprob in token.likeliest
        )
        return Told(text, data, token.logprob, likeliest, self.seen)
