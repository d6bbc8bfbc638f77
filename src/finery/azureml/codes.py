"""Code snapshots and pending uploads."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
