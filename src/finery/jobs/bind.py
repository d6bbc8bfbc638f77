"""Where a step reads and writes: its bindings turned into paths."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from finery.errors import Fault, FineryError, InputError
from finery.files import TEMPORARY, files_below, sha256_json
from finery.jobs import rows
from finery.jobs.job import Job, child_name
from finery.jobs.spec import Asset, Binding, Output, StepOutput, Value
from finery.workspace import datastores
from finery.workspace.place import Workspace
from finery.workspace.references import DatastorePath, locate, parse, resolve_input

FILE_TYPES = ("uri_file",)
ARTIFACTS = "artifacts"  # the output that is a step's logs and its ./outputs


def resolved_inputs(workspace: Workspace, job: Job) -> dict[str, dict[str, Any]]:
    """Every input of a step as a value or a path; raises InputError with all that is wrong."""
    found, faults = {}, []
    with workspace.store.read() as connection:
        steps = {step.name: step for step in rows.steps_of(connection, job.root)}
    for name, binding in job.step.inputs.items():
        where = f"{job.step_path or job.name}.inputs.{name}"
        try:
            found[name] = _resolved(workspace, job, steps, binding, where)
        except InputError as error:
            faults += error.faults
        except FineryError as error:
            uri = getattr(binding, "uri", "")
            faults.append(Fault(where, repr(uri), "data that is there", str(error)))
    if faults:
        raise InputError(faults, subject=job.step_path or job.name)
    return found


def _resolved(
    workspace: Workspace, job: Job, steps: Mapping[str, Job], binding: Binding, where: str
) -> dict[str, Any]:
    match binding:
        case Value(text):
            return {"type": "literal", "value": text}
        case Asset(uri, type):
            resolved = resolve_input(
                workspace, uri, type, job_outputs=output_path_in(workspace), where=where
            )
            place = {"path": str(resolved.path)} if resolved.path else {"source": resolved.source}
            identity = {"uri": resolved.uri, "content_hash": resolved.content_hash}
            return {"type": type, **place, **identity}
        case StepOutput(step, output):
            producer = steps[child_name(job.root, step)]
            written = producer.outputs[output]
            # A whole model is not hashed again: what made it says what it is.
            content = sha256_json([identity_of(producer), output])
            return {**written, "content_hash": content}


def identity_of(producer: Job) -> str:
    """What stands for the outputs of a step: equal only where the content is."""
    return producer.reuse_key if producer.step.deterministic else producer.name


def output_path_in(workspace: Workspace) -> Any:
    """A function that says where a job's output lies when it is not the usual place."""

    def path_of(job: str, output: str) -> Path | None:
        with workspace.store.read() as connection:
            row = connection.execute(sa.select(rows.jobs.c.outputs).where(rows.jobs.c.name == job))
            written = (row.scalar() or {}).get(output)
        return Path(written["path"]) if written else None

    return path_of


def output_places(
    workspace: Workspace, job: str, outputs: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    """Where each output will lie. Raises InputError for a place that is not a datastore's."""
    return {
        name: _place(workspace, job, name, output)
        for name, output in outputs.items()
        if isinstance(output, Output)
    }


def _place(workspace: Workspace, job: str, name: str, output: Output) -> dict[str, str]:
    where = f"{job}.outputs.{name}"
    # A file lies in a folder of its output's name, so that both kinds are found the same way.
    tail = f"/{name}" if output.type in FILE_TYPES else ""
    uri = f"azureml://datastores/{datastores.DEFAULT}/paths/azureml/{job}/{name}{tail}"
    if name == ARTIFACTS and output.type not in FILE_TYPES:  # what the step leaves in ./outputs
        uri = f"azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.{job}"
    if output.uri and "${{default_datastore}}" not in output.uri:
        uri = output.uri.replace("${{name}}", job).replace("${{output_name}}", name)
    reference = parse(uri, where)
    if not isinstance(reference, DatastorePath) or not reference.path.strip("/"):
        remedy = "Write azureml://datastores/NAME/paths/FOLDER, or leave it out."
        raise InputError([Fault(where, repr(uri), "a folder of a datastore", remedy)])
    path = locate(workspace, reference, where)
    return {"type": output.type, "uri": uri, "path": str(path)}


def make_room(outputs: Mapping[str, Mapping[str, str]]) -> None:
    """Make the folders that a step writes into."""
    for output in outputs.values():
        path = Path(output["path"])
        (path.parent if output["type"] in FILE_TYPES else path).mkdir(parents=True, exist_ok=True)


def fingerprint(outputs: Mapping[str, Mapping[str, str]]) -> str:
    """What tells whether outputs are still as a step left them: names, sizes and times."""
    seen = []
    for name, output in sorted(outputs.items()):
        root = Path(output["path"])
        for file in [root] if root.is_file() else files_below(root):
            if any(part.startswith(TEMPORARY) for part in file.relative_to(root).parts):
                continue  # what a kill left behind
            stat = file.stat()
            place = "" if file == root else file.relative_to(root).as_posix()
            seen.append([name, place, stat.st_size, stat.st_mtime_ns])
    return sha256_json(seen)


def link_tree(source: Path, target: Path, workspace: Workspace) -> None:
    """Make `target` hold what `source` holds, sharing the bytes; whole or not at all.

    A file that is written anew becomes another one, so the two places do not touch each other.
    """
    if target.exists() or not source.exists():
        return
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    made = workspace.jobs / f"{TEMPORARY}{uuid.uuid4().hex}"
    if source.is_dir():
        unfinished = shutil.ignore_patterns(f"{TEMPORARY}*")
        shutil.copytree(source, made, copy_function=_link, ignore=unfinished)
    else:
        _link(source, made)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(target)
    except FileExistsError:  # another thread of ours, or a run before a crash, was first
        shutil.rmtree(made, ignore_errors=True)


def set_aside(workspace: Workspace, places: Iterable[Path]) -> Path:
    """Take what is to be removed out of its places; the folder that holds it now."""
    trash = workspace.jobs / f"{TEMPORARY}{uuid.uuid4().hex}"
    trash.mkdir(parents=True)
    for number, place in enumerate(places):
        if place.exists():
            shutil.move(place, trash / str(number))
    return trash


def discard_leftovers(workspace: Workspace) -> None:
    """Remove what a server that was killed was linking or removing."""
    for leftover in workspace.jobs.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
