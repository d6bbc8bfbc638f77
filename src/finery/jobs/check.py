"""Whether a specification can be carried out: names, and what hangs on what."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter

from finery.errors import Fault, InputError, did_you_mean
from finery.jobs.job import NAME
from finery.jobs.spec import BUILT_IN, JobSpec, StepOutput, StepSpec

TYPES = ("pipeline", "command", "finetuning")
_NAME_RULE = "letters, digits, dots, dashes and underscores, a letter or digit first, at most 255"
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_OUTPUT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_LONGEST = 255  # of what a column holds


def check_spec(spec: JobSpec) -> None:
    """Raise InputError with every fault."""
    faults = [*_names(spec), *_bindings(spec)]
    for step in spec.steps:
        faults += _step(step)
    if not faults:
        faults += _circles(spec)
    if faults:
        raise InputError(faults, subject=f"job {spec.name}")


def _names(spec: JobSpec) -> list[Fault]:
    faults = []
    if not NAME.fullmatch(spec.name):
        faults.append(Fault("name", repr(spec.name), _NAME_RULE))
    if spec.type not in TYPES:
        faults.append(Fault("type", repr(spec.type), f"one of {', '.join(TYPES)}"))
    for word in ("experiment", "display_name"):
        if len(getattr(spec, word)) > _LONGEST:
            length = f"{len(getattr(spec, word))} characters"
            faults.append(Fault(word, length, f"at most {_LONGEST}"))
    paths = [step.path for step in spec.steps]
    if spec.type == "command":
        if paths != [""]:
            faults.append(Fault("steps", repr(paths), "one step, whose path is empty"))
        return faults
    if not paths:
        faults.append(Fault("steps", "none", "at least one"))
    for path in paths:
        if not _PATH.fullmatch(path) or len(path) > _LONGEST:
            faults.append(Fault("steps", repr(path), f"a path of names: {_NAME_RULE}"))
        if paths.count(path) > 1:
            faults.append(Fault(f"steps.{path}", "the same path twice", "a path of its own"))
    return faults


def _step(step: StepSpec) -> list[Fault]:
    where = step.path or "job"
    faults = []
    if bool(step.entry) == bool(step.command):
        found = "both" if step.entry else "neither"
        faults.append(Fault(where, found, "either a built-in entry or a command"))
    if step.entry and not step.entry.startswith(BUILT_IN):
        faults.append(Fault(f"{where}.entry", repr(step.entry), f"{BUILT_IN}NAME"))
    faults += [
        Fault(f"{where}.outputs", repr(name), _NAME_RULE)
        for name in step.outputs
        if not _OUTPUT.fullmatch(name)
    ]
    return faults


def _bindings(spec: JobSpec) -> list[Fault]:
    """Outputs of steps that are spoken of, and are not there."""
    steps = {step.path: step for step in spec.steps}
    uses = [(f"outputs.{name}", binding) for name, binding in spec.outputs.items()]
    for step in spec.steps:
        uses += [(f"{step.path}.inputs.{name}", b) for name, b in step.inputs.items()]
    faults = [
        Fault(f"outputs.{name}", repr(name), _NAME_RULE)
        for name in spec.outputs
        if not _OUTPUT.fullmatch(name)
    ]
    for where, binding in uses:
        if not isinstance(binding, StepOutput):
            continue
        if binding.step not in steps:
            remedy = did_you_mean(binding.step, steps)
            faults.append(Fault(where, f"step {binding.step!r}", "a step of this job", remedy))
        elif binding.output not in (outputs := steps[binding.step].outputs):
            remedy = did_you_mean(binding.output, outputs)
            expected = f"an output of step {binding.step}"
            faults.append(Fault(where, repr(binding.output), expected, remedy))
    return faults


def _circles(spec: JobSpec) -> list[Fault]:
    try:
        TopologicalSorter({step.path: step.reads for step in spec.steps}).prepare()
    except CycleError as error:
        circle = " → ".join(error.args[1])
        return [Fault("steps", f"a circle, {circle}", "steps that can be put in an order")]
    return []
