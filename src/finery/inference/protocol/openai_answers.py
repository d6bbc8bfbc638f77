"""Answers in OpenAI's shapes, whole and as server-sent events.

https://platform.openai.com/docs/api-reference/chat/object, …/chat-streaming, …/completions/object.
Azure AI's model inference API and vLLM use the same.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from finery.inference.answering import End, Event, Told
from finery.inference.protocol.reading import Wanted
from finery.inference.protocol.tool_calls import CallReader, ToolCall

_LEAST = -9999.0  # JSON has no minus infinity


@dataclass
class Answer:
    """One answer, whole."""

    index: int
    text: str = ""
    tokens: list[Told] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class Usage:
    """The tokens of a request. Each prompt counts once, every token made counts."""

    prompt: int
    completion: int

    def shape(self) -> dict[str, int]:
        """As OpenAI's clients read it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


def prompt_tokens(wanted: Wanted) -> int:
    """The tokens of all prompts."""
    return sum(len(plan.generation.prompt) for plan in wanted.plans)


async def collected(events: AsyncIterator[Event], wanted: Wanted) -> tuple[list[Answer], Usage]:
    """Every answer, in order, and what they took."""
    answers = [Answer(index) for index in range(sum(plan.count for plan in wanted.plans))]
    made = 0
    async for event in events:
        answer = answers[event.index]
        if isinstance(event, End):
            answer.reason = event.reason
            made += event.completion_tokens
        else:
            answer.text += event.text
            answer.tokens += event.tokens
    return answers, Usage(prompt_tokens(wanted), made)


def envelope(kind: str, model: str) -> dict[str, Any]:
    """What is the same in every event of an answer."""
    name = "cmpl" if kind == "text_completion" else "chatcmpl"
    identity = f"{name}-{uuid.uuid4().hex}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def chat_choice(answer: Answer, wanted: Wanted) -> dict[str, Any]:
    """One answer of a whole chat completion."""
    reader = CallReader(wanted.calls, wanted.offered, one=wanted.one_call)
    text = reader.push(answer.text)
    rest, calls = reader.finish()
    text += rest
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["content"] = text or None
        message["tool_calls"] = [call.shape() for call in calls]
    return {
        "index": answer.index,
        "message": message,
        "logprobs": _chat_logprobs(answer.tokens) if wanted.logprobs else None,
        "finish_reason": _reason(answer.reason, calls),
    }


def completion_choice(answer: Answer, wanted: Wanted) -> dict[str, Any]:
    """One answer of a whole completion."""
    before = _echo(wanted, answer.index)
    logprobs = _completion_logprobs(answer.tokens, len(before)) if wanted.logprobs else None
    return {
        "index": answer.index,
        "text": before + answer.text,
        "logprobs": logprobs,
        "finish_reason": answer.reason,
    }


def _echo(wanted: Wanted, index: int) -> str:
    if not wanted.echo:
        return ""
    owners = [n for n, plan in enumerate(wanted.plans) for _ in range(plan.count)]
    return wanted.echo[owners[index]]


def _reason(reason: str, calls: Sequence[ToolCall]) -> str:
    return "tool_calls" if calls and reason == "stop" else reason


class ChatChunks:
    """The events of a streamed chat completion: role, pieces, calls, reason."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.readers: dict[int, CallReader] = {}

    def of(self, event: Event) -> Iterable[dict[str, Any]]:
        """The choices that one event of an answer becomes."""
        wanted, index = self.wanted, event.index
        if index not in self.readers:
            self.readers[index] = CallReader(wanted.calls, wanted.offered, one=wanted.one_call)
            yield _chunk(index, {"role": "assistant", "content": ""})
        reader = self.readers[index]
        if not isinstance(event, End):
            text = reader.push(event.text)
            logprobs = _chat_logprobs(event.tokens) if wanted.logprobs and event.tokens else None
            if text or logprobs:
                yield _chunk(index, {"content": text}, logprobs)
            return
        text, calls = reader.finish()
        if text:
            yield _chunk(index, {"content": text})
        for number, call in enumerate(calls):
            yield _chunk(index, {"tool_calls": [{"index": number, **call.shape()}]})
        yield _chunk(index, {}, None, _reason(event.reason, calls))


def _chunk(
    index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class CompletionChunks:
    """The events of a streamed completion."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.begun: set[int] = set()

    def of(self, event: Event) -> Iterable[dict[str, Any]]:
        """The choices that one event of an answer becomes."""
        index, before = event.index, _echo(self.wanted, event.index)
        choice = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
        first = index not in self.begun
        self.begun.add(index)
        if first and before:
            yield {**choice, "text": before}
        if isinstance(event, End):
            yield {**choice, "finish_reason": event.reason}
            return
        logprobs = None
        if self.wanted.logprobs and event.tokens:
            logprobs = _completion_logprobs(event.tokens, len(before))
        if event.text or logprobs or (first and not before):
            yield {**choice, "text": event.text, "logprobs": logprobs}


def sse(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return (
        b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


async def streamed(
    events: AsyncIterator[Event],
    wanted: Wanted,
    head: dict[str, Any],
    chunks: ChatChunks | CompletionChunks,
    note: Callable[[Usage], None],
) -> AsyncIterator[bytes]:
    """The whole stream: `[DONE]` at its end, and then what it took, as a comment.

    `note` is told what it took as well.
    """
    rest = {"usage": None} if wanted.usage else {}
    made = 0
    async for event in events:
        made += event.completion_tokens if isinstance(event, End) else 0
        parts = [sse({**head, "choices": [choice], **rest}) for choice in chunks.of(event)]
        if parts:
            yield b"".join(parts)
    usage = Usage(prompt_tokens(wanted), made)
    note(usage)
    last = sse({**head, "choices": [], "usage": usage.shape()}) if wanted.usage else b""
    told = f": usage prompt={usage.prompt} completion={usage.completion}\n\n"
    yield last + b"data: [DONE]\n\n" + told.encode()


def _chat_logprobs(tokens: Iterable[Told]) -> dict[str, Any]:
    content = [
        {
            **_spoken(token.text, token.data, token.logprob),
            "top_logprobs": [_spoken(*other) for other in token.likeliest],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _spoken(text: str, data: bytes | None, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(logprob), "bytes": None if data is None else [*data]}


def _completion_logprobs(tokens: Iterable[Told], before: int) -> dict[str, Any]:
    tokens = list(tokens)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {text: _finite(logprob) for text, _, logprob in token.likeliest}
            | ({token.text: _finite(token.logprob)} if token.likeliest else {})
            for token in tokens
        ],
        "text_offset": [before + token.offset for token in tokens],
    }


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
