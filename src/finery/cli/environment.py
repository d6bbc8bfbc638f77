"""`finery env`, `finery exec` and `finery init`: let programs find the service."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from finery.errors import Fault, FineryError, InputError, did_you_mean
from finery.workspace.errors import UnavailableError


def env_command(
    user: Annotated[
        str, typer.Option(help="Somebody of the setting `users`; the owner when not given.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the variables that point Azure's and MLflow's clients at the service."""
    from finery.service.environment import exports

    values = service_variables(user)
    typer.echo(json.dumps(values, indent=2) if as_json else exports(values), nl=as_json)


def exec_command(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND…", help="The program and its arguments.")
    ],
) -> None:
    """Run COMMAND with the service's variables, starting the service when none runs."""
    environment = os.environ | service_variables(start=True)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - the user's own command
    except FileNotFoundError:
        raise FineryError(f"There is no program called {command[0]}.") from None


def service_variables(user: str = "", *, start: bool = False) -> dict[str, str]:
    """The variables of the service that runs; raises FineryError when none does."""
    from finery.service.environment import variables
    from finery.service.running import running_service, start_service
    from finery.workspace.settings import OWNER, load_settings, service_folder

    folder = service_folder()
    users = load_settings(folder).users
    if user and user not in (OWNER, *users):
        remedy = did_you_mean(user, users) or "Add the name to `users` in settings.yaml."
        raise InputError([Fault("--user", repr(user), "a name of the setting `users`", remedy)])
    running = start_service(folder, {}) if start else running_service(folder)
    if running is None:
        raise UnavailableError("No service runs. Start it with `finery up`.")
    return variables(folder, running, user or OWNER)


def init_command(
    folder: Annotated[
        Path, typer.Argument(help="Where config.json goes.", file_okay=False)
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace a config.json.")] = False,
) -> None:
    """Write config.json, so that MLClient.from_config() finds this workspace."""
    from finery.files import write_json
    from finery.workspace.settings import load_settings, service_folder

    path = folder / "config.json"
    if path.exists() and not force:
        raise FineryError(f"{path} is there already. Use --force to replace it.")
    settings = load_settings(service_folder())
    content = {
        "subscription_id": settings.subscription_id,
        "resource_group": settings.resource_group,
        "workspace_name": settings.workspace_name,
    }
    write_json(path, content)
    typer.echo(str(path))
