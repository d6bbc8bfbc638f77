"""`finery`: from base model to fine-tuned chat model, one command a noun."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from finery import __version__
from finery.cli import data, model
from finery.cli.chat import chat_command
from finery.cli.evaluate import evaluate_command
from finery.cli.finetune import finetune_command
from finery.cli.quickstart import quickstart_command
from finery.errors import FineryError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fine-tune a chat model on your own machine, evaluate it, and talk to it.",
)
app.command("quickstart")(quickstart_command)
app.command(
    "finetune",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
    add_help_option=False,
)(finetune_command)
app.command("evaluate")(evaluate_command)
app.command("chat")(chat_command)
app.add_typer(data.app, name="data")
app.add_typer(model.model, name="model")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"finery {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a FineryError is one message and an exit status, no traceback.

    Exit status: 0 done, 1 refused or failed, 2 faults in the input, 3 a self-test failed,
    130 interrupted.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except FineryError as error:
        print(f"finery: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("\nfinery: stopped. Run the same command again to go on.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
