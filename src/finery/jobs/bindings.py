"""What `${{parent.inputs.x}}` and `${{parent.jobs.a.outputs.b}}` stand for inside a pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from finery.errors import Fault, FineryError, did_you_mean
from finery.jobs.declared import EXPRESSION, Component, Lookup
from finery.jobs.nodes import Node, read_nodes
from finery.jobs.spec import Asset, Binding, Output, StepOutput, Value

DEEPEST = 20  # pipelines inside each other; inputs that are the input of another node


@dataclass(frozen=True)
class Pipeline:
    """A pipeline with open names: the body of a job, or a pipeline component in its place."""

    nodes: Mapping[str, Node]
    inputs: Mapping[str, Binding] = field(default_factory=dict)  # those that are given
    outputs: Mapping[str, Output] = field(default_factory=dict)  # what is said of those
    # Inputs that may be named, given or not. None: the body of a job lists no input that is not
    # given, so any name may be one.
    declared: frozenset[str] | None = None
    compute: str = ""  # of nodes that name none
    path: str = ""  # "tune/" of the nodes of a pipeline component at `tune`
    registry: str = ""
    within: tuple[str, ...] = ()  # the ids of the components that it is inside of


class Bindings:
    """The names of a pipeline and of those inside it; what does not fit is kept as faults."""

    def __init__(self, lookup: Lookup) -> None:
        self.faults: list[Fault] = []
        self._lookup = lookup
        self._components: dict[tuple[str, str], Component | None] = {}
        self._nodes: dict[str, dict[str, Node]] = {}
        self._asked: list[tuple[str, str, str]] = []  # inputs of nodes being looked up

    def component(self, pipeline: Pipeline, node: Node) -> Component | None:
        """The component of a node; None, and a fault, when it is not there."""
        key = (node.component, pipeline.registry)
        if not node.component:
            return None  # said when the node was read
        if key not in self._components:
            try:
                self._components[key] = self._lookup(*key)
            except FineryError as error:
                self._components[key] = None
                place = f"jobs.{pipeline.path}{node.name}.componentId"
                expected = "the id of a component that is there"
                self.faults.append(Fault(place, node.component, expected, str(error)))
        component = self._components[key]
        if component is None:
            return None
        place = f"jobs.{pipeline.path}{node.name}.componentId"
        if component.id in pipeline.within:
            self.faults.append(Fault(place, component.id, "a component that is not around it"))
            return None
        if len(pipeline.within) >= DEEPEST:
            self.faults.append(
                Fault(place, "one more pipeline", f"at most {DEEPEST} in each other")
            )
            return None
        return component

    def nodes_of(self, component: Component, place: str) -> dict[str, Node]:
        """The nodes of a pipeline component."""
        if component.id not in self._nodes:
            nodes, faults = read_nodes(component.spec.get("jobs") or {}, "jobs", place)
            self._nodes[component.id] = nodes
            self.faults += faults
        return self._nodes[component.id]

    def inputs(self, pipeline: Pipeline, node: Node, place: str) -> dict[str, Binding]:
        """What a node is given; a binding to an optional input that is not given is left out."""
        bound = {
            name: self.resolve(pipeline, given, f"{place}.inputs.{name}")
            for name, given in node.inputs.items()
        }
        return {name: binding for name, binding in bound.items() if binding is not None}

    def resolve(self, pipeline: Pipeline, given: Value | Asset, where: str) -> Binding | None:
        """What a literal or a reference stands for inside `pipeline`."""
        if isinstance(given, Asset):
            whole = EXPRESSION.fullmatch(given.uri.strip())
            if whole is None:
                return given
            bound = self.named(pipeline, whole[1], where)
            return replace(bound, mode=given.mode) if isinstance(bound, Asset) else bound
        whole = EXPRESSION.fullmatch(given.text.strip())
        if whole is not None:
            return self.named(pipeline, whole[1], where)
        return Value(self.text(pipeline, given.text, where))

    def text(self, pipeline: Pipeline, text: str, where: str) -> str:
        """A text with what its expressions stand for in their place; they must be literals."""

        def literal(match: re.Match[str]) -> str:
            bound = self.named(pipeline, match[1], where)
            if bound is None or isinstance(bound, Value):
                return bound.text if bound else ""
            self.faults.append(Fault(where, match[0], "a literal inside a text"))
            return ""

        return EXPRESSION.sub(literal, text)

    def named(self, pipeline: Pipeline, expression: str, where: str) -> Binding | None:
        """The value of `parent.inputs.x` or `parent.jobs.a.outputs.b`; None when not given."""
        words = expression.removeprefix("parent.").split(".")
        if words[0] == "inputs" and words[1:]:
            name = ".".join(words[1:])
            if pipeline.declared is not None and name not in pipeline.declared:
                remedy = did_you_mean(name, pipeline.declared)
                self.faults.append(Fault(where, expression, "an input of the pipeline", remedy))
            return pipeline.inputs.get(name)
        if words[0] == "jobs" and len(words) > 3 and words[2] in ("inputs", "outputs"):
            name = ".".join(words[3:])
            node = pipeline.nodes.get(words[1])
            if node is None:
                remedy = did_you_mean(words[1], pipeline.nodes)
                self.faults.append(Fault(where, expression, "a node of the pipeline", remedy))
                return None
            if words[2] == "outputs":
                return self.output(pipeline, node, name, where)
            return self.input_of(pipeline, node, name, where)
        expected = "${{parent.inputs.NAME}} or ${{parent.jobs.NODE.outputs.NAME}}"
        self.faults.append(Fault(where, expression, expected))
        return None

    def input_of(self, pipeline: Pipeline, node: Node, name: str, where: str) -> Binding | None:
        """What another node is given."""
        given, asked = node.inputs.get(name), (pipeline.path, node.name, name)
        if asked in self._asked or len(self._asked) >= DEEPEST:
            found = f"{pipeline.path}{node.name}.{name}"
            self.faults.append(Fault(where, found, "a value that ends somewhere"))
            return None
        self._asked.append(asked)
        try:
            return None if given is None else self.resolve(pipeline, given, where)
        finally:
            self._asked.pop()

    def output(self, pipeline: Pipeline, node: Node, name: str, where: str) -> StepOutput | None:
        """The step whose output the output `name` of a node is."""
        component = self.component(pipeline, node)
        if component is None:
            return None
        declared = component.spec.get("outputs") or {}
        if name not in declared:
            remedy = did_you_mean(name, declared)
            expected = f"an output of {pipeline.path}{node.name}"
            self.faults.append(Fault(where, name, expected, remedy))
            return None
        path = f"{pipeline.path}{node.name}"
        if str(component.spec.get("type") or "command") != "pipeline":
            return StepOutput(path, name)
        nodes = self.nodes_of(component, f"jobs.{path}")
        within = (*pipeline.within, component.id)
        inner = Pipeline(nodes, path=f"{path}/", registry=component.registry, within=within)
        return self.source(inner, name, where)

    def source(self, pipeline: Pipeline, name: str, where: str) -> StepOutput | None:
        """The step output that a pipeline's own output is."""
        bound = [
            (node, output)
            for node in pipeline.nodes.values()
            for output, said in node.outputs.items()
            if said.parent == name
        ]
        if len(bound) != 1:
            inside = pipeline.path
            nobody = f"no node of {inside[:-1]}" if inside else "no node"
            names = " and ".join(f"{inside}{node.name}.{output}" for node, output in bound)
            expected = f"one node whose output is ${{{{parent.outputs.{name}}}}}"
            self.faults.append(Fault(where, names or nobody, expected))
            return None
        return self.output(pipeline, *bound[0], where)
