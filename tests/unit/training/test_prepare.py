"""Before a run: everything that can be refused is, and the job is what the recipe says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finery.errors import FineryError, InputError
from finery.recipe.resolve import Resolved
from finery.training.data import data_files, read_data
from finery.training.prepare import Prepared, prepare

MakeRecipe = Callable[..., Resolved]
WriteChats = Callable[..., Path]


def prepared(resolved: Resolved) -> Prepared:
    return prepare(resolved.recipe, resolved.origins, resolved.notes)


def write_table(folder: Path, *files: Path) -> Path:
    folder.mkdir()
    for file in files:
        file.rename(folder / file.name)
    text = "paths:\n- pattern: ./*.jsonl\ntransformations:\n- read_json_lines: {encoding: utf8}\n"
    (folder / "MLTable").write_text(text)
    return folder


def test_a_job_is_prepared_and_nothing_is_written_to_the_output_folder(
    tiny_recipe: MakeRecipe,
) -> None:
    ready = prepared(tiny_recipe())
    assert not ready.job.run.exists()
    assert [ledger.split for ledger in ready.ledgers] == ["train", "validation", "test"]
    assert ready.plan.total_steps == 2
    assert ready.plan.global_batch == 4
    assert 0 < ready.plan.trainable < ready.plan.parameters
    assert ready.job.renderer == ready.renderer.fingerprint
    assert any("80/20" in note for note in ready.notes)


def test_faults_of_all_data_files_are_told_together(
    tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("{broken\n")
    with pytest.raises(InputError) as refusal:
        prepared(tiny_recipe())
    assert [Path(fault.where).name for fault in refusal.value.faults] == [
        "train.jsonl:1",
        "test.jsonl:1",
    ]


def test_a_limit_beyond_the_model_is_refused_with_the_models_own(tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(InputError, match="at most the model's own 512"):
        prepared(tiny_recipe(max_seq_length=513))
    assert prepared(tiny_recipe()).job.max_seq_length == 512


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_model_with_fewer_embeddings_than_its_tokenizer_has_ids_is_refused(
    tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_recipe().recipe.model, folder)
    edit_json(folder / "config.json", lambda config: config.update(vocab_size=40))
    with pytest.raises(FineryError, match="the model has 40 embeddings only"):
        prepared(tiny_recipe(model=str(folder)))


def test_a_family_that_transformers_does_not_know_is_refused_in_a_sentence(
    tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    shutil.copytree(tiny_recipe().recipe.model, folder)
    edit_json(folder / "config.json", lambda config: config.update(model_type="newest"))
    with pytest.raises(FineryError, match=r"config\.json is no configuration .*newest"):
        prepared(tiny_recipe(model=str(folder)))


def test_test_rows_that_are_training_rows_too_are_said_wherever_they_lie(
    tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    copy = shutil.copyfile(tiny_recipe().recipe.train_file_path, tmp_path / "copy.jsonl")
    notes = prepared(tiny_recipe(test_file_path=str(copy))).notes
    assert any("test rows are training rows too" in note for note in notes)
    assert not any("training rows too" in note for note in prepared(tiny_recipe()).notes)


def test_when_no_row_fits_the_limit_the_run_is_refused(tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(InputError, match="at least one row to train on"):
        prepared(tiny_recipe(max_seq_length=8, long_rows="drop"))


def test_an_mltable_wins_over_the_file_and_that_is_said(
    tiny_recipe: MakeRecipe, write_chats: WriteChats, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t", write_chats("a.jsonl", 5, 5), write_chats("b.jsonl", 6, 6))
    ready = prepared(tiny_recipe(train_mltable_path=str(table)))
    assert sum(ledger.rows_read for ledger in ready.ledgers[:2]) == 11
    assert "train_mltable_path wins; train_file_path is not read." in ready.notes
    assert {Path(c.file).name for c in ready.splits.train} == {"a.jsonl", "b.jsonl"}
    names = {"train:MLTable", "train:a.jsonl", "train:b.jsonl", "test"}
    assert data_files(ready.recipe).keys() == names


def test_rows_of_several_files_are_lost_by_file_and_row(
    tiny_recipe: MakeRecipe, write_chats: WriteChats, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t", write_chats("a.jsonl", 6, 5), write_chats("b.jsonl", 6, 6))
    data = {"train_mltable_path": str(table), "max_seq_length": 60}
    with pytest.raises(InputError) as refusal:
        prepared(tiny_recipe(**data, long_rows="refuse"))
    places = {Path(fault.where).name.split(":")[0] for fault in refusal.value.faults}
    assert places == {"a.jsonl", "b.jsonl"}
    ledger = prepared(tiny_recipe(**data, long_rows="drop")).ledgers[0]
    assert any("b.jsonl:" in sentence for sentence in ledger.sentences())


def test_faults_in_an_mltable_name_it(tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "MLTable").write_text("paths: []\n")
    with pytest.raises(InputError, match="MLTable:transformations"):
        read_data(tiny_recipe(train_mltable_path=str(tmp_path / "t")).recipe)


def test_a_template_that_never_ends_an_answer_is_refused_by_its_place(
    tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"finetune_chat_template": "{{ messages[0]['content'] }}"}))
    with pytest.raises(FineryError, match=r"finetune_chat_template of .*config\.json"):
        prepared(tiny_recipe(finetune_config_path=str(config)))
    config.write_text(json.dumps({"finetune_chat_template": "{% if %}"}))
    with pytest.raises(FineryError, match=r"finetune_chat_template of .*config\.json"):
        prepared(tiny_recipe(finetune_config_path=str(config)))


def test_a_model_without_a_template_can_be_given_one(
    tiny_recipe: MakeRecipe, tiny_llama: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    with pytest.raises(FineryError, match="no chat template"):
        prepared(tiny_recipe(model=str(model)))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"finetune_chat_template": template}))
    ready = prepared(tiny_recipe(model=str(model), finetune_config_path=str(config)))
    assert ready.renderer.template == template


def test_faulty_data_is_refused_before_a_model_is_looked_for(
    tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text("{broken\n")
    with pytest.raises(InputError, match="broken JSON"):
        prepared(tiny_recipe(model="nobody/has-this-model"))


def test_the_configuration_packaged_with_a_model_is_used_and_said(
    tiny_recipe: MakeRecipe, tiny_llama: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    (model / "finetune_config.json").write_text('{"lora_target_modules": ["o_proj"]}')
    ready = prepared(tiny_recipe(model=str(model)))
    assert ready.job.recipe.lora_target_modules == "o_proj"
    assert ready.resolved.origins["lora_target_modules"].startswith("finetune_config.json:")
    assert any("lora_target_modules is 'o_proj'" in note for note in ready.notes)


def test_the_same_start_tokenises_nothing_twice(
    tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finery.chat import encode

    first = prepared(tiny_recipe())

    def never(*_: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(encode, "_encode", never)
    assert prepared(tiny_recipe()).job == first.job


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"learning_rate": 0.5}, "learning_rate"),
        ({"max_seq_length": 256}, "max_seq_length"),
        ({"lora_r": 2}, "lora_r"),
    ],
)
def test_what_decides_the_weights_is_the_identity(
    tiny_recipe: MakeRecipe, changes: dict[str, object], key: str
) -> None:
    one, two = prepared(tiny_recipe()).job.identity, prepared(tiny_recipe(**changes)).job.identity
    assert key in {name for name in one if one[name] != two[name]}


def test_other_validation_rows_are_another_run(
    tiny_recipe: MakeRecipe, write_chats: WriteChats
) -> None:
    files = [write_chats(f"v{seed}.jsonl", 4, seed) for seed in (7, 8)]
    jobs = [prepared(tiny_recipe(validation_file_path=str(file))).job for file in files]
    one, two = (job.identity for job in jobs)
    assert [key for key in one if one[key] != two[key]] == ["validation_data"]
