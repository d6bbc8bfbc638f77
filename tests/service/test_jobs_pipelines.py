"""Pipelines through the unmodified SDK: YAML, components, nesting, reuse, failure, cancel."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from job_runs import ENVIRONMENT, new_name, status_of, wait_for

TRAIN = """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
name: {name}
version: 1
type: command
display_name: Train
inputs:
  training_data: {{type: uri_folder}}
  max_epochs: {{type: integer, min: 1}}
  learning_rate: {{type: number, default: 0.01}}
  note: {{type: string, optional: true}}
outputs:
  model_output: {{type: uri_folder}}
code: ./src
environment: {environment}
command: >-
  python train.py ${{{{inputs.training_data}}}} ${{{{inputs.max_epochs}}}}
  ${{{{inputs.learning_rate}}}} $[[--note ${{{{inputs.note}}}}]] ${{{{outputs.model_output}}}}
"""
SOURCE = """
import pathlib, sys
data, *said, out = sys.argv[1:]
rows = sorted(path.read_text() for path in pathlib.Path(data).iterdir())
print("training with", *said)
pathlib.Path(out, "model.txt").write_text(" ".join(said + rows))
"""
SCORE = """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
name: score_{name}
type: command
inputs:
  model: {{type: uri_folder}}
outputs:
  report: {{type: uri_folder}}
environment: {environment}
command: "cat ${{{{inputs.model}}}}/model.txt > ${{{{outputs.report}}}}/report.txt"
"""
PIPELINE = """
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
display_name: train and score
experiment_name: yaml
settings: {{default_compute: azureml:serverless}}
inputs:
  epochs: 20
  word: {word}
outputs:
  trained: {{mode: upload}}
  report:
