"""The page of a run: what happens in it, and what somebody can do about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from studio_store import (
    EVALUATION,
    metric_rows,
    output_of,
    put_data,
    put_many,
    put_model,
    put_run,
    sample,
    training_folder,
    write_log,
    write_metrics,
    write_result,
)

from finery.jobs import service
from finery.jobs.spec import JobSpec
from finery.jobs.tables import jobs
from finery.studio import graph, results
from finery.workspace import assets
from finery.workspace.errors import ConflictError
from finery.workspace.place import Workspace

ORIGIN = {"origin": "http://127.0.0.1"}


def change(workspace: Workspace, name: str, **values: Any) -> None:
    with workspace.store.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.name == name).values(**values))


def send(browser: TestClient, job: str, what: str) -> Any:
    text = browser.get(f"/studio/jobs/{job}").text
    token = re.search(r'name="token" value="([^"]+)"', text)
    assert token is not None
    return browser.post(f"/studio/jobs/{job}/{what}", data={"token": token[1]}, headers=ORIGIN)


def test_a_pipeline_shows_its_steps_with_states_times_and_reuse(
    browser: TestClient, workspace: Workspace
) -> None:
    steps = put_run(workspace, "run", "Running")
    why = "same component, inputs and settings as earlier"
    change(workspace, steps["model_import"], status="Completed", reuse={"from": "o", "why": why})
    change(workspace, steps["evaluation"], status="NotStarted", started_at=None)
    text = browser.get("/studio/jobs/run").text
    for path, name in steps.items():
        assert f"/studio/jobs/{name}" in text
        assert path in text
    assert why in text
    assert 'href="/studio/jobs/o">reused' in text
    assert "NotStarted" in text
    assert text.count('class="arrow"') == 3  # import and data before training, that before the end
    assert "data-since=" in text  # what runs ticks in the browser


def test_a_step_is_a_page_of_its_own(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run", "Running")
    change(workspace, steps["finetune"], attempts=2, reuse={"from": "", "why": "not run before"})
    text = browser.get(f"/studio/jobs/{steps['finetune']}").text
    assert 'href="/studio/jobs/run"' in text
    assert "not run before" in text
    assert "Attempts" in text


def test_the_changing_part_is_sent_when_it_has_changed(
    browser: TestClient, workspace: Workspace
) -> None:
    steps = put_run(workspace, "run", "Running")
    found = re.search(r"state\?seen=(\w+)", browser.get("/studio/jobs/run").text)
    assert found is not None
    address = f"/studio/jobs/run/state?seen={found[1]}"
    assert browser.get(address).status_code == 204
    change(workspace, steps["preprocess"], status="Completed")
    answer = browser.get(address)
    assert answer.status_code == 200
    newer = re.search(r"state\?seen=(\w+)", answer.text)
    assert newer is not None
    assert newer[1] != found[1]
    write_metrics(training_folder(workspace, steps), metric_rows(20), total=100)
    assert "Step 20 of 100" in browser.get(f"/studio/jobs/run/state?seen={newer[1]}").text


def test_an_ended_job_is_asked_about_no_more(browser: TestClient, workspace: Workspace) -> None:
    put_run(workspace, "run")
    text = browser.get("/studio/jobs/run/state").text
    assert "hx-trigger" not in text
    assert "data-since" not in text
    assert "See the result" in text


def test_why_a_job_failed_stands_first(browser: TestClient, workspace: Workspace) -> None:
    error = {"code": "UserError", "message": "train.jsonl has no rows.", "step": "preprocess"}
    put_run(workspace, "run", "Failed", error=error)
    text = browser.get("/studio/jobs/run").text
    assert text.index("train.jsonl has no rows.") < text.index("Steps")
    assert "Resume as a new job" in text
    assert "finery job download run" in text


def test_cancel_asks_a_job_and_its_steps_to_end(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run", "Running")
    answer = send(browser, "run", "cancel")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/jobs/run")
    for name in ("run", *steps.values()):
        assert service.get(workspace, name).status == "CancelRequested"
    text = browser.get("/studio/jobs/run").text
    assert "run was asked to end." in text
    assert "run was asked to end." not in browser.get("/studio/jobs/run").text  # said once


def test_what_has_ended_cannot_be_canceled(browser: TestClient, workspace: Workspace) -> None:
    put_run(workspace, "run")
    answer = send(browser, "run", "cancel")
    assert answer.status_code == 409
    assert "has ended already" in answer.text


def test_run_again_submits_the_same_under_a_new_name(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_run(workspace, "run", "Failed", settings={"learning_rate": "0.5"})
    submitted: list[JobSpec] = []
    monkeypatch.setattr(service, "submit", lambda _, spec: submitted.append(spec))
    answer = send(browser, "run", "again")
    assert answer.status_code == 303
    (spec,) = submitted
    old = service.get(workspace, "run").job_spec
    assert spec.name != "run"
    assert spec.name.startswith("run-")
    assert (spec.steps, spec.outputs) == (old.steps, old.outputs)
    assert answer.headers["location"] == f"/studio/jobs/{spec.name}"


def test_a_step_alone_is_not_run_again(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run")
    assert "/again" not in browser.get(f"/studio/jobs/{steps['finetune']}").text
    found = browser.get("/studio/")
    token = re.search(r'name="token" value="([^"]+)"', found.text)
    assert token is not None
    path = f"/studio/jobs/{steps['finetune']}/again"
    answer = browser.post(path, data={"token": token[1]}, headers=ORIGIN)
    assert answer.status_code == 409


def test_a_refusal_of_the_jobs_part_is_a_page(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_run(workspace, "run", "Failed")

    def refuse(*_: object) -> None:
        raise ConflictError("A job of that name is there.")

    monkeypatch.setattr(service, "submit", refuse)
    answer = send(browser, "run", "again")
    assert (answer.status_code, "A job of that name is there." in answer.text) == (409, True)


def test_the_result_says_whether_it_helped(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run")
    write_result(workspace, steps, [sample("What price?", "No idea.", "Just ask.")] * 30)
    put_model(workspace, "ferry", "run")
    text = browser.get("/studio/jobs/run/result").text
    for words in ("4.377", "0.2166", "-4.16", "-4.355 to -3.972", "72.5 %", "54.8 % to 83.9 %"):
        assert words in text
    assert 'class="verdict good">-4.16' in text
    assert "What price?" in text
    assert text.index("No idea.") < text.index("Just ask.")
    assert "10 more lie in samples.jsonl" in text
    assert "514 tokens of 8 rows" in text
    assert "finery deploy ferry:1 --endpoint ferry" in text


def with_model(workspace: Workspace, status: str = "Completed") -> None:
    place = output_of(workspace, "run", "trained_model", "mlflow_model")
    put_run(workspace, "run", status, outputs={"trained_model": place})


def register(browser: TestClient, **fields: str) -> Any:
    found = re.search(r'name="token" value="([^"]+)"', browser.get("/studio/").text)
    assert found is not None
    form = {"token": found[1], "output": "trained_model", "model": "ferry", **fields}
    return browser.post("/studio/jobs/run/register", data=form, headers=ORIGIN)


def test_a_model_is_registered_from_the_result(browser: TestClient, workspace: Workspace) -> None:
    with_model(workspace)
    assert "/studio/jobs/run/register" in browser.get("/studio/jobs/run/result").text
    answer = register(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/models/ferry")
    (model,) = assets.versions(workspace, "model", "", "ferry")
    assert (model.version, model.type, model.spec["jobName"]) == ("1", "mlflow_model", "run")
    assert model.properties["job"] == "run"
    assert register(browser).status_code == 303
    assert len(assets.versions(workspace, "model", "", "ferry")) == 1  # it is that already
    assert "finery deploy ferry:1" in browser.get("/studio/jobs/run/result").text


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"model": "a b"}, 400), ({"model": ""}, 400), ({"output": "none"}, 404)],
)
def test_what_cannot_be_registered_is_refused(
    browser: TestClient, workspace: Workspace, fields: dict[str, str], status: int
) -> None:
    with_model(workspace)
    assert register(browser, **fields).status_code == status
    assert assets.names(workspace, "model", "") == []


def test_a_job_that_did_not_complete_makes_no_model(
    browser: TestClient, workspace: Workspace
) -> None:
    with_model(workspace, "Failed")
    assert "/register" not in browser.get("/studio/jobs/run/result").text
    assert register(browser).status_code == 409


def test_a_difference_that_may_be_chance_is_no_improvement() -> None:
    def figure(low: float, high: float, less: bool) -> str:
        difference = {"estimate": (low + high) / 2, "low": low, "high": high}
        return results.Figure("x", 1.0, 1.0, less, difference=difference).verdict

    assert figure(-0.2, 0.1, True) == "even"
    assert figure(0.0, 0.1, False) == "even"
    assert (figure(-0.2, -0.1, True), figure(0.1, 0.2, True)) == ("good", "bad")
    assert (figure(0.1, 0.2, False), figure(-0.2, -0.1, False)) == ("good", "bad")
    assert results.Figure("x", 1.0, 1.0, True).verdict == ""


def test_an_evaluation_without_a_base_has_dashes() -> None:
    alone = {
        **EVALUATION,
        "assistant_loss": {"rows": 2, "base": None, "tuned": 0.5, "difference": None},
        "base_metrics": None,
        "checks": None,
    }
    figures = results.figures_of(alone)
    assert figures[0].label == "Held-out loss"
    assert all(figure.base is None and not figure.verdict for figure in figures)


def test_a_damaged_evaluation_is_said_not_hidden(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run")
    write_result(workspace, steps, [])
    place = workspace.job_outputs(steps["evaluation"]) / "evaluation_result" / "evaluation.json"
    place.write_text("{broken")
    answer = browser.get("/studio/jobs/run/result")
    assert answer.status_code == 200
    assert "is not valid JSON" in answer.text


@pytest.mark.parametrize(
    "text", ["[]", "7", '{"assistant_loss": 7}', '{"checks": [1]}', '{"all_loss": {"base": 1}}']
)
def test_files_of_another_form_do_no_harm(
    browser: TestClient, workspace: Workspace, text: str
) -> None:
    steps = put_run(workspace, "run")
    write_result(workspace, steps, [sample("kept?", "b", "t")])
    folder = workspace.job_outputs(steps["evaluation"]) / "evaluation_result"
    (folder / "evaluation.json").write_text(text)
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"messages": 3}\n[1]\n{"messages": [{"role": "x"}]}\n')
    (training_folder(workspace, steps) / "certificate.json").write_text('{"rows": 1}')
    answer = browser.get("/studio/jobs/run/result")
    assert answer.status_code == 200
    assert "kept?" in answer.text
    (folder / "samples.jsonl").write_text("no json\n")
    assert browser.get("/studio/jobs/run/result").status_code == 200


def test_a_job_without_a_result_says_so(browser: TestClient, workspace: Workspace) -> None:
    put_many(workspace, 1)
    put_run(workspace, "run", "Running")
    assert "left no evaluation" in browser.get("/studio/jobs/many-00000/result").text
    assert "appears here when" in browser.get("/studio/jobs/run/result").text


def test_settings_and_lineage_lead_to_what_a_job_was_made_from(
    browser: TestClient, workspace: Workspace
) -> None:
    put_data(workspace, "chats", "rows.jsonl", '{"messages": []}\n')
    put_run(workspace, "run", settings={"learning_rate": "0.125"})
    put_model(workspace, "ferry", "run")
    text = browser.get("/studio/jobs/run/details").text
    assert 'href="/studio/data/chats?version=1"' in text
    assert 'href="/studio/models/ferry?version=1"' in text
    assert "0.125" in text
    assert "nothing there yet" in text
    inputs = text.split("Inputs</h2>")[1].split("Outputs</h2>")[0]
    assert "train_file_path" in inputs
    assert "preprocess/" not in inputs  # what steps hand to each other is no input of the job
    assert "rows" not in inputs


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("azureml://models/m/versions/2", "/studio/models/m?version=2"),
        (
            "azureml://registries/azureml/models/m/versions/2",
            "/studio/models/m?version=2&registry=azureml",
        ),
        ("azureml://data/d/versions/1", "/studio/data/d?version=1"),
        ("azureml://jobs/j/outputs/o", "/studio/jobs/j"),
        ("azureml://datastores/workspaceblobstore/paths/azureml/j/o", "/studio/jobs/j"),
        ("azureml://datastores/workspaceblobstore/paths/uploads/x", ""),
        ("javascript:alert(1)", ""),
        ("https://evil.example/x", ""),
        ("", ""),
    ],
)
def test_references_lead_to_pages_of_the_studio_alone(uri: str, link: str) -> None:
    assert results.link_of(uri) == link


def test_a_graph_puts_every_box_after_those_it_waits_for() -> None:
    nodes = [
        graph.Node("c", "c", after=frozenset({"a", "b"})),
        graph.Node("a", "a"),
        graph.Node("b", "b", after=frozenset({"a"})),
        graph.Node("d", "d", after=frozenset({"elsewhere"})),
    ]
    drawing = graph.draw(nodes)
    at = {box.node.key: (box.x, box.y) for box in drawing.boxes}
    assert at["a"][0] < at["b"][0] < at["c"][0]
    assert len(set(at.values())) == 4
    assert len(drawing.arrows) == 3
    assert all(x + graph.WIDTH <= drawing.width for x, _ in at.values())
    assert graph.draw([]).arrows == []


def test_a_graph_with_a_knot_is_drawn() -> None:
    nodes = [
        graph.Node("a", "a", after=frozenset({"b"})),
        graph.Node("b", "b", after=frozenset({"a"})),
    ]
    assert len(graph.draw(nodes).boxes) == 2


def test_the_log_of_a_step_is_its_own(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "run")
    write_log(workspace, steps["finetune"], "from the step\n")
    write_log(workspace, "run", "from the pipeline\n", pipeline=True)
    assert "from the step" in browser.get(f"/studio/jobs/{steps['finetune']}/log").text
    assert "from the pipeline" in browser.get("/studio/jobs/run/log").text
