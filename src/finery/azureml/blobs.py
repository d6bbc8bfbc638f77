"""The blob endpoint on plain files."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
