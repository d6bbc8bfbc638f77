"""One version of an asset, and the name its versions share, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from finery.errors import Fault, InputError
from finery.files import sha256_json
from finery.workspace.errors import ConflictError
from finery.workspace.store import now

KINDS = ("model", "data", "component", "environment", "code")
MODEL_TYPES = ("mlflow_model", "custom_model", "triton_model")
DATA_TYPES = ("uri_file", "uri_folder", "mltable")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_NAME_RULE = "up to 255 letters, digits, dots, dashes and underscores, a dot or dash not first"


# What may change, or is read from the files, without the version becoming another.
_MUTABLE_SPEC = frozenset({"stage", "autoDeleteSetting", "jobName", "flavors"})
# Of an anonymous component: clients leave these out of the hash that is its version.
_NOT_HASHED = frozenset({"name", "version", "id", "_source", "$schema"})
OWN_SPEC = ("source", "license")  # what a registry is shipped with; not on the wire


class PathChangedError(ConflictError):
    """A version exists already, and its files lie somewhere else."""


@dataclass(frozen=True)
class Asset:
    """A version of a model, data asset, component, environment or code snapshot."""

    kind: str
    registry: str  # "" is the workspace
    name: str
    version: str
    type: str = ""
    path: str = ""  # the URI of its files; "" when it has none
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)  # what else its kind is made of
    content_hash: str = ""
    is_anonymous: bool = False
    is_archived: bool = False
    created_at: datetime = field(default_factory=now)
    created_by: str = ""

    @property
    def words(self) -> str:
        """The asset as a message names it: `model phi, version 3, of registry azureml`."""
        return f"{self.kind} {self.name}, version {self.version}{of_registry(self.registry)}"


@dataclass(frozen=True)
class AssetName:
    """What all versions of an asset share."""

    kind: str
    registry: str
    name: str
    latest_version: str  # "" when every version is archived
    next_version: str
    type: str = ""  # of the latest version
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    is_archived: bool = False
    created_at: datetime = field(default_factory=now)


def of_registry(registry: str) -> str:
    """The tail of a sentence about something that may lie in a registry."""
    return f", of registry {registry}" if registry else ""


def check_asset(asset: Asset) -> None:
    """Refuse what could not be kept or found again, with every fault."""
    kind = asset.kind
    faults = [
        Fault(f"{kind} {what}", repr(text), _NAME_RULE)
        for what, text in (("name", asset.name), ("version", asset.version))
        if not _NAME.fullmatch(text)
    ]
    faults += [
        Fault(f"{kind} {what}", f"{len(text)} characters", f"at most {most}")
        for what, text, most in (("type", asset.type, 50), ("hash", asset.content_hash, 255))
        if len(text) > most
    ]
    if kind not in KINDS:
        faults.append(Fault("kind", repr(kind), f"one of {', '.join(KINDS)}"))
    if faults:
        raise InputError(faults)


def next_version(versions: list[str]) -> str:
    """The whole number after the largest one among `versions`; "1" when there is none."""
    numbers = [int(version) for version in versions if version.isascii() and version.isdigit()]
    return str(max(numbers, default=0) + 1)


def check_same_content(old: Asset, new: Asset) -> None:
    """Refuse a version whose files, type or definition differ from those that it has."""
    if old.path.rstrip("/") != new.path.rstrip("/"):
        raise PathChangedError(
            f"The {old.words} exists already with the files of {old.path or 'nowhere'}, not "
            f"{new.path or 'nowhere'}. Give the new files another version."
        )
    anonymous = old.is_anonymous and new.is_anonymous
    fixed = [_fixed(asset.spec, anonymous) for asset in (old, new)]
    spec_differs = sha256_json(fixed[0]) != sha256_json(fixed[1])
    hash_differs = bool(new.content_hash) and old.content_hash != new.content_hash
    if old.type != new.type or spec_differs or hash_differs:
        raise ConflictError(
            f"The {old.words} exists already with other content. Give this one another version."
        )


def carried_over(old: Asset, new: Asset) -> Asset:
    """The new words on a version, with what stays of the old ones: properties are only added."""
    kept = {key: old.spec[key] for key in (*OWN_SPEC, *_MUTABLE_SPEC) if key in old.spec}
    return replace(
        new,
        properties={**old.properties, **new.properties},
        spec={**kept, **new.spec},
        content_hash=new.content_hash or old.content_hash,
        created_at=old.created_at,
        created_by=old.created_by,
    )


def _fixed(spec: Mapping[str, Any], anonymous: bool) -> dict[str, Any]:
    fixed = {k: v for k, v in spec.items() if k not in _MUTABLE_SPEC and k not in OWN_SPEC}
    if anonymous and isinstance(spec.get("componentSpec"), Mapping):
        # The version is the client's hash of all but these.
        inner = {k: v for k, v in spec["componentSpec"].items() if k not in _NOT_HASHED}
        fixed["componentSpec"] = inner
    return fixed
