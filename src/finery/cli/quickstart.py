"""`finery quickstart`: from nothing to a fine-tuned chat model, on this machine, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def quickstart_command(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("finery-quickstart"),
) -> None:
    """Fine-tune SmolLM2-135M-Instruct on conversations that finery ships, and compare."""
    from rich.console import Console

    from finery.cli.finetune import run_with_progress
    from finery.quickstart import RECIPE
    from finery.recipe.resolve import resolve

    Console().print(
        "SmolLM2-135M-Instruct has never heard of the Lanternfish Line, a ferry of our invention.\n"
        "It now learns to be its help desk, from 366 short conversations.\n",
        highlight=False,
    )
    run_with_progress(resolve(RECIPE, {"output_dir": str(output)}), context.obj)
