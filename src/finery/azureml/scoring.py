"""The scoring address of an endpoint."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
