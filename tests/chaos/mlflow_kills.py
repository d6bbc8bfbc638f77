"""MLflow's server under kills: what it acknowledged is there at the end, each metric once."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil

from finery.cli.client import connect
from finery.errors import FineryError
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace
from finery.workspace.tracking_server import TrackingServer

API = "/mlflow/api/2.0/mlflow"


@dataclass
class Metrics:
    """A run of the trial's own, and what of it MLflow has taken."""

    run: str = ""
    taken: list[int] = field(default_factory=list)
    unsure: list[int] = field(default_factory=list)  # not acknowledged; they may be there or not

    def say(self) -> None:
        """Log the next number; a service or an MLflow that is gone acknowledges nothing."""
        number = len(self.taken) + len(self.unsure)
        said = {"run_id": self.run, "key": "n", "value": number, "timestamp": number}
        try:
            if not self.run:
                self.run = _run()
                said["run_id"] = self.run
            _ask("POST", "runs/log-metric", said | {"step": number})
        except UnavailableError:
            self.unsure.append(number)
        else:
            self.taken.append(number)

    def faults(self) -> list[str]:
        """Numbers that were acknowledged and are not there, or that nobody logged."""
        if not self.run:
            return []
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            query = {"run_id": self.run, "metric_key": "n", "max_results": "1000"}
            page = _ask("GET", "metrics/get-history", query | {"page_token": token})
            found += page.get("metrics", [])
            if not (token := page.get("next_page_token", "")):
                break
        there = Counter(int(one["step"]) for one in found)
        lost = [number for number in self.taken if not there[number]]
        strange = there.keys() - {*self.taken, *self.unsure}
        faults = [f"MLflow lost metrics that it had taken: {lost}"] if lost else []
        return faults + ([f"MLflow has metrics of nobody: {strange}"] if strange else [])


def kill_mlflow(workspace: Workspace) -> bool:
    """End MLflow's server, and its worker, at once; whether it ran."""
    found = TrackingServer(workspace).processes()
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(found)


def _run() -> str:
    try:
        made = _ask("POST", "experiments/create", {"name": "metrics under kills"})
    except FineryError as error:
        if isinstance(error, UnavailableError):
            raise
        named = {"experiment_name": "metrics under kills"}  # made, and never acknowledged
        made = _ask("GET", "experiments/get-by-name", named)["experiment"]
    asked = {"experiment_id": made["experiment_id"], "start_time": 0}
    return _ask("POST", "runs/create", asked)["run"]["info"]["run_id"]


def _ask(method: str, what: str, said: dict[str, Any]) -> dict[str, Any]:
    if method == "GET":
        return connect().ask(method, *what.split("/"), below=API, query=said).json()
    return connect().ask(method, *what.split("/"), below=API, body=said).json()
