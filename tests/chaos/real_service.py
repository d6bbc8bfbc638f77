"""The real service (`finery up`), to be killed: jobs go to it over its REST API.

Pipelines of commands are as those of `jobs_server`; others fine-tune the smallest model of the
data kit with `chat_completion_pipeline`, in two optimizer steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

import psutil
from service_process import Service

from finery.cli.client import PROVIDER, connect
from finery.workspace import store
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace
from finery.workspace.settings import load_settings

KIT = Path(__file__).resolve().parents[3] / "shared" / "data"
MODEL, CHATS = "model/stories260k-llama", "chat/ultrachat-1k"
ROWS = {"train": 6, "validation": 2, "test": 2}
TUNING = "azureml://registries/azureml/components/chat_completion_pipeline/labels/latest"
FOLDER = "azureml://datastores/workspaceblobstore/paths/chaos"
COMPONENT = "chaos_say"
TEMPLATE = (  # the smallest model brings none
    "{% for turn in messages %}{{ '<s>' + turn['role'] + ': ' + turn['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)
# The text of a step: it waits, hands on what it got and adds its word, and ends as it is told.
COMMAND = (
    "sleep $((${{inputs.seconds}} + RANDOM % 2)).$((RANDOM % 10)); "
    "($[[cat ${{inputs.before}}/f;]] echo ${{inputs.word}}) > ${{outputs.out}}/f; "
    "echo ${{inputs.word}} says; exit ${{inputs.status}}"
)
SECONDS = {"canceled": {"c": 600}}  # what is to be canceled does not end by itself
TUNED = {
    "pytorch_model_folder": "uri_folder",
    "mlflow_model_folder": "mlflow_model",
    "evaluation_result": "uri_folder",
}


@dataclass
class RealServer:
    """The service's process, started again as often as it dies."""

    home: Path
    kit: Path = KIT
    settings: dict[str, object] = field(default_factory=dict)
    slowest: float = 0.0  # seconds from a start to the answer

    @cached_property
    def service(self) -> Service:
        """Its process."""
        extra = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return Service(self.home, extra, self.settings)

    @cached_property
    def workspace(self) -> Workspace:
        """What it works on, to look at; there once it has been started."""
        folder = self.service.folder
        settings = load_settings(folder)
        url = settings.database_url or f"sqlite:///{folder / 'finery.sqlite'}"
        return Workspace(folder, settings, store.connect(url))

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self.service.process
        return self.service.process.pid

    def start(self) -> None:
        """Start it and wait until it answers for jobs."""
        os.environ["FINERY_HOME"] = str(self.home)  # where clients look for it
        began = time.monotonic()
        self.service.start()
        connect().ask("GET", "jobs", query={"$top": 1})
        self.slowest = max(self.slowest, time.monotonic() - began)

    def kill(self) -> None:
        """End it at once, if it lives, and collect it."""
        self.service.kill()

    def die_starting(self, seconds: float) -> None:
        """Start it, and end it soon: before it answers, or just after."""
        strike = threading.Timer(seconds, self.kill)
        strike.start()
        with contextlib.suppress(AssertionError):  # "the service did not start"
            self.service.start()
        strike.join()
        self.kill()

    def end_all(self) -> None:
        """End it, and what it started and left running for the next one."""
        self.kill()
        for each in psutil.process_iter(["environ"]):
            ours = (each.info["environ"] or {}).get("FINERY_HOME") == str(self.home)
            if ours and each.pid != os.getpid():
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()

    def prepare(self) -> None:
        """Give it the component, the model and the rows that its jobs ask for."""
        inputs = {name: {"type": "string"} for name in ("seconds", "word", "status")}
        inputs["before"] = {"type": "uri_folder", "optional": True}  # pyright: ignore
        spec = {
            "name": COMPONENT,
            "version": "1",
            "type": "command",
            "inputs": inputs,
            "outputs": {"out": {"type": "uri_folder"}},
            "command": COMMAND,
            "environment": "azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        }
        body = {"properties": {"componentSpec": spec}}
        connect().ask("PUT", "components", COMPONENT, "versions", "1", body=body)
        place = self.workspace.blobs / "azureml-blobstore" / "chaos"
        shutil.copytree(self.kit / MODEL, place / "model")
        (place / "model" / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
        for name, count in ROWS.items():
            source = "train_sft" if name == "train" else "test_sft"
            lines = (self.kit / CHATS / f"{source}.jsonl").read_text("utf-8").splitlines(True)
            (place / f"{name}.jsonl").write_text("".join(lines[:count]), "utf-8")

    def ask(self, line: str) -> bool:
        """Give a command; whether it was acknowledged before the service died.

        Raises FineryError when it is refused, or the service fails.
        """
        verb, name, *kind = line.split()
        try:
            if verb == "submit":
                connect().ask("PUT", "jobs", name, body={"properties": body_of(kind[0])})
            else:
                connect().ask("POST", "jobs", name, "cancel")
        except UnavailableError:
            return False
        return True


def body_of(kind: str) -> dict[str, Any]:
    """A job as a client sends it."""
    nodes = _tuning() if kind.startswith("chat") else _commands(kind)
    final = {"final": {"jobOutputType": "uri_folder"}}
    tuned = {name: {"jobOutputType": type} for name, type in TUNED.items()}
    return {
        "jobType": "Pipeline",
        "experimentName": "chaos",
        "settings": {"force_rerun": kind != "chat-again", "default_compute": "serverless"},
        "outputs": tuned if kind.startswith("chat") else final,
        "jobs": nodes,
    }


def _commands(kind: str) -> dict[str, Any]:
    """Three steps in a row, a fourth beside them."""
    component = f"/subscriptions/s/resourceGroups/g/providers/{PROVIDER}/workspaces/w/components"

    def step(word: str, before: str = "") -> dict[str, Any]:
        seconds = SECONDS.get(kind, {}).get(word, 0)
        status = 9 if (kind, word) == ("failing", "c") else 0
        inputs = {"word": word, "status": str(status), "seconds": str(seconds)}
        if before:
            inputs["before"] = f"${{{{parent.jobs.{before}.outputs.out}}}}"
        outputs = {"out": "${{parent.outputs.final}}"} if word == "c" else {}
        return {
            "name": word,
            "type": "command",
            "componentId": f"{component}/{COMPONENT}/versions/1",
            "inputs": {key: _literal(value) for key, value in inputs.items()},
            "outputs": {key: _written(value) for key, value in outputs.items()},
        }

    return {"a": step("a"), "b": step("b", "a"), "c": step("c", "b"), "d": step("d")}


def _tuning() -> dict[str, Any]:
    """The chat-completion pipeline on a few rows."""
    values = {
        "task_name": "ChatCompletion",
        "apply_lora": "true",
        "apply_deepspeed": "false",
        "precision": "32",
        "max_steps": "3",
        "save_steps": "1",
        "max_seq_length": "128",
        "long_rows": "truncate",
        "per_device_train_batch_size": "1",
        "per_device_eval_batch_size": "2",
        "learning_rate": "0.001",
        "eval_generations": "1",
        "max_new_tokens": "4",
        "self_tests": "false",
    }
    data = {f"{name}_file_path": f"{FOLDER}/{name}.jsonl" for name in ROWS}
    inputs: dict[str, Any] = {name: _literal(value) for name, value in values.items()}
    inputs |= {k: {"job_input_type": "uri_file", "uri": uri} for k, uri in data.items()}
    model = {"job_input_type": "custom_model", "uri": f"{FOLDER}/model"}
    return {
        "tune": {
            "name": "tune",
            "type": "pipeline",
            "componentId": TUNING,
            "inputs": {**inputs, "pytorch_model_path": model},
            "outputs": {name: _written(f"${{{{parent.outputs.{name}}}}}") for name in TUNED},
        }
    }


def _literal(value: str) -> dict[str, str]:
    return {"job_input_type": "literal", "value": value}


def _written(value: str) -> dict[str, str]:
    return {"type": "literal", "value": value}


if __name__ == "__main__":  # shows the bodies
    json.dump({kind: body_of(kind) for kind in ("good", "chat")}, sys.stdout, indent=1)
