"""A step as a value: what `step.json` of an attempt's folder says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery.errors import Fault, InputError
from finery.files import read_json


@dataclass(frozen=True)
class Input:
    """One input: a literal, a place on this machine, or a model that is still to be fetched."""

    type: str
    value: str = ""  # of a literal
    path: Path | None = None
    source: str = ""  # as `finery.model.sources.resolve_source` takes it
    uri: str = ""  # as the job named it
    content_hash: str = ""

    @property
    def place(self) -> str:
        """What a reader opens: the path, else the source."""
        return str(self.path) if self.path else self.source


@dataclass(frozen=True)
class Devices:
    """What the step may use of this machine."""

    kind: str = "cpu"  # or "cuda"
    count: int = 0  # cores or GPUs; 0 for whatever is there
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One attempt at one step."""

    folder: Path  # of the attempt
    job: str
    root: str  # the pipeline's job, or the job itself
    name: str
    entry: str  # as in the component's command: finery:NAME
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Path]
    devices: Devices
    instances: int  # nodes asked for
    processes: int  # processes asked for on each
    size: str = ""  # of the compute that was asked for

    def folder_of(self, name: str) -> Path:
        """The place of an input that the step cannot do without."""
        found = self.inputs.get(name)
        if found is None or found.path is None:
            what = "nothing" if found is None else f"{found.place or found.value!r}, no path"
            raise InputError([Fault(name, what, "the output of an earlier step")], self.name)
        return found.path

    def output(self, name: str) -> Path:
        """Where an output of the step goes."""
        if name not in self.outputs:
            raise InputError([Fault(name, "no place for this output", "a path")], self.name)
        return self.outputs[name]


def load_step(folder: Path) -> Step:
    """The step whose attempt lies in `folder`."""
    value = read_json(folder / "step.json")
    asked, devices = value.get("asked") or {}, value.get("devices") or {}
    return Step(
        folder=folder,
        job=value.get("job", ""),
        root=value.get("root", "") or value.get("job", ""),
        name=value.get("step", "") or value["entry"],
        entry=value["entry"],
        inputs={name: _input(row) for name, row in (value.get("inputs") or {}).items()},
        outputs={name: Path(row["path"]) for name, row in (value.get("outputs") or {}).items()},
        devices=Devices(
            kind=devices.get("kind") or "cpu",
            count=int(devices.get("count") or 0),
            ids=tuple(str(number) for number in devices.get("ids") or ()),
        ),
        instances=int(asked.get("instances") or 1),
        processes=int(asked.get("processes") or 1),
        size=asked.get("size") or "",
    )


def _input(row: Mapping[str, Any]) -> Input:
    value = row.get("value")
    return Input(
        type=row.get("type", "string"),
        value="" if value is None else str(value),
        path=Path(row["path"]) if row.get("path") else None,
        source=row.get("source") or "",
        uri=row.get("uri") or "",
        content_hash=row.get("content_hash") or "",
    )
