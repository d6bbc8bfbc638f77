"""A prepared run with a plan that was measured, and settings that fit into this machine.

Where the recipe does not fit it is refused, with what would fit; `auto: true` takes that, keeping
the global batch, and a later start of the same run keeps what the first one took.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finery.chat.rows import load_rows
from finery.errors import Fault, InputError
from finery.files import read_json
from finery.planning.fit import Choice, choices, fits, need
from finery.planning.plan import Plan, known_shape
from finery.training.calibrate import calibrated, work_of
from finery.training.devices import Devices
from finery.training.events import Report
from finery.training.job import TrainJob
from finery.training.out_of_memory import as_small
from finery.training.output import WORK
from finery.training.prepare import Prepared, make_plan

_GIB = 1024**3


def as_before(prepared: Prepared) -> Prepared:
    """With what an earlier start of the same run took to fit, and its plan once it has trained."""
    run = prepared.job.run
    path = run / "plan.json"
    if prepared.recipe.overwrite_output or not path.is_file():
        return prepared
    known = read_json(path)
    fitted = known.get("fitted")
    if prepared.recipe.auto and fitted and any((run / name).exists() for name in WORK):
        prepared = taking(prepared, _choice(fitted), fitted)
    job = as_small(prepared.job)
    if job != prepared.job:
        plan = replace(_plan_again(job, prepared.plan), fitted=prepared.plan.fitted)
        prepared = replace(prepared, job=job, plan=plan)
    if (run / "training.json").is_file():
        plan = Plan(**{**known, "notes": tuple(known["notes"])})
        prepared = replace(prepared, plan=plan)
    return prepared


def measured(prepared: Prepared, report: Report, *, always: bool = False) -> Prepared:
    """The run with its plan's time and memory measured, as far as that is worth its time."""
    plan = calibrated(prepared.job, prepared.plan, report, always=always)
    return replace(prepared, plan=plan)


def fitting(prepared: Prepared, report: Report, *, always: bool = False) -> Prepared:
    """The run as it fits: as it is, or with `auto` as proposed; raises InputError where not."""
    first = prepared
    while not fits(prepared.plan):
        choice = proposal(prepared)
        if choice is None or not prepared.recipe.auto:
            raise InputError([refusal(first, None if first.recipe.auto else choice)])
        words = choice.sentence(prepared.plan, prepared.recipe)
        report({"event": "note", "text": f"{does_not_fit(prepared.plan)}; auto takes {words}"})
        prepared = measured(taking(prepared, choice, choice.settings), report, always=always)
    return prepared


def proposal(prepared: Prepared) -> Choice | None:
    """The cheapest change that is expected to fit; None when none is."""
    job, plan = prepared.job, prepared.plan
    tokens = work_of(job).largest.tokens
    shape = known_shape(job.model_folder, job.model_sha256, job.recipe)
    return next(choices(plan, job.recipe, shape, tokens), None)


def refusal(prepared: Prepared, choice: Choice | None) -> Fault:
    """Why a run cannot start, and what to set."""
    if choice is None:
        remedy = "Lower max_seq_length, use quantization: nf4 on a GPU, or take a smaller model."
    else:
        words = choice.sentence(prepared.plan, prepared.recipe)
        remedy = f"Set {words} (auto: true, or --auto, does so by itself)."
    found = does_not_fit(prepared.plan)
    return Fault("memory", found, "a run that fits", remedy)


def does_not_fit(plan: Plan) -> str:
    """A plan's need beside what there is."""
    where = "GPU" if plan.device == "cuda" else "machine"
    return (
        f"{need(plan) / _GIB:,.1f} GiB needed with micro-batch {plan.micro_batch}, and this "
        f"{where} has {plan.available_bytes / _GIB:,.1f} GiB"
    )


def taking(prepared: Prepared, choice: Choice, settings: dict[str, Any]) -> Prepared:
    """The run with a choice's settings and the same global batch."""
    job = prepared.job
    changes = {
        "gradient_checkpointing": choice.gradient_checkpointing,
        "precision": choice.precision,
    }
    recipe = replace(prepared.recipe, **changes)
    job = replace(
        job,
        recipe=recipe,
        rows_at_once=choice.micro_batch,
        accumulation=job.accumulation * job.micro_batch // choice.micro_batch,
    )
    changed = {k: "auto" for k, v in changes.items() if v != getattr(prepared.recipe, k)}
    return replace(
        prepared,
        recipe=recipe,
        origins={**prepared.origins, **changed},
        job=job,
        plan=replace(_plan_again(job, prepared.plan), fitted=settings),
    )


def _plan_again(job: TrainJob, plan: Plan) -> Plan:
    devices = Devices(plan.device, plan.processes, job.accumulation)
    again = make_plan(job, devices, load_rows(job.train_rows), plan.notes)
    return replace(again, resident_bytes=plan.resident_bytes)


def _choice(settings: dict[str, Any]) -> Choice:
    return Choice(
        settings["per_device_train_batch_size"],
        settings["gradient_checkpointing"],
        settings["precision"],
    )
