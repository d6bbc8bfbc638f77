"""The models that a fine-tuning may begin from: how large, under which licence, do they fit."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finery.errors import FineryError
from finery.model.describe import Description, describe_folder
from finery.studio.models import folder_of
from finery.workspace import assets, machine, references
from finery.workspace.asset import Asset
from finery.workspace.catalogue.shipped import source_of
from finery.workspace.place import Workspace

MOST = 200  # registered models that the form lists; the newest version of each
# Bytes a parameter: 16-bit weights under an adapter, and a little for what is trained; whole
# fine-tuning holds float32 weights, their gradients and two moments of AdamW.
ADAPTER, WHOLE = 2.4, 16.0
_COUNT = re.compile(r"([0-9.]+) (million|billion) parameters")
_PARTS = ("", "model", "data/model")  # where an MLflow folder keeps the model itself


@dataclass(frozen=True)
class Choice:
    """A model of the list."""

    reference: str
    name: str
    version: str
    place: str  # "" is the workspace, else the registry
    parameters: int  # 0 when nobody knows
    licence: str
    context: int
    fits: str  # good: whole; even: as an adapter; bad: neither; "" unknown

    @property
    def adapter_bytes(self) -> float:
        """Memory of the weights when an adapter is trained; an estimate without activations."""
        return self.parameters * ADAPTER

    @property
    def whole_bytes(self) -> float:
        """The same when every weight is trained."""
        return self.parameters * WHOLE


def choices(workspace: Workspace) -> list[Choice]:
    """Registered models first, the newest on top; then those of the first registry by size."""
    return [*_registered(workspace), *sorted(_shipped(workspace), key=lambda c: c.parameters)]


def _registered(workspace: Workspace) -> Iterator[Choice]:
    every = assets.newest(workspace, "model", "")
    for model in sorted(every, key=lambda one: one.created_at, reverse=True)[:MOST]:
        about = _described(workspace, model)
        if about is not None:
            yield _choice(model, about.parameters, about.licence, about.context)


def _shipped(workspace: Workspace) -> Iterator[Choice]:
    registry = workspace.settings.registries[0]
    for model in assets.newest(workspace, "model", registry):
        if source_of(model):
            found = _COUNT.search(model.description)
            scale = {"million": 10**6, "billion": 10**9}
            parameters = int(float(found[1]) * scale[found[2]]) if found else 0
            context = model.tags.get("textContextWindow", "")
            number = int(context) if context.isdigit() else 0
            yield _choice(model, parameters, model.tags.get("license", ""), number)
        elif (about := _described(workspace, model)) is not None:
            yield _choice(model, about.parameters, about.licence, about.context)


def _choice(model: Asset, parameters: int, licence: str, context: int) -> Choice:
    return Choice(
        reference=references.asset_uri(model),
        name=model.name,
        version=model.version,
        place=model.registry,
        parameters=parameters,
        licence=licence,
        context=context,
        fits=fit(parameters, machine.memory_gib() * machine.GIB),
    )


def fit(parameters: int, memory: float) -> str:
    """Whether a model's training fits in `memory` bytes: good, even, bad; "" when unknown."""
    if not parameters:
        return ""
    if parameters * WHOLE <= memory:
        return "good"
    return "even" if parameters * ADAPTER <= memory else "bad"


def _described(workspace: Workspace, model: Asset) -> Description | None:
    """What a model's folder says of itself; None of one that training cannot begin from."""
    if not model.path:
        return None
    try:
        folder = folder_of(workspace, model)
    except FineryError:
        return None
    for part in _PARTS:
        config = folder / part / "config.json"
        if config.is_file():
            return _cached(folder / part, config.stat().st_mtime_ns)
    return None


@functools.lru_cache(maxsize=512)
def _cached(folder: Path, changed: int) -> Description | None:
    """Headers of weights, read once for each state of the folder."""
    try:
        return describe_folder(folder)
    except (FineryError, OSError, ValueError, KeyError, TypeError):  # the look says what is wrong
        return None
