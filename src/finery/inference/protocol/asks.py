"""One thing that a client wants answered, whichever door it came through."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finery.chat.data_row import kind
from finery.chat.roles import normal_messages
from finery.errors import Fault, InputError, did_you_mean

# Whether a value is taken, what is expected, the parameter's name here ("": none).
Parameter = tuple[Callable[[Any], bool], str, str]
Parameters = Mapping[str, Parameter]

MOST_STOPS = 16
MOST_ANSWERS = 64


@dataclass(frozen=True)
class Ask:
    """Answers that are wanted to one conversation, or to one plain prompt."""

    messages: tuple[dict[str, Any], ...] = ()
    prompt: str | tuple[int, ...] = ""  # when there are no messages
    max_new_tokens: int | None = None  # None: as far as the context goes
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None  # None: none; n: of each token and of the n likeliest
    schema: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    calls: bool = True  # false: the model may not call the tools it is shown
    one_call: bool = False  # at most one call is passed on
    forced: bool = False  # the schema is that of a call
    count: int = 1
    ends: bool = True  # false: end-of-turn does not end the answer


@dataclass(frozen=True)
class Asked:
    """A whole request."""

    asks: tuple[Ask, ...]
    model: str | None = None
    stream: bool = False
    usage: bool = False  # in the stream's last event
    echo: bool = False  # the prompt comes before the answer
    form: str = ""  # of a scored answer: one, many, texts


def is_number(value: Any) -> bool:
    """Whether it is a finite number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def is_whole(value: Any) -> bool:
    """Whether it is a whole number of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, list)
        and len(texts) <= MOST_STOPS
        and all(isinstance(text, str) and text for text in texts)
    )


def between(least: float, most: float, own: str) -> Parameter:
    """A number within bounds."""
    return lambda v: is_number(v) and least <= v <= most, f"a number from {least} to {most}", own


def whole(least: int, own: str, most: int = 2**31) -> Parameter:
    """A whole number from `least`."""
    return lambda v: is_whole(v) and least <= v <= most, f"a whole number from {least}", own


def only(*values: Any) -> Parameter:
    """A parameter that finery does not have: taken where it says what holds anyway."""

    def fits(given: Any) -> bool:
        return any(
            given == one and isinstance(given, bool) == isinstance(one, bool) for one in values
        )

    return fits, f"{' or '.join(map(repr, values))}: this model server has nothing else", ""


ANY: Parameter = (lambda v: True, "", "")
FLAG: Parameter = (lambda v: isinstance(v, bool), "true or false", "")
SAMPLING: dict[str, Parameter] = {
    "temperature": (lambda v: is_number(v) and 0 <= v <= 100, "a number from 0", "temperature"),
    "top_p": (lambda v: is_number(v) and 0 < v <= 1, "a number above 0, up to 1", "top_p"),
    "top_k": (lambda v: is_whole(v) and v >= -1, "a whole number; 0 is all tokens", "top_k"),
    "seed": (is_whole, "a whole number of 64 bits", "seed"),
    "stop": (_is_stop, f"a text or a list of up to {MOST_STOPS} texts", "stop"),
}


def read_settings(
    given: Mapping[str, Any], known: Parameters, place: str
) -> tuple[dict[str, Any], list[Fault]]:
    """The settings under their own names, and what is wrong; null is taken as absent."""
    settings, faults = {}, []
    for name, value in given.items():
        if name not in known:
            remedy = did_you_mean(name, known) or "Take it out."
            expected = ", ".join(sorted(known))
            where = f"{place}.{name[:100]}"
            faults.append(Fault(where, "a parameter not known here", expected, remedy))
            continue
        fits, expected, own = known[name]
        if value is None:
            continue
        if not fits(value):
            faults.append(Fault(f"{place}.{name}", kind(value), expected))
        elif own:
            settings[own] = value
    return settings, faults


def read_messages(turns: Any, place: str) -> tuple[tuple[dict[str, Any], ...], list[Fault]]:
    """Messages that wait for an answer, and what is wrong with them.

    OpenAI's `developer` is what chat templates call `system`; the arguments of earlier calls,
    JSON text to OpenAI, become the objects that templates write out.
    """
    if not isinstance(turns, list) or not turns:
        expected = "a list of messages that ends with the user's"
        return (), [Fault(place, "nothing to answer" if turns == [] else kind(turns), expected)]
    turns = [_as_templates_take_it(turn) for turn in turns]
    # The rules of a conversation are those of training, where an assistant has to speak.
    messages, faults = normal_messages([*turns, {"role": "assistant", "content": "."}], place)
    messages = messages[:-1]
    last = messages[-1].get("role") if messages else None
    if not faults and last not in ("user", "tool"):
        found = f"a last message of {last}"
        faults = [Fault(f"{place}[{len(messages) - 1}]", found, "the user's turn to answer")]
    return messages, faults


def _as_templates_take_it(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    if turn.get("role") == "developer":
        return {**turn, "role": "system"}
    calls = turn.get("tool_calls")
    if isinstance(calls, list) and calls:
        return {**turn, "tool_calls": [_with_object(call) for call in calls]}
    return turn


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    text = function["arguments"]
    try:
        arguments = json.loads(text) if text.strip() else {}
    except ValueError:
        return call  # `normal_messages` says what is wrong with it
    return {**call, "function": {**function, "arguments": arguments}}


def make_ask(settings: Mapping[str, Any], **what: Any) -> Ask:
    """An ask of read settings; without a seed, with one of its own."""
    stop = settings.get("stop", ())
    numbers = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
    own: dict[str, Any] = {name: float(settings[name]) for name in numbers if name in settings}
    own |= {name: settings[name] for name in ("logprobs", "count", "ends") if name in settings}
    return Ask(
        **what,
        **own,
        max_new_tokens=settings.get("max_new_tokens"),
        top_k=max(0, settings.get("top_k", 0)),  # -1 is "all" to other servers
        seed=settings.get("seed", random.getrandbits(32)),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )


def must_be_object(body: Any) -> dict[str, Any]:
    """The body; raises InputError for anything but an object."""
    if not isinstance(body, dict):
        raise InputError([Fault("body", kind(body), "a JSON object")], "request")
    return body


def refuse_all(faults: Sequence[Fault]) -> None:
    """Raise every fault at once, if there is one."""
    if faults:
        raise InputError(faults, "request")
