"""The token endpoint of DefaultAzureCredential."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
