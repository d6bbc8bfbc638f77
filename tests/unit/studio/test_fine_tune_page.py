"""The fine-tuning page: what it shows, what its buttons do, what it makes of a run."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fine_tune_store import DATA, MODEL, filled, put_base, put_both, send
from studio_store import put_data, put_many, put_run

from finery.jobs import durable, runtime, service
from finery.studio import fine_tune_job, fine_tune_look, fine_tune_models
from finery.studio.fine_tune_look import Look
from finery.workspace.place import Workspace

EVIL = "<script>alert(1)</script>"
PLAN = {
    **{"device": "cpu", "processes": 1, "micro_batch": 4, "accumulation": 1, "global_batch": 4},
    **{"steps_per_epoch": 5, "total_steps": 15, "tokens_per_step": 120, "parameters": 15_210_144},
    **{"trainable": 221_184, "memory_bytes": 114_666_816, "disk_bytes": 36_613_440, "notes": []},
}
LEDGER = {
    **{"split": "train", "rows_read": 18, "rows_used": 17, "total": 900, "trained": 510},
    **{"context": 119, "dropped": 271, "cut": 0, "cut_rows": [], "dropped_rows": [{"row": 3}]},
}
GOOD = Look(
    ledgers=[LEDGER],
    sentences=["train: 1 rows dropped at 64 tokens (rows 3): 4.0 % of the trainable tokens"],
    plan=PLAN,
    notes=["no validation or test rows: 80/10/10 of the training rows"],
    rows=[
        {
            **{"number": 1, "tokens": 11, "trained": 4, "is_whole": True},
            "pieces": [["<|user|>\nHi<|assistant|>", False], [f"Hello {EVIL}<|end|>", True]],
        }
    ],
)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is looked at; every look is good unless a test puts another one first."""
    asked: list[Any] = []

    def look(_: Workspace, wanted: Any) -> Look:
        asked.append(wanted)
        return GOOD

    monkeypatch.setattr(fine_tune_look, "look", look)
    return asked


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are taken on and stay as they are."""
    monkeypatch.setattr(runtime, "current", lambda: SimpleNamespace(changed=lambda: None))
    monkeypatch.setattr(durable, "begin", lambda job: None)


def started(browser: TestClient, **changes: str) -> str:
    """The name of a run that the form starts."""
    answer = send(browser, filled(do="start", **changes))
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].removeprefix("/studio/jobs/")


def test_the_page_offers_models_data_and_settings_with_their_help(
    browser: TestClient, workspace: Workspace
) -> None:
    put_both(workspace)
    text = browser.get("/studio/fine-tune").text
    assert re.search(
        r'type="radio" name="model"[^>]*value="azureml://models/tiny/versions/1"', text
    )
    assert "SmolLM2-135M-Instruct" in text
    for words in ("135 M", "apache-2.0", "8,192", "fits", "registered here", "peak learning rate"):
        assert words in text
    assert text.count(f'<option value="{DATA}">chats:1') == 3  # train, validation, test
    assert 'name="learning_rate" value="0.0002"' in text
    assert re.search(r'id="f-apply_lora"[^>]*checked', text)
    assert "Nothing starts by it" in text


def test_an_address_may_choose_model_and_data(browser: TestClient, workspace: Workspace) -> None:
    put_both(workspace)
    text = browser.get(f"/studio/fine-tune?model={MODEL}&data={DATA}").text
    assert re.search(rf'value="{MODEL}" checked', text)
    assert f'<option value="{DATA}" selected>' in text


def test_every_field_has_a_label_and_says_where_its_help_is(browser: TestClient) -> None:
    text = browser.get("/studio/fine-tune").text
    labelled = set(re.findall(r'<label[^>]* for="([^"]+)"', text))
    for element, ident in re.findall(r'<(select|input)(?![^>]*hidden)[^>]* id="([^"]+)"', text):
        wrapped = re.search(rf'<label class="tick-label"><{element}[^>]*id="{ident}"', text)
        assert ident in labelled or wrapped, ident
    for ident in re.findall(r'aria-describedby="([^"]+)"', text):
        assert all(f'id="{one}"' in text for one in ident.split()), ident


def test_a_check_shows_ledger_preview_plan_and_texts(
    browser: TestClient, workspace: Workspace, looks: list[Any]
) -> None:
    put_both(workspace)
    answer = send(browser, filled())
    assert answer.status_code == 200
    text = answer.text
    assert '<mark class="loss">Hello &lt;script&gt;' in text
    assert EVIL not in text
    for words in ("510", "17 <span", "1 rows dropped at 64", "80/10/10", "about 114.7 MB", "221 k"):
        assert words in text
    for words in ("finery finetune", "chat_completion_pipeline", "from azure.ai.ml import"):
        assert words in text
    assert "Time</dt>" not in text  # nobody measured it
    assert looks[0].recipe["learning_rate"] == 0.0002
    assert looks[0].recipe["train_file_path"].endswith("rows.jsonl")


def test_the_time_is_shown_when_it_is_known(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_both(workspace)
    plan = {**PLAN, "seconds": 125.0, "time_error": 0.2, "available_bytes": 1000}
    monkeypatch.setattr(fine_tune_look, "look", lambda *_: Look(plan=plan))
    text = send(browser, filled()).text
    assert "about 2 min 05 s" in text
    assert "± 20 %" in text
    assert "more memory than there is" in text


def test_everything_wrong_is_at_its_field_and_nothing_typed_is_lost(
    browser: TestClient, workspace: Workspace, looks: list[Any]
) -> None:
    put_both(workspace)
    wrong = {"learning_rate": "-1", "lora_r": EVIL, "seed": "", "model": "", "validation": "x"}
    text = send(browser, filled(**wrong)).text
    for name in wrong:
        assert f'id="f-{name}-fault"' in text
        assert f'href="#f-{name}"' in text
    assert "5 things to mend" in text
    assert 'value="-1" autocomplete' in text
    assert EVIL not in text
    assert 'value="&lt;script&gt;alert(1)&lt;/script&gt;"' in text
    assert f'<option value="{DATA}" selected>' in text
    assert looks == []  # there is nothing to look at
    seed = text.index('id="f-seed"')
    assert "<details" in text[:seed]
    assert text.rindex("<details", 0, seed) < text.index(" open", text.rindex("<details", 0, seed))


def test_what_the_look_finds_wrong_is_at_its_field(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_both(workspace)
    found = Look(faults=[("train", f"rows.jsonl:3: found {EVIL}; expected text."), ("", "Broken.")])
    monkeypatch.setattr(fine_tune_look, "look", lambda *_: found)
    answer = send(browser, filled(do="start"))
    assert answer.status_code == 400
    assert 'id="f-train-fault"' in answer.text
    assert "rows.jsonl:3: found &lt;script&gt;" in answer.text
    assert "Broken." in answer.text
    assert "The same as text" not in answer.text


def test_to_htmx_the_form_alone_is_sent(
    browser: TestClient, workspace: Workspace, looks: list[Any]
) -> None:
    put_both(workspace)
    page = browser.get("/studio/fine-tune", headers={"hx-request": "true"})
    assert page.text.lstrip().startswith('<form id="fine-tune"')
    assert "<html" not in page.text


def test_start_submits_the_job_that_the_form_says_and_goes_to_its_page(
    browser: TestClient, workspace: Workspace, looks: list[Any], jobs: None
) -> None:
    put_both(workspace)
    name = started(browser, name="My run", seed="7")
    assert re.fullmatch(r"my-run-[0-9a-f]{10}", name)
    assert len(looks) == 1  # it was not looked at before
    job = service.get(workspace, name)
    assert (job.display_name, job.experiment, job.type) == ("My run", "finetune", "pipeline")
    assert {"trained_model", "pytorch_model", "evaluation"} == set(job.outputs)
    node = job.wire["jobs"]["chat_completion_pipeline"]["inputs"]
    assert node["pytorch_model_path"] == {"job_input_type": "custom_model", "uri": MODEL}
    assert node["train_file_path"] == {"job_input_type": "uri_file", "uri": DATA}
    assert node["seed"] == {"job_input_type": "literal", "value": "7"}
    assert node["apply_lora"]["value"] == "true"
    assert "warmup_steps" not in node  # at its default
    page = browser.get(f"/studio/jobs/{name}").text
    assert "My run is on its way." in page
    assert f'href="/studio/fine-tune?from={name}"' in page


def test_what_was_looked_at_starts_without_another_look(
    browser: TestClient, workspace: Workspace, looks: list[Any], jobs: None
) -> None:
    put_both(workspace)
    found = re.search(r'name="looked" value="(\w+)"', send(browser, filled()).text)
    assert found is not None
    started(browser, looked=found[1])
    assert len(looks) == 1
    started(browser, looked=found[1], seed="8")  # that is another one
    assert len(looks) == 2


def test_a_look_that_takes_too_long_does_not_stop_the_start(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, jobs: None
) -> None:
    put_both(workspace)
    monkeypatch.setattr(fine_tune_look, "look", lambda *_: Look(unknown="It took too long."))
    assert "It took too long." in send(browser, filled()).text
    started(browser)


def test_a_button_that_is_none_is_refused(browser: TestClient) -> None:
    assert send(browser, filled(do="explode")).status_code == 400


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model", "azureml://models/gone/versions/1", "No model is called gone"),
        ("model", "/etc", "a file of the workspace"),
        ("train", "azureml://data/chats/versions/9", "has no version 9"),
        ("train", "file:///etc/passwd", "a file of the workspace"),
        ("test", "azureml://models/tiny/versions/1", ""),
        ("deepspeed", "azureml:gone:1", "No data is called gone"),
    ],
)
def test_references_that_lead_nowhere_are_faults_of_their_fields(
    browser: TestClient, workspace: Workspace, looks: list[Any], field: str, value: str, words: str
) -> None:
    put_both(workspace)
    more = {"apply_deepspeed": "true"} if field == "deepspeed" else {}
    text = send(browser, filled(**{field: value}, **more)).text
    assert f'id="f-{field}-fault"' in text
    assert words in text
    assert looks == []


def test_the_type_of_a_model_decides_the_input_that_it_is(workspace: Workspace) -> None:
    put_both(workspace)
    put_base(workspace, "logged", "mlflow_model")
    shipped = "azureml://registries/azureml/models/SmolLM2-135M-Instruct/versions/1"
    for text, name, local in (
        (MODEL, "pytorch_model_path", "models/tiny"),
        ("azureml:logged:1", "mlflow_model_path", "models/logged"),
        (shipped, "mlflow_model_path", "smollm2-135m-instruct"),
        ("org/name", "huggingface_id", "org/name"),
    ):
        found = fine_tune_job._model(workspace, text)
        assert (found.input, found.local.endswith(local)) == (name, True)


def test_a_clone_has_the_settings_of_its_run_and_marks_what_is_changed(
    browser: TestClient, workspace: Workspace, looks: list[Any], jobs: None
) -> None:
    put_both(workspace)
    name = started(browser, seed="4711", use_rslora="true")
    text = browser.get(f"/studio/fine-tune?from={name}").text
    assert 'name="seed" value="4711"' in text
    assert re.search(r'id="f-use_rslora"[^>]*checked', text)
    assert re.search(rf'value="{MODEL}" checked', text)
    assert f'<option value="{DATA}" selected>' in text
    assert "Changes <span" not in text
    assert 'data-was="4711"' in text
    kept = filled(seed="4712", use_rslora="true", **{"from": name})
    changed = send(browser, kept).text
    assert 'Changes <span class="count">1</span>' in changed
    assert "was <code>4711</code>" in changed
    assert started(browser, **{"from": name}, seed="4712") != name


def test_a_run_of_the_sdk_is_cloned_too(browser: TestClient, workspace: Workspace) -> None:
    put_data(workspace, "chats", "rows.jsonl", "{}\n")
    put_run(workspace, "run", settings={"learning_rate": "0.125", "use_dora": "True"})
    text = browser.get("/studio/fine-tune?from=run").text
    assert 'name="learning_rate" value="0.125"' in text
    assert re.search(r'id="f-use_dora"[^>]*checked', text)
    assert f'<option value="{DATA}" selected>' in text


def test_a_job_of_another_kind_is_no_fine_tuning(browser: TestClient, workspace: Workspace) -> None:
    put_many(workspace, 1)
    answer = browser.get("/studio/fine-tune?from=many-00000")
    assert (answer.status_code, "is no fine-tuning" in answer.text) == (409, True)
    assert "Clone with changes" not in browser.get("/studio/jobs/many-00000").text
    assert browser.get("/studio/fine-tune?from=gone").status_code == 404


def test_resuming_says_what_it_does_not_take_over(
    browser: TestClient, workspace: Workspace
) -> None:
    from test_studio_run import change

    steps = put_run(workspace, "run", "Failed")
    change(workspace, steps["finetune"], status="Failed", attempts=1)
    text = browser.get("/studio/jobs/run").text
    assert "Resume as a new job" in text
    assert "Its training begins at the first step" in text
    put_run(workspace, "done")
    assert "begins at the first step" not in browser.get("/studio/jobs/done").text


@pytest.mark.parametrize(
    ("parameters", "memory", "fits"),
    [(0, 8e9, ""), (int(1e8), 8e9, "good"), (int(2e9), 8e9, "even"), (int(7e9), 8e9, "bad")],
)
def test_a_model_fits_whole_as_an_adapter_or_not(parameters: int, memory: float, fits: str) -> None:
    assert fine_tune_models.fit(parameters, memory) == fits


def test_models_are_described_by_their_folders(workspace: Workspace) -> None:
    put_base(workspace, shape=(1000, 1000))
    (mine, *shipped) = fine_tune_models.choices(workspace)
    assert (mine.name, mine.parameters, mine.licence, mine.context) == ("tiny", 10**6, "mit", 2048)
    assert mine.place == ""
    sizes = [one.parameters for one in shipped]
    assert sizes == sorted(sizes)
    assert min(sizes) == 135_000_000


def test_a_damaged_model_is_listed_nowhere_and_harms_nothing(
    browser: TestClient, workspace: Workspace
) -> None:
    (put_base(workspace, "broken") / "config.json").write_text("{")
    answer = browser.get("/studio/fine-tune")
    assert answer.status_code == 200
    assert "models/broken/" not in answer.text
