"""`finery endpoint canary`: traffic goes over by itself, and back when the new one is worse."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from finery.cli.client import Service, connect
from finery.cli.endpoint_changes import KIND
from finery.cli.tables import AsJson, moment, print_facts, print_json, print_table, say
from finery.errors import Fault, InputError

STEPS, GUARDS = "5,25,100", "error_rate,latency_p95"


def canary(
    name: Annotated[str, typer.Argument(help="The name of an endpoint.")],
    to: Annotated[str, typer.Option(help="The deployment that is to get the traffic.")] = "",
    steps: Annotated[str, typer.Option(help="Its shares in percent, one after another.")] = STEPS,
    guard: Annotated[str, typer.Option(help="What is compared with the old deployment.")] = GUARDS,
    min_requests: Annotated[int, typer.Option(min=1, help="To it, in every step.")] = 200,
    step_minutes: Annotated[float, typer.Option(min=0, help="A step's least length.")] = 0.0,
    status: Annotated[bool, typer.Option("--status", help="Say how it stands.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="End it; traffic goes back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Shift traffic to another deployment step by step; roll back when it is worse."""
    if [bool(to), status, abort].count(True) != 1:
        raise InputError([Fault("canary", "none or several", "one of --to, --status, --abort")])
    service = connect()
    if status:
        found = _newest(service, name)
    elif abort:
        found = service.ask("POST", KIND, name, "canary", "abort").json()
    else:
        found = _begin(service, name, to, steps, guard, min_requests, step_minutes)
        say(f"`finery endpoint canary {name} --status` says how it goes, --abort ends it.")
    if as_json:
        print_json(found)
    else:
        _print(found)


def _begin(
    service: Service,
    name: str,
    to: str,
    steps: str,
    guard: str,
    min_requests: int,
    step_minutes: float,
) -> dict[str, Any]:
    shares = [part.strip() for part in steps.split(",")]
    if not all(part.isascii() and part.isdigit() for part in shares):
        raise InputError([Fault("--steps", repr(steps), "whole numbers, such as 5,25,100")])
    body = {
        "deployment": to,
        "steps": [int(part) for part in shares],
        "guards": [part.strip() for part in guard.split(",") if part.strip()],
        "minRequests": min_requests,
        "stepMinutes": step_minutes,
    }
    return service.ask("POST", KIND, name, "canary", body=body).json()


def _newest(service: Service, name: str) -> dict[str, Any]:
    found = service.get(KIND, name, "canary")["value"]
    if not found:
        expected = f"one that `finery endpoint canary {name} --to DEPLOYMENT` began"
        raise InputError([Fault("canary", f"none at {name}", expected)])
    return found[0]


def _print(canary: dict[str, Any]) -> None:
    step = f"{canary['step'] + 1} of {len(canary['steps'])}, {canary['share']} %"
    print_facts(
        {
            "to": f"{canary['deployment']} (from {canary['stable']})",
            "state": canary["state"],
            "step": f"{step}, {canary['answered']} of {canary['minRequests']} requests",
            "guards": ", ".join(
                f"{guard} (evidence of worse {canary['evidence'].get(guard, 1):g}:1)"
                for guard in canary["guards"]
            ),
            "reason": canary["reason"],
        }
    )
    typer.echo()
    rows = [
        (name, one["requests"], one["errors"], _seconds(one["latencyP95"]))
        for name, one in canary["figures"].items()
    ]
    print_table(("deployment", "requests", "errors", "95 % within"), rows, "")
    typer.echo()
    decisions = [
        (moment(one["at"].removesuffix("Z") + "+00:00"), one["decision"], f"{one['share']} %")
        for one in canary["history"]
    ]
    print_table(("when", "decision", "share"), decisions, "")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} s"
