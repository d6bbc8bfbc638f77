"""Every part's tables, loaded, so that `metadata` is whole."""

from __future__ import annotations

from finery.endpoints import tables as endpoints
from finery.jobs import tables as jobs
from finery.workspace import computes, tracking
from finery.workspace import tables as workspace
from finery.workspace.store import metadata

__all__ = ["computes", "endpoints", "jobs", "metadata", "tracking", "workspace"]
