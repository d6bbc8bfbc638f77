"""The shape of a conversation: what a message may hold, and which may follow which.

Messages are those of the OpenAI chat format as Hugging Face chat templates take them. Two
turns of one role in a row are allowed here: whether they can be rendered is the template's
to say, and the renderer says it with the row.
"""

from __future__ import annotations

from typing import Any

from finery.chat.data_row import kind, parse_json, shorten
from finery.errors import Fault, did_you_mean

ROLES = ("system", "user", "assistant", "tool")
MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")

_ALIASES = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function": "tool",
}
_KEY_REMEDIES = {
    "weight": "Every assistant message is trained: take out the key, or the message.",
    "from": "The role goes under role.",
    "value": "The text goes under content.",
    "function_call": "Calls go under tool_calls.",
}


def normal_messages(value: Any, place: str) -> tuple[tuple[dict[str, Any], ...], list[Fault]]:
    """Plain messages and what is wrong with them.

    Keys that hold null, and an empty list of calls, are taken as absent (Parquet and servers
    fill every key of every message), text parts are joined, and an assistant message with
    calls and no text has the content "".
    """
    if not isinstance(value, list):
        text = isinstance(value, str) and value.lstrip().startswith("[")
        remedy = "JSON text is taken from CSV and TSV only: store the list itself." if text else ""
        return (), [Fault(place, kind(value), "a list of messages", remedy)]
    messages, faults = [], []
    for index, item in enumerate(value):
        message, wrong = _normal_message(item, f"{place}[{index}]")
        messages.append(message)
        faults += wrong
    return tuple(messages), [*faults, *_order_faults(messages, place)]


def _normal_message(item: Any, place: str) -> tuple[dict[str, Any], list[Fault]]:
    if not isinstance(item, dict):
        return {}, [Fault(place, kind(item), 'an object such as {"role": …, "content": …}')]
    given = {key: value for key, value in item.items() if value is not None}
    faults = [_unknown_key(key, place) for key in given if key not in MESSAGE_KEYS]
    message = {key: given[key] for key in MESSAGE_KEYS if key in given}
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    faults += _role_faults(message, place)
    faults += _call_faults(message, place)
    message["content"], wrong = _normal_content(message, "content" in item, place)
    return message, faults + wrong


def _unknown_key(key: str, place: str) -> Fault:
    near = did_you_mean(key, MESSAGE_KEYS)
    remedy = _KEY_REMEDIES.get(key) or near or "Take the key out."
    where = f"{place}.{shorten(key, '')}"
    return Fault(where, "a key that finery does not know", ", ".join(MESSAGE_KEYS), remedy)


def _role_faults(message: dict[str, Any], place: str) -> list[Fault]:
    role = message.get("role")
    faults = []
    if role is None:
        faults.append(Fault(f"{place}.role", "no role", f"one of {', '.join(ROLES)}"))
    elif not isinstance(role, str) or role not in ROLES:
        word = role.strip().lower() if isinstance(role, str) else ""
        remedy = did_you_mean(_ALIASES.get(word, word), ROLES)
        expected = f"one of {', '.join(ROLES)}"
        faults.append(Fault(f"{place}.role", kind(role), expected, remedy))
    for key in ("name", "tool_call_id"):
        if key in message and not isinstance(message[key], str):
            faults.append(Fault(f"{place}.{key}", kind(message[key]), "a string"))
    if "tool_call_id" in message and role != "tool":
        expected = "it on tool messages only"
        faults.append(Fault(f"{place}.tool_call_id", f"it on a message of {role}", expected))
    return faults


def _normal_content(message: dict[str, Any], is_given: bool, place: str) -> tuple[str, list[Fault]]:
    place = f"{place}.content"
    content, role = message.get("content"), message.get("role")
    calls = role == "assistant" and bool(message.get("tool_calls"))
    if content is None:
        found = "null" if is_given else "no content"
        return "", [] if calls else [Fault(place, found, "a string")]
    faults: list[Fault] = []
    if isinstance(content, list):
        content, faults = _joined_parts(content, place)
    elif not isinstance(content, str):
        return "", [Fault(place, kind(content), "a string, or a list of text parts")]
    if not faults and not content.strip() and role in ("user", "assistant") and not calls:
        faults = [Fault(place, "white space only" if content else "an empty text", "some text")]
    return content, faults


