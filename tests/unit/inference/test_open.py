"""Which folders a named model means."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from finery.errors import FineryError
from finery.inference import open as opening
from finery.inference.open import locate


@pytest.fixture(autouse=True)
def plain_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources resolve to themselves: what they may be is tested where they are resolved."""
    monkeypatch.setattr(
        opening, "resolve_source", lambda source: SimpleNamespace(path=Path(source))
    )


def _file(path: Path, text: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _adapter(folder: Path, base: str = "some/base") -> Path:
    _file(folder / "adapter_config.json", json.dumps({"base_model_name_or_path": base}))
    _file(folder / "adapter_model.safetensors", "")
    return folder


def test_a_run_gives_its_merged_model(tmp_path: Path) -> None:
    _file(tmp_path / "model" / "config.json")
    _adapter(tmp_path / "adapter")
    assert locate(str(tmp_path)).model == tmp_path / "model"
    assert locate(str(tmp_path)).adapter is None


def test_a_run_that_was_not_merged_gives_its_adapter_on_the_base(tmp_path: Path) -> None:
    _adapter(tmp_path / "adapter")
    located = locate(str(tmp_path))
    assert (located.model, located.adapter) == (Path("some/base"), tmp_path / "adapter")
    assert located.renderer == Path("some/base")


def test_an_adapter_that_carries_its_own_renderer_uses_it(tmp_path: Path) -> None:
    _file(_adapter(tmp_path) / "finery_renderer.json")
    assert locate(str(tmp_path)).renderer == tmp_path


def test_a_model_folder_and_a_name_are_taken_as_they_are(tmp_path: Path) -> None:
    _file(tmp_path / "config.json")
    assert locate(str(tmp_path)).model == tmp_path
    assert locate("org/name").model == Path("org/name")


def test_a_run_without_a_model_yet_is_refused_with_what_to_do(tmp_path: Path) -> None:
    _file(tmp_path / "recipe.yaml", "")
    with pytest.raises(FineryError, match=r"no model yet.*Let the run finish"):
        locate(str(tmp_path))


def test_a_pickled_adapter_is_refused(tmp_path: Path) -> None:
    (_adapter(tmp_path) / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(FineryError, match="pickled weights"):
        locate(str(tmp_path))


def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FineryError, match="names no base model"):
        locate(str(_adapter(tmp_path, base="")))
