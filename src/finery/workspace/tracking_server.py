"""MLflow's own server, a process beside the service: started, adopted, restarted, told of runs.

It listens on a Unix socket in the service's folder, which nobody but the owner can reach.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import sqlalchemy as sa

from finery.errors import FineryError
from finery.workspace.place import Workspace

MARK = "FINERY_TRACKING"  # in the environment of the server's processes: whose they are
LONGEST_SOCKET_PATH = 100  # the system allows 103 bytes on macOS, 107 on Linux
PATIENCE = 120.0
SCHEMA = "mlflow"
LONGEST_ID = 255  # characters of a job's name


@dataclass
class TrackingServer:
    """The server of one workspace."""

    workspace: Workspace
    lock: threading.Lock = field(default_factory=threading.Lock)  # one carries runs at a time
    starting: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def folder(self) -> Path:
        """Its database, artifacts and socket."""
        return self.workspace.tracking

    @property
    def socket(self) -> Path:
        """Where it listens."""
        path = self.folder / "server.socket"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        link = self.folder / "socket-folder"  # a short folder elsewhere, of the owner alone
        if not link.is_dir() or link.stat().st_uid != os.getuid():  # swept away since, or retaken
            link.unlink(missing_ok=True)
            link.symlink_to(tempfile.mkdtemp(prefix="finery-"), target_is_directory=True)
        return link.resolve() / "server.socket"

    @property
    def database(self) -> sa.URL:
        """MLflow's database: a schema beside ours on PostgreSQL, else a file of its own."""
        ours = self.workspace.store.engine.url
        if ours.get_backend_name() == "postgresql":
            return ours.update_query_dict({"options": f"-csearch_path={SCHEMA}"})
        return sa.URL.create("sqlite", database=str(self.folder / "mlflow.sqlite"))

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            return self.client.get("/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    @functools.cached_property
    def client(self) -> httpx.Client:
        """A client on its socket."""
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=60)

    def ensure(self) -> None:
        """Adopt the server that an earlier service left, or start one; return when it answers."""
        self._ensure_up()
        if narrow := self._narrow_columns():
            # While nobody is connected: statements that were prepared on a table are refused
            # once it has changed.
            with self.starting:
                self.stop()
                self._widen(narrow)
            self._ensure_up()

    def _ensure_up(self) -> None:
        if self.processes() and self._wait():
            return
        with self.starting:
            if self.closing.is_set():
                raise FineryError("MLflow's server is not started: the service ends.")
            self.stop()
            process = self._start()
        if not self._wait(process):
            raise FineryError(f"MLflow's server did not come up. {self.log} says why.")

    def _narrow_columns(self) -> list[tuple[str, str]]:
        """Where MLflow's own ids are too short for the names of jobs; PostgreSQL minds lengths."""
        if self.database.get_backend_name() != "postgresql":
            return []
        found = sa.text(
            "SELECT table_name, column_name FROM information_schema.columns WHERE "
            "table_schema = :schema AND column_name IN ('run_uuid', 'run_id', 'source_run_id') "
            "AND character_maximum_length < :longest"
        )
        with self.workspace.store.read() as connection:
            rows = connection.execute(found, {"schema": SCHEMA, "longest": LONGEST_ID})
            return [(table, column) for table, column in rows]

    def _widen(self, columns: list[tuple[str, str]]) -> None:
        with self.workspace.store.write() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            for table, column in columns:
                connection.exec_driver_sql(
                    f'ALTER TABLE "{SCHEMA}"."{table}" ALTER COLUMN "{column}" '
                    f"TYPE VARCHAR({LONGEST_ID})"
                )

    @property
    def log(self) -> Path:
        """What it says."""
        return self.workspace.logs / "mlflow.log"

    def processes(self) -> list[psutil.Process]:
        """Its processes, whichever service started them."""
        return [
            process
            for process in psutil.process_iter(["environ"])
            if (process.info["environ"] or {}).get(MARK) == str(self.folder)
        ]

    def close(self) -> None:
        """End it for good: no start that is under way brings it back."""
        self.closing.set()
        with self.starting:
            self.stop()

    def stop(self) -> None:
        """End its processes."""
        left = self.processes()
        for process in left:
            _signal(process.terminate)
        _, left = psutil.wait_procs(left, timeout=5)
        for process in left:
            _signal(process.kill)
        psutil.wait_procs(left, timeout=5)

    def _start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        if self.database.get_backend_name() == "postgresql":
            with self.workspace.store.write() as connection:
                connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        artifacts = self.folder / "artifacts"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--artifacts-destination", str(artifacts), "--serve-artifacts"),
            *("--uvicorn-opts", f"--uds {shlex.quote(str(self.socket))} --log-level warning"),
        ]
        with self.log.open("ab") as sink:
            return subprocess.Popen(
                command,
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        """Ours without what a person may have set for MLflow clients."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "_MLFLOW_"))}
        return kept | {
            MARK: str(self.folder),
            # Not as an option: whoever lists processes would read the database's password.
            "MLFLOW_BACKEND_STORE_URI": self.database.render_as_string(hide_password=False),
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }

    def _wait(self, process: subprocess.Popen[bytes] | None = None) -> bool:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not self.closing.is_set():
            if self.is_up():
                return True
            gone = process.poll() is not None if process else not self.processes()
            if gone:
                return False
            time.sleep(0.1)
        return False


def _signal(send: object) -> None:
    try:
        send()  # pyright: ignore[reportCallIssue]
    except psutil.NoSuchProcess:
        return
