"""What a step runs: a built-in entry, or somebody's command in their own words."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery.errors import Fault, InputError
from finery.files import TEMPORARY, write_atomic, write_json
from finery.jobs.job import Job
from finery.jobs.mounts import mounted_inputs
from finery.jobs.shell import UnwritableError, with_values
from finery.jobs.spec import StepSpec
from finery.runners.base import Devices
from finery.workspace.place import Workspace
from finery.workspace.references import resolve_input

STEP = "step.json"
_PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs)\.([A-Za-z0-9_.-]+)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)  # left out when its input is not given


def write_step(folder: Path, job: Job, devices: Devices, size: str) -> None:
    """`step.json`: everything a built-in step needs to know."""
    step = job.step
    gpus = list(devices.gpus)
    kind = {"kind": "cuda", "count": len(gpus), "ids": gpus}
    cpu = {"kind": "cpu", "count": devices.cores, "ids": []}
    asked = {"instances": step.instance_count, "processes": step.process_count, "size": size}
    write_json(
        folder / STEP,
        {
            "job": job.name,
            "root": job.root,
            "step": job.step_path,
            "entry": step.entry,
            "inputs": dict(job.inputs),
            "outputs": {
                name: {"type": output["type"], "path": output["path"]}
                for name, output in job.outputs.items()
            },
            "devices": kind if gpus else cpu,
            "asked": asked,
        },
    )


def begin_log(log: Path, step: StepSpec) -> None:
    """Begin a step's log with what was asked for and has no effect; once, whatever the attempt."""
    if step.notes and not log.exists():
        log.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(log, "".join(f"Note: {note}\n" for note in step.notes))


def end_log(log: Path, line: str) -> None:
    """Add to a step's log what its process did not say; once, whatever is done again."""
    if not log.exists() or line not in log.read_text(encoding="utf-8", errors="replace")[-2000:]:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(line)


def argv_of(job: Job, folder: Path) -> tuple[str, ...]:
    """The command line; raises InputError for a placeholder without a value.

    What a command reads is put into the folder of its attempt first (`jobs.mounts`).
    """
    step = job.step
    if step.entry:
        return (sys.executable, "-P", "-m", "finery.components.run", str(folder))
    shell = ("bash", "-c", filled(step, mounted_inputs(job, folder), job.outputs))
    processes = max(step.process_count, 1) * max(step.instance_count, 1)
    if processes == 1:
        return shell
    launch = ("-m", "torch.distributed.run", "--standalone", "--no-python")
    return (sys.executable, *launch, f"--nproc-per-node={processes}", *shell)


def filled(step: StepSpec, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """The command with values and paths in the place of `${{inputs.x}}` and `${{outputs.y}}`.

    Each arrives as one word, whatever is in it, with quotes around it in the command or without.
    """
    faults: list[Fault] = []
    where = f"{step.path or 'job'}.command"

    def value(match: re.Match[str]) -> str:
        kind, name = match.groups()
        found = (inputs if kind == "inputs" else outputs).get(name)
        if found is None:
            expected = f"one of the {kind} of the step: {', '.join(step.inputs) or 'none'}"
            faults.append(Fault(where, match.group(), expected))
            return ""
        return str(found.get("value") or found.get("path") or found.get("source") or "")

    def optional(match: re.Match[str]) -> str:
        names = [name for kind, name in _PLACEHOLDER.findall(match[1]) if kind == "inputs"]
        return match[1] if all(name in inputs for name in names) else ""

    text = step.command
    try:
        text = with_values(_OPTIONAL.sub(optional, text), _PLACEHOLDER, value)
    except UnwritableError as error:
        faults.append(Fault(where, "a value of other letters", "a plain value", str(error)))
    if faults:
        raise InputError(faults, subject="command")
    return text


def working_folder(workspace: Workspace, step: StepSpec, folder: Path) -> Path:
    """The folder a command runs in: a copy of its code of the attempt's own."""
    place = folder / "code"
    if place.exists():
        return place
    if not step.code:
        place.mkdir(parents=True)
        return place
    source = resolve_input(workspace, step.code, where=f"{step.path or 'job'}.code").path
    temporary = folder / f"{TEMPORARY}code"
    shutil.rmtree(temporary, ignore_errors=True)
    if source is not None and source.is_dir():
        shutil.copytree(source, temporary)
    else:
        temporary.mkdir(parents=True)
        if source is not None:
            shutil.copy2(source, temporary)
    temporary.rename(place)
    return place


def keep_outputs(place: Path, artifacts: Path) -> None:
    """Make `./outputs` of a command a folder among the artifacts of its job, as in Azure ML."""
    kept, link = artifacts / "outputs", place / "outputs"
    kept.mkdir(parents=True, exist_ok=True)
    if not link.exists():  # the code may bring a folder of that name
        link.symlink_to(kept, target_is_directory=True)


def code_hash(workspace: Workspace, step: StepSpec) -> str:
    """The hash of the code that a command runs with; "" when it has none."""
    where = f"{step.path or 'job'}.code"
    return resolve_input(workspace, step.code, where=where).content_hash if step.code else ""
