"""After training: what the model learned, the merged model with its proof, the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from finery.chat.render import Renderer
from finery.chat.rows import TokenRows, load_rows
from finery.errors import FineryError
from finery.evaluation.answers import answer_rows
from finery.evaluation.compare import Comparison, compare
from finery.evaluation.loss import LEAST_ROWS, RowLosses, heldout_losses
from finery.evaluation.report import sample_rows
from finery.files import json_lines, new_folder, write_atomic, write_json
from finery.model.batch import make_batch
from finery.model.describe import describe_folder
from finery.model.folder import PAPERS
from finery.model.load import (
    DTYPES,
    isolates_documents,
    load_model,
    mixed_precision,
    no_progress_bars,
    stored_dtype,
)
from finery.model.lora import load_adapter, merge
from finery.model.loss import LossModel, has_plain_head
from finery.training.events import Report
from finery.training.prepare import Prepared
from finery.training.trainee import WEIGHTS, trained_weights_folder

CERTIFICATE_ROWS, CERTIFICATE_TOKENS = 8, 256
CERTIFICATE = "certificate.json"
_LEAST_AGREEMENT = 0.9  # rounding to bf16 costs a few tenths of a percent, a wrong scale far more
_WHOLE_IN_FLOAT32 = 1_500_000_000  # parameters up to which the certificate computes in float32


def evaluate_run(prepared: Prepared, report: Report) -> None:
    """Base against tuned on the held-out rows: evaluation.json and samples.jsonl in the run."""
    run = prepared.job.run
    found, samples = measure(prepared, trained_weights_folder(run), report)
    write_atomic(run / "samples.jsonl", json_lines(samples))
    write_json(run / "evaluation.json", found.to_dict())


def measure(
    prepared: Prepared, trained: Path, report: Report
) -> tuple[Comparison, list[dict[str, Any]]]:
    """The comparison of the base with what lies in `trained`, and the answers of both."""
    recipe = prepared.recipe
    causal = load_model(
        prepared.base.path,
        precision=recipe.precision,
        device=prepared.job.device,
        trust_remote_code=recipe.trust_remote_code,
        quantization=recipe.quantization,
    )
    tuned_model, base_turn = with_training(causal, trained)
    questions = prepared.splits.test[: recipe.eval_generations]
    measured = []
    for name in ("base", "tuned"):
        report({"event": "stage", "text": f"evaluating the {name} model"})
        with base_turn(name):
            losses = _losses(prepared, causal, tuned_model)
            answers = answer_rows(
                tuned_model,
                prepared.renderer,
                questions,
                max_new_tokens=recipe.max_new_tokens,
                batch_size=max(recipe.per_device_eval_batch_size, LEAST_ROWS),
            )
        measured.append((losses, answers))
    (base_losses, base_answers), (tuned_losses, tuned_answers) = measured
    found = compare(base_losses, tuned_losses, base_answers, tuned_answers, seed=recipe.seed)
    return found, sample_rows(base_answers, tuned_answers)


def with_training(causal: PreTrainedModel, trained: Path) -> tuple[Any, Any]:
    """The model with what was trained on it, and a context in which it answers as "base".

    With full fine-tuning the base weights are in the way of the tuned ones: the context
    swaps them in for "tuned" and they stay, so "base" has to come first.
    """
    if (trained / WEIGHTS).is_file():

        def swap(name: str) -> Any:
            if name == "tuned":
                load_weights(causal, trained)
            return nullcontext()

        return causal, swap
    tuned = load_adapter(causal, trained)
    return tuned, lambda name: tuned.disable_adapter() if name == "base" else nullcontext()


@torch.no_grad()
def load_weights(model: nn.Module, trained: Path) -> None:
    """Put fully fine-tuned weights into `model`, in its own dtype."""
    saved = load_file(trained / WEIGHTS)
    for name, parameter in model.named_parameters():
        parameter.copy_(saved[name])


def _losses(prepared: Prepared, causal: PreTrainedModel, tuned: nn.Module) -> RowLosses:
    recipe, device = prepared.recipe, prepared.job.device
    precision = mixed_precision(recipe.precision, device)
    return heldout_losses(
        LossModel(tuned, causal, has_plain_head(causal)),
        prepared.test_rows,
        padded=not isolates_documents(causal),
        pad_id=prepared.renderer.pad_id,
        batch_rows=max(recipe.per_device_eval_batch_size, LEAST_ROWS),
        device=device,
        autocast=None if precision == "32" else DTYPES[precision],
    )


def merge_run(prepared: Prepared, report: Report) -> None:
    """The tuned model as plain safetensors in model/, and certificate.json for a merged one.

    Raises FineryError, and saves nothing, when the merged model answers otherwise than base
    plus adapter.
    """
    report({"event": "stage", "text": "merging and saving the model"})
    run, recipe = prepared.job.run, prepared.recipe
    trained = trained_weights_folder(run)
    dtype = stored_dtype(prepared.base.path)
    whole = prepared.plan.parameters <= _WHOLE_IN_FLOAT32
    causal = load_model(
        prepared.base.path,
        precision="32" if whole or dtype == torch.float32 else "bf16",
        device="cpu",
        trust_remote_code=recipe.trust_remote_code,
    )
    if (trained / WEIGHTS).is_file():
        load_weights(causal, trained)
        save_model(causal.to(dtype), prepared)  # pyright: ignore[reportArgumentType]
        return
    # Without held-out rows any others prove the merge as well.
    rows = prepared.test_rows if len(prepared.test_rows) else load_rows(prepared.job.train_rows)
    adapter = load_adapter(causal, trained)
    before = probe_logits(adapter, rows, prepared.renderer)
    # Compare what is published: the merged weights rounded as they are stored.
    rounded: Any = merge(adapter).to(dtype)  # pyright: ignore[reportArgumentType]
    after = probe_logits(rounded.float() if whole else rounded, rows, prepared.renderer)
    proof = certificate(before, after, str(dtype).removeprefix("torch."))
    if not proof["greedy_agreement"] >= _LEAST_AGREEMENT:
        raise FineryError(
            f"The merged model chooses another next token than base plus adapter at "
            f"{100 * (1 - proof['greedy_agreement']):.0f} % of {proof['tokens']} positions, so it "
            "was not saved. Serve the adapter (merge_lora_weights: false) and report this model."
        )
    write_json(run / CERTIFICATE, proof)
    save_model(rounded.to(dtype), prepared, proof)


@torch.inference_mode()
def probe_logits(model: Any, rows: TokenRows, renderer: Renderer) -> list[torch.Tensor]:
    """Logits of `model` on the first tokens of a few held-out rows, one tensor (T, V) a row."""
    shortened = rows.select(range(min(CERTIFICATE_ROWS, len(rows))))
    found = []
    for index in range(len(shortened)):
        batch = make_batch(shortened, [index], pad_id=renderer.pad_id)
        ids = batch.input_ids[:, :CERTIFICATE_TOKENS]
        found.append(model(input_ids=ids, use_cache=False).logits[0].float())
    return found


def certificate(
    adapter: Sequence[torch.Tensor], merged: Sequence[torch.Tensor], dtype: str
) -> dict[str, Any]:
    """How the merged model differs from base plus adapter: logits, and greedy choices."""
    pairs = list(zip(adapter, merged, strict=True))
    agree = sum(int((one.argmax(-1) == two.argmax(-1)).sum()) for one, two in pairs)
    tokens = sum(len(one) for one, _ in pairs)
    return {
        "rows": len(pairs),
        "tokens": tokens,
        "max_logit_difference": max(float((one - two).abs().max()) for one, two in pairs),
        "max_logit": max(float(one.abs().max()) for one, _ in pairs),
        "greedy_agreement": agree / tokens,
        "stored_dtype": dtype,
    }


def save_model(
    model: PreTrainedModel, prepared: Prepared, proof: dict[str, Any] | None = None
) -> None:
    """model/, a folder that plain transformers loads: weights, tokenizer, template, golden ids.

    `proof` is the certificate that a merged model is published with.
    """
    renderer, base = prepared.renderer, prepared.base.path
    with new_folder(prepared.job.run / "model", replace=True) as folder:
        model.config._attn_implementation = "sdpa"  # ours is not known elsewhere
        model.generation_config = generation_config(base, renderer)
        with no_progress_bars():
            model.save_pretrained(folder, safe_serialization=True)
        renderer.save(folder)
        if proof:
            write_json(folder / CERTIFICATE, proof)
        for name in PAPERS - {"README.md"}:
            if (base / name).is_file():
                shutil.copyfile(base / name, folder / name)
        write_atomic(folder / "README.md", model_card(prepared))


def model_card(prepared: Prepared) -> str:
    """The card of the tuned model, with the front matter that model hubs read."""
    source = prepared.recipe.model_source
    licence = describe_folder(prepared.base.path).licence
    return "\n".join(
        [
            "---",
            *([f"license: {licence}"] if licence else []),
            f"base_model: {json.dumps(source)}",
            "tags: [finery]",
            "---",
            "",
            f"Fine-tuned from {source} with finery. `finery_renderer.json` holds the ids this "
            "model was trained with; `certificate.json`, where there is one, says how the merged "
            "weights differ from base plus adapter.",
            "",
        ]
    )


def generation_config(base: Path, renderer: Renderer) -> GenerationConfig:
    """The base's settings, with every token at which an answer ends."""
    has_own = (base / "generation_config.json").is_file()
    config = GenerationConfig.from_pretrained(base) if has_own else GenerationConfig()
    known = config.eos_token_id
    stops = known if isinstance(known, list) else [known] if known is not None else []
    config.eos_token_id = sorted({*stops, *renderer.stop_ids})
    config.pad_token_id = renderer.pad_id
    return config
