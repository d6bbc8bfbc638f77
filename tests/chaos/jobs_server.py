"""A server of jobs and nothing else, to be killed: `python tests/chaos/jobs_server.py FOLDER`.

It takes commands on its standard input, one a line (`submit NAME KIND`, `cancel NAME`), and
says `ok NAME` when a command can be relied upon. With `--die 12:before` it kills itself at the
twelfth point at which something becomes durable, counted from the first command: a commit that
wrote, a file renamed into its place, a process started.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from finery.jobs import durable, service
from finery.jobs.capacity import Machine
from finery.jobs.runtime import Runtime
from finery.jobs.spec import JobSpec, Output, StepOutput, StepSpec
from finery.workspace.lock import sole_service
from finery.workspace.migrations import migrate
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect


def pipeline(name: str, kind: str) -> JobSpec:
    """Three steps in a row, a fourth beside them; what comes out tells whether all ran."""

    def step(path: str, text: str, *reads: str) -> StepSpec:
        inputs = {f"from_{other}": StepOutput(other, "out") for other in reads}
        outputs = {"out": Output("uri_folder")}
        return StepSpec(path, command=text, inputs=inputs, outputs=outputs)

    pause = "sleep 0.$((RANDOM % 4))"
    lasts = {"failing": "exit 9", "canceled": "sleep 600"}  # what is canceled does not just end
    last = lasts.get(kind, "echo c >> ${{outputs.out}}/f")
    return JobSpec(
        name,
        "pipeline",
        (
            step("a", f"{pause}; echo a > ${{{{outputs.out}}}}/f; echo a says"),
            step(
                "b",
                f"{pause}; (cat ${{{{inputs.from_a}}}}/f; echo b) > ${{{{outputs.out}}}}/f",
                "a",
            ),
            step("c", f"{pause}; cp ${{{{inputs.from_b}}}}/f ${{{{outputs.out}}}}/f; {last}", "b"),
            step("d", f"{pause}; echo d says"),
        ),
        outputs={"final": StepOutput("c", "out")},
        force_rerun=True,
    )


def open_workspace(folder: Path, database: str = "") -> Workspace:
    """The workspace in `folder`, on a database or on SQLite in it."""
    folder.mkdir(parents=True, exist_ok=True)
    store = connect(database or f"sqlite:///{folder / 'finery.sqlite'}")
    migrate(store)
    return Workspace(folder, Settings(tracking=False, database_url=database), store)


class Death:
    """Kills this process at a point that is counted."""

    def __init__(self, at: int, moment: str) -> None:
        self._at, self._moment = at, moment
        self._count, self._armed = 0, False
        self._turn = threading.RLock()
        self._written: dict[int, int] = {}

    def arm(self) -> None:
        """Begin to count."""
        self._armed = True

    def around(self, act: Callable[[], Any]) -> Any:
        """Do what makes something durable; die before or after it when it is its turn."""
        with self._turn:
            self._count += self._armed
            due = self._armed and self._count == self._at
            if due and self._moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = act()
            if due:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    def wrote(self, connection: Any) -> bool:
        """Whether a connection has changes since it was last asked."""
        key, total = id(connection), connection.total_changes
        changed = self._written.get(key, 0) != total
        self._written[key] = total
        return changed


def install(death: Death) -> None:
    """Have every commit that wrote, every rename and every started process counted."""
    commit, replace, popen = DefaultDialect.do_commit, Path.replace, subprocess.Popen

    def do_commit(self: Any, connection: Any) -> Any:
        if not death.wrote(connection):
            return commit(self, connection)
        return death.around(lambda: commit(self, connection))

    def counted_replace(self: Path, target: Any) -> Any:
        return death.around(lambda: replace(self, target))

    def counted_popen(*given: Any, **named: Any) -> Any:
        return death.around(lambda: popen(*given, **named))

    DefaultDialect.do_commit = do_commit  # pyright: ignore
    Path.replace = counted_replace  # pyright: ignore
    subprocess.Popen = counted_popen  # pyright: ignore


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", default="0:after")
    parser.add_argument("--database", default="")
    given = parser.parse_args()
    at, moment = given.die.split(":")
    death = Death(int(at), moment)
    if int(at):
        install(death)
    workspace = open_workspace(given.folder, given.database)
    with sole_service(given.folder, workspace.store):
        runtime = Runtime(workspace, machine=Machine(cores=6), grace=0.3)
        with durable.launched(runtime):
            print("ready", flush=True)
            for line in sys.stdin:
                death.arm()
                verb, name, *kind = line.split()
                if verb == "submit":
                    service.submit(workspace, pipeline(name, kind[0]))
                else:
                    service.cancel(workspace, name)
                print("ok", name, flush=True)


if __name__ == "__main__":
    main()
