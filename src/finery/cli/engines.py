"""`finery engines`: the faster engines, each in an environment of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from finery.cli.tables import AsJson, print_json, print_table, say

app = typer.Typer(
    no_args_is_help=True,
    help="Install, list and remove the engines that answer faster than finery's own.",
)
Name = Annotated[str, typer.Argument(help="openvino (CPU) or vllm (GPU).")]


@app.command()
def install(name: Name, as_json: AsJson = False) -> None:
    """Make the environment of an engine below FINERY_HOME/engines; finery's own stays as it is."""
    from finery.inference.engines import environments

    made = environments.install(name, say)
    say(f"The engine {name} is installed in {made.folder}.")
    say(f"Next: finery deploy MODEL --endpoint NAME --engine {name}")
    if as_json:
        print_json(_shown(name))


@app.command("list")
def list_engines(as_json: AsJson = False) -> None:
    """List the engines, and which are installed."""
    from finery.inference.engines import environments

    rows = [_shown(name) for name in ("torch", *environments.names())]
    if as_json:
        print_json(rows)
        return
    cells = [(row["name"], row["state"], row["device"], row["folder"]) for row in rows]
    print_table(("engine", "state", "device", "folder"), cells, "There are no engines.")


@app.command()
def remove(name: Name, as_json: AsJson = False) -> None:
    """Take the environment of an engine away; replicas that run on it end with it."""
    from finery.inference.engines import environments

    removed = environments.remove(name)
    say(f"The engine {name} is gone." if removed else f"The engine {name} was not installed.")
    if as_json:
        print_json({"name": name, "removed": removed})


def _shown(name: str) -> dict[str, Any]:
    from finery.inference.engines import environments

    device = "cuda" if environments.has_cuda() else "cpu"
    if name == "torch":
        return {
            "name": name,
            "state": "built in",
            "device": device,
            "folder": "",
            "packages": [],
            "gigabytes": 0.0,
        }
    row = environments.row_of(name)
    found = environments.installed(name)
    state = "not installed" if found is None else "installed"
    if found is not None and environments.outdated(found):
        state = "outdated"
    return {
        "name": name,
        "state": state,
        "device": found.device if found else row.device,
        "folder": str(found.folder) if found else "",
        "packages": list(found.packages if found else row.packages),
        "gigabytes": row.gigabytes,
    }
