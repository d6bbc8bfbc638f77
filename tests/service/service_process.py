"""A service of the tests' own: a real process in a home of its own, on free ports."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from finery.service.certificates import files_in
from finery.service.environment import variables
from finery.service.run import database_url
from finery.service.running import Running, last_running, running_service
from finery.workspace.settings import load_settings

PATIENCE = 60.0
MODELS = {"microsoft/Phi-3-mini-4k-instruct": "model/stories15m-phi3"}
DATASETS = {"HuggingFaceH4/ultrachat_200k": "chat/ultrachat-1k"}


def hub_mirror(kit: Path, folder: Path) -> Path:
    """A mirror of the hub that holds what the walkthrough asks for."""
    for name, place in (MODELS | DATASETS).items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(kit / place, target_is_directory=True)
    return folder


@dataclass
class Service:
    """One service: `start`, `stop`, `kill` and `start` again as a test needs it."""

    home: Path
    extra: Mapping[str, str] = field(default_factory=dict)  # variables of its process
    settings: Mapping[str, object] = field(default_factory=dict)  # its settings.yaml
    process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.home / "service"

    @property
    def running(self) -> Running:
        running = last_running(self.folder)
        assert running is not None, "the service never ran"
        return running

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def http_url(self) -> str:
        return self.running.http_url

    @property
    def trust(self) -> ssl.SSLContext:
        """With which a plain client believes the service's certificate."""
        authority = files_in(self.folder / "certificates").authority
        return ssl.create_default_context(cafile=str(authority))

    @property
    def store_url(self) -> str:
        """Where its tables are."""
        settings = load_settings(self.folder)
        if url := self.extra.get("FINERY_DATABASE_URL"):
            settings = replace(settings, database_url=url)
        return database_url(self.folder, settings)

    @property
    def environment(self) -> dict[str, str]:
        """The variables for its clients (`finery env`)."""
        return variables(self.folder, self.running)

    @property
    def log(self) -> str:
        return (self.home / "service.log").read_text(encoding="utf-8")

    def start(self) -> Service:
        """Start it and wait until it answers."""
        environment = os.environ | {"FINERY_HOME": str(self.home)} | dict(self.extra)
        path = self.folder / "settings.yaml"
        if self.settings or not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            settings = {"warm_steps": False, **self.settings}  # seconds that most tests can spare
            path.write_text(json.dumps(settings), encoding="utf-8")
        command = [sys.executable, "-m", "finery.cli.main", "up", "--foreground"]
        with (self.home / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port=0", "--http-port=0"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE
        while (running := running_service(self.folder)) is None or running.pid != self.process.pid:
            assert self.process.poll() is None, f"the service did not start:\n{self.log}"
            assert time.monotonic() < end, f"the service does not answer:\n{self.log}"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End it politely."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL: nothing is tidied."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the service did not end:\n{self.log}") from None
