"""`finery demo`: fine-tune, register, deploy, ask; in a service of its own, which ends with it.

Every step is a command that a person could type, and is shown before it runs. The base model and
the tuned one are two deployments of one endpoint, so the same request is put to both.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from finery.errors import FineryError

ENDPOINT, MODEL, BASE = "help-desk", "help-desk", "SmolLM2-135M-Instruct"
QUESTIONS = 2


def demo_command(
    output: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("finery-quickstart"),
) -> None:
    """Fine-tune, register, deploy and ask, all of it on this machine; nothing is left running."""
    from finery.cli.deploy import served_part

    run(os.environ, "quickstart", "--output", str(output))
    with _temporary_home() as home:
        here = {**os.environ, "FINERY_HOME": str(home)}
        with _service(here, home):
            part, kind = served_part(output)
            registered = ("model", "register", MODEL, "--path", str(part), "--type", kind)
            run(here, *registered)
            run(here, "deploy", MODEL, "--endpoint", ENDPOINT, "--deployment", "tuned")
            run(here, "deploy", BASE, "--endpoint", ENDPOINT, "--deployment", "base")
            run(here, "endpoint", "show", ENDPOINT)
            for question in _questions():
                for name in ("base", "tuned"):
                    asked = ("--endpoint", ENDPOINT, "--deployment", name, "--message", question)
                    run(here, "chat", *asked, "--max-new-tokens", "48")
            run(here, "endpoint", "delete", ENDPOINT)
    typer.echo(
        f"\nThe tuned model is in {output}. Keep it running: finery up, then "
        f"finery deploy {output} --endpoint {ENDPOINT}"
    )


def run(environment: Mapping[str, str], *words: str) -> None:
    """One command of ours, shown first; raises FineryError when it fails."""
    typer.secho(f"\n$ finery {shlex.join(words)}", bold=True)
    command = [sys.executable, "-m", "finery.cli.main", *words]
    status = subprocess.run(command, env=dict(environment), check=False).returncode
    if status:
        raise FineryError(f"The demo ended: `finery {words[0]}` failed, as it says above.")


@contextlib.contextmanager
def _temporary_home() -> Iterator[Path]:
    """A home of the demo's own, gone afterwards; it shares the imported models of the usual one."""
    from finery.files import home, write_json
    from finery.workspace.settings import FILE

    models = home() / "models"
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="finery-demo-") as name:
        (Path(name) / "models").symlink_to(models, target_is_directory=True)
        (Path(name) / "service").mkdir()
        write_json(Path(name) / "service" / FILE, {"tracking": False})  # no job runs in it
        yield Path(name)


@contextlib.contextmanager
def _service(environment: Mapping[str, str], home: Path) -> Iterator[None]:
    """A service on free ports; afterwards nothing that it started is left, whatever happened."""
    from finery.runners import process

    service = home / "service"
    try:
        run(environment, "up", "--port", "0", "--http-port", "0")
        yield
    finally:
        try:
            run(environment, "down")
        finally:
            for lock in [*service.glob("gateway/*/lock"), *service.glob("replicas/*/*/*/lock")]:
                process.stop(lock.parent, grace=5)


def _questions() -> list[str]:
    """What the tuned model has learnt to answer, in words that it has not seen."""
    from finery.quickstart import TEST

    rows = [json.loads(line) for line in TEST.read_text(encoding="utf-8").splitlines()]
    short = [row["messages"] for row in rows if len(row["messages"]) == 2]
    return [messages[0]["content"] for messages in short[:QUESTIONS]]
