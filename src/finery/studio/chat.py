"""Chat: one message to several endpoints at once, their answers side by side."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from finery.chat.data_row import parse_json
from finery.errors import Fault, InputError
from finery.studio import chat_choices, chat_relay
from finery.studio.layout import form_of, page, workspace_of

MOST_VOICES = 4
LONGEST_NUMBER = 40  # characters
ROLES = ("system", "user", "assistant")
DEFAULTS = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 256, "seed": 1}
# What a field holds: how it is read, and what is expected of it.
NUMBERS: dict[str, tuple[type[int] | type[float], str]] = {
    "temperature": (float, "a number from 0"),
    "top_p": (float, "a number above 0, up to 1"),
    "max_tokens": (int, "a whole number from 1"),
    "seed": (int, "a whole number"),
}


def conversation(request: Request) -> Response:
    """The page; `voice=ENDPOINT/DEPLOYMENT`, again and again, says who is asked at first.

    `endpoint=ENDPOINT&deployment=DEPLOYMENT` says the same of one.
    """
    workspace = workspace_of(request)
    voices = chat_choices.voices(workspace)
    known = {voice.address for voice in voices}
    query = request.query_params
    named = "/".join(filter(None, (query.get("endpoint"), query.get("deployment"))))
    asked = list(dict.fromkeys([*query.getlist("voice"), *([named] if named else [])]))
    chosen = [address for address in asked if address in known][:MOST_VOICES]
    return page(
        request,
        "chat.html",
        title="Chat",
        active="chat",
        voices=voices,
        chosen=chosen or [voice.address for voice in voices[:1] if not asked],
        missing=[address for address in asked if address not in known],
        left_out=[one for one in asked if one in known and one not in chosen],
        silent=chat_choices.silent(workspace),
        defaults=DEFAULTS,
        most=MOST_VOICES,
        data_names=chat_choices.data_names(workspace),
    )


async def answer(request: Request) -> Response:
    """One voice's answer to a conversation as server-sent events, as it is made."""
    form = form_of(request)
    name, _, deployment = form.get("voice", "").partition("/")
    faults: list[Fault] = []
    messages = messages_of(form, faults)
    settings = _settings(form, faults)
    if messages and messages[-1]["role"] != "user":
        faults.append(Fault("messages", "an answer at the end", "a message of the user at the end"))
    if faults:
        raise InputError(faults, "chat")
    voice = await run_in_threadpool(chat_relay.voice, workspace_of(request), name, deployment)
    return StreamingResponse(
        _events(chat_relay.pieces(voice, messages, settings)),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _events(pieces: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    async with contextlib.aclosing(pieces):  # pyright: ignore[reportArgumentType] - a generator
        async for piece in pieces:
            yield f"data: {json.dumps(piece)}\n\n"


def messages_of(form: Mapping[str, str], faults: list[Fault]) -> list[dict[str, str]]:
    """The conversation that a form holds as JSON; with faults an empty one."""
    try:
        found = parse_json(form.get("messages", ""))
    except ValueError:
        found = None
    if not isinstance(found, list) or not found:
        faults.append(Fault("messages", "none", "a JSON list of messages"))
        return []
    wrong = [fault for at, one in enumerate(found) for fault in _faults(one, f"messages[{at}]")]
    faults += wrong
    return [] if wrong else [{"role": one["role"], "content": one["content"]} for one in found]


def _faults(message: Any, place: str) -> list[Fault]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return [Fault(place, "no role", f"a message whose role is one of {', '.join(ROLES)}")]
    content = message.get("content")
    if not isinstance(content, str):
        return [Fault(f"{place}.content", "no text", "a text")]
    if any("\ud800" <= letter <= "\udfff" for letter in content):
        return [Fault(f"{place}.content", "half a character (a surrogate)", "text")]
    return []


def _settings(form: Mapping[str, str], faults: list[Fault]) -> dict[str, float]:
    """The numbers of a form; in which range they may lie, the replica says."""
    found = {}
    for name, (kind, expected) in NUMBERS.items():
        text = form.get(name, "").strip()
        if not text:
            continue
        try:
            found[name] = kind(text[:LONGEST_NUMBER])
        except ValueError:
            found[name] = math.nan
        if len(text) > LONGEST_NUMBER or not math.isfinite(found[name]):
            faults.append(Fault(name, repr(text), expected))
    return found
