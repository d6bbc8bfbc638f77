"""The commands that talk to the service, against a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finery.cli.client import RefusedInput
from finery.cli.main import app
from finery.errors import FineryError, InputError
from finery.workspace.errors import NotFoundError

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("service")]

COMMAND = """\
type: command
display_name: Copy
experiment_name: cli
command: cp ${{inputs.word}} ${{outputs.copy}}/word.txt && cat src/note.txt && echo done
code: src
inputs:
  word: {type: uri_file, path: word.txt}
outputs:
  copy: {type: uri_folder}
"""


def run(*words: object) -> str:
    """What a command prints; its refusal is raised."""
    answer = CliRunner().invoke(app, [str(word) for word in words])
    if answer.exception:
        raise answer.exception
    return answer.stdout


def told(*words: object) -> Any:
    """The JSON that a command prints."""
    return json.loads(run(*words, "--json"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a command job, its code and its data; the current one."""
    (tmp_path / "src" / "src").mkdir(parents=True)
    (tmp_path / "src" / "src" / "note.txt").write_text("a note\n")
    (tmp_path / "word.txt").write_text("hello")
    (tmp_path / "job.yml").write_text(COMMAND)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_computes_come_and_go() -> None:
    made = told("compute", "create", "by-hand", "--max-instances", "2")
    assert made["properties"]["provisioningState"] == "Succeeded"
    assert "by-hand" in run("compute", "list")
    assert "0 to 2" in run("compute", "show", "by-hand")
    assert told("compute", "delete", "by-hand") == {"name": "by-hand", "deleted": True}
    with pytest.raises(NotFoundError):
        run("compute", "show", "by-hand")


def test_sizes_hold_this_machines_own() -> None:
    assert "Standard_local" in {size["name"] for size in told("compute", "sizes")}


def test_a_registrys_models_are_listed_and_shown() -> None:
    assert "Phi-3-mini-4k-instruct" in run("model", "list", "--registry", "azureml")
    shown = told("model", "show", "Phi-3-mini-4k-instruct", "--registry", "azureml")
    assert shown["id"].startswith("azureml://registries/azureml/models/Phi-3-mini-4k-instruct/")


def test_a_command_job_runs_and_its_files_come_back(files: Path) -> None:
    name = told("job", "create", "job.yml")["name"]
    assert "a note\ndone\n" in run("job", "stream", name)
    assert told("job", "show", name)["properties"]["status"] == "Completed"
    assert name in run("job", "list")
    run("job", "download", name, "--dir", "got")
    assert (files / "got" / "copy" / "word.txt").read_text() == "hello"
    assert "a note" in next((files / "got").rglob("std_log*.txt")).read_text()


def test_the_same_job_is_not_started_twice(files: Path) -> None:
    told("job", "create", "job.yml", "--name", "once")
    run("job", "stream", "once")
    assert told("job", "create", "job.yml", "--name", "once")["properties"]["status"] == "Completed"


def test_a_job_that_fails_says_why(files: Path) -> None:
    (files / "job.yml").write_text("type: command\ncommand: echo no such luck; exit 3\n")
    with pytest.raises(FineryError, match=r"Failed\. .*3"):
        run("job", "create", "job.yml", "--stream")
    name = told("job", "list", "--limit", "1")[0]["name"]
    assert "no such luck" in run("job", "show", name)


def test_a_job_is_stopped(files: Path) -> None:
    (files / "job.yml").write_text("type: command\ncommand: sleep 600\n")
    name = told("job", "create", "job.yml")["name"]
    run("job", "cancel", name)
    with pytest.raises(FineryError, match="Canceled"):
        run("job", "stream", name)


FINETUNING = """\
type: finetuning
model: {type: mlflow_model, path: azureml://registries/azureml/models/MODEL/versions/1}
training_data: {type: uri_file, path: word.txt}
hyperparameters: {learning_rate: fast, lora_rr: 3}
"""


def test_the_service_names_every_fault_of_a_finetuning_job(files: Path) -> None:
    (files / "job.yml").write_text(FINETUNING.replace("MODEL", "Phi-3-mini-4k-instruct"))
    with pytest.raises(RefusedInput) as error:
        run("job", "create", "job.yml")
    assert "learning_rate" in str(error.value)
    assert "lora_rr" in str(error.value)


@pytest.fixture
def recipe(kit: Path, files: Path) -> Path:
    """A recipe that is trained in a moment."""
    lines = (
        f"model: {kit / 'model' / 'stories15m-phi3'}",
        f"train_file_path: {kit / 'chat' / 'ultrachat-1k' / 'test_sft.jsonl'}",
        "apply_lora: true\nmax_steps: 1\nmax_seq_length: 128\nlong_rows: truncate",
        "self_tests: false\neval_generations: 1\nmax_new_tokens: 4\nlogging_steps: 1",
    )
    path = files / "recipe.yaml"
    path.write_text("\n".join(lines))
    return path


def test_what_is_wrong_with_a_recipe_is_all_said_before_a_job_is_there(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "\nlora_rr: 3\nseed: x\n")
    with pytest.raises(InputError, match="2 faults"):
        run("job", "create", recipe)


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The name of an endpoint, which is gone afterwards."""
    yield "by-hand"
    if any(one["name"] == "by-hand" for one in told("endpoint", "list")):
        run("endpoint", "delete", "by-hand")


def test_from_a_recipe_to_an_answer(recipe: Path, endpoint: str) -> None:
    job = told("job", "create", recipe, "--stream")
    assert job["properties"]["status"] == "Completed"
    assert "finetune" in run("job", "show", job["name"])
    version = told("model", "register", "by-hand", "--job", job["name"])["name"]
    assert told("model", "lineage", f"by-hand:{version}")
    run("deploy", f"by-hand:{version}", "--endpoint", endpoint)
    assert told("endpoint", "show", endpoint)["traffic"] == {"blue": 100}
    words = ("--message", "Once upon a time", "--max-new-tokens", "4")
    assert told("endpoint", "test", endpoint, *words)["output"] is not None
    assert run("endpoint", "logs", endpoint, "--deployment", "blue")
    before = told("endpoint", "keys", endpoint)
    after = told("endpoint", "rotate", endpoint, "--key", "primary")
    assert after["primaryKey"] != before["primaryKey"]
    assert after["secondaryKey"] == before["secondaryKey"]
    run("endpoint", "traffic", endpoint, "blue=0")
    assert told("endpoint", "delete", endpoint) == {"name": endpoint, "deleted": True}
    with pytest.raises(NotFoundError):
        run("endpoint", "show", endpoint)
