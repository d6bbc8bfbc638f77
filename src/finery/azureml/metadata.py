"""Where the SDK finds this cloud: addresses, token audiences, registry discovery."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
