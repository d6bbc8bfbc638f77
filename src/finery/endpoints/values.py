"""What an endpoint, a deployment, a replica and an operation are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

State = Literal["Creating", "Updating", "Deleting", "Succeeded", "Failed"]
AuthMode = Literal["key", "aml_token", "aad_token"]


@dataclass(frozen=True)
class Probe:
    """When a replica that does not answer counts as dead; the numbers are Azure's defaults."""

    period: float = 10.0  # seconds between two looks
    timeout: float = 2.0
    failures: int = 30


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
    probe: Mapping[str, Any]
    wire: Mapping[str, Any]
    state: State
    error: Mapping[str, str] | None
    revision: int
    created_at: datetime
    modified_at: datetime


@dataclass(frozen=True)
class Replica:
    """One process of a deployment."""

    id: str
    endpoint: str
    deployment: str
    revision: int
    state: Literal["starting", "ready", "stopping"]
    port: int
    key: str = field(repr=False)
    created_at: datetime


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
