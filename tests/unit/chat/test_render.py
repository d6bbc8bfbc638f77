"""Ids and loss masks under the chat templates of the models people train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_templates import (
    CASES,
    CHATML,
    LLAMA_2,
    MISTRAL_MOVES,
    QWEN3,
    SYSTEM,
    TURNS,
    Case,
    Pieces,
    write_tokenizer,
)

from finery.chat.render import Renderer, RenderError, load_renderer
from finery.errors import FineryError

ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def renderer_of(case: Case, folder: Path) -> Renderer:
    return load_renderer(write_tokenizer(folder / "model", case.template, case.special))


def expected(renderer: Renderer, pieces: Pieces) -> list[tuple[int, bool]]:
    """Each token and whether it carries loss, piece by piece."""
    out = []
    for piece in pieces:
        text, trained = (piece[0], True) if isinstance(piece, tuple) else (piece, False)
        ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        out += [(token, trained) for token in ids]
    return out


@ALL
def test_every_answer_and_its_end_of_turn_train_and_nothing_else(
    case: Case, tmp_path: Path
) -> None:
    renderer = renderer_of(case, tmp_path)
    assert renderer.end_of_turn == case.special[0]
    for messages, pieces in ((TURNS, case.plain), ([SYSTEM, *TURNS], case.system)):
        rendered = renderer.render(messages)
        assert rendered.text == "".join(p if isinstance(p, str) else p[0] for p in pieces)
        got = list(zip(rendered.ids, rendered.trained, strict=True))
        assert got == expected(renderer, pieces)
        assert [rendered.text[a:b] for a, b in rendered.spans] == [
            p[0] for p in pieces if isinstance(p, tuple)
        ]


@ALL
def test_the_prompt_a_server_sends_is_what_the_answer_was_trained_after(
    case: Case, tmp_path: Path
) -> None:
    renderer = renderer_of(case, tmp_path)
    for messages in (TURNS, [SYSTEM, *TURNS]):
        rendered = renderer.render(messages)
        first_trained = [
            i for i, flag in enumerate(rendered.trained) if flag and not rendered.trained[i - 1]
        ]
        answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        for index, begin in zip(answers, first_trained, strict=True):
            is_last = index == answers[-1]
            if is_last or case.prompts_are_prefixes:
                assert renderer.prompt(messages[:index]) == rendered.ids[:begin]


@ALL
def test_a_model_without_a_system_role_gets_the_system_text_in_the_first_user_turn(
    case: Case, tmp_path: Path
) -> None:
    renderer = renderer_of(case, tmp_path)
    assert renderer.folds_system == case.folds
    assert any("no system role" in note for note in renderer.notes) == case.folds
    if case.folds:
        with pytest.raises(RenderError, match="no user turn follows"):
            renderer.render([SYSTEM, TURNS[1]])


@ALL
def test_an_answer_decodes_without_special_tokens_and_ends_at_its_stop_id(
    case: Case, tmp_path: Path
) -> None:
    renderer = renderer_of(case, tmp_path)
    rendered = renderer.render(TURNS[:2])
    answer = [token for token, flag in zip(rendered.ids, rendered.trained, strict=True) if flag]
    assert answer[-1] == renderer.end_of_turn_id
    assert renderer.end_of_turn_id == renderer.stop_ids[0]
    assert renderer.decode(answer).strip().endswith("Yo")


@pytest.mark.parametrize("special", ["<|im_end|>", "<|im_start|>"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_special_token_typed_into_a_message_is_refused_not_made_a_turn(
    special: str, place: int, tmp_path: Path
) -> None:
    renderer = renderer_of(CHATML, tmp_path)
    messages = [dict(message) for message in TURNS]
    messages[place]["content"] += f" {special}\n"
    with pytest.raises(RenderError, match=f"message {place + 1} .* contains the special token"):
        renderer.render(messages)
    with pytest.raises(RenderError, match="contains the special token"):
        renderer.prompt(messages[: place + 1])


def test_a_template_that_writes_no_end_of_turn_is_refused(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    write_tokenizer(tmp_path, template, ("</s>",))
    with pytest.raises(FineryError, match="would never learn to stop"):
        load_renderer(tmp_path)


def test_a_template_that_ends_only_the_last_answer_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m['content'] }}{% if loop.last and m['role'] == 'assistant' %}"
        "</s>{% else %}\n{% endif %}{% endfor %}"
    )
    write_tokenizer(tmp_path, template, ("</s>", "<x>"))
    with pytest.raises(FineryError, match="after every answer"):
        load_renderer(tmp_path)


def test_a_base_model_without_a_template_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, None, ("</s>",))
    with pytest.raises(FineryError, match=r"has no chat template .* chat_template\.jinja"):
        load_renderer(tmp_path)


def test_a_conversation_the_template_refuses_is_said_in_the_templates_words(
    tmp_path: Path,
) -> None:
    renderer = renderer_of(LLAMA_2, tmp_path)
    with pytest.raises(RenderError, match="roles must alternate"):
        renderer.render([TURNS[0], TURNS[2], TURNS[1]])


def test_a_template_with_an_error_of_its_own_is_said_as_such(tmp_path: Path) -> None:
    template = CHATML.template + "{{ messages[5]['content'] }}"
    write_tokenizer(tmp_path, template, CHATML.special)
    with pytest.raises(FineryError, match="refuses this conversation"):
        load_renderer(tmp_path)


def test_a_template_that_drops_a_turn_is_refused_not_trained_on_the_rest(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if not (loop.index0 == 2 and messages|length == 4"
        " and m['content'] == 'More') %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    renderer = load_renderer(write_tokenizer(tmp_path, template, CHATML.special))
    with pytest.raises(RenderError, match=r"drops|cannot be told"):
        renderer.render(TURNS)


def test_a_template_that_changes_an_answer_is_refused(tmp_path: Path) -> None:
    template = CHATML.template.replace("m['content']", "m['content'] | replace('Ok', 'OK')")
    renderer = load_renderer(write_tokenizer(tmp_path, template, CHATML.special))
    renderer.render(TURNS[:2])
    with pytest.raises(RenderError, match="drops or changes the text of an assistant turn"):
        renderer.render(TURNS)


def test_thinking_is_trained_in_the_last_turn_and_refused_where_the_template_strips_it(
    tmp_path: Path,
) -> None:
    case = Case("", QWEN3.template, QWEN3.special[:2], QWEN3.plain, QWEN3.system)
    renderer = renderer_of(case, tmp_path)
    thought = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nOk."}
    rendered = renderer.render([*TURNS[:3], thought])
    start, end = rendered.spans[-1]
    assert rendered.text[start:end] == "<think>\nHm.\n</think>\n\nOk.<|im_end|>"
    with pytest.raises(RenderError, match="drops or changes"):
        renderer.render([TURNS[0], thought, *TURNS[2:]])


def test_a_moved_system_text_keeps_every_answer_in_the_loss(tmp_path: Path) -> None:
    renderer = renderer_of(MISTRAL_MOVES, tmp_path)
    rendered = renderer.render([SYSTEM, *TURNS])
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["Yo</s>", "Ok, done.</s>"]


def test_answers_that_repeat_earlier_text_are_found_at_their_own_place(tmp_path: Path) -> None:
    renderer = renderer_of(CHATML, tmp_path)
    said = ["Hi", "assistant", "user", "Hi", "Hi", "user\nHi"]
    messages = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": text}
        for i, text in enumerate(said)
    ]
    rendered = renderer.render(messages)
    found = [rendered.text[a:b] for a, b in rendered.spans]
    assert found == [f"{text}<|im_end|>" for text in said[1::2]]


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
TOOL_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] %}{{ m['content'] }}{% endif %}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_tools_are_shown_to_the_model_and_its_calls_are_trained(tmp_path: Path) -> None:
    renderer = load_renderer(write_tokenizer(tmp_path, TOOL_TEMPLATE, CHATML.special))
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
    messages = [
        {"role": "user", "content": "Weather in Bonn?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "21 C"},
        {"role": "assistant", "content": "It is 21 C."},
    ]
    rendered = renderer.render(messages, TOOLS)
    assert '"name": "weather"' in rendered.text.split("<|im_end|>")[0]
    calls, answer = (rendered.text[a:b] for a, b in rendered.spans)
    assert calls == '<call>{"name": "weather", "arguments": {"city": "Bonn"}}</call><|im_end|>'
    assert answer == "It is 21 C.<|im_end|>"
    prompt = renderer.prompt(messages[:3], TOOLS)
    assert rendered.ids[: len(prompt)] == prompt
    without = renderer.render(messages)
    assert len(without.ids) < len(rendered.ids)


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
ASKED = [
    {"role": "user", "content": "Weather in Bonn?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
]


def test_a_template_without_tools_refuses_them_and_does_not_train_empty_answers(
    tmp_path: Path,
) -> None:
    renderer = renderer_of(CHATML, tmp_path)
    with pytest.raises(RenderError, match="drops the call of 'weather'"):
        renderer.render(ASKED)
    with pytest.raises(RenderError, match="does not show tools to the model"):
        renderer.render(TURNS, TOOLS)


def test_a_template_that_drops_what_a_tool_said_is_refused(tmp_path: Path) -> None:
    template = TOOL_TEMPLATE.replace("if m['content']", "if m['content'] and m.role != 'tool'")
    renderer = load_renderer(write_tokenizer(tmp_path, template, CHATML.special))
    with pytest.raises(RenderError, match="drops the tool message '21 C'"):
        renderer.render([*ASKED, {"role": "tool", "content": "21 C"}])


def test_what_a_tool_said_may_be_rendered_as_json(tmp_path: Path) -> None:
    template = TOOL_TEMPLATE.replace(
        "{{ m['content'] }}", "{{ m['content'] | tojson if m.role == 'tool' else m['content'] }}"
    )
    renderer = load_renderer(write_tokenizer(tmp_path, template, CHATML.special))
    said = {"role": "tool", "content": '"21 °C"\nin the shade'}
    assert '\\"21 °C\\"\\nin the shade' in renderer.render([*ASKED, said], TOOLS).text


def test_special_tokens_in_calls_and_tools_are_refused_like_those_in_text(tmp_path: Path) -> None:
    renderer = load_renderer(write_tokenizer(tmp_path, TOOL_TEMPLATE, CHATML.special))
    forged = {"function": {"name": "weather", "arguments": {"city": ["Bonn<|im_end|>"]}}}
    with pytest.raises(RenderError, match=r"message 2 \(assistant\) contains .*<\|im_end\|>"):
        renderer.render([ASKED[0], {**ASKED[1], "tool_calls": [forged]}])
    tools = [{"function": {"name": "weather", "description": "<|im_start|>"}}]
    with pytest.raises(RenderError, match=r"the list of tools contains .*<\|im_start\|>"):
        renderer.prompt(ASKED[:1], tools)


def test_a_conversation_may_begin_with_the_assistant(tmp_path: Path) -> None:
    rendered = renderer_of(CHATML, tmp_path).render([{**TURNS[1]}, *TURNS[:2]])
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["Yo<|im_end|>"] * 2


def test_the_date_a_template_prints_is_the_same_every_day(tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %b %Y') }}\n" + CHATML.template
    renderer = load_renderer(write_tokenizer(tmp_path, template, CHATML.special))
    assert renderer.render(TURNS).text.startswith("26 Jul 2024\n")
    assert any("date" in note for note in renderer.notes)


def test_the_fingerprint_changes_with_whatever_decides_ids_and_masks(tmp_path: Path) -> None:
    changes = {
        "same": (CHATML.template, CHATML.special),
        "template": (CHATML.template + " ", CHATML.special),
        "tokenizer": (CHATML.template, (*CHATML.special, "<new>")),
    }
    prints = {
        name: load_renderer(write_tokenizer(tmp_path / name, *change)).fingerprint
        for name, change in changes.items()
    }
    again = load_renderer(write_tokenizer(tmp_path / "again", *changes["same"]))
    assert again.fingerprint == prints["same"]
    assert len(set(prints.values())) == 3


def test_the_pad_is_the_tokenizers_own_or_else_a_stop_token(tmp_path: Path) -> None:
    special = (*CHATML.special, "<pad>")
    own = load_renderer(write_tokenizer(tmp_path / "own", CHATML.template, special, pad="<pad>"))
    assert own.pad_id == own.tokenizer.convert_tokens_to_ids("<pad>")
    none = load_renderer(write_tokenizer(tmp_path / "none", CHATML.template, special))
    assert none.pad_id in none.stop_ids


@pytest.mark.parametrize("name", ["phi-3-mini-4k", "phi-3-mini-128k"])
def test_the_real_phi_3_trains_answers_with_their_end_and_nothing_else(
    name: str, kit: Path
) -> None:
    renderer = load_renderer(kit / "tokenizer" / name)
    rendered = renderer.render([SYSTEM, *TURNS])
    pieces: list[list[int]] = []
    for i, (token, flag) in enumerate(zip(rendered.ids, rendered.trained, strict=True)):
        if flag and not rendered.trained[i - 1]:
            pieces.append([])
        if flag:
            pieces[-1].append(token)
    assert [renderer.tokenizer.decode(ids) for ids in pieces] == ["Yo<|end|>", "Ok, done.<|end|>"]
    prompt = renderer.prompt([SYSTEM, *TURNS[:3]])
    assert rendered.ids[: len(prompt)] == prompt
    assert renderer.folds_system == (name == "phi-3-mini-128k")
