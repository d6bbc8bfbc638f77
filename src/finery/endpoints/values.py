"""What an endpoint, a deployment, a replica and an operation are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

State = Literal["Creating", "Updating", "Deleting", "Succeeded", "Failed"]
AuthMode = Literal["key", "aml_token", "aad_token"]
ENGINES = ("auto", "torch", "openvino", "vllm")
STUB = "stub"  # no model at all: for measuring and testing everything around one


@dataclass(frozen=True)
class Probe:
    """How often a replica is looked at, and how many looks decide; Azure's words and defaults.

    https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-managed-online
    """

    initial_delay: float = 10.0  # seconds from the start of the process to the first look
    period: float = 10.0  # seconds between two looks
    timeout: float = 2.0  # seconds in which it has to answer
    success_threshold: int = 1  # good looks in a row that end a failure
    failure_threshold: int = 30  # bad looks in a row that are one


@dataclass(frozen=True)
class Form:
    """What the replicas of a deployment are made of: another revision needs other replicas."""

    revision: int
    model: str
    engine: str
    environment: Mapping[str, str] = field(repr=False)
    at_once: int
    instance_count: int


@dataclass(frozen=True)
class Endpoint:
    """A name, a way to prove who one is, and shares of traffic."""

    name: str
    auth_mode: AuthMode
    traffic: Mapping[str, int]
    mirror_traffic: Mapping[str, int]
    wire: Mapping[str, Any]
    state: State
    primary_key: str = field(repr=False)
    secondary_key: str = field(repr=False)
    created_at: datetime
    modified_at: datetime


@dataclass(frozen=True)
class Deployment:
    """A model behind an endpoint, and how many replicas of it there should be."""

    endpoint: str
    name: str
    model: str
    environment: Mapping[str, str] = field(repr=False)
    instance_count: int
    at_once: int
    timeout_seconds: float
    liveness_probe: Mapping[str, Any]
    wire: Mapping[str, Any] = field(repr=False)  # it holds the variables too
    state: State
    error: Mapping[str, str] | None
    revision: int
    created_at: datetime
    modified_at: datetime
    engine: str = "auto"
    readiness_probe: Mapping[str, Any] = field(default_factory=dict)
    served: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def form(self) -> Form:
        """The form that is wanted."""
        return Form(
            *(self.revision, self.model, self.engine, self.environment),
            *(self.at_once, self.instance_count),
        )

    @property
    def proven(self) -> Form | None:
        """The form that answered last: it goes on when a newer one cannot be had."""
        return Form(**self.served) if self.served else None


@dataclass(frozen=True)
class Replica:
    """One process of a deployment, or its part of a process that serves several."""

    id: str
    endpoint: str
    deployment: str
    revision: int
    state: Literal["starting", "ready", "unready", "stopping"]  # only `ready` gets requests
    port: int
    key: str = field(repr=False)
    created_at: datetime
    report: Mapping[str, Any] = field(default_factory=dict)  # what it said when it was ready
    host: str = ""  # the replica whose process answers for this one; "" is its own
    adapter: str = ""  # which adapter of that process is meant; "" is the model itself


@dataclass(frozen=True)
class Canary:
    """Traffic that goes over to another deployment by itself, and back when that is worse."""

    id: str
    endpoint: str
    stable: str
    canary: str
    steps: Sequence[int]
    guards: Sequence[str]
    min_requests: int
    step_seconds: float
    state: Literal["Running", "Succeeded", "RolledBack", "Aborted"]
    position: int
    step_since: datetime
    watch: Mapping[str, Any] = field(repr=False)
    history: Sequence[Mapping[str, Any]] = field(repr=False)
    reason: str
    created_at: datetime
    ended_at: datetime | None

    @property
    def shares(self) -> dict[str, int]:
        """The traffic of the step under way."""
        share = self.steps[self.position]
        return {self.stable: 100 - share, self.canary: share}


@dataclass(frozen=True)
class Operation:
    """Something that takes a while, for a client to ask about."""

    id: str
    kind: str
    endpoint: str
    deployment: str
    status: Literal["InProgress", "Succeeded", "Failed", "Canceled"]
    error: Mapping[str, str] | None
    created_at: datetime
    ended_at: datetime | None
