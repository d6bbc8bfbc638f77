"""`finery up` and `finery down`: start and stop the service."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from finery.service.running import Running


def up_command(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in this process until Ctrl-C or SIGTERM.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="HTTPS port; 0 is any free one. Default 8443.")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Plain HTTP port on loopback; 0 is any free one.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
) -> None:
    """Start the service of this machine and say where it answers."""
    from finery.service.running import start_service
    from finery.workspace.settings import load_settings, service_folder

    folder = service_folder()
    settings = load_settings(folder, {"port": port, "http_port": http_port, "host": host})
    options = {"port": port, "http_port": http_port, "host": host}
    if foreground:
        from finery.service.run import serve

        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        for talkative in ("httpx", "alembic"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        serve(folder, settings)
        return
    _print_running(folder, start_service(folder, options))


def down_command() -> None:
    """Stop the service. Jobs and endpoints that run go on; the next service adopts them."""
    from finery.service.running import running_service, stop_service
    from finery.workspace.settings import service_folder

    running = running_service(service_folder())
    if running is None:
        typer.echo("No service runs.")
        return
    stop_service(running)
    typer.echo(f"Stopped (process {running.pid}). `finery up` starts it again.")


def _print_running(folder: Path, running: Running) -> None:
    from finery.service.environment import page_link

    typer.echo(f"finery {running.version} runs (process {running.pid}).")
    typer.echo(f"  Azure ML     {running.url}")
    typer.echo(f"  plain HTTP   {running.http_url}")
    typer.echo(f"  studio       {page_link(folder, running, '/studio/')}")
    typer.echo('Point programs at it with: eval "$(finery env)", or: finery exec -- COMMAND')
