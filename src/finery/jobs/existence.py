"""What a job names and what is not there: data, models, code, computes. All of it in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from finery.errors import Fault, FineryError, InputError, os_reason
from finery.jobs import spec
from finery.jobs.bind import output_path_in, output_places
from finery.jobs.registration import registered_kind
from finery.jobs.spec import JobSpec, StepSpec
from finery.workspace import assets, computes, references
from finery.workspace.asset import Asset, check_asset
from finery.workspace.place import Workspace

_Seen = set[tuple[str, str]]  # what was looked at: a kind and a reference


def missing(workspace: Workspace, job: JobSpec) -> list[Fault]:
    """A fault for every file, model, code snapshot and compute of `job` that is not there, and
    for every place outside a datastore that an output should go to.

    Each is named once, at the place nearest to what the person wrote.
    """
    seen: _Seen = set()
    made = _made_here(job)
    faults = [
        fault
        for where, asset in _assets(job)
        if not _is_within(asset.uri, made)
        for fault in _unreadable(workspace, asset, where, seen)
    ]
    for step in job.steps:
        if step.code:
            code = spec.Asset(step.code, "code")
            faults += _unreadable(workspace, code, f"{_place(step)}code", seen)
        faults += _unknown_compute(workspace, step.compute, f"{_place(step)}compute", seen)
        faults += _unknown_environment(workspace, step, seen)
        faults += _misplaced_outputs(workspace, step)
        faults += _unregistrable(workspace, step)
    # Steps may all have computes of their own: the job's is a mistake all the same.
    return [*faults, *_unknown_compute(workspace, job.compute, "compute", seen)]


def _assets(job: JobSpec) -> Iterator[tuple[str, spec.Asset]]:
    for name, bound in job.inputs.items():
        if isinstance(bound, spec.Asset):
            yield f"inputs.{name}", bound
    for step in job.steps:
        for name, bound in step.inputs.items():
            if isinstance(bound, spec.Asset):
                yield f"{_place(step)}inputs.{name}", bound


def _made_here(job: JobSpec) -> tuple[str, ...]:
    """The places that steps of the job write to by name, and others may read from by name."""
    uris = (output.uri for step in job.steps for output in step.outputs.values())
    return tuple(uri.rstrip("/") + "/" for uri in uris if uri and "${{" not in uri)


def _is_within(uri: str, places: tuple[str, ...]) -> bool:
    """Whether a reference is, or lies below, one of the places; whatever its long form."""
    if not places:
        return False
    try:
        spelled = references.canonical(uri).rstrip("/") + "/"
        return spelled.startswith(tuple(references.canonical(place) for place in places))
    except InputError:
        return False  # said where it is resolved


def _unreadable(workspace: Workspace, asset: spec.Asset, where: str, seen: _Seen) -> list[Fault]:
    if (asset.type, asset.uri) in seen:
        return []
    seen.add((asset.type, asset.uri))
    places = output_path_in(workspace)
    try:
        references.resolve_input(workspace, asset.uri, asset.type, job_outputs=places, where=where)
    except InputError as error:
        return list(error.faults)
    except FineryError as error:
        remedy = str(error).removeprefix(f"{where}: ")
        return [Fault(where, asset.uri, f"{asset.type} that is there", remedy)]
    except OSError as error:
        return [Fault(where, asset.uri, "files that can be read", f"It is {os_reason(error)}.")]
    return []


def _unknown_compute(workspace: Workspace, name: str, where: str, seen: _Seen) -> list[Fault]:
    if not name or ("compute", name) in seen:
        return []
    seen.add(("compute", name))
    try:
        computes.size_of(workspace, name)
    except FineryError as error:
        return [Fault(where, repr(name), "a compute that is there", str(error))]
    return []


_CURATED = "AzureML-"  # how Azure's own environments in a workspace begin


def _unknown_environment(workspace: Workspace, step: StepSpec, seen: _Seen) -> list[Fault]:
    """Commands run in finery's own environment; a name that means nothing is a mistake still.

    The curated environments of Azure's registries come and go, and are theirs to name.
    """
    name = step.environment
    if not name or ("environment", name) in seen:
        return []
    seen.add(("environment", name))
    where = f"{_place(step)}environment"
    try:
        found = references.parse(name, where)
        if isinstance(found, references.AssetVersion) and found.kind in ("", "environment"):
            if found.registry or found.name.startswith(_CURATED):
                return []
            assets.get(workspace, "environment", found.registry, found.name, found.version)
            return []
        problem = ""
    except FineryError as error:
        problem = str(error)
    return [Fault(where, name, "an environment that is there", problem)]


def _misplaced_outputs(workspace: Workspace, step: StepSpec) -> list[Fault]:
    faults = []
    for name, output in step.outputs.items():
        where = f"{_place(step)}outputs.{name}"
        try:
            output_places(workspace, step.name or "job", {name: output})
        except InputError as error:
            faults += [replace(fault, where=where) for fault in error.faults]
        except FineryError as error:
            faults.append(Fault(where, repr(output.uri), "a place in a datastore", str(error)))
    return faults


def _unregistrable(workspace: Workspace, step: StepSpec) -> list[Fault]:
    """Outputs that are to be registered under what is no name, or under a version that is taken:
    better said now than after the training.
    """
    faults = []
    for name, output in step.outputs.items():
        if not output.name:
            continue
        where, kind = f"{_place(step)}outputs.{name}", registered_kind(output)
        wanted = Asset(kind, "", output.name, output.version or "1")
        try:
            check_asset(wanted)
        except InputError as error:
            faults += [replace(fault, where=f"{where}, {fault.where}") for fault in error.faults]
            continue
        if output.version and assets.find(workspace, kind, "", output.name, output.version):
            remedy = "Leave the version out to get the next one."
            faults.append(Fault(where, f"the {wanted.words}", "a version that is free", remedy))
    return faults


def _place(step: StepSpec) -> str:
    return f"jobs.{step.path}." if step.path else ""
