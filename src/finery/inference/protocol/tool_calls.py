"""A model's calls of tools, found in the text of its answer.

How a call is written is told by the chat template, which writes earlier calls the same way:
`<tool_call>{"name", "arguments"}</tool_call>` (Hermes 2 Pro, Qwen 2.5 and 3), a bare
`{"name", "parameters"}` (Llama 3.1 to 3.3), a list after `<|tool_call|>` or `functools`
(Phi-4-mini), a bare list (Mistral, whose mark is a special token and no part of the text).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FORCED = "forced"  # an answer under the schema of one call

_OPENS = {"hermes": ("<tool_call>",), "phi": ("<|tool_call|>", "functools[")}
_HERMES = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_PHI = re.compile(r"(?:<\|tool_call\|>|functools)\s*(\[.*?\])\s*(?:<\|/tool_call\|>|\Z)", re.DOTALL)


def family_of(template: str) -> str:
    """How a model of this chat template writes its calls; "" when the template does not say."""
    if "<tool_call>" in template:
        return "hermes"
    if "<|tool_call|>" in template or "<|tool|>" in template or "functools" in template:
        return "phi"
    if "[TOOL_CALLS]" in template:
        return "list"
    if "ipython" in template and '"parameters"' in template:
        return "llama"
    return ""


@dataclass(frozen=True)
class ToolCall:
    """One call, with its arguments as JSON text."""

    name: str
    arguments: str

    def shape(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


class CallReader:
    """One answer's text on its way out: what is no call is passed on as it comes."""

    def __init__(self, family: str, offered: Iterable[str], *, one: bool = False) -> None:
        self.family = family
        self.offered = frozenset(offered)
        self.one = one
        self.kept = ""  # what may be a call
        self.opened = False

    def push(self, text: str) -> str:
        """The part of the text so far that is no call for certain."""
        self.kept += text
        if self.opened or not self.family:
            return self._all() if not self.family else ""
        if self.family in _OPENS:
            return self._before(_OPENS[self.family])
        start = self.kept.lstrip()[:1]
        if self.family == FORCED or start in ("{", "["):
            self.opened = True
            return ""
        if not start:
            return ""
        self.family = ""  # an answer that does not begin with a call has none
        return self._all()

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The rest that was no call, and the calls."""
        rest, calls = self._calls() if self.opened else ("", [])
        if not calls:
            return self._all(), []
        return rest, calls[:1] if self.one else calls

    def _all(self) -> str:
        text, self.kept = self.kept, ""
        return text

    def _before(self, marks: tuple[str, ...]) -> str:
        places = [place for mark in marks if (place := self.kept.find(mark)) >= 0]
        if places:
            self.opened = True
            end = min(places)
        else:
            end = len(self.kept) - held(self.kept, marks)
        text, self.kept = self.kept[:end], self.kept[end:]
        return text

    def _calls(self) -> tuple[str, list[ToolCall]]:
        """What stands around the calls, and the calls; none when one of them is not whole."""
        if self.family in _OPENS:
            form = _HERMES if self.family == "hermes" else _PHI
            read = [_read(text) for text in form.findall(self.kept)]
            rest = form.sub("", self.kept).strip()
            return rest, [call for calls in read for call in calls] if all(read) else []
        text = self.kept.strip()
        parts = [text] if _read_json(text) is not None else text.split(";")
        read = [_read(part) for part in parts]
        calls = [call for some in read for call in some]
        known = all(call.name in self.offered for call in calls)
        return "", calls if known and all(read) else []


def held(text: str, marks: Iterable[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `marks`."""
    lengths = (n for mark in marks for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n]))
    return max(lengths, default=0)


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read(text: str) -> list[ToolCall]:
    """The calls of one JSON text; none when it is no call."""
    value = _read_json(text)
    calls = []
    for one in value if isinstance(value, list) else [value]:
        name = one.get("name") if isinstance(one, dict) else None
        arguments = one.get("arguments", one.get("parameters", {})) if name else None
        if not isinstance(name, str) or not isinstance(arguments, dict | str):
            return []
        told = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall(name, told))
    return calls
