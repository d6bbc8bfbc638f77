"""The flavors that an MLflow model declares, as the wire holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from finery.errors import Fault, InputError
from finery.workspace.asset import Asset

MLMODEL = "MLmodel"
_LONGEST = 2**20  # bytes; an MLmodel file is never this long


def with_flavors(asset: Asset, path: Path) -> Asset:
    """The flavors that an MLflow model declares; refuses one that is no MLflow model."""
    if asset.type != "mlflow_model":
        return asset
    file = path / MLMODEL
    if not file.is_file():
        expected = "a folder with a file MLmodel"
        remedy = "Register a model folder of Hugging Face as custom_model."
        raise InputError([Fault("modelUri", asset.path, expected, remedy)])
    if asset.spec.get("flavors") or file.stat().st_size > _LONGEST:
        return asset
    try:
        declared = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError([Fault(f"{asset.path}/MLmodel", "no YAML", "YAML", str(error))]) from None
    flavors = declared.get("flavors") if isinstance(declared, Mapping) else None
    if not isinstance(flavors, Mapping):
        raise InputError([Fault(f"{asset.path}/MLmodel", "no flavors", "flavors of the model")])
    wire = {str(name): {"data": _texts(flavor)} for name, flavor in flavors.items()}
    return replace(asset, spec={**asset.spec, "flavors": wire})


def _texts(flavor: Any) -> dict[str, str]:
    """A flavor's settings as the wire holds them: text."""
    if not isinstance(flavor, Mapping):
        return {}
    return {
        str(key): value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in flavor.items()
    }
