"""`finery doctor`: look at everything that the service needs."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

_COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "fault": typer.colors.RED}


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check versions, devices, disk, clock, certificate, service and ports; exit 1 on a fault."""
    from finery.service.checks import FAULT, every_check
    from finery.workspace.settings import load_settings, service_folder

    folder = service_folder()
    checks = list(every_check(folder, load_settings(folder)))
    if as_json:
        typer.echo(
            json.dumps({"checks": [dataclasses.asdict(check) for check in checks]}, indent=2)
        )
    else:
        for check in checks:
            state = typer.style(f"{check.state:<8}", fg=_COLOURS[check.state])
            typer.echo(f"{state} {check.name:<12} {check.found}")
            if check.remedy:
                typer.echo(f"{'':<21} {check.remedy}")
    if any(check.state == FAULT for check in checks):
        raise typer.Exit(1)
