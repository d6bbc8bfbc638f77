"""Datastores and their secrets."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
