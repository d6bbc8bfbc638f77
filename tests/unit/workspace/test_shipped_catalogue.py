"""What registries are shipped with fits what reads it: notebooks, the pipeline, the SDK."""

from __future__ import annotations

import ast

import pytest

from finery.components.spec import PIPELINE, check_inputs, load_specs
from finery.model.catalogue import CATALOGUE
from finery.workspace.asset import Asset, check_asset
from finery.workspace.catalogue.shipped import shipped, source_of
from finery.workspace.sizes import every_size

MODELS = shipped("model", "azureml")
NEWEST = list({model.name: model for model in MODELS}.values())
# What the notebooks of Azure ML compare a compute's size with.
NOTEBOOK_SIZES = {
    "Standard_ND40rs_v2",
    "Standard_NC24rs_v3",
    "Standard_NC6s_v3",
    "Standard_NC24ads_A100_v4",
    "STANDARD_NC4AS_T4_V3",
    "Standard_local",
}


@pytest.mark.parametrize("model", NEWEST, ids=lambda model: model.name)
def test_the_tags_of_a_model_are_python_that_a_notebook_can_read(model: Asset) -> None:
    for tag in ("finetune_compute_allow_list", "inference_compute_allow_list"):
        sizes = {size.lower() for size in ast.literal_eval(model.tags[tag])}
        assert {size.lower() for size in NOTEBOOK_SIZES} <= sizes
        assert {size.name.lower() for size in every_size()} == sizes
    assert isinstance(ast.literal_eval(model.tags["model_specific_defaults"]), dict)


@pytest.mark.parametrize("model", NEWEST, ids=lambda model: model.name)
def test_the_defaults_of_a_model_pass_the_pipelines_own_checks(model: Asset) -> None:
    defaults = ast.literal_eval(model.tags["model_specific_defaults"])
    literals = {name: str(value) for name, value in defaults.items()}
    given = {"mlflow_model_path", "train_file_path"}
    assert check_inputs(load_specs()[PIPELINE], literals, given, "inputs") == []


def test_tags_and_properties_are_text() -> None:
    for model in MODELS:
        for text in (*model.tags.values(), *model.properties.values()):
            assert isinstance(text, str)


def test_names_versions_and_addresses_are_sound() -> None:
    for kind in ("model", "environment", "component"):
        found = shipped(kind, "azureml")
        assert len({(asset.name, asset.version) for asset in found}) == len(found)
        for asset in found:
            check_asset(asset)
            assert asset.description


def test_versions_are_created_in_their_order() -> None:
    for name in {model.name for model in MODELS}:
        versions = [m for m in MODELS if m.name == name]
        assert versions == sorted(versions, key=lambda model: model.created_at)
        assert [m.version for m in versions] == [str(n + 1) for n in range(len(versions))]


def test_every_source_is_a_hub_id_or_a_name_of_the_engines_catalogue() -> None:
    short = {entry.name for entry in CATALOGUE}
    for model in MODELS:
        source = source_of(model)
        assert source in short or source.count("/") == 1


def test_each_registry_has_its_own_copy_and_the_workspace_none() -> None:
    assert {model.registry for model in shipped("model", "ours")} == {"ours"}
    assert shipped("model", "") == ()
    assert shipped("data", "azureml") == ()


def test_every_component_of_finery_is_offered() -> None:
    assert {asset.name for asset in shipped("component", "azureml")} == set(load_specs())
