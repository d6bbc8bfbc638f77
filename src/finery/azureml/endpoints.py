"""Online endpoints, deployments, keys, logs."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
