"""The nodes of a pipeline as they are written: in the body of a job, or in a component's spec.

Both spellings are read: that of the wire (`componentId`, `{"value": …, "job_input_type":
"literal"}`) and that of the YAML schema (`component`, a plain value, `{"type": …, "path": …}`).
What is bound to other names (`${{parent.…}}`) stays as text; `jobs.expand` resolves it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finery.errors import Fault
from finery.jobs.ignored import ignored
from finery.jobs.spec import Asset, Output, Value

RUNNABLE = ("command", "pipeline")  # the types of nodes that finery runs
DATA = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model")
# Names become folders; the dots are those of input groups.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
NAME_RULE = "letters, digits, dashes, underscores and dots, a dot or dash not first"
PARENT_OUTPUT = re.compile(r"\$\{\{\s*(?:parent\.)?outputs\.([^}\s]+)\s*\}\}")


@dataclass(frozen=True)
class NodeOutput:
    """What a node says of one of its outputs."""

    settings: Output
    parent: str = ""  # the output of the pipeline around it that it is


@dataclass(frozen=True)
class Node:
    """One node of a pipeline; texts may hold `${{parent.…}}`."""

    name: str
    type: str
    component: str
    display_name: str = ""
    inputs: Mapping[str, Value | Asset] = field(default_factory=dict)
    outputs: Mapping[str, NodeOutput] = field(default_factory=dict)
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    compute: str = ""
    instance_count: str = ""
    process_count: str = ""
    timeout: str = ""
    ignored: Mapping[str, str] = field(default_factory=dict)  # by matter: a note for the log


def read_nodes(jobs: Any, where: str, inside: str = "") -> tuple[dict[str, Node], list[Fault]]:
    """The nodes under `jobs`, by name, and everything that is wrong with how they are written.

    Those of a pipeline component at the node `inside` are named by their whole path.
    """
    if not isinstance(jobs, Mapping):
        return {}, [
            Fault(f"{inside}.jobs" if inside else where, type(jobs).__name__, "a mapping of nodes")
        ]
    nodes, faults = {}, []
    for name, body in jobs.items():
        place = f"{inside}/{name}" if inside else f"{where}.{name}"
        if not NAME.fullmatch(str(name)):
            faults.append(Fault(place, repr(name), f"a name of {NAME_RULE}"))
        elif not isinstance(body, Mapping):
            faults.append(Fault(place, type(body).__name__, "a node"))
        else:
            nodes[name] = _node(name, body, place, faults)
    return nodes, faults


def _node(name: str, body: Mapping[str, Any], place: str, faults: list[Fault]) -> Node:
    kind = str(body.get("type") or "command").lower()
    component = body.get("componentId") or body.get("component")
    if kind not in RUNNABLE:
        expected = f"a node of type {' or '.join(RUNNABLE)}"
        faults.append(Fault(f"{place}.type", repr(kind), expected, "finery runs no other type."))
    elif not isinstance(component, str) or not component:
        faults.append(Fault(f"{place}.componentId", repr(component), "the id of a component"))
    resources = _mapping(body, "resources", place, faults)
    distribution = _mapping(body, "distribution", place, faults)
    variables = _mapping(body, "environment_variables", place, faults)
    limits = _mapping(body, "limits", place, faults)
    return Node(
        name=name,
        type=kind,
        component=component if isinstance(component, str) else "",
        display_name=str(body.get("display_name") or ""),
        inputs=read_inputs(body.get("inputs"), f"{place}.inputs", faults),
        outputs=_outputs(body.get("outputs"), f"{place}.outputs", faults),
        environment_variables={key: text_of(value) for key, value in variables.items()},
        compute=str(body.get("computeId") or body.get("compute") or ""),
        instance_count=_number_text(resources, "instance_count"),
        process_count=_number_text(distribution, "process_count_per_instance"),
        timeout=_number_text(limits, "timeout"),
        ignored=ignored(body),
    )


def read_inputs(body: Any, where: str, faults: list[Fault]) -> dict[str, Value | Asset]:
    """The inputs of a job or a node by name; what is null is not given."""
    inputs = {}
    for name, value in _items(body, where, faults):
        given = _input(value, f"{where}.{name}", faults)
        if given is not None:
            inputs[name] = given
    return inputs


def _input(value: Any, place: str, faults: list[Fault]) -> Value | Asset | None:
    if value is None or isinstance(value, bool | int | float | str):
        return None if value is None else Value(text_of(value))
    if not isinstance(value, Mapping):
        faults.append(Fault(place, type(value).__name__, "a value or a reference to data"))
        return None
    kind = value.get("jobInputType") or value.get("job_input_type") or value.get("type")
    uri = value.get("uri") or value.get("path")
    if kind == "literal" or ("value" in value and not uri):
        literal = value.get("value")
        return None if literal is None else _input(literal, place, faults)
    if not isinstance(uri, str):
        faults.append(Fault(place, "no uri", "the uri of the data, or a value"))
        return None
    if kind not in DATA:
        faults.append(Fault(f"{place}.type", repr(kind), f"one of {', '.join(DATA)}"))
        return None
    return Asset(uri, kind, str(value.get("mode") or ""))


def read_outputs(body: Any, where: str, faults: list[Fault]) -> dict[str, Output]:
    """The outputs of a job: where they go and under which names they are registered."""
    return {name: out.settings for name, out in _outputs(body, where, faults).items()}


def _outputs(body: Any, where: str, faults: list[Fault]) -> dict[str, NodeOutput]:
    return {
        name: _output(value, f"{where}.{name}", faults)
        for name, value in _items(body, where, faults)
    }


def _output(value: Any, place: str, faults: list[Fault]) -> NodeOutput:
    if isinstance(value, Mapping) and isinstance(value.get("value"), str):
        value = value["value"]
    if value is None or value == "":
        return NodeOutput(Output(""))
    if isinstance(value, str):
        bound = PARENT_OUTPUT.fullmatch(value.strip())
        if bound is None:
            expected = "${{parent.outputs.NAME}} or a type, a path or a mode"
            faults.append(Fault(place, repr(value), expected))
            return NodeOutput(Output(""))
        return NodeOutput(Output(""), bound[1])
    if not isinstance(value, Mapping):
        faults.append(Fault(place, type(value).__name__, "what is said of an output"))
        return NodeOutput(Output(""))

    def text(*keys: str) -> str:
        return next((str(value[key]) for key in keys if value.get(key) is not None), "")

    kind = text("jobOutputType", "job_output_type", "type")
    if kind and kind not in DATA:
        faults.append(Fault(f"{place}.type", repr(kind), f"one of {', '.join(DATA)}"))
    names = (text("assetName", "name"), text("assetVersion", "version"))
    return NodeOutput(Output(kind, text("uri", "path"), text("mode"), *names))


def _items(body: Any, where: str, faults: list[Fault]) -> list[tuple[str, Any]]:
    """The entries of a mapping whose keys are names; anything else becomes a fault."""
    if body is None:
        return []
    if not isinstance(body, Mapping):
        faults.append(Fault(where, type(body).__name__, "a mapping of names"))
        return []
    good = []
    for name, value in body.items():
        if isinstance(name, str) and NAME.fullmatch(name):
            good.append((name, value))
        else:
            faults.append(Fault(f"{where}.{name}", repr(name), f"a name of {NAME_RULE}"))
    return good


def _mapping(
    body: Mapping[str, Any], key: str, place: str, faults: list[Fault]
) -> Mapping[str, Any]:
    value = body.get(key)
    if value is None or isinstance(value, Mapping):
        return value or {}
    faults.append(Fault(f"{place}.{key}", type(value).__name__, "a mapping"))
    return {}


def _number_text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return "" if value is None else str(value)


def text_of(value: Any) -> str:
    """A value as the text that it is on the wire."""
    return str(value).lower() if isinstance(value, bool) else str(value)
