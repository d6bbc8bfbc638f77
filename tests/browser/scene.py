"""A workspace worth looking at: real runs, models, data and an endpoint, under fixed names.

The runs are the quickstart's, on SmolLM2-135M-Instruct: one whole, two short ones with other
settings to compare it with, and one whose data is at fault. A scene that stands is used again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finery.cli.client import Service, connect
from finery.cli.job_files import ENDED, details, upload
from finery.files import home as usual_home
from finery.quickstart import RECIPE, TEST, TRAIN
from finery.runners import process

EXPERIMENT, MODEL, ENDPOINT, DATA = "lanternfish", "help-desk", "help-desk", "lanternfish-chats"
BASE = "SmolLM2-135M-Instruct"
MAIN = "help-desk"
SHORT: dict[str, Any] = {"max_steps": 40, "eval_generations": 8}
RUNS: dict[str, dict[str, Any]] = {
    "help-desk-rank-4": {**SHORT, "lora_r": 4, "lora_alpha": 8},
    "help-desk-careful": {**SHORT, "learning_rate": 0.0002},
    MAIN: {},
}
BROKEN = "help-desk-broken-data"
FAULTY = '{"messages": [{"role": "user", "content": "When does the first boat leave?"}]}\n'


def environment(home: Path) -> dict[str, str]:
    """What commands of the scene see."""
    home.mkdir(parents=True, exist_ok=True)
    models = usual_home() / "models"
    if models.is_dir() and not (home / "models").exists():
        (home / "models").symlink_to(models, target_is_directory=True)
    return {**os.environ, "FINERY_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def finery(home: Path, *words: str) -> str:
    """What a command of ours prints; ends everything when it fails."""
    command = [sys.executable, "-m", "finery.cli.main", *words]
    run = subprocess.run(command, env=environment(home), stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(f"finery {' '.join(words)} ended with status {run.returncode}")
    return run.stdout


def start(home: Path) -> Service:
    """The service of the scene, answering."""
    finery(home, "up", "--port", "0", "--http-port", "0")
    os.environ["FINERY_HOME"] = str(home)
    return connect()


def stop(home: Path) -> None:
    """End what the scene has started: gateway and replicas outlive the service by themselves."""
    finery(home, "down")
    folder = home / "service"
    for lock in [*folder.glob("gateway/*/lock"), *folder.glob("replicas/*/*/*/lock")]:
        process.stop(lock.parent, grace=5)


def submit(home: Path, service: Service, name: str, changes: Mapping[str, Any]) -> None:
    """A run of the quickstart's recipe, unless it is there already."""
    if service.find("jobs", name) is not None:
        return
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe |= {"train_file_path": str(TRAIN), "test_file_path": str(TEST)}
    recipe |= {"precision": "16", **changes}  # the component's word for it
    file = home / "recipes" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    finery(home, "job", "create", str(file), "--name", name, "--experiment", EXPERIMENT)


def wait(home: Path, service: Service, name: str) -> str:
    """The state in which a run ends."""
    if details(service, name)["status"] not in ENDED:
        command = [sys.executable, "-m", "finery.cli.main", "job", "stream", name]
        subprocess.run(command, env=environment(home), stdout=subprocess.DEVNULL, check=False)
    return details(service, name)["status"]


def data(home: Path, service: Service) -> None:
    """The conversations as a data asset of two versions."""
    for version, file in (("1", TEST), ("2", TRAIN)):
        properties = {
            "dataType": "uri_file",
            "dataUri": upload(service, file),
            "description": "Help desk of the Lanternfish Line, a ferry of our invention",
        }
        body = {"properties": properties}
        service.ask("PUT", "data", DATA, "versions", version, body=body)


def before(home: Path, service: Service) -> None:
    """Everything but the main run: data, short runs, and one that fails."""
    data(home, service)
    faulty = home / "broken.jsonl"
    faulty.write_text(FAULTY, encoding="utf-8")
    submit(home, service, BROKEN, {"train_file_path": str(faulty)})
    for name in RUNS:
        if name != MAIN:
            submit(home, service, name, RUNS[name])
            assert wait(home, service, name) == "Completed", name


def after(home: Path, service: Service) -> None:
    """The main run's model, and an endpoint with it and its base."""
    if service.find("models", MODEL) is None:
        finery(home, "model", "register", MODEL, "--job", MAIN)
    shown = json.loads(finery(home, "endpoint", "list", "--json"))
    if not any(one["name"] == ENDPOINT for one in shown):
        finery(home, "deploy", MODEL, "--endpoint", ENDPOINT, "--deployment", "tuned")
        finery(home, "deploy", BASE, "--endpoint", ENDPOINT, "--deployment", "base")
