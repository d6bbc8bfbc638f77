"""Run history: details, logs, children, outputs."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
