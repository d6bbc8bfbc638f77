"""Whatever a person calls a model, it is found or the answer says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from model_folders import write_model

from finery.errors import FineryError, InputError
from finery.model import sources
from finery.model.catalogue import CATALOGUE, find_entry, nearest_name
from finery.model.folder import content_hash
from finery.model.hub import is_hub_id
from finery.model.sources import resolve_source


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The GGUF files that were asked for; each becomes the same small folder."""
    asked: list[Path] = []
    folder = write_model(tmp_path / "from-gguf")

    def convert(path: Path) -> Path:
        asked.append(path)
        return folder

    monkeypatch.setattr(sources, "import_gguf", convert)
    return asked


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed Python package that must never be imported."""
    folder = tmp_path / "site" / "carrier_of_models"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_a_model_folder_stays_where_it_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    found = resolve_source(str(folder))
    assert (found.path, found.kind, found.source) == (folder, "folder", str(folder))
    assert found.sha256 == content_hash(folder)


def test_a_relative_path_and_a_home_path_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_source("model").path == folder
    assert resolve_source("~/model").path == folder


def test_a_path_wins_over_a_catalogue_name_and_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("smollm2-135m-instruct", "Qwen/Qwen2.5-0.5B-Instruct"):
        folder = write_model(tmp_path / name)
        assert resolve_source(name).path == folder
        assert resolve_source(name).kind == "folder"


def test_a_folder_that_is_no_model_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve_source(str(tmp_path))


def test_a_gguf_file_is_converted(tmp_path: Path, converted: list[Path]) -> None:
    path = tmp_path / "chat.GGUF"
    path.write_bytes(b"GGUF")
    assert resolve_source(str(path)).kind == "gguf"
    assert converted == [path]


def test_another_single_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(FineryError, match="single file"):
        resolve_source(str(path))


def test_the_gguf_of_a_package_is_found_without_importing_it(
    package: Path, converted: list[Path]
) -> None:
    (package / "chat.gguf").write_bytes(b"GGUF")
    assert resolve_source("package:carrier_of_models").kind == "gguf"
    assert resolve_source("package:carrier_of_models/chat.gguf").kind == "gguf"
    assert converted == [package / "chat.gguf"] * 2
    assert "carrier_of_models" not in sys.modules


def test_several_ggufs_in_a_package_are_named(package: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (package / name).write_bytes(b"GGUF")
    with pytest.raises(FineryError) as caught:
        resolve_source("package:carrier_of_models")
    message = str(caught.value)
    assert "several GGUF files" in message
    assert "package:carrier_of_models/a.gguf or package:carrier_of_models/b.gguf" in message


def test_a_package_without_a_gguf_says_so(package: Path) -> None:
    with pytest.raises(FineryError, match="holds no GGUF file"):
        resolve_source("package:carrier_of_models")


@pytest.mark.parametrize("file", ["absent.gguf", "../outside.gguf", "__init__.py"])
def test_only_a_gguf_inside_the_package_is_taken(package: Path, file: str) -> None:
    (package.parent / "outside.gguf").write_bytes(b"GGUF")
    with pytest.raises(FineryError, match="holds no"):
        resolve_source(f"package:carrier_of_models/{file}")


@pytest.mark.parametrize("name", ["not_installed_at_all", "os.path", "", "a-b"])
def test_an_absent_package_is_said(name: str) -> None:
    with pytest.raises(FineryError, match="is installed here"):
        resolve_source(f"package:{name}")


def test_a_short_name_takes_the_package_that_is_here(
    package: Path, converted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "chat.gguf").write_bytes(b"GGUF")
    entry = sources.Entry("tiny", "org/tiny", "mit", "carrier_of_models")
    monkeypatch.setattr(sources, "find_entry", lambda _: entry)
    found = resolve_source("Tiny")
    assert (found.kind, found.source, converted) == ("catalogue", "Tiny", [package / "chat.gguf"])


def test_a_short_name_without_its_package_goes_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "mirror" / "microsoft" / "Phi-3-mini-4k-instruct")
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path / "mirror"))
    found = resolve_source("Phi-3-Mini-4k-Instruct")
    assert (found.path, found.kind) == (folder, "catalogue")


def test_an_unknown_name_says_what_was_tried_and_guesses() -> None:
    with pytest.raises(FineryError) as caught:
        resolve_source("smolm-135-instruct")
    message = str(caught.value)
    assert "no path on this machine, no short name" in message
    assert "Did you mean smollm2-135m-instruct?" in message


def test_a_name_like_nothing_lists_the_short_names() -> None:
    with pytest.raises(FineryError, match="Short names: smollm2-135m-instruct, "):
        resolve_source("xyzzy")


@pytest.mark.parametrize("source", ["./absent", "/absent/model", "models/absent.gguf", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(source: str) -> None:
    with pytest.raises(FineryError, match="no path on this machine"):
        resolve_source(source)


def test_no_name_at_all_is_answered() -> None:
    with pytest.raises(FineryError, match="No model is named"):
        resolve_source("  ")


def test_every_row_of_the_catalogue_is_well_formed() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    for entry in CATALOGUE:
        assert entry.name == entry.name.lower()
        assert is_hub_id(entry.hub)
        assert entry.licence
        assert find_entry(entry.name.upper()) is entry
        assert nearest_name(entry.hub) == entry.name
