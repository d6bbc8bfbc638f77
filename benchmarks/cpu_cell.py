"""One measurement of the CPU benchmark, in a process of its own.

    python benchmarks/cpu_cell.py WORK CELL OUT

CELL is `prepare` (token rows and the order of the steps, once a run), `ceiling`, or
ENGINE-LAYOUT-PRECISION such as `finery-packed-weights` or `trl-rows-autocast`. The answer is
the JSON file OUT. Every engine reads the same rows in the same groups, starts from the same
adapter, and is timed between the ends of successive steps, logging included.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from measure import OthersCpu

from finery.planning.ceiling import WorkShape, gemm_ceiling, useful_flops, work_shape

SEED, RATE = 42, 2e-4
LORA_R, LORA_ALPHA = 8, 16
# name: (dtype of the frozen weights, bf16 autocast). PEFT keeps the adapter in float32.
PRECISIONS = {
    "autocast": ("float32", True),
    "weights": ("bfloat16", True),
    "pure": ("bfloat16", False),
    "fp32": ("float32", False),
}


class Steps:
    """Times, losses and the load of the machine, noted at the end of every step."""

    def __init__(self, plan: dict[str, Any], layout: str) -> None:
        self.lengths: list[list[int]] = plan[layout]["lengths"]
        self.loss_tokens: list[int] = plan[layout]["loss_tokens"]
        self.warmup: int = plan["warmup"]
        self.shape = WorkShape(**plan["shape"])
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.others = 0.0

    def end(self, loss: float) -> None:
        """A step is over."""
        self.ends.append(time.perf_counter())
        self.losses.append(loss)
        if len(self.ends) == self.warmup:
            self.meter = OthersCpu()
        elif len(self.ends) == len(self.lengths):
            self.others = self.meter.cores()

    def result(self) -> dict[str, Any]:
        """What the runner needs to know of this measurement."""
        if len(self.ends) != len(self.lengths):
            raise RuntimeError(f"{len(self.ends)} steps ran, {len(self.lengths)} were planned")
        seconds = self.ends[-1] - self.ends[self.warmup - 1]
        measured = range(self.warmup, len(self.lengths))
        tokens = sum(sum(self.lengths[step]) for step in measured)
        work = sum(
            useful_flops(self.shape, sum(self.lengths[s]), self.lengths[s], self.loss_tokens[s])
            for s in measured
        )
        return {
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_s": tokens / seconds,
            "flops_per_s": work / seconds,
            "gflop_per_token": work / tokens / 1e9,
            "losses": self.losses,
            "others_cores": self.others,
            "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        }


def prepare(work: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Token rows of the data, and which of them each step of each layout reads."""
    from finery.chat.read import read_rows
    from finery.chat.render import load_renderer
    from finery.chat.rows import make_rows, save_rows
    from finery.model.sources import resolve_source
    from finery.training.steps import plan_steps

    folder = resolve_source(settings["model"]).path
    renderer = load_renderer(folder)
    limit, wanted = settings["max_length"], settings["rows"]
    file = Path(settings["data"])
    file = file / "train_sft.jsonl" if file.is_dir() else file
    kept = []
    for row in read_rows(file):
        rendered = renderer.render(row.data["messages"])
        ids, trained = rendered.ids[:limit], rendered.trained[:limit]
        if any(trained[1:]):
            kept.append((ids, trained, row.number))
        if len(kept) == wanted:
            break
    rows = make_rows(kept)
    (work / "rows").mkdir()
    save_rows(rows, work / "rows")
    total = settings["warmup"] + settings["steps"]
    plan: dict[str, Any] = {
        "model": str(folder),
        "shape": vars(model_shape(folder, settings["full"])),
        "full": settings["full"],
        "batch": settings["batch"],
        "warmup": settings["warmup"],
        "max_length": limit,
        "pad_id": renderer.pad_id,
        "end_of_turn_id": renderer.end_of_turn_id,
    }
    for layout in ("packed", "rows"):
        steps = plan_steps(
            rows,
            pack_to=limit if layout == "packed" else 0,
            micro_batch=settings["batch"],
            accumulation=1,
            processes=1,
            epochs=1,
            max_steps=total,
            seed=SEED,
        )
        groups = [list(steps.micro_batches(step)[0]) for step in range(total)]
        plan[layout] = {
            "groups": groups,
            "lengths": [[int(rows.lengths[i]) for i in group] for group in groups],
            "loss_tokens": [steps.step_loss_tokens(step) for step in range(total)],
        }
    return plan


