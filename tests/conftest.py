"""Fixtures every suite shares."""

from __future__ import annotations

from pathlib import Path

import pytest

KIT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def kit() -> Path:
    """The data kit beside the checkout: real models, tokenizers and conversations."""
    if not KIT.is_dir():
        pytest.skip("the data kit (shared/data beside the checkout) is not here")
    return KIT


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finery home of the test's own, so that no test reads what another left."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FINERY_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder
