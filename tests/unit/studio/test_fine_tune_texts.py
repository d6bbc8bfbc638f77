"""The texts to copy say the same as the form: read back, they ask for the same job."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fine_tune_store import DATA, MODEL, put_both

from finery.azureml.job_bodies import job_spec
from finery.cli import azure_job
from finery.cli.flags import parse_flags
from finery.recipe.resolve import resolve
from finery.studio import fine_tune_form as forms
from finery.studio import fine_tune_job, fine_tune_texts
from finery.studio.fine_tune_job import Wanted
from finery.workspace.place import Workspace

NAMES = ["A run", "it's \"a\" {run} $(touch x) `y` \\ #1: ünï\n: - 'z'"]


def wanted(workspace: Workspace, **changes: str) -> Wanted:
    form = forms.blank(model=MODEL, train=DATA, **changes)
    found, form = fine_tune_job.wanted(workspace, form)
    assert found is not None, form.faults
    return found


@pytest.fixture(params=NAMES, ids=["plain", "hostile"])
def asked(workspace: Workspace, request: pytest.FixtureRequest) -> Wanted:
    put_both(workspace)
    modules = "q_proj, v_proj"
    return wanted(
        workspace,
        name=request.param,
        validation=DATA,
        seed="7",
        merge_lora_weights="false",
        max_steps="-1",
        lora_target_modules=modules,
    )


def test_the_command_line_is_the_same_recipe(
    workspace: Workspace, asked: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(fine_tune_texts.command_line(asked).replace("\\\n", " "))
    assert words[:2] == ["finery", "finetune"]
    options = parse_flags(words[2:])
    assert options.faults == []
    recipe = resolve(None, options.values).recipe
    same = resolve(None, asked.recipe).recipe
    assert vars(recipe) | {"output_dir": ""} == vars(same) | {"output_dir": ""}
    assert Path(recipe.output_dir).parent == tmp_path


def test_the_yaml_is_the_same_job(workspace: Workspace, asked: Wanted, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(fine_tune_texts.pipeline_yaml(workspace, asked), encoding="utf-8")
    about = yaml.safe_load(file.read_text(encoding="utf-8"))
    service: Any = SimpleNamespace(workspace="/subscriptions/s/x")
    body = azure_job.body(service, file, about, "")
    made = job_spec(workspace, "job", {"properties": body})
    same = fine_tune_job.spec_of(workspace, asked, "job")
    assert (made.steps, made.outputs) == (same.steps, same.outputs)
    assert (made.display_name, made.experiment) == (asked.name, "finetune")


def test_the_script_is_python_and_names_every_input(workspace: Workspace, asked: Wanted) -> None:
    script = ast.parse(fine_tune_texts.sdk_script(workspace, asked))
    calls = [node for node in ast.walk(script) if isinstance(node, ast.Call)]
    (call,) = [one for one in calls if getattr(one.func, "id", "") == "tune_chat_model"]
    given = {one.arg for one in call.keywords}
    body = fine_tune_job.body(workspace, asked)
    assert given == set(body["jobs"]["chat_completion_pipeline"]["inputs"])
    named = [node for node in ast.walk(script) if isinstance(node, ast.Constant)]
    assert asked.name in [node.value for node in named]


def test_a_hub_id_is_plain_text_in_all_three(workspace: Workspace) -> None:
    put_both(workspace)
    form = forms.blank(model="org/name", train=DATA)
    asked, form = fine_tune_job.wanted(workspace, form)
    assert asked is not None, form.faults
    texts = {name: text for name, _, text in fine_tune_texts.texts(workspace, asked)}
    assert "--model org/name" in texts["CLI"]
    assert "huggingface_id: org/name" in texts["YAML"]
    assert 'huggingface_id="org/name"' in texts["SDK"]
