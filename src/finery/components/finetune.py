"""Step chat_completion_finetune: train, keep the best weights, publish the tuned model.

The output folder is the tuned model as a plain Hugging Face folder (a PEFT adapter when
`merge_lora_weights` is false), its `manifest.json` written last, and `training/` in it is the
run: checkpoints, adapter, metrics. A step that was killed goes on in the same output folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from finery.chat.golden import GOLDEN_FILE
from finery.components.handover import TRAINING
from finery.components.log import plan_sentence, report, say
from finery.components.prepared import prepare_training, save_prepared
from finery.components.step import Step
from finery.files import MANIFEST, read_json, write_json
from finery.model.folder import assemble
from finery.training.fitting import fitting, measured
from finery.training.launch import only_run_in, run_training
from finery.training.prepare import Prepared
from finery.training.results import CERTIFICATE, merge_run


def run(step: Step) -> None:
    """Train, merge and publish, whatever of it is not there yet."""
    output = step.output("pytorch_model_folder")
    run = output / TRAINING
    with only_run_in(run) as lock:
        if (output / MANIFEST).is_file():
            say("finished already; nothing was run")
            return
        prepared = prepare_training(step, run)
        if not (run / "training.json").is_file():
            prepared = fitting(measured(prepared, report), report)
        say(devices_sentence(step, prepared))
        for note in prepared.notes:
            say(note)
        say(plan_sentence(prepared.plan.to_dict()))
        save_prepared(prepared)
        if not (run / "training.json").is_file():
            run_training(prepared.job, report, lock)
        if (run / "adapter").is_dir() and not (run / "adapter" / GOLDEN_FILE).is_file():
            prepared.renderer.save(run / "adapter")
        proved = not prepared.recipe.apply_lora or (run / CERTIFICATE).is_file()
        if not (proved and (run / "model" / MANIFEST).is_file()):
            merge_run(prepared, report)
        apart = prepared.recipe.apply_lora and not prepared.recipe.merge_lora_weights
        publish(run, output, "adapter" if apart else "model")


def devices_sentence(step: Step, prepared: Prepared) -> str:
    """The size and devices asked for, and the devices used; a note says what follows from it."""
    asked, used = step.processes * step.instances, prepared.job.processes
    nodes = f" ({step.processes} on each of {step.instances} nodes)" if step.instances > 1 else ""
    size = f", compute size {step.size}" if step.size else ""
    return (
        f"devices: {asked} asked for{nodes}{size}; {used} process{'es' if used > 1 else ''} "
        f"on {prepared.job.device.upper()}, global batch {prepared.plan.global_batch}"
    )


def publish(run: Path, output: Path, name: str) -> None:
    """Put the folder `name` of a run where the step's output is, its manifest last.

    Weights are links, so a model takes its room once. The merged model stays in the run when an
    adapter is published: the MLflow model is made of it.
    """
    source = run / name
    if not (source / MANIFEST).is_file():
        raise FileNotFoundError(source / MANIFEST)
    files = {path.name: path for path in source.iterdir() if path.is_file()}
    del files[MANIFEST]
    for leftover in output.iterdir():
        if leftover.is_file():
            leftover.unlink()
    assemble(files, output)
    write_json(output / MANIFEST, read_json(source / MANIFEST))
    if name == "model":
        shutil.rmtree(source)
