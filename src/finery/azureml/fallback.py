"""Whatever else the SDK may ask for: an Azure-shaped 501 that names it."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
