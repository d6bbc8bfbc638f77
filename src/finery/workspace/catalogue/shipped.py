"""What every registry is shipped with: base models, environments, the pipeline's components.

Models and environments are rows of the YAML files beside this one; components have files of
their own (finery.components.spec). Nothing of this is copied into the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any

import yaml

from finery.workspace.asset import Asset
from finery.workspace.sizes import every_size
from finery.workspace.uploads import upload_container

AUTHOR = "finery"
# Content of a release is older than anything that is created with it.
RELEASED = datetime(2024, 1, 1)


def shipped(kind: str, registry: str, name: str = "") -> tuple[Asset, ...]:
    """The versions of a kind that `registry` is shipped with, oldest first.

    The workspace ("") is shipped with none.
    """
    if not registry:
        return ()
    every = _shipped(kind, registry)
    return tuple(asset for asset in every if not name or asset.name == name)


def source_of(asset: Asset) -> str:
    """The hub id or `package:` from which a shipped model comes; "" for an asset with files."""
    return str(asset.spec.get("source", ""))


@cache
def _shipped(kind: str, registry: str) -> tuple[Asset, ...]:
    if kind == "model":
        table = _table("models")
        return tuple(
            _model(row, number, table, registry)
            for row in table["models"]
            for number in range(1, row["version"] + 1)
        )
    if kind == "environment":
        return tuple(_environment(row, registry) for row in _table("environments")["environments"])
    if kind == "component":
        from finery.components.spec import load_specs

        return tuple(_component(spec, registry) for spec in load_specs().values())
    return ()


@cache
def _table(name: str) -> dict[str, Any]:
    file = resources.files("finery.workspace.catalogue") / f"{name}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _model(row: Mapping[str, Any], number: int, table: Mapping[str, Any], registry: str) -> Asset:
    """A base model; its tags are text that `ast.literal_eval` reads, as Azure's notebooks do."""
    defaults = table["defaults"][row["defaults"]]
    # Whatever size is named, the machine at hand does the work: every model takes every size.
    sizes = [size.name for size in every_size()]
    tags = {
        "task": "chat-completion",
        "license": row["license"],
        "author": row["author"],
        "finetune_compute_allow_list": json.dumps(sizes),
        "inference_compute_allow_list": json.dumps(sizes),
        "model_specific_defaults": json.dumps(defaults),
        "textContextWindow": str(row["context"]),
        "huggingface_model_id": row["hub"],
    }
    properties = {
        "SharedComputeCapacityEnabled": "true",
        "finetuning-tasks": "chat-completion",
        "finetune-recommended-sku": ", ".join(sizes),
        "inference-recommended-sku": ", ".join(sizes),
        "languages": "en",
    }
    name, version = row["name"], str(number)
    return Asset(
        kind="model",
        registry=registry,
        name=name,
        version=version,
        type="mlflow_model",
        path=_address(registry, name, version),
        description=row["description"],
        tags=tags,
        properties=properties,
        spec={"source": row.get("source", row["hub"]), "license": row["license"]},
        content_hash=row["hub"],  # one model, whatever the version
        created_at=RELEASED + timedelta(days=number),
        created_by=AUTHOR,
    )


def _address(registry: str, name: str, version: str) -> str:
    """A form that the SDK takes; asked for the files, the registry says where they come from."""
    return (
        f"https://localhost/_blob.blob.local/{upload_container('model', registry, name, version)}/"
    )


def _environment(row: Mapping[str, Any], registry: str) -> Asset:
    return Asset(
        kind="environment",
        registry=registry,
        name=row["name"],
        version=str(row["version"]),
        description=row["description"],
        spec={"image": row["image"], "osType": "Linux"},
        created_at=RELEASED,
        created_by=AUTHOR,
    )


def _component(spec: Mapping[str, Any], registry: str) -> Asset:
    return Asset(
        kind="component",
        registry=registry,
        name=spec["name"],
        version=str(spec["version"]),
        type=spec["type"],
        description=spec.get("description", ""),
        spec={"componentSpec": dict(spec)},
        created_at=RELEASED,
        created_by=AUTHOR,
    )
