"""What a component declares, and what follows from it for one use of the component."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finery.errors import Fault, InputError, did_you_mean
from finery.jobs.nodes import DATA, text_of
from finery.jobs.spec import Binding, Value
from finery.workspace import assets, references
from finery.workspace.place import Workspace

EXPRESSION = re.compile(r"\$\{\{\s*([^}]*?)\s*\}\}")
OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
COMPUTE_ID = re.compile(r".*/(?:computes|virtualclusters)/([^/]+)/?", re.IGNORECASE)
DURATION = re.compile(
    r"(\d+(?:\.\d+)?)|P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?"
)
NAMED = re.compile(r"(inputs|outputs)\.(.+)")
LOCAL = ("local", "serverless")  # names for the machine that finery runs on


@dataclass(frozen=True)
class Component:
    """A component that a node uses: its id, and its spec in Azure ML's component schema."""

    id: str
    spec: Mapping[str, Any]
    registry: str = ""


# A component by its reference; the second argument is the registry of who refers to it. Raises
# FineryError when there is none.
Lookup = Callable[[str, str], Component]


def lookup_in(workspace: Workspace) -> Lookup:
    """Components of the workspace and its registries.

    A short reference (`azureml:NAME:VERSION`) in a component of a registry means that registry.
    """

    def lookup(reference: str, registry: str) -> Component:
        found = references.parse(reference, "componentId")
        if not isinstance(found, references.AssetVersion) or found.kind not in ("", "component"):
            raise InputError([Fault("componentId", reference, "the id of a component")])
        place = found.registry or ("" if found.kind else registry)
        asset = assets.get(workspace, "component", place, found.name, found.version)
        return Component(references.asset_uri(asset), asset.spec["componentSpec"], asset.registry)

    return lookup


def flat_inputs(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The inputs a component declares; those of a group as `group.name`."""
    flat: dict[str, Mapping[str, Any]] = {}
    for name, row in (spec.get("inputs") or {}).items():
        row = row or {}
        if row.get("type") == "group":
            flat |= {
                f"{name}.{inner}": value
                for inner, value in flat_inputs({"inputs": row.get("values") or {}}).items()
            }
        else:
            flat[name] = row
    return flat


def defaults(declared: Mapping[str, Mapping[str, Any]]) -> dict[str, Value]:
    """The values of the inputs that have a default."""
    return {
        name: Value(text_of(row["default"]))
        for name, row in declared.items()
        if row.get("default") is not None and row.get("type", "string") not in DATA
    }


def render_optional(command: str, inputs: Mapping[str, Binding]) -> str:
    """A command with each `$[[…]]` kept when all inputs in it are given, and else left out."""

    def kept(match: re.Match[str]) -> str:
        names = [words.partition("inputs.")[2] for words in EXPRESSION.findall(match[1])]
        return match[1] if all(name in inputs for name in names if name) else ""

    return OPTIONAL.sub(kept, command)


def unknown_names(
    command: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], where: str
) -> list[Fault]:
    """A fault for each ${{inputs.x}} or ${{outputs.y}} of a command that has no value."""
    known = {"inputs": inputs, "outputs": outputs}
    faults = []
    for expression in EXPRESSION.findall(command):
        named = NAMED.fullmatch(expression)
        if named and named[2] not in known[named[1]]:
            remedy = did_you_mean(named[2], known[named[1]]) or "Put what is optional in $[[ ]]."
            expected = f"one of the {named[1]} that are given"
            faults.append(Fault(where, f"${{{{{expression}}}}}", expected, remedy))
    return faults


def seconds_of(text: str, where: str, faults: list[Fault]) -> int:
    """A time limit in whole seconds: `PT1H30M`, or a number of seconds; "" is none (0)."""
    if not text:
        return 0
    found = DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        faults.append(Fault(where, repr(text), "a duration such as PT1H30M, or seconds"))
        return 0
    plain, *parts = (float(group or 0) for group in found.groups())
    units = (86400, 3600, 60, 1)
    return math.ceil(plain + sum(n * unit for n, unit in zip(parts, units, strict=True)))


def compute_name(text: str) -> str:
    """The name in a compute's id or reference; "" for this machine."""
    found = COMPUTE_ID.fullmatch(text)
    name = found[1] if found else text.removeprefix("azureml:")
    return "" if name.lower() in LOCAL else name


def count_of(text: str, where: str, faults: list[Fault]) -> int:
    """A number of things, at least one; "" is one."""
    if not text:
        return 1
    whole = text.removesuffix(".0")
    if not (whole.isascii() and whole.isdigit()) or int(whole) < 1:
        faults.append(Fault(where, repr(text), "a whole number of at least 1"))
        return 1
    return int(whole)
