"""The fine-tuning form as a value: what it offers, what it refuses, what it asks for."""

from __future__ import annotations

import pytest
from fine_tune_store import filled

from finery.components.spec import PIPELINE, load_specs
from finery.errors import Fault
from finery.recipe.inputs import GROUPS, SETTINGS
from finery.studio import fine_tune_form as forms


def faults_of(**values: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, text in forms.own_faults(forms.typed(filled(**values))):
        found.setdefault(name, []).append(text)
    return found


def test_every_input_of_the_pipeline_is_in_the_form_once() -> None:
    shown = [row.name for group in forms.groups() for row in (*group.leading, *group.others)]
    chosen = {"huggingface_id", "pytorch_model_path", "mlflow_model_path"}
    chosen |= {
        f"{s}_{k}_path" for s in ("train", "validation", "test") for k in ("file", "mltable")
    }
    assert sorted(shown) == sorted(set(load_specs()[PIPELINE]["inputs"]) - chosen)
    names = [group.name for group in forms.groups()]
    assert names == [name for name in GROUPS if name in names]  # in the order of the table


def test_the_form_begins_with_what_is_likely_to_work() -> None:
    form = forms.blank(model="m", train="d")
    assert list(forms.own_faults(form)) == []
    assert form.values["apply_lora"] == "true"
    assert form.values["num_train_epochs"] == "1"
    assert set(forms.SENSIBLE) <= set(forms.offered())
    assert forms.chosen(form)["learning_rate"] == 0.0002
    assert "seed" not in forms.chosen(form)  # at its default


def test_a_form_sent_unchanged_is_the_form_that_was_shown() -> None:
    form = forms.blank(
        model="azureml://models/tiny/versions/1", train="azureml://data/chats/versions/1"
    )
    assert forms.typed(filled()).values == form.values


def test_an_unticked_box_is_false_and_an_unsent_form_is_at_its_defaults() -> None:
    sent = {name: text for name, text in filled().items() if name != "merge_lora_weights"}
    assert forms.typed(sent).values["merge_lora_weights"] == "false"
    assert forms.typed({}).values["merge_lora_weights"] == "true"


def test_all_that_is_wrong_is_said_at_its_field() -> None:
    found = faults_of(
        learning_rate="-1", lora_r="many", seed="", precision="64", use_dora="maybe", name="x" * 101
    )
    assert set(found) == {"learning_rate", "lora_r", "seed", "precision", "use_dora", "name"}
    assert found["learning_rate"] == ["Found '-1'; expected a finite number above 0."]
    assert "expected an integer" in found["lora_r"][0]
    assert faults_of(model="", train="").keys() == {"model", "train"}


def test_what_does_not_go_together_is_said_at_the_first_of_the_two() -> None:
    sent = {k: v for k, v in filled(use_dora="true").items() if k != "apply_lora"}
    found = dict(forms.own_faults(forms.typed(sent)))
    assert found["use_dora"].endswith("Set apply_lora: true.")


def test_a_fault_is_said_once_and_one_without_a_field_stands_above_all() -> None:
    form = forms.with_faults(
        forms.blank(), [("seed", "No."), ("seed", "No."), ("elsewhere", "Hm.")]
    )
    assert form.faults == {"seed": ["No."], "": ["Hm."]}
    assert forms.with_faults(form, [("seed", "Still no.")]).faults["seed"] == ["No.", "Still no."]


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("learning_rate", "learning_rate"),
        ("--learning-rate", "learning_rate"),
        ("--train", "train"),
        ("--model", "model"),
        ("inputs.lora_r", "lora_r"),
        ("jobs.chat_completion_pipeline.inputs.seed", "seed"),
        ("jobs.chat_completion_pipeline.inputs.validation_mltable_path", "validation"),
        ("inputs.mlflow_model_path", "model"),
        ("huggingface_id", "model"),
        ("displayName", "name"),
    ],
)
def test_a_fault_finds_its_field_wherever_it_comes_from(where: str, name: str) -> None:
    assert forms.field_of(where) == name
    assert name in forms.blank().values


def test_a_sentence_names_its_place_where_the_field_does_not() -> None:
    fault = Fault("x", "nothing", "something", "Do it.")
    assert forms.sentence(fault) == "Found nothing; expected something. Do it."
    with_place = forms.sentence(fault, with_place="rows.jsonl:3")
    assert with_place == "rows.jsonl:3: found nothing; expected something. Do it."


def test_only_what_differs_from_the_run_is_a_change_of_a_clone() -> None:
    values = forms.blank(model="m", train="d").values
    form = forms.Form({**values, "seed": "7", "name": "other"}, original=values, origin="run")
    assert form.differences == ["seed"]  # a name is no setting
    assert form.differs("seed")
    assert not forms.Form({**values, "seed": "7"}).differs("seed")  # no clone


def test_a_group_counts_what_is_not_at_its_default() -> None:
    form = forms.blank()
    lora = next(group for group in forms.groups() if group.name == "LoRA")
    assert forms.changed(form, lora) == 1
    assert {row.name for row in lora.leading} == {"apply_lora", "lora_r", "lora_alpha"}
    assert all(SETTINGS[name].help for name in forms.offered())


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("azureml://models/tiny/versions/1", "tiny:1"),
        ("azureml://registries/azureml/models/Phi-4/versions/8", "Phi-4:8"),
        ("azureml://datastores/d/paths/LocalUpload/hash/rows.jsonl", "hash/rows.jsonl"),
        ("org/name", "org/name"),
        ("", ""),
    ],
)
def test_a_reference_is_shown_short(reference: str, words: str) -> None:
    assert forms.short(reference) == words
