"""Talking to models on the command line; the models here are parrots."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from finery.cli.chat import chat_command
from finery.errors import FineryError
from finery.inference import generate as generating
from finery.inference import open as opening

Run = Callable[..., Result]


def _reply(model: str, messages: Sequence[Any]) -> str:
    said = "/".join(f"{m['role'][0]}:{m['content']}" for m in messages)
    return f"{model} heard {said}"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with models that say what they were told; `boom` fails, `rude` escapes."""

    def open_model(source: str, *, device: str) -> Any:
        return SimpleNamespace(model=source, renderer=None)

    def stream(model: str, _renderer: Any, messages: Sequence[Any], **_: Any) -> Iterator[str]:
        if messages[-1]["content"] == "boom":
            raise FineryError("prompt 1 has 9000 tokens.")
        if messages[-1]["content"] == "rude":
            return iter(["\x1b[2J"])
        return iter(_reply(model, messages).partition(" "))

    def generate(
        model: str, _renderer: Any, prompts: Sequence[Sequence[Any]], **settings: Any
    ) -> list[Any]:
        assert settings == {"max_new_tokens": 9, "temperature": 0.5, "seed": 3}
        return [generating.Answer(_reply(model, prompts[0]), 4, 5, "stop", 0.25)]

    monkeypatch.setattr(opening, "open_model", open_model)
    monkeypatch.setattr(generating, "stream", stream)
    monkeypatch.setattr(generating, "generate", generate)
    app = typer.Typer()
    app.command()(chat_command)

    def invoke(*arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(app, [*arguments], input=typed, catch_exceptions=False)

    return invoke


def test_one_message_is_answered_and_nothing_else_is_printed(run: Run) -> None:
    result = run("tuned", "--message", "hi", "--system", "be kind")
    assert result.stdout == "tuned heard s:be kind/u:hi\n"
    assert result.exit_code == 0


def test_two_models_answer_in_labelled_blocks(run: Run) -> None:
    result = run("tuned", "--against", "base", "--message", "hi")
    assert result.stdout == "── tuned\ntuned heard u:hi\n── base\nbase heard u:hi\n"


def test_json_gives_every_answer_with_its_counts(run: Run) -> None:
    options = ("--max-new-tokens", "9", "--temperature", "0.5", "--seed", "3")
    result = run("tuned", "--against", "base", "--message", "hi", "--json", *options)
    told = json.loads(result.stdout)
    assert told["message"] == "hi"
    assert [answer["model"] for answer in told["answers"]] == ["tuned", "base"]
    assert told["answers"][0] == {
        "model": "tuned",
        "text": "tuned heard u:hi",
        "prompt_tokens": 4,
        "new_tokens": 5,
        "finish_reason": "stop",
        "seconds": 0.25,
    }


def test_json_without_a_message_says_what_to_add(run: Run) -> None:
    with pytest.raises(FineryError, match="Add --message"):
        run("tuned", "--json")


def test_a_conversation_remembers_until_it_is_reset_and_ends_with_the_input(run: Run) -> None:
    result = run("m", typed="one\n\ntwo\n/reset\nthree\n")
    assert result.stdout.splitlines() == [
        "m heard u:one",
        "m heard u:one/a:m heard u:one/u:two",
        "The conversation starts over.",
        "m heard u:three",
        "",
    ]


def test_each_model_remembers_its_own_answers(run: Run) -> None:
    result = run("m", "--against", "b", typed="one\ntwo\n/exit\nnever\n")
    assert "m heard u:one/a:m heard u:one/u:two" in result.stdout
    assert "b heard u:one/a:b heard u:one/u:two" in result.stdout
    assert "never" not in result.stdout


def test_a_reset_keeps_the_system_text(run: Run) -> None:
    result = run("m", "--system", "kind", typed="one\n/reset\ntwo\n")
    assert "m heard s:kind/u:two" in result.stdout


def test_a_message_that_does_not_fit_is_taken_back_and_the_talk_goes_on(run: Run) -> None:
    result = run("m", typed="one\nboom\ntwo\n")
    assert "prompt 1 has 9000 tokens. The message was taken back" in result.stderr
    assert "m heard u:one/a:m heard u:one/u:two" in result.stdout
    assert result.exit_code == 0


def test_a_message_that_does_not_fit_is_an_error_in_a_script(run: Run) -> None:
    with pytest.raises(FineryError, match="9000 tokens"):
        run("m", "--message", "boom")


def test_an_answer_cannot_steer_the_terminal(run: Run) -> None:
    assert run("m", "--message", "rude").stdout == "\\x1b[2J\n"


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(model: str, _renderer: Any, messages: Sequence[Any], **_: Any) -> Iterator[str]:
        if messages[-1]["content"] == "slow":
            yield "I beg"
            raise KeyboardInterrupt
        yield _reply(model, messages)

    monkeypatch.setattr(generating, "stream", stream)
    result = run("m", typed="slow\nnext\n")
    assert "Stopped. The message was taken back" in result.stderr
    assert "m heard u:next" in result.stdout


def test_help_comes_without_loading_torch() -> None:
    import subprocess

    code = (
        "import sys, finery.cli.chat, finery.cli.evaluate;"
        "sys.exit(', '.join({'torch', 'transformers', 'numpy'} & set(sys.modules)) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