jobs:
  train_job:
    type: command
    component: {train}
    inputs:
      training_data: {{type: uri_folder, path: ./data}}
      max_epochs: ${{{{parent.inputs.epochs}}}}
      note: ${{{{parent.inputs.word}}}}
    outputs:
      model_output: ${{{{parent.outputs.trained}}}}
  score_job:
    type: command
    component: ./score.yml
    inputs:
      model: ${{{{parent.jobs.train_job.outputs.model_output}}}}
    outputs:
      report: ${{{{parent.outputs.report}}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of YAML files as the samples of Azure ML have them."""
    name = f"train_{uuid.uuid4().hex[:8]}"
    for place, text in (
        ("train.yml", TRAIN.format(name=name, environment=ENVIRONMENT)),
        ("score.yml", SCORE.format(name=name, environment=ENVIRONMENT)),
        ("src/train.py", SOURCE),
        ("data/row.txt", "rows"),
        ("pipeline.yml", PIPELINE.format(train="./train.yml", word=name)),
    ):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def loaded(path: Path) -> Any:
    from azure.ai.ml import load_job

    job = load_job(path)
    job.name = new_name("pipeline")
    return job


def word_of(folder: Path) -> str:
    line = next(x for x in (folder / "pipeline.yml").read_text().splitlines() if "word: " in x)
    return line.split()[-1]


def report_of(client: Any, name: str, folder: Path) -> str:
    client.jobs.download(name, output_name="report", download_path=folder / name)
    return (folder / name / "named-outputs" / "report" / "report.txt").read_text(encoding="utf-8")


def test_components_of_yaml_files_run_one_after_the_other(
    client: Any, folder: Path, capsys: Any
) -> None:
    job = client.jobs.create_or_update(loaded(folder / "pipeline.yml"))
    client.jobs.stream(job.name)
    shown = capsys.readouterr().out
    word = word_of(folder)
    assert shown.count(f"training with 20 0.01 --note {word}") == 1
    assert shown.index("[train_job]") < shown.index("score_job")
    assert report_of(client, job.name, folder) == f"20 0.01 --note {word} rows"


def test_the_steps_of_a_pipeline_are_its_children(client: Any, folder: Path) -> None:
    job = client.jobs.create_or_update(loaded(folder / "pipeline.yml"))
    assert wait_for(client, job.name) == "Completed"
    children = {child.display_name: child for child in client.jobs.list(parent_job_name=job.name)}
    assert {child.status for child in children.values()} == {"Completed"}
    train = client.jobs.get(children["Train"].name)
    assert (train.type, train.status) == ("base", "Completed")
    client.jobs.download(train.name, all=True, download_path=folder / "child")
    model = folder / "child" / "named-outputs" / "model_output" / "model.txt"
    assert model.read_text(encoding="utf-8").startswith("20 0.01")
    log = folder / "child" / "artifacts" / "user_logs" / "std_log.txt"
    assert "training with" in log.read_text(encoding="utf-8")
    assert children["Train"].name not in [listed.name for listed in client.jobs.list()]


def test_a_registered_component_is_used_by_its_name(client: Any, folder: Path) -> None:
    from azure.ai.ml import load_component

    train = client.components.create_or_update(load_component(folder / "train.yml"))
    text = PIPELINE.format(train=f"azureml:{train.name}:{train.version}", word="registered")
    (folder / "by_name.yml").write_text(text, encoding="utf-8")
    job = client.jobs.create_or_update(loaded(folder / "by_name.yml"))
    assert wait_for(client, job.name) == "Completed"
    assert report_of(client, job.name, folder) == "20 0.01 --note registered rows"


def test_pipelines_made_of_pipelines_run(client: Any, folder: Path) -> None:
    from azure.ai.ml import Input, dsl, load_component

    train = load_component(folder / "train.yml")
    score = load_component(folder / "score.yml")

    def inner(data, rate):  # type: ignore  # noqa: ANN001, ANN202
        first = train(training_data=data, max_epochs=1, learning_rate=rate)
        second = score(model=first.outputs.model_output)
        return {"model": first.outputs.model_output, "report": second.outputs.report}

    inner.__annotations__ = {"data": Input(type="uri_folder"), "rate": float}
    part = dsl.pipeline(inner)

    def outer(data):  # type: ignore  # noqa: ANN001, ANN202
        one, two = part(data=data, rate=0.25), part(data=data, rate=0.75)
        last = score(model=two.outputs.model)
        return {"report": last.outputs.report, "other": one.outputs.report}

    outer.__annotations__ = {"data": Input(type="uri_folder")}
    job = dsl.pipeline(outer, default_compute="serverless")(
        data=Input(type="uri_folder", path=str(folder / "data"))
    )
    job.name = new_name("nested")
    made = client.jobs.create_or_update(job)
    assert wait_for(client, made.name) == "Completed"
    assert report_of(client, made.name, folder) == "1 0.75 rows"
    assert len(list(client.jobs.list(parent_job_name=made.name))) == 5


def test_a_step_that_ran_before_is_reused_unless_it_is_forced(
    client: Any, folder: Path, capsys: Any
) -> None:
    first, second, third = (loaded(folder / "pipeline.yml") for _ in range(3))
    third.settings.force_rerun = True
    for job in (first, second, third):
        client.jobs.create_or_update(job)
        assert wait_for(client, job.name) == "Completed"
    reused = [
        {child.properties.get("azureml.isreused") for child in listed}
        for job in (first, second, third)
        if (listed := list(client.jobs.list(parent_job_name=job.name)))
    ]
    assert reused == [{None}, {"true"}, {None}]
    assert report_of(client, second.name, folder) == report_of(client, first.name, folder)
    client.jobs.stream(second.name)
    assert "reused" in capsys.readouterr().out


def test_a_failing_step_fails_the_pipeline_with_its_own_words(
    client: Any, folder: Path, capsys: Any
) -> None:
    from azure.ai.ml.exceptions import JobException

    (folder / "src" / "train.py").write_text("raise SystemExit('no flour left')", encoding="utf-8")
    job = client.jobs.create_or_update(loaded(folder / "pipeline.yml"))
    with pytest.raises(JobException) as failed:
        client.jobs.stream(job.name)
    assert "train_job" in str(failed.value)
    assert "no flour left" in str(failed.value)
    assert "[train_job] no flour left" in capsys.readouterr().out
    states = {c.display_name: c.status for c in client.jobs.list(parent_job_name=job.name)}
    assert states["Train"] == "Failed"
    assert "Completed" not in states.values()


def test_a_canceled_pipeline_ends_with_its_steps(client: Any, folder: Path) -> None:
    code = "import time; print('on', flush=True); time.sleep(120)"
    (folder / "src" / "train.py").write_text(code, encoding="utf-8")
    job = client.jobs.create_or_update(loaded(folder / "pipeline.yml"))
    assert wait_for(client, job.name, "Running") == "Running"
    client.jobs.begin_cancel(job.name).result()
    assert status_of(client, job.name) == "Canceled"
    assert {c.status for c in client.jobs.list(parent_job_name=job.name)} == {"Canceled"}


def test_wrong_values_of_several_nodes_are_refused_together(client: Any, folder: Path) -> None:
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    text = (folder / "pipeline.yml").read_text(encoding="utf-8").replace("epochs: 20", "epochs: 0")
    text = text.replace("note: ${{parent", "learning_rate: ${{parent")  # a word for a number
    text = text.replace("path: ./data", "path: azureml://datastores/workspaceblobstore/paths/gone")
    (folder / "wrong.yml").write_text(text, encoding="utf-8")
    job = loaded(folder / "wrong.yml")
    with pytest.raises(HttpResponseError) as refused:
        client.jobs.create_or_update(job)
    text = str(refused.value)
    assert refused.value.status_code == 400
    for part in ("train_job.inputs.max_epochs", "train_job.inputs.learning_rate", "gone"):
        assert part in text
    with pytest.raises(ResourceNotFoundError):
        client.jobs.get(job.name)
