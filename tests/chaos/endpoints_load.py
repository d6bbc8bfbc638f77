"""Requests to an endpoint at a steady rate, and what became of every one of them.

They are sent whether or not those before were answered, from a thread of their own; every third
one asks for a stream. Each carries a mark of its own, by which it is known again wherever it went.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

# What an endpoint may say when it cannot answer: docs/endpoints.md.
CLEAN = frozenset({408, 424, 429, 503})
LONGEST = 60.0  # seconds that an answer may take
PATIENCE = 120.0
_VARYING = re.compile(r"[0-9a-f]{12,}")  # ids in what is said


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    mark: str
    sent: float  # time.monotonic
    seconds: float
    is_stream: bool
    status: int  # 0: no answer at all
    deployment: str
    text: str  # what the model said
    fault: str  # "" when the answer is whole
    is_clean: bool  # a fault that was told as it should be


@dataclass(frozen=True)
class Ask:
    """Whom to ask, and for what."""

    address: str  # with /v1
    key: str
    model: str
    max_tokens: int = 8
    headers: Mapping[str, str] = field(default_factory=dict)


async def asked(session: aiohttp.ClientSession, ask: Ask, mark: str, *, is_stream: bool) -> Answer:
    """Send one request and take its answer to the end."""
    body = {
        "model": ask.model,
        "messages": [{"role": "user", "content": f"mark {mark}."}],
        "max_tokens": ask.max_tokens,
        "stream": is_stream,
    }
    headers = {"authorization": f"Bearer {ask.key}", "x-request-id": mark, **ask.headers}
    status, deployment, content, sent = 0, "", b"", time.monotonic()
    try:
        url = f"{ask.address}/chat/completions"
        async with session.post(url, json=body, headers=headers) as response:
            status = response.status
            deployment = response.headers.get("azureml-model-deployment", "")
            content = await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        said = ("", f"{type(error).__name__}: {error}", False)
    else:
        said = _streamed(content) if is_stream and status == 200 else _whole(status, content)
    return Answer(mark, sent, time.monotonic() - sent, is_stream, status, deployment, *said)


def _whole(status: int, content: bytes) -> tuple[str, str, bool]:
    """The text, the fault, and whether that is told as it should be."""
    try:
        told = json.loads(content)
        if status == 200:
            return told["choices"][0]["message"]["content"], "", True
    except (ValueError, LookupError, TypeError):
        return "", f"{status}, and this: {content[:200]!r}", False
    return "", f"{status}: {content[:200]!r}", status in CLEAN and _is_error(told)


def _streamed(content: bytes) -> tuple[str, str, bool]:
    """The same of a stream: a break is told in its last event."""
    events = [part[6:] for part in content.split(b"\n\n") if part.startswith(b"data: ")]
    try:
        told = [json.loads(event) for event in events if event != b"[DONE]"]
    except ValueError:
        return "", f"a torn event: {content[-200:]!r}", False
    broken = [event for event in told if "error" in event]
    if broken:
        return "", f"broke off: {broken[0]}", _is_error(broken[0]) and b"[DONE]" not in events
    if not events or events[-1] != b"[DONE]":
        return "", f"no end: {content[-200:]!r}", False
    parts = [choice["delta"].get("content") or "" for e in told for choice in e["choices"]]
    return "".join(parts), "", True


def _is_error(told: Any) -> bool:
    """Whether it has the shape that OpenAI's clients read."""
    error = told.get("error") if isinstance(told, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str) and "type" in error


@dataclass
class Load:
    """Requests at `rate` a second while the block runs; at its end all of them are answered."""

    ask: Ask
    rate: float
    streams: int = 3  # every so many-th asks for a stream
    most: int = 0  # requests in all; 0 is no end
    at_once: int = 0  # under way at a time, then it waits; 0 is no bound
    answers: list[Answer] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self.begun = time.monotonic()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(LONGEST + PATIENCE)
        assert not self._thread.is_alive(), "the load does not end"
        self.seconds = time.monotonic() - self.begun

    def wait_for(self, more: int) -> None:
        """Until so many more have been answered."""
        goal, until = len(self.answers) + more, time.monotonic() + PATIENCE
        while len(self.answers) < goal:
            assert time.monotonic() < until, f"{len(self.answers)} of {goal} answers"
            assert self._thread.is_alive(), "the load ended"
            time.sleep(0.01)

    def join(self) -> None:
        """Until `most` have been sent and answered."""
        self._thread.join()

    @property
    def failed(self) -> list[Answer]:
        """The requests without a whole answer."""
        return [answer for answer in self.answers if answer.fault]

    @property
    def sent_a_second(self) -> float:
        """The rate that was really kept."""
        sent = [answer.sent for answer in self.answers]
        return len(sent) / max(max(sent) - min(sent), 0.001) if len(sent) > 1 else 0.0

    @property
    def deployments(self) -> Counter[str]:
        """Who gave the whole answers."""
        return Counter(answer.deployment for answer in self.answers if not answer.fault)

    def faults(self) -> list[str]:
        """What went wrong, in a line each; like ones once, the five commonest."""
        counted = Counter(_VARYING.sub("…", answer.fault)[:300] for answer in self.failed)
        return [f"{count} requests: {fault}" for fault, count in counted.most_common(5)]

    async def _send(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=LONGEST)
        under_way: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            for number in itertools.count():
                if self._end.is_set() or (self.most and number == self.most):
                    break
                await asyncio.sleep(self.begun + number / self.rate - time.monotonic())
                if self.at_once and len(under_way) >= self.at_once:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                task = asyncio.create_task(self._one(session, number))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.gather(*under_way)

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        is_stream = number % self.streams == 0
        mark = f"{self.ask.model}-{id(self)}-{number}"
        self.answers.append(await asked(session, self.ask, mark, is_stream=is_stream))
