"""One endpoint made, changed and deleted by a process that dies at a counted point.

`python tests/chaos/endpoints_server.py FOLDER GOAL --die 7:after` asks for what the goal says,
looks after the replicas until it is reached, and kills itself at the seventh point at which
something becomes durable. The replicas are stand-ins without a model. Whoever follows calls
`drive` on the same folder, as the next service would.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from jobs_server import Death, install, open_workspace

from finery.endpoints import replicas, service
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.endpoints.supervisor import Supervisor
from finery.endpoints.values import Form
from finery.workspace.errors import NotFoundError
from finery.workspace.lock import sole_service
from finery.workspace.place import Workspace

STAND_IN = Path(__file__).parents[1] / "unit" / "endpoints" / "stand_in.py"
PATIENCE = 60.0
WANTED = WantedDeployment("chat", "blue", "good")
GOALS = {
    "create": WANTED,
    "refuse": replace(WANTED, model="refuses"),
    "update": replace(WANTED, environment={"GREETING": "hello"}, instance_count=2),
    "delete": None,
}


def stand_in(name: str, form: Form, folder: Path) -> tuple[str, ...]:
    """What a replica runs here."""
    ready = str(folder / replicas.READY)
    return (sys.executable, str(STAND_IN), form.model, "--name", name, "--ready", ready)


def ask(workspace: Workspace, goal: str) -> None:
    """Ask for what the goal says."""
    wanted = GOALS[goal]
    if wanted is None:
        service.delete(workspace, "chat")
        return
    service.put(workspace, WantedEndpoint("chat"))
    service.put_deployment(workspace, wanted)


def state(workspace: Workspace) -> str:
    """The state of the deployment; "" when there is none."""
    try:
        return service.deployment(workspace, "chat", "blue").state
    except NotFoundError:
        return ""


def is_there(workspace: Workspace) -> bool:
    """Whether there is an endpoint."""
    return any(endpoint.name == "chat" for endpoint in service.find(workspace))


def drive(workspace: Workspace, goal: str) -> str:
    """Look after the replicas until the goal is reached or failed; the deployment's state."""
    replicas.command, replicas.GRACE = stand_in, 1.0
    supervisor, until = Supervisor(workspace), time.monotonic() + PATIENCE
    while not (settled := supervisor.look()) or state(workspace) not in ("", "Succeeded", "Failed"):
        if time.monotonic() > until:
            return f"stuck: {state(workspace)}, settled: {settled}"
        time.sleep(0.02)
    return state(workspace)


def main() -> None:
    """Ask and look after it, up to the point at which to die."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("goal", choices=sorted(GOALS))
    parser.add_argument("--die", default="0:after")
    given = parser.parse_args()
    at, moment = given.die.split(":")
    workspace = open_workspace(given.folder)
    with sole_service(given.folder, workspace.store):
        death = Death(int(at), moment)
        install(death)
        death.arm()
        ask(workspace, given.goal)
        print("acknowledged", flush=True)
        print(drive(workspace, given.goal), flush=True)


if __name__ == "__main__":
    main()
