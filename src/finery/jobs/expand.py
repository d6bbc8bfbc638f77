"""From a pipeline with open names to the steps that run: components, bindings, nested pipelines.

`expand` resolves every `${{parent.inputs.x}}` and `${{parent.jobs.a.outputs.b}}`, fills in the
defaults of the components, opens nested pipelines, and checks what each node is given. All that
is wrong comes back in one list; nothing on disk is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from finery.components.spec import check_inputs
from finery.errors import Fault, did_you_mean
from finery.jobs.bindings import Bindings, Pipeline
from finery.jobs.declared import (
    Component,
    Lookup,
    compute_name,
    count_of,
    defaults,
    flat_inputs,
    render_optional,
    seconds_of,
    unknown_names,
)
from finery.jobs.ignored import environment_of, ignored, notes
from finery.jobs.nodes import Node, text_of
from finery.jobs.spec import BUILT_IN, Binding, Output, StepOutput, StepSpec, Value

MOST_NODES = 10_000  # of a pipeline with all those inside it


@dataclass(frozen=True)
class Expanded:
    """The steps in an order in which they can run, and which step each output comes from."""

    steps: tuple[StepSpec, ...]
    outputs: Mapping[str, StepOutput]
    faults: tuple[Fault, ...]


def expand(pipeline: Pipeline, lookup: Lookup, *, check: bool = True) -> Expanded:
    """Open a pipeline; the faults are those of all its nodes at once.

    Without `check` the values of inputs are not checked: they were found wrong before.
    """
    work = _Expansion(lookup)
    work.open(pipeline, check=check)
    if work.visited > MOST_NODES:
        work.faults.append(Fault("jobs", "too many nodes", f"at most {MOST_NODES}"))
    outputs = {}
    for name in pipeline.outputs:
        source = work.names.source(pipeline, name, f"outputs.{name}")
        if source is not None:
            outputs[name] = source
    ordered = work.ordered()
    unique = {(fault.where, fault.found): fault for fault in work.faults}
    return Expanded(ordered, outputs, tuple(unique.values()))


class _Expansion:
    """The walk through a pipeline and what it has found so far."""

    def __init__(self, lookup: Lookup) -> None:
        self.names = Bindings(lookup)
        self.faults = self.names.faults
        self.steps: list[StepSpec] = []
        self.visited = 0

    def open(self, pipeline: Pipeline, *, check: bool) -> None:
        """Turn every node into a step, or into the steps of its own pipeline."""
        for node in pipeline.nodes.values():
            self.visited += 1
            if self.visited > MOST_NODES:
                return  # `expand` says so
            component = self.names.component(pipeline, node)
            if component is not None:
                self.node(pipeline, node, component, check)

    def node(self, pipeline: Pipeline, node: Node, component: Component, check: bool) -> None:
        """One node: its inputs resolved and checked, then its step or its own nodes."""
        place = f"jobs.{pipeline.path}{node.name}"
        inputs = self.names.inputs(pipeline, node, place)
        declared = flat_inputs(component.spec)
        faults = check_inputs(
            {**component.spec, "inputs": declared},
            {name: bound.text for name, bound in inputs.items() if isinstance(bound, Value)},
            [name for name, bound in inputs.items() if not isinstance(bound, Value)],
            f"{place}.inputs",
        )
        if check:  # below a node with faults the same values would be found wrong again
            self.faults += faults
        inputs = {**defaults(declared), **inputs}
        outputs = self.outputs(pipeline, node, component.spec, place)
        if str(component.spec.get("type") or "command") != "pipeline":
            step = self.step(pipeline, node, component, inputs, outputs)
            self.steps.append(step)
            if check and not faults:
                self.faults += unknown_names(step.command, inputs, outputs, f"{place}.command")
            return
        compute = self.compute(pipeline, node, place)
        nested = Pipeline(
            nodes=self.names.nodes_of(component, place),
            inputs=inputs,
            outputs=outputs,
            declared=frozenset(declared),
            compute=compute,
            path=f"{pipeline.path}{node.name}/",
            registry=component.registry,
            within=(*pipeline.within, component.id),
        )
        self.open(nested, check=check and not faults)

    def outputs(
        self, pipeline: Pipeline, node: Node, spec: Mapping[str, Any], place: str
    ) -> dict[str, Output]:
        """What is said of each output that the component has, by the node and around it."""
        declared: Mapping[str, Any] = spec.get("outputs") or {}
        for name in node.outputs:
            if name not in declared:
                remedy = did_you_mean(name, declared)
                expected = "an output of the component"
                self.faults.append(Fault(f"{place}.outputs.{name}", name, expected, remedy))
        outputs = {}
        for name, row in declared.items():
            kind = str((row or {}).get("type") or "uri_folder")
            said = node.outputs.get(name)
            if said is None:
                outputs[name] = Output(kind)
                continue
            if said.parent and said.parent not in pipeline.outputs:
                remedy = did_you_mean(said.parent, pipeline.outputs)
                expected = "an output of the pipeline"
                where = f"{place}.outputs.{name}"
                self.faults.append(Fault(where, said.parent, expected, remedy))
            settings = pipeline.outputs.get(said.parent) if said.parent else said.settings
            outputs[name] = replace(settings or said.settings, type=kind)
        return outputs

    def compute(self, pipeline: Pipeline, node: Node, place: str) -> str:
        """The name of the compute that a node runs on; "" for this machine."""
        text = self.names.text(pipeline, node.compute or pipeline.compute, f"{place}.compute")
        return compute_name(text)

    def step(
        self,
        pipeline: Pipeline,
        node: Node,
        component: Component,
        inputs: Mapping[str, Binding],
        outputs: Mapping[str, Output],
    ) -> StepSpec:
        """The process of a node that is no pipeline."""
        place = f"jobs.{pipeline.path}{node.name}"
        spec = component.spec
        command = str(spec.get("command") or "")
        built_in = command.startswith(BUILT_IN)
        if str(spec.get("type") or "command") != "command" or not command:
            expected = "a component of type command or pipeline"
            self.faults.append(Fault(f"{place}.componentId", str(spec.get("type")), expected))
        command = render_optional(command, inputs)
        own = {k: text_of(v) for k, v in (spec.get("environment_variables") or {}).items()}
        variables = {
            key: self.names.text(pipeline, value, f"{place}.environment_variables.{key}")
            for key, value in {**own, **node.environment_variables}.items()
        }
        return StepSpec(
            path=f"{pipeline.path}{node.name}",
            display_name=node.display_name or str(spec.get("display_name") or node.name),
            component=component.id,
            entry=command if built_in else "",
            command="" if built_in else command,
            code=str(spec.get("code") or ""),
            inputs=inputs,
            outputs=outputs,
            environment_variables=variables,
            compute=self.compute(pipeline, node, place),
            instance_count=self.count(pipeline, node.instance_count, spec, "instances", place),
            process_count=self.count(pipeline, node.process_count, spec, "processes", place),
            timeout_seconds=self.timeout(pipeline, node, spec, place),
            # What a step logs is among its artifacts, and is another step's only if it ran.
            deterministic="artifacts" not in outputs
            and text_of(spec.get("is_deterministic", True)).lower() != "false",
            # What a component of a registry was built for is its publisher's matter.
            environment="" if built_in or component.registry else environment_of(spec),
            # Our own steps hand resources through that only a container would have.
            notes=() if built_in else self.notes(pipeline, node, spec),
        )

    def count(
        self, pipeline: Pipeline, said: str, spec: Mapping[str, Any], what: str, place: str
    ) -> int:
        """How many instances, or processes on each, by the node or else by its component."""
        section, key = {
            "instances": ("resources", "instance_count"),
            "processes": ("distribution", "process_count_per_instance"),
        }[what]
        where = f"{place}.{section}.{key}"
        declared = (spec.get(section) or {}).get(key)
        text = said or ("" if declared is None else str(declared))
        return count_of(self.names.text(pipeline, text, where), where, self.faults)

    def timeout(self, pipeline: Pipeline, node: Node, spec: Mapping[str, Any], place: str) -> int:
        """The seconds after which a step is ended, by the node or else by its component."""
        where = f"{place}.limits.timeout"
        text = node.timeout or str((spec.get("limits") or {}).get("timeout") or "")
        return seconds_of(self.names.text(pipeline, text, where), where, self.faults)

    def notes(self, pipeline: Pipeline, node: Node, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """What a node or its component asks for without effect."""
        place = f"jobs.{pipeline.path}{node.name}"
        asked = {**ignored(spec), **node.ignored}
        return notes({k: self.names.text(pipeline, v, f"{place}.{k}") for k, v in asked.items()})

    def ordered(self) -> tuple[StepSpec, ...]:
        """The steps, each after those it reads; what waits for itself becomes a fault."""
        by_path = {step.path: step for step in self.steps}
        graph = {step.path: sorted(step.reads & by_path.keys()) for step in self.steps}
        try:
            return tuple(by_path[path] for path in TopologicalSorter(graph).static_order())
        except CycleError as error:
            circle = " → ".join(reversed(error.args[1]))
            self.faults.append(Fault("jobs", f"a circle: {circle}", "steps that wait for others"))
            return tuple(self.steps)
