"""The head of a whole answer comes with its first token, for whoever asks for it so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from small_replica import END, Scripted, app_of, scripted
from starlette.types import Message

from finery.errors import FineryError
from finery.inference.engine import EngineLostError
from finery.inference.protocol import begun
from finery.inference.protocol.begun import Outcome

HELLO = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


def asked(engine: Scripted, path: str = CHAT, early: bool = True, **more: Any) -> list[Any]:
    """What the replica sends, each part with the number of tokens that were made by then."""
    parts: list[tuple[int, Message]] = []
    body = {"messages": HELLO, **more} if "chat" in path else {"prompt": "a", **more}
    headers = [(b"host", b"replica"), (b"content-type", b"application/json")]
    headers += [(begun.HEADER.encode(), b"1")] if early else []
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": headers}
    scope |= {"query_string": b"", "raw_path": path.encode(), "http_version": "1.1"}
    scope |= {"scheme": "http", "server": ("replica", 80), "client": None, "root_path": ""}
    inbox: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        parts.append((engine.made, message))

    asyncio.run(app_of(engine, engine.renderer)(scope, receive, send))
    return parts


def told(parts: list[Any]) -> tuple[Outcome, Any]:
    """The outcome and the answer that follows it."""
    content = b"".join(message.get("body", b"") for _, message in parts[1:])
    found = begun.read(content)
    assert found is not None
    return found[0], json.loads(found[1])


def head_of(parts: list[Any]) -> tuple[int, int, bool]:
    """When the head was sent, its status, and whether it says that the answer is begun."""
    made, message = parts[0]
    assert message["type"] == "http.response.start"
    names = [name for name, _ in message["headers"]]
    return made, message["status"], begun.HEADER.encode() in names


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/chat/completions"])
def test_the_head_is_sent_with_the_first_token_and_the_answer_is_the_same(path: str) -> None:
    parts = asked(scripted(f"abcdef{END}"), path)
    assert head_of(parts) == (1, 200, True)
    outcome, answer = told(parts)
    late = asked(scripted(f"abcdef{END}"), path, early=False)
    assert head_of(late) == (7, 200, False)
    expected = json.loads(b"".join(message.get("body", b"") for _, message in late))
    for either in (answer, expected):
        either.pop("id"), either.pop("created")
    assert answer == expected
    usage = expected["usage"]
    assert outcome == Outcome(200, usage["prompt_tokens"], usage["completion_tokens"])


def test_the_first_token_of_any_answer_begins_all_of_them() -> None:
    assert head_of(asked(scripted(f"abc{END}"), n=3))[0] <= 3


def test_an_answer_of_the_stop_token_alone_is_begun_too() -> None:
    parts = asked(scripted(END))
    assert head_of(parts) == (1, 200, True)
    assert told(parts)[0].completion == 1


ERRORS = [
    (FineryError("no such schema"), 400),
    (EngineLostError("it ended"), 503),
    (ValueError("inner workings"), 500),
]


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_a_failure_before_the_first_token_is_an_ordinary_answer(
    error: Exception, status: int
) -> None:
    parts = asked(scripted("abc", error=error))
    assert head_of(parts) == (0, status, False)


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_a_failure_after_the_first_token_has_its_status_in_the_first_line(
    error: Exception, status: int
) -> None:
    engine = scripted("abc", error=error, after=2)
    outcome, answer = told(asked(engine))
    assert outcome == Outcome(status)
    assert "inner" not in answer["error"]["message"]
    assert engine.closed == 1
    plain = asked(scripted("abc", error=error, after=2), early=False)
    assert head_of(plain)[1] == status, "whoever asks a replica itself gets the status as ever"


def test_a_failure_after_the_head_is_counted_and_logged_as_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "finery.replica")
    asked(scripted("abc", error=EngineLostError("it ended"), after=2))
    assert f"POST {CHAT} 503" in caplog.text


def test_a_stream_needs_no_such_line() -> None:
    parts = asked(scripted(f"abc{END}"), stream=True)
    assert head_of(parts) == (1, 200, False)


@pytest.mark.parametrize(
    "content", [b"200 1\n{}", b"\n", b"{}" * 40, b"200 1 2 3\n", b"2000 1 1\n"]
)
def test_what_is_no_outcome_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="outcome"):
        begun.read(content)


def test_an_outcome_is_read_as_it_was_written_however_it_comes() -> None:
    content = Outcome(503, 12, 3).line() + b"{}"
    length = content.index(b"\n") + 1
    assert [begun.read(content[:size]) for size in range(length)] == [None] * length
    assert begun.read(content) == (Outcome(503, 12, 3), b"{}")
