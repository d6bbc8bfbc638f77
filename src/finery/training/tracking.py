"""Metrics of a job's step to MLflow over plain REST, in the background.

The service has made the runs already: the step's own (MLFLOW_RUN_ID) and the job's
(FINERY_ROOT_RUN_ID), which gets the same metrics. So a step needs two routes of MLflow and not
its library, which takes seconds to load. Nothing here ever stops or slows a training: what the
server does not take is kept and sent again, and what is left at the end is said once.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finery.training.events import Event, Report, metrics_of

PAUSE = 0.5  # seconds between two sends: what comes meanwhile goes together
PATIENCE = 10.0  # seconds that the end of a step waits for a server that does not answer
BATCH = 1000  # metrics that MLflow takes at once; of parameters it takes 100
_PARAMS = 100
_LONGEST = 6000  # characters of a parameter
_TIMEOUT = 10.0


@dataclass(frozen=True)
class Server:
    """Where MLflow answers, and the runs that this step logs to."""

    uri: str
    token: str
    runs: tuple[str, ...]  # the step's own first

    def post(self, route: str, value: Mapping[str, Any]) -> None:
        """Raises OSError or HTTPException when it is not taken."""
        request = urllib.request.Request(  # noqa: S310
            f"{self.uri}/api/2.0/mlflow/{route}",
            data=json.dumps(value).encode(),
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {self.token}"} if self.token else {}),
            },
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            answer.read()


def tracking_server() -> Server | None:
    """The server of the job that this process is a step of; None outside of a job."""
    uri, run = os.environ.get("MLFLOW_TRACKING_URI", ""), os.environ.get("MLFLOW_RUN_ID", "")
    root = os.environ.get("FINERY_ROOT_RUN_ID", "")
    if not (run and root and uri.startswith(("http://", "https://"))):
        return None
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    return Server(uri.rstrip("/"), token, tuple(dict.fromkeys((run, root))))


class Tracker:
    """Sends metrics from a thread of its own; `close` waits, for a while, until all are sent."""

    def __init__(self, server: Server, report: Report = lambda event: None) -> None:
        self._server, self._report = server, report
        self._waiting: dict[str, list[dict[str, Any]]] = {run: [] for run in server.runs}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._reason = ""
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def log(self, numbers: Mapping[str, float], step: int = 0) -> None:
        """Metrics of one step of the training."""
        now = int(time.time() * 1000)
        rows = [{"key": k, "value": v, "timestamp": now, "step": step} for k, v in numbers.items()]
        with self._lock:
            for waiting in self._waiting.values():
                waiting += rows

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters of the step's own run; that the server refuses them is said."""
        rows = [{"key": k, "value": str(v)[:_LONGEST]} for k, v in params.items()]
        for start in range(0, len(rows), _PARAMS):
            part = {"run_id": self._server.runs[0], "params": rows[start : start + _PARAMS]}
            try:
                self._server.post("runs/log-batch", part)
            except (OSError, http.client.HTTPException) as error:
                self._say(f"MLflow did not take the parameters ({error}); the step goes on")
                return

    def close(self) -> None:
        """Send what is left; says so when the server did not take it in time."""
        self._closing.set()
        self._thread.join(PATIENCE + _TIMEOUT)
        left = self._left()
        if left:
            self._say(f"MLflow did not take {left} metrics ({self._reason}); the step is not lost")

    def _left(self) -> int:
        with self._lock:
            return sum(len(waiting) for waiting in self._waiting.values())

    def _work(self) -> None:
        while not self._closing.wait(PAUSE):
            self._send()
        deadline = time.monotonic() + PATIENCE
        self._send()
        while self._left() and time.monotonic() < deadline:
            time.sleep(PAUSE)
            self._send()

    def _send(self) -> None:
        """Send what waits, a batch at a time; what is not taken waits for the next time."""
        for run, waiting in self._waiting.items():
            while batch := waiting[:BATCH]:  # only this thread takes away
                try:
                    self._server.post("runs/log-batch", {"run_id": run, "metrics": batch})
                except (OSError, http.client.HTTPException) as error:
                    self._reason = str(error)
                    break
                with self._lock:
                    del waiting[: len(batch)]

    def _say(self, text: str) -> None:
        self._report({"event": "note", "text": text})


def tracking_writer(
    server: Server, params: Mapping[str, Any], report: Report = lambda event: None
) -> Report:
    """A report that sends the log and evaluation events of a training to `server`."""
    tracker = Tracker(server, report)
    tracker.log_params(params)

    def write(event: Event) -> None:
        if event["event"] in ("log", "eval"):
            tracker.log(metrics_of(event), event["step"])
        elif event["event"] == "end":
            tracker.close()

    return write
