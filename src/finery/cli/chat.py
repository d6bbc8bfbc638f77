"""`finery chat`: talk to a model or an endpoint, or to two of them side by side."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from finery.cli.chat_voices import Local, Settings, Voice, remote
from finery.cli.client import connect
from finery.errors import Fault, FineryError, InputError
from finery.evaluation.markup import plain

HELP = "/reset starts over, /exit or Ctrl-D leaves, Ctrl-C stops an answer."


@dataclass
class Talk:
    """One model with its own side of the conversation."""

    label: str
    voice: Voice
    system: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system text."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []


def chat_command(
    model: Annotated[
        str, typer.Argument(help="Run folder, model folder, adapter folder, or model source.")
    ] = "",
    against: Annotated[
        str, typer.Option(help="A second model that answers each message too, e.g. the base.")
    ] = "",
    system: Annotated[str, typer.Option(help="System text at the head of the conversation.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 answers greedily; above 0 samples.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0,
    message: Annotated[str, typer.Option(help="Answer this one message and exit.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="With --message: print the answers as JSON.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    endpoint: Annotated[str, typer.Option(help="Talk to this endpoint, in place of MODEL.")] = "",
    deployment: Annotated[str, typer.Option(help="Of the endpoint, whatever its traffic.")] = "",
) -> None:
    """Talk to a model; with --against, to two models that answer the same messages."""
    if as_json and not message:
        raise FineryError("--json prints one answer and needs a --message. Add --message TEXT.")
    if bool(model) == bool(endpoint):
        raise InputError([Fault("chat", "both or neither", "MODEL or --endpoint")])
    talks = [Talk(endpoint, remote(connect(), endpoint, deployment), system)] if endpoint else []
    talks += [Talk(name, _open(name, device), system) for name in (model, against) if name]
    settings = Settings(max_new_tokens, temperature, seed)
    if as_json:
        _print_json(talks, message, settings)
    elif message:
        _answer_all(talks, message, settings)
    else:
        _converse(talks, settings)


def _open(model: str, device: str) -> Local:
    from finery.inference.open import open_model

    return Local(open_model(model, device=device))


def _print_json(talks: Sequence[Talk], message: str, settings: Settings) -> None:
    answers = []
    for talk in talks:
        messages = [*talk.messages, {"role": "user", "content": message}]
        answers.append({"model": talk.label, **talk.voice.whole(messages, settings)})
    typer.echo(json.dumps({"message": message, "answers": answers}, ensure_ascii=False, indent=2))


def _converse(talks: Sequence[Talk], settings: Settings) -> None:
    """Lines from the keyboard or a pipe until they end."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):  # line editing where the platform has it
            import readline  # noqa: F401
        typer.echo(HELP)
    for line in _lines("> " if interactive else ""):
        if line == "/exit":
            return
        if line == "/reset":
            for talk in talks:
                talk.reset()
            typer.echo("The conversation starts over.")
        elif line:
            _take_turn(talks, line, settings)


def _lines(prompt: str) -> Iterator[str]:
    while True:
        try:
            yield input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return


def _take_turn(talks: Sequence[Talk], line: str, settings: Settings) -> None:
    """One message to every model; one that fails leaves the conversation as it was."""
    before = [list(talk.messages) for talk in talks]
    try:
        _answer_all(talks, line, settings)
    except (FineryError, KeyboardInterrupt) as stop:
        for talk, messages in zip(talks, before, strict=True):
            talk.messages = messages
        reason = str(stop) or "Stopped."
        typer.echo(f"\n{reason} The message was taken back; /reset starts over.", err=True)


def _answer_all(talks: Sequence[Talk], message: str, settings: Settings) -> None:
    """Every model answers, one after the other, in labelled blocks when there are several."""
    for talk in talks:
        if len(talks) > 1:
            typer.secho(f"── {plain(talk.label)}", bold=True)
        messages = [*talk.messages, {"role": "user", "content": message}]
        said = []
        for piece in talk.voice.pieces(messages, settings):
            said.append(piece)
            typer.echo(plain(piece), nl=False)
            sys.stdout.flush()
        typer.echo()
        talk.messages = [*messages, {"role": "assistant", "content": "".join(said)}]
