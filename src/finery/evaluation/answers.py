"""What a model answers on held-out conversations, row by row, with what it should have said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finery.errors import Fault, InputError
from finery.evaluation.text_metrics import checked

if TYPE_CHECKING:
    from finery.chat.conversation import Conversation
    from finery.chat.render import Renderer
    from finery.inference.generate import Answer


@dataclass(frozen=True)
class Question:
    """One held-out conversation up to the turn the model is to answer."""

    file: str
    row: int
    messages: tuple[Mapping[str, Any], ...]
    reference: str | None  # the removed turn's text; None when it has none
    expect: tuple[str, ...] | None  # strings the answer must contain, when the row lists them
    tools: tuple[Mapping[str, Any], ...] | None


@dataclass(frozen=True)
class AnsweredRow:
    """A question with a model's answer, or with the reason why there is none."""

    file: str
    row: int
    messages: tuple[Mapping[str, Any], ...]
    reference: str | None
    expect: tuple[str, ...] | None
    answer: str | None
    passed: bool | None  # the check of `expect`; None without one or without an answer
    problem: str = ""  # why the row was not answered
    prompt_tokens: int = 0
    new_tokens: int = 0
    finish_reason: str = ""
    seconds: float = 0.0


def answer_rows(
    model: Any,
    renderer: Renderer,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[AnsweredRow]:
    """The model's answers, one row a conversation and in their order.

    The last assistant turn of each conversation, and whatever follows it, is taken away and
    kept as the reference; a conversation without one is answered whole. A row that cannot be
    answered (no message before the turn, or no room in the model's context) comes back with
    its `problem` instead of an answer. Raises InputError naming every row whose `expect` is
    not made of strings, or that the model's chat template cannot express.
    """
    from finery.inference.generate import complete

    asked = questions(conversations)
    prompts, problems = _prompts(model, renderer, asked, max_new_tokens)
    made = complete(
        model,
        renderer,
        list(prompts.values()),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        seed=seed,
    )
    answers = dict(zip(prompts, made, strict=True))
    return [
        _answered(question, answers.get(index), problems.get(index, ""))
        for index, question in enumerate(asked)
    ]


def questions(conversations: Sequence[Conversation]) -> list[Question]:
    """What `answer_rows` asks; raises InputError naming every unusable `expect`."""
    faults: list[Fault] = []
    asked = []
    for conversation in conversations:
        messages = conversation.messages
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        cut = turns[-1] if turns else len(messages)
        content = messages[cut].get("content") if turns else None
        asked.append(
            Question(
                file=conversation.file,
                row=conversation.row,
                messages=tuple(messages[:cut]),
                reference=content if isinstance(content, str) and content.strip() else None,
                expect=_expected(conversation, faults),
                tools=conversation.tools,
            )
        )
    if faults:
        raise InputError(faults)
    return asked


def _prompts(
    model: Any, renderer: Renderer, asked: Sequence[Question], max_new_tokens: int
) -> tuple[dict[int, list[int]], dict[int, str]]:
    """Prompt ids of the questions that can be asked, and why the others cannot, by place."""
    from finery.chat.render import RenderError
    from finery.inference.decoding import context_length, room

    prompts: dict[int, list[int]] = {}
    problems: dict[int, str] = {}
    faults: list[Fault] = []
    for index, question in enumerate(asked):
        if not question.messages:
            problems[index] = "no message comes before the assistant turn"
            continue
        try:
            ids = renderer.prompt(question.messages, question.tools)
        except RenderError as error:
            where = f"{question.file}:{question.row}:messages"
            faults.append(Fault(where, str(error), "messages the model's chat template can say"))
            continue
        if room(model, ids, max_new_tokens) < 1:
            limit = context_length(model)
            problems[index] = f"the prompt of {len(ids)} tokens fills the context of {limit}"
        else:
            prompts[index] = ids
    if faults:
        raise InputError(faults)
    return prompts, problems


def tokens_per_second(rows: Sequence[AnsweredRow]) -> float | None:
    """New tokens made per second of generation over all rows; None when nothing was made."""
    seconds = sum(row.seconds for row in rows)
    return sum(row.new_tokens for row in rows) / seconds if seconds > 0 else None


def _expected(conversation: Conversation, faults: list[Fault]) -> tuple[str, ...] | None:
    """The row's `expect` column: a string or a list of them; absent or null is no check."""
    value = conversation.columns.get("expect")
    if value is None:
        return None
    wanted = [value] if isinstance(value, str) else value
    strings = isinstance(wanted, list | tuple) and all(isinstance(text, str) for text in wanted)
    if strings and wanted and all(text.strip() for text in wanted):
        return tuple(wanted)
    where = f"{conversation.file}:{conversation.row}:expect"
    faults.append(
        Fault(where, repr(value)[:80], "a string or a list of strings that an answer must contain")
    )
    return None


def _answered(question: Question, answer: Answer | None, problem: str) -> AnsweredRow:
    shared: dict[str, Any] = {
        "file": question.file,
        "row": question.row,
        "messages": question.messages,
        "reference": question.reference,
        "expect": question.expect,
    }
    if answer is None:
        return AnsweredRow(**shared, answer=None, passed=None, problem=problem)
    return AnsweredRow(
        **shared,
        answer=answer.text,
        passed=None if question.expect is None else checked(answer.text, question.expect),
        prompt_tokens=answer.prompt_tokens,
        new_tokens=answer.new_tokens,
        finish_reason=answer.finish_reason,
        seconds=answer.seconds,
    )
