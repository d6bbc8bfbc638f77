"""Keeps the gateway's process alive while there are endpoints: started, adopted, started again.

The process has a folder like every process that outlives its service (`finery.runners`); a
service finds the one that an earlier service started. One of another version is replaced.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from finery import __version__
from finery.endpoints.gateway.addresses import folder_of, reserve
from finery.endpoints.tables import endpoints
from finery.files import read_json
from finery.runners import process
from finery.workspace.place import Workspace

log = logging.getLogger("finery.endpoints")

DATABASE = "FINERY_GATEWAY_DATABASE"  # the variable with the URL of the service's store
GRACE = 30.0  # seconds that requests under way have when the gateway ends
RUN, LOG = "process", "gateway.log"  # in the gateway's folder
PERIOD = 0.25  # seconds between two looks
LIVED = 60.0  # seconds after which a death is an accident
LONGEST_WAIT = 10.0  # seconds between two starts of a gateway that keeps dying


@dataclass
class Keeper:
    """One thread that looks after the process."""

    workspace: Workspace
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    # What may be forgotten when the service ends: deaths in a row, when to start again.
    _losses: int = 0
    _not_before: float = 0.0
    _started: float = 0.0

    @property
    def run_folder(self) -> Path:
        """The process's own folder."""
        return folder_of(self.workspace) / RUN

    def start(self) -> None:
        """Look from now on, in a thread; where it will answer is known at once."""
        reserve(self.workspace)
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. The gateway lives on, unless there is nothing for it to answer."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(5.0)
        if not self._wanted():
            process.ask_to_stop(self.run_folder)  # nobody has to wait for its end

    def look(self) -> None:
        """Start the process if it is wanted and does not run."""
        if not self._wanted():
            return
        if process.is_running(self.run_folder):
            if not self._is_ours():
                log.info("the gateway of another version ends; its requests have their time")
                self.stop()
            return
        if time.monotonic() >= self._not_before:
            self._bury()
            self._begin()

    def stop(self) -> None:
        """Let it drain, and wait for its end."""
        process.stop(self.run_folder, grace=GRACE + 5)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self.look()
            except Exception:
                log.exception("looking after the gateway failed; trying again")
            self._end.wait(PERIOD)

    def _wanted(self) -> bool:
        with self.workspace.store.read() as connection:
            return connection.execute(sa.select(endpoints.c.name).limit(1)).first() is not None

    def _is_ours(self) -> bool:
        """Whether it is of this version, serves the same interface and shows this certificate."""
        written = self.run_folder / process.PROCESS
        certificate = self.workspace.certificates / "certificate.pem"
        renewed = certificate.is_file() and certificate.stat().st_mtime > written.stat().st_mtime
        return not renewed and read_json(written)["argv"] == list(self._command())

    def _command(self) -> tuple[str, ...]:
        settings = self.workspace.settings
        options = ("--host", settings.host, "--version", __version__)
        module = "finery.endpoints.gateway.main"
        return (sys.executable, "-P", "-m", module, str(self.workspace.folder), *options)

    def _bury(self) -> None:
        """What an earlier one left: its death counts when we saw its life."""
        if not self.run_folder.exists():
            return
        with contextlib.suppress(FileNotFoundError):
            process.stop(self.run_folder)
        if self._started:
            short = time.monotonic() - self._started < LIVED
            self._losses = self._losses + 1 if short else 0
            log.warning("the gateway ended; %s says more", folder_of(self.workspace) / LOG)
        shutil.rmtree(self.run_folder)

    def _begin(self) -> None:
        settings, folder = self.workspace.settings, folder_of(self.workspace)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        url = self.workspace.store.engine.url.render_as_string(hide_password=False)
        asked = process.Process(
            argv=self._command(),
            token=str(uuid.uuid4()),
            working_folder=folder,
            log=folder / LOG,
            environment={DATABASE: url, "PYTHONUNBUFFERED": "1"},
            grace=GRACE + 5,
        )
        process.start(self.run_folder, asked)
        self._started = time.monotonic()
        self._not_before = self._started + min(LONGEST_WAIT, 0.25 * 2.0**self._losses)
        log.info("the gateway of %s is started", settings.public_host)