def model_shape(folder: Path, full: bool) -> WorkShape:
    """The sizes of the model, with its adapter unless `full`, from its configuration alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from finery.model.lora import Lora, attach_lora

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        if full:
            return work_shape(model, config)
        lora = Lora(LORA_R, LORA_ALPHA, 0.0, "auto", rslora=False, dora=False)
        return work_shape(attach_lora(model, lora), config)


def finery_cell(work: Path, plan: dict[str, Any], layout: str, precision: str) -> dict[str, Any]:
    """Our engine, called as `finery finetune` calls it."""
    from finery.recipe.inputs import Recipe
    from finery.training.job import TrainJob
    from finery.training.loop import train

    steps = Steps(plan, layout)
    recipe = Recipe(
        apply_lora=not plan["full"],
        lora_r=LORA_R,
        lora_alpha=LORA_ALPHA,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        precision={"weights": "bf16", "fp32": "32"}[precision],
        packing=layout == "packed",
        per_device_train_batch_size=plan["batch"],
        max_steps=len(steps.lengths),
        seed=SEED,
        logging_steps=1,
        evaluation_strategy="disable",
        self_tests=False,
        device="cpu",
    )
    job = TrainJob(
        recipe=recipe,
        model_source="benchmark",
        model_folder=Path(plan["model"]),
        model_sha256="benchmark",
        train_rows=work / "rows",
        validation_rows=None,
        train_sha256="benchmark",
        pad_id=plan["pad_id"],
        end_of_turn_id=plan["end_of_turn_id"],
        max_seq_length=plan["max_length"],
        device="cpu",
        processes=1,
        accumulation=1,
        run=work / "run",
    )
    train(job, lambda event: steps.end(event["loss"]) if event["event"] == "log" else None)
    return steps.result()


def trl_cell(work: Path, plan: dict[str, Any], layout: str, precision: str) -> dict[str, Any]:
    """TRL's SFTTrainer over the same groups of rows, in its padding-free form when packed."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from finery.chat.rows import load_rows
    from finery.model.lora import target_modules

    steps = Steps(plan, layout)
    rows = load_rows(work / "rows")
    dtype, autocast = PRECISIONS[precision]
    model = AutoModelForCausalLM.from_pretrained(
        plan["model"], dtype=getattr(torch, dtype), attn_implementation="sdpa"
    )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=LORA_R,
        lora_alpha=LORA_ALPHA,
        lora_dropout=0.0,
        target_modules=target_modules(model, "auto"),
    )
    torch.manual_seed(SEED)
    tuned = model if plan["full"] else get_peft_model(model, config)
    packed = layout == "packed"
    groups = plan[layout]["groups"]
    if not packed:  # TRL makes the batch, and pads it
        groups = [[row] for group in groups for row in group]
    examples = [trl_example(rows, group, packed) for group in groups]

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if "loss" in kwargs["logs"]:
                steps.end(float(kwargs["logs"]["loss"]))

    arguments = SFTConfig(
        output_dir=str(work / "trl"),
        per_device_train_batch_size=1 if packed else plan["batch"],
        max_steps=len(steps.lengths),
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=autocast,
        use_cpu=True,
        gradient_checkpointing=False,
        padding_free=packed,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        seed=SEED,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    SFTTrainer(
        model=tuned,  # pyright: ignore[reportArgumentType]
        args=arguments,
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(plan["model"]),
        callbacks=[Watch()],
    ).train()
    return steps.result()


def trl_example(rows: Any, group: list[int], packed: bool) -> dict[str, list[int]]:
    """A group of rows as TRL's own packing would hand it to its collator."""
    ids: list[int] = []
    labels: list[int] = []
    for index in group:
        row, trained = rows.row_ids(index).tolist(), rows.row_trained(index).tolist()
        ids += row
        # a document's first token follows nothing: TRL's collator masks it too
        labels += [-100, *(t if k else -100 for t, k in zip(row[1:], trained[1:], strict=True))]
    example = {"input_ids": ids, "labels": labels}
    return {**example, "seq_lengths": [len(rows.row_ids(i)) for i in group]} if packed else example


def ceiling(settings: dict[str, Any]) -> dict[str, Any]:
    """The bf16 matrix product rate of this machine, now, and who else is using it."""
    import torch

    meter = OthersCpu()
    flops = gemm_ceiling("cpu", torch.bfloat16, 2048, settings["ceiling_seconds"])
    return {"flops_per_s": flops, "others_cores": meter.cores()}


def main() -> None:
    """Measure what the command line names."""
    work, cell, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(settings["threads"])
    if cell == "prepare":
        result = prepare(work, settings)
    elif cell == "ceiling":
        result = ceiling(settings)
    else:
        engine, layout, precision = cell.split("-")
        plan = json.loads((work / "plan.json").read_text(encoding="utf-8"))
        run = {"finery": finery_cell, "trl": trl_cell}[engine]
        result = run(work, plan, layout, precision)
    out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
