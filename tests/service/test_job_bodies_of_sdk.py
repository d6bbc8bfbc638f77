"""The recorded bodies are those that the installed SDK sends."""

from __future__ import annotations

import json

import pytest
from sdk_bodies import FOLDER, JOBS, body_of


@pytest.mark.parametrize("name", JOBS)
def test_a_recorded_body_is_what_the_sdk_sends_today(name: str) -> None:
    recorded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert body_of(JOBS[name]) == recorded
