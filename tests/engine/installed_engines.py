"""The engines that somebody installed on this machine, for tests that need a real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finery.files import home
from finery.inference.engines.environments import Environment, installed, outdated

# Read before any test has a home of its own.
ENGINES = Path(os.environ.get("FINERY_HOME") or Path.home() / ".finery").expanduser() / "engines"


def needs_engine(name: str) -> Environment:
    """The environment of an engine, linked into the test's own home; skips without one."""
    link = home() / "engines" / name
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ENGINES / name)
    found = installed(name)
    if found is None:
        pytest.skip(f"the engine is not installed in {ENGINES}: finery engines install {name}")
    if outdated(found):
        pytest.skip(f"the engine in {ENGINES} has other versions: finery engines install {name}")
    return found
