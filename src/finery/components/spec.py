"""The component specs, and whether what a job gives fits the inputs that a spec declares.

The specs are YAML in Azure ML's component schema, in `specs/`. `chat_completion_pipeline` has the
69 inputs of Azure's component of that name, and finery's own after them; its `jobs` are the six
steps. `command: finery:NAME` marks a step that `finery.components.run` runs itself; a reference
such as `azureml:NAME:VERSION` means a spec of this folder.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from finery.components.literals import literal_fault
from finery.errors import Fault, did_you_mean
from finery.recipe.inputs import SETTINGS, Recipe, nearest_input
from finery.recipe.parse import coerce, found
from finery.recipe.rules import cross_faults

PIPELINE = "chat_completion_pipeline"
BUILT_IN = "finery:"  # of a command: the step's entry follows
_SPECS = Path(__file__).parent / "specs"
_LITERALS = ("string", "integer", "number", "boolean")
_MODELS = ("mlflow_model_path", "pytorch_model_path", "huggingface_id")


@functools.cache
def load_specs() -> Mapping[str, dict[str, Any]]:
    """Every component that comes with finery, by name; read once, not to be changed."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    specs = [
        yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
        for path in sorted(_SPECS.glob("*.yaml"))
    ]
    return MappingProxyType({spec["name"]: spec for spec in specs})


def check_inputs(
    spec: Mapping[str, Any], literals: Mapping[str, str], given: Collection[str], where: str
) -> list[Fault]:
    """Everything wrong with the inputs of one use of a component; looks at no disk.

    `literals` are values sent as text, by input; one that holds `${{` is bound to another input
    and is checked as given. `given` names the inputs that are bound to data, a model or another
    step. A fault's place is `where.input`. For the components of finery the ranges are those of
    the recipe, and for the chat-completion pipeline its rules about combinations hold as well.
    """
    inputs: Mapping[str, Any] = spec.get("inputs") or {}
    bound = {*given, *(name for name, text in literals.items() if "${{" in str(text))}
    texts = {name: text for name, text in literals.items() if name not in bound}
    place = f"{where}." if where else ""
    faults = [
        *_name_faults(inputs, [*texts, *bound], place),
        *_kind_faults(inputs, texts, given, place),
        *_missing_faults(inputs, [*texts, *bound], place),
    ]
    faulty = {fault.where.removeprefix(place) for fault in faults}
    ours = spec.get("name") in load_specs()
    for name in [name for name in texts if name in inputs and name not in faulty]:
        fault = literal_fault(inputs[name], texts[name], place + name)
        if fault is None and ours and name in SETTINGS and texts[name] != "":
            value = coerce(SETTINGS[name], texts[name], place + name)
            fault = value if isinstance(value, Fault) else None
        if fault:
            faults.append(fault)
            faulty.add(name)
    if spec.get("name") == PIPELINE:
        faults += _rule_faults(texts, bound, faulty, place)
    return faults


def _name_faults(inputs: Mapping[str, Any], names: Collection[str], place: str) -> list[Fault]:
    return [
        Fault(
            place + name,
            "an unknown input",
            "an input of the component",
            _near(name, inputs),
        )
        for name in sorted(set(names))
        if name not in inputs and not _in_group(name, inputs)
    ]


def _near(name: str, inputs: Mapping[str, Any]) -> str:
    familiar = nearest_input(name)
    return f"Did you mean {familiar}?" if familiar in inputs else did_you_mean(name, inputs)


def _in_group(name: str, inputs: Mapping[str, Any]) -> bool:
    """`group.field` of an input of type group."""
    group, dot, _ = name.partition(".")
    return bool(dot) and (inputs.get(group) or {}).get("type") == "group"


def _kind_faults(
    inputs: Mapping[str, Any], texts: Mapping[str, str], given: Collection[str], place: str
) -> list[Fault]:
    """Text where data is wanted, and data where text is wanted."""
    faults = []
    for name, row in inputs.items():
        kind = row.get("type", "string")
        if name in texts and kind not in (*_LITERALS, "group"):
            remedy = f"Give Input(type={kind!r}, path=...)."
            faults.append(Fault(place + name, found(texts[name]), f"an input of {kind}", remedy))
        elif name in given and kind in _LITERALS:
            faults.append(Fault(place + name, "an asset or a path", f"a plain {kind}"))
    return faults


def _missing_faults(inputs: Mapping[str, Any], names: Collection[str], place: str) -> list[Fault]:
    return [
        Fault(place + name, "nothing", f"a value: {row.get('type', 'string')}, required")
        for name, row in inputs.items()
        if not _is_optional(row)
        and name not in names
        and not any(_in_group(other, {name: row}) for other in names)
    ]


def _is_optional(row: Mapping[str, Any]) -> bool:
    given = row.get("optional", False)
    optional = given if isinstance(given, bool) else str(given).lower() == "true"
    return optional or row.get("default") is not None


def _rule_faults(
    texts: Mapping[str, str], bound: Collection[str], faulty: Collection[str], place: str
) -> list[Fault]:
    """The recipe's rules about combinations, said in the names of the pipeline's inputs."""
    values: dict[str, Any] = {name: name for name in bound if _is_path(name)}
    for name in [name for name in texts if name in SETTINGS and name not in faulty]:
        values[name] = coerce(SETTINGS[name], texts[name])
    unknown = {name for name in bound if name in SETTINGS and not _is_path(name)}
    faults = []
    for fault in cross_faults(Recipe(**values), {*faulty, *unknown}):
        if fault.where == "model":
            remedy = f"Give {', '.join(_MODELS[:-1])} or {_MODELS[-1]}."
            fault = Fault(_MODELS[0], fault.found, fault.expected, remedy)
        faults.append(Fault(place + fault.where, fault.found, fault.expected, fault.remedy))
    return faults


def _is_path(name: str) -> bool:
    return name in SETTINGS and SETTINGS[name].is_path
