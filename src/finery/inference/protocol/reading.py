"""A request's bytes as plans for the engine: parsed, checked, rendered, in one pure function.

It runs in a process of its own (`finery.inference.server_readers`): neither a body of many
megabytes nor a template that takes seconds is anything that other callers notice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from finery.inference.answering import Limits, Plan, plan
from finery.inference.engine import Generation
from finery.inference.protocol import azure_ai, azure_ml, openai_asks
from finery.inference.protocol.asks import Ask, Asked
from finery.inference.protocol.refusals import refused
from finery.inference.protocol.tool_calls import FORCED, family_of

if TYPE_CHECKING:
    from finery.chat.render import Renderer

Route = Callable[[Any, Mapping[str, str]], Asked]
ROUTES: dict[str, Route] = {
    "/v1/chat/completions": lambda body, headers: openai_asks.read_chat(body),
    "/v1/completions": lambda body, headers: openai_asks.read_completion(body),
    "/chat/completions": azure_ai.read_chat,
    "/completions": azure_ai.read_completion,
    "/score": lambda body, headers: azure_ml.read_score(body),
}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
HEADERS = (azure_ai.EXTRA,)  # those that a route reads


@dataclass(frozen=True)
class Wanted:
    """What a request wants, ready for the engine, and what its answer looks like."""

    plans: tuple[Plan, ...]
    model: str | None = None
    stream: bool = False
    usage: bool = False
    logprobs: bool = False
    echo: tuple[str, ...] = ()  # the prompts' texts, when they come before the answers
    form: str = ""
    calls: str = ""  # how calls of tools are written; "" when none can come
    offered: tuple[str, ...] = ()
    one_call: bool = False


def read(
    route: str, body: bytes, headers: Mapping[str, str], renderer: Renderer, limits: Limits
) -> Wanted:
    """The request; raises FineryError for whatever is wrong with it."""
    try:
        asked = ROUTES[route](parsed(body), headers)
        plans = tuple(plan(ask, renderer, limits) for ask in asked.asks)
    except RecursionError:
        raise refused("The request's body is nested too deeply.", code="body_too_deep") from None
    first = asked.asks[0]
    tools = first.tools if first.calls and first.tools else ()
    family = FORCED if first.forced else family_of(renderer.template)
    return Wanted(
        plans=plans,
        model=asked.model,
        stream=asked.stream,
        usage=asked.usage,
        logprobs=first.logprobs is not None,
        echo=tuple(_text(ask, renderer) for ask in asked.asks) if asked.echo else (),
        form=asked.form,
        calls=family if tools else "",
        offered=tuple(tool.get("function", tool)["name"] for tool in tools),
        one_call=first.one_call,
    )


def parsed(body: bytes) -> Any:
    """The JSON of a body; raises RefusedError for anything else."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(body, parse_constant=refuse)
    except (UnicodeDecodeError, ValueError) as error:
        raise refused(f"The request's body is not JSON: {error}.", code="invalid_json") from None
    try:
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text = "The request's body holds half of a surrogate pair, which is no character."
        raise refused(text, code="invalid_text") from None
    return value


def _text(ask: Ask, renderer: Renderer) -> str:
    return ask.prompt if isinstance(ask.prompt, str) else renderer.decode(ask.prompt)


def to_json(wanted: Wanted) -> dict[str, Any]:
    """The request as it goes from the reading process to the answering one."""
    return asdict(wanted)


def from_json(value: Mapping[str, Any]) -> Wanted:
    """It, back again."""
    own: dict[str, Any] = {**value, "plans": tuple(_plan(one) for one in value["plans"])}
    own |= {name: tuple(value[name]) for name in ("echo", "offered")}
    return Wanted(**own)


def _plan(value: Mapping[str, Any]) -> Plan:
    given = value["generation"]
    ids = {name: tuple(given[name]) for name in ("prompt", "stop_ids")}
    return Plan(Generation(**{**given, **ids}), tuple(value["stop"]), value["count"])
