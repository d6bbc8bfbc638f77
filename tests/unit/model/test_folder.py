"""A model folder that is not whole is refused, and every reason is said."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from model_folders import write_model

from finery.errors import FineryError, InputError
from finery.model import folder as folder_module
from finery.model import hashing
from finery.model.folder import assemble, check_folder, content_hash, link_or_copy, read_header
from finery.model.hashing import file_hash


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_folder(folder)
    return str(caught.value)


def test_a_whole_folder_is_accepted(tmp_path: Path) -> None:
    check_folder(write_model(tmp_path / "one"))
    check_folder(write_model(tmp_path / "sharded", shards=3))


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = refusal(tmp_path / "empty")
    assert "3 faults" in message
    for part in ("no config.json", "no weights", "no tokenizer"):
        assert part in message


def test_a_run_folder_points_to_the_model_inside(tmp_path: Path) -> None:
    write_model(tmp_path / "run" / "model")
    assert f"The model seems to be in {tmp_path}/run/model." in refusal(tmp_path / "run")


def test_an_adapter_is_told_apart_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "This is an adapter: name its base model" in refusal(tmp_path)


def test_a_folder_with_a_gguf_names_the_file_to_use(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    assert f"name the file: {tmp_path}/model.gguf" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_config_that_is_no_configuration_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "config.json").write_text(content)
    assert "model/config.json: found" in refusal(folder)


def test_weights_that_run_code_are_never_read(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "weights only as pytorch_model.bin, a format that runs code when opened" in message
    assert "expected *.safetensors" in message


def test_a_pickle_beside_safetensors_does_not_matter(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    before = content_hash(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    check_folder(folder)
    assert content_hash(folder) == before


def test_weights_cut_short_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    path = folder / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert f"model.safetensors: found {size - 1} bytes where its header" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        b"\xff" * 64,
        (8).to_bytes(8, "little") + b"not json",
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_a_broken_header_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    assert "no safetensors header" in refusal(folder)


def test_a_git_lfs_pointer_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "no safetensors header" in refusal(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "found no model-00002-of-00003.safetensors" in refusal(folder)


def test_an_index_cannot_point_outside_of_its_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=1)
    index = {"weight_map": {"a0": "../../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "expected a file in the same folder" in refusal(folder)


def test_an_index_that_lists_nothing_usable_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=1)
    (folder / "model.safetensors.index.json").write_text("[]")
    assert "expected a JSON object with a weight_map" in refusal(folder)


def test_the_header_tells_shapes_without_the_weights(tmp_path: Path) -> None:
    header = read_header(write_model(tmp_path / "model") / "model.safetensors")
    assert (header["a"]["shape"], header["a"]["dtype"]) == ([4, 3], "F32")


def test_the_hash_follows_content_and_not_place(tmp_path: Path) -> None:
    one, same = write_model(tmp_path / "one"), write_model(tmp_path / "two")
    other = write_model(tmp_path / "three", seed=1)
    assert content_hash(one) == content_hash(same) != content_hash(other)
    (same / "README.md").write_text("notes")
    assert content_hash(one) == content_hash(same)
    (same / "chat_template.jinja").write_text("{{ messages }}")
    assert content_hash(one) != content_hash(same)


def test_a_large_file_is_hashed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    monkeypatch.setattr(hashing, "REMEMBERED_FROM_BYTES", 0)
    first = file_hash(path)
    with monkeypatch.context() as patched:
        patched.setattr(hashing, "sha256_file", lambda _: "hashed again")
        assert file_hash(path) == first
        path.write_bytes(b"other")
        assert file_hash(path) == "hashed again"
    [record] = (Path(os.environ["FINERY_HOME"]) / "hashes").iterdir()
    record.write_text("damaged")
    assert file_hash(path) != first


def test_weights_are_shared_and_small_files_are_not(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    target = tmp_path / "copy"
    target.mkdir()
    assemble({path.name: path for path in source.iterdir()}, target)
    assert (target / "model.safetensors").samefile(source / "model.safetensors")
    assert not (target / "config.json").samefile(source / "config.json")


def test_another_disk_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another device")

    monkeypatch.setattr(folder_module.os, "link", refuse)
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    source.write_bytes(b"weights")
    link_or_copy(source, target)
    assert target.read_bytes() == b"weights"


def test_a_full_disk_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(folder_module.os, "link", refuse)
    with pytest.raises(OSError, match="no space left"):
        link_or_copy(tmp_path / "a", tmp_path / "b")


def test_a_damaged_header_has_a_reason_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"short")
    with pytest.raises(FineryError, match="no safetensors header"):
        read_header(tmp_path / "x")