def _joined_parts(parts: list[Any], place: str) -> tuple[str, list[Fault]]:
    texts, faults = [], []
    for index, part in enumerate(parts):
        pairs = part.items() if isinstance(part, dict) else ()
        given = {key: value for key, value in pairs if value is not None}
        text = given.get("text")
        if given.keys() == {"type", "text"} and given["type"] == "text" and isinstance(text, str):
            texts.append(text)
            continue
        found = kind(part)
        if given:
            found = f"a part of type {kind(given.get('type'))} with {shorten(', '.join(given), '')}"
        expected = '{"type": "text", "text": "…"}'
        faults.append(Fault(f"{place}[{index}]", found, expected, "Only text can be trained on."))
    return "".join(texts), faults


def _call_faults(message: dict[str, Any], place: str) -> list[Fault]:
    if "tool_calls" not in message:
        return []
    place, calls = f"{place}.tool_calls", message["tool_calls"]
    if message.get("role") != "assistant":
        return [Fault(place, f"calls by {message.get('role')}", "calls by an assistant only")]
    if not isinstance(calls, list):
        return [Fault(place, kind(calls), "a list of calls, or no such key")]
    wrong = ((f"{place}[{index}]", _call_flaw(call)) for index, call in enumerate(calls))
    expected = '{"type": "function", "id": "…", "function": {"name": "…", "arguments": {…}}}'
    return [Fault(where, found, expected) for where, found in wrong if found]


def _call_flaw(call: Any) -> str:
    """What is wrong with one tool call, or ""."""
    if not isinstance(call, dict):
        return kind(call)
    given = {key: value for key, value in call.items() if value is not None}
    if strange := given.keys() - {"id", "type", "function"}:
        return f"the key {shorten(min(strange))}"
    if given.get("type", "function") != "function":
        return f"the type {kind(given['type'])}"
    if not isinstance(given.get("id", ""), str):
        return f"{kind(given['id'])} as id"
    function = given.get("function")
    if not isinstance(function, dict):
        return f"{kind(function)} as function"
    if not isinstance(function.get("name"), str) or not function["name"]:
        return f"{kind(function.get('name'))} as the function's name"
    if strange := function.keys() - {"name", "arguments"}:
        return f"the key {shorten(min(strange))}"
    return _arguments_flaw(function.get("arguments", {}))


def _arguments_flaw(arguments: Any) -> str:
    value = arguments
    if isinstance(arguments, str):
        try:
            value = parse_json(arguments)
        except ValueError as error:
            return f"{error} in arguments"
    return "" if isinstance(value, dict) else f"{kind(arguments)} as arguments"


def _order_faults(messages: list[dict[str, Any]], place: str) -> list[Fault]:
    faults = []
    calls: list[Any] | None = None  # those of the last assistant turn, while tools may answer
    for index, message in enumerate(messages):
        role, here = message.get("role"), f"{place}[{index}]"
        if role == "system" and index:
            remedy = "Move it to the front, or join the two."
            expected = "a system message in the first place only"
            faults.append(Fault(f"{here}.role", f"system in place {index + 1}", expected, remedy))
        if role == "tool":
            faults += _answer_faults(message, calls, here)
        else:
            calls = message.get("tool_calls") if role == "assistant" else None
    if len(messages) < 2:
        count = "one message" if messages else "no messages"
        return [*faults, Fault(place, count, "at least a user and an assistant message")]
    if all(message.get("role") in ROLES for message in messages) and not any(
        message["role"] == "assistant" for message in messages
    ):
        faults.append(Fault(place, "no assistant message", "at least one to learn from"))
    return faults


def _answer_faults(message: dict[str, Any], calls: Any, here: str) -> list[Fault]:
    if not calls:
        expected = "an assistant message with tool_calls before it"
        return [Fault(f"{here}.role", "tool without a call", expected)]
    known = [c["id"] for c in calls if isinstance(c, dict) and isinstance(c.get("id"), str)]
    answered = message.get("tool_call_id")
    if isinstance(answered, str) and known and answered not in known:
        return [Fault(f"{here}.tool_call_id", kind(answered), f"one of {', '.join(known)}")]
    return []


def normal_tools(value: Any, place: str) -> tuple[tuple[dict[str, Any], ...] | None, list[Fault]]:
    """The tools a conversation offers, None for null or an empty list, and what is wrong."""
    if value is None or value == []:
        return None, []
    if not isinstance(value, list):
        return None, [Fault(place, kind(value), "a list of tools, or null")]
    faults = []
    for index, tool in enumerate(value):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            expected = '{"type": "function", "function": {"name": "…", …}}'
            faults.append(Fault(f"{place}[{index}]", kind(tool), expected))
    return tuple(value), faults
