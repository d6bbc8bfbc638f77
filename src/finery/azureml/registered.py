"""Models registered with MLflow's own API become models of the workspace.

In Azure ML the two are one registry. Here MLflow has its own, and what is new in it is taken over
when it is registered, and, should that be cut off, when models are looked at.
"""

from __future__ import annotations

import logging
import threading

from finery.azureml.registration import with_origin
from finery.errors import FineryError
from finery.workspace import assets, datastores
from finery.workspace.asset import Asset, next_version
from finery.workspace.errors import NotFoundError, UnavailableError
from finery.workspace.flavors import MLMODEL, with_flavors
from finery.workspace.paths import inside
from finery.workspace.place import Workspace
from finery.workspace.tracking_models import Registered, bring, files_at, mark_taken, untaken

log = logging.getLogger("finery.tracking")
ORIGIN = "mlflow.modelVersion"  # the property that says which version of MLflow's it is
_turn = threading.Lock()


def take_over(workspace: Workspace) -> None:
    """Make models of what is new in MLflow's registry; what cannot be one is told why there."""
    if not workspace.settings.tracking:
        return
    try:
        with _turn:
            for model in untaken(workspace):
                mark_taken(workspace, model, _taken(workspace, model))
    except UnavailableError as error:  # next time
        log.warning("models registered in MLflow wait: %s", error)


def _taken(workspace: Workspace, model: Registered) -> str:
    try:
        asset = _put(workspace, model)
    except UnavailableError:
        raise
    except FineryError as error:
        log.error("model %s, version %s, of MLflow: %s", model.name, model.version, error)
        return f"Not taken over: {error}"
    return f"azureml:{asset.name}:{asset.version}"


def _put(workspace: Workspace, model: Registered) -> Asset:
    origin = f"{model.name}/{model.version}/{model.created}"
    there = assets.versions(workspace, "model", "", model.name, archived="all")
    if known := [asset for asset in there if asset.properties.get(ORIGIN) == origin]:
        return known[0]  # from before a crash
    source = files_at(workspace, model.address)
    if source is None or not source.exists():
        raise NotFoundError(f"There are no files at {model.address or 'its source'} in MLflow.")
    taken = {asset.version for asset in there}
    folder = f"mlflow-models/{model.name}/{model.version}-{model.created}"
    root = workspace.blobs / datastores.container_of(workspace, datastores.DEFAULT)
    place = inside(root, folder, "model name")
    is_mlflow = (source / MLMODEL).is_file()
    asset = Asset(
        kind="model",
        registry="",
        name=model.name,
        version=model.version if model.version not in taken else next_version(sorted(taken)),
        type="mlflow_model" if is_mlflow else "custom_model",
        path=f"azureml://datastores/{datastores.DEFAULT}/paths/{folder}",
        description=model.description,
        properties={ORIGIN: origin},
    )
    asset = with_flavors(asset, source)
    asset = with_origin(workspace, asset, model.run) if model.run else asset
    bring(workspace, place, source)
    return assets.put(workspace, asset)
