"""Jobs as the SDK submits, reads, lists and cancels them."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
