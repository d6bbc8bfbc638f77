"""One object that turns messages into ids and a loss mask, for training and serving alike.

The mask needs no `{% generation %}` marker in the template. An assistant turn begins where
the generation prompt ends (the text of the messages before it, rendered as a server would
render them) and ends with the template's own end-of-turn token; both are checked against
the whole rendered conversation, and what cannot be located is refused, not guessed.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerFast

from finery.chat.tokenizer import load_tokenizer, plain_ids
from finery.errors import FineryError
from finery.files import sha256_json

Message = Mapping[str, Any]

_MARK = "\u2063finery\u2063"  # an invisible separator: no template trims or tests for it
# Templates such as Llama 3's print today's date when they can; the date is pinned to the
# one they fall back on, so that the same conversation has the same ids every day.
_PINNED_DATE = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)


class RenderError(FineryError):
    """A conversation that the model's chat template cannot express."""


@dataclass(frozen=True)
class Rendered:
    """One conversation as the model sees it."""

    text: str
    ids: list[int]
    trained: list[bool]  # one per id: does this token carry loss
    spans: list[tuple[int, int]]  # character ranges of `text` that carry loss


@dataclass(frozen=True)
class Renderer:
    """A tokenizer, its chat template, and the facts about them that decide every id."""

    tokenizer: PreTrainedTokenizerFast
    template: str
    end_of_turn: str
    folds_system: bool  # the template has no system role: it goes before the first user turn
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def template_hash(self) -> str:
        """sha256 of the template text."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that decides ids and masks; part of the token cache's key."""
        return sha256_json(
            {
                "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
                "template": self.template,
                "special": {k: str(v) for k, v in self.tokenizer.special_tokens_map.items()},
                "end_of_turn": self.end_of_turn,
                "folds_system": self.folds_system,
                "version": 1,
            }
        )

    @cached_property
    def end_of_turn_id(self) -> int:
        """The id of the token that ends an assistant turn."""
        return self.tokenizer.convert_tokens_to_ids(self.end_of_turn)  # pyright: ignore[reportReturnType]

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids at which an answer ends: end of turn, and the tokenizer's end of text."""
        ids = [self.end_of_turn_id, self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(i for i in ids if isinstance(i, int)))

    @cached_property
    def pad_id(self) -> int:
        """An id to fill a batch with. Padding is always masked by position, never by this id."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else self.stop_ids[-1]

    @cached_property
    def _special(self) -> re.Pattern[str]:
        tokens = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        tokens = sorted({*tokens, self.end_of_turn}, key=len, reverse=True)
        return re.compile("|".join(re.escape(token) for token in tokens))

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rendered:
        """The whole conversation with its loss mask; raises RenderError."""
        text, spans = self.text_and_spans(messages, tools)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return self.from_encoding(text, spans, encoded["input_ids"], encoded["offset_mapping"])

    def from_encoding(
        self,
        text: str,
        spans: list[tuple[int, int]],
        ids: Any,
        offsets: Any,
    ) -> Rendered:
        """Join a text's spans with the tokenizer's ids and character offsets of it."""
        trained = [False] * len(ids)
        token = 0
        for start, end in spans:
            while token < len(ids) and offsets[token][0] < start:
                token += 1
            while token < len(ids) and offsets[token][0] < end:
                trained[token] = True
                token += 1
        return Rendered(text, list(ids), trained, spans)

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Ids a server feeds the model: the messages and the start of the answer."""
        folded = self._fold(messages)
        self._refuse_special_text(folded, tools)
        return plain_ids(self.tokenizer, self._apply(folded, tools, generation_prompt=True))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)  # pyright: ignore[reportReturnType]

    def save(self, folder: Path) -> None:
        """Write tokenizer, template and golden ids into a model folder."""
        from finery.chat.golden import save_renderer

        save_renderer(self, folder)

    def text_and_spans(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[str, list[tuple[int, int]]]:
        """The rendered text and the character ranges in it that carry loss."""
        folded = self._fold(messages)
        self._refuse_special_text(folded, tools)
        text = self._apply(folded, tools)
        if tools and text == self._apply(folded):
            raise RenderError(
                "the chat template does not show tools to the model: take out the column tools, "
                "or use a template with tools"
            )
        cursor = 0
        spans = []
        for index, message in enumerate(folded):
            if message["role"] == "assistant":
                start = self._answer_start(text, folded, index, tools)
                spans.append((start, self._answer_end(text, start, message)))
                cursor = spans[-1][1]
            else:
                cursor = _find_content(text, message, cursor)
        return text, spans

    def _answer_start(self, text: str, messages: list[Message], index: int, tools: Any) -> int:
        """Where the answer of turn `index` begins in `text`, in characters."""
        prefix = self._apply(messages[:index], tools, generation_prompt=True) if index else None
        if prefix is not None and text.startswith(prefix):
            return len(prefix)
        # A template that treats earlier turns differently (old Mistral ones move the system
        # text): mark the answer itself, and accept the place if all before it is unchanged.
        marked = [*messages]
        marked[index] = {**messages[index], "content": _MARK}
        other = self._apply(marked, tools)
        place = other.find(_MARK)
        if place < 0 or other[:place] != text[:place]:
            raise RenderError(
                f"the chat template renders assistant turn {index + 1} in a way that its place "
                "in the conversation cannot be told; use a template that renders turns in order"
            )
        return place

    def _answer_end(self, text: str, start: int, message: Message) -> int:
        """One past the end-of-turn token of the answer that begins at `start`."""
        found = text.find(self.end_of_turn, start)
        if found < 0:
            raise RenderError(
                f"the chat template does not end an assistant turn with {self.end_of_turn!r}"
            )
        content, turn = (message.get("content") or "").strip(), text[start:found]
        if content and content not in turn:
            raise RenderError(
                "the chat template drops or changes the text of an assistant turn "
                f"({content[:40]!r}), so the loss would fall on other tokens"
            )
        for call in message.get("tool_calls") or ():
            if call["function"]["name"] not in turn.replace(content, "", 1):
                raise RenderError(
                    f"the chat template drops the call of {call['function']['name']!r}, so the "
                    "model would learn an empty answer in its place; use a template with tools"
                )
        return found + len(self.end_of_turn)

    def _refuse_special_text(self, messages: Sequence[Message], tools: Any = None) -> None:
        """A special token typed into a message would become a real one: a forged turn."""
        places = [(f"message {n} ({m['role']})", m) for n, m in enumerate(messages, 1)]
        for place, value in [*places, ("the list of tools", {"tools": tools})]:
            rest = {k: item for k, item in value.items() if k not in ("role", "content") and item}
            # calls and tools have text at any depth
            text = json.dumps(rest, ensure_ascii=False)
            match = self._special.search(value.get("content") or "") or self._special.search(text)
            if match:
                raise RenderError(
                    f"{place} contains the special token {match.group()!r} as text; remove or "
                    "escape it"
                )

    def _fold(self, messages: Sequence[Message]) -> list[Message]:
        """Messages as the template takes them: system text moved when it has no system role."""
        if not self.folds_system or not messages or messages[0]["role"] != "system":
            return list(messages)
        system, *rest = messages
        if not rest or rest[0]["role"] != "user":
            raise RenderError("the chat template has no system role and no user turn follows it")
        first = {**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}
        return [first, *rest[1:]]

    def _apply(
        self, messages: Sequence[Message], tools: Any = None, *, generation_prompt: bool = False
    ) -> str:
        return apply_template(
            self.tokenizer, self.template, messages, tools, generation_prompt=generation_prompt
        )


def apply_template(
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    generation_prompt: bool = False,
) -> str:
    """The text of `messages` under `template`; a template's own refusal is a RenderError."""
    try:
        return tokenizer.apply_chat_template(  # pyright: ignore[reportReturnType]
            [dict(message) for message in messages],
            tools=[dict(tool) for tool in tools] if tools else None,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generation_prompt,
            strftime_now=_PINNED_DATE.strftime,
        )
    except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
        raise RenderError(f"the chat template refuses this conversation: {error}") from error


def load_renderer(folder: Path) -> Renderer:
    """The renderer of a model folder, its saved golden ids verified.

    Raises FineryError when there is no chat template, when the template never ends an
    answer, or when the ids differ from those saved with the model.
    """
    from finery.chat.golden import verify_golden

    tokenizer = load_tokenizer(folder)
    renderer = make_renderer(tokenizer, str(folder))
    verify_golden(renderer, folder)
    return renderer


def with_template(tokenizer: PreTrainedTokenizerFast, template: str, name: str) -> Renderer:
    """A renderer with another chat template, called `name` in messages; raises FineryError.

    `tokenizer` carries the new template from now on.
    """
    tokenizer.chat_template = template
    try:
        return make_renderer(tokenizer, name)
    except FineryError as error:
        raise FineryError(f"{name}: {error}") from error


def make_renderer(tokenizer: PreTrainedTokenizerFast, name: str) -> Renderer:
    """A renderer for `tokenizer`; what its template does is found out by rendering probes."""
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise FineryError(
            f"{name} has no chat template (or several). Put the one of the instruct model in "
            "chat_template.jinja; a base model has never seen one."
        )
    notes = []
    folds = not _keeps_system(tokenizer, template)
    if folds:
        notes.append(
            "the chat template has no system role: system text goes before the first user message"
        )
    if "strftime_now" in template:
        notes.append(f"the chat template prints a date: it is pinned to {_PINNED_DATE:%d %b %Y}")
    return Renderer(tokenizer, template, _end_of_turn(tokenizer, template), folds, tuple(notes))


def _keeps_system(tokenizer: PreTrainedTokenizerFast, template: str) -> bool:
    probe = [
        {"role": "system", "content": _MARK},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    try:
        return _MARK in apply_template(tokenizer, template, probe)
    except RenderError:
        return False


def _end_of_turn(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """The token the template writes after an answer, in the middle and at the end alike."""
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
    tokens = {t.content for t in tokenizer.added_tokens_decoder.values()}
    pattern = re.compile("|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True)))
    text = apply_template(tokenizer, template, [*probe, *probe])
    tails = text.split(_MARK)[1:]
    found = [match.group() if (match := pattern.search(tail)) else None for tail in tails]
    if len(found) != 2 or found[0] is None or found[0] != found[1]:
        raise FineryError(
            "The chat template does not write one end-of-turn token after every answer (after "
            f"the first it writes {found[0] if found else None!r}, after the last "
            f"{found[-1] if found else None!r}), so a tuned model would never learn to stop. "
            "Use the template of the instruct model."
        )
    return found[0]


def _find_content(text: str, message: Message, cursor: int) -> int:
    """Past the place of a user's, system's or tool's text; raises when it was dropped."""
    content = (message.get("content") or "").strip()
    if message["role"] == "system" and content in text:  # some templates move it: not a place
        return cursor
    forms = [content]
    if message["role"] == "tool":  # its text may be rendered as JSON
        forms += [json.dumps(content, ensure_ascii=ascii)[1:-1] for ascii in (False, True)]
    for form in forms:
        if (place := text.find(form, cursor)) >= 0:
            return place + len(form)
    raise RenderError(f"the chat template drops the {message['role']} message {content[:40]!r}")
