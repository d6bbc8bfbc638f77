"""The specs that come with finery: the inputs of Azure's component, and a graph that closes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from finery.components.run import STEPS
from finery.components.spec import PIPELINE, load_specs
from finery.recipe.inputs import SETTINGS

SPECS = load_specs()
JOBS = SPECS[PIPELINE]["jobs"]
OF_AZURE = [name for name, row in SETTINGS.items() if row.component]
# The graph of Azure's component, version 0.0.82, with one evaluation step in place of two.
FEEDS = {
    "ft_nlp_common_validation": set(),
    "chat_completion_model_import": {"ft_nlp_common_validation"},
    "chat_completion_datapreprocess": {"chat_completion_model_import"},
    "chat_completion_finetune": {"chat_completion_model_import", "chat_completion_datapreprocess"},
    "ft_nlp_model_converter": {"chat_completion_model_import", "chat_completion_finetune"},
    "chat_completion_evaluation": {
        "chat_completion_model_import",
        "chat_completion_datapreprocess",
        "chat_completion_finetune",
    },
}


def test_the_pipeline_has_the_69_inputs_of_azure_and_then_our_own() -> None:
    names = list(SPECS[PIPELINE]["inputs"])
    assert len(OF_AZURE) == 69
    assert set(names[:69]) == set(OF_AZURE)
    assert not set(names[69:]) & set(OF_AZURE)
    assert set(names) <= set(SETTINGS)


def test_every_input_of_the_recipe_is_an_input_of_the_pipeline_but_those_of_a_local_run() -> None:
    local = {"model", "output_dir", "overwrite_output", "package_mlflow", "device"}
    local |= {"num_processes", "auto"}
    assert set(SETTINGS) - set(SPECS[PIPELINE]["inputs"]) == local


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_inputs_are_as_the_table_of_inputs_says(spec: str) -> None:
    for name, row in SPECS[spec]["inputs"].items():
        if name not in SETTINGS:
            continue
        setting = SETTINGS[name]
        assert row["type"] == setting.component_type, name
        assert row.get("optional", False) == (name != "task_name"), name
        assert row.get("min") == setting.spec_minimum, name
        assert row["description"] == setting.help, name
        assert row.get("default") == default_of(name), name
        assert tuple(row.get("enum", ())) == choices_of(name), name


def default_of(name: str) -> Any:
    setting = SETTINGS[name]
    if setting.is_path or setting.default == "":
        return None
    boolean = isinstance(setting.default, bool)
    return str(setting.default).lower() if boolean else setting.default


def choices_of(name: str) -> tuple[str, ...]:
    setting = SETTINGS[name]
    if setting.kind == "boolean":
        return ("true", "false")
    return setting.spec_choices or setting.choices


def test_outputs_are_those_of_azure() -> None:
    kinds = {name: row["type"] for name, row in SPECS[PIPELINE]["outputs"].items()}
    assert kinds == {
        "pytorch_model_folder": "uri_folder",
        "mlflow_model_folder": "mlflow_model",
        "evaluation_result": "uri_folder",
    }


def bindings(job: dict[str, Any]) -> dict[str, str]:
    return {**job["inputs"], **job.get("outputs", {})}


@pytest.mark.parametrize("job", JOBS, ids=str)
def test_a_step_is_a_component_of_the_folder_and_takes_only_its_inputs(job: str) -> None:
    prefix, name, version = JOBS[job]["component"].split(":")
    assert (prefix, name, version) == ("azureml", job, str(SPECS[job]["version"]))
    assert set(JOBS[job]["inputs"]) == set(SPECS[job]["inputs"])
    assert set(JOBS[job].get("outputs", {})) <= set(SPECS[job]["outputs"])
    required = {n for n, row in SPECS[job]["inputs"].items() if not row.get("optional")}
    assert required <= {"task_name", "model_selector_output", "preprocess_output", "model_path"}


@pytest.mark.parametrize("job", JOBS, ids=str)
def test_every_binding_names_something_of_its_type(job: str) -> None:
    pipeline = SPECS[PIPELINE]
    for name, text in bindings(JOBS[job]).items():
        if found := re.fullmatch(r"\$\{\{parent\.(inputs|outputs)\.(\w+)\}\}", text):
            kinds = pipeline[found[1]][found[2]]["type"], SPECS[job][found[1]][name]["type"]
            assert kinds[0] == kinds[1], name
        else:
            found = re.fullmatch(r"\$\{\{parent\.jobs\.(\w+)\.outputs\.(\w+)\}\}", text)
            assert found, text
            assert found[1] in FEEDS[job]
            kind = SPECS[found[1]]["outputs"][found[2]]["type"]
            assert kind == SPECS[job]["inputs"][name]["type"], name


def test_the_graph_is_the_one_of_azure() -> None:
    assert {
        name: set(re.findall(r"parent\.jobs\.(\w+)\.", " ".join(bindings(job).values())))
        for name, job in JOBS.items()
    } == FEEDS


def test_no_input_of_the_pipeline_is_without_a_reader() -> None:
    used = set(re.findall(r"\$\{\{parent\.inputs\.(\w+)\}\}", str(JOBS)))
    assert used == set(SPECS[PIPELINE]["inputs"])


def test_every_output_of_the_pipeline_is_made_by_a_step() -> None:
    made = re.findall(r"\$\{\{parent\.outputs\.(\w+)\}\}", str(JOBS))
    assert sorted(made) == sorted(SPECS[PIPELINE]["outputs"])


def test_every_step_has_an_entry_that_runs_it() -> None:
    assert {spec["command"] for name, spec in SPECS.items() if name != PIPELINE} == {
        f"finery:{name}" for name in STEPS
    }
