"""`finery`: from base model to fine-tuned chat model, one command a noun."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from typing import Annotated

import typer

from finery import __version__
from finery.cli import compute, data, endpoint, engines, job, model
from finery.cli.chat import chat_command
from finery.cli.demo import demo_command
from finery.cli.deploy import deploy_command
from finery.cli.doctor import doctor_command
from finery.cli.environment import env_command, exec_command, init_command
from finery.cli.evaluate import evaluate_command
from finery.cli.finetune import Interrupted, finetune_command
from finery.cli.plan import plan_command
from finery.cli.quickstart import quickstart_command
from finery.cli.service import down_command, up_command
from finery.cli.watching import watch
from finery.errors import FineryError, InputError, SelfTestError, os_reason

EXIT_STATUSES = {
    0: "done",
    FineryError.exit_status: "refused or failed; the message says why and what to do",
    InputError.exit_status: "faults in the input: command line, recipe or data; all are listed",
    SelfTestError.exit_status: "a proof before the first training step did not hold",
    Interrupted.exit_status: "interrupted (Ctrl-C)",
}
# What a full or read-only disk says: no defect of finery, so no traceback.
_OF_THE_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fine-tune a chat model on your own machine, evaluate it, and talk to it.",
)
app.command("quickstart")(quickstart_command)
for _name, _command in (("finetune", finetune_command), ("plan", plan_command)):
    app.command(
        _name,
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        },
        add_help_option=False,
    )(_command)
app.command("evaluate")(evaluate_command)
app.command("chat")(chat_command)
app.command("demo")(demo_command)
app.command("deploy")(deploy_command)
app.command("up")(up_command)
app.command("down")(down_command)
app.command("env")(env_command)
app.command("exec", context_settings={"ignore_unknown_options": True})(exec_command)
app.command("init")(init_command)
app.command("doctor")(doctor_command)
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.add_typer(job.app, name="job")
app.add_typer(compute.app, name="compute")
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(engines.app, name="engines")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"finery {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a FineryError is one message and an exit status, no traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # DeepSpeed, where installed, is imported by PEFT and announces that there is no GPU
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: not record.getMessage().startswith("Setting accelerator to CPU")
    )
    try:
        app(obj=watch)
    except FineryError as error:
        print(f"finery: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except Exception as raised:
        error = _system_error(raised)
        if error is None or error.errno not in _OF_THE_MACHINE:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(
            f"finery: {place}{os_reason(error)}. Make room or choose another place.",
            file=sys.stderr,
        )
        sys.exit(1)


def _system_error(error: Exception) -> OSError | None:
    """What the system refused, also where a library written in Rust says it in its own way."""
    if isinstance(error, OSError):
        return error
    match = re.search(r"\(os error ([0-9]+)\)", str(error))
    return OSError(int(match[1]), os.strerror(int(match[1]))) if match else None


if __name__ == "__main__":
    main()
