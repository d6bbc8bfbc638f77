"""Models, data, components, environments: containers and versions, workspace and registry."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
